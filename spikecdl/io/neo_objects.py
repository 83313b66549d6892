"""Neo's objects as plain seconds and tables, and back; units of quantities end here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.validation import plain

if TYPE_CHECKING:
    import neo
    import pandas as pd

    from spikecdl.data import SpikeTrains

_OBSERVED = "spikecdl_observed"
_NOT_ABOUT = ("unit_id", _OBSERVED, "nix_name")


@dataclass(frozen=True, eq=False)
class Segment:
    """One stretch of a recording: its trains, tables by name, what else is known, seconds."""

    trains: list[Train]
    tables: dict[str, pd.DataFrame]
    about: dict[str, Any]

    @property
    def start(self) -> float:
        """Earliest ``t_start`` of a train."""
        return min(train.start for train in self.trains)

    @property
    def stop(self) -> float:
        """Latest ``t_stop`` of a train."""
        return max(train.stop for train in self.trains)

    def shifted(self, offset: float) -> Segment:
        """Return the segment ``offset`` seconds later."""
        trains = [
            replace(
                train,
                times=train.times + offset,
                observed=train.observed + offset,
                start=train.start + offset,
                stop=train.stop + offset,
            )
            for train in self.trains
        ]
        times = ("start_time", "stop_time")
        tables = {
            name: table.assign(**{c: table[c] + offset for c in times if c in table})
            for name, table in self.tables.items()
        }
        return replace(self, trains=trains, tables=tables)


@dataclass(frozen=True, eq=False)
class Train:
    """One unit's spikes in one segment, in seconds."""

    times: np.ndarray
    observed: np.ndarray
    start: float
    stop: float
    clock_rate: float | None
    name: str | None
    unit_id: int | str | None
    about: dict[str, Any]


def as_segment(trains: Iterable[Any], segment: Any) -> Segment:
    """Convert Neo's objects, loading those that are not loaded yet; units end here."""
    tables: dict[str, list[pd.DataFrame]] = {}
    if segment is not None:
        for kind in ("epochs", "events"):
            for lazy in getattr(segment, kind):
                table = _loaded(lazy)
                tables.setdefault(_text(table.name) or kind, []).append(_frame(table))
    about = {} if segment is None else _scalars(segment.annotations)
    if segment is not None and _text(segment.name):
        about["name"] = str(segment.name)
    joined = {name: concatenated(parts) for name, parts in tables.items()}
    return Segment([_as_train(_loaded(train)) for train in trains], joined, about)


def _as_train(train: neo.SpikeTrain) -> Train:
    start, stop = float(_seconds(train.t_start)), float(_seconds(train.t_stop))
    notes = train.annotations
    observed = np.reshape(notes.get(_OBSERVED, [start, stop]), (-1, 2)).astype(float)
    rate = train.sampling_rate
    hertz = 0.0 if rate is None else float(rate.rescale("Hz"))
    return Train(
        times=np.sort(_seconds(train)),
        observed=observed[observed[:, 1] > observed[:, 0]],
        start=start,
        stop=stop,
        clock_rate=hertz if hertz > 1.0 else None,  # Neo says 1 Hz where it does not know
        name=_text(train.name),
        unit_id=plain(notes.get("unit_id")),
        about=_scalars(notes),
    )


def as_spike_train(spikes: SpikeTrains, unit: int) -> neo.SpikeTrain:
    """Make one unit's train; annotations hold its id, observed intervals and row in ``units``."""
    import neo
    import quantities as pq

    times, observed = spikes.times[unit], spikes.observed[unit].ravel()
    edges = np.r_[observed, times] if observed.size or times.size else np.zeros(1)
    about = {} if spikes.units is None else _scalars(spikes.units.iloc[unit].to_dict())
    about |= {"unit_id": spikes.unit_ids[unit], _OBSERVED: observed.tolist()}
    rate = 1.0 if spikes.clock_rate is None else spikes.clock_rate
    train = neo.SpikeTrain(
        times,
        units="s",
        t_start=edges.min(),
        t_stop=edges.max(),
        sampling_rate=rate * pq.Hz,
        name=str(spikes.unit_ids[unit]),
    )
    train.annotate(**about)
    return train


def add_table(segment: neo.Segment, name: str, table: pd.DataFrame) -> None:
    """Add a table to a segment: an epoch if its rows have an end, else an event."""
    import neo
    import quantities as pq

    starts = table["start_time"].to_numpy(dtype=float)
    columns = {"row_id": np.array([plain(row) for row in table.index])}
    for column in table.columns:
        values = table[column].to_numpy()
        if column in ("start_time", "stop_time"):
            continue
        if values.dtype.kind in "biuf":
            columns[str(column)] = values
        elif all(isinstance(value, str) for value in values):
            columns[str(column)] = values.astype(str)
    parts = {
        "labels": np.array([str(row) for row in table.index]),
        "units": "s",
        "name": name,
        "array_annotations": columns,
    }
    if "stop_time" in table:
        durations = table["stop_time"].to_numpy(dtype=float) - starts
        segment.epochs.append(neo.Epoch(starts, durations=durations * pq.s, **parts))
    else:
        segment.events.append(neo.Event(starts, **parts))


def concatenated(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return tables one after another, with their row ids if these stay distinct."""
    import pandas as pd

    joined = pd.concat(tables)
    return joined if joined.index.is_unique else joined.reset_index(drop=True)


def _frame(table: Any) -> pd.DataFrame:
    """Return an epoch or event as a table: start_time, stop_time, label, array annotations."""
    import pandas as pd

    starts = _seconds(table)
    columns: dict[str, Any] = {"start_time": starts}
    if hasattr(table, "durations"):
        columns["stop_time"] = starts + _seconds(table.durations)
    notes = {key: np.asarray(values) for key, values in table.array_annotations.items()}
    rows = notes.pop("row_id", None)
    if rows is None and table.labels is not None and len(table.labels) == len(starts):
        columns["label"] = [str(label) for label in table.labels]
    for key, values in notes.items():
        if values.shape == starts.shape:
            columns.setdefault(key, values)
    return pd.DataFrame(columns, index=None if rows is None else pd.Index(rows.tolist()))


def _loaded(lazy: Any) -> Any:
    return lazy.load() if hasattr(lazy, "load") else lazy


def _seconds(quantity: Any) -> np.ndarray:
    """Return a quantity of time as plain float64 seconds, correctly rounded for ms and us."""
    import quantities as pq

    return np.asarray(quantity.magnitude, dtype=float) / float(pq.s.rescale(quantity.units))


def _text(name: Any) -> str | None:
    return str(name) if isinstance(name, str) and name else None


def _scalars(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers, booleans and texts among annotations, as Python objects."""
    known = {str(key): plain(value) for key, value in notes.items() if key not in _NOT_ABOUT}
    return {
        key: value for key, value in known.items() if isinstance(value, bool | int | float | str)
    }
