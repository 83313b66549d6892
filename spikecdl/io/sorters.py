"""Read what spike sorters found: folders of Kilosort and Phy, and sortings of spikeinterface."""

from __future__ import annotations

import ast
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikecdl.data import SpikeTrains
from spikecdl.data.times import end_to_end
from spikecdl.files import existing, reading, starts_with
from spikecdl.validation import integer, plain, positive

if TYPE_CHECKING:
    import pandas as pd

_SORTING, _ANALYZER = "numpysorting_info.json", "spikeinterface_info.json"  # files


def read_phy(
    folder: str | os.PathLike[str],
    groups: Sequence[str] | None = ("good",),
    *,
    sample_rate: float | None = None,
) -> SpikeTrains:
    """Read the sorted spikes of a Phy or Kilosort folder.

    Spikes are in ``spike_times.npy`` (samples), their clusters in ``spike_clusters.npy``, or in
    ``spike_templates.npy`` before any curation.  The label of a cluster is its ``group`` in
    ``cluster_group.tsv`` or ``cluster_info.tsv``, or its ``KSLabel`` if it has none.  All columns
    of ``cluster_*.tsv`` files become columns of ``units``, which are named by their cluster ids.
    Times are sorted within each unit; duplicate times are kept.

    Parameters
    ----------
    folder : path_like
    groups : str, sequence of str, or None
        Labels of the clusters to read.  None reads all, as does a folder without labels.
    sample_rate : float, optional
        Samples per second; default: ``sample_rate`` in ``params.py``, which is parsed, never run.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder or a file is missing or damaged, no sample rate is known, or no cluster has
        such a label.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.save(folder / "spike_times.npy", np.array([300, 600, 900]))
    >>> np.save(folder / "spike_clusters.npy", np.array([7, 2, 7]))
    >>> _ = (folder / "params.py").write_text("sample_rate = 30000.")
    >>> read_phy(folder)
    SpikeTrains(2 units, 3 spikes, 0 to 0.03 s)
    """
    folder = existing(folder)
    with reading(folder, "a Phy folder"):
        samples = _vector(folder, "spike_times.npy")
        curated = (folder / "spike_clusters.npy").exists()
        clusters = _vector(folder, "spike_clusters.npy" if curated else "spike_templates.npy")
        if samples.size != clusters.size:
            raise ValueError(f"{samples.size} spike times, but {clusters.size} clusters of spikes")
        rate = _sample_rate(folder) if sample_rate is None else sample_rate
        positive("sample_rate", rate, "samples per second")
        table = _cluster_table(folder, np.unique(clusters))
        units = _in_groups(table, groups)
        order = np.lexsort((samples, clusters))
        samples, clusters = samples[order], clusters[order]
        low, high = (np.searchsorted(clusters, units.index, side) for side in ("left", "right"))
        return SpikeTrains.from_arrays(
            [samples[a:b] / rate for a, b in zip(low, high, strict=True)],
            unit_ids=units.index.tolist(),
            units=units if len(units.columns) else None,
            clock_rate=rate,
            source=str(folder),
            duplicates="keep",
        )


def is_phy_folder(path: Path) -> bool:
    """Return whether Kilosort or Phy has written a folder."""
    return (path / "spike_times.npy").is_file()


def _vector(folder: Path, name: str) -> np.ndarray:
    if not (folder / name).exists():
        raise ValueError(f"{name} is missing")
    if not starts_with(folder / name, b"\x93NUMPY"):
        raise ValueError(f"{name} is not an array that NumPy wrote, or cut short")
    with reading(Path(name), "an array"):
        array = np.load(folder / name, allow_pickle=False).ravel()
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integers, not {array.dtype}")
    return array.astype(np.int64)


def _sample_rate(folder: Path) -> float:
    """Find ``sample_rate = <number>`` in params.py without running it."""
    path = folder / "params.py"
    tree = ast.parse(path.read_text(errors="replace")) if path.is_file() else ast.Module([], [])
    for node in tree.body:
        if isinstance(node, ast.Assign) and "sample_rate" in map(ast.unparse, node.targets):
            return float(ast.literal_eval(node.value))
    raise ValueError("params.py with a sample_rate is missing; give `sample_rate`")


def _cluster_table(folder: Path, clusters: np.ndarray) -> pd.DataFrame:
    """Return the columns of all tsv files, one row per cluster that has spikes."""
    import pandas as pd

    table = pd.DataFrame(index=pd.Index(clusters))
    for path in sorted(folder.glob("cluster_*.tsv")):
        with reading(Path(path.name), "a table"):
            part = pd.read_csv(existing(path), sep="\t")
        key = next((name for name in ("cluster_id", "id") if name in part), None)
        if key is None:
            raise ValueError(f"{path.name} has no column cluster_id, only {list(part.columns)}")
        part = part.set_index(key).reindex(clusters)
        table = table.combine_first(part) if len(table.columns) else part
    return table.rename_axis(None)


def _in_groups(table: pd.DataFrame, groups: Sequence[str] | None) -> pd.DataFrame:
    labels = [table[name] for name in ("group", "KSLabel") if name in table]
    if groups is None or not labels:
        return table
    label = labels[0] if len(labels) == 1 else labels[0].fillna(labels[1])
    chosen = table[label.isin([groups] if isinstance(groups, str) else list(groups))]
    if not len(chosen):
        counts = dict(Counter(label.fillna("unlabelled")))
        raise ValueError(f"no cluster is labelled {groups!r}; the labels are {counts}")
    return chosen


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
    is_path = isinstance(source, str | os.PathLike)
    path = existing(source) if is_path else None
    with nullcontext() if path is None else reading(path, "a folder of spikeinterface"):
        ids, times, spans, columns, rate = _of_object(source) if path is None else _in_folder(path)
        last = [max((float(t.max()) for t in units if t.size), default=0.0) for units in times]
        edges = np.array(
            [
                [start, max(start, end) if stop is None else stop]
                for (start, stop), end in zip(spans, last, strict=True)
            ]
        )
        offsets = end_to_end(edges)
        edges = (edges + offsets[:, None])[edges[:, 1] > edges[:, 0]]
        several, has_ends = len(spans) > 1, all(stop is not None for _, stop in spans)
        if observed is None and (several or has_ends):
            observed = edges
        moved = [[t + offset for t in units] for units, offset in zip(times, offsets, strict=True)]
        return SpikeTrains.from_arrays(
            [np.concatenate(unit) for unit in zip(*moved, strict=True)],
            unit_ids=list(map(plain, ids)),
            observed=observed,
            trials=edges if several and trials is None else trials,
            units={key: each for key, each in columns.items() if np.ndim(each) == 1} or None,
            clock_rate=rate,
            source="spikeinterface" if path is None else str(path),
            sort=True,
            duplicates="keep",
        )


def _rate(value: float) -> float:
    """Return a sampling rate in Hz; ValueError unless a clock can have it."""
    if positive("sampling_frequency", value, "samples per second") > 1e9:
        raise ValueError(
            f"`sampling_frequency` (={value:g}) must be at most 1e9 samples per second"
        )
    return float(value)


def is_spikeinterface_folder(path: Path) -> bool:
    """Return whether spikeinterface has saved a sorting or an analyzer here."""
    return (path / _SORTING).is_file() or (path / _ANALYZER).is_file()


class _Sorting(NamedTuple):
    """Units, and their times in each segment (segment, unit), with start and, if known, stop."""

    unit_ids: Sequence[Any]
    times: Sequence[Sequence[np.ndarray]]
    spans: Sequence[tuple[float, float | None]]
    columns: dict[str, Any]
    rate: float


def _of_object(source: Any) -> _Sorting:
    """Take a sorting apart, or that of an analyzer."""
    sorting, clock = source, source
    length = source.get_num_samples if source.has_recording() else None
    if hasattr(source, "sorting"):  # an analyzer, which knows how long its recording was
        sorting, length = source.sorting, source.get_num_samples
        has_recording = source.has_recording() or source.has_temporary_recording()
        clock = source.recording if has_recording else sorting
    rate, segments = _rate(sorting.sampling_frequency), range(sorting.get_num_segments())

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
    return _Sorting(sorting.unit_ids, times, list(map(span, segments)), columns, rate)


def _in_folder(folder: Path) -> _Sorting:
    """Read the arrays of a folder, and never the classes that it names."""
    has_recording = (folder / _ANALYZER).is_file()
    place = folder / "sorting" if has_recording else folder
    if not (place / _SORTING).is_file():
        raise ValueError(
            f"{_SORTING} is missing; open it with `spikeinterface.load`, and pass the object"
        )
    about = json.loads((place / _SORTING).read_text("utf-8"))
    ids, rate = about["unit_ids"], _rate(about["sampling_frequency"])
    segments = range(integer("num_segments", about["num_segments"]))
    spikes = _array(place / "spikes.npy")
    if not {"sample_index", "unit_index", "segment_index"} <= set(spikes.dtype.names or ()):
        raise ValueError("spikes.npy has no sample_index, unit_index and segment_index")
    if len(segments) > 1000 + len(spikes):
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
    return _Sorting(ids, times, spans, columns, rate)


def _array(path: Path) -> np.ndarray:
    """Read an array; raise if that would run code from the file."""
    try:
        return np.load(existing(path), allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f"{path.name}: {error}; open the folder with `spikeinterface.load`, and pass the object"
        ) from None
