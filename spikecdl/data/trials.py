"""Tables of trials and intervals, and the windows of a recording that they describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.validation import plain, real

if TYPE_CHECKING:
    import pandas as pd


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


def known_times(table: pd.DataFrame) -> np.ndarray:
    """Return every finite start and stop time of a table."""
    columns = [name for name in ("start_time", "stop_time") if name in table]
    times = table[columns].to_numpy(dtype=float).ravel()
    return times[np.isfinite(times)]


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of a recording to count spikes in, one for each selected row of a table.

    Of each (trial,): id, row in the table, start and duration in seconds; of all: the start
    relative to what they are aligned to.
    """

    ids: tuple[int | str, ...]
    rows: np.ndarray
    starts: np.ndarray
    durations: np.ndarray
    offset: float

    @classmethod
    def of(
        cls,
        name: str,
        table: pd.DataFrame,
        trials: str | Sequence[int | str] | None,
        align: str | None,
        window: tuple[float, float] | None,
    ) -> Windows:
        """Return the windows of selected rows: their own times, or around an aligned column.

        ``name`` is that of the table; the others are those of `SpikeTrains.bin`.
        """
        rows = _select_rows(table, trials)
        table = table.iloc[rows]
        ids = tuple(map(plain, table.index))
        if align is not None and window is None:
            raise ValueError(f"`align` (={align!r}) needs a `window`: (start, stop), in seconds")
        column = "start_time" if align is None else align
        check_columns(name, table, column)
        anchors = _times(table, column)
        if window is None:
            check_columns(name, table, "start_time", "stop_time")
            return cls(ids, rows, anchors, _durations(table), 0.0)
        start, stop = (real("window", edge, "seconds") for edge in window)
        if stop <= start:
            raise ValueError(f"`window` (={window!r}) must stop after it starts, in seconds")
        return cls(ids, rows, anchors + start, np.full(len(rows), stop - start), start)

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


def _select_rows(table: pd.DataFrame, trials: str | Sequence[int | str] | None) -> np.ndarray:
    """Return the positions of the rows that a query, or a sequence of ids, selects."""
    if trials is None:
        return np.arange(len(table))
    if isinstance(trials, str):
        try:
            index = table.query(trials, engine="python", local_dict={}, global_dict={}).index
        except Exception as error:  # whatever the expression raises
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
            f"`trials` {_listed(unknown)} do not exist; those that do are "
            f"{_listed(list(table.index))}"
        )
    if not len(rows):
        raise ValueError(f"`trials` (={trials!r}) selects none of {len(table)} trials")
    return rows


def _times(table: pd.DataFrame, column: str, allow_unknown: bool = False) -> np.ndarray:
    """Return a column as finite float64 seconds, or raise an error naming trials without one."""
    try:
        times = table[column].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"column {column!r} must hold times in seconds") from None
    unknown = list(table.index[~np.isfinite(times)])
    if unknown and not allow_unknown:
        raise ValueError(
            f"column {column!r} has no time for trials {_listed(unknown)}; select the others with "
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


def _listed(ids: Sequence[Any]) -> str:
    """Return a list of ids as text: the first five."""
    return f"[{', '.join(repr(plain(v)) for v in ids[:5])}{', ...' if len(ids) > 5 else ''}]"
