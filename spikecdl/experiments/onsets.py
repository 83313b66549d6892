"""How many known onsets a model's events hit, against chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_DRAWS = 500  # sets of events at random times
_ROUNDING = 1e-9


@dataclass(frozen=True)
class OnsetHits:
    """Onsets that have an event nearby, and how many would by chance.

    Parameters
    ----------
    hit_rate : float
        Part of the onsets with an event within the tolerance.
    false_alarm_rate : float
        Part of the events that hit no onset; nan without events.
    lags : tuple of float
        What was taken from the times of each template's events, in seconds.
    chance_hit_rate : float
        Mean hit rate of as many events of each template at random times, with lags of their own.
    p_value : float
        Part of those sets that hit as many onsets or more, the events themselves counted in.
    """

    hit_rate: float
    false_alarm_rate: float
    lags: tuple[float, ...]
    chance_hit_rate: float
    p_value: float


def onset_hits(
    times: Sequence[ArrayLike],
    onsets: ArrayLike,
    tolerance: float,
    duration: float,
    bin_size: float,
    generator: np.random.Generator,
) -> OnsetHits:
    """Compare the events of each template with known onsets.

    Where a template begins is a convention, so all events of one are shifted by the lag, a whole
    number of bins, that hits the most onsets; those of chance are given the same freedom.

    Parameters
    ----------
    times : list of array_like, one per template
        Times of its events, in seconds.
    onsets : array_like
        Known onsets, more than twice the tolerance apart.
    tolerance : float
        Largest distance, in seconds.
    duration : float
        Length of the window, which random times are drawn from.
    bin_size : float
        Seconds; of the lags.
    generator : numpy.random.Generator
        Draws the random times.
    """
    known = np.asarray(onsets, dtype=float)
    n_lags = int(np.diff(known).min() / 2 / bin_size)
    lags = bin_size * np.arange(-n_lags, n_lags + 1)
    found = [np.asarray(one, dtype=float) for one in times]
    n_events = sum(map(len, found))
    n_hit, n_near, chosen = _hits(found, known, lags, tolerance)
    drawn = np.empty(_DRAWS)
    for draw in range(_DRAWS):
        random = [generator.uniform(0, duration, len(one)) for one in found]
        drawn[draw], _, _ = _hits(random, known, lags, tolerance)
    return OnsetHits(
        hit_rate=n_hit / len(known),
        false_alarm_rate=1 - n_near / n_events if n_events else float("nan"),
        lags=chosen,
        chance_hit_rate=float(drawn.mean() / len(known)),
        p_value=float((1 + (drawn >= n_hit).sum()) / (1 + _DRAWS)),
    )


def after_onsets(
    values: np.ndarray, onsets: ArrayLike, t_start: float, bin_size: float, n_bins: int
) -> np.ndarray:
    """Return values (bin,) of a window that begins at ``t_start``, averaged after onsets."""
    first = np.rint((np.asarray(onsets) - t_start) / bin_size).astype(int)
    return values[first[:, None] + np.arange(n_bins)].mean(axis=0)


def _hits(
    times: Sequence[np.ndarray], onsets: np.ndarray, lags: np.ndarray, tolerance: float
) -> tuple[int, int, tuple[float, ...]]:
    """Return how many onsets are hit, how many events are near one, and each template's lag.

    Of lags that hit as many onsets, the one that brings the most events near.
    """
    hit, n_near, chosen = np.zeros(len(onsets), dtype=bool), 0, []
    for one in times:
        distance = np.abs((one - lags[:, None])[..., None] - onsets)  # (lag, event, onset)
        close = distance <= tolerance + _ROUNDING
        hits, near = np.any(close, axis=1), np.any(close, axis=2).sum(axis=1)
        best = int(np.lexsort((near, hits.sum(axis=1)))[-1])
        hit |= hits[best]
        n_near += int(near[best])
        chosen.append(float(lags[best]))
    return int(hit.sum()), n_near, tuple(chosen)
