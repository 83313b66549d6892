"""From counts to observations: the one place where NumPy becomes torch, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
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

    def squeeze(self, signal: Tensor) -> np.ndarray:
        """(trial, unit, channel, bin) to (trial, unit, bin), back in NumPy."""
        return signal.squeeze(self.axis).cpu().numpy()


LAYOUTS = {layout.name: layout for layout in (Layout("shared", 2), Layout("joint", 1))}


def as_counts(X: Any, bin_size: float) -> BinnedSpikes:
    """Return counts as `BinnedSpikes`; a (trial, bin) array is of one unit."""
    if isinstance(X, BinnedSpikes):
        return X
    array = np.asarray(X)
    if array.dtype.kind == "i" and array.min(initial=0) < 0:
        array = array.astype(float)  # a signal, not counts; families say whether they take it
    return BinnedSpikes.from_array(array, _validation.positive("bin_size", bin_size))


def check_like_fit(
    counts: BinnedSpikes, bin_size: float, n_bins: int, channels: tuple[int | str, ...] | None
) -> None:
    """Raise unless templates of that bin size and length, and of those units, suit the counts."""
    if not np.isclose(counts.bin_size, bin_size, rtol=1e-9):
        raise ValueError(
            f"`bin_size` of the counts (={counts.bin_size:g}) must be that of the fit "
            f"({bin_size:g}); bin the spikes again"
        )
    if counts.n_bins < n_bins:
        raise ValueError(
            f"the windows have {counts.n_bins} bins, fewer than a template ({n_bins}); use longer "
            "windows"
        )
    units = counts.unit_ids
    if channels is None or units == channels:
        return
    if len(units) != len(channels):
        raise ValueError(
            f"the counts have {len(units)} units, the joint templates {len(channels)}; select the "
            "units of the fit"
        )
    if set(units) == set(channels):
        raise ValueError(
            f"the units of the counts {units} are in another order than those of the joint "
            f"templates {channels}; select them in that order"
        )


def hide(counts: BinnedSpikes, bins: np.ndarray) -> BinnedSpikes:
    """Return counts as if some bins, where ``bins`` is True, had not been observed."""
    return replace(
        counts,
        counts=np.where(bins, 0, counts.counts),
        mask=counts.mask & ~bins,
        n_pooled=np.where(bins, 0, counts.n_pooled),
    )


def trials_everywhere(counts: BinnedSpikes) -> np.ndarray:
    """Return ``n_pooled``, with as many as the unit pools elsewhere where nothing was observed."""
    most = counts.n_pooled.max((0, 2), keepdims=True)
    return np.where(counts.mask, counts.n_pooled, most.clip(min=1))


def with_slots(counts: BinnedSpikes, family: Family) -> BinnedSpikes:
    """Return counts that know the family's Bernoulli trials per bin, if it sets them itself."""
    per_trial, rest = divmod(family.fixed_trials or 0, max(int(counts.n_pooled.max()), 1))
    return counts if rest or not per_trial else replace(counts, slots=per_trial)


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
        If a count is outside the family's support (naming unit, trial and bin), if the number of
        trials pooled in a bin varies and the family does not know of it, or if the baseline does
        not fit the counts.
    """

    def tensor(values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.as_tensor(layout.expand(np.array(values)), dtype=dtype, device=device)

    y, mask = tensor(counts.counts), tensor(counts.mask, torch.bool)
    family = family.map(lambda given: tensor(_per_bin("n_trials", given, counts)))
    family = family.resolve(tensor(trials_everywhere(counts) * counts.slots))
    _check_support(counts, family, layout, y, mask)
    exposure = layout.squeeze(family.exposure(y))
    _check_pooling(counts, family, exposure)
    learn = isinstance(baseline, str)
    if learn:
        _validation.one_of("baseline", baseline, ("learned",))
        eta = _estimated_baseline(family, y, mask)
    elif isinstance(baseline, tuple):
        eta = _estimated_baseline(family, y, tensor(_within(counts, baseline), torch.bool))
    else:
        mean = _given_rate(counts, baseline) * _count_per_rate(counts, family)
        eta = family.link_rate(tensor((mean / exposure.clip(min=1)).max(-1, keepdims=True)))
    if not torch.isfinite(eta).all():
        raise ValueError(f"`baseline` (={baseline!r}) must give rates above 0 and below certainty")
    return Observations(y, mask, family, eta, learn)


def rates(counts: BinnedSpikes, mean: np.ndarray, family: Family) -> np.ndarray:
    """Return expected counts (trial, unit, bin) as rates in Hz per recorded trial.

    A family of real values keeps the units of the signal.  nan where nothing was observed.
    """
    return mean / np.where(counts.mask, _count_per_rate(counts, family), np.nan)


def baseline_rates(
    counts: BinnedSpikes, layout: Layout, data: Observations, baseline: Tensor
) -> np.ndarray:
    """Return the baseline (trial, unit) as a rate, the mean over its observed bins; 0 if none."""
    mean = layout.squeeze(data.family.mean(baseline.expand_as(data.y)))
    rate = np.where(counts.mask, rates(counts, mean, data.family), 0)
    return rate.sum(-1) / counts.mask.sum(-1).clip(min=1)


def _totals(
    family: Family, y: Tensor, mask: Tensor, dim: int | tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Sums of observations and of exposure over some axes, kept as ones."""
    total = torch.where(mask, y, 0).sum(dim, keepdim=True)
    return total, torch.where(mask, family.exposure(y), 0).sum(dim, keepdim=True)


def _estimated_baseline(family: Family, y: Tensor, mask: Tensor) -> Tensor:
    """Linear predictor of the mean rate of every window over the bins of ``mask``.

    Counts have one spike added at the unit's rate over all trials (itself with half a spike
    added), so that silent windows stay finite.  A signal that was not observed has its unit's mean.
    """
    total, exposure = _totals(family, y, mask, -1)
    all_total, all_exposure = _totals(family, y, mask, (0, -1))
    if not family.integer_valued:
        unit = all_total / all_exposure.clamp(min=1)
        return torch.where(exposure > 0, total / exposure.clamp(min=1), unit)
    unit = (all_total + 0.5) / (all_exposure + 1)
    return family.link_rate((total + 1) / (exposure + 1 / unit))


def _within(counts: BinnedSpikes, window: tuple[float, float]) -> np.ndarray:
    """Mark the observed bins that lie wholly inside a window of time; every unit needs one."""
    if len(window) != 2:
        raise ValueError(
            f"`baseline` (={window!r}) must be a (start, stop) pair in seconds; pass rates as a "
            "list or an array"
        )
    start, stop = (_validation.real("baseline", edge, "seconds") for edge in window)
    edges = counts.times
    slack = 1e-6 * counts.bin_size
    inside = (edges >= start - slack) & (edges + counts.bin_size <= stop + slack)
    if not inside.any():
        raise ValueError(
            f"`baseline` (={window!r}) holds no whole bin of windows from {edges[0]:g} to "
            f"{edges[-1] + counts.bin_size:g} s"
        )
    bins = counts.mask & inside
    unseen = counts.mask.any((0, 2)) & ~bins.any((0, 2))
    if unseen.any():
        unit = counts.unit_ids[int(unseen.argmax())]
        raise ValueError(
            f"`baseline` (={window!r}) holds no observed bin of unit {unit!r}; choose another "
            "window, or other units"
        )
    return bins


def _given_rate(counts: BinnedSpikes, baseline: Any) -> np.ndarray:
    """Rates given as (unit,) or (trial, unit), as (trial, unit, 1)."""
    rate = np.asarray(baseline, dtype=float)
    shape = counts.shape[:2]
    try:
        return np.broadcast_to(rate, shape)[..., None]
    except ValueError:
        raise ValueError(
            f"`baseline` (shape {rate.shape}) must be 'learned', a (start, stop) pair, or rates "
            f"of shape (unit,) or (trial, unit) = {shape}"
        ) from None


def _count_per_rate(counts: BinnedSpikes, family: Family) -> np.ndarray:
    """What a rate per recorded trial is multiplied by to give an expected count per bin."""
    return counts.n_pooled * (counts.bin_size if family.integer_valued else 1.0)


def _per_bin(name: str, given: Tensor, counts: BinnedSpikes) -> np.ndarray:
    """Give a parameter that differs between windows the shape of the counts."""
    try:
        return np.broadcast_to(given.cpu().numpy(), counts.shape)
    except ValueError:
        raise ValueError(
            f"`{name}` (shape {tuple(given.shape)}) must broadcast to the counts (trial, unit, "
            f"bin) = {counts.shape}"
        ) from None


def _check_support(
    counts: BinnedSpikes, family: Family, layout: Layout, y: Tensor, mask: Tensor
) -> None:
    large = family.integer_valued & (counts.counts > _EXACT)
    outside = layout.squeeze(family.invalid(y)[0] & mask) & ~large
    if not (large | outside).any():
        return
    trial, unit, bin_ = (int(i[0]) for i in np.nonzero(large | outside))
    which = (
        f"count {counts.counts[trial, unit, bin_]} of unit {counts.unit_ids[unit]!r}, trial "
        f"{counts.trial_ids[trial]!r}, bin {bin_}"
    )
    if large[trial, unit, bin_]:
        raise ValueError(f"{which} is above {_EXACT}, the most that can be told apart")
    where = (trial, unit, 0, bin_) if layout.axis == 2 else (trial, 0, unit, bin_)
    _, support = family.map(lambda values: values[where]).invalid(y[where])
    remedy = "use smaller bins, another family, or spikecdl.Binomial(n_trials=...)"
    if counts.counts[trial, unit, bin_] < 0:
        remedy = "use the Gaussian family for a real-valued signal"
    raise ValueError(
        f"{which} is outside the support of {type(family).__name__}: {support}; {remedy}"
    )


def _check_pooling(counts: BinnedSpikes, family: Family, exposure: np.ndarray) -> None:
    """Refuse pooled counts whose number of trials varies if the family would take it for a rate."""
    pooled_least, pooled_most = _range(counts.n_pooled, counts.mask)
    least, most = _range(exposure / counts.n_pooled.clip(min=1), counts.mask)
    varies = (pooled_most > pooled_least) & (most > (1 + 1e-6) * least)
    if varies.any():
        unit = int(varies.argmax())
        raise ValueError(
            f"the bins of unit {counts.unit_ids[unit]!r} pool from {pooled_least[unit]:g} to "
            f"{pooled_most[unit]:g} trials, which {type(family).__name__} would take for changes "
            "of its rate; use family='binomial', which counts trials, or do not pool"
        )


def _range(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest observed value of each unit."""
    least = np.where(mask, values, np.inf).min((0, 2))
    return least, np.where(mask, values, -np.inf).max((0, 2))
