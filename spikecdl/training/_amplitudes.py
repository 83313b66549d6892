"""Amplitudes and baselines with templates and places known, compiled: Newton steps per window."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl._losses import LOSSES, slopes
from spikecdl._quadratic import minimize
from spikecdl._working_set import add_events, banded_gram, line_search, overlap, product
from spikecdl.events import Events
from spikecdl.parallel import in_parallel
from spikecdl.training.observations import Observations

_ROUNDS = 12  # of amplitudes and baseline in turn
_TOL = 0.1  # of a standard error, at which both have settled


def fit_amplitudes(
    rows: Observations,
    templates: Tensor,
    events: Events,
    signs: tuple[Tensor, Tensor],
    spread: Tensor,
    baseline: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Minimise the cost with normal priors over amplitudes and baseline.

    .. math:: -\log p(y \mid \mu + \sum_e a_e h_{c(e)}(\cdot - t_e))
              + \sum_e \frac{a_e^2}{2 \sigma_{c(e)}^2} + \frac{\|\mu - \mu_0\|^2}{2 s^2}

    Parameters
    ----------
    rows : Observations
        On the CPU, with one window axis.
    templates : tensor, shape (template, channel, bin)
    events : Events
        Sorted by window; where they begin.
    signs : two tensors of bool, shape (template,)
        Whether amplitudes may be positive, and negative.
    spread : tensor, shape (template,)
        Standard deviation of the prior of amplitudes.
    baseline : tensor, shape (window, channel, 1)
        Where the baseline begins; it stays there unless it is to be learned.

    Returns
    -------
    amplitude : tensor of double precision, shape (event,)
    baseline : tensor of double precision, shape of ``baseline``
    """
    loss = rows.family.scalar_loss(rows.y)
    a, b = (_array((values * rows.mask).double()) for values in (loss.a, loss.b))
    levels = np.ascontiguousarray(_array(baseline.double())[..., 0] - loss.shift)
    expected = np.ascontiguousarray(_array(rows.baseline.double())[..., 0] - loss.shift)
    # in the order of windows and time
    order = (events.window * rows.y.shape[-1] + events.place).argsort(stable=True)
    listed = events.take(order)
    amplitude = _array(listed.amplitude.double()).copy()
    first = np.searchsorted(_array(listed.window), np.arange(len(a) + 1))
    model = (_array(templates.double()), _array(1 / spread.double().square()))
    stiffness = 1 / rows.family.eta_scale**2 if rows.learn_baseline else np.inf

    def work(part: slice) -> None:
        _fit_windows(
            *(part.start, part.stop, LOSSES[loss.kind], a, b, levels, expected, *model),
            *(_array(signs[0]), _array(signs[1]), stiffness, first),
            *(_array(listed.template), _array(listed.place), amplitude),
        )

    in_parallel(work, len(a), a.size)
    found = torch.empty(len(events), dtype=torch.float64)
    found[order] = torch.from_numpy(amplitude)
    return found, torch.from_numpy(levels[..., None] + loss.shift)


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
    expected,
    templates,
    precision,
    up,
    down,
    stiffness,
    first,
    which,
    place,
    amplitude,
):
    """Fit some windows; ``levels`` and ``amplitude`` are changed in place."""
    eta = np.empty(a.shape[1:])
    residual, curvature = np.empty_like(eta), np.empty_like(eta)
    for i in range(begin, end):
        mine = slice(first[i], first[i + 1])
        events = (which[mine], place[mine], amplitude[mine])
        for n in range(eta.shape[0]):
            eta[n] = levels[i, n]
        add_events(eta, templates, *events)
        for n in range(eta.shape[0]):
            slopes(loss, a[i, n], b[i, n], eta[n], residual[n], curvature[n])
        for _ in range(_ROUNDS):
            moved = 0.0
            if stiffness < np.inf:
                state = (eta, residual, curvature, levels[i], expected[i])
                moved = _fit_levels(loss, a[i], b[i], *state, stiffness)
            state = (eta, residual, curvature)
            moved = max(
                moved,
                _fit_events(loss, a[i], b[i], *state, templates, precision, up, down, *events),
            )
            if moved < _TOL:
                break


@njit(cache=True, error_model="numpy")
def _fit_levels(loss, a, b, eta, residual, curvature, levels, expected, stiffness):
    """Take a Newton step of the baseline of each channel; return its size in standard errors."""
    largest = 0.0
    for n in range(eta.shape[0]):
        bend = curvature[n].sum() + stiffness
        step = (residual[n].sum() - stiffness * (levels[n] - expected[n])) / bend
        step = max(-1.0, min(1.0, step))
        levels[n] += step
        eta[n] += step
        slopes(loss, a[n], b[n], eta[n], residual[n], curvature[n])
        largest = max(largest, abs(step) * np.sqrt(bend))
    return largest


@njit(cache=True, error_model="numpy")
def _fit_events(
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
        minimize(gram, slope, ours, free, up, down, sizes, move, _TOL / 4 * unit)
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
