"""Covariates of counts with their coefficients: of the linear predictor, and of bursts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl.model.history import Drift, Smooth

PART = 2**22  # numbers in memory at once: 16 MiB as floats
_BURST_SD = 0.2  # spikes after a spike, in each bin: of their half-normal prior
_FIRST_BURSTS, _NO_BURSTS = 0.02, 1e-4  # such spikes: before a fit, and as good as none


@dataclass(frozen=True)
class Covariates:
    r"""Columns X of the linear predictor, with coefficients for each unit of the recording.

    .. math:: \eta = \mu + \sum_j \beta_{u, j} X_j + \text{events}

    Columns of the history are the counts of earlier bins of the window convolved with the functions
    of `History`; there are no spikes before the first bin.  Columns of drift and of signals are
    functions of time and of their values.  The constant is not among them.  Columns are kept if
    they are few numbers, and else computed a few windows at a time whenever they are needed.

    After those of columns, a unit has the coefficients of its bursts, see `Bursts`.

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
    n_bursts : int
        Lags of bursts.
    signals : tuple of (Smooth, tensor)
        Functions of each signal, and its values in the shape of counts.
    """

    counts: Tensor
    unit: Tensor
    start: Tensor
    bin_size: float
    basis: Tensor
    drift: Drift | None = None
    largest: float = math.inf
    common: bool = False
    n_bursts: int = 0
    signals: tuple[tuple[Smooth, Tensor], ...] = ()

    @property
    def n_columns(self) -> int:
        """Number of columns: those of the history, then those of drift and of signals."""
        slow = [f.n_columns for f in (self.drift, *(f for f, _ in self.signals)) if f is not None]
        return len(self.basis) + sum(slow)

    def none(self) -> Tensor:
        """Return coefficients (unit, coefficient) that change nothing."""
        n_units = int(self.unit.max()) + 1
        found = torch.zeros(n_units, self.n_columns + self.n_bursts, dtype=torch.float64)
        found[:, self.n_columns :] = _FIRST_BURSTS  # from which EM can go on
        return found.to(self.unit.device)

    @property
    def precision(self) -> Tensor:
        """One over the variance of the normal prior of each column's coefficient, in float64.

        The standard deviation is 2 log units for the history, as in `History`, and 1 for others.
        """
        precision = torch.ones(self.n_columns, dtype=torch.float64, device=self.unit.device)
        precision[: len(self.basis)] = 2.0**-2
        return precision

    def map(self, change: Callable[[Tensor], Tensor]) -> Covariates:
        """Return the covariates with ``change`` applied to what has a row per window."""
        counts, unit, start = map(change, (self.counts, self.unit, self.start))
        signals = tuple((function, change(values)) for function, values in self.signals)
        return replace(self, counts=counts, unit=unit, start=start, signals=signals)

    def later(self, n_bins: Tensor) -> Covariates:
        """Return the covariates of windows (window,) that begin some bins later."""
        shift = self.bin_size * n_bins.reshape(-1, *[1] * (self.start.ndim - 1))
        return replace(self, start=self.start + shift)

    def filters(self, coefficients: Tensor) -> Tensor | None:
        """Return the filter of the history, (unit, lag), if there is one."""
        n_past = len(self.basis)
        return coefficients[:, :n_past] @ self.basis.to(coefficients) if n_past else None

    def offset(self, coefficients: Tensor) -> Tensor:
        """Return the sum of columns times coefficients (unit, column), in the shape of counts."""
        if not self.n_columns:
            return self.basis.new_zeros(self.counts.shape)
        known = coefficients[:, : self.n_columns]
        parts = [
            torch.einsum("rkt,rk->rt", columns, known.to(columns)[unit])
            for _, unit, columns in self._columns()
        ]
        return torch.cat(parts).reshape(self.counts.shape)

    def excess(self, coefficients: Tensor) -> Tensor | None:
        """Return what bursts add to the mean, in the shape of counts, if there are any."""
        if not self.n_bursts:
            return None
        effect = coefficients[:, self.n_columns :]
        parts = [
            torch.einsum("rkt,rk->rt", past, effect.to(past)[self._units(part)])
            for part, past in self._lagged()
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
        weight of the curvature.  Steps are at most 1 in the log rate.  Those of bursts are a step
        of EM: a spike is one of a burst in proportion to what bursts add to the mean.

        Parameters
        ----------
        coefficients : tensor, shape (unit, column)
        residual, curvature : tensors, shape of counts
            First and second derivative of the (expected) log likelihood by eta and by ``-eta``, of
            spikes that are not of bursts; zero where nothing was observed.
        total : callable
            Sums a tensor over processes.
        """
        new = coefficients.clone()
        if self.n_columns:
            known = coefficients[:, : self.n_columns].double()
            step = self._step(total(self._sums(len(coefficients), residual, curvature)), known)
            step = step / step.abs().amax(1, keepdim=True).clamp(min=1.0)
            new[:, : self.n_columns] += step.to(coefficients)
        if self.n_bursts:
            effect = coefficients[:, self.n_columns :].double()
            mine, number, _ = total(self._sums_of_bursts(effect, residual, curvature)).unbind(-1)
            mine, number, each = mine[..., 0], number[..., 0], _BURST_SD**2
            # the root of mine / x - number - x / each
            found = (each * number).square() + 4 * each * mine
            new[:, self.n_columns :] = ((found.sqrt() - each * number) / 2).to(coefficients)
        return new

    def log_volume(self, coefficients: Tensor, residual: Tensor, curvature: Tensor) -> float:
        """Return the log of the share of the likelihood that is left if coefficients are unknown.

        With normal priors, by `log_volume`; parameters as for `update`.
        """
        found, coefficients = 0.0, coefficients.double()
        if self.n_columns:
            known, n_past = coefficients[:, : self.n_columns], len(self.basis)
            sums = self._sums(len(known), residual, curvature)
            own, _, left, _ = self._eliminated(sums, known)
            drift = self.precision[n_past:]
            found -= float((own.logdet() - own[:, 0, 0].log()).sum()) / 2
            found += float((drift.log() - drift * known[:, n_past:].square()).sum()) / 2
            if n_past:
                past, prior = known[: len(left), :n_past], self.precision[:n_past]
                slope = left[..., -1] + prior * past
                bend = left[..., :-1] - prior.diag()
                found += float(log_volume(bend, slope, past, prior, self.largest).sum())
        if self.n_bursts:
            effect = coefficients[:, self.n_columns :]
            sums = self._sums_of_bursts(effect, residual, curvature)
            effect = torch.where(effect < _NO_BURSTS, 0, effect)
            slope = sums[..., 0, 0] / effect.clamp(min=_NO_BURSTS) - sums[..., 0, 1]
            prior = effect.new_full((self.n_bursts,), _BURST_SD**-2)
            found += float(log_volume(sums[..., 2], slope, effect, prior, 0.0).sum())
        return found

    def _sums(self, n_units: int, residual: Tensor, curvature: Tensor) -> Tensor:
        """Return the curvature of a constant and the columns, and their score, for each unit."""
        size = 1 + self.n_columns  # a constant, and the columns
        shape, device = (n_units, size, size + 1), self.unit.device
        sums = torch.zeros(shape, dtype=torch.float64, device=device)
        residual, curvature = (t.reshape(-1, t.shape[-1]) for t in (residual, curvature))
        for part, unit, x in self._columns():
            both = torch.stack([curvature[part], residual[part]], dim=2)
            found = sums.new_zeros(len(unit), *shape[1:])
            found[:, 0, [0, -1]] = both.sum(1, dtype=torch.float64)
            found[:, 1:, [0, -1]] = (x @ both.to(x)).double()
            found[:, 0, 1:-1] = found[:, 1:, 0]
            found[:, 1:, 1:-1] = ((x * curvature[part, None].to(x)) @ x.mT).double()
            sums.index_add_(0, unit, found)
        return sums

    def _sums_of_bursts(self, effect: Tensor, residual: Tensor, curvature: Tensor) -> Tensor:
        """Return sums (unit, lag, lag, 3) over bins: spikes of bursts by the lag at which they
        follow another (in the first column), bins that many after a spike (there, too), and minus
        the second derivative of the log likelihood.
        """
        shape = (len(effect), self.n_bursts, self.n_bursts, 3)
        sums = torch.zeros(shape, dtype=torch.float64, device=self.unit.device)
        residual, curvature = (t.reshape(-1, t.shape[-1]) for t in (residual, curvature))
        counts = self.counts.reshape(residual.shape)
        for part, past in self._lagged():
            unit, seen, past = self._units(part), curvature[part] > 0, past.double()
            others = torch.where(seen, counts[part] - residual[part] - curvature[part], 0)
            excess = torch.einsum("rkt,rk->rt", past, effect[unit]).clamp(min=1e-300)
            share = past * (others / excess)[:, None]
            found = past.new_zeros(len(past), *shape[1:])
            found[..., 0, 0] = effect[unit] * share.sum(-1)
            found[..., 0, 1] = (past * seen[:, None]).sum(-1)
            found[..., 2] = (share / excess[:, None]) @ past.mT
            sums.index_add_(0, unit, found)
        return sums

    def _eliminated(
        self, sums: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what is left of the normal equations without level and drift of each unit.

        The matrix of level and drift; their solution for each coefficient of the history and for
        the score; the matrix of the history, with its score in the last column; and the step of
        level and drift if the history stays.
        """
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
        matrix = both[:, own][:, :, own]
        solved = torch.linalg.solve(matrix, torch.cat([edge, score[:, own]], 2))
        left = torch.cat([both[:, past, past], score[:, past]], dim=2) - edge.mT @ solved
        left = left.sum(0, keepdim=True) if self.common else left
        return matrix, solved[..., :-1], left, solved[..., -1]

    def _step(self, sums: Tensor, coefficients: Tensor) -> Tensor:
        """Return the Newton step: level and drift are eliminated, the history is solved for."""
        _, solved, left, rest = self._eliminated(sums, coefficients)
        room = self.largest - coefficients[: len(left), : len(self.basis)]
        step = _solve_below(left[..., :-1], left[..., -1], room).expand(len(sums), -1)
        rest = rest - (solved @ step[..., None])[..., 0]
        return torch.cat([step, rest[:, 1:]], dim=1)

    def _units(self, part: slice) -> Tensor:
        """Return the units of some rows."""
        return self.unit.reshape(-1)[part]

    def _lagged(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows, and their counts 1, 2, ... bins ago (row, lag, bin)."""
        counts = self.counts.reshape(-1, self.counts.shape[-1])
        n_rows = max(1, PART // (counts.shape[-1] * self.n_bursts))
        for first in range(0, len(counts), n_rows):
            part = slice(first, min(first + n_rows, len(counts)))
            before = F.pad(counts[part].double(), (self.n_bursts, 0))[:, :-1]
            yield part, before.unfold(-1, counts.shape[-1], 1).flip(1)

    def _columns(self) -> Iterable[tuple[slice, Tensor, Tensor]]:
        """Return the slice, the units and the columns (row, column, bin) of some rows of counts."""
        small = self.counts.numel() * self.n_columns <= PART
        return self._kept if small else self._computed()

    @cached_property
    def _kept(self) -> list[tuple[slice, Tensor, Tensor]]:
        return list(self._computed())

    def _computed(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        n_bins = self.counts.shape[-1]
        rows = (self.counts, self.unit, self.start)
        counts, unit, start = (tensor.reshape(-1, tensor.shape[-1]) for tensor in rows)
        n_rows = max(1, PART // (n_bins * self.n_columns))
        for first in range(0, len(counts), n_rows):
            part = slice(first, min(first + n_rows, len(counts)))
            columns = [self._past(counts[part])] if len(self.basis) else []
            if self.drift is not None:
                columns.append(self._slow(start[part, 0]))
            for function, values in self.signals:
                some = values.reshape(-1, n_bins)[part].to(self.basis)
                columns.append(function(some).movedim(0, 1))
            yield part, unit[part, 0], columns[0] if len(columns) == 1 else torch.cat(columns, 1)

    def _slow(self, start: Tensor) -> Tensor:
        """Return the functions of drift (row, column, bin) in rows of which the start is given."""
        known, functions = self._drifting
        if functions is None:
            known = start.double().unique()
            functions = self._of_drift(known).to(self.basis)
        if len(functions) == 1:
            return functions.expand(len(start), -1, -1)
        return functions[torch.searchsorted(known, start.double())]

    @cached_property
    def _drifting(self) -> tuple[Tensor, Tensor | None]:
        """All starts, and the functions of drift from each on, if these are not many numbers."""
        assert self.drift is not None
        starts, n_bins = self.start.double().unique(), self.counts.shape[-1]
        number = len(starts) * n_bins * self.drift.n_columns
        few = number <= max(PART, self.counts.numel())
        return starts, self._of_drift(starts).to(self.basis) if few else None

    def _of_drift(self, starts: Tensor) -> Tensor:
        """Return the functions of drift (start, column, bin) in windows from some starts on."""
        assert self.drift is not None
        n_bins = self.counts.shape[-1]
        middle = self.bin_size * (torch.arange(n_bins, device=starts.device) + 0.5)
        return self.drift(starts[:, None] + middle).movedim(0, 1)

    def _past(self, counts: Tensor) -> Tensor:
        """Convolve counts (row, bin) with the functions of the history, strictly in the past."""
        n_lags = self.basis.shape[1]
        before = F.pad(counts.to(self.basis), (n_lags, 0))[:, None, :-1]
        return F.conv1d(before, self.basis.flip(1)[:, None])


def _solve_below(matrix: Tensor, right: Tensor, room: Tensor, max_iter: int = 200) -> Tensor:
    """Minimise x'Ax / 2 - b'x with x at most ``room``, (row, column).

    Columns that are held at their bound change as long as some are on the wrong side: all of them,
    later the last one alone, which ends (Murty, Linear Algebra Appl. 7, 1974).
    """
    held = torch.zeros_like(room, dtype=torch.bool)
    x = torch.linalg.solve(matrix, right)
    for number in range(max_iter):
        wrong = torch.where(held, right < (matrix @ x[..., None])[..., 0], x > room)
        if not wrong.any():
            break
        if number > 10:
            wrong &= wrong.flip(-1).cumsum(-1).flip(-1) == 1
        held = held ^ wrong
        at = torch.where(held, room, 0.0)
        known = torch.where(held, room, right - (matrix @ at[..., None])[..., 0])
        apart = held[..., :, None] | held[..., None, :]
        x = torch.linalg.solve(torch.where(apart, 0, matrix) + torch.diag_embed(held.to(x)), known)
    return torch.minimum(x, room)


def log_volume(
    curvature: Tensor, slope: Tensor, coefficients: Tensor, precision: Tensor, bound: float
) -> Tensor:
    r"""Return the log of the integral of likelihood times prior, over the likelihood at its mode.

    By Laplace's approximation.  With a normal prior of precision P, half of it if there is a bound,
    and minus the second derivative H of the log likelihood, coefficients x away from their bound
    add

    .. math:: -\tfrac12 x^\top P x + \tfrac12 \log\det P - \tfrac12 \log\det (H + P)

    (MacKay, Neural Computation 4, 1992).  At the bound, the log posterior falls with slope g > 0,
    and the integral is that of :math:`\exp(-g x - (H + P) x^2 / 2)` over x > 0.

    Parameters
    ----------
    curvature : tensor, shape (..., coefficient, coefficient)
    slope, coefficients : tensors, shape (..., coefficient)
        First derivative of the log likelihood, and the mode.
    precision : tensor, shape (coefficient,)
    bound : float
        Of all coefficients, from below if it is 0 and they are above, or from above; infinite if
        there is none.

    Returns
    -------
    tensor, shape (...)

    Examples
    --------
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> log_volume(3 * torch.eye(1).double(), 0 * one, 0 * one, one, math.inf).round(decimals=3)
    tensor(-0.6930, dtype=torch.float64)
    """
    both = curvature + precision.diag()
    slope = (slope - precision * coefficients).abs()
    held = (coefficients - bound).abs() < 1e-6 if math.isfinite(bound) else slope < -1
    diagonal = both.diagonal(dim1=-2, dim2=-1)
    free = ~(held[..., :, None] | held[..., None, :])
    rest = torch.where(free, both, 0) + torch.diag_embed(held.to(both))
    scaled = slope / (2 * diagonal).sqrt()
    tail = (torch.special.erfcx(scaled) / 2 / diagonal.sqrt()).log()
    if math.isfinite(bound):  # a normal integral ends there, too
        inside = torch.special.log_ndtr((coefficients - bound).abs() * diagonal.sqrt())
        tail = torch.where(held, tail, inside)
    tail = torch.where(held | math.isfinite(bound), tail, 0)
    prior = precision.log() - precision * coefficients.square()
    halves = math.log(2) if math.isfinite(bound) else 0.0
    return (prior / 2 + halves + tail).sum(-1) - rest.logdet() / 2
