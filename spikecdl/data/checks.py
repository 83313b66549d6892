"""The door of `SpikeTrains`: checks and defaults of spike times, tables and observed intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.validation import one_of, real

if TYPE_CHECKING:
    import pandas as pd

_ONE_PER_UNIT = "`times` must hold one 1-D array per unit; wrap a single unit in a list"


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of a recording to count spikes in: ids, rows of the table, seconds."""

    ids: tuple[int | str, ...]
    rows: np.ndarray
    starts: np.ndarray
    durations: np.ndarray
    offset: float


def spike_arrays(
    times: Any, unit_ids: Sequence[int | str] | None, *, sort: bool, duplicates: str
) -> tuple[tuple[int | str, ...], tuple[np.ndarray, ...]]:
    """Return unit ids and one sorted float64 array per unit, from a mapping or a sequence."""
    one_of("duplicates", duplicates, ("error", "keep"))
    if isinstance(times, Mapping):
        unit_ids = list(times) if unit_ids is None else unit_ids
        times = times.values()
    if isinstance(times, str) or not np.iterable(times):
        raise TypeError(_ONE_PER_UNIT)
    times = list(times)
    if any(np.ndim(t) != 1 for t in times):
        raise TypeError(_ONE_PER_UNIT)
    ids = tuple(range(len(times)) if unit_ids is None else unit_ids)
    if len(ids) != len(times):
        raise ValueError(f"`unit_ids` has {len(ids)} entries for {len(times)} units")
    arrays = [_seconds(unit, t) for unit, t in zip(ids, times, strict=True)]
    if sort:
        arrays = [np.sort(t) for t in arrays]
    for unit, array in zip(ids, arrays, strict=True):
        repeated = np.flatnonzero(np.diff(check_times(unit, array)) == 0)
        if repeated.size and duplicates == "error":
            raise ValueError(
                f"`times` of unit {unit!r} hold {array[repeated[0]]} s twice ({repeated.size} "
                'duplicates in all); use np.unique, or duplicates="keep" if they are real'
            )
    return ids, tuple(arrays)


def _seconds(unit: int | str, times: Any) -> np.ndarray:
    if hasattr(times, "dimensionality"):
        raise TypeError(f"`times` of unit {unit!r} carry units, which NumPy drops; use read_neo")
    try:
        return np.array(times, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"`times` of unit {unit!r} must be numbers, in seconds") from None


def check_times(unit: int | str, times: Any) -> np.ndarray:
    """Return one unit's times as a read-only array, or raise if not 1-D, finite and sorted."""
    array = np.asarray(times, dtype=float).view()
    if array.ndim != 1:
        raise ValueError(f"`times` of unit {unit!r} must be 1-D, not of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"`times` of unit {unit!r} must be finite, in seconds")
    if np.any(np.diff(array) < 0):
        raise ValueError(
            f"`times` of unit {unit!r} are not sorted; use np.sort, or from_arrays(sort=True)"
        )
    array.flags.writeable = False
    return array


def check_observed(unit: int | str, observed: Any) -> np.ndarray:
    """Return one unit's observed intervals, read-only, or raise if not sorted and disjoint."""
    array = np.asarray(observed, dtype=float).reshape(-1, 2).view()
    if not np.isfinite(array).all() or np.any(array[:, 1] <= array[:, 0]):
        raise ValueError(
            f"`observed` of unit {unit!r} must be finite intervals that stop after they start"
        )
    wrong = np.flatnonzero(array[1:, 0] < array[:-1, 1])
    if wrong.size:
        first, second = (array[wrong[0] + i].tolist() for i in (0, 1))
        raise ValueError(
            f"`observed` of unit {unit!r}: {first} and {second} s overlap or are not sorted"
        )
    array.flags.writeable = False
    return array


def as_observed(observed: Any, n_units: int) -> tuple[np.ndarray, ...] | None:
    """Return observed intervals per unit, from one set for all units or one set for each."""
    if observed is None:
        return None
    if max((np.ndim(part) for part in observed), default=0) == 2:
        return tuple(np.array(part, dtype=float).reshape(-1, 2) for part in observed)
    shared = np.atleast_2d(np.array(observed, dtype=float))
    if shared.shape[1] != 2:
        raise ValueError(
            f"`observed` (={observed!r}) must be (start, stop) or have shape (interval, 2)"
        )
    return (shared,) * n_units


def whole_recording(
    times: Sequence[np.ndarray], tables: Sequence[pd.DataFrame]
) -> tuple[np.ndarray, ...]:
    """Return the whole recording as the observed interval of every unit.

    It ends at the latest time of all spikes and tables.  It starts at 0, unless the earliest time
    is negative, or so late that most of the interval would be empty: then it starts there.
    """
    if not times:
        return ()
    known = np.concatenate([*times, *(_table_times(table) for table in tables)])
    if known.size == 0 or known.max() <= min(0.0, known.min()):
        raise ValueError("`observed` must be given where no spike, trial or interval gives a span")
    first, last = known.min(), known.max()
    start = first if first < 0 or first > last / 2 and first < last else 0.0
    return (np.array([[start, last]]),) * len(times)


def check_seconds(
    times: Sequence[np.ndarray],
    tables: Sequence[pd.DataFrame],
    observed: Sequence[np.ndarray] | None,
) -> None:
    """Raise if spike times look like milliseconds (or finer) rather than seconds.

    They do if they reach 100 times beyond the end of the last trial, interval or observed time and
    no unit reaches 1 Hz; or, where no such end is known, if they pass 10,000 s and no unit reaches
    0.05 Hz.  Covering them with ``observed`` says that they are seconds.
    """
    last = max((float(t[-1]) for t in times if t.size), default=0.0)
    ends = [float(o.max()) for o in observed or () if o.size]
    ends += [float(t.max()) for t in map(_table_times, tables) if t.size]
    fastest = max(
        (t.size / (t[-1] - t[0]) for t in times if t.size > 1 and t[-1] > t[0]), default=0
    )
    end = max(ends, default=0.0)
    late, slow = (100 * end, 1.0) if end > 0 else (1e4, 0.05)
    if last > late and fastest < slow:
        clash = (
            f"the last trial or interval ends at {end:g}" if end > 0 else f"no unit is at {slow} Hz"
        )
        raise ValueError(
            f"`times` look like milliseconds: the last spike is at {last:g}, but {clash}; "
            "divide by 1000, or give `observed` if they are seconds"
        )


def as_table(name: str, table: Any) -> pd.DataFrame:
    """Return a frame, a mapping of columns or an (interval, 2) array as a new DataFrame."""
    import pandas as pd

    if isinstance(table, pd.DataFrame | Mapping):
        return pd.DataFrame(table).copy()
    array = np.asarray(table, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"`{name}` {array.shape} must be a table with the columns start_time and stop_time, or "
            "an array of shape (interval, 2)"
        )
    return pd.DataFrame({"start_time": array[:, 0], "stop_time": array[:, 1]})


def check_columns(name: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise unless a table has these columns; the message lists those that it has."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"table {name!r} lacks {missing}; it has {list(table.columns)}")


def check_trials(trials: pd.DataFrame) -> None:
    """Raise unless every trial has a distinct id and, where its times are known, lasts some time.

    Times that are not known (nan) are an error only when the trial is used.
    """
    check_columns("trials", trials, ("start_time", "stop_time"))
    if not len(trials):
        raise ValueError("`trials` must hold at least one trial, or be None")
    if not trials.index.is_unique:
        raise ValueError("`trials` must have distinct ids in its index")
    _durations(trials, allow_unknown=True)


def select_rows(table: pd.DataFrame, trials: str | Sequence[int | str] | None) -> np.ndarray:
    """Return the positions of the rows that a query, or a sequence of ids, selects."""
    if trials is None:
        return np.arange(len(table))
    if isinstance(trials, str):
        try:
            index = table.query(trials, engine="python", local_dict={}, global_dict={}).index
        except Exception as error:  # pandas passes on whatever the expression raises
            raise ValueError(
                f"`trials` (={trials!r}) is not a query on the columns {list(table.columns)}: "
                f"{error}"
            ) from None
    else:
        index = list(trials)
    rows = table.index.get_indexer(index)
    if np.any(rows < 0):
        unknown = [trial for trial, row in zip(index, rows, strict=True) if row < 0]
        raise ValueError(
            f"`trials` {_some(unknown)} do not exist; those that do are {_some(list(table.index))}"
        )
    if not len(rows):
        raise ValueError(f"`trials` (={trials!r}) selects none of {len(table)} trials")
    return rows


def make_windows(
    name: str,
    table: pd.DataFrame,
    rows: np.ndarray,
    align: str | None,
    window: tuple[float, float] | None,
) -> Windows:
    """Return the windows of the given rows, from their own times or around an aligned column."""
    ids = tuple(plain(trial) for trial in table.index)
    if align is not None and window is None:
        raise ValueError(f"`align` (={align!r}) needs a `window`: (start, stop), in seconds")
    column = "start_time" if align is None else align
    check_columns(name, table, (column,))
    anchors = _times(table, column)
    if window is None:
        check_columns(name, table, ("start_time", "stop_time"))
        return Windows(ids, rows, anchors, _durations(table), 0.0)
    start, stop = (real("window", edge, "seconds") for edge in window)
    if stop <= start:
        raise ValueError(f"`window` (={window!r}) must stop after it starts, in seconds")
    return Windows(ids, rows, anchors + start, np.full(len(rows), stop - start), start)


def check_windows(windows: Windows, t_start: float, t_stop: float) -> None:
    """Raise if a window is wholly outside the recording."""
    outside = (windows.starts >= t_stop) | (windows.starts + windows.durations <= t_start)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"trial {windows.ids[first]!r} (window from {windows.starts[first]:g} s for "
            f"{windows.durations[first]:g} s) and {int(outside.sum()) - 1} others are outside the "
            f"recording, {t_start:g} to {t_stop:g} s; select the rest with `trials`"
        )


def plain(identifier: Any) -> Any:
    """Return an id as a Python object where it is a NumPy scalar."""
    return identifier.item() if isinstance(identifier, np.generic) else identifier


def _times(table: pd.DataFrame, column: str, allow_unknown: bool = False) -> np.ndarray:
    """Return a column as finite float64 seconds, or raise naming the trials that lack one."""
    try:
        times = table[column].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"column {column!r} must hold times in seconds") from None
    absent = list(table.index[~np.isfinite(times)])
    if absent and not allow_unknown:
        raise ValueError(
            f"column {column!r} has no time for trials {_some(absent)}; select the others with "
            f'trials="{column} == {column}"'
        )
    return times


def _durations(table: pd.DataFrame, allow_unknown: bool = False) -> np.ndarray:
    start, stop = (_times(table, name, allow_unknown) for name in ("start_time", "stop_time"))
    wrong = stop <= start
    if wrong.any():
        trial = plain(table.index[int(np.argmax(wrong))])
        raise ValueError(f"trial {trial!r} must stop after it starts")
    return stop - start


def _some(values: Sequence[Any]) -> str:
    """Return a list as text, of its first five values."""
    return f"[{', '.join(repr(plain(v)) for v in values[:5])}{', ...' if len(values) > 5 else ''}]"


def _table_times(table: pd.DataFrame) -> np.ndarray:
    """Return every finite start and stop time of a table."""
    columns = [name for name in ("start_time", "stop_time") if name in table]
    times = table[columns].to_numpy(dtype=float).ravel()
    return times[np.isfinite(times)]
