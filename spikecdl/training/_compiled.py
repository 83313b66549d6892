"""Cost of events at fixed places and its gradient, compiled."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl._losses import LOSSES, QUADRATIC, value_and_residual
from spikecdl.events import Events
from spikecdl.parallel import in_parallel
from spikecdl.training.observations import Observations

_PARTS = 8  # sums run over as many parts on any machine, so that they round alike


class CompiledLikelihood:
    r"""Cost of :math:`\mu + \sum_e a_e h_{c(e)}(\cdot - t_e)`; see `likelihood`.

    Bins that no event covers hold the baseline; they are summed once, at the start.

    Parameters
    ----------
    rows : Observations
        On the CPU, with one window axis.
    events : Events
        Sorted by window; their amplitudes are not used.
    length : int
        Bins of a template.
    """

    def __init__(self, rows: Observations, events: Events, length: int) -> None:
        loss = rows.family.scalar_loss(rows.y)
        self._loss, self._shift = LOSSES[loss.kind], loss.shift
        self._a, self._b = (_array((values * rows.mask).double()) for values in (loss.a, loss.b))
        self._which, self._place = _array(events.template), _array(events.place)
        n_windows = len(rows.y)
        self._first = np.searchsorted(_array(events.window), np.arange(n_windows + 1))
        self._covered = np.zeros((n_windows, rows.y.shape[-1]), dtype=np.bool_)
        self._sums = np.zeros((n_windows, rows.y.shape[1], 3))
        edges = np.arange(_PARTS + 1) * n_windows // _PARTS
        self._parts = [slice(*pair) for pair in zip(edges, edges[1:], strict=False)]
        _cover(
            *(self._loss, self._a, self._b, self._first, self._place, length),
            *(self._covered, self._sums),
        )

    def __call__(
        self, templates: Tensor, amplitude: Tensor, baseline: Tensor
    ) -> tuple[float, Tensor, Tensor, Tensor]:
        """Return the cost and its derivatives, in double precision."""
        waves, sizes = _array(templates), _array(amplitude)
        levels = _array(baseline)[..., 0] - self._shift
        costs = np.zeros(_PARTS)
        by_template = np.zeros((_PARTS, *waves.shape))
        by_amplitude, by_level = np.zeros_like(sizes), np.zeros_like(levels)

        def work(parts: slice) -> None:
            for number in range(parts.start, parts.stop):
                windows = self._parts[number]
                costs[number] = _evaluate(
                    *(windows.start, windows.stop, self._loss, self._a, self._b, levels),
                    *(self._covered, self._sums, self._first, self._which, self._place),
                    *(sizes, waves, by_template[number], by_amplitude, by_level),
                )

        in_parallel(work, _PARTS)
        return (
            float(costs.sum()),
            torch.from_numpy(by_template.sum(0)),
            torch.from_numpy(by_amplitude),
            torch.from_numpy(by_level[..., None]),
        )


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy())


@njit(cache=True, error_model="numpy")
def _cover(loss, a, b, first, place, length, covered, sums):
    """Mark the bins that events cover, and sum the numbers of all others."""
    for i in range(a.shape[0]):
        for j in range(first[i], first[i + 1]):
            covered[i, place[j] : place[j] + length] = True
        for n in range(a.shape[1]):
            for t in range(a.shape[2]):
                if not covered[i, t]:
                    sums[i, n, 0] += b[i, n, t]
                    sums[i, n, 1] += a[i, n, t] * (b[i, n, t] if loss == QUADRATIC else 1.0)
                    sums[i, n, 2] += a[i, n, t] * a[i, n, t] * b[i, n, t]


@njit(cache=True, error_model="numpy", nogil=True)
def _evaluate(
    start,
    stop,
    loss,
    a,
    b,
    levels,
    covered,
    sums,
    first,
    which,
    place,
    sizes,
    waves,
    by_template,
    by_amplitude,
    by_level,
):
    """Return the cost of some windows, and fill in or add to the derivatives."""
    length = waves.shape[2]
    eta = np.empty(a.shape[2])
    total = 0.0
    for i in range(start, stop):
        for n in range(a.shape[1]):
            level = levels[i, n]
            eta[:] = level
            for j in range(first[i], first[i + 1]):
                part, wave = eta[place[j] : place[j] + length], waves[which[j], n]
                for k in range(length):
                    part[k] += sizes[j] * wave[k]
            if loss == QUADRATIC:
                s0, s1, s2 = sums[i, n, 0], sums[i, n, 1], sums[i, n, 2]
                total += (s2 - 2 * level * s1 + level * level * s0) / 2
                slope = s1 - level * s0
            else:
                cost, slope = value_and_residual(loss, sums[i, n, 1], sums[i, n, 0], level)
                total += cost
            # eta becomes the residual
            for t in range(eta.size):
                if covered[i, t]:
                    cost, residual = value_and_residual(loss, a[i, n, t], b[i, n, t], eta[t])
                    total += cost
                    slope += residual
                    eta[t] = residual
            by_level[i, n] = -slope
            for j in range(first[i], first[i + 1]):
                part, wave = eta[place[j] : place[j] + length], waves[which[j], n]
                gradient = by_template[which[j], n]
                product = 0.0
                for k in range(length):
                    product += wave[k] * part[k]
                    gradient[k] -= sizes[j] * part[k]
                by_amplitude[j] -= product
    return total
