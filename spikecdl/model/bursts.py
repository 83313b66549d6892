"""Bursts: spikes that follow others are added to the mean, whatever the linear predictor is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.model.families import Poisson, ScalarLoss


@dataclass(frozen=True)
class Bursts:
    r"""Further spikes after a spike, which are added to the rate, whatever else it is.

    .. math:: \mathrm{E}\, y_t = e^{\eta_t} + \sum_{k \ge 1} \alpha_{u, k}\, y_{t - k},
              \qquad \alpha_{u, k} \ge 0

    A history multiplies the rate: where it is low, a spike can hardly raise it.  Spikes of a burst
    come as surely between events as during them.  Coefficients have a half-normal prior of standard
    deviation 0.2 spikes.

    Parameters
    ----------
    seconds : float
        Longest time after a spike at which others of its burst come; in the unit of the bin size.

    References
    ----------
    Hawkes 1971, doi:10.1093/biomet/58.1.83.

    Examples
    --------
    >>> Bursts(0.025).n_lags(bin_size=0.005)
    5
    """

    seconds: float

    def __post_init__(self) -> None:
        validation.positive("bursts", self.seconds, "seconds")

    def n_lags(self, bin_size: float) -> int:
        """Return the number of bins after a spike."""
        n_lags = math.floor(self.seconds / bin_size + 1e-6)
        if n_lags < 1:
            raise ValueError(
                f"`bursts` (={self.seconds:g}) must be at least one bin of {bin_size:g}"
            )
        return n_lags


@dataclass(frozen=True, eq=False)
class PoissonWithBursts(Poisson):
    """Counts whose mean is exp(eta) and what bursts add: y ~ Poisson(exp(eta) + excess).

    Made of `Poisson` for counts with `Bursts`.  Derivatives by ``eta`` are those of the spikes that
    are not of bursts, given their expected number, so that steps along them never lower the
    likelihood (as in EM).

    Parameters
    ----------
    excess : tensor, broadcastable to the observations
        Expected number of spikes of bursts.
    """

    excess: Tensor
    name: ClassVar[str] = "poisson_with_bursts"

    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        mean = self.mean(eta)
        return mean - torch.xlogy(y, mean)

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        one = torch.ones_like(y)
        return ScalarLoss("exponential", y, one, excess=self.excess.to(y).expand_as(y))

    def mean(self, eta: Tensor) -> Tensor:
        return super().mean(eta) + self.excess.to(eta)

    def residual(self, y: Tensor, eta: Tensor) -> Tensor:
        mean = super().mean(eta)
        return y * mean / (mean + self.excess.to(mean)) - mean

    def sample(self, eta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.poisson(self._drawable_mean(eta) + self.excess.to(eta), generator=generator)

    def without_bursts(self) -> Poisson:
        return Poisson()

    def per_trial(self) -> Poisson:
        return Poisson()

    def map(self, change: Callable[[Tensor], Tensor]) -> PoissonWithBursts:
        return replace(self, excess=change(self.excess))
