"""Neo objects, and every file format that Neo reads spikes from, as `SpikeTrains` and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import SpikeTrains
from spikecdl.data.binning import infer_clock_rate
from spikecdl.files import existing, reading
from spikecdl.io.neo_objects import (
    Segment,
    Train,
    add_table,
    as_segment,
    as_spike_train,
    concatenated,
)
from spikecdl.io.nwb_read import read_nwb

if TYPE_CHECKING:
    import neo
    import pandas as pd

_REFUSED = ("NWBIO", "PickleIO")  # drops trials and intervals; runs code that a file brings along


def read_neo(source: Any) -> SpikeTrains:
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

    Returns
    -------
    SpikeTrains
        Times in seconds.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If no reader of Neo's finds spikes in the file, or units cannot be matched across segments.
    TypeError
        If ``source`` is something else.

    Examples
    --------
    >>> import neo
    >>> train = neo.SpikeTrain([100.0, 250.0], units="ms", t_stop=1000.0, name="a")
    >>> read_neo(train)
    SpikeTrains(1 unit, 2 spikes, 0 to 1 s)
    """
    import neo

    if isinstance(source, str | os.PathLike):
        path = existing(source)
        if path.suffix == ".nwb":
            return read_nwb(path)
        with reading(path, "a format that Neo knows"):
            return _spike_trains(_segments_in(path), str(source))
    if isinstance(source, neo.Block):
        return _spike_trains([as_segment(s.spiketrains, s) for s in source.segments], "Neo")
    if isinstance(source, neo.Segment):
        return _spike_trains([as_segment(source.spiketrains, source)], "Neo")
    trains = [source] if isinstance(source, neo.SpikeTrain) else source
    if not np.iterable(trains) or not all(isinstance(t, neo.SpikeTrain) for t in trains):
        raise TypeError(
            "`source` must be a path, or a Block, Segment, SpikeTrain or list of SpikeTrain of "
            f"Neo's, not {type(source).__name__}"
        )
    return _spike_trains([as_segment(trains, None)], "Neo")


def to_neo(spikes: SpikeTrains) -> neo.Block:
    """Return a Neo Block with one segment: a train per unit, an epoch or event per table.

    Trains carry their ``unit_id``, observed intervals and row in ``units`` as annotations, which
    `read_neo` reads back.  Trials become the epoch ``trials``.
    Columns of numbers, booleans or text become array annotations; others are left out.

    Parameters
    ----------
    spikes : SpikeTrains
        The recording.

    Returns
    -------
    neo.Block
        Times in seconds.

    Examples
    --------
    >>> block = to_neo(SpikeTrains.from_arrays({"a": [0.1, 0.25]}, observed=(0.0, 1.0)))
    >>> block.segments[0].spiketrains[0].annotations["unit_id"]
    'a'
    """
    import neo

    segment = neo.Segment(name=spikes.source)
    for unit in range(spikes.n_units):
        segment.spiketrains.append(as_spike_train(spikes, unit))
    trials = {} if spikes.trials is None else {"trials": spikes.trials}
    for name, table in {**trials, **spikes.intervals}.items():
        add_table(segment, name, table)
    block = neo.Block(name=spikes.source)
    block.segments.append(segment)
    return block


def neo_knows(path: Path) -> bool:
    """Return whether Neo has a reader for files or folders like this one."""
    return bool(_readers(path))


def _readers(path: Path) -> list[Any]:
    """Return Neo's readers for a path that deliver spikes and run no code from the file."""
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


def _segments_in(path: Path) -> list[Segment]:
    """Read a file or folder with the first of Neo's readers that finds spikes in it."""
    tried = []
    for reader in _readers(path):
        try:
            segments = _read_with(reader, path)
        except Exception as error:  # each reader fails in its own way on files of another kind
            tried.append(f"{reader.__name__}: {error}")
            continue
        if any(segment.trains for segment in segments):
            return segments
        tried.append(f"{reader.__name__}: no spikes")
    raise ValueError(f"no reader of Neo's finds spikes in it ({'; '.join(tried) or 'none fits'})")


def _read_with(reader: Any, path: Path) -> list[Segment]:
    io = reader(str(path.parent if reader.mode == "dir" and path.is_file() else path))
    try:
        if reader.support_lazy:  # leaves the raw signals on disk
            blocks = [io.read_block(i, lazy=True) for i in range(io.block_count())]
        else:
            blocks = io.read()
        return [as_segment(s.spiketrains, s) for block in blocks for s in block.segments]
    finally:
        if hasattr(io, "close"):
            io.close()


def _spike_trains(segments: Sequence[Segment], source: str) -> SpikeTrains:
    """Put segments together: their times, their units, and one trial for each of several."""
    segments = [segment for segment in segments if segment.trains]
    if not segments:
        raise ValueError("there are no spike trains in the Neo objects")
    segments = _side_by_side(segments)
    found: dict[int | str, list[Train]] = {}
    for segment, names in zip(segments, _unit_names(segments), strict=True):
        for name, train in zip(names, segment.trains, strict=True):
            found.setdefault(name, []).append(train)
    times = {name: np.concatenate([t.times for t in trains]) for name, trains in found.items()}
    observed = [np.concatenate([t.observed for t in trains]) for trains in found.values()]
    tables: dict[str, list[pd.DataFrame]] = {}
    for segment in segments:
        for kind, table in segment.tables.items():
            tables.setdefault(kind, []).append(table)
    intervals = {kind: concatenated(parts) for kind, parts in tables.items()}
    trials = _pop_trials(intervals)
    if trials is None and len(segments) > 1:
        trials = _segment_trials(segments)
    units = [trains[0].about for trains in found.values()]
    rates = {train.clock_rate for segment in segments for train in segment.trains}
    known = rates.pop() if len(rates) == 1 else None
    return SpikeTrains.from_arrays(
        times,
        observed=observed,
        trials=trials,
        intervals=intervals,
        units=units if any(units) else None,
        clock_rate=infer_clock_rate(times.values()) if known is None else known,
        source=source,
        duplicates="keep",
    )


def _side_by_side(segments: Sequence[Segment]) -> list[Segment]:
    """Return segments that do not overlap: as they are, or laid end to end from 0."""
    starts = np.array([segment.start for segment in segments])
    stops = np.array([segment.stop for segment in segments])
    if np.all(starts[1:] >= stops[:-1]):
        return list(segments)
    ends = np.cumsum(stops - starts)
    offsets = np.r_[0.0, ends[:-1]] - starts
    return [s.shifted(float(offset)) for s, offset in zip(segments, offsets, strict=True)]


def _segment_trials(segments: Sequence[Segment]) -> pd.DataFrame:
    import pandas as pd

    times = [{"start_time": s.start, "stop_time": s.stop} for s in segments]
    return pd.DataFrame([{**t, **s.about, **t} for t, s in zip(times, segments, strict=True)])


def _pop_trials(intervals: dict[str, pd.DataFrame]) -> pd.DataFrame | None:
    """Take ``trials`` out of the tables; they stay, as ``trials_``, if a row does not last."""
    table = intervals.pop("trials", None)
    if table is None or ("stop_time" in table and (table.stop_time > table.start_time).all()):
        return table
    intervals["trials_"] = table
    return None


def _unit_names(segments: Sequence[Segment]) -> list[list[int | str]]:
    """Return the names of each segment's trains, by which units are matched across segments."""
    for attribute in ("unit_id", "name"):
        names = [[getattr(train, attribute) for train in segment.trains] for segment in segments]
        if all(None not in some and len(set(some)) == len(some) for some in names):
            return names
    counts = {len(segment.trains) for segment in segments}
    if len(counts) > 1:
        raise ValueError(
            f"segments have different numbers of trains ({sorted(counts)}) and no distinct names "
            "to match them by; name the trains"
        )
    return [list(range(len(segment.trains))) for segment in segments]
