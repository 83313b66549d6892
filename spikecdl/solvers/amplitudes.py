"""Amplitudes and baselines of events whose templates and onsets are known.

Events are listed by window and, within a window, in order of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spikecdl import kernels
from spikecdl.model.observations import Observations
from spikecdl.solvers.events import Events
from spikecdl.solvers.parallel import ALONE, COSTLY, Processes, in_parallel, in_parts

#: The scalar losses of `spikecdl.model.families.ScalarLoss`, as functions in C number them.
LOSSES = {"quadratic": 0, "logistic": 1, "exponential": 2}
QUADRATIC = LOSSES["quadratic"]


class Loss(NamedTuple):
    """A scalar loss and its coefficients a and b, (window, row, bin), zero where unobserved."""

    kind: int
    a: np.ndarray
    b: np.ndarray


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a copy in double precision."""
    return np.array(tensor.numpy(), dtype=np.float64, order="C")


class Prior(NamedTuple):
    """Normal prior of amplitudes: precision and allowed signs of each template.

    ``learn`` says whether amplitudes are fitted at all.
    """

    precision: np.ndarray
    up: np.ndarray
    down: np.ndarray
    learn: bool = True


class Baselines(NamedTuple):
    """Baselines ([window,] row) and their normal prior.

    ``relaxation`` is the multiple of the Newton step that is taken, ``expected`` the mean of the
    prior and ``stiffness`` its precision: infinite if the baseline stays as it is.  ``offset``
    ([window,] row, bin) is known and added to the baseline; it may have one bin.
    """

    value: np.ndarray
    relaxation: np.ndarray
    expected: np.ndarray
    stiffness: float
    offset: np.ndarray


class Listed(NamedTuple):
    """Events of several windows; window i has those from ``first[i]`` up to ``first[i + 1]``."""

    first: np.ndarray
    which: np.ndarray
    onset: np.ndarray
    amplitude: np.ndarray


class _Task(NamedTuple):
    """Windows, and what is fitted to them to a tolerance in standard errors."""

    loss: Loss
    templates: np.ndarray
    prior: Prior
    baselines: Baselines
    events: Listed
    tol: float


_fit_amplitudes = kernels.function("fit_amplitudes")
_solve_amplitudes = kernels.function("solve_amplitudes")


def listed(events: Events, n_windows: int, n_bins: int) -> tuple[Tensor, Listed]:
    """Sort events by window and onset; return the order and their arrays (amplitude: a copy)."""
    order = (events.window * n_bins + events.onset).argsort(stable=True)
    in_order = events.take(order)
    first = np.searchsorted(in_order.window.numpy(), np.arange(n_windows + 1))
    which, onset = in_order.template.numpy(), in_order.onset.numpy()
    return order, Listed(first, which, onset, as_array(in_order.amplitude.detach()))


@dataclass(frozen=True)
class Fit:
    """Cost of templates at the best amplitudes and baselines, and its derivatives.

    ``cost`` is the negative log likelihood up to a constant and ``prior`` that of the priors;
    ``gradient`` and ``curvature`` (template, channel, bin) are the derivative of their sum and the
    diagonal of the second derivative, in double precision.
    """

    cost: float
    prior: float
    gradient: Tensor
    curvature: Tensor


class Amplitudes:
    r"""Cost with normal priors, minimised over amplitudes and baselines, given templates.

    .. math:: \min_{a, \mu} -\log p\Bigl(y \mid \mu + \sum_e a_e h_{c(e)}(\cdot - t_e)\Bigr)
              + \sum_e \frac{a_e^2}{2 \sigma_{c(e)}^2} + \frac{\|\mu - \mu_0\|^2}{2 s^2}

    Its derivative is that of the cost at the minimum (envelope theorem).  Every call starts from
    the amplitudes and baselines of the last one.

    Parameters
    ----------
    rows : Observations
        On the CPU, with one window axis.
    events : Events
        Sorted by window; their onsets, and the amplitudes to start from.
    signs : two tensors of bool, shape (template,)
        Whether amplitudes may be positive, and negative.
    precision : tensor, shape (template,)
        :math:`1 / \sigma^2` of the prior of amplitudes.
    baseline : tensor, shape of ``rows.baseline``
        Baseline to start from, which differs from ``rows.baseline`` by a constant in each window.
        It stays there unless ``rows`` say that it is learned.
    learn : bool
        Whether to fit the amplitudes.
    processes : Processes
        Processes that share the windows, over which costs and derivatives are summed.
    """

    def __init__(
        self,
        rows: Observations,
        events: Events,
        signs: tuple[Tensor, Tensor],
        precision: Tensor,
        baseline: Tensor,
        learn: bool = True,
        processes: Processes = ALONE,
    ) -> None:
        first = rows.take(slice(0, 1)).load()
        self._shift = first.family.scalar_loss(first.y).shift
        self._rows, self._events, self._processes = rows, events, processes
        self._kept = list(self._losses()) if rows.is_one_part else None
        self._offset = rows.baseline - rows.baseline[..., :1]
        level, expected = (as_array(t)[..., 0] - self._shift for t in (baseline, rows.baseline))
        relaxation, stiffness = np.ones_like(expected), rows.level_precision
        self._baselines = Baselines(level, relaxation, expected, stiffness, as_array(self._offset))
        up, down = (sign.numpy() for sign in signs)
        self._prior = Prior(as_array(precision), up, down, learn)
        self._order, self._listed = listed(events, len(rows.y), rows.y.shape[-1])

    def __call__(self, templates: Tensor, tol: float = 0.1) -> Fit:
        """Fit to a tolerance in standard errors."""
        taps = as_array(templates)
        sums, derivatives = np.zeros(2), np.zeros((2, *taps.shape))
        for part, loss in self._kept or self._losses():
            of_part = self._fit_part(part, loss, taps, tol)
            sums, derivatives = sums + of_part[0], derivatives + of_part[1]
        total = self._processes.total
        cost, prior = total(torch.from_numpy(sums)).tolist()
        return Fit(cost, prior, *total(torch.from_numpy(derivatives)))

    def _losses(self) -> Iterator[tuple[slice, Loss]]:
        """Yield the losses of some windows after the other."""
        for part, some in self._rows.parts():
            loss = some.family.scalar_loss(some.y)
            a, b = (as_array(t * some.mask) for t in (loss.a, loss.b))
            yield part, Loss(LOSSES[loss.kind], a, b)

    def _fit_part(
        self, part: slice, loss: Loss, taps: np.ndarray, tol: float, n_parts: int = 8
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fit some windows; return cost and prior, and the derivatives by templates.

        Sums run over as many parts on any machine, so that they round alike.
        """
        edges = np.arange(n_parts + 1) * len(loss.a) // n_parts
        sums, derivatives = np.zeros((n_parts, 2)), np.zeros((n_parts, 2, *taps.shape))
        value, relaxation, expected, stiffness, offset = self._baselines
        of_part = (value[part], relaxation[part], expected[part], stiffness, offset[part])
        events = self._listed._replace(first=self._listed.first[part.start : part.stop + 1])
        task = _Task(loss, taps, self._prior, Baselines(*of_part), events, tol)
        same = kernels.packed("fit_amplitudes", "task", task)

        def work(number: int) -> None:
            first, end = edges[number : number + 2]
            if first < end:
                _fit_amplitudes(first, end, same, sums[number], derivatives[number])

        in_parts(work, n_parts, loss.a.size * COSTLY)
        return sums.sum(0), derivatives.sum(0)

    @property
    def events(self) -> Events:
        """Return the events with the amplitudes of the last fit."""
        found = torch.empty(len(self._events), dtype=torch.float64)
        found[self._order] = torch.from_numpy(self._listed.amplitude)
        return self._events.with_amplitude(found)

    @property
    def baseline(self) -> Tensor:
        """Return the baseline of the last fit, in the shape of that of the rows."""
        return self._offset + torch.from_numpy(self._baselines.value[..., None] + self._shift)


def solve_events(templates: Tensor, curvature: Tensor, events: Events, right: Tensor) -> Tensor:
    r"""Solve the Newton system of the amplitudes of events at fixed onsets.

    .. math:: H_S^\top \operatorname{diag}(w) H_S\, q = b

    with S the events, sorted by window, w the curvature (window, channel, bin), zero where nothing
    was observed, and b the right-hand side (event,); all on the CPU.  The matrix of each window is
    banded in order of time and solved by Cholesky; without curvature under an event, q is zero.
    """
    n_windows, _, n_bins = curvature.shape
    order, rows = listed(events.with_amplitude(right), n_windows, n_bins)
    taps, weight = as_array(templates), as_array(curvature)

    def work(part: slice) -> None:
        _solve_amplitudes(part.start, part.stop, taps, weight, rows)

    in_parallel(work, n_windows, weight.size)
    solution = torch.from_numpy(rows.amplitude).to(right)
    return torch.empty_like(right).index_copy(0, order, solution)
