"""`Observations`: windows of counts as the model sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spikecdl.model.covariates import PART, Covariates
from spikecdl.model.families import Family
from spikecdl.model.penalties import Penalty

STRETCH = 20  # template lengths of the stretches of a part


@dataclass(frozen=True)
class Observations:
    """Windows of counts as the model sees them.

    Counts stay integers as they are stored, in memory or in a file.  `parts` converts a few trials
    at a time to the precision and device of the baseline, so that memory does not grow with the
    number of trials.

    Parameters
    ----------
    y : tensor, shape (trial, unit, channel, bin)
        Observations.  Shared layout: one channel; joint layout: one unit whose channels are the
        recorded units.
    mask : tensor of bool, same shape
        False where nothing was observed.
    family : Family
        With every parameter known.
    baseline : tensor of real numbers, shape (trial, unit, channel, 1) or that of ``y``
        Linear predictor without events, including the offset of covariates.
    learn_baseline : bool
        Whether the constant level of each window is to be fitted with the templates.
    shown : tensor of bool, shape (bin,), optional
        False in bins that are hidden, as if nothing had been observed there.
    covariates : Covariates, optional
        Spike history and drift, whose coefficients are to be fitted with the templates.
    onsets : tensor of bool, shape (trial, unit, 1, onset), optional
        Where templates of the length asked may begin; None: anywhere.
    """

    y: Tensor
    mask: Tensor
    family: Family
    baseline: Tensor
    learn_baseline: bool
    shown: Tensor | None = None
    covariates: Covariates | None = None
    onsets: Tensor | None = None

    def take(self, index: Tensor | slice) -> Observations:
        """Keep some of the trials."""
        return self._map(lambda tensor: tensor[index])

    def load(self) -> Observations:
        """Return real numbers, in the precision and on the device of the baseline."""
        mask = self.mask.to(self.baseline.device)
        return replace(
            self,
            y=self.y.to(self.baseline),
            mask=mask if self.shown is None else mask & self.shown.to(mask.device),
            family=self.family.map(lambda values: values.to(self.baseline)),
            shown=None,
        )

    def parts(self, copies: int = 1) -> Iterator[tuple[slice, Observations]]:
        """Yield the slice of each part of the trials, and the part, loaded.

        A part has about `PART` numbers in all when ``copies`` are made of each.
        """
        for part in self._slices(copies):
            yield part, self.take(part).load()

    def pieces(self) -> Iterator[tuple[slice, slice, Observations]]:
        """Yield trials, bins and the loaded piece: parts of which long windows are cut as well.

        For sums over bins; see `between`.
        """
        n_bins = self.y.shape[-1]
        size = max(1, PART // math.prod(self.y.shape[1:-1]))
        for part in self._slices(1):
            for begin in range(0, n_bins, size):
                bins = slice(begin, min(begin + size, n_bins))
                yield part, bins, self.take(part).between(bins).load()

    def between(self, bins: slice | Tensor) -> Observations:
        """Keep some bins of every window, without covariates and onsets."""
        n_bins, alone = self.y.shape[-1], replace(self, covariates=None, onsets=None)
        found = alone._map(lambda t: t[..., bins] if t.shape[-1] == n_bins else t)
        return found if self.shown is None else replace(found, shown=self.shown[bins])

    def part(self, number: int, length: int) -> Observations:
        """Return evenly spaced trials, about as many as hold so many numbers.

        Where one trial holds more, stretches of all units, long for templates of a ``length``.
        """
        n_trials, n_bins = len(self.y), self.y.shape[-1]
        every = max(1, self.y.numel() // number)
        if n_trials >= every:
            return self.take(slice(None, None, every))
        wanted = number * n_trials * n_bins // self.y.numel()  # bins of each unit
        size = min(n_bins, STRETCH * length)
        n_slots = n_trials * (n_bins // size)
        every = max(1, n_slots // max(1, wanted // size))
        slots = (divmod(slot, n_bins // size) for slot in range(0, n_slots, every))
        return self._stretches([(trial, size * slot) for trial, slot in slots], size)

    def _stretches(self, starts: list[tuple[int, int]], size: int) -> Observations:
        """Return stretches that begin in some trials and bins as trials of their own."""
        n_bins = self.y.shape[-1]

        def cut(values: Tensor) -> Tensor:
            kept = size - (n_bins - values.shape[-1])  # fewer of onsets than of bins
            alike = values.shape[-1] == 1
            parts = [values[k] if alike else values[k, ..., s : s + kept] for k, s in starts]
            return torch.stack(parts)

        found = self.load() if self.shown is not None else self
        found = found._map(cut)
        if found.covariates is None:
            return found
        first = torch.tensor([s for _, s in starts]).to(found.covariates.start)
        return replace(found, covariates=found.covariates.later(first))

    def _slices(self, copies: int) -> Iterator[slice]:
        count = max(1, PART // copies * len(self.y) // max(1, self.y.numel()))
        for first in range(0, len(self.y), count):
            yield slice(first, min(first + count, len(self.y)))

    @property
    def is_one_part(self) -> bool:
        """Whether all observations fit in one part."""
        return self.y.numel() <= PART

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the arithmetic."""
        return self.baseline.dtype

    @property
    def level_precision(self) -> float:
        """Precision of the normal prior of each window's level; infinite if it is not learned.

        The standard deviation is the family's `eta_scale`, or with drift, which explains how
        windows differ, a fifth of it.
        """
        if not self.learn_baseline:
            return math.inf
        return (25.0 if self.drifts else 1.0) / self.family.eta_scale**2

    @property
    def drifts(self) -> bool:
        """Whether a drift explains how windows differ."""
        return self.covariates is not None and self.covariates.drift is not None

    def rows(self) -> Observations:
        """Lay trials and units along one window axis: (window, channel, bin)."""
        return self._map(lambda tensor: tensor.flatten(0, -3))

    def rows_of(self, part: slice) -> tuple[int, int]:
        """Return the first row of some trials, and the first row after them."""
        rows = math.prod(self.y.shape[1:-2])
        return rows * part.start, rows * part.stop

    def onsets_of(self, length: int) -> Tensor | None:
        """Return where templates of some length may begin, (..., onset); see `earlier`."""
        if self.onsets is None:
            return None
        return earlier(self.onsets[..., 0, :], self.y.shape[-1] - length + 1)

    def totals(self) -> Tensor:
        """Sum observations and exposures over bins: (2, trial, unit, channel, 1), float64."""

        def both(some: Observations, part: slice, bins: slice) -> Tensor:
            return torch.stack([some.y, some.family.exposure(some.y)])

        return torch.from_numpy(self.sum_bins(both))[..., None].to(self.baseline.device)

    def sum_bins(self, terms: Callable[[Observations, slice, slice], Tensor]) -> np.ndarray:
        """Sum terms of the observed bins over bins, a piece of the data at a time.

        ``terms`` returns them (..., window, channel, bin) for a piece, in double precision, and its
        rows and bins.  The sums have the shape (..., trial, unit, channel).
        """
        rows, sums = self.rows(), np.zeros(())
        for part, bins, some in rows.pieces():
            found = terms(some.to(torch.float64), part, bins)
            found = torch.where(some.mask, found, 0).sum(-1)
            if not sums.shape:
                sums = np.zeros((*found.shape[:-2], *rows.y.shape[:-1]))
            sums[..., part, :] += found.cpu().numpy()
        return sums.reshape(*sums.shape[:-2], *self.y.shape[:-1])

    def mean_baseline(self) -> Tensor:
        """Return the linear predictor of the mean rate of every window, or with drift every unit.

        Counts have one spike added, in the exposure of one spike at the unit's rate (with half a
        spike added), so that silent windows stay finite.  A signal not observed has the mean of its
        unit.
        """
        family, sums = self.family, self.totals()
        total, exposure = sums.to(self.dtype)
        all_total, all_exposure = sums.sum(1, keepdim=True).to(self.dtype)
        if not family.integer_valued:
            unit = all_total / all_exposure.clamp(min=1)
            return family.link(torch.where(exposure > 0, total / exposure.clamp(min=1), unit))
        unit = (all_total + 0.5) / (all_exposure + 1)
        if self.drifts:
            return family.link_rate(unit).expand_as(total).clone()
        return family.link_rate((total + 1) / (exposure + 1 / unit))

    def estimated_family(self, family: Family, mean: Tensor) -> Family:
        """Return a family, what is not known of it estimated from the observed bins.

        ``mean`` (window, channel, bin) is what is expected of the observations as `rows`; of many,
        some rows are used.
        """
        some = slice(None, None, max(1, self.y.numel() // PART))
        rows = self.rows().take(some).load()
        return family.estimate(rows.y[rows.mask].double(), mean[some][rows.mask].double())

    def of_trials(self, penalty: Penalty, part: slice | Tensor) -> Penalty:
        """Return the penalty of some trials; weights are one number or have trials first."""
        return penalty.map(lambda weight: weight[part] if weight.ndim else weight)

    def group_size(self, penalty: Penalty) -> int:
        """Return how many neighbouring rows the penalty groups: the units of a trial, or 1."""
        return self.y.shape[-3] if penalty.grouped else 1

    def to(self, target: torch.dtype | torch.device | str) -> Observations:
        """Change the precision of real numbers, or move to a device."""
        real = isinstance(target, torch.dtype)
        return self._map(lambda t: t.to(target) if t.is_floating_point() or not real else t)

    def cost(self, eta: Tensor) -> Tensor:
        """Return the negative log likelihood, up to a constant, of the observed bins."""
        return torch.where(self.mask, self.family.cost(self.y, eta), 0).sum()

    def residual(self, eta: Tensor) -> Tensor:
        """Return its derivative with respect to ``-eta``, zero where nothing was observed."""
        return torch.where(self.mask, self.family.residual(self.y, eta), 0)

    def _map(self, change) -> Observations:  # type: ignore[no-untyped-def]
        return replace(
            self,
            y=change(self.y),
            mask=change(self.mask),
            family=self.family.map(change),
            baseline=change(self.baseline),
            covariates=None if self.covariates is None else self.covariates.map(change),
            onsets=None if self.onsets is None else change(self.onsets),
        )


def earlier(onsets: Tensor, n_onsets: int) -> Tensor:
    """Return where longer templates, which have ``n_onsets`` in a window, may begin (..., onset).

    Anywhere from which, cut to the length asked, they can begin where they may.
    """
    reach = onsets.shape[-1] - n_onsets
    return onsets.unfold(-1, reach + 1, 1).any(-1) if reach > 0 else onsets
