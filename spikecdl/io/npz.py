"""Write and read recordings and counts as NumPy archives without pickles."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes, SpikeTrains, Truth
from spikecdl.files import existing, reading, replacing, starts_with

if TYPE_CHECKING:
    import pandas as pd

_HEADER = "spikecdl"  # JSON: what was written, ids, settings, and the columns of each table
_SIGNATURE = b"PK"


def write_npz(path: str | os.PathLike[str], data: SpikeTrains | BinnedSpikes) -> None:
    """Write a recording or binned data to one compressed .npz file; `read_npz` gives it back.

    Everything is kept: numbers exactly, text, and columns of other things (lists, None) as JSON.
    The file takes the place of ``path`` in one step.

    Parameters
    ----------
    path : path_like
        Where to write; replaced if it exists, unless it is the file the data come from.
    data : SpikeTrains or BinnedSpikes
        What to write.

    Raises
    ------
    ValueError
        If ``path`` is the file that the data were read from.
    TypeError
        If ``data`` is neither `SpikeTrains` nor `BinnedSpikes`, or a column holds things that
        JSON cannot.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "counts.npz")
    >>> write_npz(path, BinnedSpikes.from_array([[0, 1, 1]], 0.005))
    >>> read_npz(path)
    BinnedSpikes(1 trial, 1 unit, 3 bins of 0.005 s, 2 spikes)
    """
    if isinstance(data, SpikeTrains):
        header, arrays = _pack_recording(data)
    elif isinstance(data, BinnedSpikes):
        header, arrays = _pack_binned(data)
    else:
        raise TypeError(f"`data` must be SpikeTrains or BinnedSpikes, not {type(data).__name__}")
    tables: dict[str, Any] = header.setdefault("tables", {})
    if data.truth is not None:
        truth = data.truth
        header["truth"] = {
            "bin_size": truth.bin_size,
            "family": truth.family,
            "layout": truth.layout,
            "settings": dict(truth.settings),
        }
        arrays |= {"truth/templates": truth.templates, "truth/baseline": truth.baseline}
        tables["truth/events"] = truth.events
    header["tables"] = {name: _pack_table(name, frame, arrays) for name, frame in tables.items()}
    arrays[_HEADER] = np.array(json.dumps(header))
    with replacing(path, data.source, ".npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_npz(path: str | os.PathLike[str]) -> SpikeTrains | BinnedSpikes:
    """Read what `write_npz` wrote, or an archive with an array ``counts``.

    ``counts`` is (trial, unit, bin), or (trial, bin) for one unit; beside it may be ``bin_size``
    (s; else 1), ``mask`` and ``t_start`` (s), as in `BinnedSpikes.from_array`.

    Parameters
    ----------
    path : path_like
        The file; objects that need unpickling are refused.

    Returns
    -------
    SpikeTrains or BinnedSpikes
        What was written.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or holds neither; the message names the file and its arrays.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> path = pathlib.Path(tempfile.mkdtemp(), "plain.npz")
    >>> np.savez(path, counts=np.array([[0, 1], [1, 1]]), bin_size=0.005)
    >>> read_npz(path)
    BinnedSpikes(2 trials, 1 unit, 2 bins of 0.005 s, 3 spikes)
    """
    place = existing(path)
    if not starts_with(place, _SIGNATURE):
        raise ValueError(f"{path}: not an npz archive, or cut short")
    with reading(place, "npz"), place.open("rb") as file:
        with np.load(file, allow_pickle=False) as archive:
            if _HEADER not in archive:
                return _plain_counts(archive, str(path))
            return _unpack(json.loads(str(archive[_HEADER])), archive, str(path))


def _unpack(
    header: dict[str, Any], archive: Mapping[str, np.ndarray], source: str
) -> SpikeTrains | BinnedSpikes:
    tables = {name: _unpack_table(name, about, archive) for name, about in header["tables"].items()}
    truth = None
    if "truth" in header:
        truth = Truth(
            templates=archive["truth/templates"],
            baseline=archive["truth/baseline"],
            events=tables.pop("truth/events"),
            **header["truth"],
        )
    unpack = _unpack_recording if header["kind"] == "SpikeTrains" else _unpack_binned
    return unpack(header, archive, tables, truth, source)


def _pack_recording(spikes: SpikeTrains) -> tuple[dict[str, Any], dict[str, Any]]:
    tables = {f"intervals/{name}": frame for name, frame in spikes.intervals.items()}
    tables |= {} if spikes.trials is None else {"trials": spikes.trials}
    tables |= {} if spikes.units is None else {"units": spikes.units}
    header = {
        "kind": "SpikeTrains",
        "unit_ids": spikes.unit_ids,
        "clock_rate": spikes.clock_rate,
        "tables": tables,
    }
    arrays = {}
    for name, rows in (("times", spikes.times), ("observed", spikes.observed)):
        arrays[name] = np.concatenate(rows)
        arrays[f"{name}_ends"] = np.cumsum([len(row) for row in rows])
    return header, arrays


def _unpack_recording(
    header: dict[str, Any],
    archive: Mapping[str, np.ndarray],
    tables: dict[str, pd.DataFrame],
    truth: Truth | None,
    source: str,
) -> SpikeTrains:
    rows = {
        name: np.split(archive[name], archive[f"{name}_ends"][:-1])
        for name in ("times", "observed")
    }
    trials, units = tables.pop("trials", None), tables.pop("units", None)
    return SpikeTrains(
        times=tuple(rows["times"]),
        unit_ids=tuple(header["unit_ids"]),
        observed=tuple(rows["observed"]),
        trials=trials,
        intervals={name.removeprefix("intervals/"): frame for name, frame in tables.items()},
        units=units,
        clock_rate=header["clock_rate"],
        truth=truth,
        source=source,
    )


def _pack_binned(counts: BinnedSpikes) -> tuple[dict[str, Any], dict[str, Any]]:
    small = ("bin_size", "t_start", "unit_ids", "trial_ids", "sub_bins")
    header = {"kind": "BinnedSpikes", **{name: getattr(counts, name) for name in small}}
    large = ("counts", "mask", "n_pooled", "trial_starts")
    return header, {name: getattr(counts, name) for name in large}


def _unpack_binned(
    header: dict[str, Any],
    archive: Mapping[str, np.ndarray],
    tables: dict[str, pd.DataFrame],
    truth: Truth | None,
    source: str,
) -> BinnedSpikes:
    return BinnedSpikes(
        counts=archive["counts"],
        mask=archive["mask"],
        bin_size=header["bin_size"],
        t_start=header["t_start"],
        unit_ids=tuple(header["unit_ids"]),
        trial_ids=tuple(header["trial_ids"]),
        n_pooled=archive["n_pooled"],
        sub_bins=header["sub_bins"],
        trial_starts=archive["trial_starts"],
        source=source,
        truth=truth,
    )


def _plain_counts(archive: Any, source: str) -> BinnedSpikes:
    if "counts" not in archive:
        names = ", ".join(map(repr, archive.files[:5])) + ", ..." * (len(archive.files) > 5)
        raise ValueError(f"no array `counts`, only {names}; see SpikeTrains.from_arrays")
    return BinnedSpikes.from_array(
        archive["counts"],
        float(archive["bin_size"]) if "bin_size" in archive else 1.0,
        mask=archive["mask"] if "mask" in archive else None,
        t_start=float(archive["t_start"]) if "t_start" in archive else 0.0,
        source=source,
    )


def _pack_table(name: str, frame: pd.DataFrame, arrays: dict[str, Any]) -> dict[str, Any]:
    """Put a table's columns among the arrays; return its row ids and the kind of each column."""
    columns = []
    for i, column in enumerate(frame.columns):
        values = frame[column].to_numpy()
        kind = "numbers"
        if values.dtype.kind not in "biufMm":
            kind = "text" if all(isinstance(value, str) for value in values) else "json"
            texts = values if kind == "text" else [json.dumps(v, default=_listed) for v in values]
            values = np.array(texts, dtype=str)
        arrays[f"{name}/{i}"] = values
        columns.append([str(column), kind])
    return {"rows": frame.index.tolist(), "columns": columns}


def _unpack_table(
    name: str, about: Mapping[str, Any], archive: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    import pandas as pd

    rows = pd.Index(about["rows"])
    columns: dict[str, Any] = {}
    for i, (column, kind) in enumerate(about["columns"]):
        values = archive[f"{name}/{i}"]
        if kind == "json":
            values = pd.Series([_tupled(json.loads(v)) for v in values], index=rows, dtype=object)
        columns[column] = values
    return pd.DataFrame(columns, index=rows)


def _listed(value: Any) -> Any:
    """Turn NumPy's arrays and scalars into what JSON knows."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a column holds {type(value).__name__}, which npz cannot store")


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
