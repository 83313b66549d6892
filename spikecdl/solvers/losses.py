"""The three scalar losses of `spikecdl.model.families.ScalarLoss`, compiled, for rows of bins.

Exponentials and logarithms are polynomials, so that the loops run on vector registers; their
relative error is below 1e-10.
"""

from __future__ import annotations

from numba import njit

LOSSES = {"quadratic": 0, "logistic": 1, "exponential": 2}
QUADRATIC, LOGISTIC = LOSSES["quadratic"], LOSSES["logistic"]

_TOP = 80.0  # exponents are cut here
_SCALE = 1 / 1024  # exp(z) = exp(z / 1024) ** 1024, by ten squarings


@njit(cache=True, error_model="numpy", fastmath=True, inline="always")
def _exp(z):
    x = min(max(z, -_TOP), _TOP) * _SCALE
    tail = 1.0 + x / 5 * (1.0 + x / 6 * (1.0 + x / 7))
    power = 1.0 + x * (1.0 + x / 2 * (1.0 + x / 3 * (1.0 + x / 4 * tail)))
    power *= power
    power *= power
    power *= power
    power *= power
    power *= power
    power *= power
    power *= power
    power *= power
    power *= power
    return power * power


@njit(cache=True, error_model="numpy", fastmath=True, inline="always")
def _log1p(x):
    """Logarithm of 1 + x for x from 0 to 1: twice the inverse hyperbolic tangent of x / (2 + x)."""
    u = x / (2.0 + x)
    v = u * u
    high = 1 / 11 + v * (1 / 13 + v * (1 / 15 + v * (1 / 17 + v * (1 / 19 + v / 21))))
    return 2 * u * (1 + v * (1 / 3 + v * (1 / 5 + v * (1 / 7 + v * (1 / 9 + v * high)))))


@njit(cache=True, error_model="numpy", fastmath=True)
def slopes(loss, a, b, z, residual, curvature):
    """Fill in the residual (minus the derivative) and the curvature of every bin."""
    if loss == QUADRATIC:
        for t in range(z.size):
            residual[t] = b[t] * (a[t] - z[t])
            curvature[t] = b[t]
    elif loss == LOGISTIC:
        for t in range(z.size):
            small = _exp(-abs(z[t]))
            larger = 1.0 / (1.0 + small)
            up = larger if z[t] >= 0 else small * larger
            down = small * larger if z[t] >= 0 else larger
            residual[t] = a[t] * down - b[t] * up
            curvature[t] = (a[t] + b[t]) * up * down
    else:
        for t in range(z.size):
            mean = b[t] * _exp(z[t])
            residual[t] = a[t] - mean
            curvature[t] = mean


@njit(cache=True, error_model="numpy", fastmath=True)
def value(loss, a, b, z, residual):
    """Return the loss of all bins, and fill in minus its derivative."""
    total = 0.0
    if loss == QUADRATIC:
        for t in range(z.size):
            miss = a[t] - z[t]
            total += b[t] * miss * miss / 2
            residual[t] = b[t] * miss
    elif loss == LOGISTIC:
        for t in range(z.size):
            x = z[t]
            small = _exp(-abs(x))
            larger = 1.0 / (1.0 + small)
            up = larger if x >= 0 else small * larger
            down = small * larger if x >= 0 else larger
            total += (a[t] + b[t]) * _log1p(small) + a[t] * max(-x, 0.0) + b[t] * max(x, 0.0)
            residual[t] = a[t] * down - b[t] * up
    else:
        for t in range(z.size):
            x = z[t]
            mean = b[t] * _exp(x)
            total += mean - a[t] * x
            residual[t] = a[t] - mean
    return total
