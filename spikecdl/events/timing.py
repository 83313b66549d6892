r"""When in a window events begin: a smooth rate of events, learned with the templates.

The log rate of a template is linear between knots, whose values w are a random walk of precision
:math:`\tau`.  Given the expected events n and idle bins e of each onset, over windows, it maximises

.. math:: \sum_s n_s \log r_s - e_s r_s - \frac{\tau}{2} \sum_k (w_{k+1} - w_k)^2,
          \qquad \log r_s = \mathrm{level} + \sum_k w_k b_k(s),

and :math:`\tau` the evidence of these, with w integrated out around its maximum (Laplace; MacKay,
Neural Computation 4, 1992).  A rate that does not change costs nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.linalg import solve

from spikecdl.events.counts import Expectation
from spikecdl.events.model import EventModel, hats

_PRECISIONS = 2.0 ** np.arange(-4, 13)  # of a step between knots; the last is next to constant
_LARGEST_STEP = 1.0  # of a log rate in one update


def exposure(model: EventModel, found: Expectation) -> np.ndarray:
    """Return the expected bins (onset,), over chains and windows, in which an event might begin."""
    starts = found.starts.sum(0)
    n_onsets = starts.size
    last = np.minimum(np.arange(n_onsets) + model.length, n_onsets)
    windows = (found.free + starts @ (last - np.arange(n_onsets))) / n_onsets
    before = np.pad(starts.cumsum(), (model.length, 0))
    busy = before[model.length - 1 : -1] - before[:n_onsets]  # by events that began earlier
    return np.maximum(windows - busy, 0.0)


def updated_timing(model: EventModel, found: Expectation, step: float) -> EventModel:
    """Return the model after a Newton step of the rates at knots."""
    timing = model.timing.copy()
    idle, steps = exposure(model, found), _steps(timing.shape[1])
    for c in np.flatnonzero(model.has_events):
        slope, curvature = _derivatives(model, found, idle, int(c))
        tau = min(_PRECISIONS, key=lambda tau: _cost(timing[c], curvature, tau))
        penalty = tau * steps.T @ steps
        ridge = 1e-6 * np.trace(curvature) + 1e-9  # as the level is not determined
        matrix = curvature + penalty + ridge * np.eye(len(curvature))
        change = solve(matrix, slope - penalty @ timing[c], assume_a="pos")
        timing[c] += step * np.clip(change, -_LARGEST_STEP, _LARGEST_STEP)
    return replace(model, timing=timing - timing.mean(1, keepdims=True))


def timing_cost(model: EventModel, found: Expectation) -> float:
    """Return what the evidence loses as the rates at knots are not known, in nats."""
    if not model.timing.size:
        return 0.0
    idle, total = exposure(model, found), 0.0
    for c in np.flatnonzero(model.has_events):
        _, curvature = _derivatives(model, found, idle, int(c))
        total += min(_cost(model.timing[c], curvature, tau) for tau in _PRECISIONS)
    return total


def _derivatives(
    model: EventModel, found: Expectation, idle: np.ndarray, c: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return slope (knot,) and curvature (knot, knot) of the log likelihood by rates at knots."""
    n_onsets = idle.size
    basis = hats(model.timing.shape[1], n_onsets)
    expected = idle * np.exp(model.log_timing(n_onsets)[c])
    expected *= found.starts[c].sum() / max(expected.sum(), 1e-12)  # the level is that of the rate
    return basis @ (found.starts[c] - expected), (basis * expected) @ basis.T


def _cost(walk: np.ndarray, curvature: np.ndarray, tau: float) -> float:
    """Return minus the log prior of a walk, integrated around it; its level is free."""
    steps, curvature = _steps(walk.size), curvature + 1e-6 / walk.size**2  # of no event at all
    apart = np.linalg.slogdet(steps @ steps.T)[1] + (walk.size - 1) * np.log(tau)
    known = np.linalg.slogdet(curvature + tau * steps.T @ steps)[1]
    level = np.log(curvature.sum() / walk.size)
    return float(tau * np.square(steps @ walk).sum() + known - apart - level) / 2


def _steps(n_knots: int) -> np.ndarray:
    return np.diff(np.eye(n_knots), axis=0)
