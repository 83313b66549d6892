"""The scalar losses of `spikecdl.model.families.ScalarLoss`, compiled, and steps that lower them.

This is the only place where a kernel repeats the formulas of the families.  Exponentials and
logarithms are polynomials, so that loops use vector registers; their relative error is below 1e-10.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from torch import Tensor

from spikecdl.solvers.operators import add_events, add_multiple, dot

LOSSES = {"quadratic": 0, "logistic": 1, "exponential": 2}
QUADRATIC, LOGISTIC, EXPONENTIAL = LOSSES.values()

_MANTISSA, _BIAS = 52, 1023  # of numbers in double precision


class Loss(NamedTuple):
    """A scalar loss and its coefficients a and b, shape (row, bin), both zero where unobserved."""

    kind: int
    a: np.ndarray
    b: np.ndarray


class State(NamedTuple):
    """Linear predictor, minus the derivative of the loss and its curvature, shape (row, bin)."""

    eta: np.ndarray
    residual: np.ndarray
    curvature: np.ndarray


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a copy in double precision."""
    return np.array(tensor.numpy(), dtype=np.float64, order="C")


@njit(cache=True, error_model="numpy", fastmath=True, inline="always")
def exp(z):
    """Exponential of z, which saturates at 80 and at -80: exp(z / 1024), squared ten times."""
    x = min(max(z, -80.0), 80.0) / 1024
    tail = 1.0 + x / 5 * (1.0 + x / 6 * (1.0 + x / 7))
    power = 1.0 + x * (1.0 + x / 2 * (1.0 + x / 3 * (1.0 + x / 4 * tail)))
    for _ in range(10):
        power *= power
    return power


@njit(cache=True, error_model="numpy", fastmath=True, inline="always")
def log1p(x):
    """Logarithm of 1 + x for x from 0 to 1: twice the inverse hyperbolic tangent of x / (2 + x)."""
    u = x / (2.0 + x)
    v = u * u
    high = 1 / 11 + v * (1 / 13 + v * (1 / 15 + v * (1 / 17 + v * (1 / 19 + v / 21))))
    return 2 * u * (1 + v * (1 / 3 + v * (1 / 5 + v * (1 / 7 + v * (1 / 9 + v * high)))))


@njit(cache=True, error_model="numpy")
def to_log(values):
    """Replace positive numbers, neither subnormal nor infinite, by their logarithms."""
    bits, exponent = values.view(np.int64), np.empty(values.size)
    for s in range(values.size):
        exponent[s] = (bits[s] >> _MANTISSA) - _BIAS
    for s in range(values.size):
        bits[s] = (bits[s] & ((1 << _MANTISSA) - 1)) | (_BIAS << _MANTISSA)
    for s in range(values.size):
        values[s] = exponent[s] * np.log(2.0) + log1p(values[s] - 1.0)


@njit(cache=True, error_model="numpy", fastmath=True, inline="always")
def softplus(z):
    """Logarithm of 1 + exp(z)."""
    return max(z, 0.0) + log1p(exp(-abs(z)))


@njit(cache=True, error_model="numpy", fastmath=True)
def fill_row(kind, a, b, z, residual, curvature):
    """Fill in the residual (minus the derivative) and the curvature of every bin."""
    if kind == QUADRATIC:
        for t in range(z.size):
            residual[t] = b[t] * (a[t] - z[t])
            curvature[t] = b[t]
    elif kind == LOGISTIC:
        for t in range(z.size):
            small = exp(-abs(z[t]))
            larger = 1.0 / (1.0 + small)
            up = larger if z[t] >= 0 else small * larger
            down = small * larger if z[t] >= 0 else larger
            residual[t] = a[t] * down - b[t] * up
            curvature[t] = (a[t] + b[t]) * up * down
    else:
        for t in range(z.size):
            mean = b[t] * exp(z[t])
            residual[t] = a[t] - mean
            curvature[t] = mean


@njit(cache=True, error_model="numpy")
def fill_state(loss, state):
    """Fill in the residual and the curvature that belong to eta."""
    for n in range(len(state.eta)):
        fill_row(
            loss.kind, loss.a[n], loss.b[n], state.eta[n], state.residual[n], state.curvature[n]
        )


@njit(cache=True, error_model="numpy", fastmath=True)
def fill_terms(kind, a, b, z, out):
    """Fill in the loss of every bin."""
    if kind == QUADRATIC:
        for t in range(z.size):
            miss = a[t] - z[t]
            out[t] = b[t] * miss * miss / 2
    elif kind == LOGISTIC:
        for t in range(z.size):
            out[t] = (a[t] + b[t]) * softplus(z[t]) - a[t] * z[t]
    else:
        for t in range(z.size):
            out[t] = b[t] * exp(z[t]) - a[t] * z[t]


@njit(cache=True, error_model="numpy", fastmath=True)
def value(loss, eta):
    """Return the sum of the loss over bins."""
    total, terms = 0.0, np.empty(eta.shape[1])
    for n in range(len(eta)):
        fill_terms(loss.kind, loss.a[n], loss.b[n], eta[n], terms)
        for t in range(terms.size):
            total += terms[t]
    return total


@njit(cache=True, error_model="numpy")
def cut(loss, state, first, last):
    """Copy loss and state in the bins from ``first`` up to ``last``; loops are fast on copies."""
    (eta, residual, curvature), bins = state, slice(first, last)
    return (
        Loss(loss.kind, loss.a[:, bins].copy(), loss.b[:, bins].copy()),
        State(eta[:, bins].copy(), residual[:, bins].copy(), curvature[:, bins].copy()),
    )


@njit(cache=True, error_model="numpy")
def paste(state, first, part):
    """Write a part of the state back, from the bin ``first`` on."""
    for n in range(part.eta.shape[0]):
        for t in range(part.eta.shape[1]):
            state.eta[n, first + t] = part.eta[n, t]
            state.residual[n, first + t] = part.residual[n, t]
            state.curvature[n, first + t] = part.curvature[n, t]


@njit(cache=True, error_model="numpy")
def take_step(loss, state, templates, events, move, penalty_slope):
    """Move amplitudes along ``move``, as far as the objective falls, and update the state.

    ``penalty_slope`` is the change of the penalty over the whole move.
    """
    which, onset, amplitude = events
    direction = np.zeros_like(state.eta)
    add_events(direction, templates, which, onset, move)
    step = _line_search(loss, state, direction, penalty_slope)
    moved, change = amplitude.reshape(-1), move.reshape(-1)
    for j in range(moved.size):
        vanishes = step == 1.0 and moved[j] + change[j] == 0.0
        moved[j] = 0.0 if vanishes else moved[j] + step * change[j]


@njit(cache=True, error_model="numpy")
def _line_search(loss, state, direction, penalty_slope):
    """Return the step at which the objective stops falling, by 8 secants; update the state.

    The first step changes the linear predictor of no bin by more than 4.
    """
    eta, residual = state.eta, state.residual
    low, high = 0.0, 1.0
    slope_low, largest = penalty_slope, 0.0
    for n in range(len(eta)):
        slope_low -= dot(residual[n], direction[n])
        if loss.kind != QUADRATIC:  # whose Newton step is exact
            largest = max(largest, np.abs(direction[n]).max())
    position, step = 0.0, min(1.0, 4.0 / max(largest, 1e-300))
    for trial in range(8):
        slope = penalty_slope
        for n in range(len(eta)):
            add_multiple(eta[n], step - position, direction[n])
            fill_row(loss.kind, loss.a[n], loss.b[n], eta[n], residual[n], state.curvature[n])
            slope -= dot(residual[n], direction[n])
        position = step
        short = slope <= 0.1 * abs(slope_low) and step * largest <= 1
        if slope <= 0 or short or trial == 7:
            break
        high, slope_high = step, slope
        step = low + (high - low) * max(0.05, min(0.9, -slope_low / (slope_high - slope_low)))
    return position
