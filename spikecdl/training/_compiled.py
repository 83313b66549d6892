"""Cost of events at fixed places and its gradient, compiled."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl._losses import LOSSES, QUADRATIC, value
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
        self._spans = _spans(self._first, self._place, length, rows.y.shape[-1])
        self._sums = _outside(self._loss, self._a, self._b, self._spans)
        edges = np.arange(_PARTS + 1) * n_windows // _PARTS
        self._parts = [slice(*pair) for pair in zip(edges, edges[1:], strict=False)]

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
                    *(self._spans, self._sums, self._first, self._which, self._place),
                    *(sizes, waves, by_template[number], by_amplitude, by_level),
                )

        in_parallel(work, _PARTS, self._a.size)
        return (
            float(costs.sum()),
            torch.from_numpy(by_template.sum(0)),
            torch.from_numpy(by_amplitude),
            torch.from_numpy(by_level[..., None]),
        )


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy())


@njit(cache=True, error_model="numpy")
def _spans(first, place, length, n_bins):
    """Return the stretches of bins that events cover: where those of each window begin, and them.

    A table with one row (start, stop) per stretch, in the order of windows and time.
    """
    n_windows = first.size - 1
    of_window, table = np.zeros(n_windows + 1, np.int64), np.empty((place.size, 2), np.int64)
    count = 0
    for i in range(n_windows):
        begun = count
        for p in np.sort(place[first[i] : first[i + 1]]):
            if count > begun and p <= table[count - 1, 1]:
                table[count - 1, 1] = p + length
            else:
                table[count] = p, p + length
                count += 1
        of_window[i + 1] = count
    return of_window, table[:count].copy()


@njit(cache=True, error_model="numpy")
def _outside(loss, a, b, spans):
    """Sum the numbers of the bins that no event covers, (window, channel, 3)."""
    of_window, table = spans
    sums = np.zeros((a.shape[0], a.shape[1], 3))
    for i in range(a.shape[0]):
        for n in range(a.shape[1]):
            start = 0
            for span in range(of_window[i], of_window[i + 1] + 1):
                stop = table[span, 0] if span < of_window[i + 1] else a.shape[2]
                for t in range(start, stop):
                    sums[i, n, 0] += b[i, n, t]
                    sums[i, n, 1] += a[i, n, t] * (b[i, n, t] if loss == QUADRATIC else 1.0)
                    sums[i, n, 2] += a[i, n, t] * a[i, n, t] * b[i, n, t]
                if span < of_window[i + 1]:
                    start = table[span, 1]
    return sums


@njit(cache=True, error_model="numpy", fastmath=True)
def _add(part, amplitude, wave):
    for k in range(wave.size):
        part[k] += amplitude * wave[k]


@njit(cache=True, error_model="numpy", fastmath=True)
def _pull(part, amplitude, wave, gradient):
    """Return the product of a residual with a waveform; its share goes off the gradient."""
    product = 0.0
    for k in range(wave.size):
        product += wave[k] * part[k]
        gradient[k] -= amplitude * part[k]
    return product


@njit(cache=True, error_model="numpy", nogil=True)
def _evaluate(
    start,
    stop,
    loss,
    a,
    b,
    levels,
    spans,
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
    of_window, table = spans
    eta, residual = np.empty(a.shape[2]), np.empty(a.shape[2])
    alone, none = np.empty((3, 1)), np.empty(1)
    total = 0.0
    for i in range(start, stop):
        for n in range(a.shape[1]):
            level = levels[i, n]
            if loss == QUADRATIC:
                s0, s1, s2 = sums[i, n, 0], sums[i, n, 1], sums[i, n, 2]
                total += (s2 - 2 * level * s1 + level * level * s0) / 2
                slope = s1 - level * s0
            else:
                alone[0, 0], alone[1, 0], alone[2, 0] = sums[i, n, 1], sums[i, n, 0], level
                total += value(loss, alone[0], alone[1], alone[2], none)
                slope = none[0]
            for span in range(of_window[i], of_window[i + 1]):
                eta[table[span, 0] : table[span, 1]] = level
            for j in range(first[i], first[i + 1]):
                _add(eta[place[j] : place[j] + length], sizes[j], waves[which[j], n])
            for span in range(of_window[i], of_window[i + 1]):
                here = slice(table[span, 0], table[span, 1])
                total += value(loss, a[i, n, here], b[i, n, here], eta[here], residual[here])
                slope += residual[here].sum()
            by_level[i, n] = -slope
            for j in range(first[i], first[i + 1]):
                part, wave = residual[place[j] : place[j] + length], waves[which[j], n]
                by_amplitude[j] -= _pull(part, sizes[j], wave, by_template[which[j], n])
    return total
