"""Read NWB files, and HDF5 files laid out like them, with h5py alone."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes, SpikeTrains, Truth, hdf5
from spikecdl.data.binning import infer_clock_rate
from spikecdl.data.times import intersection, union
from spikecdl.data.truth import EVENT_COLUMNS

if TYPE_CHECKING:
    import h5py
    import pandas as pd

_NOT_COLUMNS = ("spike_times", "obs_intervals", *hdf5.WAVEFORMS)
MODULE = "ecephys"  # processing module of all series and tables that are no recording
_MODULE = f"processing/{MODULE}"
_SERIES = ("acquisition", "processing", "stimulus", "analysis")
_SESSION = ("experimenter", "institution", "lab", "session_id", "protocol", "surgery")
_SUBJECT = ("subject_id", "age", "description", "genotype", "sex", "species", "strain", "weight")


class RecordingWarning(UserWarning):
    """Something in a recording cannot be read as it is."""


def read_nwb(path: str | os.PathLike[str], *, follow_links: bool = False) -> SpikeTrains:
    """Read spike trains from an NWB file or an HDF5 file with the same groups.

    It reads the units table with its observation intervals and columns (but no waveforms), the
    trials, and every other table in ``/intervals``; columns of references to other objects are left
    out.  A ragged column has one tuple per row, or plain values if each row has exactly one.  Ids
    of rows are the table's ``id``, or a column ``unit_id`` or ``trial_id`` of distinct strings.
    Times are in seconds from the session's reference time.

    NWB does not promise sorted spike times or disjoint intervals: times are sorted within each
    unit, and ``obs_intervals`` that overlap become one.  Duplicate times are kept.  A unit without
    ``obs_intervals`` was observed throughout, as `SpikeTrains.from_arrays` defines it;
    ``/intervals/invalid_times`` are then taken out of every unit's observed time.

    ``clock_rate`` comes from the ``resolution`` of the spike times; without it, it is the first
    common sampling rate that fits them.  ``truth`` is there for simulated files.

    Errors, and ``follow_links``, are those of `spikecdl.read`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from spikecdl.io import write_nwb
    >>> path = pathlib.Path(tempfile.mkdtemp(), "two.nwb")
    >>> write_nwb(path, SpikeTrains.from_arrays([[0.1, 0.25], [0.5]], observed=(0.0, 1.0)))
    >>> read_nwb(path)
    SpikeTrains(2 units, 3 spikes, 0 to 1 s)
    """
    with _opened(path, follow_links) as file:
        if "units" not in file or "spike_times" not in file["units"]:
            raise ValueError(f"no units table with spike_times; the file has {_contents(file)}")
        return _spike_trains(file, str(path))


def read_binned_nwb(path: str | os.PathLike[str], *, follow_links: bool = False) -> BinnedSpikes:
    """Read the counts or real-valued signal that `write_nwb` wrote as ``binned_signal``.

    Errors, and ``follow_links``, are those of `spikecdl.read`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from spikecdl.io import write_nwb
    >>> path = pathlib.Path(tempfile.mkdtemp(), "signal.nwb")
    >>> write_nwb(path, BinnedSpikes.from_array([[0.5, -1.25, 0.0], [1.5, 0.5, 0.5]], 0.01))
    >>> read_binned_nwb(path)
    BinnedSpikes(2 trials, 1 unit, 3 bins of 0.01 s, real-valued)
    """
    with _opened(path, follow_links) as file:
        module = file.get(_MODULE, {})
        if not _has_series(module, "binned_signal"):
            raise ValueError(f"no binned_signal; the file has {_contents(file)}")
        header = _notes(file)["binned"]
        shape = header.pop("shape")
        counts = _read_series(module, "binned_signal", shape)
        n_pooled = np.ones(counts.shape, dtype=np.int64)
        if _has_series(module, "binned_n_pooled"):
            n_pooled = _read_series(module, "binned_n_pooled", shape)
        header["trial_starts"] = np.array(header["trial_starts"], dtype=float)
        return BinnedSpikes(
            **header,
            counts=counts,
            mask=n_pooled > 0,
            n_pooled=n_pooled,
            source=str(path),
            truth=_truth(file),
        )


def read_nwb_times(
    path: str | os.PathLike[str], name: str, *, follow_links: bool = False
) -> np.ndarray:
    """Read the time stamps of a time series, or a column of times, of an NWB file.

    ``name`` is its path in the file: that of a time series that has ``timestamps``, such as
    "stimulus/presentation/tones", or of a column, such as "processing/behavior/licks/start_time".
    Returns times (event,) in seconds from the session's reference time, as `BinnedSpikes.near`
    takes them; missing ones (nan) are left out.

    Raises ValueError if there is no such series or column; other errors, and ``follow_links``, are
    those of `spikecdl.read`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from spikecdl.io import write_nwb
    >>> path = pathlib.Path(tempfile.mkdtemp(), "cues.nwb")
    >>> cues = {"start_time": [0.25, 0.75], "stop_time": [0.3, 0.8]}
    >>> spikes = SpikeTrains.from_arrays([[0.1]], observed=(0.0, 1.0), intervals={"cues": cues})
    >>> write_nwb(path, spikes)
    >>> read_nwb_times(path, "intervals/cues/start_time")
    array([0.25, 0.75])
    """
    name = name.strip("/")
    with hdf5.opened(path, "NWB", (name, f"{name}/timestamps"), (), follow_links) as file:
        found = file.get(f"{name}/timestamps", file.get(name))
        if np.ndim(found) != 1 or getattr(found, "dtype", np.dtype("O")).kind not in "iuf":
            raise ValueError(
                f"`name` (={name!r}) must be the path of a time series with timestamps, or of a "
                f"column of times; the file has {_contents(file)}"
            )
        times = np.asarray(found, dtype=float)
    return times[~np.isnan(times)]


def read_nwb_signal(
    path: str | os.PathLike[str], name: str, *, follow_links: bool = False
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read a time series of an NWB file, as `BinnedSpikes.with_signals` takes it.

    ``name`` is its path in the file, or as much of the end of it as no other series has: "speed"
    for "processing/behavior/speed".  Returns times in seconds from the session's reference time and
    values, by the last part of the path; those of each column of a series of several, as in
    "position 0" and "position 1".

    Raises ValueError if there is no such series, several, or its values are not numbers; other
    errors, and ``follow_links``, are those of `spikecdl.read`.
    """
    paths = [one["path"] for one in series_of(Path(path), follow_links)]
    found = [one for one in paths if f"/{one}".endswith("/" + name.strip("/"))]
    if len(found) != 1:
        known = ", ".join(found or paths) or "none"
        raise ValueError(f"`name` (={name!r}) must be that of one time series: {known}")
    last, parts = found[0].rpartition("/")[2], ("data", "timestamps")
    with hdf5.opened(path, "NWB", (found[0],), parts, follow_links) as file:
        series = file[found[0]]
        values = np.asarray(series["data"])
        if values.dtype.kind not in "biuf" or values.ndim > 2:
            raise ValueError(f"`name` (={name!r}) must be a series of numbers, not {values.dtype}")
        if "timestamps" in series:
            times = np.asarray(series["timestamps"], dtype=float)
        else:
            start = series["starting_time"]
            rate = float(hdf5.attribute(start, "rate", np.nan))
            times = float(hdf5.values(start)) + np.arange(len(values)) / rate
        values = values.astype(float) * float(hdf5.attribute(series["data"], "conversion", 1.0))
    if values.ndim == 1:
        return {last: (times, values)}
    return {f"{last} {k}": (times, column) for k, column in enumerate(values.T)}


def nwb_content(path: Path) -> str | None:
    """Return "spikes" or "binned" for an NWB(-style) file, by what is in it; else None.

    Any other file that is called .nwb counts as "spikes", so that `read_nwb` says what is wrong.
    """
    if "units" in hdf5.names(path):
        return "spikes"
    if {"binned_signal", "binned_signal_0"} & hdf5.names(path, _MODULE):
        return "binned"
    return "spikes" if path.suffix == ".nwb" else None


def _opened(path: str | os.PathLike[str], follow_links: bool) -> AbstractContextManager[h5py.File]:
    return hdf5.opened(path, "NWB", hdf5.RECORDING, hdf5.WAVEFORMS, follow_links)


def _contents(file: h5py.File) -> str:
    """Name the tables of a file, for errors."""
    inside = [f"intervals/{name}" for name in file.get("intervals", ())]
    inside += [f"{_MODULE}/{name}" for name in file.get(_MODULE, ())]
    return ", ".join([*sorted(set(file) - {"specifications"}), *inside]) or "nothing in it"


def _spike_trains(file: h5py.File, source: str) -> SpikeTrains:
    units = file["units"]
    index = units.get("spike_times_index")
    table = _read_table(units, leave_out=_NOT_COLUMNS, n_rows=1 if index is None else len(index))
    times = [np.sort(t) for t in _per_unit(units, "spike_times", len(table))]
    table = _named_rows(table, "unit_id")
    tables = {
        name: _read_table(group)
        for name, group in file.get("intervals", {}).items()
        if hasattr(group, "keys") and "start_time" in group
    }
    trials = tables.pop("trials", None)
    trials = _named_rows(trials, "trial_id") if trials is not None and len(trials) else None
    observed = None
    if "obs_intervals" in units:
        rows = [union(rows) for rows in _per_unit(units, "obs_intervals", len(table))]
        # `write_nwb` marks a unit that was never observed with an interval of no length
        observed = [r[r[:, 0] != r[:, 1]] if len(r) else None for r in rows]
        observed = None if all(some is None for some in observed) else observed
    spikes = SpikeTrains.from_arrays(
        times,
        unit_ids=table.index.tolist(),
        observed=observed,
        trials=trials,
        intervals=tables,
        units=table if len(table.columns) else None,
        clock_rate=_clock_rate(units["spike_times"], times),
        truth=_truth(file),
        source=source,
        duplicates="keep",
    )
    invalid = tables.get("invalid_times")
    if invalid is None or not len(invalid):
        return spikes
    gaps = invalid[["start_time", "stop_time"]].to_numpy(dtype=float)
    gaps = union(gaps[~np.isnan(gaps).any(axis=1)])
    valid = np.r_[-np.inf, gaps.ravel(), np.inf].reshape(-1, 2)
    return replace(spikes, observed=tuple(intersection(o, valid) for o in spikes.observed))


def _per_unit(units: h5py.Group, name: str, n_units: int) -> list[np.ndarray]:
    """Read a column of times, one array per unit."""
    if units[name].dtype.kind not in "iuf":
        raise ValueError(f"units/{name} must hold times in seconds, not {units[name].dtype}")
    values = np.asarray(units[name], dtype=float)
    if f"{name}_index" in units:
        rows = _split(values, np.asarray(units[f"{name}_index"]), f"{name}_index")
    elif n_units == 1:
        rows = [values]
    else:
        raise ValueError(f"units/{name} has no index to divide it among {n_units} units")
    if len(rows) != n_units:
        raise ValueError(f"units/{name} has {len(rows)} rows for {n_units} units")
    return rows


def _named_rows(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Take the ids of rows from a column of distinct strings, if `write_nwb` wrote one."""
    names = table[column] if column in table else None
    if names is None or not names.is_unique or not all(isinstance(name, str) for name in names):
        return table
    return table.set_index(column).rename_axis(None)


def _clock_rate(spike_times: h5py.Dataset, times: list[np.ndarray]) -> float | None:
    resolution = float(hdf5.attribute(spike_times, "resolution", np.nan))
    if not resolution > 0:
        return infer_clock_rate(times)
    return float(Fraction(1 / resolution).limit_denominator(10**4))


def _truth(file: h5py.File) -> Truth | None:
    """Read what `write_nwb` wrote of a simulation."""
    import pandas as pd

    module = file.get(_MODULE, {})
    if "true_templates" not in module:
        return None
    header = _notes(file)["truth"]
    count, shape = header.pop("n_templates"), header.pop("shape")
    waveforms = [np.asarray(module[f"true_templates/template_{i}"]) for i in range(count)]
    baseline = _read_table(module["true_baseline"])["rate"].to_numpy()
    none = pd.DataFrame(columns=list(EVENT_COLUMNS))
    return Truth(
        **header,
        templates=np.stack([w.reshape(len(w), -1).T for w in waveforms]),
        events=_read_table(module["true_events"]) if "true_events" in module else none,
        baseline=baseline.reshape(shape),
    )


def _notes(file: h5py.File) -> dict[str, Any]:
    """Read the JSON that `write_nwb` keeps in the file's notes."""
    try:
        return json.loads(hdf5.values(file["general/notes"]))
    except (KeyError, RecursionError, TypeError, ValueError):
        raise ValueError("general/notes hold no JSON, as spikecdl writes it") from None


def session_of(source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what an NWB file says of its session and its subject."""
    import pandas as pd

    def texts(group: Any, names: tuple[str, ...]) -> dict[str, Any]:
        found = ((name, hdf5.values(group[name])) for name in names if name in group)
        return {name: value for name, value in found if value}

    with hdf5.opened(source, "NWB", ("session_start_time", "general")) as file:
        general = file.get("general", {})
        session = texts(general, _SESSION)
        if "session_start_time" in file:
            start = pd.Timestamp(str(hdf5.values(file["session_start_time"]))).to_pydatetime()
            session["session_start_time"] = start if start.tzinfo else start.astimezone()
        return session, texts(general.get("subject", {}), _SUBJECT)


def series_of(path: Path, follow_links: bool = False) -> list[dict[str, Any]]:
    """Return path, type, shape and rate of the time series of a file, none if it is not NWB.

    The rate (Hz) is None if they have time stamps; these, and values, are not read.
    """
    import h5py

    found: list[dict[str, Any]] = []

    def add(path: str, item: Any) -> None:
        inside = isinstance(item, h5py.Group)
        kind = hdf5.attribute(item, "neurodata_type", None) if inside else None
        if isinstance(kind, str) and isinstance(data := item.get("data"), h5py.Dataset):
            start = item.get("starting_time")
            rate = None if start is None else hdf5.attribute(start, "rate", None)
            rate = float(rate) if isinstance(rate, int | float | np.number) else None
            found.append({"path": path, "type": kind, "shape": data.shape, "rate": rate})

    if not path.is_file() or nwb_content(path) is None:
        return found
    with hdf5.opened(path, "NWB", _SERIES, ("data", "timestamps"), follow_links) as file:
        for part in (name for name in _SERIES if name in file):
            file[part].visititems(lambda name, item, part=part: add(f"{part}/{name}", item))
    return found


def _read_table(
    group: h5py.Group, leave_out: Collection[str] = (), n_rows: int = 0
) -> pd.DataFrame:
    """Read a table with its ids as index and its columns in the order of ``colnames``.

    Columns of references and of compound types are left out.  More than 100 columns are in the
    order of their names.  ``n_rows`` is the number of rows if there is neither a column nor ``id``.
    """
    import pandas as pd

    stored = [name for name, column in group.items() if hasattr(column, "shape")]
    indices = [f"{name}_index" for name in stored]
    order = [
        n.decode(errors="replace") if isinstance(n, bytes) else str(n)
        for n in hdf5.attribute(group, "colnames", ())
    ]
    columns: dict[str, Any] = {}
    for name in dict.fromkeys([*order, *stored]):
        is_column = name in stored and name not in ("id", *leave_out, *indices)
        if is_column and _is_plain(group[name]):
            columns[name] = _read_column(group, name)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of {group.name} differ in length: {lengths}")
    ids = _ids(group)
    size = next(iter(lengths.values()), n_rows if ids is None else len(ids))
    if ids is not None and (len(ids) != size or len(set(ids)) != size):
        warnings.warn(
            f"the {size} rows of {group.name} have {len(set(ids))} different ids, so they are "
            f"numbered from 0 to {size - 1}",
            RecordingWarning,
            stacklevel=2,
        )
        ids = None
    return pd.DataFrame(columns, index=pd.Index(np.arange(size) if ids is None else ids))


def _ids(group: h5py.Group) -> list[Any] | None:
    """Return the ids of rows, whole numbers or text, if there are any."""
    if "id" not in group:
        return None
    ids = hdf5.values(group["id"])
    if isinstance(ids, np.ndarray):
        if ids.dtype.kind not in "iuf" or ids.ndim != 1 or (ids != np.floor(ids)).any():
            raise ValueError(f"{group.name}/id must hold whole numbers or text, not {ids.dtype}")
        ids = ids.astype(np.int64).tolist()
    return ids


def _read_column(group: h5py.Group, name: str) -> Any:
    """Read one column: an array or list of plain values, or a list of one tuple or array per row.

    Ragged columns whose rows all have exactly one value are given as plain values.
    """
    values = hdf5.values(group[name])
    index = f"{name}_index"
    if index not in group:
        return values if np.ndim(values) == 1 else list(values)
    while index in group:
        values = [tuple(part) for part in _split(values, np.asarray(group[index]), index)]
        index += "_index"
    return [row[0] for row in values] if all(len(row) == 1 for row in values) else values


def _split(values: Any, index: np.ndarray, name: str) -> list[Any]:
    """Cut values into rows; ``index`` holds the end of each row."""
    if index.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold whole numbers, not {index.dtype}")
    ends = index.astype(np.int64)
    if np.any(np.diff(ends, prepend=0) < 0) or (ends[-1] if ends.size else 0) != len(values):
        raise ValueError(f"{name} does not rise to the {len(values)} values it cuts into rows")
    starts = np.r_[0, ends[:-1]]
    return [values[start:end] for start, end in zip(starts, ends, strict=True)]


def _is_plain(dataset: h5py.Dataset) -> bool:
    import h5py

    is_reference = h5py.check_ref_dtype(dataset.dtype) is not None
    return dataset.ndim > 0 and not is_reference and dataset.dtype.kind != "V"


def _has_series(module: Mapping[str, Any], name: str) -> bool:
    """Return whether `write_nwb` wrote this series, whole or split."""
    return name in module or f"{name}_0" in module


def _read_series(module: h5py.Group, name: str, shape: Sequence[int]) -> np.ndarray:
    """Read what `write_nwb` wrote of an array of this shape (trial, column, bin)."""
    names = [name] if name in module else []
    while f"{name}_{len(names)}" in module:
        names.append(f"{name}_{len(names)}")
    trials, columns, bins = shape
    rows = np.concatenate([np.asarray(module[part]["data"]) for part in names], axis=1)
    return rows.reshape(trials, bins, columns).transpose(0, 2, 1)


def import_pynwb() -> Any:
    """Import pynwb, which needs a folder for its cache: a temporary one where there is no home."""
    try:
        return importlib.import_module("pynwb")
    except OSError:
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="spikecdl-")
        return importlib.import_module("pynwb")
