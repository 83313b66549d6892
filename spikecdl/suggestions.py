"""First guesses of bin size and template length, from the distances between a unit's spikes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spikecdl.data import SpikeTrains
from spikecdl.data.times import intersection, union

_STEP = 0.001  # seconds; resolution of distances
_FARTHEST = 0.5  # seconds
_SMOOTH = 5  # steps of the running mean
_PEAK = 25  # steps that a peak, or a pause between peaks, may last
_MOST_SPIKES = 20_000  # of a unit that are used
_ROUND_SIZES = np.array([1, 2, 5, 10, 20]) * 1e-3  # bin sizes, in seconds
_BINS, _FEWEST_BINS, _ROUND_BINS = 25, 20, 5  # per template: about, at least, in multiples of
_FEWEST_PAIRS = 5  # a smaller expected number gets the standard error of this one
_SIGNIFICANT = 4.0  # standard errors
_SMALL = 0.1  # of the largest excess


@dataclass(frozen=True)
class Suggestion:
    """Bin size and template length to begin with, in seconds; made by `suggest`."""

    bin_size: float
    length: float


def suggest(spikes: SpikeTrains) -> Suggestion:
    """Suggest a template length and a bin size.

    Up to the length, pairs of spikes of a unit are clearly more or fewer than at a constant rate;
    it ends at the first distance at which a periodic rate repeats.  The bin size is the round
    number nearest to a 25th of the length.  Time between trials does not count.

    Examples
    --------
    >>> spikes_of_event = np.random.default_rng(0).uniform(0, 0.1, (110, 10))
    >>> times = 0.9 * np.arange(110)[:, None] + spikes_of_event
    >>> suggest(SpikeTrains.from_arrays([np.sort(times.ravel())]))
    Suggestion(bin_size=0.005, length=0.1)
    """
    score = _excess(spikes)
    length = _extent(score) * _STEP
    bin_size = float(_ROUND_SIZES[np.abs(np.log(_ROUND_SIZES * _BINS / length)).argmin()])
    n_bins = max(_FEWEST_BINS, _ROUND_BINS * round(length / bin_size / _ROUND_BINS))
    return Suggestion(bin_size, round(n_bins * bin_size, 6))


def _excess(spikes: SpikeTrains) -> np.ndarray:
    """Return the excess of pairs at each distance, in standard errors; its median is 0."""
    n_steps = round(_FARTHEST / _STEP)
    lags = _STEP * (np.arange(n_steps) + 0.5)
    pairs, expected = np.zeros(n_steps), np.zeros(n_steps)
    for times, observed in zip(spikes.times, spikes.observed, strict=True):
        stop = times[_MOST_SPIKES] if times.size > _MOST_SPIKES else np.inf
        stretches = intersection(observed, np.minimum(_trials(spikes), stop))
        which = np.searchsorted(stretches[:, 0], times, "right") - 1
        inside = which >= 0
        inside[inside] = times[inside] < stretches[which[inside], 1]
        durations = np.diff(stretches, axis=1)
        if inside.any():
            rate = inside.sum() / durations.sum()
            pairs += _distances(times[inside], which[inside], n_steps)
            expected += rate**2 * _STEP * np.maximum(durations - lags, 0).sum(axis=0)
    pairs, expected = (np.convolve(part, np.ones(_SMOOTH), "same") for part in (pairs, expected))
    excess = (pairs - expected) / np.sqrt(np.maximum(expected, _FEWEST_PAIRS))
    known = expected > 0
    if known.any():  # slow changes of rate, and pauses between events, move all distances alike
        excess -= np.median(excess[known])
    return np.where(known, excess, 0.0)


def _trials(spikes: SpikeTrains) -> np.ndarray:
    """Return the time that trials cover as sorted disjoint intervals; all time without trials."""
    if spikes.trials is None:
        return np.array([[-np.inf, np.inf]])
    spans = spikes.trials[["start_time", "stop_time"]].to_numpy(dtype=float)
    return union(spans[np.isfinite(spans).all(axis=1)])


def _distances(times: np.ndarray, stretch: np.ndarray, n_steps: int) -> np.ndarray:
    """Count the pairs of sorted spikes within a stretch by their distance, in steps."""
    found = np.zeros(n_steps)
    for apart in range(1, times.size):
        distance = ((times[apart:] - times[:-apart]) / _STEP + 1e-6).astype(int)
        near = (distance < n_steps) & (stretch[apart:] == stretch[:-apart])
        if not near.any():
            break
        found += np.bincount(distance[near], minlength=n_steps)
    return found


def _extent(score: np.ndarray) -> int:
    """Return the steps to the last clear excess or the first side peak; without any, to 0.1 s."""
    threshold = max(_SIGNIFICANT, _SMALL * np.abs(score).max())
    clear = np.flatnonzero(np.abs(score) > threshold)
    if not clear.size:
        return round(0.1 / _STEP)
    repeats = _side_peak(score, threshold)
    if repeats is not None:
        return repeats + 1
    quiet = np.flatnonzero(np.diff(clear) > _PEAK)
    return int(clear[quiet[0]] if quiet.size else clear[-1]) + 1


def _side_peak(score: np.ndarray, threshold: float) -> int | None:
    """Return the step at which the excess, after a fall, is back at half its height or more.

    An excess that begins late is a side peak itself: there is one spike in each period.
    """
    begin = int(np.argmax(score > max(threshold, score.max() / 2)))
    if begin > _PEAK:
        return begin + int(score[begin : begin + _PEAK].argmax())
    low = score[begin:] < np.maximum.accumulate(score[begin:]) / 4
    fall = begin + int(np.argmax(low))
    rest = score[fall:]
    if fall == begin or rest.max() < max(threshold, score[:fall].max() / 2):
        return None
    first = int(np.argmax(rest > 0.8 * rest.max()))
    return fall + first + int(rest[first : first + _PEAK].argmax())
