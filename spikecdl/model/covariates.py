"""Covariates of the linear predictor besides events: a unit's own spikes, and slow drift."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl import validation
from spikecdl.model.family import Family

_PART = 2**22  # numbers of the design that are in memory at once: 16 MiB


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
        n_lags = math.floor(self.seconds / bin_size + 1e-6)
        if n_lags < 1:
            raise ValueError(
                f"`history` (={self.seconds:g}) must be at least one bin of {bin_size:g}"
            )
        if n_lags <= self.n_basis:
            return torch.eye(n_lags)
        lags = torch.arange(1, n_lags + 1, dtype=torch.float64)
        return raised_cosines(lags.log(), math.log(n_lags), self.n_basis).float()

    @property
    def largest(self) -> float:
        """Largest coefficient."""
        return 0.0 if self.sign == "negative" else math.inf

    def filters(self, coefficients: Tensor, bin_size: float) -> Tensor:
        """Return the filter (unit, lag) of coefficients (unit, column), as in `Covariates`."""
        basis = self.basis(bin_size).to(coefficients)
        return coefficients[:, : len(basis)] @ basis


@dataclass(frozen=True)
class Drift:
    """Slow log rate: raised cosines in the recording's time, as far apart as their half width.

    They are centred over the time of the fit, from ``start`` to ``stop``; before and after it, the
    log rate stays as it is at that end.  ``in_time`` says whether that is time in the recording, or
    windows were put one after the other.
    """

    seconds: float
    start: float
    stop: float
    in_time: bool = True

    def __post_init__(self) -> None:
        validation.positive("drift", self.seconds, "seconds")

    @property
    def n_columns(self) -> int:
        """Number of functions: peaks over the time of the fit, and one more at either end."""
        return 3 + math.ceil((self.stop - self.start) / self.seconds - 1e-9)

    def __call__(self, times: Tensor) -> Tensor:
        """Return the functions at some times, shape (column, *times)."""
        grid = torch.linspace(self.start, self.stop, 8 * self.n_columns, dtype=times.dtype)
        mean = self._at(grid.to(times.device)).mean(1)
        return self._at(times) - mean.reshape(-1, *[1] * times.ndim)

    def _at(self, times: Tensor) -> Tensor:
        apart = max(self.stop - self.start, 1e-9) / max(self.n_columns - 3, 1)
        elapsed = times.clamp(self.start, self.stop) - self.start
        return raised_cosines(elapsed + apart, apart * (self.n_columns - 1), self.n_columns)


def raised_cosines(x: Tensor, last: float, count: int) -> Tensor:
    """Return cosines around peaks at ``count`` places from 0 to ``last``, shape (count, *x).

    Each is four times as wide as the peaks are apart, so that between the first and the last peak
    they sum to about 2.
    """
    apart = last / max(count - 1, 1)
    peaks = apart * torch.arange(count, dtype=x.dtype, device=x.device)
    away = (x - peaks.reshape(-1, *[1] * x.ndim)) * (math.pi / (2 * apart))
    return (1 + away.clamp(-math.pi, math.pi).cos()) / 2


@dataclass(frozen=True)
class Covariates:
    r"""Columns X of the linear predictor, with coefficients for each unit of the recording.

    .. math:: \eta = \mu + \sum_j \beta_{u, j} X_j + \text{events}

    Columns of the history are the counts of earlier bins of the window convolved with the functions
    of `History`; there are no spikes before the first bin.  Columns of drift are the functions of
    `Drift`.  The constant is not among them.  Columns are kept if they are few numbers, and else
    computed a few windows at a time whenever they are needed.

    Parameters
    ----------
    counts : tensor, shape (..., channel, bin)
        Counts, zero where nothing was observed; shape of the observations.
    unit : tensor of int, shape (..., channel, 1)
        Row of the coefficients.
    start : tensor, shape (..., channel, 1)
        Time at which the first bin begins.
    bin_size : float
    basis : tensor, shape (column, lag)
        Functions of the history; none without history.
    drift : Drift, optional
    largest : float
        Largest coefficient of the history: 0 if a spike can only lower the rate.
    common : bool
        Whether all units have the same coefficients of the history.
    """

    counts: Tensor
    unit: Tensor
    start: Tensor
    bin_size: float
    basis: Tensor
    drift: Drift | None = None
    largest: float = math.inf
    common: bool = False

    @property
    def n_columns(self) -> int:
        """Number of columns: those of the history, then those of drift."""
        return len(self.basis) + (0 if self.drift is None else self.drift.n_columns)

    @property
    def precision(self) -> Tensor:
        """One over the variance of the normal prior of each column's coefficient, in float64.

        The standard deviation is 2 log units for the history, as in `History`, and 1 for drift.
        """
        precision = torch.ones(self.n_columns, dtype=torch.float64, device=self.unit.device)
        precision[: len(self.basis)] = 2.0**-2
        return precision

    def map(self, change: Callable[[Tensor], Tensor]) -> Covariates:
        """Return the covariates with ``change`` applied to what has a row per window."""
        counts, unit, start = map(change, (self.counts, self.unit, self.start))
        return replace(self, counts=counts, unit=unit, start=start)

    def filters(self, coefficients: Tensor) -> Tensor | None:
        """Return the filter of the history, (unit, lag), if there is one."""
        n_past = len(self.basis)
        return coefficients[:, :n_past] @ self.basis.to(coefficients) if n_past else None

    def offset(self, coefficients: Tensor) -> Tensor:
        """Return the sum of columns times coefficients (unit, column), in the shape of counts."""
        parts = [
            torch.einsum("rkt,rk->rt", columns, coefficients.to(columns)[unit])
            for _, unit, columns in self._columns()
        ]
        return torch.cat(parts).reshape(self.counts.shape)

    def update(
        self,
        coefficients: Tensor,
        residual: Tensor,
        curvature: Tensor,
        total: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> Tensor:
        """Return the coefficients (unit, column) after a Newton step, in their precision.

        The constant level of each unit moves along: the step is the one for columns centred in the
        weight of the curvature.  Steps are at most 1 in the log rate.

        Parameters
        ----------
        coefficients : tensor, shape (unit, column)
        residual, curvature : tensors, shape of counts
            First and second derivative of the (expected) log likelihood by eta and by ``-eta``;
            zero where nothing was observed.
        total : callable
            Sums a tensor over processes.
        """
        size = 1 + self.n_columns  # a constant, and the columns
        shape, device = (len(coefficients), size, size + 1), self.unit.device
        sums = torch.zeros(shape, dtype=torch.float64, device=device)
        residual, curvature = (t.reshape(-1, t.shape[-1]) for t in (residual, curvature))
        for part, unit, columns in self._columns():
            x = F.pad(columns, (0, 0, 1, 0), value=1.0)
            weighted = x * curvature[part, None].to(x)
            score = x @ residual[part, :, None].to(x)
            sums.index_add_(0, unit, torch.cat([weighted @ x.mT, score], dim=2).double())
        step = self._step(total(sums), coefficients.double())
        step = step / step.abs().amax(1, keepdim=True).clamp(min=1.0)
        return coefficients + step.to(coefficients)

    def _step(self, sums: Tensor, coefficients: Tensor) -> Tensor:
        """Return the Newton step: level and drift are eliminated, the history is solved for."""
        n_past = len(self.basis)
        past = slice(1, 1 + n_past)
        own = torch.tensor([0, *range(past.stop, sums.shape[1])], device=sums.device)
        precision = self.precision
        precision[:n_past] /= len(sums) if self.common else 1  # as their prior counts once
        prior = F.pad(precision, (1, 0))  # the level has none
        score = sums[..., -1:] - (prior * F.pad(coefficients, (1, 0)))[..., None]
        ridge = 1e-9  # in a unit without spikes the level has no curvature
        both = torch.cat([sums[..., :-1] + (prior + ridge).diag(), score], dim=2)
        edge = both[:, own][:, :, past]
        solved = torch.linalg.solve(both[:, own][:, :, own], torch.cat([edge, score[:, own]], 2))
        left = torch.cat([both[:, past, past], score[:, past]], dim=2) - edge.mT @ solved
        left = left.sum(0, keepdim=True) if self.common else left
        room = self.largest - coefficients[: len(left), :n_past]
        step = _solve_below(left[..., :-1], left[..., -1], room).expand(len(sums), -1)
        rest = solved[..., -1] - (solved[..., :-1] @ step[..., None])[..., 0]
        return torch.cat([step, rest[:, 1:]], dim=1)

    def _columns(self) -> Iterable[tuple[slice, Tensor, Tensor]]:
        """Return the slice, the units and the columns (row, column, bin) of some rows of counts."""
        small = self.counts.numel() * self.n_columns <= _PART
        return self._kept if small else self._computed()

    @cached_property
    def _kept(self) -> list[tuple[slice, Tensor, Tensor]]:
        return list(self._computed())

    def _computed(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        n_bins = self.counts.shape[-1]
        rows = (self.counts, self.unit, self.start)
        counts, unit, start = (tensor.reshape(-1, tensor.shape[-1]) for tensor in rows)
        n_rows = max(1, _PART // (n_bins * max(1, self.n_columns)))
        middle = self.bin_size * (torch.arange(n_bins, device=start.device) + 0.5)
        for first in range(0, len(counts), n_rows):
            part = slice(first, min(first + n_rows, len(counts)))
            columns = [self._past(counts[part])]
            if self.drift is not None:
                starts, which = start[part, 0].double().unique(return_inverse=True)
                slow = self.drift(starts[:, None] + middle).movedim(0, 1)
                columns.append(slow.to(columns[0])[which])
            yield part, unit[part, 0], torch.cat(columns, dim=1)

    def _past(self, counts: Tensor) -> Tensor:
        """Convolve counts (row, bin) with the functions of the history, strictly in the past."""
        n_columns, n_lags = self.basis.shape
        if not n_columns:
            return self.basis.new_zeros(len(counts), 0, counts.shape[-1])
        before = F.pad(counts.to(self.basis), (n_lags, 0))[:, None, :-1]
        return F.conv1d(before, self.basis.flip(1)[:, None])


def _solve_below(
    matrix: Tensor, right: Tensor, room: Tensor, max_iter: int = 200, tol: float = 1e-5
) -> Tensor:
    """Minimise x'Ax / 2 - b'x with x at most ``room``, (..., column), by coordinate descent."""
    x = torch.linalg.solve(matrix, right)
    if not (x > room).any():
        return x
    x = torch.minimum(x, room)
    for _ in range(max_iter):
        before = x.clone()
        for j in range(x.shape[-1]):
            slope = right[..., j] - (matrix[..., j, :] * x).sum(-1)
            x[..., j] = torch.minimum(x[..., j] + slope / matrix[..., j, j], room[..., j])
        if (x - before).abs().max() < tol:
            break
    return x


def sample_in_time(
    family: Family, eta: Tensor, effect: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw counts (..., unit, bin) bin by bin, as those of a bin depend on earlier ones.

    ``eta`` is the linear predictor without history, and ``effect`` (unit, lag) or (lag,) what each
    count 1, 2, ... bins ago adds to it.
    """
    counts = torch.zeros_like(eta)
    for now in range(eta.shape[-1]):
        n_lags = min(now, effect.shape[-1])
        past = counts[..., now - n_lags : now] * effect[..., :n_lags].flip(-1)
        of_bin = family.map(lambda values: values.expand(eta.shape)[..., now])  # noqa: B023
        counts[..., now] = of_bin.sample(eta[..., now] + past.sum(-1), generator)
    return counts
