r"""Priors whose strengths are estimated: of templates, and of when in a window events begin.

A row h of a template, one channel's, is normal with precision

.. math:: P = \alpha (I + \tau D^\top D),

where D takes second differences.  MacKay's fixed point maximises the evidence: with the posterior
covariance S, the precision of a row of L bins becomes

.. math:: \alpha \leftarrow \alpha \frac{L - \mathrm{tr}(S P)}{h^\top P h},

parameters that the data determine, over their size.  Rows of channels that take no part end at zero
(Neural Computation 4, 1992).
All matrices are banded: a row costs as many operations as it has bins.

The log rate of a template is linear between knots, whose values w are a random walk of precision
:math:`\tau`.  Given the expected events n and idle bins e of each onset, over windows, it maximises

.. math:: \sum_s n_s \log r_s - e_s r_s - \frac{\tau}{2} \sum_k (w_{k+1} - w_k)^2,
          \qquad \log r_s = \mathrm{level} + \sum_k w_k b_k(s),

and :math:`\tau` the evidence of these, with w integrated out around its maximum (Laplace; MacKay,
Neural Computation 4, 1992).  A rate that does not change costs nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve

from spikecdl import kernels
from spikecdl.events.counts import Expectation
from spikecdl.events.model import EventModel, hats

_ROUGHEST, _SMOOTHEST = 0.03, 1e5  # smoothness
_PRECISIONS = 2.0 ** np.arange(-4, 13)  # of a step between knots; the last is next to constant
_LARGEST_STEP = 1.0  # of a log rate in one update
_ROW_COST = 1.0  # nats that a row must gain beyond what its prior costs, to be other than zero

update_rows = kernels.function("update_rows")
_fill_roughness = kernels.function("fill_roughness")


class Rows(NamedTuple):
    """Posterior means and variances of rows (row, bin), and precisions of their prior (row,)."""

    mean: np.ndarray
    variance: np.ndarray
    precision: np.ndarray


class RowData(NamedTuple):
    """What counts say of rows (row, bin): ``spikes``, what is ``expected`` and its ``curvature``,
    at rows of some ``mean`` and ``variance``; whether it is ``linear`` in a row, as for signals.
    """

    spikes: np.ndarray
    expected: np.ndarray
    curvature: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    linear: bool


class RowPrior(NamedTuple):
    """Squared second differences, see `second_differences`, and their weight tau; the least value
    of a bin; whether precisions are estimated; and the length of steps, 1 for whole ones.
    """

    bends: np.ndarray
    tau: float
    floor: float = -np.inf
    learn: bool = True
    step: float = 1.0


def updated_templates(
    model: EventModel,
    found: Expectation,
    scale: float,
    linear: bool,
    step: float = 1.0,
    perturbation: np.ndarray | None = None,
) -> EventModel:
    """Return the model after Newton steps of its templates, and of the strengths of their prior.

    Rows that gain less than they cost become zero, but for the best of each template.  A
    ``perturbation``, see `perturbed`, is added to the slope, and the prior stays.  What is expected
    is ``linear`` in the templates, or exponential.
    """
    bends, learn = second_differences(model.length), perturbation is None
    contiguous = np.ascontiguousarray
    templates = contiguous(model.templates / scale)
    variance = contiguous(model.variance / scale**2)
    shrinkage, smoothness = model.shrinkage * scale**2, model.smoothness.copy()
    spikes, expected = contiguous(found.spikes * scale), contiguous(found.expected * scale)
    curvature = contiguous(np.maximum(found.curvature * scale**2, 0.0))
    cost, gains = model.cost.copy(), model.gain.copy()
    for c in np.flatnonzero(model.has_events):
        rows, of_rows = templates[c], np.empty((templates.shape[1], 3))
        floor = 0.0 if model.nonnegative[c] else -np.inf
        prior = RowPrior(bends, float(smoothness[c]), floor, learn, step)
        more = spikes[c] if perturbation is None else spikes[c] + perturbation[c]
        data = RowData(more, expected[c], curvature[c], rows.copy(), variance[c].copy(), linear)
        update_rows(Rows(rows, variance[c], shrinkage[c]), data, prior, of_rows)
        gains[c] = gain = of_rows[:, 2] + of_rows[:, 0] - _ROW_COST
        none = (gain < 0) & (gain < gain.max())
        rows[none] = variance[c, none] = 0.0
        cost[c] = (_ROW_COST - of_rows[~none, 0]).sum()
        if learn:
            total = len(rows) * roughness(bends, smoothness[c])
            factor = total / max(of_rows[:, 1].sum(), 1e-9) / smoothness[c]
            smoothness[c] = np.clip(smoothness[c] * np.sqrt(factor), _ROUGHEST, _SMOOTHEST)
    return replace(
        model,
        templates=templates * scale,
        variance=variance * scale**2,
        shrinkage=shrinkage / scale**2,
        smoothness=smoothness,
        cost=cost,
        gain=gains if learn else model.gain,
    )


def perturbed(model: EventModel, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a perturbation of the slope of the log prior (template, row, bin).

    With normal data of a fixed prior, templates fitted to such a prior and to noise drawn anew have
    the covariance of the posterior, which accounts for the bias of smoothing, too (Bardsley et al.,
    SIAM J. Sci. Comput. 36, 2014).
    """
    bends = np.diff(np.eye(model.length), n=2, axis=0)
    shape = model.templates.shape
    rough = rng.normal(size=(*shape[:2], len(bends))) @ bends
    rough *= np.sqrt(model.smoothness)[:, None, None]
    precision = model.shrinkage[..., None] * scale**2
    return (rough + rng.normal(size=shape)) * np.sqrt(precision)


def second_differences(length: int) -> np.ndarray:
    """Return the three upper diagonals (3, bin) of the squared second differences."""
    bends = np.diff(np.eye(length), n=2, axis=0) if length > 2 else np.zeros((1, length))
    matrix = bends.T @ bends
    return np.stack([np.pad(np.diag(matrix, k), (0, min(k, length))) for k in range(3)])


def roughness(bends: np.ndarray, tau: float) -> float:
    """Return tau times the trace of D'D over I + tau D'D."""
    found = np.empty(1)
    _fill_roughness(bends, tau, found)
    return float(found[0])


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
