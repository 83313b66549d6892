"""Write and read recordings and counts as NumPy archives without pickles."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from spikecdl import files
from spikecdl.data import BinnedSpikes, SpikeTrains, Truth
from spikecdl.validation import listed, one_of

if TYPE_CHECKING:
    import pandas as pd

_HEADER = "spikecdl"  # JSON: what was written, ids, settings, and the columns of each table
_BINNED = ("counts", "mask", "n_pooled", "trial_starts")


def write_npz(path: str | os.PathLike[str], data: SpikeTrains | BinnedSpikes) -> None:
    """Write a recording or binned data to one compressed .npz file; `read_npz` gives it back.

    Nothing is lost: numbers are exact, and columns of other things (lists, None) are kept as JSON.

    An existing file is replaced in one step.  Errors are those of `write_nwb`, and TypeError for a
    column that JSON cannot hold.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "counts.npz")
    >>> write_npz(path, BinnedSpikes.from_array([[0, 1, 1]], 0.005))
    >>> read_npz(path)
    BinnedSpikes(1 trial, 1 unit, 3 bins of 0.005 s, 2 spikes)
    """
    header: dict[str, Any]
    arrays: dict[str, Any] = {}
    tables: dict[str, pd.DataFrame] = {}
    if isinstance(data, SpikeTrains):
        header = {"unit_ids": data.unit_ids, "clock_rate": data.clock_rate}
        for name in ("times", "observed"):
            rows = getattr(data, name)
            arrays[name] = np.concatenate(rows)
            arrays[f"{name}_ends"] = np.cumsum([len(row) for row in rows])
        tables = {f"intervals/{name}": frame for name, frame in data.intervals.items()}
        known = {"trials": data.trials, "units": data.units}
        tables |= {name: frame for name, frame in known.items() if frame is not None}
    elif isinstance(data, BinnedSpikes):
        header = data.header()
        arrays = {name: getattr(data, name) for name in _BINNED}
    else:
        raise TypeError(f"`data` must be SpikeTrains or BinnedSpikes, not {type(data).__name__}")
    header["kind"] = type(data).__name__
    if data.truth is not None:
        header["truth"] = data.truth.header()
        arrays |= {f"truth/{name}": array for name, array in data.truth.arrays().items()}
    header["tables"] = {name: _pack(name, frame, arrays) for name, frame in tables.items()}
    arrays[_HEADER] = np.array(json.dumps(header))
    with (
        files.replacing(path, data.source, sealed=True) as temporary,
        temporary.open("wb+") as file,
    ):
        np.savez_compressed(file, **arrays)
        file.seek(-2, os.SEEK_END)
        file.write(files.SEAL_LENGTH.to_bytes(2, "little"))  # the checksum is the archive's comment


def read_npz(path: str | os.PathLike[str]) -> SpikeTrains | BinnedSpikes:
    """Read what `write_npz` wrote, or an archive with an array ``counts``.

    ``counts`` is (trial, unit, bin), or (trial, bin) for one unit.  The archive may also hold
    ``bin_size`` (s; default 1), ``mask`` and ``t_start`` (s), as in `BinnedSpikes.from_array`.
    Objects that need unpickling are refused; errors are those of `spikecdl.read`.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> path = pathlib.Path(tempfile.mkdtemp(), "plain.npz")
    >>> np.savez(path, counts=np.array([[0, 1], [1, 1]]), bin_size=0.005)
    >>> read_npz(path)
    BinnedSpikes(2 trials, 1 unit, 2 bins of 0.005 s, 3 spikes)
    """
    path = files.existing(path)
    if not files.starts_with(path, b"PK"):
        raise ValueError(f"{path}: not an npz archive, or cut short")
    with files.reading(path, "npz"), path.open("rb") as file:
        files.has_seal(path)
        with zipfile.ZipFile(path) as members:
            _check_sizes(members, path.stat().st_size)
        with np.load(file, allow_pickle=False) as packed:
            if not {_HEADER, "counts"} & set(packed.files):
                names = listed(packed.files)
                raise ValueError(f"no array `counts`, only {names}; see SpikeTrains.from_arrays")
            archive = {name: _native(name, packed[name]) for name in packed.files}
            if _HEADER in archive:
                return _read_own(json.loads(str(archive[_HEADER])), archive, str(path))
            return BinnedSpikes.from_array(
                archive["counts"],
                float(archive.get("bin_size", 1.0)),
                mask=archive.get("mask"),
                t_start=float(archive.get("t_start", 0.0)),
                source=str(path),
            )


def _native(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array in native byte order; ValueError if it holds no real numbers, dates or text.

    In a recording that `write_npz` wrote, only columns of its tables may be dates or text.
    """
    is_column = name == _HEADER or "/" in name
    if array.dtype.kind not in ("biufMU" if is_column else "biuf"):
        raise ValueError(f"array {name!r} must hold real numbers, not {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Raise if the members of an archive, or the arrays in them, declare too much."""
    read_header = {1: read_array_header_1_0, 2: read_array_header_2_0}
    declared = 0
    for member in archive.infolist():
        n_bytes = member.file_size
        if member.filename.endswith(".npy"):
            with archive.open(member) as file:
                shape, _, dtype = read_header[read_magic(file)[0]](file)
            n_bytes = max(n_bytes, math.prod(shape) * dtype.itemsize)
        declared += n_bytes
        files.check_memory(declared, size, member.filename)


def _read_own(
    header: dict[str, Any], archive: Mapping[str, np.ndarray], source: str
) -> SpikeTrains | BinnedSpikes:
    kind = one_of("kind", header.pop("kind"), ("BinnedSpikes", "SpikeTrains"))
    truth = header.pop("truth", None)
    tables = {name: _unpack(name, kept, archive) for name, kept in header.pop("tables").items()}
    if truth is not None:
        parts = [name for name in archive if name.startswith("truth/")]
        truth = Truth.from_parts(truth, {n.removeprefix("truth/"): archive[n] for n in parts})
    if kind == "BinnedSpikes":
        arrays: dict[str, Any] = {name: archive[name] for name in _BINNED}
        return BinnedSpikes(**header, **arrays, truth=truth, source=source)
    times, observed = (
        tuple(np.split(archive[name], archive[f"{name}_ends"][:-1]))
        for name in ("times", "observed")
    )
    return SpikeTrains(
        times=times,
        observed=observed,
        trials=tables.pop("trials", None),
        units=tables.pop("units", None),
        intervals={name.removeprefix("intervals/"): frame for name, frame in tables.items()},
        truth=truth,
        source=source,
        **header,
    )


def _pack(name: str, frame: pd.DataFrame, arrays: dict[str, Any]) -> dict[str, Any]:
    """Put a table's columns among the arrays, as numbers or as JSON; return its ids and names."""
    for i, column in enumerate(frame.columns):
        values = frame[column].to_numpy()
        if values.dtype.kind not in "biufMm":
            values = np.array([json.dumps(value, default=_as_list) for value in values], dtype=str)
        arrays[f"{name}/{i}"] = values
    return {"rows": frame.index.tolist(), "columns": list(map(str, frame.columns))}


def _unpack(name: str, kept: Mapping[str, Any], archive: Mapping[str, np.ndarray]) -> pd.DataFrame:
    import pandas as pd

    rows = pd.Index(kept["rows"])
    columns: dict[str, Any] = {}
    for i, column in enumerate(kept["columns"]):
        values = archive[f"{name}/{i}"]
        if values.dtype.kind == "U":
            values = pd.Series([_tupled(json.loads(v)) for v in values], index=rows, dtype=object)
        columns[column] = values
    return pd.DataFrame(columns, index=rows)


def _as_list(value: Any) -> Any:
    """Turn NumPy's arrays and scalars into lists and numbers, which JSON can hold."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a column holds {type(value).__name__}, which npz cannot store")


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
