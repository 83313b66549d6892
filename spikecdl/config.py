"""The arguments of an estimator: made into objects, written as plain values, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from spikecdl import validation
from spikecdl.model.families import FAMILIES, from_config
from spikecdl.model.penalties import PENALTIES
from spikecdl.training import TRAINERS, Fraction, Trainer, UniversalThreshold, Weight


def trainer(trainer: str | Trainer) -> Trainer:
    """Return the trainer that an argument names, or is."""
    if isinstance(trainer, str):
        return TRAINERS[validation.one_of("trainer", trainer, TRAINERS)]()
    if not isinstance(trainer, tuple(TRAINERS.values())):
        raise TypeError(
            f"`trainer` (={trainer!r}) must be a trainer or one of: {', '.join(sorted(TRAINERS))}"
        )
    return trainer


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


def device(name: str) -> torch.device:
    """Return a device that is there."""
    validation.one_of("device", str(name).split(":")[0], ("auto", "cpu", "cuda"))
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    if str(name).startswith("cuda") and not has_gpu:
        raise ValueError(f"`device` (={name!r}) is not there; use 'cpu' or 'auto'")
    return torch.device(name)


def generator(random_state: Any) -> torch.Generator:
    """Return a generator on the CPU from an integer, a RandomState, or None (NumPy's own)."""
    from sklearn.utils import check_random_state

    if isinstance(random_state, int | np.integer):
        seed = validation.integer("random_state", int(random_state), minimum=0)
    else:
        seed = int(check_random_state(random_state).randint(2**31 - 1))
    return torch.Generator().manual_seed(seed)


def template_bins(length: float, bin_size: float, n_bins: int) -> int:
    """Return the length of a template in bins, which must be whole and fit in a window."""
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
    """Return arguments as values that JSON can hold; objects become mappings with a name.

    A random state that is not a number is not kept: None stands for it.

    Raises
    ------
    TypeError
        If an argument is of a kind that cannot be written.
    """
    return {name: _plain(name, value) for name, value in arguments.items()}


def restore(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `describe`."""
    arguments = dict(values)
    makers = {
        "family": from_config,
        "penalty": lambda plain: _named(PENALTIES, plain),
        "trainer": lambda plain: _named(TRAINERS, plain),
        "baseline": lambda plain: tuple(plain["window"]),
    }
    for name, make in makers.items():
        if isinstance(arguments[name], dict):
            arguments[name] = make(arguments[name])
    return arguments


def _named(registry: Mapping[str, type], plain: Mapping[str, Any]) -> Any:
    return registry[plain["name"]](**{key: plain[key] for key in plain if key != "name"})


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.random.RandomState):
        return None
    if type(value) in FAMILIES.values():
        return {key: _plain(key, entry) for key, entry in value.config().items()}
    if type(value) in PENALTIES.values():
        kinds = {kind: key for key, kind in PENALTIES.items()}
        return {"name": kinds[type(value)], "sign": _plain(name, value.sign)}
    if type(value) in TRAINERS.values():
        return {"name": value.name, **asdict(value)}
    if isinstance(value, tuple) and name == "baseline":
        return {"window": [float(edge) for edge in value]}
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(name, entry) for entry in value]
    raise TypeError(f"`{name}` (={value!r}) cannot be written to a file; pass plain values")
