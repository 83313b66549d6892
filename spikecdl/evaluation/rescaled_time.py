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
) -> Iterator[tuple[np.ndarray, CountingProcess]]:
    """Yield the counts of each unit and their process, in its observed bins (bin,)."""
    counts, means = np.asarray(y), np.asarray(mean)
    if counts.ndim != 3:
        raise ValueError(f"`y` {counts.shape} must have shape (trial, unit, bin)")
    observed = np.broadcast_to(True, counts.shape) if mask is None else np.asarray(mask, dtype=bool)
    for name, array in (("mean", means), ("mask", observed)):
        validation.shaped(name, array, counts.shape, "y")
    kind = type(family).__name__
    for unit in range(counts.shape[1]):
        here = observed[:, unit]
        of_unit = family.map(lambda v: v.expand(counts.shape)[:, unit][torch.tensor(here)])  # noqa: B023
        values = torch.as_tensor(counts[:, unit][here].astype(float))
        expected = torch.as_tensor(means[:, unit][here], dtype=torch.float64)
        process = of_unit.counting_process(expected)
        if process is None:
            raise ValueError(
                f"`family` (={kind}) is not one of counts; time rescaling needs spikes"
            )
        outside, support = of_unit.invalid(values)
        impossible = torch.isnan(of_unit.link(expected)) | ~torch.isfinite(expected)
        for name, entries, bad, why in (
            ("y", values, outside, f"{kind} takes {support}"),
            ("mean", expected, impossible, f"{kind} cannot have it"),
        ):
            if bad.any():
                first = int(bad.nonzero()[0])
                trial, bin_ = np.argwhere(here)[first]
                raise ValueError(
                    f"`{name}` (={entries[first]:g} at trial {trial}, unit {unit}, bin {bin_}) is "
                    f"impossible: {why}"
                )
        yield values.numpy().astype(np.int64), process


def intervals_of(y: np.ndarray, process: CountingProcess, rng: np.random.Generator) -> np.ndarray:
    """Rescaled intervals of one unit, from counts and counting processes of shape (bin,)."""
    start, duration, step = process.start.numpy(), process.duration.numpy(), process.step
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
