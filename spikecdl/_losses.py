"""The three scalar losses of `spikecdl.families.ScalarLoss`, compiled."""

from __future__ import annotations

import math

from numba import njit

LOSSES = {"quadratic": 0, "logistic": 1, "exponential": 2}
QUADRATIC, LOGISTIC = LOSSES["quadratic"], LOSSES["logistic"]

_TOP = 700.0  # exponents are cut here


@njit(cache=True, error_model="numpy", inline="always")
def slopes(loss, a, b, z):
    """Return residual (minus the derivative) and curvature."""
    if loss == QUADRATIC:
        return b * (a - z), b
    if loss == LOGISTIC:
        small = math.exp(-abs(z))
        up = (1.0 if z >= 0 else small) / (1.0 + small)
        down = (small if z >= 0 else 1.0) / (1.0 + small)
        return a * down - b * up, (a + b) * up * down
    mean = b * math.exp(min(z, _TOP))
    return a - mean, mean


@njit(cache=True, error_model="numpy", inline="always")
def value_and_residual(loss, a, b, z):
    """Return the loss, and minus its derivative."""
    if loss == QUADRATIC:
        return b * (a - z) * (a - z) / 2, b * (a - z)
    if loss == LOGISTIC:
        small = math.exp(-abs(z))
        both = math.log1p(small)
        up = (1.0 if z >= 0 else small) / (1.0 + small)
        down = (small if z >= 0 else 1.0) / (1.0 + small)
        cost = a * (both + max(-z, 0.0)) + b * (both + max(z, 0.0))
        return cost, a * down - b * up
    mean = b * math.exp(min(z, _TOP))
    return mean - a * z, a - mean
