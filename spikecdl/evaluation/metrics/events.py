"""Found events against true ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from spikecdl import validation

if TYPE_CHECKING:
    import pandas as pd

_ROUNDING = 1e-9  # seconds; far more than the rounding in a difference of two times
_KEYS = ("trial", "unit", "template")


@dataclass(frozen=True, eq=False)
class EventRates:
    """How many events were found; made by `event_rates`.

    Attributes
    ----------
    hits : int
        True events with a found event within the tolerance.
    misses : int
        True events without one.
    false_alarms : int
        Found events without a true one.
    pairs : ndarray of int, shape (hits, 2)
        Row positions of each hit in the tables of found and of true events.
    amplitude_correlation : float
        Pearson correlation of found and true amplitudes over the hits; nan for fewer than two hits,
        constant amplitudes, or tables without amplitudes.
    """

    hits: int
    misses: int
    false_alarms: int
    pairs: np.ndarray = field(repr=False)
    amplitude_correlation: float

    @property
    def hit_rate(self) -> float:
        """Part of the true events that were found; nan if there were none."""
        return _ratio(self.hits, self.misses)

    @property
    def false_alarm_rate(self) -> float:
        """Part of the found events that are not true; nan if none was found."""
        return _ratio(self.false_alarms, self.hits)


def _ratio(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else float("nan")


def event_rates(
    found: pd.DataFrame | Mapping[str, ArrayLike],
    true: pd.DataFrame | Mapping[str, ArrayLike],
    tolerance: float,
) -> EventRates:
    """Count which true events were found, one found event for one true event.

    Events are paired within each (trial, unit, template) so that as many as possible have a
    partner no further away than ``tolerance`` and, among such pairings, the total distance in time
    is smallest.

    Parameters
    ----------
    found, true : DataFrame or mapping of columns
        Column ``time`` in seconds; any of the columns ``trial``, ``unit`` and ``template``, the
        same ones and with the same labels in both tables; optionally ``amplitude``.
    tolerance : float
        Largest distance in seconds, included (to within a nanosecond of rounding).

    Returns
    -------
    EventRates
        Hits, misses and false alarms, their rates and the pairs.

    Raises
    ------
    ValueError
        If a table has no ``time`` or columns of different length, times are not finite, the tables
        are grouped by different columns, or the tolerance is negative.

    Examples
    --------
    >>> true = {"trial": [0, 0, 1], "time": [0.10, 0.50, 0.30]}
    >>> found = {"trial": [0, 0, 1], "time": [0.11, 0.70, 0.30]}
    >>> rates = event_rates(found, true, tolerance=0.025)
    >>> rates.hits, rates.misses, rates.false_alarms, round(rates.hit_rate, 2)
    (2, 1, 1, 0.67)
    """
    if validation.real("tolerance", tolerance, "seconds") < 0:
        raise ValueError(f"`tolerance` (={tolerance!r}) must be 0 or more, in seconds")
    times = {"found": _times("found", found), "true": _times("true", true)}
    keys, true_keys = (tuple(key for key in _KEYS if key in table) for table in (found, true))
    if keys != true_keys:
        raise ValueError(
            f"`found` has the columns {keys} and `true` has {true_keys}; "
            f"both tables need the same of {_KEYS}"
        )
    found_groups, true_groups = _groups(found, keys), _groups(true, keys)
    pairs = [
        (int(ours[i]), int(theirs[j]))
        for label, ours in found_groups.items()
        if (theirs := true_groups.get(label)) is not None
        for i, j in _match(times["found"][ours], times["true"][theirs], tolerance + _ROUNDING)
    ]
    matched = np.array(sorted(pairs), dtype=int).reshape(-1, 2)
    return EventRates(
        hits=len(matched),
        misses=len(times["true"]) - len(matched),
        false_alarms=len(times["found"]) - len(matched),
        pairs=matched,
        amplitude_correlation=_amplitude_correlation(found, true, matched),
    )


def _times(name: str, events: Any) -> np.ndarray:
    if "time" not in events:
        raise ValueError(f"`{name}` must have a column 'time', in seconds")
    times = np.asarray(events["time"], dtype=float)
    if not np.isfinite(times).all():
        raise ValueError(f"`{name}` must have finite times; remove the rows without a time")
    for key in _KEYS:
        if key in events and len(events[key]) != len(times):
            raise ValueError(f"`{name}` must have as many rows in {key!r} as in 'time'")
    return times


def _groups(events: Any, keys: tuple[str, ...]) -> dict[tuple, np.ndarray]:
    """Row positions of each (trial, unit, template)."""
    columns = [list(events[key]) for key in keys]
    groups: dict[tuple, list[int]] = {}
    for row in range(len(events["time"])):
        groups.setdefault(tuple(column[row] for column in columns), []).append(row)
    return {label: np.array(rows) for label, rows in groups.items()}


def _match(found: np.ndarray, true: np.ndarray, tolerance: float) -> list[tuple[int, int]]:
    """Pair times: most pairs first, then the smallest total distance.

    No pair reaches across a gap wider than the tolerance between neighbouring events, so the
    stretches between such gaps are solved one by one.
    """
    times = np.concatenate([found, true])
    order = np.argsort(times, kind="stable")
    gaps = np.flatnonzero(np.diff(times[order]) > tolerance) + 1
    pairs = []
    for stretch in np.split(order, gaps):
        ours, theirs = stretch[stretch < len(found)], stretch[stretch >= len(found)]
        distance = np.abs(times[ours][:, np.newaxis] - times[theirs])
        allowed = distance <= tolerance
        # One more pair is worth more than any saving in distance.
        worth = np.where(allowed, 1 + min(allowed.shape) - distance / tolerance, 0)
        pairs += [
            (ours[i], theirs[j] - len(found))
            for i, j in zip(*linear_sum_assignment(worth, maximize=True), strict=True)
            if allowed[i, j]
        ]
    return pairs


def _amplitude_correlation(found: Any, true: Any, pairs: np.ndarray) -> float:
    if "amplitude" not in found or "amplitude" not in true or len(pairs) < 2:
        return float("nan")
    x = np.asarray(found["amplitude"], dtype=float)[pairs[:, 0]]
    y = np.asarray(true["amplitude"], dtype=float)[pairs[:, 1]]
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
