"""Quadratic programs with a banded matrix and an l1 term, compiled: a Newton step of codes."""

from __future__ import annotations

import numpy as np
from numba import njit

_ROUNDS = 20  # of sweeps, each followed by an exact solution on the codes that are not zero
_SWEEPS = 4


@njit(cache=True, error_model="numpy")
def minimize(gram, slope, which, weight, up, down, amplitude, move, tol):
    r"""Fill in the ``move`` d of amplitudes that minimises a quadratic model.

    .. math:: \tfrac12 d^\top G d - g^\top d + \sum_j w_j |v_j + d_j|

    with G banded (row j holds its own entry and those of its predecessors), g the slope and v the
    amplitude.  Coordinate descent finds which codes are zero, and a Cholesky factor the rest.

    It stops when a sweep changes no slope by more than ``tol``, and returns the change of the l1
    term.
    """
    count = slope.size
    value = amplitude.copy()
    linear, pull = np.empty(count), np.empty(count)
    _times(gram, amplitude, pull)
    for j in range(count):
        linear[j] = slope[j] + pull[j]
    for _ in range(_ROUNDS):
        largest = 0.0
        for _ in range(_SWEEPS):
            largest = _sweep(gram, linear, which, weight, up, down, value, pull)
            if largest < tol:
                break
        if largest < tol:
            break
        _solve_support(gram, linear, which, weight, value)
        _times(gram, value, pull)
    price = 0.0
    for j in range(count):
        move[j] = value[j] - amplitude[j]
        price += weight[which[j]] * (abs(value[j]) - abs(amplitude[j]))
    return price


@njit(cache=True, error_model="numpy")
def _times(gram, value, product):
    """Multiply the banded matrix with a vector."""
    product[:] = 0.0
    for j in range(value.size):
        product[j] += gram[j, 0] * value[j]
        for back in range(1, min(gram.shape[1], j + 1)):
            product[j] += gram[j, back] * value[j - back]
            product[j - back] += gram[j, back] * value[j]


@njit(cache=True, error_model="numpy")
def _shrink(value, weight, up, down):
    """Soft threshold that leaves only the allowed signs."""
    if value > weight and up:
        return value - weight
    if value < -weight and down:
        return value + weight
    return 0.0


@njit(cache=True, error_model="numpy")
def _sweep(gram, linear, which, weight, up, down, value, pull):
    """Minimise over each code in turn; return the largest change of a slope."""
    largest = 0.0
    for j in range(value.size):
        own, c = gram[j, 0], which[j]
        if own <= 0.0:
            continue
        best = _shrink(linear[j] - pull[j] + own * value[j], weight[c], up[c], down[c]) / own
        change = best - value[j]
        if change != 0.0:
            largest = max(largest, abs(change) * own)
            value[j] = best
            for back in range(min(gram.shape[1], j + 1)):
                pull[j - back] += gram[j, back] * change
            for i in range(j + 1, min(j + gram.shape[1], value.size)):
                pull[i] += gram[i, i - j] * change
    return largest


@njit(cache=True, error_model="numpy")
def _solve_support(gram, linear, which, weight, value):
    """Move the codes that are not zero to where the model is least, or to the first sign change."""
    support = np.nonzero(value)[0]
    best = np.empty(support.size)
    for i in range(support.size):
        j = support[i]
        best[i] = linear[j] - np.sign(value[j]) * weight[which[j]]
    if not solve_banded(gram, support, best):
        return
    step = 1.0
    for i in range(support.size):
        old = value[support[i]]
        if best[i] * old < 0.0:
            step = min(step, old / (old - best[i]))
    for i in range(support.size):
        old = value[support[i]]
        crosses = best[i] * old < 0.0 and old / (old - best[i]) <= step
        value[support[i]] = 0.0 if crosses else old + step * (best[i] - old)


@njit(cache=True, error_model="numpy")
def solve_banded(gram, support, right):
    """Solve the rows and columns of a banded matrix that ``support`` lists, by Cholesky.

    ``right`` becomes the solution.  Returns false, and leaves no solution, if a pivot vanishes.
    """
    size = support.size
    factor = np.zeros((size, gram.shape[1]))
    for i in range(size):
        j = support[i]
        first = i
        while first > 0 and j - support[first - 1] < gram.shape[1]:
            first -= 1
        for m in range(first, i + 1):
            total = gram[j, j - support[m]]
            for k in range(max(first, m - gram.shape[1] + 1), m):
                total -= factor[i, i - k] * factor[m, m - k]
            if m < i:
                factor[i, i - m] = total / factor[m, 0]
                right[i] -= factor[i, i - m] * right[m]
            elif total <= 1e-12 * gram[j, 0]:
                return False
            else:
                factor[i, 0] = np.sqrt(total)
        right[i] /= factor[i, 0]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, min(size, i + gram.shape[1])):
            right[i] -= factor[k, k - i] * right[k]
        right[i] /= factor[i, 0]
    return True
