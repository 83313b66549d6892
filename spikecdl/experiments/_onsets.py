"""How many known onsets a model's events hit, against chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_DRAWS = 500  # sets of events at random times


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
    reach = float(np.diff(known).min()) / 2
    lags = bin_size * np.arange(-int(reach / bin_size), int(reach / bin_size) + 1)
    found = [np.asarray(one, dtype=float) for one in times]
    hits, chosen = _hits(found, known, lags, tolerance)
    drawn = np.array(
        [
            _hits([generator.uniform(0, duration, len(one)) for one in found], known, lags,
                  tolerance)[0].sum()
            for _ in range(_DRAWS)
        ]
    )  # fmt: skip
    n_events = sum(map(len, found))
    near = sum(
        int((_distance(one - lag, known) <= tolerance + 1e-9).any(1).sum())
        for one, lag in zip(found, chosen, strict=True)
    )
    return OnsetHits(
        hit_rate=float(hits.mean()),
        false_alarm_rate=1 - near / n_events if n_events else float("nan"),
        lags=tuple(chosen),
        chance_hit_rate=float(drawn.mean() / len(known)),
        p_value=float((1 + (drawn >= hits.sum()).sum()) / (1 + _DRAWS)),
    )


def _hits(
    times: list[np.ndarray], onsets: np.ndarray, lags: np.ndarray, tolerance: float
) -> tuple[np.ndarray, list[float]]:
    """Return which onsets are hit, and the lag of each template."""
    hit = np.zeros(len(onsets), dtype=bool)
    chosen = []
    for one in times:
        distance = _distance(one[None] - lags[:, None], onsets)  # (lag, event, onset)
        by_lag = np.any(distance <= tolerance + 1e-9, axis=1)
        best = int(by_lag.sum(-1).argmax())
        hit |= by_lag[best]
        chosen.append(float(lags[best]))
    return hit, chosen


def _distance(times: np.ndarray, onsets: np.ndarray) -> np.ndarray:
    return np.abs(times[..., None] - onsets)
