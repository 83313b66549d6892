"""Cost of templates with the amplitudes and baselines that suit them best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spikecdl.solvers.amplitudes import Baselines, Prior, fit_windows, listed
from spikecdl.solvers.events import Events
from spikecdl.solvers.losses import LOSSES, Loss, as_array
from spikecdl.solvers.parallel import COSTLY, Processes, in_parallel
from spikecdl.training.base import Observations

_TOL = 0.1  # of a standard error, to which amplitudes and baselines are fitted
_PARTS = 8  # sums run over as many parts on any machine, so that they round alike


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

    def total(self, processes: Processes) -> Fit:
        """Return the sum over processes."""
        sums = self.gradient.new_tensor([self.cost, self.prior])
        packed = torch.cat([sums, self.gradient.reshape(-1), self.curvature.reshape(-1)])
        total = processes.total(packed)
        gradient, curvature = total[2:].reshape(2, *self.gradient.shape)
        return Fit(float(total[0]), float(total[1]), gradient, curvature)


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
        self._rows, self._events = rows, events
        self._kind, self._shift = LOSSES[loss.kind], loss.shift
        self._kept = list(self._losses()) if rows.is_one_part else None
        value, expected = (as_array(t)[..., 0] - loss.shift for t in (baseline, rows.baseline))
        self._offset = rows.baseline - rows.baseline[..., :1]
        offset = as_array(self._offset)
        self._baselines = Baselines(
            value, np.ones_like(expected), expected, rows.level_precision, offset
        )
        up, down = (sign.numpy() for sign in signs)
        self._prior = Prior(as_array(precision), up, down, learn)
        self._order, self._listed = listed(events, len(rows.y), rows.y.shape[-1])

    def __call__(self, templates: Tensor, tol: float = _TOL) -> Fit:
        """Fit to a tolerance in standard errors."""
        taps = as_array(templates)
        sums, derivatives = np.zeros(2), np.zeros((2, *taps.shape))
        for part, loss in self._kept or self._losses():
            of_part = self._fit_part(part, loss, taps, tol)
            sums, derivatives = sums + of_part[0], derivatives + of_part[1]
        cost, prior = sums.tolist()
        return Fit(cost, prior, *map(torch.from_numpy, derivatives))

    def _losses(self) -> Iterator[tuple[slice, Loss]]:
        """Yield the losses of some windows after the other."""
        for part, some in self._rows.parts():
            loss = some.family.scalar_loss(some.y)
            yield part, Loss(self._kind, *(as_array(t * some.mask) for t in (loss.a, loss.b)))

    def _fit_part(
        self, part: slice, loss: Loss, taps: np.ndarray, tol: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fit some windows; return cost and prior, and the derivatives by templates."""
        edges = np.arange(_PARTS + 1) * len(loss.a) // _PARTS
        sums, derivatives = np.zeros((_PARTS, 2)), np.zeros((_PARTS, 2, *taps.shape))
        value, relaxation, expected, stiffness, offset = self._baselines
        of_part = (value[part], relaxation[part], expected[part], stiffness, offset[part])
        baselines = Baselines(*of_part)
        events = self._listed._replace(first=self._listed.first[part.start : part.stop + 1])

        def work(numbers: slice) -> None:
            for number in range(numbers.start, numbers.stop):
                span = (edges[number], edges[number + 1])
                fixed = (loss, taps, self._prior, baselines, events, tol)
                sums[number] = fit_windows(span, *fixed, derivatives[number])

        in_parallel(work, _PARTS, loss.a.size * COSTLY)
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
        level = torch.from_numpy(self._baselines.value[..., None] + self._shift)
        return level + self._offset
