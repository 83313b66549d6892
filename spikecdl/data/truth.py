"""`Truth`: what a simulator knows of its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data.times import check_columns, read_only
from spikecdl.validation import counted, one_of, positive

if TYPE_CHECKING:
    import pandas as pd


LAYOUTS = ("shared", "joint")
"""How templates meet units: one waveform for each unit's own window, or one channel per unit."""

EVENT_COLUMNS = ("trial", "unit", "template", "time", "amplitude")


@dataclass(frozen=True, eq=False, repr=False)
class Truth:
    """What a simulator knows about the data it made.

    Parameters
    ----------
    templates : ndarray, shape (template, channel, bin)
        Templates of unit l2 norm; one channel in the shared layout, one per unit in the joint one.
    events : DataFrame
        One row per event: ``trial`` and ``unit`` (positions; unit is -1 in the joint layout),
        ``template``, ``time`` (s from the window's start to the template's onset), ``amplitude``.
    baseline : ndarray, shape (trial, unit)
        Baseline rate in Hz (for a real-valued signal, in its own unit).
    bin_size : float
        Seconds per bin of the templates.
    family : str
        Name of the observation model.
    layout : {"shared", "joint"}
        See `LAYOUTS`.
    settings : mapping
        The simulator's settings; must be writable as JSON.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> events = pd.DataFrame({"trial": [0], "unit": [0], "template": [0],
    ...                        "time": [0.25], "amplitude": [15.0]})
    >>> Truth(np.ones((1, 1, 4)) / 2, events, np.full((1, 1), 8.0), 0.001, "binomial", "shared")
    Truth(1 template of 4 bins, 1 event, family='binomial', layout='shared')
    """

    templates: np.ndarray
    events: pd.DataFrame
    baseline: np.ndarray
    bin_size: float
    family: str
    layout: str = "shared"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive("bin_size", self.bin_size, "seconds")
        one_of("layout", self.layout, LAYOUTS)
        store(self, "templates", "baseline")
        check_templates(self.templates)
        if self.baseline.ndim != 2:
            raise ValueError(f"`baseline` {self.baseline.shape} must have shape (trial, unit)")
        check_columns("events", self.events, *EVENT_COLUMNS)
        dtypes = dict.fromkeys(EVENT_COLUMNS, "float64") | dict.fromkeys(EVENT_COLUMNS[:3], "int64")
        events = self.events[list(EVENT_COLUMNS)].reset_index(drop=True).astype(dtypes)
        object.__setattr__(self, "events", events)
        sizes = (*self.baseline.shape, len(self.templates))
        for name, size in zip(EVENT_COLUMNS[:3], sizes, strict=True):
            lowest = -1 if name == "unit" and self.layout == "joint" else 0
            if not events[name].between(lowest, size - 1).all():
                raise ValueError(f"`events` column {name!r} must hold positions below {size}")
        try:
            json.dumps(self.header())
        except (TypeError, ValueError) as error:
            raise TypeError(f"`settings` must be writable as JSON: {error}") from None

    def __repr__(self) -> str:
        count, _, length = self.templates.shape
        templates, events = counted(count, "template"), counted(len(self.events), "event")
        model = f"family={self.family!r}, layout={self.layout!r}"
        return f"Truth({templates} of {length} bins, {events}, {model})"

    def header(self) -> dict[str, Any]:
        """Return every part but the arrays and events, for files; JSON can hold it."""
        names = ("bin_size", "family", "layout")
        return {name: getattr(self, name) for name in names} | {"settings": dict(self.settings)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays and the columns of events by name; `from_parts` takes them back."""
        events = {f"events/{name}": self.events[name].to_numpy() for name in EVENT_COLUMNS}
        return {"templates": self.templates, "baseline": self.baseline, **events}

    @classmethod
    def from_parts(cls, header: Mapping[str, Any], arrays: Any) -> Truth:
        """Make a truth of its `header` and `arrays`, as a file holds them."""
        import pandas as pd

        events = pd.DataFrame({name: arrays[f"events/{name}"][:] for name in EVENT_COLUMNS})
        parts = {name: arrays[name][:] for name in ("templates", "baseline")}
        return cls(events=events, **parts, **header)

    def select(self, trials: np.ndarray, units: np.ndarray) -> Truth | None:
        """Return the truth of the given trials and units (positions, in this order).

        In the joint layout templates are cut to the units and scaled to unit norm, amplitudes with
        them; None if a template has no part in these units.
        """
        events = _at(self.events, "trial", trials)
        baseline = self.baseline[np.ix_(trials, units)]
        if self.layout == "shared":
            return replace(self, events=_at(events, "unit", units), baseline=baseline)
        cut = self.templates[:, units]
        norms = np.linalg.norm(cut, axis=(1, 2))
        if not norms.all():
            return None
        events = events.assign(amplitude=events["amplitude"] * norms[events["template"]])
        return replace(self, templates=cut / norms[:, None, None], events=events, baseline=baseline)

    def shift(self, offsets: np.ndarray, durations: np.ndarray) -> Truth:
        """Return the truth in windows that start ``offsets`` later and last ``durations`` (trial,).

        Both are in seconds.  Events whose onset is outside their window are left out.
        """
        trial = self.events["trial"].to_numpy()
        time = self.events["time"].to_numpy() - offsets[trial]
        inside = (time > -1e-9) & (time < durations[trial] - 1e-9)
        return replace(self, events=self.events.assign(time=time)[inside])

    def pool(self) -> Truth:
        """Return the truth of the sum over trials, as one trial.

        Events of the same unit, template and time become one, with their mean amplitude over all
        trials (an event in one of ten trials counts a tenth); the baseline is the mean.
        """
        events = self.events.assign(trial=0, time=self.events["time"].round(9))
        pooled = events.groupby(list(EVENT_COLUMNS[:4]), as_index=False)["amplitude"].sum()
        pooled["amplitude"] /= len(self.baseline)
        return replace(self, events=pooled, baseline=self.baseline.mean(axis=0, keepdims=True))


def store(target: object, *names: str) -> None:
    """Replace these attributes of a frozen dataclass by read-only arrays."""
    for name in names:
        object.__setattr__(target, name, read_only(getattr(target, name)))


def check_templates(templates: np.ndarray) -> None:
    """Raise unless ``templates`` are (template, channel, bin), finite and of unit l2 norm."""
    _check_axes("templates", templates)
    norms = np.linalg.norm(templates, axis=(1, 2))
    if not np.allclose(norms, 1.0, atol=1e-3):
        raise ValueError(f"`templates` must have unit l2 norm each, not {norms}")


def _check_axes(name: str, templates: np.ndarray) -> None:
    if templates.ndim != 3 or templates.size == 0:
        raise ValueError(f"`{name}` {templates.shape} must have shape (template, channel, bin)")


def unit_norm(name: str, templates: Any) -> np.ndarray:
    """Return templates of any norm, (template, channel, bin) or (template, bin), with unit norm."""
    array = np.asarray(templates, dtype=float)
    array = array[:, np.newaxis] if array.ndim == 2 else array
    _check_axes(name, array)
    norms = np.linalg.norm(array, axis=(1, 2), keepdims=True)
    wrong = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if wrong.size:
        raise ValueError(f"`{name}` number {wrong[0]} must be finite and not all zeros")
    return array / norms


def _at(events: pd.DataFrame, column: str, positions: np.ndarray) -> pd.DataFrame:
    """Return the events at these positions of a column, with the positions renumbered."""
    renumbered = events[column].map({old: new for new, old in enumerate(positions.tolist())})
    return events.assign(**{column: renumbered})[renumbered.notna()]
