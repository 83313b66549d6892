"""Amplitudes and baselines with templates and places known, compiled: Newton steps per window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl.solvers.events import Events
from spikecdl.solvers.l1 import add_events, banded_gram, line_search, overlap, product
from spikecdl.solvers.losses import LOSSES, slopes, value
from spikecdl.solvers.quadratic import minimize
from spikecdl.solvers.threads import in_parallel
from spikecdl.training.base import Observations
from spikecdl.training.distributed import Processes

_ROUNDS = 12  # of amplitudes and baseline in turn
_TOL = 0.1  # of a standard error, at which both have settled
_NOISE = 0.01  # of a standard error; shorter steps tell nothing of the next
_FARTHEST = 8.0  # times Newton's step of the baseline that may be taken
_PARTS = 8  # sums run over as many parts on any machine, so that they round alike


@dataclass(frozen=True)
class Fit:
    """What templates are worth with the amplitudes and baselines that suit them best.

    Parameters
    ----------
    cost, prior : float
        Negative log likelihood up to a constant, and that of the priors.
    gradient, curvature : tensor of double precision, shape (template, channel, bin)
        Derivative of their sum by the templates, and the diagonal of the second derivative.
    """

    cost: float
    prior: float
    gradient: Tensor
    curvature: Tensor

    def total(self, processes: Processes) -> Fit:
        """Return the sum over processes."""
        sums = self.gradient.new_tensor([self.cost, self.prior])
        packed = torch.cat([sums, self.gradient.reshape(-1), self.curvature.reshape(-1)])
        total = processes.total(packed)
        gradient, curvature = total[2:].reshape(2, *self.gradient.shape)
        return Fit(float(total[0]), float(total[1]), gradient, curvature)


class Amplitudes:
    r"""Cost and normal priors, least over amplitudes and baselines, as a function of templates.

    .. math:: \min_{a, \mu} -\log p\Bigl(y \mid \mu + \sum_e a_e h_{c(e)}(\cdot - t_e)\Bigr)
              + \sum_e \frac{a_e^2}{2 \sigma_{c(e)}^2} + \frac{\|\mu - \mu_0\|^2}{2 s^2}

    Its derivative is that of the cost at the minimum (envelope theorem), where every call begins
    from what suited the templates before.

    Parameters
    ----------
    rows : Observations
        On the CPU, with one window axis.
    events : Events
        Sorted by window; where they begin, and amplitudes to start from.
    signs : two tensors of bool, shape (template,)
        Whether amplitudes may be positive, and negative.
    precision : tensor, shape (template,)
        :math:`1 / \sigma^2` of the prior of amplitudes.
    baseline : tensor, shape (window, channel, 1)
        Where the baseline begins; it stays there unless it is to be learned.
    learn : bool
        Whether to fit amplitudes; if not, they stay as they are.
    """

    def __init__(
        self,
        rows: Observations,
        events: Events,
        signs: tuple[Tensor, Tensor],
        precision: Tensor,
        baseline: Tensor,
        learn: bool = True,
    ) -> None:
        first = rows.take(slice(0, 1)).load()
        loss = first.family.scalar_loss(first.y)
        self._rows, self._events, n_windows = rows, events, len(rows.y)
        self._kind, self._shift = LOSSES[loss.kind], loss.shift
        self._kept = list(self._losses()) if rows.is_one_part else None
        self._levels = _array(baseline.double())[..., 0] - loss.shift
        expected = _array(rows.baseline.double())[..., 0] - loss.shift
        self._baseline = (self._levels, np.ones_like(expected), expected)
        self._stiffness = 1 / rows.family.eta_scale**2 if rows.learn_baseline else np.inf
        up, down = (_array(sign) for sign in signs)
        self._priors = (_array(precision.double()), up, down, learn)
        # in the order of windows and time
        self._order = (events.window * rows.y.shape[-1] + events.place).argsort(stable=True)
        listed = events.take(self._order)
        self._first = np.searchsorted(_array(listed.window), np.arange(n_windows + 1))
        self._amplitude = _array(listed.amplitude.double()).copy()
        self._listed = (_array(listed.template), _array(listed.place), self._amplitude)

    def __call__(self, templates: Tensor, tol: float = _TOL) -> Fit:
        """Fit to a tolerance in standard errors."""
        waves = _array(templates.double())
        sums, derivatives = np.zeros(2), np.zeros((2, *waves.shape))
        for part, a, b in self._kept or self._losses():
            of_part = self._fit_part(part, a, b, waves, tol)
            sums, derivatives = sums + of_part[0], derivatives + of_part[1]
        cost, prior = sums.tolist()
        return Fit(cost, prior, *map(torch.from_numpy, derivatives))

    def _losses(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield the coefficients of the loss for some windows after the other."""
        for part, some in self._rows.parts():
            loss = some.family.scalar_loss(some.y)
            a, b = (_array((values * some.mask).double()) for values in (loss.a, loss.b))
            yield part, a, b

    def _fit_part(
        self, part: slice, a: np.ndarray, b: np.ndarray, waves: np.ndarray, tol: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fit some windows; return cost and prior, and the derivatives by templates."""
        edges = np.arange(_PARTS + 1) * len(a) // _PARTS
        sums, derivatives = np.zeros((_PARTS, 2)), np.zeros((2, _PARTS, *waves.shape))
        data = (self._kind, a, b, *(values[part] for values in self._baseline), self._stiffness)
        listed = (self._first[part.start : part.stop + 1], *self._listed)

        def work(numbers: slice) -> None:
            for number in range(numbers.start, numbers.stop):
                sums[number] = _fit_windows(
                    *(*edges[number : number + 2], *data, waves, *self._priors, tol),
                    *(*listed, *derivatives[:, number]),
                )

        in_parallel(work, _PARTS, a.size)
        return sums.sum(0), derivatives.sum(1)

    @property
    def events(self) -> Events:
        """Return the events with their amplitudes, as they suited the last templates."""
        found = torch.empty(len(self._events), dtype=torch.float64)
        found[self._order] = torch.from_numpy(self._amplitude)
        return self._events.with_amplitude(found)

    @property
    def baseline(self) -> Tensor:
        """Return the baseline that suited the last templates, (window, channel, 1)."""
        return torch.from_numpy(self._levels[..., None] + self._shift)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy())


@njit(cache=True, error_model="numpy", nogil=True)
def _fit_windows(
    begin,
    end,
    loss,
    a,
    b,
    levels,
    relax,
    expected,
    stiffness,
    templates,
    precision,
    up,
    down,
    learn,
    tol,
    first,
    which,
    place,
    amplitude,
    by_template,
    bend,
):
    """Fit some windows; return their cost and prior, and add to the derivatives by templates.

    ``levels`` and ``amplitude`` are changed in place.
    """
    eta = np.empty(a.shape[1:])
    residual, curvature = np.empty_like(eta), np.empty_like(eta)
    state, last = (eta, residual, curvature), np.empty(eta.shape[0])
    cost, prior = 0.0, 0.0
    for i in range(begin, end):
        mine = slice(first[i], first[i + 1])
        events = (which[mine], place[mine], amplitude[mine])
        for n in range(eta.shape[0]):
            eta[n] = levels[i, n]
        add_events(eta, templates, *events)
        for n in range(eta.shape[0]):
            slopes(loss, a[i, n], b[i, n], eta[n], residual[n], curvature[n])
        last[:] = 0.0
        for _ in range(_ROUNDS):
            moved = 0.0
            if learn:
                moved = fit_events(
                    loss, a[i], b[i], *state, templates, precision, up, down, *events, tol
                )
            if stiffness < np.inf:
                level = (levels[i], relax[i], last, expected[i], stiffness)
                moved = max(moved, fit_levels(loss, a[i], b[i], *state, *level))
            if moved < tol:
                break
        for n in range(eta.shape[0]):
            cost += value(loss, a[i, n], b[i, n], eta[n], residual[n])
            if stiffness < np.inf:
                prior += stiffness * (levels[i, n] - expected[i, n]) ** 2 / 2
        _differentiate(residual, curvature, *events, by_template, bend)
        for j in range(first[i], first[i + 1]):
            prior += precision[which[j]] * amplitude[j] ** 2 / 2
    return cost, prior


@njit(cache=True, error_model="numpy", fastmath=True)
def _subtract(gradient, amplitude, residual):
    for k in range(gradient.size):
        gradient[k] -= amplitude * residual[k]


@njit(cache=True, error_model="numpy")
def _differentiate(residual, curvature, which, place, amplitude, by_template, bend):
    """Add the derivatives of a window's cost by the templates, the second ones to ``bend``."""
    length = by_template.shape[2]
    for j in range(which.size):
        size = amplitude[j]
        for n in range(residual.shape[0]):
            here = slice(place[j], place[j] + length)
            _subtract(by_template[which[j], n], size, residual[n, here])
            _subtract(bend[which[j], n], -size * size, curvature[n, here])


@njit(cache=True, error_model="numpy")
def fit_levels(loss, a, b, eta, residual, curvature, levels, relax, last, expected, stiffness):
    """Take a step of the baseline of each channel; return its size in standard errors.

    Newton's step takes amplitudes for given, which would follow: of what it should have moved, a
    constant fraction is left each time.  ``relax`` is the multiple that leaves none, as the last
    steps tell it (Aitken's extrapolation).
    """
    largest = 0.0
    for n in range(eta.shape[0]):
        bend = curvature[n].sum() + stiffness
        step = (residual[n].sum() - stiffness * (levels[n] - expected[n])) / bend
        if abs(last[n]) * np.sqrt(bend) > _NOISE:
            left = min(step / last[n], 1 - relax[n] / _FARTHEST)
            relax[n] = max(relax[n] / (1 - left), 1.0)
        last[n] = step
        step = max(-1.0, min(1.0, relax[n] * step))
        levels[n] += step
        eta[n] += step
        slopes(loss, a[n], b[n], eta[n], residual[n], curvature[n])
        largest = max(largest, abs(step) * np.sqrt(bend))
    return largest


@njit(cache=True, error_model="numpy")
def fit_events(
    loss,
    a,
    b,
    eta,
    residual,
    curvature,
    templates,
    precision,
    up,
    down,
    which,
    place,
    amplitude,
    tol,
):
    """Take a Newton step of each group of events that overlap; return the largest one.

    In standard errors of the amplitudes.
    """
    length = templates.shape[2]
    free = np.zeros(templates.shape[0])
    largest = 0.0
    begin = 0
    while begin < which.size:
        end = begin + 1
        while end < which.size and place[end] - place[end - 1] < length:
            end += 1
        first, last = place[begin], place[end - 1] + length
        here, slope_here = eta[:, first:last].copy(), residual[:, first:last].copy()
        bend = curvature[:, first:last].copy()
        ours, starts, sizes = which[begin:end], place[begin:end] - first, amplitude[begin:end]
        gram = np.empty((ours.size, overlap(starts, length)))
        banded_gram(templates, bend, ours, starts, gram)
        slope, move = np.empty(ours.size), np.empty(ours.size)
        for j in range(ours.size):
            prior = precision[ours[j]]
            slope[j] = product(templates[ours[j]], slope_here, starts[j]) - prior * sizes[j]
            gram[j, 0] += prior
        unit = np.sqrt(gram[:, 0].max())
        minimize(gram, slope, ours, free, up, down, sizes, move, tol / 4 * unit)
        towards = np.zeros_like(here)
        add_events(towards, templates, ours, starts, move)
        price = 0.0  # the prior's slope, at the start of the step
        for j in range(ours.size):
            price += precision[ours[j]] * sizes[j] * move[j]
            largest = max(largest, abs(move[j]) * np.sqrt(gram[j, 0]))
        data = (a[:, first:last].copy(), b[:, first:last].copy(), here, towards)
        step = line_search(loss, *data, price, slope_here, bend)
        for j in range(ours.size):
            whole = step == 1.0 and sizes[j] + move[j] == 0.0
            sizes[j] = 0.0 if whole else sizes[j] + step * move[j]
        eta[:, first:last] = here
        residual[:, first:last], curvature[:, first:last] = slope_here, bend
        begin = end
    return largest
