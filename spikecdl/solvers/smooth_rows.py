"""Rows of templates under a smooth prior that shrinks them, whose strength is estimated, compiled.

A row h of a template, one unit's, is normal with precision

.. math:: P = \\alpha (I + \\tau D^\\top D),

where D takes second differences.  MacKay's fixed point maximises the evidence: with the posterior
covariance S, the precision of a row of L bins becomes

.. math:: \\alpha \\leftarrow \\alpha \\frac{L - \\mathrm{tr}(S P)}{h^\\top P h},

parameters that the data determine, over their size.  Rows of units that take no part end at zero
(Neural Computation 4, 1992).
All matrices are banded: a row costs as many operations as it has bins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

_LEAST_PARAMETERS = 1e-6
_HELD = 1e15  # curvature of a bin that stays at its least value


class Rows(NamedTuple):
    """Posterior means and variances of rows (row, bin), and precisions of their prior (row,)."""

    mean: np.ndarray
    variance: np.ndarray
    precision: np.ndarray


class RowPrior(NamedTuple):
    """Squared second differences, see `second_differences`, and their weight tau; the largest
    change of a bin in one step, and the least and largest precision; and the least value of a bin.
    """

    bends: np.ndarray
    tau: float
    limits: tuple[float, float, float]
    floor: float = -np.inf


def second_differences(length: int) -> np.ndarray:
    """Return the three upper diagonals (3, bin) of the squared second differences."""
    bends = np.diff(np.eye(length), n=2, axis=0) if length > 2 else np.zeros((1, length))
    matrix = bends.T @ bends
    return np.stack([np.pad(np.diag(matrix, k), (0, min(k, length))) for k in range(3)])


@njit(cache=True, error_model="numpy", nogil=True)
def update_rows(rows, slope, curvature, prior_of_rows, found):
    """Take a Newton step of each row (row, bin), in place, and estimate its precision.

    Bins at their least value that would fall below it are held there (projected Newton steps:
    Bertsekas, SIAM J. Control Optim. 20, 1982).

    Parameters
    ----------
    rows : Rows
        Replaced.
    slope, curvature : ndarray, shape (row, bin)
        First derivative of the expected log likelihood and minus the second.
    prior_of_rows : RowPrior
    found : ndarray, shape (row, 2)
        Receives minus the Kullback-Leibler divergence of the row's posterior from its prior, and
        ``alpha (h' D'D h + tr(S D'D))``, of which the sum over rows estimates tau.
    """
    means, variance, alpha = rows
    bends, tau, limits, floor = prior_of_rows
    n_rows, length = means.shape
    band = tau * bends
    band[0] += 1.0
    log_relative = _factor(band.copy())
    matrix, held, inverse = np.empty((3, length)), np.empty((3, length)), np.empty((3, length))
    change = np.empty(length)
    for n in range(n_rows):
        row, prior = means[n], alpha[n] * band
        total = log_relative + length * np.log(alpha[n])
        matrix[:] = prior
        matrix[0] += curvature[n]
        _multiply(prior, row, change)
        for t in range(length):
            change[t] = slope[n, t] - change[t]
        if floor > -np.inf:
            held[:] = matrix
            for t in range(length):
                if row[t] <= floor and change[t] < 0:
                    held[0, t] = _HELD
            _factor(held)
        total -= _factor(matrix)
        _solve(held if floor > -np.inf else matrix, change)
        for t in range(length):
            row[t] = max(row[t] + max(-limits[0], min(limits[0], change[t])), floor)
        _invert(matrix, inverse)
        variance[n] = inverse[0]
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
        wanted = max(known, _LEAST_PARAMETERS) / max(size, 1e-12)
        alpha[n] = min(max(alpha[n] * min(max(wanted, 0.2), 5.0), limits[1]), limits[2])


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
