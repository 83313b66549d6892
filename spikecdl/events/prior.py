"""The prior of templates: smooth rows that are shrunk, whose strengths are estimated, compiled.

A row h of a template, one channel's, is normal with precision

.. math:: P = \\alpha (I + \\tau D^\\top D),

where D takes second differences.  MacKay's fixed point maximises the evidence: with the posterior
covariance S, the precision of a row of L bins becomes

.. math:: \\alpha \\leftarrow \\alpha \\frac{L - \\mathrm{tr}(S P)}{h^\\top P h},

parameters that the data determine, over their size.  Rows of channels that take no part end at zero
(Neural Computation 4, 1992).
All matrices are banded: a row costs as many operations as it has bins.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numba import njit

from spikecdl.events.counts import Expectation
from spikecdl.events.model import EventModel

LARGEST_STEP = 0.7  # of a bin of a template in one step, in units of the family's `eta_scale`
_ROUGHEST, _SMOOTHEST = 0.03, 1e5  # smoothness
_LEAST_SHRINKAGE, _MOST_SHRINKAGE = 0.05, 1e5  # in units of 1 / eta_scale^2
_LARGEST_FACTOR = 4.0  # of the precision of a row, in one step
_LEAST_PARAMETERS = 1e-6  # that the data determine of a row, so that its precision is finite
_NEWTON_STEPS = 3
_LARGEST_GROWTH = 5.0  # log of the factor of what is expected, between steps
_HELD = 1e15  # curvature of a bin that stays at its least value
_ROW_COST = 1.0  # nats that a row must gain beyond what its prior costs, to be other than zero


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
    templates, variance = model.templates / scale, model.variance / scale**2
    shrinkage, smoothness = model.shrinkage * scale**2, model.smoothness.copy()
    spikes, expected = found.spikes * scale, found.expected * scale
    curvature, cost = np.maximum(found.curvature * scale**2, 0.0), model.cost.copy()
    for c in np.flatnonzero(model.has_events):
        rows, of_rows = templates[c], np.empty((templates.shape[1], 3))
        floor = 0.0 if model.nonnegative[c] else -np.inf
        prior = RowPrior(bends, float(smoothness[c]), floor, learn, step)
        more = spikes[c] if perturbation is None else spikes[c] + perturbation[c]
        data = RowData(more, expected[c], curvature[c], rows.copy(), variance[c].copy(), linear)
        update_rows(Rows(rows, variance[c], shrinkage[c]), data, prior, of_rows)
        gain = of_rows[:, 2] + of_rows[:, 0] - _ROW_COST
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


@njit(cache=True, error_model="numpy", nogil=True)
def update_rows(rows, data, prior_of_rows, found):
    """Take Newton steps of each row (row, bin), in place, and estimate its precision.

    Between these steps what is expected of a bin changes as an exponential of its template and
    variance, with its own slope and curvature.  Bins at their least value that would fall below it
    are held there (projected Newton steps: Bertsekas, SIAM J. Control Optim. 20, 1982).

    Parameters
    ----------
    rows : Rows
        Replaced.
    data : RowData
    prior_of_rows : RowPrior
    found : ndarray, shape (row, 3)
        Receives minus the Kullback-Leibler divergence of the row's posterior from its prior;
        ``alpha (h' D'D h + tr(S D'D))``, of which the sum over rows estimates tau; and the expected
        log likelihood over that of a row of zeros.
    """
    means, variance, alpha = rows
    bends, tau, floor, learn, step = prior_of_rows
    n_rows, length = means.shape
    band = tau * bends
    band[0] += 1.0
    log_relative = _factor(band.copy())
    matrix, held, inverse = np.empty((3, length)), np.empty((3, length)), np.empty((3, length))
    change, slope, curvature = np.empty(length), np.empty(length), np.empty(length)
    for n in range(n_rows):
        row, prior = means[n], alpha[n] * band
        determinant = 0.0
        for _ in range(_NEWTON_STEPS):
            _fill_expected(data, n, row, variance[n], slope, curvature)
            matrix[:] = prior
            matrix[0] += curvature
            _multiply(prior, row, change)
            for t in range(length):
                change[t] = slope[t] - change[t]
            if floor > -np.inf:
                held[:] = matrix
                for t in range(length):
                    if row[t] <= floor and change[t] < 0:
                        held[0, t] = _HELD
                _factor(held)
            determinant = _factor(matrix)
            _solve(held if floor > -np.inf else matrix, change)
            for t in range(length):
                row[t] = max(row[t] + max(-LARGEST_STEP, min(LARGEST_STEP, change[t])), floor)
            _invert(matrix, inverse)
            for t in range(length):  # half of the way, as what is expected depends on it in turn
                known_before = variance[n, t] if variance[n, t] > 0.0 else inverse[0, t]
                variance[n, t] = np.sqrt(known_before * inverse[0, t])
        for t in range(length):
            row[t] = max(data.mean[n, t] + step * (row[t] - data.mean[n, t]), floor)
        total = log_relative + length * np.log(alpha[n]) - determinant
        _multiply(prior, row, change)
        bent, known, size = 0.0, float(length), 0.0
        for t in range(length):
            size += row[t] * change[t]
        for k in range(3):
            twice = 1.0 if k == 0 else 2.0
            for t in range(length - k):
                both = inverse[k, t] + row[t] * row[t + k]
                bent += twice * alpha[n] * both * bends[k, t]
                known -= twice * inverse[k, t] * prior[k, t]
        found[n, 0] = (total + known - size) / 2
        found[n, 1] = bent
        found[n, 2] = _gain(data, n, row, variance[n])
        if learn:
            factor = np.sqrt(max(known, _LEAST_PARAMETERS) / max(size, 1e-12))
            factor = min(max(factor, 1 / _LARGEST_FACTOR), _LARGEST_FACTOR)
            alpha[n] = min(max(alpha[n] * factor, _LEAST_SHRINKAGE), _MOST_SHRINKAGE)


@njit(cache=True, error_model="numpy", inline="always")
def _expected(data, n, t, row, variance):
    """Return what is expected of a bin that has moved to a mean and variance, and the curvature."""
    expected, bend = data.expected[n, t], data.curvature[n, t]
    moved, more = row - data.mean[n, t], variance - data.variance[n, t]
    if data.linear or expected <= 0.0:
        return expected + bend * moved, bend
    rate = bend / expected
    factor = np.exp(min(rate * moved + rate * rate * more / 2, _LARGEST_GROWTH))
    return factor * expected, factor * bend


@njit(cache=True, error_model="numpy")
def _fill_expected(data, n, row, variance, slope, curvature):
    """Fill in slope and curvature of the expected log likelihood of a row that has moved."""
    for t in range(row.size):
        expected, curvature[t] = _expected(data, n, t, row[t], variance[t])
        slope[t] = data.spikes[n, t] - expected


@njit(cache=True, error_model="numpy")
def _gain(data, n, row, variance):
    """Return the expected log likelihood of a row over that of zeros."""
    total = 0.0
    for t in range(row.size):
        with_row, bend = _expected(data, n, t, row[t], variance[t])
        without, _ = _expected(data, n, t, 0.0, 0.0)
        total += data.spikes[n, t] * row[t]
        if data.linear or data.expected[n, t] <= 0.0:
            total -= (with_row + without) * row[t] / 2
        else:
            total -= (with_row - without) * with_row / max(bend, 1e-300)
    return total


@njit(cache=True, error_model="numpy")
def roughness(bends, tau):
    """Return tau times the trace of D'D over I + tau D'D."""
    length = bends.shape[1]
    matrix, inverse, total = tau * bends, np.empty((3, length)), 0.0
    matrix[0] += 1.0
    _factor(matrix)
    _invert(matrix, inverse)
    for t in range(length):
        for k in range(3):
            total += (1.0 if k == 0 else 2.0) * inverse[k, t] * tau * bends[k, t]
    return total


@njit(cache=True, error_model="numpy")
def _multiply(band, vector, out):
    """Fill in the product of a symmetric matrix and a vector."""
    length = vector.size
    for t in range(length):
        out[t] = band[0, t] * vector[t]
    for k in range(1, 3):
        for t in range(length - k):
            out[t] += band[k, t] * vector[t + k]
            out[t + k] += band[k, t] * vector[t]


@njit(cache=True, error_model="numpy")
def _factor(band):
    """Replace a matrix by its factors L D L', of unit L; return the log of its determinant."""
    length, total = band.shape[1], 0.0
    for t in range(length):
        pivot = band[0, t]
        total += np.log(pivot)
        one = band[1, t] / pivot if t + 1 < length else 0.0
        two = band[2, t] / pivot if t + 2 < length else 0.0
        if t + 1 < length:
            band[0, t + 1] -= one * band[1, t]
        if t + 2 < length:
            band[1, t + 1] -= one * band[2, t]
            band[0, t + 2] -= two * band[2, t]
        band[1, t], band[2, t] = one, two
    return total


@njit(cache=True, error_model="numpy")
def _solve(factors, vector):
    """Replace a right-hand side by the solution."""
    length = vector.size
    for t in range(length):
        if t + 1 < length:
            vector[t + 1] -= factors[1, t] * vector[t]
        if t + 2 < length:
            vector[t + 2] -= factors[2, t] * vector[t]
    for t in range(length - 1, -1, -1):
        vector[t] /= factors[0, t]
        if t + 1 < length:
            vector[t] -= factors[1, t] * vector[t + 1]
        if t + 2 < length:
            vector[t] -= factors[2, t] * vector[t + 2]


@njit(cache=True, error_model="numpy")
def _invert(factors, inverse):
    """Fill in the diagonals of the inverse (Takahashi's equations)."""
    length = factors.shape[1]
    inverse[:] = 0.0
    for t in range(length - 1, -1, -1):
        one, two = factors[1, t], factors[2, t]
        next_one = inverse[1, t + 1] if t + 2 < length else 0.0
        if t + 2 < length:
            inverse[2, t] = -one * next_one - two * inverse[0, t + 2]
        if t + 1 < length:
            inverse[1, t] = -one * inverse[0, t + 1] - two * next_one
        inverse[0, t] = 1.0 / factors[0, t] - one * inverse[1, t] - two * inverse[2, t]
