"""How tables and arrays lie in NWB files: written with pynwb, read with h5py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes, hdf5
from spikecdl.validation import plain

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from hdmf.common import DynamicTable, VectorData
    from pynwb import NWBFile

# Numbers of a series that are written at a time (128 MB), and of a chunk in the file (512 kB, about
# what HDF5 caches of one).
_MANY, _CHUNK = 2**24, 2**16
MODULE = "ecephys"  # processing module of all series and tables that are no recording

_DESCRIPTIONS = {
    "start_time": "start, in seconds",
    "stop_time": "end, in seconds",
    "unit_id": "name of the unit",
    "trial_id": "name of the trial",
}

# Reading tables


def read_table(group: h5py.Group, leave_out: Collection[str] = (), n_rows: int = 0) -> pd.DataFrame:
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
    ids = np.asarray(group["id"]) if "id" in group else None
    size = next(iter(lengths.values()), n_rows if ids is None else len(ids))
    if ids is None or len(ids) != size or len(np.unique(ids)) != size:
        ids = np.arange(size)
    return pd.DataFrame(columns, index=pd.Index(ids))


def _read_column(group: h5py.Group, name: str) -> Any:
    """Read one column: an array or list of plain values, or a list of one tuple or array per row.

    Ragged columns whose rows all have exactly one value are given as plain values.
    """
    values = hdf5.values(group[name])
    index = f"{name}_index"
    if index not in group:
        return values if np.ndim(values) == 1 else list(values)
    while index in group:
        values = [tuple(part) for part in split(values, np.asarray(group[index]), index)]
        index += "_index"
    return [row[0] for row in values] if all(len(row) == 1 for row in values) else values


def split(values: Any, index: np.ndarray, name: str) -> list[Any]:
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


# Writing tables


def add_table(
    file: NWBFile, name: str, description: str, columns: Mapping[str, tuple[str, Any]]
) -> None:
    """Add a table to the module, of columns given as name: (description, values)."""
    from hdmf.common import DynamicTable

    made = [_column(key, about, _smallest(values)) for key, (about, values) in columns.items()]
    table = DynamicTable(name=name, description=description, columns=made, colnames=list(columns))
    add_to_module(file, table)


def add_intervals(file: NWBFile, name: str, frame: pd.DataFrame) -> None:
    """Add a frame to a file as the interval table ``name``; rows without an end get their start."""
    from pynwb.epoch import TimeIntervals

    starts = frame["start_time"].to_numpy(dtype=float)
    stops = frame["stop_time"].to_numpy(dtype=float) if "stop_time" in frame else starts
    times = {"start_time": starts, "stop_time": stops}
    columns = [_column(key, _DESCRIPTIONS[key], values) for key, values in times.items()]
    others = frame.drop(columns=list(times), errors="ignore")
    table = TimeIntervals(
        name=_allowed(name),
        description=f"{name} of the recording",
        **rows_and_columns(TimeIntervals, "trial_id", columns, others),
    )
    if name in ("trials", "epochs", "invalid_times"):
        setattr(file, name, table)
    else:
        file.add_time_intervals(table)


def rows_and_columns(
    kind: type[DynamicTable], id_column: str, columns: Sequence[VectorData], frame: pd.DataFrame
) -> dict[str, Any]:
    """Return ``id``, ``columns`` and ``colnames`` of a table.

    The frame's index holds the ids, which are kept in ``id_column`` if they are not all integers.
    Numbers, booleans and text are written as they are, rows of several values as a ragged column,
    and anything else as text, empty where nothing is known.  Names that this kind of table keeps
    for itself get an underscore; characters that HDF5 does not allow become underscores.
    """
    from hdmf.common import VectorIndex

    made, ids = list(columns), list(map(plain, frame.index))
    if not all(isinstance(row, int) for row in ids):
        made.append(_column(id_column, _DESCRIPTIONS[id_column], list(map(str, ids))))
        ids = list(range(len(ids)))
    kept = {about["name"] for about in kind.__columns__} - {"tags"} | {"unit_id", "trial_id"}
    for original, series in frame.items():
        name = _allowed(str(original))
        name += "_" * (name in kept or hasattr(kind, name))
        made += _frame_column(name, str(original), series)
    names = [column.name for column in made if not isinstance(column, VectorIndex)]
    return {"id": ids, "columns": made, "colnames": names}


def ragged(name: str, description: str, rows: Sequence[Any]) -> list[VectorData]:
    """Return a column with rows of different length, and its index; more if rows have rows."""
    from hdmf.common import VectorIndex

    all_arrays = all(isinstance(row, np.ndarray) for row in rows)
    flat: Any = np.concatenate(rows) if all_arrays else [value for row in rows for value in row]
    nested = isinstance(flat, list) and any(isinstance(value, tuple) for value in flat)
    made = ragged(name, description, flat) if nested else [_column(name, description, flat)]
    ends = _smallest(np.cumsum([len(row) for row in rows]))
    return [*made, VectorIndex(name=f"{made[-1].name}_index", data=ends, target=made[-1])]


def _frame_column(name: str, original: str, series: pd.Series) -> list[VectorData]:
    about = _DESCRIPTIONS.get(original, original)
    values = series.to_numpy()
    if name != "tags" and values.dtype.kind in "biuf":
        return [_column(name, about, values)]
    if all(isinstance(row, np.ndarray) for row in values) and len({r.shape for r in values}) == 1:
        return [_column(name, about, np.stack(list(values)))]
    rows = [tuple(row) if isinstance(row, list | tuple | np.ndarray) else row for row in values]
    if name == "tags" or any(isinstance(row, tuple) for row in rows):
        return ragged(name, about, [row if isinstance(row, tuple) else (row,) for row in rows])
    absent = series.isna().to_numpy()
    return [_column(name, about, ["" if n else str(r) for r, n in zip(rows, absent, strict=True)])]


def _column(name: str, description: str, values: Any) -> VectorData:
    from hdmf.common import VectorData

    return VectorData(name=name, description=description, data=values)


def _allowed(name: str) -> str:
    return name.replace("/", "_").replace(":", "_")


def _smallest(values: Any) -> Any:
    """Return integers in the smallest type that holds them, and anything else as it is."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.size == 0:
        return values
    low, high = array.min(), array.max()
    return array.astype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high)))


# Arrays of shape (trial, column, bin)


class TimeAxis:
    """Where the windows of binned data lie, in seconds.

    At their own times in the recording if these are known and do not overlap, else end to end.
    """

    def __init__(self, counts: BinnedSpikes) -> None:
        starts, duration = counts.trial_starts, counts.duration
        slack = 1e-6 * counts.bin_size
        if not np.isfinite(starts).all() or np.any(np.diff(starts) < duration - slack):
            starts = duration * np.arange(len(counts))
        self.starts, self.stops, self.bin_size = starts, starts + duration, counts.bin_size
        self.n_bins = counts.n_bins

    def add(
        self,
        file: NWBFile,
        name: str,
        values: np.ndarray | Callable[[slice], np.ndarray],
        unit: str,
        about: str,
        columns: int | None = None,
    ) -> None:
        """Add (trial, column, bin) values to the module as one series (time, column).

        A series with more columns than rows is split, because NWB takes the longer axis for time.
        Long ones, given by what returns some columns, and their number, are written a few columns
        at a time.
        """
        from hdmf.backends.hdf5 import H5DataIO
        from pynwb import TimeSeries

        if np.all(np.abs(self.starts[1:] - self.stops[:-1]) <= 1e-6 * self.bin_size):
            times = {"starting_time": float(self.starts[0]), "rate": 1.0 / self.bin_size}
        else:
            edges = np.add.outer(self.starts, self.bin_size * np.arange(self.n_bins))
            times = {"timestamps": edges.ravel()}
        n_rows = len(self.starts) * self.n_bins
        columns = columns or values.shape[1]  # type: ignore[union-attr]
        parts = range(0, columns, n_rows)
        for i, first in enumerate(parts):
            span = range(first, min(first + n_rows, columns))
            which = f"; columns {first} to {span[-1]}" if len(parts) > 1 else ""
            part = _columns(values, span, (n_rows, len(span)))
            series = TimeSeries(
                name=f"{name}_{i}" if len(parts) > 1 else name,
                description=about + which,
                data=H5DataIO(part, compression="gzip"),
                unit=unit,
                **times,
            )
            add_to_module(file, series)

    def add_windows(self, file: NWBFile, name: str, trial_ids: Sequence[int | str]) -> None:
        """Add the interval table that says where each window lies, if there are several."""
        import pandas as pd

        if len(self.starts) > 1:
            times = {"start_time": self.starts, "stop_time": self.stops}
            add_intervals(file, name, pd.DataFrame(times, list(trial_ids)))


def _columns(
    values: np.ndarray | Callable[[slice], np.ndarray], span: range, shape: tuple[int, int]
) -> Any:
    """Return some columns of (trial, column, bin) values as (time, column), to be written.

    Many are computed a few at a time, when they are written.
    """
    from hdmf.data_utils import GenericDataChunkIterator

    def rows(columns: slice) -> np.ndarray:
        some = values(columns) if callable(values) else values[:, columns]
        return np.ascontiguousarray(np.moveaxis(some, 1, 2).reshape(-1, some.shape[1]))

    if shape[0] * shape[1] <= _MANY:
        return rows(slice(span.start, span.stop))

    class Columns(GenericDataChunkIterator):
        """Blocks of all times and a few columns."""

        def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray:
            times, columns = selection
            first = span.start + columns.start
            return rows(slice(first, first + columns.stop - columns.start))[times]

        def _get_maxshape(self) -> tuple[int, int]:
            return shape

        def _get_dtype(self) -> np.dtype:
            return rows(slice(span.start, span.start + 1)).dtype

    chunk = (min(shape[0], _CHUNK), 1)
    buffer = (shape[0], max(1, min(shape[1], _MANY // shape[0])))
    return Columns(buffer_shape=buffer, chunk_shape=chunk)


def has_series(module: Mapping[str, Any], name: str) -> bool:
    """Return whether `TimeAxis.add` wrote this series, whole or split."""
    return name in module or f"{name}_0" in module


def read_series(module: h5py.Group, name: str, shape: Sequence[int]) -> np.ndarray:
    """Read what `TimeAxis.add` wrote of an array of this shape (trial, column, bin)."""
    names = [name] if name in module else []
    while f"{name}_{len(names)}" in module:
        names.append(f"{name}_{len(names)}")
    trials, columns, bins = shape
    rows = np.concatenate([np.asarray(module[part]["data"]) for part in names], axis=1)
    return rows.reshape(trials, bins, columns).transpose(0, 2, 1)


def add_to_module(file: NWBFile, thing: Any) -> None:
    """Add a series or table to the processing module, which is made when it is first needed."""
    if MODULE not in file.processing:
        file.create_processing_module(MODULE, "Templates of firing-rate change, and binned data")
    file.processing[MODULE].add(thing)
