"""Observation models: what a count says about its linear predictor ``eta``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from spikecdl import validation

if TYPE_CHECKING:
    import numpy as np

_LOG_2PI = math.log(2 * math.pi)


def _exp(eta: Tensor) -> Tensor:
    """Exponential that saturates ten e-folds below the largest number of its dtype."""
    return torch.exp(eta.clamp(max=math.log(torch.finfo(eta.dtype).max) - 10))


class ScalarLoss(NamedTuple):
    """A family's cost in one of three forms, up to terms that do not depend on ``eta``.

    ==============  ======================================================
    ``kind``        loss of :math:`z = \\eta - \\mathrm{shift}`
    ==============  ======================================================
    "quadratic"     b (a - z)^2 / 2
    "logistic"      a log(1 + exp(-z)) + b log(1 + exp(z))
    "exponential"   b exp(z) - a z
    ==============  ======================================================
    """

    kind: str
    a: Tensor
    b: Tensor
    shift: float = 0.0


class CountingProcess(NamedTuple):
    r"""A count as the spikes that have come by the end of its bin, of any bin on its own.

    After n spikes the next one comes at rate ``start + step n``, for as long as ``duration``.  A
    step of 0 is a Poisson process, 1 a birth process that ends at a negative binomial count, -1 a
    death process that ends at a binomial one (each of M trials fires once or not).

    Attributes
    ----------
    start : tensor, shape of the means
        Rate of the first spike.
    duration : tensor, shape of the means
        Length of the bin in the time of that rate.
    step : {-1, 0, 1}
        What every spike adds to the rate.

    References
    ----------
    Kendall 1949, Stochastic processes and population growth, J. R. Stat. Soc. B 11, 230-282.
    """

    start: Tensor
    duration: Tensor
    step: int


class Family(ABC):
    """Distribution of an observation ``y`` given its linear predictor ``eta``.

    All methods work elementwise on tensors of broadcastable shapes, in closed form, and stay
    finite for every finite ``eta`` (means saturate just below the largest number of the dtype).

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
        """Let no subclass inherit a compiled form of a cost that it has changed."""
        if {"cost", "residual", "curvature"} & vars(cls).keys() and "scalar_loss" not in vars(cls):
            cls.scalar_loss = Family.scalar_loss  # type: ignore[method-assign]

    @abstractmethod
    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        """Negative log probability without the terms that do not depend on ``eta``."""

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        """Return `cost` in the form that compiled solvers take.

        Raises
        ------
        ValueError
            If the family has no such form.
        """
        raise ValueError(
            f"`family` (={type(self).__name__}) has no `scalar_loss`, which alternating training, "
            "learned baselines and BCOMP need; use trainer='unrolled' or 'implicit', with "
            "`baseline` as a (start, stop) pair or as rates"
        )

    @property
    def is_compiled(self) -> bool:
        """Whether `scalar_loss` is defined."""
        return type(self).scalar_loss is not Family.scalar_loss

    @abstractmethod
    def log_base(self, y: Tensor) -> Tensor:
        """Terms of the log probability that do not depend on ``eta``."""

    @abstractmethod
    def saturated_cost(self, y: Tensor) -> Tensor:
        """`cost` of the best ``eta`` for ``y``, the one whose mean is ``y``."""

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """Log probability (density) of ``y``."""
        return self.log_base(y) - self.cost(y, eta)

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        """Twice the log likelihood lost against the saturated model; zero when mean equals y."""
        return (2 * (self.cost(y, eta) - self.saturated_cost(y))).clamp(min=0)

    @abstractmethod
    def mean(self, eta: Tensor) -> Tensor:
        """Expected observation."""

    @abstractmethod
    def link(self, mean: Tensor) -> Tensor:
        """Linear predictor of an expected observation; the inverse of `mean`."""

    def link_rate(self, rate: Tensor) -> Tensor:
        """Linear predictor of a rate per bin and exposure."""
        return self.link(rate)

    @abstractmethod
    def residual(self, y: Tensor, eta: Tensor) -> Tensor:
        """Derivative of `log_prob` with respect to ``eta``."""

    @abstractmethod
    def curvature(self, y: Tensor, eta: Tensor) -> Tensor:
        """Negative second derivative of `log_prob` with respect to ``eta``."""

    @abstractmethod
    def curvature_bound(self, y: Tensor) -> Tensor | None:
        """Largest `curvature` over all ``eta``, shape broadcastable to ``y``; None if unbounded."""

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
        """Mark the observations outside the support, and say in words what the support is."""

    def counting_process(self, mean: Tensor) -> CountingProcess | None:
        """Return the process within a bin that ends at a count of this mean; None if none does."""
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
        return self

    @property
    def eta_scale(self) -> float:
        """Change of ``eta`` that is neither small nor large: one log unit, or the noise's scale."""
        return 1.0

    def exposure(self, y: Tensor) -> Tensor:
        """Return what a rate per bin is multiplied by to give the mean: ones, or n_trials."""
        return torch.ones_like(y)

    @property
    def fixed_trials(self) -> int | None:
        """Bernoulli trials per bin where the family itself sets them; None elsewhere."""
        return None

    def resolve(self, n_trials: Tensor) -> Family:
        """Fill in what only the data know: Bernoulli trials per bin (used by `Binomial`)."""
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


def _check_drawable(mean: Tensor) -> None:
    limit = 2.0 ** (24 if mean.dtype == torch.float32 else 53)
    if bool((mean > limit).any()):
        raise ValueError(
            f"`eta` gives an expected count of {float(mean.max()):.3g}, more than {mean.dtype} "
            "counts exactly; lower the amplitudes or the baseline"
        )


def _invalid_counts(y: Tensor) -> Tensor:
    return (y < 0) | (y != torch.floor(y)) | ~torch.isfinite(y)


@dataclass(frozen=True)
class Gaussian(Family):
    """Real observations with constant standard deviation: y ~ Normal(eta, scale^2).

    Parameters
    ----------
    scale : float
        Standard deviation, in units of ``y``.

    Examples
    --------
    >>> import torch
    >>> Gaussian(scale=2.0).residual(torch.tensor(3.0), torch.tensor(1.0))
    tensor(0.5000)
    """

    scale: float = 1.0
    name: ClassVar[str] = "gaussian"
    integer_valued: ClassVar[bool] = False
    eta_name: ClassVar[str] = "signal"

    def __post_init__(self) -> None:
        validation.positive("scale", self.scale)

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
        return self

    @property
    def eta_scale(self) -> float:
        return self.scale

    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        return ((y - eta) / self.scale) ** 2 / 2

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        return ScalarLoss("quadratic", y, torch.full_like(y, self.scale**-2))

    def log_base(self, y: Tensor) -> Tensor:
        return torch.full_like(y, -_LOG_2PI / 2 - math.log(self.scale))

    def saturated_cost(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def mean(self, eta: Tensor) -> Tensor:
        return eta

    def link(self, mean: Tensor) -> Tensor:
        return mean

    def residual(self, y: Tensor, eta: Tensor) -> Tensor:
        return (y - eta) / self.scale**2

    def curvature(self, y: Tensor, eta: Tensor) -> Tensor:
        return torch.full_like(y + eta, self.scale**-2)

    def curvature_bound(self, y: Tensor) -> Tensor:
        return y.new_tensor(self.scale**-2)

    def sample(self, eta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
        return eta + self.scale * noise

    def invalid(self, y: Tensor) -> tuple[Tensor, str]:
        return ~torch.isfinite(y), "finite numbers"


@dataclass(frozen=True, eq=False)
class Binomial(Family):
    """Counts of successes: y ~ Binomial(n_trials, sigmoid(eta)).

    The negative log likelihood of a bin is ``n_trials softplus(eta) - y eta`` and a constant.

    Parameters
    ----------
    n_trials : int or tensor, optional
        Bernoulli trials per bin: a number, or a tensor broadcastable to the observations whose
        leading axis is that of the windows.  None: taken from the data (pooled trials times
        sub-bins, 1 for plain arrays).

    Examples
    --------
    >>> import torch
    >>> Binomial(n_trials=30).mean(torch.zeros(2))
    tensor([15., 15.])
    """

    n_trials: int | Tensor | None = None
    name: ClassVar[str] = "binomial"
    has_n_trials: ClassVar[bool] = True
    eta_name: ClassVar[str] = "log odds"

    def __post_init__(self) -> None:
        if isinstance(self.n_trials, list):
            object.__setattr__(self, "n_trials", torch.tensor(self.n_trials))
        if isinstance(self.n_trials, Tensor):
            if bool(_invalid_counts(self.n_trials).any()):
                raise ValueError(
                    f"`n_trials` (={self.n_trials!r}) must be whole numbers of 0 or more"
                )
        elif self.n_trials is not None:
            validation.integer("n_trials", self.n_trials)

    def _total(self, like: Tensor) -> Tensor:
        if self.n_trials is None:
            raise ValueError("`n_trials` (=None) is not known; pass Binomial(n_trials=...)")
        return torch.as_tensor(self.n_trials, dtype=like.dtype, device=like.device)

    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        return y * softplus(-eta) + (self._total(eta) - y) * softplus(eta)

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        return ScalarLoss("logistic", y, self._total(y) - y)

    def log_base(self, y: Tensor) -> Tensor:
        total = self._total(y)
        return torch.lgamma(total + 1) - torch.lgamma(y + 1) - torch.lgamma(total - y + 1)

    def saturated_cost(self, y: Tensor) -> Tensor:
        total = self._total(y)
        share = y / total.clamp(min=1)
        return -torch.xlogy(y, share) - torch.xlogy(total - y, 1 - share)

    def mean(self, eta: Tensor) -> Tensor:
        return self._total(eta) * torch.sigmoid(eta)

    def link(self, mean: Tensor) -> Tensor:
        return torch.logit(mean / self._total(mean))

    def link_rate(self, rate: Tensor) -> Tensor:
        return torch.logit(rate)

    def residual(self, y: Tensor, eta: Tensor) -> Tensor:
        return y - self.mean(eta)

    def curvature(self, y: Tensor, eta: Tensor) -> Tensor:
        return self._total(eta) * torch.sigmoid(eta) * torch.sigmoid(-eta) + 0 * y

    def curvature_bound(self, y: Tensor) -> Tensor:
        return self._total(y) / 4

    def sample(self, eta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        total = self._total(eta).expand(eta.shape).contiguous()
        return torch.binomial(total, torch.sigmoid(eta), generator=generator)

    def invalid(self, y: Tensor) -> tuple[Tensor, str]:
        total = self._total(y)
        limit = f" (={int(total)})" if total.numel() == 1 else ""
        return _invalid_counts(y) | (y > total), f"whole counts from 0 to n_trials{limit}"

    def counting_process(self, mean: Tensor) -> CountingProcess:
        total = self._total(mean).expand_as(mean)
        share = mean / total.clamp(min=1)
        below = 1 - torch.finfo(mean.dtype).eps  # certainty would last for ever
        return CountingProcess(total, -torch.log1p(-share.clamp(max=below)), -1)

    def split(
        self, y: np.ndarray, total: np.ndarray, part: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return rng.hypergeometric(y, total - y, part)

    def per_trial(self) -> Binomial:
        return Binomial(1)

    def exposure(self, y: Tensor) -> Tensor:
        return self._total(y).expand_as(y)

    @property
    def fixed_trials(self) -> int | None:
        known = self.n_trials is not None and not isinstance(self.n_trials, Tensor)
        return int(self.n_trials) if known else None  # type: ignore[arg-type]

    def resolve(self, n_trials: Tensor) -> Binomial:
        return self if self.n_trials is not None else self._with(n_trials)

    def map(self, change: Callable[[Tensor], Tensor]) -> Binomial:
        known = isinstance(self.n_trials, Tensor)
        return self._with(change(self.n_trials)) if known else self  # type: ignore[arg-type]

    def _with(self, n_trials: Tensor) -> Binomial:
        """Return the family with other trials, which are not checked: they may be very many."""
        changed = copy(self)
        object.__setattr__(changed, "n_trials", n_trials)
        return changed


@dataclass(frozen=True)
class Poisson(Family):
    """Counts of rare events: y ~ Poisson(exp(eta)).

    Examples
    --------
    >>> import torch
    >>> Poisson().residual(torch.tensor(3.0), torch.tensor(0.0))
    tensor(2.)
    """

    name: ClassVar[str] = "poisson"
    eta_name: ClassVar[str] = "log rate"

    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        return _exp(eta) - y * eta

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        return ScalarLoss("exponential", y, torch.ones_like(y))

    def log_base(self, y: Tensor) -> Tensor:
        return -torch.lgamma(y + 1)

    def saturated_cost(self, y: Tensor) -> Tensor:
        return y - torch.xlogy(y, y)

    def mean(self, eta: Tensor) -> Tensor:
        return _exp(eta)

    def link(self, mean: Tensor) -> Tensor:
        return torch.log(mean)

    def residual(self, y: Tensor, eta: Tensor) -> Tensor:
        return y - _exp(eta)

    def curvature(self, y: Tensor, eta: Tensor) -> Tensor:
        return _exp(eta) + 0 * y

    def curvature_bound(self, y: Tensor) -> None:
        return None

    def sample(self, eta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = _exp(eta)
        _check_drawable(mean)
        return torch.poisson(mean, generator=generator)

    def invalid(self, y: Tensor) -> tuple[Tensor, str]:
        return _invalid_counts(y), "whole counts of 0 or more"

    def split(
        self, y: np.ndarray, total: np.ndarray, part: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return rng.binomial(y, part / total.clip(min=1))

    def counting_process(self, mean: Tensor) -> CountingProcess:
        return CountingProcess(mean, torch.ones_like(mean), 0)


@dataclass(frozen=True)
class NegativeBinomial(Family):
    """Counts with more variance than Poisson: mean exp(eta), variance mean + mean^2 / shape.

    ``eta`` is the log mean (not the natural parameter); as ``shape`` grows the family becomes
    `Poisson`.

    Parameters
    ----------
    shape : float
        Shape of the gamma-distributed rate; small is bursty.

    Examples
    --------
    >>> import torch
    >>> NegativeBinomial(shape=2.0).mean(torch.tensor(0.0))
    tensor(1.)
    """

    shape: float = 5.0
    name: ClassVar[str] = "negative_binomial"
    eta_name: ClassVar[str] = "log rate"

    def __post_init__(self) -> None:
        validation.positive("shape", self.shape)

    def _log_odds(self, eta: Tensor) -> Tensor:
        return eta - math.log(self.shape)

    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        odds = self._log_odds(eta)
        return y * softplus(-odds) + self.shape * softplus(odds)

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        return ScalarLoss("logistic", y, torch.full_like(y, self.shape), math.log(self.shape))

    def log_base(self, y: Tensor) -> Tensor:
        return torch.lgamma(y + self.shape) - math.lgamma(self.shape) - torch.lgamma(y + 1)

    def saturated_cost(self, y: Tensor) -> Tensor:
        total = y + self.shape
        return -torch.xlogy(y, y / total) - self.shape * torch.log(self.shape / total)

    def mean(self, eta: Tensor) -> Tensor:
        return _exp(eta)

    def link(self, mean: Tensor) -> Tensor:
        return torch.log(mean)

    def residual(self, y: Tensor, eta: Tensor) -> Tensor:
        odds = self._log_odds(eta)
        return y * torch.sigmoid(-odds) - self.shape * torch.sigmoid(odds)

    def curvature(self, y: Tensor, eta: Tensor) -> Tensor:
        odds = self._log_odds(eta)
        return (y + self.shape) * torch.sigmoid(odds) * torch.sigmoid(-odds)

    def curvature_bound(self, y: Tensor) -> Tensor:
        return (y + self.shape) / 4

    def sample(self, eta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = _exp(eta)
        _check_drawable(mean)
        gamma = torch._standard_gamma(torch.full_like(mean, self.shape), generator=generator)
        return torch.poisson(mean * gamma / self.shape, generator=generator)

    def invalid(self, y: Tensor) -> tuple[Tensor, str]:
        return _invalid_counts(y), "whole counts of 0 or more"

    def counting_process(self, mean: Tensor) -> CountingProcess:
        start = torch.full_like(mean, self.shape)
        return CountingProcess(start, torch.log1p(mean / self.shape), 1)


FAMILIES: dict[str, type[Family]] = {
    family.name: family for family in (Gaussian, Binomial, Poisson, NegativeBinomial)
}


def from_text(text: str) -> Family:
    """Make a family from its name and, after a colon, its parameters.

    Raises
    ------
    ValueError
        If there is no such family or parameter, or a value is not a number.

    Examples
    --------
    >>> from_text("gaussian:scale=2.5")
    Gaussian(scale=2.5)
    """
    name, _, rest = text.partition(":")
    known = [f.name for f in fields(FAMILIES[validation.one_of("family", name, FAMILIES)])]  # type: ignore[arg-type]
    config: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        try:
            config[key] = int(value) if key == "n_trials" else float(value)
        except ValueError:
            raise ValueError(
                f"`family` (={text!r}): `{key}` (={value!r}) must be a number"
            ) from None
        if key not in known:
            options = ", ".join(known) or "none"
            raise ValueError(f"`family` (={text!r}): {name} has no {key!r}; it has: {options}")
    return FAMILIES[name](**config)
