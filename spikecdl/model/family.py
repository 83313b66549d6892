"""The contract of an observation model: what a count says about its linear predictor ``eta``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


class ScalarLoss(NamedTuple):
    """A family's cost in one of three forms, up to terms that do not depend on ``eta``.

    ==============  ======================================================
    ``kind``        loss of :math:`z = \\eta - \\mathrm{shift}`
    ==============  ======================================================
    "quadratic"     b (a - z)^2 / 2
    "logistic"      a log(1 + exp(-z)) + b log(1 + exp(z))
    "exponential"   b exp(z) - a z
    ==============  ======================================================

    With an ``excess`` c, which bursts add to the mean, the last is b exp(z) - a log(exp(z) + c).
    """

    kind: str
    a: Tensor
    b: Tensor
    shift: float = 0.0
    excess: Tensor | None = None


class CountingProcess(NamedTuple):
    """Point process within a bin whose number of spikes follows the family.

    After n spikes the next one comes at rate ``start + step n``, until ``duration`` has passed.  A
    step of 0 is a Poisson process, 1 a birth process, which gives negative binomial counts, and -1
    a death process, which gives binomial counts (each of M trials fires once or not).

    Attributes
    ----------
    start : tensor, shape of the means
        Rate of the first spike.
    duration : tensor, shape of the means
        Length of the bin in the unit of time of that rate.
    step : {-1, 0, 1}
        Change of the rate with every spike.

    References
    ----------
    Kendall, Stochastic processes and population growth, J. R. Stat. Soc. B 11, 1949.
    """

    start: Tensor
    duration: Tensor
    step: int


class Family(ABC):
    """Distribution of an observation ``y`` given its linear predictor ``eta``.

    A member is a frozen dataclass of its parameters.  Methods work elementwise on tensors of
    broadcastable shapes, in closed form, and stay finite for every finite ``eta``; means saturate
    just below the largest number of the dtype.

    References
    ----------
    McCullagh and Nelder, *Generalized Linear Models*, 2nd edition, 1989.
    """

    #: Name in the registry and in files.
    name: ClassVar[str]
    #: Whether observations are counts, whose rates are in Hz, and not a real-valued signal.
    integer_valued: ClassVar[bool] = True
    #: Whether a bin is a number of Bernoulli trials, its ``n_trials``.
    has_n_trials: ClassVar[bool] = False
    #: What the linear predictor is called on an axis.
    eta_name: ClassVar[str] = "eta"

    def __init_subclass__(cls) -> None:
        """Keep a subclass that changes the cost from inheriting its compiled form."""
        if {"cost", "residual", "curvature"} & vars(cls).keys() and "scalar_loss" not in vars(cls):
            cls.scalar_loss = Family.scalar_loss  # type: ignore[method-assign]

    @abstractmethod
    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        """Return the negative log probability without terms that do not depend on ``eta``."""

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        """Return `cost` in the form that compiled solvers take.

        Raises
        ------
        ValueError
            If the family has no such form.
        """
        raise ValueError(
            f"`family` (={type(self).__name__}) has no `scalar_loss`, which alternating and "
            "marginal training, learned baselines, `evidence` and BCOMP need; use "
            "trainer='unrolled' or 'implicit', with `baseline` as a (start, stop) pair or as rates"
        )

    @property
    def is_compiled(self) -> bool:
        """Whether `scalar_loss` is defined."""
        return type(self).scalar_loss is not Family.scalar_loss

    @abstractmethod
    def log_base(self, y: Tensor) -> Tensor:
        """Return the terms of the log probability that do not depend on ``eta``."""

    @abstractmethod
    def saturated_cost(self, y: Tensor) -> Tensor:
        """Return the smallest `cost` for ``y``, that of the ``eta`` whose mean is ``y``."""

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """Return the log probability (density) of ``y``."""
        return self.log_base(y) - self.cost(y, eta)

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        """Return twice the log-likelihood ratio of the saturated model; zero if mean equals y."""
        return (2 * (self.cost(y, eta) - self.saturated_cost(y))).clamp(min=0)

    @abstractmethod
    def mean(self, eta: Tensor) -> Tensor:
        """Return the expected observation."""

    @abstractmethod
    def link(self, mean: Tensor) -> Tensor:
        """Return the linear predictor of an expected observation, the inverse of `mean`."""

    def link_rate(self, rate: Tensor) -> Tensor:
        """Return the linear predictor of a rate per bin and unit of `exposure`."""
        return self.link(rate)

    @abstractmethod
    def residual(self, y: Tensor, eta: Tensor) -> Tensor:
        """Return the derivative of `log_prob` with respect to ``eta``."""

    @abstractmethod
    def curvature(self, y: Tensor, eta: Tensor) -> Tensor:
        """Return the negative second derivative of `log_prob` with respect to ``eta``."""

    @abstractmethod
    def curvature_bound(self, y: Tensor) -> Tensor | None:
        """Return the largest `curvature` over all ``eta``; None if it is unbounded."""

    @abstractmethod
    def sample(self, eta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw observations.

        Raises
        ------
        ValueError
            If a count's expected value is too large to be drawn exactly in the dtype of ``eta``.
        """

    @abstractmethod
    def invalid(self, y: Tensor) -> tuple[Tensor, str]:
        """Mark observations outside the support, and name the support in words."""

    def counting_process(self, mean: Tensor) -> CountingProcess | None:
        """Return the process within bins of these means; None for a signal without spikes."""
        return None

    def split(
        self, y: np.ndarray, total: np.ndarray, part: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Draw the counts of a part of each bin, independent of those of the rest.

        Parameters
        ----------
        y : ndarray of int
            Counts.
        total, part : ndarray, shape of ``y``
            Exposures of the bin and of the part (see `exposure`).
        rng : numpy Generator

        Returns
        -------
        ndarray of int or None
            None if counts of the family have no independent parts of the same family.
        """
        return None

    def per_trial(self) -> Family:
        """Return the family of one recorded trial, and of one Bernoulli trial of it."""
        return self.without_bursts()

    def without_bursts(self) -> Family:
        """Return the family of the spikes that are not of bursts."""
        return self

    @property
    def eta_scale(self) -> float:
        """Typical change of ``eta``: one log unit, or the scale of the noise."""
        return 1.0

    def exposure(self, y: Tensor) -> Tensor:
        """Return the factor from a rate per bin to the mean: ones, or n_trials."""
        return torch.ones_like(y)

    @property
    def fixed_trials(self) -> int | None:
        """Number of Bernoulli trials per bin if it is a parameter that is set, else None."""
        return None

    def resolve(self, n_trials: Tensor) -> Family:
        """Return the family with Bernoulli trials per bin, where it has them and lacks them."""
        return self

    def typical(self) -> Family:
        """Return the family with typical values of parameters that are not known, to simulate."""
        return self

    @property
    def is_known(self) -> bool:
        """Whether no parameter is left to `estimate` from the data."""
        return True

    def estimate(self, y: Tensor, mean: Tensor) -> Family:
        """Return the family with the parameters that are not known estimated from observations.

        Parameters
        ----------
        y, mean : tensor, shape (observation,)
            Observations, and what was expected of each.
        """
        return self

    def map(self, change: Callable[[Tensor], Tensor]) -> Family:
        """Return the family with ``change`` applied to every parameter that is a tensor."""
        return self

    def config(self) -> dict[str, Any]:
        """Describe the family in plain values: its name and its parameters."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {
            "name": self.name,
            **{k: v.tolist() if isinstance(v, Tensor) else v for k, v in values.items()},
        }
