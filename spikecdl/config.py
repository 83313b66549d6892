"""Arguments of estimators: checked and made into objects, written as plain values and read back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from spikecdl import training, validation
from spikecdl.events.model import NEEDED_IN_FILES
from spikecdl.model.families import FAMILIES, Family
from spikecdl.model.history import Bursts, Drift, History, Smooth, Terms
from spikecdl.model.penalties import PENALTIES, Penalty
from spikecdl.training import COVARIATES, TRAINERS, Fraction, Learned, Trainer, Weight

# Names that editors offer and type checkers know; any device of torch may be named.
FamilyName = Literal["binomial", "poisson", "gaussian", "negative_binomial"]
LayoutName = Literal["shared", "joint"]
TrainerName = Literal["auto", "alternating", "marginal", "unrolled", "implicit"]
DeviceName = Literal["auto", "cpu", "cuda"] | str

FITTED = (  # attributes in files, in this order
    "bin_size_ n_bins_ n_features_in_ unit_rate_ penalty_weight_ _absolute_weight converged_ "
    "n_iter_ history_ windows_ _time_span _n_onsets family_ trainer_ baseline_ unit_ids_ "
    "ingredients_ checks_ _signal_ranges"
).split()
_PARTS: dict[str, dict[str, Any]] = {  # names and types in the mappings that attributes hold
    "windows_": {
        **dict.fromkeys(("align", "table", "events", "signals"), str | None),
        **{"window": list | None, "within": list | None, "pool_trials": bool | None},
    },
    "ingredients_": {"value": float | int | None, "nats": float | int},
    "checks_": {"check": str, "passed": bool, "found": str, "remedy": str},
}

_MEMBERS: dict[str, tuple[Mapping[str, type], type]] = {  # the registry and base of each argument
    "family": (FAMILIES, Family),
    "penalty": (PENALTIES, Penalty),
    "trainer": (TRAINERS, Trainer),
}


@dataclass(frozen=True)
class Layout:
    """How counts (trial, unit, bin) become windows of channels, by inserting ``axis``.

    Shared: every unit of every trial is a window, (trial, unit, 1, bin).  Joint: the units of a
    trial are the channels of one window, (trial, 1, unit, bin).
    """

    name: str
    axis: int

    @property
    def is_joint(self) -> bool:
        """Whether units are channels."""
        return self.name == "joint"

    def expand(self, counts: np.ndarray) -> np.ndarray:
        """Reshape (trial, unit, bin) to (trial, unit, channel, bin)."""
        return np.expand_dims(counts, self.axis)

    def rows(self, counts: np.ndarray) -> np.ndarray:
        """Reshape (trial, unit, bin) to (window, channel, bin)."""
        return np.reshape(counts, (-1, *self.expand(counts).shape[2:]))

    def units(self, values: Tensor, units: Any) -> Tensor:
        """Keep some units of values (trial, unit, channel, ...)."""
        return values[:, :, units] if self.is_joint else values[:, units]

    def squeeze(self, signal: Tensor) -> np.ndarray:
        """Reshape (trial, unit, channel, bin) to (trial, unit, bin), in NumPy."""
        return signal.squeeze(self.axis).cpu().numpy()


LAYOUTS = {layout.name: layout for layout in (Layout("shared", 2), Layout("joint", 1))}


class Arguments(Protocol):
    """Arguments of a `DCEA` as they were given."""

    family: str | Family
    layout: str
    penalty: str | Penalty
    penalty_weight: float | None
    baseline: Any
    history: float | str | History | None
    drift: float | str | None
    bursts: float | str | None
    signals: int | str | None


#: Arguments that may be "auto": chosen by the evidence with and without.
INGREDIENTS = ("history", "drift", "bursts", "signals", "dispersion", "timing")


@dataclass(frozen=True)
class Settings:
    """Arguments of `DCEA`, checked and made into objects, but for the name of the device.

    ``auto`` are the ingredients that are still to be chosen.
    """

    n_templates: int
    family: Family
    layout: Layout
    penalty: Penalty
    weight: Weight
    baseline: Any
    terms: Terms
    auto: tuple[str, ...]
    trainer: Trainer
    n_epochs: int
    device: str

    @classmethod
    def of(
        cls,
        arguments: Mapping[str, Any],
        span: tuple[float, float, bool],
        ranges: Mapping[str, Sequence[float]],
    ) -> Settings:
        """Return the settings of a model of windows that span a time; ``trainer`` is not "auto".

        ``ranges`` are those of their signals.
        """
        chosen: dict[str, Any] = {
            name: validation.member(name, arguments[name], *kinds)
            for name, kinds in _MEMBERS.items()
        }
        validation.positive("bin_size", arguments["bin_size"])
        n_epochs = arguments["n_epochs"]
        auto = tuple(name for name in INGREDIENTS if isinstance(arguments[name], str))
        for name in auto:
            if arguments[name] != "auto":
                value = validation.shown(arguments[name])
                other = "a number" if name == "signals" else "a time"
                raise ValueError(f"`{name}` (={value}) must be 'auto', None or {other}")
        given = {name: None if name in auto else arguments[name] for name in INGREDIENTS}
        for name in ("dispersion", "timing"):
            validation.one_of(name, str(arguments[name]), ("auto", "None"))
        return cls(
            n_templates=validation.integer("n_templates", arguments["n_templates"]),
            layout=LAYOUTS[validation.one_of("layout", arguments["layout"], LAYOUTS)],
            weight=weight(arguments["penalty_weight"]),
            baseline=arguments["baseline"],
            terms=terms(given, span, ranges),
            auto=auto,
            n_epochs=validation.integer(
                "n_epochs", chosen["trainer"].default_epochs if n_epochs is None else n_epochs
            ),
            device=device_name(arguments["device"]),
            **chosen,
        )


def weight(penalty_weight: float | None) -> Weight:
    """Return the rule that sets the penalty's weight."""
    if penalty_weight is None:
        return training.UniversalThreshold()
    fraction = validation.positive("penalty_weight", penalty_weight)
    if fraction >= 1:
        raise ValueError(
            f"`penalty_weight` (={penalty_weight!r}) must be below 1: it is a fraction of "
            "lambda_max, above which all codes are zero"
        )
    return Fraction(fraction)


def terms(
    given: Mapping[str, Any],
    span: tuple[float, float, bool],
    ranges: Mapping[str, Sequence[float]],
) -> Terms:
    """Return what rates depend on, from arguments, and the ranges of time and of signals."""
    history, drift, bursts, steps = map(given.get, Terms._fields)
    if steps is not None and not ranges:
        raise ValueError(
            f"`signals` (={validation.shown(steps)}) needs counts with signals that vary, which "
            "`BinnedSpikes.with_signals` adds; or leave it out"
        )
    number = 1.0 if steps is None else validation.positive("signals", steps)
    smooth = {
        name: Smooth((last - first) / number, first, last) for name, (first, last) in ranges.items()
    }
    return Terms(
        history if history is None or isinstance(history, History) else History(history),
        None if drift is None else Drift(drift, *span),
        None if bursts is None else Bursts(bursts),
        {} if steps is None else smooth,
    )


def device_name(name: str) -> str:
    """Return the name of a device, or raise if there is no such device anywhere."""
    kind, colon, number = str(name).partition(":")
    validation.one_of("device", kind, ("auto", "cpu", "cuda"))
    if colon and (kind == "auto" or not number.isdecimal()):
        raise ValueError(f"`device` (={name!r}) must be 'auto', 'cpu', 'cuda' or such as 'cuda:0'")
    return str(name)


def device(name: str) -> torch.device:
    """Return the torch device of that name."""
    name, has_gpu = device_name(name), torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    if name.startswith("cuda") and not has_gpu:
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
        try:
            seed = int(check_random_state(random_state).randint(2**31 - 1))
        except ValueError:
            raise ValueError(
                f"`random_state` (={validation.shown(random_state)}) must be a whole number, None "
                "or a RandomState"
            ) from None
    return torch.Generator().manual_seed(seed)


def template_bins(length: float, bin_size: float, n_bins: int) -> int:
    """Return the length of a template in bins: a whole number, at most that of a window."""
    bins = validation.whole_bins("template_length", length, bin_size)
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
    for name in _MEMBERS:
        if isinstance(arguments[name], dict):
            arguments[name] = member(name, arguments[name])
    if isinstance(arguments.get("history"), dict):
        arguments["history"] = History(**arguments["history"])
    if isinstance(arguments["baseline"], dict):
        arguments["baseline"] = tuple(arguments["baseline"]["window"])
    return arguments


def member(name: str, described: Mapping[str, Any]) -> Any:
    """Return the family, penalty or trainer that its ``config()`` describes."""
    config, registry = dict(described), _MEMBERS[name][0]
    return registry[validation.one_of(name, config.pop("name"), registry)](**config)


def attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a model that `describe` was given."""
    found = dict(values)
    found["family_"] = member("family", found["family_"])
    if isinstance(found["trainer_"], dict):
        found["trainer_"] = member("trainer", found["trainer_"])
    found["baseline_"] = np.array(found["baseline_"], float)
    found["unit_ids_"] = tuple(found["unit_ids_"])
    found["windows_"] = _mapping("windows_", found.get("windows_", {}))
    found["ingredients_"] = {
        validation.one_of("ingredients_", name, INGREDIENTS): _mapping("ingredients_", one)
        for name, one in found.get("ingredients_", {}).items()
    }
    found["checks_"] = [_mapping("checks_", one) for one in found.get("checks_", [])]
    found.setdefault("_signal_ranges", {})  # of older files
    if unknown := found.keys() - {*FITTED}:
        raise ValueError(f"it has attributes that no model has: {sorted(unknown)}")
    return found


def with_ingredients(arguments: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with what was chosen in place of "auto", unless tensors hold it."""
    apart = ("dispersion", "timing")
    values = {n: chosen[n]["value"] for n in chosen if arguments[n] == "auto" and n not in apart}
    return {**arguments, **values}


def settled(fitted: Any) -> dict[str, Any]:
    """Return arguments of a `DCEA` with which it fits the ingredients that it has chosen.

    The dispersion of counts is that of the family; when events are frequent is learned anew.  The
    trainer is one that does not choose again, either, how many events overlap.
    """
    arguments, chosen = fitted.get_params(deep=False), getattr(fitted, "ingredients_", {})
    known = with_ingredients(arguments, chosen)
    if "dispersion" in chosen:
        known |= {"family": fitted.family_, "dispersion": None}
    if "timing" in chosen and chosen["timing"]["value"] is None:
        known["timing"] = None
    if hasattr(fitted, "trainer_"):
        ranges = (fitted._time_span, fitted._signal_ranges)
        trainer = Settings.of({**known, "trainer": fitted.trainer_}, *ranges).trainer
        known["trainer"] = trainer.settled(fitted.tensors_)
    return known


def check_model(arguments: Mapping[str, Any], fitted: Mapping[str, Any], learned: Learned) -> None:
    """Raise unless the arguments and attributes of a model that was read agree with its tensors.

    Nothing is computed from them: they may have been made to take all time or memory.
    """
    start, stop, in_time = fitted["_time_span"]
    span = (validation.real("_time_span", start), validation.real("_time_span", stop), in_time)
    auto = arguments["trainer"] == "auto"
    trainer = fitted["trainer_"] if auto else arguments["trainer"]
    chosen = with_ingredients(arguments, fitted.get("ingredients_", {}))
    ranges = {str(name): tuple(edges) for name, edges in fitted.get("_signal_ranges", {}).items()}
    for name, (first, last) in ranges.items():
        if not validation.real(name, first) < validation.real(name, last):
            raise ValueError(f"the range of signal {name!r} (={first:g} to {last:g}) is empty")
    settings = Settings.of({**chosen, "trainer": trainer}, span, ranges)
    if arguments["random_state"] is not None:
        generator(arguments["random_state"])
    for name in ("penalty_weight_", "_absolute_weight"):
        if fitted[name] is not None:
            validation.real(name, fitted[name])
    bin_size = validation.positive("bin_size_", fitted["bin_size_"])
    n_bins = validation.integer("n_bins_", fitted["n_bins_"])
    bins = template_bins(arguments["template_length"], bin_size, n_bins)
    n_onsets = validation.integer("_n_onsets", fitted["_n_onsets"])
    if n_onsets > 2**40:
        raise ValueError(f"`_n_onsets` (={n_onsets}) is more than a window holds")
    n_units = len(validation.distinct("unit_ids_", fitted["unit_ids_"], len(fitted["unit_ids_"])))
    shape = (settings.n_templates, n_units if settings.layout.is_joint else 1, n_bins)
    validation.shaped("templates", learned.tensors["templates"], shape)
    names = ("baseline_", "unit_rate_")
    arrays: dict[str, Any] = {name: np.array(fitted[name], float) for name in names}
    validation.shaped("baseline_", arrays["baseline_"], (len(arrays["baseline_"]), n_units))
    if bins != n_bins or arrays["unit_rate_"].size not in (0, n_units):
        raise ValueError("its settings and what was learned are of different models")
    _check_events(learned.tensors, settings.n_templates * n_bins)
    arrays |= learned.model(settings.n_templates) | learned.of_units(n_units)
    for name, values in arrays.items():
        if not torch.as_tensor(values).isfinite().all():
            raise ValueError(f"{name} has values that are not finite numbers")
    _check_covariates(settings, bin_size, learned.unit_tensors, n_units)


def _check_events(tensors: Mapping[str, Tensor], most: int) -> None:
    """Raise unless a model of events is whole, and no more events overlap than may."""
    if "event_rates" not in tensors and "event_amplitudes" not in tensors:
        return
    if missing := sorted(NEEDED_IN_FILES - tensors.keys()):
        raise ValueError(f"its model of events lacks {', '.join(missing)}")
    for name in ("overlap", "distance"):
        if not 0 <= (value := float(tensors[name])) <= most:
            raise ValueError(f"`{name}` (={value:g}) must be from 0 to {most}")


def _check_covariates(
    settings: Settings, bin_size: float, unit_tensors: Mapping[str, Tensor], n_units: int
) -> None:
    """Raise unless coefficients are as many as history, drift, bursts and signals have."""
    history, drift, bursts, signals = settings.terms
    columns = sum(each.n_columns for each in signals.values())
    columns += 0 if drift is None else drift.n_columns
    columns += 0 if bursts is None else bursts.n_lags(bin_size)
    if history is not None:
        n_lags = history.seconds / bin_size
        if n_lags > 10**6:
            raise ValueError(f"`history` has more than {10**6:,} lags")
        columns += min(math.floor(n_lags + 1e-6), history.n_basis)
    found = unit_tensors.get(COVARIATES, torch.empty(n_units, 0))
    validation.shaped("covariates", found, (n_units, columns))


def _mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a part of an attribute from a file; ValueError if it is not of the right types."""
    kinds = _PARTS[name]
    needed = () if name == "windows_" else kinds
    if not isinstance(value, dict) or not set(needed) <= set(value) <= set(kinds):
        raise ValueError(f"`{name}` (={value!r}) must be a mapping with {sorted(kinds)}")
    found = {}
    for key, one in value.items():
        if not isinstance(one, kinds[key]):
            raise ValueError(f"`{key}` (={one!r}) in `{name}` is of another type")
        if isinstance(one, list):
            start, stop = (validation.real(key, edge) for edge in one)
            one = (start, stop)
        found[key] = validation.real(key, one) if isinstance(one, float) else one
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
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(name, entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(key, entry) for key, entry in value.items()}
    raise TypeError(f"`{name}` (={value!r}) cannot be saved; pass plain values")


def _registered(name: str, value: Family | Penalty | Trainer) -> dict[str, Any]:
    """Return the configuration of an object of a registered class."""
    kind = type(value).__name__
    name = name.rstrip("_")
    registry = _MEMBERS[name][0]
    if registry.get(getattr(value, "name", "")) is not type(value):
        raise TypeError(
            f"`{name}` (={kind}) cannot be saved, as {kind} is not a registered {name}; give it a "
            f"`name` of its own and add it to the registry ({', '.join(registry)})"
        )
    return _plain(name, value.config())
