"""Spikes on an axis of time on which, if a model is right, they come at rate one."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import kstwo, kstwobign

from spikecdl import validation
from spikecdl.model.families import FAMILIES, CountingProcess, Family


def rescaled_intervals(
    y: ArrayLike,
    mean: ArrayLike,
    family: Family,
    mask: ArrayLike | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> list[np.ndarray]:
    r"""Turn the counts of each unit into intervals that are exponential if the model is right.

    The count of a bin is taken for the number of spikes of a process that, after n of them, fires
    at rate a + b n for a duration d (`Family.counting_process`). Given the count, these spikes lie
    independently in the bin, with density proportional to exp(b v) at 0 < v < d, and are drawn
    there. Time rescaled, the integral of the rate along what happened, then makes them a Poisson
    process of rate one, exactly, whatever the size of the bins:

    ==================  =========  ============================  ====
    counts              a          d                             b
    ==================  =========  ============================  ====
    binomial            n_trials   -log(1 - mean / n_trials)     -1
    Poisson             mean       1                             0
    negative binomial   shape      log(1 + mean / shape)         1
    ==================  =========  ============================  ====

    For one Bernoulli trial per bin this is the discrete-time rescaling of Haslinger, Pipa and
    Brown: empty bins count q = -log(1 - p), the bin of a spike -log(1 - r (1 - exp(-q))) with r
    uniform, and the clock starts anew after it.

    The clock stands still where nothing was observed and runs on from trial to trial, so intervals
    may span their borders. The first begins with the first trial. The last, which the end of the
    recording cuts off, is completed by a draw from what the model expects then, an exponential: no
    interval is left out for being long.

    Parameters
    ----------
    y : array_like of int, shape (trial, unit, bin)
        Counts.
    mean : array_like, shape (trial, unit, bin)
        Expected counts.
    family : Family
        Observation model, with ``n_trials`` known; parameters that are tensors must broadcast to
        ``y``.
    mask : array_like of bool, shape (trial, unit, bin), optional
        False where nothing was observed.
    random_state : int, Generator or None
        Of the places within bins.

    Returns
    -------
    list of ndarray
        Intervals of each unit in the order of time, one more than it has spikes (so a silent unit
        has the one that the end cut off); none of a unit that was not observed.

    Raises
    ------
    ValueError
        If shapes differ, the family is not one of counts, a count is outside its support, or a mean
        is none that it can have.

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
        of_unit = [values[:, unit][seen] for values in (counts, start, duration)]
        intervals.append(_intervals(of_unit[0], of_unit[1], of_unit[2], process.step, rng))
    return intervals


def known(family: str | Family, n_trials: np.ndarray) -> Family:
    """Return a family, given by itself or its name, with what only the data know filled in."""
    family = validation.member("family", family, FAMILIES, Family)
    return family.resolve(torch.as_tensor(np.array(n_trials, dtype=float)))


def draw_counts(mean: np.ndarray, family: Family, rng: np.random.Generator) -> np.ndarray:
    """Draw counts of these means from the family."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    eta = family.link(torch.as_tensor(mean, dtype=torch.float64))
    return family.sample(eta, generator).numpy().astype(np.int64)


def _checked(
    y: ArrayLike, mean: ArrayLike, family: Family, mask: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, CountingProcess]:
    """Counts, what was observed, and the process that the model says they come from."""
    counts = np.asarray(y)
    observed = np.ones(counts.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    if counts.ndim != 3:
        raise ValueError(f"`y` {counts.shape} must have shape (trial, unit, bin)")
    for name, array in (("mean", np.asarray(mean)), ("mask", observed)):
        if array.shape != counts.shape:
            raise ValueError(f"`{name}` {array.shape} must have the shape of `y` {counts.shape}")
    expected = torch.as_tensor(np.where(observed, mean, 0), dtype=torch.float64)
    process = family.counting_process(expected)
    kind = type(family).__name__
    if process is None:
        raise ValueError(
            f"`family` (={kind}) is not one of counts, and only spikes can be put on rescaled time"
        )
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
    """Intervals between the spikes of successive bins, each array (bin,), in rescaled time."""
    bins = np.repeat(np.arange(len(y)), y)
    place = _places(duration[bins], step, rng)
    place = place[np.lexsort((place, bins))]
    rank = np.arange(len(bins)) - (np.cumsum(y) - y)[bins]  # spikes before it in its bin
    previous = np.where(rank > 0, np.roll(place, 1), 0)
    latest = np.zeros(len(y))
    latest[bins] = place  # the last one stays
    after = np.append(0, np.cumsum((start + step * y) * (duration - latest)))  # the last spikes
    waits = np.diff(after[bins], prepend=0) + (start[bins] + step * rank) * (place - previous)
    unfinished = after[-1] - (after[bins[-1]] if len(bins) else 0)
    return np.append(waits, unfinished + rng.exponential()) if len(y) else waits


def _places(duration: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the place of each spike in its bin, with density proportional to exp(step place)."""
    r = rng.random(len(duration))
    return step * np.log1p(r * np.expm1(step * duration)) if step else r * duration


_FEW = 100


def distance(values: np.ndarray) -> float:
    """Largest distance of the distribution of values from the uniform one; nan without values."""
    number = len(values)
    if not number:
        return math.nan
    ordered, steps = np.sort(values), np.arange(number + 1) / number
    return float(max((ordered - steps[:-1]).max(), (steps[1:] - ordered).max()))


def exceeded_by(distance: float, number: int) -> float:
    """Probability that uniform values, so many, have that distance or a larger one."""
    if number <= _FEW:
        return float(kstwo.sf(distance, max(number, 1)))  # nan stays nan
    z = math.sqrt(number) * distance
    return float(kstwobign.sf(z + 1 / (6 * math.sqrt(number)) + (z - 1) / (4 * number)))


@lru_cache(maxsize=1 << 16)
def limit(level: float, number: int) -> float:
    """Distance that uniform values, so many, exceed with that probability; nan of none."""
    if number <= _FEW:
        return float(kstwo.isf(level, number)) if number else math.nan
    z = float(kstwobign.isf(level)) - 1 / (6 * math.sqrt(number)) + 1 / (4 * number)
    return z / (1 + 1 / (4 * number)) / math.sqrt(number)
