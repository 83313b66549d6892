"""Observation models: Gaussian, binomial, Poisson and negative binomial, and their registry."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from spikecdl import validation
from spikecdl.model.family import CountingProcess, Family, ScalarLoss

if TYPE_CHECKING:
    import numpy as np

_SHAPES = (1e-3, 1e4)  # of negative binomials that are estimated; the largest is Poisson's


def _exp(eta: Tensor) -> Tensor:
    """Return exp(eta), saturated ten e-folds below the largest number of its dtype."""
    return torch.exp(eta.clamp(max=math.log(torch.finfo(eta.dtype).max) - 10))


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

    @property
    def eta_scale(self) -> float:
        return self.scale

    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        return ((y - eta) / self.scale) ** 2 / 2

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        return ScalarLoss("quadratic", y, torch.full_like(y, self.scale**-2))

    def log_base(self, y: Tensor) -> Tensor:
        return torch.full_like(y, -math.log(self.scale * math.sqrt(2 * math.pi)))

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
        first axis is that of the windows.  None: taken from the data (pooled trials times sub-bins,
        1 for plain arrays).

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

    def typical(self) -> Binomial:
        return self.resolve(torch.tensor(1))

    def resolve(self, n_trials: Tensor) -> Binomial:
        return self if self.n_trials is not None else self._with(n_trials)

    def map(self, change: Callable[[Tensor], Tensor]) -> Binomial:
        known = isinstance(self.n_trials, Tensor)
        return self._with(change(self.n_trials)) if known else self  # type: ignore[arg-type]

    def _with(self, n_trials: Tensor) -> Binomial:
        """Return the family with other trials, unchecked, as they may be many."""
        changed = copy(self)
        object.__setattr__(changed, "n_trials", n_trials)
        return changed


class _LogRate(Family):
    """Counts whose mean is exp(eta)."""

    eta_name: ClassVar[str] = "log rate"

    def mean(self, eta: Tensor) -> Tensor:
        return _exp(eta)

    def link(self, mean: Tensor) -> Tensor:
        return torch.log(mean)

    def invalid(self, y: Tensor) -> tuple[Tensor, str]:
        return _invalid_counts(y), "whole counts of 0 or more"

    def _drawable_mean(self, eta: Tensor) -> Tensor:
        mean = _exp(eta)
        if bool((mean > 2 / torch.finfo(mean.dtype).eps).any()):
            raise ValueError(
                f"`eta` gives an expected count of {float(mean.max()):.3g}, more than {mean.dtype} "
                "counts exactly; lower the amplitudes or the baseline"
            )
        return mean


@dataclass(frozen=True)
class Poisson(_LogRate):
    """Counts of rare events: y ~ Poisson(exp(eta)).

    Examples
    --------
    >>> import torch
    >>> Poisson().residual(torch.tensor(3.0), torch.tensor(0.0))
    tensor(2.)
    """

    name: ClassVar[str] = "poisson"

    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        return _exp(eta) - y * eta

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        return ScalarLoss("exponential", y, torch.ones_like(y))

    def log_base(self, y: Tensor) -> Tensor:
        return -torch.lgamma(y + 1)

    def saturated_cost(self, y: Tensor) -> Tensor:
        return y - torch.xlogy(y, y)

    def residual(self, y: Tensor, eta: Tensor) -> Tensor:
        return y - _exp(eta)

    def curvature(self, y: Tensor, eta: Tensor) -> Tensor:
        return _exp(eta) + 0 * y

    def curvature_bound(self, y: Tensor) -> None:
        return None

    def sample(self, eta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.poisson(self._drawable_mean(eta), generator=generator)

    def split(
        self, y: np.ndarray, total: np.ndarray, part: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return rng.binomial(y, part / total.clip(min=1))

    def counting_process(self, mean: Tensor) -> CountingProcess:
        return CountingProcess(mean, torch.ones_like(mean), 0)


@dataclass(frozen=True)
class NegativeBinomial(_LogRate):
    """Counts with more variance than Poisson: mean exp(eta), variance mean + mean^2 / shape.

    ``eta`` is the log mean (not the natural parameter); as ``shape`` grows the family becomes
    `Poisson`.

    Parameters
    ----------
    shape : float, optional
        Shape of the gamma-distributed rate; small is bursty.  None: estimated from the data.

    Examples
    --------
    >>> import torch
    >>> NegativeBinomial(shape=2.0).mean(torch.tensor(0.0))
    tensor(1.)
    """

    shape: float | None = None
    name: ClassVar[str] = "negative_binomial"

    def __post_init__(self) -> None:
        if self.shape is not None:
            validation.positive("shape", self.shape)

    @property
    def _r(self) -> float:
        if self.shape is None:
            raise ValueError("`shape` (=None) is not known; pass NegativeBinomial(shape=...)")
        return self.shape

    def typical(self) -> NegativeBinomial:
        return self if self.is_known else NegativeBinomial(5.0)

    @property
    def is_known(self) -> bool:
        return self.shape is not None

    def estimate(self, y: Tensor, mean: Tensor) -> NegativeBinomial:
        """Return the family with the shape of largest likelihood, by bisection of its slope.

        Counts that vary no more than Poisson's have the largest shape that is considered.
        """
        if self.is_known:
            return self
        low, high = _SHAPES
        while high / low > 1 + 1e-9:
            middle = math.sqrt(low * high)
            r = y.new_tensor(middle)
            slope = torch.digamma(y + r) - torch.digamma(r) + torch.log(r / (r + mean))
            slope = (slope + (mean - y) / (r + mean)).sum()
            low, high = (middle, high) if slope > 0 else (low, middle)
        return NegativeBinomial(math.sqrt(low * high))

    def _log_odds(self, eta: Tensor) -> Tensor:
        return eta - math.log(self._r)

    def cost(self, y: Tensor, eta: Tensor) -> Tensor:
        odds = self._log_odds(eta)
        return y * softplus(-odds) + self._r * softplus(odds)

    def scalar_loss(self, y: Tensor) -> ScalarLoss:
        return ScalarLoss("logistic", y, torch.full_like(y, self._r), math.log(self._r))

    def log_base(self, y: Tensor) -> Tensor:
        return torch.lgamma(y + self._r) - math.lgamma(self._r) - torch.lgamma(y + 1)

    def saturated_cost(self, y: Tensor) -> Tensor:
        total = y + self._r
        return -torch.xlogy(y, y / total) - self._r * torch.log(self._r / total)

    def residual(self, y: Tensor, eta: Tensor) -> Tensor:
        odds = self._log_odds(eta)
        return y * torch.sigmoid(-odds) - self._r * torch.sigmoid(odds)

    def curvature(self, y: Tensor, eta: Tensor) -> Tensor:
        odds = self._log_odds(eta)
        return (y + self._r) * torch.sigmoid(odds) * torch.sigmoid(-odds)

    def curvature_bound(self, y: Tensor) -> Tensor:
        return (y + self._r) / 4

    def sample(self, eta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self._drawable_mean(eta)
        gamma = torch._standard_gamma(torch.full_like(mean, self._r), generator=generator)
        return torch.poisson(mean * gamma / self._r, generator=generator)

    def counting_process(self, mean: Tensor) -> CountingProcess:
        start = torch.full_like(mean, self._r)
        return CountingProcess(start, torch.log1p(mean / self._r), 1)


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
