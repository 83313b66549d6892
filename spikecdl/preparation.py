"""From counts to observations: the one place where NumPy becomes torch, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecdl import _validation
from spikecdl.data import BinnedSpikes
from spikecdl.families import Family
from spikecdl.training import Observations

_EXACT = 2**24  # counts above are not exact in single precision


@dataclass(frozen=True)
class Layout:
    """How windows are laid out: ``axis`` is where the axis that is missing goes.

    Counts are (trial, unit, bin).  Shared: every unit of every trial is a window of one channel,
    (trial, unit, 1, bin).  Joint: units are the channels of one window, (trial, 1, unit, bin).
    """

    name: str
    axis: int

    def expand(self, counts: np.ndarray) -> np.ndarray:
        """(trial, unit, bin) to (trial, unit, channel, bin)."""
        return np.expand_dims(counts, self.axis)

    def squeeze(self, signal: np.ndarray) -> np.ndarray:
        """(trial, unit, channel, bin) to (trial, unit, bin)."""
        return np.squeeze(signal, self.axis)


LAYOUTS = {layout.name: layout for layout in (Layout("shared", 2), Layout("joint", 1))}


def as_counts(X: Any, bin_size: float) -> BinnedSpikes:
    """Return counts as `BinnedSpikes`; a (trial, bin) array is of one unit."""
    if isinstance(X, BinnedSpikes):
        return X
    return BinnedSpikes.from_array(np.asarray(X), _validation.positive("bin_size", bin_size))


def observe(
    counts: BinnedSpikes,
    family: Family,
    layout: Layout,
    baseline: Any,
    device: torch.device,
) -> Observations:
    """Turn counts into what trainers take.

    Parameters
    ----------
    counts : BinnedSpikes
    family : Family
        What only the data know of it is filled in.
    layout : Layout
    baseline : "learned", (start, stop) in seconds, or array_like of rates
        See `DCEA`.
    device : torch.device

    Raises
    ------
    ValueError
        If a count is outside the family's support (naming unit, trial and bin), or the baseline
        does not fit the counts.
    """

    def tensor(values: np.ndarray, dtype: torch.dtype | None = torch.float32) -> Tensor:
        return torch.as_tensor(layout.expand(np.array(values)), dtype=dtype, device=device)

    y, mask = tensor(counts.counts), tensor(counts.mask, torch.bool)
    family = family.resolve(tensor(counts.n_trials))
    _check_support(counts, family, y, mask, layout)
    learn = isinstance(baseline, str)
    if learn:
        _validation.one_of("baseline", baseline, ("learned",))
        eta = _estimated_baseline(family, y, mask)
    elif isinstance(baseline, tuple):
        bins = layout.expand(counts.mask & _within(counts, baseline))
        eta = _estimated_baseline(family, y, torch.as_tensor(bins, device=device))
    else:
        eta = family.link_rate(tensor(_given_rate(counts, family, baseline)))
    if not torch.isfinite(eta).all():
        raise ValueError(f"`baseline` (={baseline!r}) must give rates above 0 and below certainty")
    return Observations(y, mask, family, eta, learn)


def rates(counts: BinnedSpikes, mean: np.ndarray, family: Family) -> np.ndarray:
    """Return expected counts (trial, unit, bin) as rates in Hz per recorded trial.

    A family of real values keeps the units of the signal.  nan where nothing was observed.
    """
    if not family.integer_valued:
        return np.where(counts.mask, mean, np.nan)
    exposure = np.where(counts.mask, counts.n_pooled * counts.bin_size, np.nan)
    return mean / exposure


def null_mean(data: Observations) -> Tensor:
    """Return the expected observations of a constant rate per unit over all trials and bins."""
    return _rate(data.family, data.y, data.mask, (0, -1)) * data.family.exposure(data.y)


def _rate(
    family: Family,
    y: Tensor,
    mask: Tensor,
    dim: tuple[int, ...],
    prior: Tensor | None = None,
) -> Tensor:
    """Rate per exposure over some axes, kept as ones; ``prior`` adds one spike at that rate."""
    exposure = torch.where(mask, family.exposure(y), 0).sum(dim, keepdim=True)
    total = torch.where(mask, y, 0).sum(dim, keepdim=True)
    if prior is None:
        return total / exposure.clamp(min=1)
    return (total + 1) / (exposure + 1 / prior)


def _estimated_baseline(family: Family, y: Tensor, mask: Tensor) -> Tensor:
    """Linear predictor of the mean rate of every window over the bins of ``mask``.

    Counts have one spike added at the unit's rate over all trials (itself with half a spike
    added), so that silent windows stay finite.
    """
    if not family.integer_valued:
        return _rate(family, y, mask, (-1,))
    exposure = torch.where(mask, family.exposure(y), 0)
    spikes = torch.where(mask, y, 0).sum((0, -1), keepdim=True)
    unit = (spikes + 0.5) / (exposure.sum((0, -1), keepdim=True) + 1)
    rate = _rate(family, y, mask, (-1,), prior=unit)
    return family.link_rate(rate)


def _within(counts: BinnedSpikes, window: tuple[float, float]) -> np.ndarray:
    """Mark the bins that lie wholly inside a window of time; at least one is needed."""
    start, stop = window
    edges = counts.times
    slack = 1e-6 * counts.bin_size
    inside = (edges >= start - slack) & (edges + counts.bin_size <= stop + slack)
    if not inside.any():
        raise ValueError(
            f"`baseline` (={window!r}) holds no whole bin of windows from {edges[0]:g} to "
            f"{edges[-1] + counts.bin_size:g} s"
        )
    return inside


def _given_rate(counts: BinnedSpikes, family: Family, baseline: Any) -> np.ndarray:
    """Baselines given as rates in Hz, per bin and exposure (trial, unit, 1)."""
    rate = np.asarray(baseline, dtype=float)
    shape = counts.shape[:2]
    try:
        rate = np.broadcast_to(rate, shape)[..., None]
    except ValueError:
        raise ValueError(
            f"`baseline` (shape {rate.shape}) must be 'learned', a (start, stop) pair, or rates "
            f"of shape (unit,) or (trial, unit) = {shape}"
        ) from None
    if not family.integer_valued:
        return rate
    per_bin = rate * counts.bin_size
    pooled = counts.n_pooled.max(axis=-1, keepdims=True)
    return per_bin / counts.slots if family.name == "binomial" else per_bin * pooled


def _check_support(
    counts: BinnedSpikes, family: Family, y: Tensor, mask: Tensor, layout: Layout
) -> None:
    wrong, support = family.invalid(y)
    wrong = layout.squeeze((wrong & mask).cpu().numpy())
    if family.integer_valued:
        wrong |= counts.counts > _EXACT
    if not wrong.any():
        return
    trial, unit, bin_ = (int(i[0]) for i in np.nonzero(wrong))
    value = counts.counts[trial, unit, bin_]
    limit = counts.n_trials[trial, unit, bin_]
    of = f"{support} (n_trials={limit} here)" if family.name == "binomial" else support
    raise ValueError(
        f"count {value} of unit {counts.unit_ids[unit]!r}, trial {counts.trial_ids[trial]!r}, bin "
        f"{bin_} is outside the support of {type(family).__name__}: {of}; use smaller bins, "
        "another family, or spikecdl.Binomial(n_trials=...)"
    )
