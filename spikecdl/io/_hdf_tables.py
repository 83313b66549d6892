"""NWB's tables in HDF5: groups of columns, ragged ones with an index beside them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import h5py
    import pandas as pd


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
