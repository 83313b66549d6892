"""Sortings of spikeinterface: its objects, and the folders that it saves them to."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spikecdl.data import SpikeTrains
from spikecdl.data.times import end_to_end
from spikecdl.files import existing, reading
from spikecdl.validation import integer, plain, positive

_SORTING, _ANALYZER = "numpysorting_info.json", "spikeinterface_info.json"
_MOST_SEGMENTS = 1000  # without any spikes


def read_spikeinterface(source: Any, *, observed: Any = None, trials: Any = None) -> SpikeTrains:
    """Read a sorting of spikeinterface, or the sorting of an analyzer.

    Units were observed for as long as the recording, if the object or folder knows it; else as
    `SpikeTrains.from_arrays` says.  Segments keep their times if these do not overlap, and are laid
    end to end from 0 otherwise; several segments are one trial each.  Properties with one value
    per unit become columns of ``units``.  Times are sorted within each unit, duplicates kept.

    Folders are read without spikeinterface, which would run code that a folder may name.  Open
    others (Zarr, or what a sorter wrote) with ``spikeinterface.load`` and pass the object.

    Parameters
    ----------
    source : path_like, BaseSorting or SortingAnalyzer
        A path is a folder of ``sorting.save(folder=...)`` or of an analyzer in a binary folder.
    observed, trials
        As in `SpikeTrains.from_arrays`, in place of those that spikeinterface knows.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder is missing, damaged or of another kind, or a property needs unpickling.
    """
    given = {"observed": observed, "trials": trials}
    if isinstance(source, str | os.PathLike):
        path = existing(source)
        with reading(path, "a folder of spikeinterface"):
            return _from_folder(path, given)
    sorting, clock = source, source
    length = source.get_num_samples if source.has_recording() else None
    if hasattr(source, "sorting"):  # an analyzer, which knows how long its recording was
        sorting, length = source.sorting, source.get_num_samples
        has_recording = source.has_recording() or source.has_temporary_recording()
        clock = source.recording if has_recording else sorting
    rate, segments = float(sorting.sampling_frequency), range(sorting.get_num_segments())

    def seconds(unit: Any, segment: int) -> np.ndarray:
        if clock is sorting:
            return sorting.get_unit_spike_train(unit, segment_index=segment, return_times=True)
        samples = sorting.get_unit_spike_train(unit, segment_index=segment)
        return clock.sample_index_to_time(samples, segment_index=segment)

    def span(segment: int) -> tuple[float, float | None]:
        start = float(clock.sample_index_to_time(0, segment_index=segment))
        if length is None:
            return start, None
        last = clock.sample_index_to_time(length(segment) - 1, segment_index=segment)
        return start, float(last) + 1 / rate

    times = [[seconds(unit, segment) for unit in sorting.unit_ids] for segment in segments]
    columns = {key: sorting.get_property(key) for key in sorting.get_property_keys()}
    parts = (times, list(map(span, segments)), columns, rate)
    return _spike_trains(sorting.unit_ids, *parts, "spikeinterface", given)


def is_spikeinterface_folder(path: Path) -> bool:
    """Return whether spikeinterface has saved a sorting or an analyzer here."""
    return (path / _SORTING).is_file() or (path / _ANALYZER).is_file()


def _spike_trains(
    unit_ids: Sequence[Any],
    times: Sequence[Sequence[np.ndarray]],
    spans: Sequence[tuple[float, float | None]],
    columns: dict[str, Any],
    rate: float,
    source: str,
    given: dict[str, Any],
) -> SpikeTrains:
    """Join segments, of ``times`` (segment, unit) and with start and, if known, stop."""
    last = [max((float(t.max()) for t in units if t.size), default=0.0) for units in times]
    known = [
        [start, max(start, end) if stop is None else stop]
        for (start, stop), end in zip(spans, last, strict=True)
    ]
    edges = np.array(known)
    offsets = end_to_end(edges)
    edges = (edges + offsets[:, None])[edges[:, 1] > edges[:, 0]]
    several, has_ends = len(spans) > 1, all(stop is not None for _, stop in spans)
    observed = edges if several or has_ends else None
    moved = [[t + offset for t in units] for units, offset in zip(times, offsets, strict=True)]
    table = {key: values for key, values in columns.items() if np.ndim(values) == 1}
    return SpikeTrains.from_arrays(
        [np.concatenate(unit) for unit in zip(*moved, strict=True)],
        unit_ids=list(map(plain, unit_ids)),
        observed=observed if given["observed"] is None else given["observed"],
        trials=edges if several and given["trials"] is None else given["trials"],
        units=table or None,
        clock_rate=positive("sampling_frequency", rate, "samples per second"),
        source=source,
        sort=True,
        duplicates="keep",
    )


def _from_folder(folder: Path, given: dict[str, Any]) -> SpikeTrains:
    """Read the arrays of a folder, and never the classes that it names."""
    has_recording = (folder / _ANALYZER).is_file()
    place = folder / "sorting" if has_recording else folder
    if not (place / _SORTING).is_file():
        raise ValueError(
            f"{_SORTING} is missing; open it with `spikeinterface.load`, and pass the object"
        )
    about = json.loads((place / _SORTING).read_text("utf-8"))
    ids, rate = about["unit_ids"], positive("sampling_frequency", about["sampling_frequency"])
    segments = range(integer("num_segments", about["num_segments"]))
    spikes = _array(place / "spikes.npy")
    if not {"sample_index", "unit_index", "segment_index"} <= set(spikes.dtype.names or ()):
        raise ValueError("spikes.npy has no sample_index, unit_index and segment_index")
    if len(segments) > _MOST_SEGMENTS + len(spikes):
        raise ValueError(f"{_SORTING} has {len(segments)} segments for {len(spikes)} spikes")
    unit, segment = spikes["unit_index"], spikes["segment_index"]
    for name, index, size in (("unit", unit, len(ids)), ("segment", segment, len(segments))):
        if index.size and not 0 <= index.min() <= index.max() < size:
            raise ValueError(f"spikes.npy has a {name} that is not among {size}")
    key = segment.astype(np.int64) * len(ids) + unit  # of the rows below
    order = np.lexsort((spikes["sample_index"], key))
    ends = np.searchsorted(key[order], np.arange(1, len(ids) * len(segments)))
    rows = np.split(spikes["sample_index"][order] / rate, ends)
    times = [rows[k * len(ids) : (k + 1) * len(ids)] for k in segments]
    lengths = [None] * len(segments)
    if has_recording:
        attributes = folder / "recording_info" / "recording_attributes.json"
        lengths = json.loads(attributes.read_text("utf-8"))["num_samples"]
    spans = [(0.0, n and n / rate) for _, n in zip(segments, lengths, strict=True)]
    columns = {file.stem: _array(file) for file in sorted((place / "properties").glob("*.npy"))}
    return _spike_trains(ids, times, spans, columns, rate, str(folder), given)


def _array(path: Path) -> np.ndarray:
    """Read an array; raise if that would run code from the file."""
    try:
        return np.load(existing(path), allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f"{path.name}: {error}; open the folder with `spikeinterface.load`, and pass the object"
        ) from None
