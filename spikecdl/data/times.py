"""Spike times and observed intervals in seconds: their checks, and what is taken by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data.trials import known_times
from spikecdl.validation import one_of

if TYPE_CHECKING:
    import pandas as pd


def spike_arrays(
    times: Any, unit_ids: Sequence[int | str] | None, *, sort: bool, duplicates: str
) -> tuple[tuple[int | str, ...], tuple[np.ndarray, ...]]:
    """Return unit ids and one sorted float64 array per unit, from a mapping or a sequence."""
    one_of("duplicates", duplicates, ("error", "keep"))
    if isinstance(times, Mapping):
        unit_ids = list(times) if unit_ids is None else unit_ids
        times = times.values()
    times = list(times) if np.iterable(times) and not isinstance(times, str) else [times]
    if any(np.ndim(t) != 1 for t in times):
        raise TypeError("`times` must hold one 1-D array per unit; wrap a single unit in a list")
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
        first, second = array[wrong[0] : wrong[0] + 2].tolist()
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


def union(intervals: np.ndarray) -> np.ndarray:
    """Return sorted disjoint intervals that cover the same time as any intervals (interval, 2)."""
    joined: list[list[float]] = []
    for start, stop in intervals[np.lexsort(intervals.T[::-1])].tolist():
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(stop, joined[-1][1])
        else:
            joined.append([start, stop])
    return np.array(joined).reshape(-1, 2)


def intersection(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the time that two sets of sorted disjoint intervals share, as such a set."""
    start = np.maximum(one[:, None, 0], other[None, :, 0])
    stop = np.minimum(one[:, None, 1], other[None, :, 1])
    common = np.stack([start, stop], axis=-1)[start < stop]
    return common[np.argsort(common[:, 0])]


def whole_recording(
    times: Sequence[np.ndarray], tables: Sequence[pd.DataFrame]
) -> tuple[np.ndarray, ...]:
    """Return the whole recording as the observed interval of every unit.

    See ``observed`` of `SpikeTrains.from_arrays`.
    """
    if not times:
        return ()
    known = np.concatenate([*times, *map(known_times, tables)])
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
    0.05 Hz.  To say that they are seconds, give ``observed`` that covers them.
    """
    last = max((float(t[-1]) for t in times if t.size), default=0.0)
    rates = (t.size / (t[-1] - t[0]) for t in times if t.size > 1 and t[-1] > t[0])
    known = (*(observed or ()), *map(known_times, tables))
    end = max((float(part.max()) for part in known if part.size), default=0.0)
    late, slow = (100 * end, 1.0) if end > 0 else (1e4, 0.05)
    if last > late and max(rates, default=0.0) < slow:
        clash = (
            f"the last trial or interval ends at {end:g}" if end > 0 else f"no unit is at {slow} Hz"
        )
        raise ValueError(
            f"`times` look like milliseconds: the last spike is at {last:g}, but {clash}; "
            "divide by 1000, or give `observed` if they are seconds"
        )
