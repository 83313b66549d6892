"""NWB's tables in HDF5: groups of columns, ragged ones with an index beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.validation import plain

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from hdmf.common import DynamicTable, VectorData
    from pynwb import NWBFile


def read_table(group: h5py.Group, leave_out: Collection[str] = (), n_rows: int = 0) -> pd.DataFrame:
    """Read a table; its index holds the rows' ids, its order is that of ``colnames``.

    Columns of references and of compound types are left out.  ``n_rows`` is taken where neither
    a column nor ``id`` says how many rows there are.

    Raises
    ------
    ValueError
        If columns differ in length.
    """
    import pandas as pd

    stored = [name for name, column in group.items() if hasattr(column, "shape")]
    order = [text(name) for name in group.attrs.get("colnames", ())]
    names = [name for name in (*order, *stored) if name in stored and name not in leave_out]
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        is_index = name.endswith("_index") and name.removesuffix("_index") in stored
        if name != "id" and not is_index and _is_plain(group[name]):
            columns[name] = read_column(group, name)
    rows = {len(column) for column in columns.values()}
    if len(rows) > 1:
        lengths = {name: len(column) for name, column in columns.items()}
        raise ValueError(f"columns of {group.name} differ in length: {lengths}")
    size = rows.pop() if rows else len(group["id"]) if "id" in group else n_rows
    ids = np.asarray(group["id"]) if "id" in group else np.arange(size)
    distinct = len(ids) == size and len(np.unique(ids)) == size
    return pd.DataFrame(columns, index=pd.Index(ids if distinct else np.arange(size)))


def read_column(group: h5py.Group, name: str) -> Any:
    """Read one column: an array or list of plain values, or a list of one tuple or array per row.

    Ragged columns whose rows all have exactly one value are given as plain values.
    """
    values = read_values(group[name])
    index = f"{name}_index"
    if index not in group:
        return values if np.ndim(values) == 1 else list(values)
    while index in group:
        values = [tuple(part) for part in split(values, np.asarray(group[index]), index)]
        index += "_index"
    return [row[0] for row in values] if all(len(row) == 1 for row in values) else values


def read_values(dataset: h5py.Dataset) -> Any:
    """Read a dataset; text as a list of str."""
    import h5py

    if h5py.check_string_dtype(dataset.dtype) is not None:
        return dataset.asstr(errors="replace")[...].tolist()
    return np.asarray(dataset)


def split(values: Any, index: np.ndarray, name: str) -> list[Any]:
    """Cut values into rows; ``index`` holds the end of each row.

    Raises
    ------
    ValueError
        If the index does not rise to the number of values.
    """
    ends = index.astype(np.int64)
    if np.any(np.diff(ends, prepend=0) < 0) or (ends[-1] if ends.size else 0) != len(values):
        raise ValueError(f"{name} does not rise to the {len(values)} values it cuts into rows")
    starts = np.r_[0, ends[:-1]]
    return [values[start:end] for start, end in zip(starts, ends, strict=True)]


def text(value: Any) -> str:
    """Return an HDF5 string as str."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_plain(dataset: h5py.Dataset) -> bool:
    import h5py

    is_reference = h5py.check_ref_dtype(dataset.dtype) is not None
    return dataset.ndim > 0 and not is_reference and dataset.dtype.kind != "V"


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
