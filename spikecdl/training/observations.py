"""What a trainer is given: windows of observations and what is known of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikecdl.families import Family
from spikecdl.penalties import Penalty

PART = 2**22  # numbers that are worked on at once


@dataclass(frozen=True)
class Observations:
    """Windows of counts as the model sees them.

    Counts may be integers as they are stored, in memory or in a file.  Arithmetic is on real
    numbers, in the precision and on the device of the baseline: `parts` makes them of some trials
    at a time, so that memory does not grow with the number of trials.

    Parameters
    ----------
    y : tensor, shape (trial, unit, channel, bin)
        Observations.  Shared layout: one channel; joint layout: one unit whose channels are the
        recorded units.
    mask : tensor of bool, same shape
        False where nothing was observed.
    family : Family
        With every parameter known.
    baseline : tensor of real numbers, shape (trial, unit, channel, 1)
        Linear predictor without events.
    learn_baseline : bool
        Whether the baseline is to be fitted with the templates.
    shown : tensor of bool, shape (bin,), optional
        False in bins that are hidden, as if nothing had been observed there.
    """

    y: Tensor
    mask: Tensor
    family: Family
    baseline: Tensor
    learn_baseline: bool
    shown: Tensor | None = None

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
        """Yield some trials after the other, loaded, and which they are.

        A part has about `PART` numbers, counted ``copies`` times: as many as are made of each.
        """
        count = max(1, PART // copies * len(self.y) // max(1, self.y.numel()))
        for first in range(0, len(self.y), count):
            part = slice(first, min(first + count, len(self.y)))
            yield part, self.take(part).load()

    @property
    def is_one_part(self) -> bool:
        """Whether all can be worked on at once."""
        return self.y.numel() <= PART

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the arithmetic."""
        return self.baseline.dtype

    def rows(self) -> Observations:
        """Lay trials and units along one window axis: (window, channel, bin)."""
        return self._map(lambda tensor: tensor.flatten(0, -3))

    def rows_of(self, part: slice) -> tuple[int, int]:
        """Return the first of the rows of some trials, and the first after them."""
        rows = math.prod(self.y.shape[1:-2])
        return rows * part.start, rows * part.stop

    def totals(self) -> Tensor:
        """Return sums over observed bins, of observations and of exposure, in double precision.

        Of shape (2, trial, unit, channel, 1).
        """
        sums = []
        for _, some in self.rows().parts():
            both = torch.stack([some.y, some.family.exposure(some.y)])
            both = torch.where(some.mask, both, 0)
            sums.append(both.sum(-1, keepdim=True, dtype=torch.float64))
        return torch.cat(sums, 1).reshape(2, *self.baseline.shape)

    def share(self, penalty: Penalty, part: slice | Tensor) -> Penalty:
        """Return the penalty of some trials, whose weights (trial, ..., template, 1) go along."""
        each = (self.y.ndim, len(self.y))
        return penalty.map(lambda w: w[part] if (w.ndim, *w.shape[:1]) == each else w)

    def together(self, penalty: Penalty) -> int:
        """Return how many neighbouring rows the penalty takes together: units of a trial, or 1."""
        return self.y.shape[-3] if penalty.coupled else 1

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
        )
