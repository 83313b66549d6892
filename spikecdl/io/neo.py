"""Neo objects, and every file format that Neo reads spikes from, as `SpikeTrains` and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikecdl.data import SpikeTrains, hdf5
from spikecdl.data.binning import infer_clock_rate
from spikecdl.data.times import end_to_end
from spikecdl.files import existing, reading
from spikecdl.io.nwb_read import read_nwb
from spikecdl.validation import extra, plain

if TYPE_CHECKING:
    import neo
    import pandas as pd

_REFUSED = ("NWBIO", "PickleIO")  # one loses trials and intervals, one runs code from the file
_OBSERVED = "spikecdl_observed"  # annotation of trains
_OWN_NOTES = ("unit_id", _OBSERVED, "nix_name")


def read_neo(source: Any, *, follow_links: bool = False) -> SpikeTrains:
    """Read spike trains from Neo objects, or from a file in a format that Neo reads.

    Segments keep their times if these do not overlap, and are laid end to end from 0 otherwise.
    Epochs and events become tables of intervals, by their name.  Trials are the epoch ``trials``;
    without it, several segments are one trial each.  A unit is observed from ``t_start`` to
    ``t_stop`` of its train.  Units are matched across segments by the annotation ``unit_id``, else
    by the trains' names, else by their order.  Times are sorted, duplicates kept.

    Files ending in .nwb go to `read_nwb`.  Pickles are refused: reading one runs its code.

    Parameters
    ----------
    source : path_like, Block, Segment, SpikeTrain or sequence of SpikeTrain
        A path is read with the first of Neo's readers for its extension that finds spikes.
    follow_links : bool
        As in `spikecdl.read`, for paths of HDF5 files.

    Raises
    ------
    FileNotFoundError, TypeError, ModuleNotFoundError
        If there is no such file; if ``source`` is something else; if Neo is not installed:
        ``pip install "spikecdl[neo]"``.
    ValueError
        If no reader of Neo's finds spikes in the file, or units cannot be matched across segments.

    Examples
    --------
    >>> import neo
    >>> train = neo.SpikeTrain([100.0, 250.0], units="ms", t_stop=1000.0, name="a")
    >>> read_neo(train)
    SpikeTrains(1 unit, 2 spikes, 0 to 1 s)
    """
    with extra("neo", "what Neo reads"):
        import neo

    if isinstance(source, str | os.PathLike):
        path = existing(source)
        if path.suffix == ".nwb":
            return read_nwb(path, follow_links=follow_links)
        if path.is_file() and hdf5.names(path):
            with hdf5.opened(path, "HDF5", follow_links=follow_links):
                pass  # what it says of itself is as it should be
        with reading(path, "a format that Neo knows"):
            return _spike_trains(_segments_in(path), str(source))
    segments = source.segments if isinstance(source, neo.Block) else [source]
    if not all(isinstance(segment, neo.Segment) for segment in segments):
        trains = [source] if isinstance(source, neo.SpikeTrain) else source
        if not np.iterable(trains) or not all(isinstance(t, neo.SpikeTrain) for t in trains):
            raise TypeError(
                "`source` must be a path, or a Block, Segment, SpikeTrain or list of SpikeTrain of "
                f"Neo's, not {type(source).__name__}"
            )
        segments = [neo.Segment()]
        segments[0].spiketrains.extend(trains)
    return _spike_trains(list(map(_segment, segments)), "Neo")


def to_neo(spikes: SpikeTrains) -> neo.Block:
    """Return a Neo Block with one segment: a train per unit, an epoch or event per table.

    `read_neo` reads it back: a train's ``unit_id``, observed intervals and row in ``units`` are its
    annotations, and trials are the epoch ``trials``.  Columns of tables that do not hold numbers,
    booleans or text are left out.

    Examples
    --------
    >>> block = to_neo(SpikeTrains.from_arrays({"a": [0.1, 0.25]}, observed=(0.0, 1.0)))
    >>> block.segments[0].spiketrains[0].annotations["unit_id"]
    'a'
    """
    with extra("neo", "an object of Neo's"):
        import neo

    segment = neo.Segment(name=spikes.source)
    for unit in range(spikes.n_units):
        segment.spiketrains.append(_neo_train(spikes, unit))
    for name, table in spikes.tables.items():
        _add_table(segment, name, table)
    block = neo.Block(name=spikes.source)
    block.segments.append(segment)
    return block


def neo_readers(path: Path) -> list[Any]:
    """Return Neo's readers for a path that give spikes and run no code from the file."""
    with extra("neo", f"{path.name!r}, which only Neo may read,"):
        import neo

    try:
        candidates = neo.list_candidate_ios(path)
    except ValueError:
        return []
    return [
        reader
        for reader in candidates
        if reader.__name__ not in _REFUSED
        and neo.SpikeTrain in (*reader.readable_objects, *reader.supported_objects)
    ]


def _segments_in(path: Path) -> list[_Segment]:
    """Read a file or folder with the first of Neo's readers that finds spikes in it."""
    tried = []
    for reader in neo_readers(path):
        try:
            segments = _read_with(reader, path)
        except Exception as error:  # each reader fails in its own way on files of another kind
            tried.append(f"{reader.__name__}: {error}")
            continue
        if any(segment.trains for segment in segments):
            return segments
        tried.append(f"{reader.__name__}: no spikes")
    raise ValueError(f"no reader of Neo's finds spikes in it ({'; '.join(tried) or 'none fits'})")


def _read_with(reader: Any, path: Path) -> list[_Segment]:
    io = reader(str(path.parent if reader.mode == "dir" and path.is_file() else path))
    try:
        if reader.support_lazy:  # leaves the raw signals on disk
            blocks = [io.read_block(i, lazy=True) for i in range(io.block_count())]
        else:
            blocks = io.read()
        return [_segment(segment) for block in blocks for segment in block.segments]
    finally:
        if hasattr(io, "close"):
            io.close()


class _Segment(NamedTuple):
    """One stretch of a recording: Neo's trains, loaded; tables with their names; annotations."""

    trains: list[neo.SpikeTrain]
    tables: list[tuple[str, pd.DataFrame]]
    about: dict[str, Any]


def _segment(segment: Any) -> _Segment:
    """Load what is not loaded yet of one of Neo's segments, and turn its tables into frames."""
    trains = list(map(_loaded, segment.spiketrains))
    tables = [
        (table.name or kind, _frame(table))
        for kind in ("epochs", "events")
        for table in map(_loaded, getattr(segment, kind))
    ]
    name = {"name": segment.name} if segment.name else {}
    return _Segment(trains, tables, _scalars({**segment.annotations, **name}))


def _observed(train: neo.SpikeTrain) -> np.ndarray:
    """Return the intervals (interval, 2) of positive length in which a train was observed."""
    whole = [_seconds(train.t_start), _seconds(train.t_stop)]
    rows = np.reshape(train.annotations.get(_OBSERVED, whole), (-1, 2)).astype(float)
    return rows[rows[:, 1] > rows[:, 0]]


def _clock_rate(train: neo.SpikeTrain) -> float | None:
    """Return the sampling rate in Hz; None if it is 1 Hz, which Neo says of an unknown one."""
    rate = 0.0 if train.sampling_rate is None else float(train.sampling_rate.rescale("Hz"))
    return rate if rate > 1.0 else None


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


def _scalars(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers, booleans and texts among annotations, as Python objects."""
    known = ((str(key), plain(value)) for key, value in notes.items() if key not in _OWN_NOTES)
    return {key: value for key, value in known if isinstance(value, bool | int | float | str)}


def _spike_trains(segments: Sequence[_Segment], source: str) -> SpikeTrains:
    """Join segments: their times, their units, and one trial for each of several."""
    import pandas as pd

    segments = [segment for segment in segments if segment.trains]
    if not segments:
        raise ValueError("there are no spike trains in the Neo objects")
    starts = [min(_seconds(train.t_start) for train in each.trains) for each in segments]
    stops = [max(_seconds(train.t_stop) for train in each.trains) for each in segments]
    spans = np.stack([starts, stops], axis=1)
    offsets = end_to_end(spans)
    units: dict[int | str, list[tuple[np.ndarray, np.ndarray]]] = {}
    about: dict[int | str, dict[str, Any]] = {}
    tables: dict[str, list[pd.DataFrame]] = {}
    rates = set()
    for segment, names, offset in zip(segments, _unit_names(segments), offsets, strict=True):
        for name, train in zip(names, segment.trains, strict=True):
            times = np.sort(_seconds(train)) + offset
            units.setdefault(name, []).append((times, _observed(train) + offset))
            about.setdefault(name, _scalars(train.annotations))
            rates.add(_clock_rate(train))
        for kind, table in segment.tables:
            columns = table.columns.intersection(["start_time", "stop_time"])
            shifted = table.assign(**{column: table[column] + offset for column in columns})
            tables.setdefault(kind, []).append(shifted)
    intervals = {kind: pd.concat(parts) for kind, parts in tables.items()}
    for kind, table in intervals.items():  # row ids that are not distinct are lost
        if not table.index.is_unique:
            intervals[kind] = table.reset_index(drop=True)
    trials = intervals.pop("trials", None)
    if trials is not None and not (trials.get("stop_time", -np.inf) > trials.start_time).all():
        intervals["trials_"], trials = trials, None
    if trials is None and len(segments) > 1:
        edges = pd.DataFrame(spans + offsets[:, None], columns=["start_time", "stop_time"])
        about_trials = pd.DataFrame([segment.about for segment in segments])
        trials = edges.join(about_trials.drop(columns=edges.columns, errors="ignore"))
    joined = {name: np.concatenate([t for t, _ in parts]) for name, parts in units.items()}
    known_rate = rates.pop() if len(rates) == 1 else None
    return SpikeTrains.from_arrays(
        joined,
        observed=[np.concatenate([o for _, o in parts]) for parts in units.values()],
        trials=trials,
        intervals=intervals,
        units=list(about.values()) if any(about.values()) else None,
        clock_rate=known_rate or infer_clock_rate(joined.values()),
        source=source,
        duplicates="keep",
    )


def _unit_names(segments: Sequence[_Segment]) -> list[list[Any]]:
    """Return the names of each segment's trains, by which units are matched across segments."""
    for name_of in (lambda t: plain(t.annotations.get("unit_id")), lambda t: t.name or None):
        names = [[name_of(train) for train in segment.trains] for segment in segments]
        if all(None not in some and len(set(some)) == len(some) for some in names):
            return names
    counts = [len(segment.trains) for segment in segments]
    if len(set(counts)) > 1:
        raise ValueError(
            f"segments have different numbers of trains ({sorted(set(counts))}) and no distinct "
            "names to match them by; name the trains"
        )
    return [list(range(count)) for count in counts]


def _neo_train(spikes: SpikeTrains, unit: int) -> neo.SpikeTrain:
    import neo
    import quantities as pq

    times, observed = spikes.times[unit], spikes.observed[unit].ravel()
    edges = np.r_[observed, times] if observed.size or times.size else np.zeros(1)
    about = {} if spikes.units is None else _scalars(spikes.units.iloc[unit].to_dict())
    about |= {"unit_id": spikes.unit_ids[unit], _OBSERVED: observed.tolist()}
    span = {"units": "s", "t_start": edges.min(), "t_stop": edges.max()}
    rate, name = (spikes.clock_rate or 1.0) * pq.Hz, str(spikes.unit_ids[unit])
    train = neo.SpikeTrain(times, **span, sampling_rate=rate, name=name)
    train.annotate(**about)
    return train


def _add_table(segment: neo.Segment, name: str, table: pd.DataFrame) -> None:
    """Add a table to a segment: as an epoch if its rows have an end, else as an event."""
    import neo
    import quantities as pq

    starts = table["start_time"].to_numpy(dtype=float)
    columns = {"row_id": np.array([plain(row) for row in table.index])}
    for column in table.columns.drop(["start_time", "stop_time"], errors="ignore"):
        values = table[column].to_numpy()
        if values.dtype.kind in "biuf":
            columns[str(column)] = values
        elif all(isinstance(value, str) for value in values):
            columns[str(column)] = values.astype(str)
    labels = np.array([str(row) for row in table.index])
    parts = {"labels": labels, "units": "s", "name": name, "array_annotations": columns}
    if "stop_time" in table:
        durations = table["stop_time"].to_numpy(dtype=float) - starts
        segment.epochs.append(neo.Epoch(starts, durations=durations * pq.s, **parts))
    else:
        segment.events.append(neo.Event(starts, **parts))
