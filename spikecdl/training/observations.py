"""What a trainer is given: windows of observations and what is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikecdl.families import Family
from spikecdl.penalties import Penalty


@dataclass(frozen=True)
class Observations:
    """Windows of counts as the model sees them.

    Parameters
    ----------
    y : tensor, shape (trial, unit, channel, bin)
        Observations.  Shared layout: one channel; joint layout: one unit whose channels are the
        recorded units.
    mask : tensor of bool, same shape
        False where nothing was observed.
    family : Family
        With every parameter known.
    baseline : tensor, shape (trial, unit, channel, 1)
        Linear predictor without events.
    learn_baseline : bool
        Whether the baseline is to be fitted with the templates.
    """

    y: Tensor
    mask: Tensor
    family: Family
    baseline: Tensor
    learn_baseline: bool

    def take(self, index: Tensor | slice) -> Observations:
        """Keep some of the trials."""
        return self._map(lambda tensor: tensor[index])

    def parts(self, most: int) -> Iterator[slice]:
        """Split the trials so that a part has about so many numbers."""
        count = max(1, most * len(self.y) // max(1, self.y.numel()))
        for first in range(0, len(self.y), count):
            yield slice(first, min(first + count, len(self.y)))

    def rows(self) -> Observations:
        """Lay trials and units along one window axis: (window, channel, bin)."""
        return self._map(lambda tensor: tensor.flatten(0, -3))

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
