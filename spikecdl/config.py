"""Arguments of estimators: checked and made into objects, written as plain values and read back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from spikecdl import validation
from spikecdl.model.covariates import Drift, History
from spikecdl.model.families import FAMILIES, Family
from spikecdl.model.penalties import PENALTIES, Penalty
from spikecdl.training import (
    COVARIATES,
    TRAINERS,
    Fraction,
    Learned,
    Trainer,
    UniversalThreshold,
    Weight,
)

DESCRIBED = ("family_", "trainer_", "baseline_", "unit_ids_")  # attributes, in files
_MOST_LAGS = 1_000_000  # of a history in a file
_MOST_ONSETS = 2**40  # in a window
_WINDOWS = {  # how windows were chosen, and the type of what says it
    **{"align": str, "table": str, "events": str},
    **{"window": tuple, "within": tuple, "pool_trials": bool},
}

_REGISTRIES: dict[str, Mapping[str, type]] = {
    "family": FAMILIES,
    "penalty": PENALTIES,
    "trainer": TRAINERS,
}


def weight(penalty_weight: float | None) -> Weight:
    """Return the rule that sets the penalty's weight."""
    if penalty_weight is None:
        return UniversalThreshold()
    fraction = validation.positive("penalty_weight", penalty_weight)
    if fraction >= 1:
        raise ValueError(
            f"`penalty_weight` (={penalty_weight!r}) must be below 1: it is a fraction of "
            "lambda_max, above which all codes are zero"
        )
    return Fraction(fraction)


def history(value: float | History | None) -> History | None:
    """Return the spike history that an argument means."""
    return value if value is None or isinstance(value, History) else History(value)


def device(name: str) -> torch.device:
    """Return the torch device of that name."""
    validation.one_of("device", str(name).split(":")[0], ("auto", "cpu", "cuda"))
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    if str(name).startswith("cuda") and not has_gpu:
        raise ValueError(
            f"`device` (={name!r}) is not available: no CUDA GPU found; use 'cpu' or 'auto'"
        )
    return torch.device(name)


def generator(random_state: Any) -> torch.Generator:
    """Return a CPU generator seeded by an integer, a RandomState, or None (NumPy's own)."""
    from sklearn.utils import check_random_state

    if isinstance(random_state, int | np.integer):
        seed = validation.integer("random_state", int(random_state), minimum=0)
    else:
        seed = int(check_random_state(random_state).randint(2**31 - 1))
    return torch.Generator().manual_seed(seed)


def template_bins(length: float, bin_size: float, n_bins: int) -> int:
    """Return the length of a template in bins: a whole number, at most that of a window."""
    length = validation.positive("template_length", length)
    bins = round(length / bin_size)
    if bins < 1 or abs(length / bin_size - bins) > 1e-6 * bins:
        raise ValueError(
            f"`template_length` (={length:g}) must be a whole number of bins of {bin_size:g}; the "
            f"nearest is {max(bins, 1) * bin_size:g}"
        )
    if bins > n_bins:
        raise ValueError(
            f"`template_length` (={length:g}, {bins} bins of {bin_size:g}) is longer than the "
            f"window ({n_bins} bins); it is in the unit of `bin_size`"
        )
    return bins


def describe(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as plain values that JSON can hold; see `restore`.

    A family, penalty or trainer becomes the mapping that its ``config()`` returns.  A random state
    other than an integer becomes None.

    Raises
    ------
    TypeError
        If an argument cannot be written, such as a penalty that is not in its registry.
    """
    return {name: _plain(name, value) for name, value in arguments.items()}


def restore(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `describe` was given."""
    arguments = dict(values)
    for name in _REGISTRIES:
        if isinstance(arguments[name], dict):
            arguments[name] = member(name, arguments[name])
    if isinstance(arguments.get("history"), dict):
        arguments["history"] = History(**arguments["history"])
    if isinstance(arguments["baseline"], dict):
        arguments["baseline"] = tuple(arguments["baseline"]["window"])
    return arguments


def member(name: str, described: Mapping[str, Any]) -> Any:
    """Return the family, penalty or trainer that its ``config()`` describes."""
    config = dict(described)
    kind = validation.one_of(name, config.pop("name"), _REGISTRIES[name])
    return _REGISTRIES[name][kind](**config)


def attributes(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the attributes of a model in a file: ``names``, and those described otherwise."""
    found = dict(values)
    found["family_"] = member("family", found["family_"])
    if isinstance(found["trainer_"], dict):
        found["trainer_"] = member("trainer", found["trainer_"])
    found["baseline_"] = np.array(found["baseline_"], float)
    found["unit_ids_"] = tuple(found["unit_ids_"])
    found["windows_"] = _windows(found.get("windows_", {}))
    if unknown := found.keys() - {*names, *DESCRIBED}:
        raise ValueError(f"it has attributes that no model has: {sorted(unknown)}")
    return found


def check_model(model: Any, names: Collection[str]) -> None:
    """Raise unless the arguments and attributes of a model that was read agree with its tensors.

    ``names`` are those of the arguments in the file.  Nothing is computed from them: it may have
    been made to take all time or memory.
    """
    if set(names) != model.get_params(deep=False).keys():
        raise ValueError(f"its settings {sorted(names)} are not those of this version")
    weight(model.penalty_weight)
    validation.one_of("device", str(model.device).split(":")[0], ("auto", "cpu", "cuda"))
    validation.integer("n_epochs", model.epochs_at_most)
    validation.positive("bin_size", model.bin_size)
    if model.random_state is not None:
        generator(model.random_state)
    for name, base in {"family": Family, "penalty": Penalty, "trainer": Trainer}.items():
        value = getattr(model, name)
        value = model.trainer_ if (name, value) == ("trainer", "auto") else value
        validation.member(name, value, _REGISTRIES[name], base)  # type: ignore[type-abstract]
    for name in ("penalty_weight_", "_absolute_weight"):
        if getattr(model, name) is not None:
            validation.real(name, getattr(model, name))
    n_templates = validation.integer("n_templates", model.n_templates)
    bin_size = validation.positive("bin_size_", model.bin_size_)
    bins = template_bins(
        model.template_length, bin_size, validation.integer("n_bins_", model.n_bins_)
    )
    n_onsets = validation.integer("_n_onsets", model._n_onsets)
    if n_onsets > _MOST_ONSETS:
        raise ValueError(f"`_n_onsets` (={n_onsets}) is more than a window holds")
    n_units = len(validation.distinct("unit_ids_", model.unit_ids_, len(model.unit_ids_)))
    n_channels = {"shared": 1, "joint": n_units}[model.layout]
    validation.shaped("templates", model.templates_, (n_templates, n_channels, model.n_bins_))
    validation.shaped("baseline_", model.baseline_, (len(model.baseline_), n_units))
    arrays = {"baseline_": model.baseline_, "unit_rate_": np.array(model.unit_rate_, float)}
    if bins != model.n_bins_ or arrays["unit_rate_"].size not in (0, n_units):
        raise ValueError("its settings and what was learned are of different models")
    learned = Learned(model.tensors_, unit_tensors=model.unit_tensors_)
    arrays |= learned.model(n_templates) | learned.of_units(n_units)
    for name, values in arrays.items():
        if not torch.as_tensor(values).isfinite().all():
            raise ValueError(f"{name} has values that are not finite numbers")
    _check_covariates(model, bin_size, n_units)


def _check_covariates(model: Any, bin_size: float, n_units: int) -> None:
    """Raise unless coefficients are as many as history and drift have."""
    past, columns = history(model.history), 0
    start, stop, _ = (
        validation.real("_time_span", value) for value in map(float, model._time_span)
    )
    if past is not None:
        n_lags = past.seconds / bin_size
        if n_lags > _MOST_LAGS:
            raise ValueError(f"`history` (={past.seconds:g}) has more than {_MOST_LAGS:,} lags")
        columns += min(math.floor(n_lags + 1e-6), past.n_basis)
    if model.drift is not None:
        columns += Drift(model.drift, start, stop).n_columns
    found = model.unit_tensors_.get(COVARIATES, torch.empty(n_units, 0))
    validation.shaped("covariates", found, (n_units, columns))


def _windows(values: Any) -> dict[str, Any]:
    """Return how windows were chosen, from a file; raise if something is not of its type."""
    if not isinstance(values, dict) or not set(values) <= _WINDOWS.keys():
        raise ValueError(f"`windows_` must be a mapping with some of {sorted(_WINDOWS)}")
    found = dict(values)
    for name, value in values.items():
        if isinstance(value, list) and len(value) == 2:
            value = found[name] = tuple(validation.real(name, edge) for edge in value)
        if value is not None and not isinstance(value, _WINDOWS[name]):
            raise ValueError(f"`{name}` of its windows (={value!r}) is of another type")
    return found


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.random.RandomState):
        return None
    if isinstance(value, Family | Penalty | Trainer):
        return _registered(name, value)
    if isinstance(value, History):
        return asdict(value)
    if isinstance(value, tuple) and name == "baseline":
        return {"window": [float(edge) for edge in value]}
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(name, entry) for entry in value]
    raise TypeError(f"`{name}` (={value!r}) cannot be saved; pass plain values")


def _registered(name: str, value: Family | Penalty | Trainer) -> dict[str, Any]:
    """Return the configuration of an object of a registered class."""
    kind = type(value).__name__
    name = name.rstrip("_")
    if _REGISTRIES[name].get(getattr(value, "name", "")) is not type(value):
        raise TypeError(
            f"`{name}` (={kind}) cannot be saved, as {kind} is not a registered {name}; give it a "
            f"`name` of its own and add it to the registry ({', '.join(_REGISTRIES[name])})"
        )
    return {key: _plain(key, entry) for key, entry in value.config().items()}
