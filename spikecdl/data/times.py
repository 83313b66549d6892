"""Times of a recording: its spikes, observed intervals and tables, and windows to count spikes in.

What `SpikeTrains` checks, and what it takes by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.validation import listed, one_of, plain, real, shown

if TYPE_CHECKING:
    import pandas as pd

_RENAMED = {"start": "start_time", "end": "stop_time"}  # columns of tables, as pynapple has them

# Spikes


def spike_arrays(
    times: Any, unit_ids: Sequence[int | str] | None, *, sort: bool, duplicates: str
) -> tuple[tuple[int | str, ...], tuple[np.ndarray, ...]]:
    """Return unit ids and one sorted float64 array per unit, from a mapping or a sequence."""
    one_of("duplicates", duplicates, ("error", "keep"))
    if isinstance(times, Mapping):
        unit_ids = list(times) if unit_ids is None else unit_ids
        times = times.values()
    times = list(times) if np.iterable(times) and not isinstance(times, str) else [times]
    times = [t.times() if callable(getattr(t, "times", None)) else t for t in times]  # pynapple
    if any(np.ndim(t) != 1 for t in times):
        raise TypeError("`times` must hold one 1-D array per unit; wrap a single unit in a list")
    ids = tuple(range(len(times)) if unit_ids is None else unit_ids)
    if len(ids) != len(times):
        raise ValueError(f"`unit_ids` has {len(ids)} entries for {len(times)} units")
    arrays = []
    for unit, values in zip(ids, times, strict=True):
        array = _seconds(unit, values)
        array = check_times(unit, np.sort(array) if sort else array)
        repeated = np.flatnonzero(np.diff(array) == 0)
        if repeated.size and duplicates == "error":
            raise ValueError(
                f"`times` of unit {unit!r} hold {array[repeated[0]]} s twice ({repeated.size} "
                'in all); use np.unique, or from_arrays(duplicates="keep") if they are real'
            )
        arrays.append(array)
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
    array = np.asarray(times, dtype=float)
    if array.ndim != 1:
        raise ValueError(f"`times` of unit {unit!r} must be 1-D, not of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"`times` of unit {unit!r} must be finite, in seconds")
    if np.any(np.diff(array) < 0):
        raise ValueError(
            f"`times` of unit {unit!r} are not sorted; use np.sort, or from_arrays(sort=True)"
        )
    return read_only(array)


def read_only(values: Any) -> np.ndarray:
    """Return a read-only array that shares the memory of another."""
    view = np.asarray(values).view()
    view.flags.writeable = False
    return view


def check_seconds(
    times: Sequence[np.ndarray], tables: Sequence[pd.DataFrame], observed: Sequence[np.ndarray]
) -> None:
    """Raise if spike times look like milliseconds (or finer) rather than seconds.

    They do if they reach 100 times beyond the end of the last trial, interval or observed time and
    no unit reaches 1 Hz; or, where no such end is known, if they pass 10,000 s and no unit reaches
    0.05 Hz.  To say that they are seconds, give ``observed`` that covers them.
    """
    last = max((float(t[-1]) for t in times if t.size), default=0.0)
    rates = (t.size / (t[-1] - t[0]) for t in times if t.size > 1 and t[-1] > t[0])
    known = (*observed, *map(_known_times, tables))
    end = max((float(part.max()) for part in known if part.size), default=0.0)
    late, slow, clash = 1e4, 0.05, "no unit is at 0.05 Hz"
    if end > 0:
        late, slow, clash = 100 * end, 1.0, f"the last trial or interval ends at {end:g}"
    if last > late and max(rates, default=0.0) < slow:
        raise ValueError(
            f"`times` look like milliseconds: the last spike is at {last:g}, but {clash}; "
            "divide by 1000, or give `observed` if they are seconds"
        )


# Observed intervals


def check_observed(unit: int | str, observed: Any) -> np.ndarray:
    """Return one unit's observed intervals, read-only, or raise if not sorted and disjoint."""
    array = np.asarray(observed, dtype=float).reshape(-1, 2)
    if not np.isfinite(array).all() or np.any(array[:, 1] <= array[:, 0]):
        raise ValueError(
            f"`observed` of unit {unit!r} must be finite intervals that stop after they start"
        )
    wrong = np.flatnonzero(array[1:, 0] < array[:-1, 1])
    if wrong.size:
        first, second = array[wrong[0] : wrong[0] + 2].tolist()
        raise ValueError(
            f"`observed` of unit {unit!r}: {first} and {second} s overlap or are not sorted"
        )
    return read_only(array)


def as_observed(
    observed: Any, times: Sequence[np.ndarray], tables: Sequence[pd.DataFrame]
) -> tuple[np.ndarray, ...]:
    """Return observed intervals per unit, from one set for all units or one set for each.

    The whole recording takes the place of None; see `SpikeTrains.from_arrays`.
    """
    import pandas as pd

    if not times:
        return ()
    if observed is None:
        return (_whole_recording(times, tables),) * len(times)
    if isinstance(observed, pd.DataFrame) or hasattr(observed, "as_dataframe"):
        table = as_table("observed", observed)
        check_columns("observed", table, "start_time", "stop_time")
        return (table[["start_time", "stop_time"]].to_numpy(dtype=float),) * len(times)
    if any(part is None or np.ndim(part) == 2 for part in observed):
        parts = (_whole_recording(times, tables) if part is None else part for part in observed)
        return tuple(np.array(part, dtype=float).reshape(-1, 2) for part in parts)
    shared = np.atleast_2d(_numbers(observed))
    if shared.shape[1] != 2:
        raise ValueError(
            f"`observed` (={shown(observed)}) must be (start, stop) or have shape (interval, 2)"
        )
    return (shared,) * len(times)


def _whole_recording(times: Sequence[np.ndarray], tables: Sequence[pd.DataFrame]) -> np.ndarray:
    known = np.concatenate([*times, *map(_known_times, tables)])
    if known.size == 0 or known.max() <= min(0.0, known.min()):
        raise ValueError("`observed` must be given where no spike, trial or interval gives a span")
    first, last = known.min(), known.max()
    start = first if first < 0 or first > last / 2 and first < last else 0.0
    return np.array([[start, last]])


def union(intervals: np.ndarray) -> np.ndarray:
    """Return sorted disjoint intervals that cover the same time as any intervals (interval, 2)."""
    start, stop = intervals[np.argsort(intervals[:, 0])].T
    stop = np.maximum.accumulate(stop)
    edges = np.flatnonzero(start[1:] > stop[:-1]) + 1
    first, last = np.r_[0, edges], np.r_[edges, len(start)] - 1
    return np.stack([start[first], stop[last]], axis=1) if len(start) else intervals


def end_to_end(spans: np.ndarray) -> np.ndarray:
    """Return what to add to the times of each part of a recording (part, 2), to put it in order.

    Nothing if no part begins before the one ahead of it ends; else they follow each other from 0.
    """
    if not np.any(spans[1:, 0] < spans[:-1, 1]):
        return np.zeros(len(spans))
    return np.r_[0.0, np.cumsum(np.diff(spans))[:-1]] - spans[:, 0]


def intersection(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the time that two sets of sorted disjoint intervals share, as such a set."""
    first = np.searchsorted(other[:, 1], one[:, 0], "right")
    last = np.searchsorted(other[:, 0], one[:, 1])
    which, match = in_ranges(first, last)
    start = np.maximum(one[match, 0], other[which, 0])
    stop = np.minimum(one[match, 1], other[which, 1])
    return np.stack([start, stop], axis=-1)[start < stop]


def interval_of(times: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Return which of sorted disjoint intervals (interval, 2) holds each time; -1 if none does."""
    which = np.searchsorted(intervals[:, 0], times, "right") - 1
    return np.where(times <= np.r_[intervals[:, 1], -np.inf][which], which, -1)


def in_ranges(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every index in the ranges ``low[i]:high[i]``, and the range each belongs to."""
    sizes = np.maximum(high - low, 0)
    owner = np.repeat(np.arange(low.size), sizes)
    return np.arange(owner.size) + np.repeat(low - (np.cumsum(sizes) - sizes), sizes), owner


# Tables of trials and other intervals


def as_table(name: str, table: Any) -> pd.DataFrame:
    """Return a frame, a mapping of columns or an (interval, 2) array as a new DataFrame.

    So with an IntervalSet of pynapple.  Columns ``start`` and ``end`` are renamed, unless there are
    ``start_time`` and ``stop_time``.
    """
    import pandas as pd

    if hasattr(table, "as_dataframe"):
        table = table.as_dataframe()
    if isinstance(table, pd.DataFrame | Mapping):
        frame = pd.DataFrame(table).copy()
        frame = frame.rename(columns={o: n for o, n in _RENAMED.items() if n not in frame})
        for column in frame.columns.intersection(["start_time", "stop_time"]):
            if not _are_seconds(frame[column]):
                raise ValueError(
                    f"{column!r} of `{name}` must be in seconds, not {frame[column].dtype}; "
                    "subtract the session's start from dates and divide them by a second"
                )
        return frame
    array = _numbers(table)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"`{name}` {array.shape} must be a table with the columns start_time and stop_time, or "
            "an array of shape (interval, 2)"
        )
    return pd.DataFrame(array, columns=["start_time", "stop_time"])


def _numbers(values: Any) -> np.ndarray:
    """Return values as an array of numbers, an empty one if they are none."""
    try:
        return np.array(values, dtype=float)
    except (TypeError, ValueError):
        return np.empty(0)


def _are_seconds(column: pd.Series) -> bool:
    """Return whether a column holds real numbers, and no dates."""
    try:
        return column.dtype.kind not in "cmM" and column.to_numpy(dtype=float).ndim == 1
    except (TypeError, ValueError):
        return False


def check_columns(name: str, table: pd.DataFrame, *columns: str) -> None:
    """Raise unless a table has these columns; the message lists those that it has."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"table {name!r} lacks {missing}; it has {list(table.columns)}")


def check_trials(trials: pd.DataFrame) -> None:
    """Raise unless trials have distinct ids, and stop after they start.

    A trial whose times are not known (nan) is an error only when it is used.
    """
    check_columns("trials", trials, "start_time", "stop_time")
    if not len(trials):
        raise ValueError("`trials` must hold at least one trial, or be None")
    if not trials.index.is_unique:
        raise ValueError("`trials` must have distinct ids in its index")
    _durations(trials, allow_unknown=True)


def _known_times(table: pd.DataFrame) -> np.ndarray:
    """Return every finite start and stop time of a table."""
    times = table.filter(["start_time", "stop_time"]).to_numpy(dtype=float).ravel()
    return times[np.isfinite(times)]


def _times(table: pd.DataFrame, column: str, allow_unknown: bool = False) -> np.ndarray:
    """Return a column as finite float64 seconds, or raise an error naming trials without one."""
    try:
        times = table[column].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"column {column!r} must hold times in seconds") from None
    unknown = table.index[~np.isfinite(times)]
    if len(unknown) and not allow_unknown:
        raise ValueError(
            f"column {column!r} has no time for trials [{listed(unknown)}]; select the others "
            f'with trials="{column} == {column}"'
        )
    return times


def _durations(table: pd.DataFrame, allow_unknown: bool = False) -> np.ndarray:
    start, stop = (_times(table, name, allow_unknown) for name in ("start_time", "stop_time"))
    wrong = table.index[stop <= start]
    if len(wrong):
        raise ValueError(f"trial {plain(wrong[0])!r} must stop after it starts")
    return stop - start


# Windows


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of a recording to count spikes in, one for each selected row of a table.

    Of each (trial,): id, row in the table, start and duration in seconds; of all: the start
    relative to what they are aligned to, and how they were chosen.
    """

    ids: tuple[int | str, ...]
    rows: np.ndarray
    starts: np.ndarray
    durations: np.ndarray
    offset: float
    chosen: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        table: pd.DataFrame,
        trials: str | Sequence[int | str] | None,
        align: str | None,
        window: tuple[float, float] | None,
    ) -> Windows:
        """Return the windows of rows of the table ``name``; see `SpikeTrains.bin`."""
        rows = _select_rows(table, trials)
        table = table.iloc[rows]
        ids = tuple(map(plain, table.index))
        if align is not None and window is None:
            raise ValueError(
                f"`align` (={shown(align)}) needs a `window`: (start, stop), in seconds"
            )
        column = "start_time" if align is None else align
        check_columns(name, table, column)
        anchors = _times(table, column)
        start = 0.0
        if window is None:
            check_columns(name, table, "stop_time")
            durations = _durations(table)
        else:
            start, stop = (real("window", edge, "seconds") for edge in window)
            if stop <= start:
                raise ValueError(f"`window` (={window!r}) must stop after it starts, in seconds")
            durations, window = np.full(len(rows), stop - start), (start, stop)
        chosen = {"align": align, "window": window, "table": name}
        return cls(ids, rows, anchors + start, durations, start, chosen)

    def check_inside(self, t_start: float, t_stop: float) -> None:
        """Raise if a window is wholly outside the recording."""
        outside = (self.starts >= t_stop) | (self.starts + self.durations <= t_start)
        if outside.any():
            first = int(np.argmax(outside))
            raise ValueError(
                f"trial {self.ids[first]!r} (window from {self.starts[first]:g} s for "
                f"{self.durations[first]:g} s) and {int(outside.sum()) - 1} others are outside the "
                f"recording, {t_start:g} to {t_stop:g} s; select the rest with `trials`"
            )


def query(name: str, text: str, table: pd.DataFrame) -> pd.Index:
    """Return the ids of the rows of a table that a query in pandas' syntax selects."""
    try:
        return table.query(text, engine="python", local_dict={}, global_dict={}).index
    except Exception as error:  # whatever the expression raises
        raise ValueError(
            f"`{name}` (={shown(text)}) is not a query on the columns {list(table.columns)}: "
            f"{str(error)[:200]}"
        ) from None


def _select_rows(table: pd.DataFrame, trials: str | Sequence[int | str] | None) -> np.ndarray:
    """Return the positions of the rows that a query, or a sequence of ids, selects."""
    if trials is None:
        return np.arange(len(table))
    if isinstance(trials, str):
        index = query("trials", trials, table)
    else:
        index = list(trials)
    rows = table.index.get_indexer(index)
    unknown = [trial for trial, row in zip(index, rows, strict=True) if row < 0]
    if unknown:
        known = listed(table.index)
        raise ValueError(f"`trials` [{listed(unknown)}] do not exist; those that do are [{known}]")
    if not len(rows):
        raise ValueError(f"`trials` (={shown(trials)}) selects none of {len(table)} trials")
    return rows
