"""What changes the rate besides events: a unit's own spikes, bursts, and slow drift."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.model.families import Family, Poisson, ScalarLoss


@dataclass(frozen=True)
class History:
    r"""Filter of a unit's own spikes: how each one changes the log rate of the bins after it.

    The filter is a sum of raised cosines in the logarithm of the lag, from one bin to ``seconds``,

    .. math:: \phi_j(l) = \tfrac12 + \tfrac12 \cos\bigl(
              \tfrac{\pi}{2 \Delta} (\log l - \log l_j)\bigr), \qquad
              |\log l - \log l_j| \le 2 \Delta

    with peaks :math:`l_j` a factor :math:`e^\Delta` apart: fine just after a spike, where
    refractoriness and bursts are, and smooth later.  With fewer lags than cosines there is a
    coefficient for each lag.  Coefficients have a normal prior of standard deviation 2.

    Spikes of an event follow each other closely, so a filter that may raise the rate explains
    events as well as bursts.  By default it cannot.

    Parameters
    ----------
    seconds : float
        Longest lag, at least one bin; in the unit of the bin size.
    n_basis : int
        Number of cosines.
    sign : {"negative", "both"}
        Negative: a spike can only lower the rate, by refractoriness or in regular spiking.  Both:
        it can also raise it, in bursts.
    common : bool
        One filter for all units, instead of one for each.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    Pillow et al. 2008, doi:10.1038/nature07140.

    Examples
    --------
    >>> History(0.04, n_basis=3).basis(bin_size=0.005).round(decimals=2)
    tensor([[1.0000, 0.7500, 0.4600, 0.2500, 0.1200, 0.0500, 0.0100, 0.0000],
            [0.5000, 0.9300, 1.0000, 0.9300, 0.8300, 0.7100, 0.6000, 0.5000],
            [0.0000, 0.2500, 0.5400, 0.7500, 0.8800, 0.9500, 0.9900, 1.0000]])
    """

    seconds: float
    n_basis: int = 10
    sign: str = "negative"
    common: bool = False

    def __post_init__(self) -> None:
        validation.positive("history", self.seconds, "seconds")
        validation.integer("n_basis", self.n_basis)
        validation.one_of("sign", self.sign, ("negative", "both"))

    def basis(self, bin_size: float) -> Tensor:
        """Return the functions at lags of 1, 2, ... bins, shape (column, lag)."""
        n_lags = _n_lags("history", self.seconds, bin_size)
        if n_lags <= self.n_basis:
            return torch.eye(n_lags)
        lags = torch.arange(1, n_lags + 1, dtype=torch.float64)
        return raised_cosines(lags.log(), math.log(n_lags), self.n_basis).float()


@dataclass(frozen=True)
class Smooth:
    """Smooth function of a variable: raised cosines, as far apart as their half width.

    They are centred from ``start`` to ``stop``, and about ``step`` apart; beyond, the function
    stays as it is at that end.  The mean of each over that range is zero.
    """

    step: float
    start: float
    stop: float

    @property
    def n_columns(self) -> int:
        """Number of functions: peaks from start to stop, and one more at either end."""
        return 3 + math.ceil((self.stop - self.start) / self.step - 1e-9)

    def __call__(self, values: Tensor) -> Tensor:
        """Return the functions at some values, shape (column, *values); 0 where they are nan."""
        grid = torch.linspace(self.start, self.stop, 8 * self.n_columns, dtype=values.dtype)
        mean = self._at(grid.to(values.device)).mean(1)
        return (self._at(values) - mean.reshape(-1, *[1] * values.ndim)).nan_to_num(0.0)

    def _at(self, values: Tensor) -> Tensor:
        apart = max(self.stop - self.start, 1e-9) / max(self.n_columns - 3, 1)
        elapsed = values.clamp(self.start, self.stop) - self.start
        return raised_cosines(elapsed + apart, apart * (self.n_columns - 1), self.n_columns)


@dataclass(frozen=True)
class Drift(Smooth):
    """Slow log rate: a smooth function of the recording's time, with a knot every ``step`` seconds.

    ``in_time`` says whether that is time in the recording, or windows were put one after the other.
    """

    in_time: bool = True

    def __post_init__(self) -> None:
        validation.positive("drift", self.step, "seconds")


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
        return _n_lags("bursts", self.seconds, bin_size)


class Terms(NamedTuple):
    """What a rate depends on beside events; ``signals`` are smooth functions of them by name."""

    history: History | None = None
    drift: Drift | None = None
    bursts: Bursts | None = None
    signals: Mapping[str, Smooth] = {}


NO_TERMS = Terms()


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

    def map(self, change: Callable[[Tensor], Tensor]) -> PoissonWithBursts:
        return replace(self, excess=change(self.excess))


def _n_lags(name: str, seconds: float, bin_size: float) -> int:
    """Return how many whole bins a time after a spike has; ValueError if there are none."""
    n_lags = math.floor(seconds / bin_size + 1e-6)
    if n_lags < 1:
        raise ValueError(f"`{name}` (={seconds:g}) must be at least one bin of {bin_size:g}")
    return n_lags


def raised_cosines(x: Tensor, last: float, count: int) -> Tensor:
    """Return cosines around peaks at ``count`` places from 0 to ``last``, shape (count, *x).

    Each is four times as wide as the peaks are apart, so that between the first and the last peak
    they sum to about 2.
    """
    apart = last / max(count - 1, 1)
    peaks = apart * torch.arange(count, dtype=x.dtype, device=x.device)
    away = (x - peaks.reshape(-1, *[1] * x.ndim)) * (math.pi / (2 * apart))
    return (1 + away.clamp(-math.pi, math.pi).cos()) / 2


def sample_in_time(
    family: Family,
    eta: Tensor,
    effect: Tensor,
    generator: torch.Generator | None = None,
    bursts: Tensor | None = None,
) -> Tensor:
    """Draw counts (..., unit, bin) bin by bin, as those of a bin depend on earlier ones.

    ``eta`` is the linear predictor without history, and ``effect`` (unit, lag) or (lag,) what each
    count 1, 2, ... bins ago adds to it; ``bursts``, likewise, how many further spikes follow it.
    """
    counts = torch.zeros_like(eta)

    def past(of_spike: Tensor, now: int) -> Tensor:
        n_lags = min(now, of_spike.shape[-1])
        return (counts[..., now - n_lags : now] * of_spike[..., :n_lags].flip(-1)).sum(-1)

    for now in range(eta.shape[-1]):
        of_bin = family.map(lambda values: values.expand(eta.shape)[..., now])  # noqa: B023
        counts[..., now] = of_bin.sample(eta[..., now] + past(effect, now), generator)
        if bursts is not None and bursts.shape[-1]:
            counts[..., now] += torch.poisson(past(bursts, now), generator=generator)
    return counts
