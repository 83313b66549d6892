"""First guesses of bin size and template length, from the spikes' autocovariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spikecdl.binned import BinnedSpikes

_NICE = np.array([1, 2, 5, 10, 20, 50, 100]) * 1e-3  # seconds
_BINS = 25  # bins per template, about
_SIGNIFICANT = 3.0  # standard errors
_SMALL = 0.1  # of the largest correlation


@dataclass(frozen=True)
class Suggestion:
    """Where to start; made by `suggest`.

    Attributes
    ----------
    bin_size, length : float
        Seconds.
    """

    bin_size: float
    length: float


def suggest(counts: BinnedSpikes) -> Suggestion:
    """Suggest a template length and a bin size.

    The length is the lag up to which spikes of a unit predict each other better or worse than its
    mean rate does, but no longer than the first lag at which a periodic rate repeats; the bin size
    is the round number nearest below a 25th of it.

    Parameters
    ----------
    counts : BinnedSpikes
        Of single trials in fine bins (1 or 2 ms).

    Examples
    --------
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.05, (20, 1000)), 0.001)
    >>> suggest(counts)
    Suggestion(bin_size=0.005, length=0.1)
    """
    score = _autocorrelation(counts)
    length = _extent(score) * counts.bin_size if score.size else 0.1
    fitting = _NICE[_NICE <= length / _BINS * 1.0001]
    bin_size = float(fitting[-1]) if fitting.size else float(_NICE[0])
    return Suggestion(bin_size, round(round(length / bin_size) * bin_size, 6))


def _autocorrelation(counts: BinnedSpikes) -> np.ndarray:
    """Autocovariance at each positive lag, in standard errors of a constant rate; smoothed."""
    seen = counts.mask.astype(float)
    n_bins = counts.n_bins
    rate = counts.counts.sum((0, 2), keepdims=True) / np.maximum(seen.sum((0, 2), keepdims=True), 1)
    excess = (counts.counts - rate) * seen
    n_lags = min(n_bins // 3, round(0.5 / counts.bin_size))
    size = 2 * n_bins

    def lagged(signal: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(signal, size)) ** 2
        return np.fft.irfft(power.sum(0), size)[:, 1 : n_lags + 1]

    variance = (rate[0] ** 2 * lagged(seen)).sum(0)
    covariance = lagged(excess).sum(0)
    width = max(1, round(0.005 / counts.bin_size))
    kernel = np.ones(width) / width**0.5
    score = covariance / np.sqrt(np.maximum(variance, 1e-12))
    return np.convolve(score, kernel, "same")


def _extent(score: np.ndarray) -> float:
    """Bins up to the last clear lag, or to the first side peak; a tenth of a second without."""
    clear = np.flatnonzero(np.abs(score) > max(_SIGNIFICANT, _SMALL * np.abs(score).max()))
    if not clear.size:
        return max(1, score.size // 5)
    dip = np.flatnonzero(score < -_SIGNIFICANT)
    if dip.size and score[dip[0] :].max() > max(_SIGNIFICANT, score[: dip[0] + 1].max() / 2):
        return dip[0] + int(score[dip[0] :].argmax()) + 1
    return int(clear[-1]) + 1
