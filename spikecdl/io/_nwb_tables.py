"""NWB tables made of pandas frames, column by column (row by row takes minutes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl._recording import plain

if TYPE_CHECKING:
    import pandas as pd
    from hdmf.common import DynamicTable, VectorData
    from pynwb import NWBFile

_DESCRIPTIONS = {
    "start_time": "start, in seconds",
    "stop_time": "end, in seconds",
    "tags": "tags",
    "unit_id": "name of the unit",
    "trial_id": "name of the trial",
}


def table(name: str, description: str, columns: Mapping[str, tuple[str, Any]]) -> DynamicTable:
    """Return a table of columns given as name: (description, values)."""
    from hdmf.common import DynamicTable

    made = [column(key, about, smallest(values)) for key, (about, values) in columns.items()]
    return DynamicTable(name=name, description=description, columns=made, colnames=list(columns))


def column(name: str, description: str, values: Any) -> VectorData:
    """Return one column of plain values, or of rows of equal shape."""
    from hdmf.common import VectorData

    return VectorData(name=name, description=description, data=values)


def ragged(name: str, description: str, rows: Sequence[Any]) -> list[Any]:
    """Return a column with rows of different length, and its index; more if rows have rows."""
    from hdmf.common import VectorIndex

    if all(isinstance(row, np.ndarray) for row in rows):
        flat: Any = np.concatenate(rows)
    else:
        flat = [value for row in rows for value in row]
    nested = isinstance(flat, list) and any(isinstance(value, tuple) for value in flat)
    made = ragged(name, description, flat) if nested else [column(name, description, flat)]
    ends = smallest(np.cumsum([len(row) for row in rows]))
    return [*made, VectorIndex(name=f"{made[-1].name}_index", data=ends, target=made[-1])]


def frame_columns(frame: pd.DataFrame, kind: type[DynamicTable]) -> list[Any]:
    """Return the columns of a frame as columns for a kind of table, indices among them.

    Numbers, booleans and text stay what they are; rows of several values become a ragged column;
    anything else becomes text, empty where nothing is known.  Names that this kind of table keeps
    for itself get an underscore at the end; those that HDF5 does not allow get one inside.
    """
    kept = {about["name"] for about in kind.__columns__} - {"tags"} | {"unit_id", "trial_id"}
    made = []
    for original in frame.columns:
        name = allowed(str(original))
        name += "_" * (name in kept or hasattr(kind, name))
        made += _frame_column(name, str(original), frame[original])
    return made


def allowed(name: str) -> str:
    """Return a name without the characters that separate names in HDF5."""
    return name.replace("/", "_").replace(":", "_")


def colnames(columns: Sequence[Any]) -> list[str]:
    """Return the names of columns, without those of their indices."""
    from hdmf.common import VectorIndex

    return [made.name for made in columns if not isinstance(made, VectorIndex)]


def row_ids(ids: Sequence[int | str], name: str) -> tuple[list[int], list[Any]]:
    """Return integer ids for a table's rows, and a column of names if ids are not integers."""
    if all(isinstance(row, int) for row in ids):
        return [int(row) for row in ids], []
    return list(range(len(ids))), [column(name, _DESCRIPTIONS[name], [str(row) for row in ids])]


def add_intervals(file: NWBFile, name: str, frame: pd.DataFrame) -> None:
    """Add a frame to a file as the interval table ``name``; rows without an end get their start."""
    from pynwb.epoch import TimeIntervals

    starts = frame["start_time"].to_numpy(dtype=float)
    stops = frame["stop_time"].to_numpy(dtype=float) if "stop_time" in frame else starts
    ids, names = row_ids([plain(row) for row in frame.index], "trial_id")
    columns = [
        column("start_time", _DESCRIPTIONS["start_time"], starts),
        column("stop_time", _DESCRIPTIONS["stop_time"], stops),
        *names,
        *frame_columns(
            frame.drop(columns=["start_time", "stop_time"], errors="ignore"), TimeIntervals
        ),
    ]
    made = TimeIntervals(
        name=allowed(name),
        description=f"{name} of the recording",
        id=ids,
        columns=columns,
        colnames=colnames(columns),
    )
    if name in ("trials", "epochs", "invalid_times"):
        setattr(file, name, made)
    else:
        file.add_time_intervals(made)


def smallest(values: Any) -> Any:
    """Return integers in the smallest type that holds them."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.size == 0:
        return values
    low, high = array.min(), array.max()
    return array.astype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high)))


def _frame_column(name: str, original: str, series: pd.Series) -> list[Any]:
    about = _DESCRIPTIONS.get(original, original)
    values = series.to_numpy()
    if name != "tags" and values.dtype.kind in "biuf":
        return [column(name, about, values)]
    if all(isinstance(row, np.ndarray) for row in values) and len({r.shape for r in values}) == 1:
        return [column(name, about, np.stack(list(values)))]
    rows = [tuple(row) if isinstance(row, list | tuple | np.ndarray) else row for row in values]
    if name == "tags" or any(isinstance(row, tuple) for row in rows):
        return ragged(name, about, [row if isinstance(row, tuple) else (row,) for row in rows])
    absent = series.isna().to_numpy()
    return [column(name, about, ["" if n else str(r) for r, n in zip(rows, absent, strict=True)])]
