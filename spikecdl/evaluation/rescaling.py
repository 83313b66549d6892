"""Time rescaling: spikes of a correct model become a Poisson process of rate one."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import kolmogi, kolmogorov
from scipy.stats import kstwo

from spikecdl import validation
from spikecdl.model.families import FAMILIES, CountingProcess, Family

_FEW = 100  # values; above, the law of the KS distance is approximated by its asymptotic form


def rescaled_intervals(
    y: ArrayLike,
    mean: ArrayLike,
    family: Family,
    mask: ArrayLike | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> list[np.ndarray]:
    r"""Turn the counts of each unit into intervals that are exponential under a correct model.

    The count of a bin is the number of spikes of a process that, after n spikes, fires at rate
    a + b n, for a duration d (`Family.counting_process`). Given the count, the times v of these
    spikes are independent with density proportional to exp(b v) on 0 < v < d, and are drawn from
    it. In rescaled time, the integral of the rate, the spikes are then exactly a Poisson process of
    rate one, for bins of any size.

    With one Bernoulli trial per bin this is the discrete-time rescaling of Haslinger, Pipa and
    Brown: an empty bin adds q = -log(1 - p), the bin of a spike -log(1 - r (1 - exp(-q))) with r
    uniform, and the next interval begins in the bin after it.

    Rescaled time does not advance in bins that were not observed, and continues from trial to
    trial. The first interval begins with the first trial. The last, censored by the end of the
    recording, is completed by an exponential draw, so that no interval is left out for being long.

    Parameters
    ----------
    y : array_like of int, shape (trial, unit, bin)
        Counts.
    mean : array_like, shape (trial, unit, bin)
        Expected counts.
    family : Family
        Observation model, with ``n_trials`` set; parameters that are tensors must broadcast to
        ``y``.
    mask : array_like of bool, shape (trial, unit, bin), optional
        False where nothing was observed.
    random_state : int, Generator or None
        Seed of the times of spikes within bins.

    Returns
    -------
    list of ndarray
        Intervals of each unit in the order of time, one more than it has spikes; empty for a unit
        that was not observed.

    Raises
    ------
    ValueError
        If shapes differ, the family is not one of counts, a count is outside its support, or it
        cannot have a mean.

    References
    ----------
    Haslinger, Pipa and Brown 2010, doi:10.1162/NECO_a_00015. Brown et al. 2002,
    doi:10.1162/08997660252741149.

    Examples
    --------
    >>> from spikecdl.model.families import Binomial
    >>> y = np.random.default_rng(0).random((1, 1, 10_000)) < 0.1
    >>> (intervals,) = rescaled_intervals(y, np.full(y.shape, 0.1), Binomial(n_trials=1))
    >>> len(intervals) - int(y.sum()), round(float(intervals.mean()), 1)
    (1, 1.0)
    """
    counts, observed, process = _checked(y, mean, family, mask)
    rng = np.random.default_rng(random_state)
    start, duration = process.start.numpy(), process.duration.numpy()
    intervals = []
    for unit in range(counts.shape[1]):
        seen = observed[:, unit]
        y_unit, first, length = (values[:, unit][seen] for values in (counts, start, duration))
        intervals.append(_intervals(y_unit, first, length, process.step, rng))
    return intervals


def resolved(family: str | Family, n_trials: np.ndarray) -> Family:
    """Return a family, given itself or by name, with ``n_trials`` of the counts if it has none."""
    family = validation.member("family", family, FAMILIES, Family)
    return family.resolve(torch.as_tensor(np.array(n_trials, dtype=float)))


def draw_counts(mean: np.ndarray, family: Family, rng: np.random.Generator) -> np.ndarray:
    """Draw counts with the given means."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    eta = family.link(torch.as_tensor(mean, dtype=torch.float64))
    return family.sample(eta, generator).numpy().astype(np.int64)


def distance(intervals: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of intervals from the exponential law; nan without intervals."""
    number = len(intervals)
    if not number:
        return math.nan
    ordered, steps = np.sort(-np.expm1(-intervals)), np.arange(number + 1) / number
    return float(max((ordered - steps[:-1]).max(), (steps[1:] - ordered).max()))


def p_value(distance: float, number: int) -> float:
    """Probability that ``number`` values of the tested law have at least that KS distance."""
    if number <= _FEW:
        return float(kstwo.sf(distance, max(number, 1)))  # nan stays nan
    z = math.sqrt(number) * distance
    return float(kolmogorov(z + 1 / (6 * math.sqrt(number)) + (z - 1) / (4 * number)))


@lru_cache(maxsize=1 << 16)
def critical_distance(level: float, number: int) -> float:
    """Critical KS distance at ``level`` for ``number`` values; nan if ``number`` is 0."""
    if number <= _FEW:
        return float(kstwo.isf(level, number)) if number else math.nan
    z = float(kolmogi(level)) - 1 / (6 * math.sqrt(number)) + 1 / (4 * number)
    return z / (1 + 1 / (4 * number)) / math.sqrt(number)


def _checked(
    y: ArrayLike, mean: ArrayLike, family: Family, mask: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, CountingProcess]:
    """Check the arguments; return counts, mask, and the counting process of the model."""
    counts = np.asarray(y)
    observed = np.ones(counts.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    if counts.ndim != 3:
        raise ValueError(f"`y` {counts.shape} must have shape (trial, unit, bin)")
    for name, array in (("mean", np.asarray(mean)), ("mask", observed)):
        validation.shaped(name, array, counts.shape, "y")
    expected = torch.as_tensor(np.where(observed, mean, 0), dtype=torch.float64)
    process = family.counting_process(expected)
    kind = type(family).__name__
    if process is None:
        raise ValueError(f"`family` (={kind}) is not one of counts; time rescaling needs spikes")
    outside, support = family.invalid(torch.as_tensor(counts.astype(float)))
    _refuse("y", counts, observed & outside.numpy(), f"{kind} takes {support}")
    impossible = torch.isnan(family.link(expected)) | ~torch.isfinite(expected)
    _refuse("mean", expected.numpy(), observed & impossible.numpy(), f"{kind} cannot have it")
    return counts.astype(np.int64, copy=False), observed, process


def _refuse(name: str, values: np.ndarray, bad: np.ndarray, why: str) -> None:
    if bad.any():
        trial, unit, bin_ = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"`{name}` (={values[trial, unit, bin_]:g} at trial {trial}, unit {unit}, bin {bin_}) "
            f"is impossible: {why}"
        )


def _intervals(
    y: np.ndarray, start: np.ndarray, duration: np.ndarray, step: int, rng: np.random.Generator
) -> np.ndarray:
    """Rescaled intervals of one unit, from counts and counting processes of shape (bin,)."""
    bins = np.repeat(np.arange(len(y)), y)
    # times within bins, with density proportional to exp(step time)
    time, length = rng.random(len(bins)), duration[bins]
    time = step * np.log1p(time * np.expm1(step * length)) if step else time * length
    time = time[np.lexsort((time, bins))]
    rank = np.arange(len(bins)) - (np.cumsum(y) - y)[bins]  # spikes before it in its bin
    previous = np.where(rank > 0, np.roll(time, 1), 0)
    last = np.zeros(len(y))
    last[bins] = time  # repeated indices keep the last value
    # rescaled time of each bin that follows its last spike, summed over bins
    after = np.append(0, np.cumsum((start + step * y) * (duration - last)))
    waits = np.diff(after[bins], prepend=0) + (start[bins] + step * rank) * (time - previous)
    censored = after[-1] - (after[bins[-1]] if len(bins) else 0)
    return np.append(waits, censored + rng.exponential()) if len(y) else waits
