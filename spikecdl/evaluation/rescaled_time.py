"""Counts of a unit in rescaled time: arguments checked unit by unit, and the intervals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike

from spikecdl import validation
from spikecdl.model.families import CountingProcess, Family


def by_unit(
    y: ArrayLike, mean: ArrayLike, family: Family, mask: ArrayLike | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray, Family, np.ndarray]]:
    """Yield each unit, and its arguments (trial, 1, bin): few are converted at a time."""
    counts, means = np.asarray(y), np.asarray(mean)
    if counts.ndim != 3:
        raise ValueError(f"`y` {counts.shape} must have shape (trial, unit, bin)")
    observed = np.broadcast_to(True, counts.shape) if mask is None else np.asarray(mask, dtype=bool)
    for name, array in (("mean", means), ("mask", observed)):
        validation.shaped(name, array, counts.shape, "y")
    for unit in range(counts.shape[1]):
        one = slice(unit, unit + 1)
        of_unit = family.map(lambda v: v.expand(counts.shape)[:, one])  # noqa: B023
        yield unit, counts[:, one], means[:, one], of_unit, observed[:, one]


def checked(
    counts: np.ndarray, mean: np.ndarray, family: Family, observed: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray, CountingProcess]:
    """Check the arguments, of units from the ``first`` on; return the counting process, too."""
    expected = torch.as_tensor(np.where(observed, mean, 0), dtype=torch.float64)
    process = family.counting_process(expected)
    kind = type(family).__name__
    if process is None:
        raise ValueError(f"`family` (={kind}) is not one of counts; time rescaling needs spikes")
    outside, support = family.invalid(torch.as_tensor(counts.astype(float)))
    _refuse("y", counts, observed & outside.numpy(), f"{kind} takes {support}", first)
    impossible = torch.isnan(family.link(expected)) | ~torch.isfinite(expected)
    why = f"{kind} cannot have it"
    _refuse("mean", expected.numpy(), observed & impossible.numpy(), why, first)
    return counts.astype(np.int64, copy=False), observed, process


def _refuse(name: str, values: np.ndarray, bad: np.ndarray, why: str, first: int) -> None:
    if bad.any():
        trial, unit, bin_ = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"`{name}` (={values[trial, unit, bin_]:g} at trial {trial}, unit {first + unit}, "
            f"bin {bin_}) is impossible: {why}"
        )


def intervals_of(
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
