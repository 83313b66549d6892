"""From counts to observations: the one place where NumPy becomes torch, and back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.data import BinnedSpikes
from spikecdl.model.families import Family
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

    def rows(self, counts: np.ndarray) -> np.ndarray:
        """(trial, unit, bin) to the windows of both layouts, (window, channel, bin)."""
        return np.reshape(counts, (-1, *self.expand(counts).shape[2:]))

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
    return BinnedSpikes.from_array(array, validation.positive("bin_size", bin_size))


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


def trials_everywhere(counts: BinnedSpikes, each: int = 1) -> np.ndarray:
    """Return ``n_pooled``, with as many as the unit pools elsewhere where nothing was observed.

    Multiplied by ``each``; one number for all takes the memory of one.
    """
    most = counts.n_pooled.max((0, 2), keepdims=True).clip(min=1)
    if most.max() == 1:
        return np.broadcast_to(each, counts.shape)
    return np.multiply(np.where(counts.mask, counts.n_pooled, most), each, dtype=np.int32)


def with_sub_bins(counts: BinnedSpikes, family: Family) -> BinnedSpikes:
    """Return counts that know the family's Bernoulli trials per bin, if it sets them itself."""
    per_trial, rest = divmod(family.fixed_trials or 0, max(int(counts.n_pooled.max()), 1))
    return counts if rest or not per_trial else replace(counts, sub_bins=per_trial)


def observe(
    counts: BinnedSpikes,
    family: Family,
    layout: Layout,
    baseline: Any,
    device: torch.device,
    hidden: np.ndarray | None = None,
) -> Observations:
    """Turn counts into what trainers take.

    Counts of more than one part (see `Observations`) stay where they are, in memory or in a file.

    Parameters
    ----------
    counts : BinnedSpikes
    family : Family
        What only the data know of it is filled in.
    layout : Layout
    baseline : "learned", (start, stop) in seconds, or array_like of rates
        See `DCEA`.
    device : torch.device
    hidden : ndarray of bool, shape (bin,), optional
        True in bins that count as not observed.

    Raises
    ------
    ValueError
        If a count is outside the family's support (naming unit, trial and bin), if the number of
        trials pooled in a bin varies and the family does not know of it, or if the baseline does
        not fit the counts.
    """

    def tensor(values: np.ndarray) -> Tensor:
        return _shared(layout.expand(values))

    y, shown = tensor(counts.counts), None if hidden is None else torch.from_numpy(~hidden)
    family = family.map(lambda given: tensor(_per_bin("n_trials", given, counts)))
    family = family.resolve(tensor(trials_everywhere(counts, counts.sub_bins)))
    none, learn = torch.zeros(*y.shape[:-1], 1, device=device), isinstance(baseline, str)
    data = Observations(y, tensor(counts.mask), family, none, learn, shown)
    data = data.load() if data.is_one_part else data
    _check_support(counts, layout, data)
    _check_pooling(counts, layout, data)
    if learn:
        validation.one_of("baseline", baseline, ("learned",))
        eta = _estimated_baseline(data)
    elif isinstance(baseline, tuple):
        eta = _estimated_baseline(replace(data, shown=_within(counts, baseline, shown)))
    else:
        eta = _given_baseline(counts, layout, data, _given_rate(counts, baseline))
    if not torch.isfinite(eta).all():
        raise ValueError(f"`baseline` (={baseline!r}) must give rates above 0 and below certainty")
    return replace(data, baseline=eta)


def rates(counts: BinnedSpikes, mean: np.ndarray, family: Family) -> np.ndarray:
    """Return expected counts (trial, unit, bin) as rates in Hz per recorded trial.

    A family of real values keeps the units of the signal.  nan where nothing was observed.
    """
    exposure = counts.n_pooled * _count_per_rate(counts, family)
    return mean / np.where(counts.mask, exposure, np.nan)


def baseline_rates(
    counts: BinnedSpikes, layout: Layout, data: Observations, baseline: Tensor
) -> np.ndarray:
    """Return the baseline (trial, unit) as a rate, the mean over its observed bins; 0 if none."""
    rows, n_pooled, means = data.rows(), layout.rows(counts.n_pooled), []
    levels, per_trial = baseline.reshape_as(rows.baseline), _count_per_rate(counts, data.family)
    for part, some in rows.parts():
        mean = some.family.mean(levels[part].expand_as(some.y)).cpu().numpy()
        mask = some.mask.cpu().numpy()
        rate = np.divide(mean, n_pooled[part] * per_trial, out=np.zeros(mean.shape), where=mask)
        means.append(rate.sum(-1) / mask.sum(-1).clip(min=1))
    return np.concatenate(means).reshape(counts.shape[:2])


def _shared(values: np.ndarray) -> Tensor:
    """Return a tensor in the same memory, where torch can have it there, else a copy."""
    if not any(values.strides):  # one number for all
        return torch.tensor(values.flat[0]).expand(values.shape)
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    with warnings.catch_warnings():  # torch does not know of arrays that are read-only
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)


def _estimated_baseline(data: Observations) -> Tensor:
    """Linear predictor of the mean rate of every window over its observed bins.

    Counts have one spike added at the unit's rate over all trials (itself with half a spike
    added), so that silent windows stay finite.  A signal that was not observed has its unit's mean.
    """
    family, sums = data.family, data.totals()
    total, exposure = sums.to(data.dtype)
    all_total, all_exposure = sums.sum(1, keepdim=True).to(data.dtype)
    if not family.integer_valued:
        unit = all_total / all_exposure.clamp(min=1)
        return family.link(torch.where(exposure > 0, total / exposure.clamp(min=1), unit))
    unit = (all_total + 0.5) / (all_exposure + 1)
    return family.link_rate((total + 1) / (exposure + 1 / unit))


def _given_baseline(
    counts: BinnedSpikes, layout: Layout, data: Observations, rate: np.ndarray
) -> Tensor:
    """Linear predictor of rates per recorded trial, (trial, unit, 1)."""
    rows, n_pooled, rate = data.rows(), layout.rows(counts.n_pooled), layout.rows(rate)
    per_trial, most = _count_per_rate(counts, data.family), []
    for part, some in rows.parts():
        exposure = some.family.exposure(some.y).cpu().numpy().clip(min=1)
        most.append((rate[part] * (n_pooled[part] * per_trial) / exposure).max(-1, keepdims=True))
    of_exposure = torch.as_tensor(np.concatenate(most)).to(data.baseline)
    return data.family.link_rate(of_exposure.reshape_as(data.baseline))


def _within(counts: BinnedSpikes, window: tuple[float, float], shown: Tensor | None) -> Tensor:
    """Mark the bins that lie wholly inside a window of time; every unit needs one it observed."""
    if len(window) != 2:
        raise ValueError(
            f"`baseline` (={window!r}) must be a (start, stop) pair in seconds; pass rates as a "
            "list or an array"
        )
    start, stop = (validation.real("baseline", edge, "seconds") for edge in window)
    edges = counts.times
    slack = 1e-6 * counts.bin_size
    inside = (edges >= start - slack) & (edges + counts.bin_size <= stop + slack)
    if not inside.any():
        raise ValueError(
            f"`baseline` (={window!r}) holds no whole bin of windows from {edges[0]:g} to "
            f"{edges[-1] + counts.bin_size:g} s"
        )
    inside = inside if shown is None else inside & shown.numpy()
    seen = np.any([mask[:, inside].any(-1) for mask in counts.mask], axis=0)
    unseen = counts.mask.any((0, 2)) & ~seen
    if unseen.any():
        unit = counts.unit_ids[int(unseen.argmax())]
        raise ValueError(
            f"`baseline` (={window!r}) holds no observed bin of unit {unit!r}; choose another "
            "window, or other units"
        )
    return torch.from_numpy(inside)


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


def _count_per_rate(counts: BinnedSpikes, family: Family) -> float:
    """What a rate is multiplied by to give an expected count per bin and recorded trial."""
    return counts.bin_size if family.integer_valued else 1.0


def _per_bin(name: str, given: Tensor, counts: BinnedSpikes) -> np.ndarray:
    """Give a parameter that differs between windows the shape of the counts."""
    try:
        return np.broadcast_to(given.cpu().numpy(), counts.shape)
    except ValueError:
        raise ValueError(
            f"`{name}` (shape {tuple(given.shape)}) must broadcast to the counts (trial, unit, "
            f"bin) = {counts.shape}"
        ) from None


def _check_support(counts: BinnedSpikes, layout: Layout, data: Observations) -> None:
    stored = layout.rows(counts.counts)
    for part, some in data.rows().parts():
        wrong = (some.family.invalid(some.y)[0] & some.mask).cpu().numpy()
        if data.family.integer_valued:
            wrong |= stored[part] > _EXACT
        if wrong.any():
            window, channel, bin_ = (int(i[0]) for i in np.nonzero(wrong))
            at = (part.start + window) * wrong.shape[1] + channel
            family = some.family.map(lambda values: values[window, channel, bin_])  # noqa: B023
            _, support = family.invalid(some.y[window, channel, bin_])
            trial, unit = divmod(at, counts.n_units)
            _refuse_count(counts, trial, unit, bin_, data.family, support)


def _refuse_count(
    counts: BinnedSpikes, trial: int, unit: int, bin_: int, family: Family, support: str
) -> None:
    """Say what is wrong with a count."""
    which = (
        f"count {counts.counts[trial, unit, bin_]} of unit {counts.unit_ids[unit]!r}, trial "
        f"{counts.trial_ids[trial]!r}, bin {bin_}"
    )
    if family.integer_valued and counts.counts[trial, unit, bin_] > _EXACT:
        raise ValueError(f"{which} is above {_EXACT}, the most that can be told apart")
    remedy = "use smaller bins, another family, or spikecdl.Binomial(n_trials=...)"
    if counts.counts[trial, unit, bin_] < 0:
        remedy = "use the Gaussian family for a real-valued signal"
    raise ValueError(
        f"{which} is outside the support of {type(family).__name__}: {support}; {remedy}"
    )


def _check_pooling(counts: BinnedSpikes, layout: Layout, data: Observations) -> None:
    """Refuse pooled counts whose number of trials varies if the family would take it for a rate."""
    if counts.n_pooled.max() <= 1:
        return
    n_pooled, found = layout.rows(counts.n_pooled), []
    for part, some in data.rows().parts():
        pooled, mask = n_pooled[part], some.mask.cpu().numpy()
        exposure = some.family.exposure(some.y).cpu().numpy() / pooled.clip(min=1)
        found.append(np.stack([*_range(pooled, mask), *_range(exposure, mask)]))
    ranges = np.concatenate(found, axis=1).reshape(4, *counts.shape[:2])
    (pooled_least, least), (pooled_most, most) = ranges[::2].min(1), ranges[1::2].max(1)
    varies = (pooled_most > pooled_least) & (most > (1 + 1e-6) * least)
    if varies.any():
        unit = int(varies.argmax())
        raise ValueError(
            f"the bins of unit {counts.unit_ids[unit]!r} pool from {pooled_least[unit]:g} to "
            f"{pooled_most[unit]:g} trials, which {type(data.family).__name__} would take for "
            "changes of its rate; use family='binomial', which counts trials, or do not pool"
        )


def _range(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest observed value of each window and channel."""
    return np.where(mask, values, np.inf).min(-1), np.where(mask, values, -np.inf).max(-1)
