"""Quadratic programs with banded matrices and group norms, compiled: a Newton step of groups.

Numbers of a group lie together: values are (group, unit), banded matrices (group, back, unit) with
the entry of a group and of the one so many before it, for each unit.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ROUNDS = 20  # of sweeps, each followed by a Newton step on the groups that are not zero
_SWEEPS = 4  # more than there are groups
_ROOT_STEPS = 50
_HALVINGS = 6


@njit(cache=True, error_model="numpy")
def minimize(gram, slope, weight, up, down, amplitude, move, tol):
    r"""Fill in the ``move`` d of amplitudes that minimises a quadratic model.

    .. math:: \sum_u \bigl(\tfrac12 d_u^\top G_u d_u - g_u^\top d_u\bigr)
              + \sum_j w_j \|v_j + d_j\|_2

    with :math:`G_u` the banded matrix of a unit, g the slope and v the amplitude, over the allowed
    signs.  Block coordinate descent (Tseng and Yun, Math. Program. 117, 2009) finds which codes are
    zero, and Newton steps the rest.

    It stops when a sweep changes the slopes of no group by more than ``tol``, and returns the
    change of the penalty.
    """
    value = amplitude.copy()
    linear, pull = slope.copy(), np.empty_like(value)
    _times(gram, value, pull)
    linear += pull
    for _ in range(_ROUNDS):
        largest = 0.0
        for _ in range(_SWEEPS + len(value)):
            largest = _sweep(gram, linear, weight, up, down, value, pull)
            if largest < tol:
                break
        if largest < tol:
            break
        _solve_support(gram, linear, weight, up, down, value, pull)
        _times(gram, value, pull)
    price = 0.0
    for j in range(len(value)):
        price += weight[j] * (norm(value[j]) - norm(amplitude[j]))
        for u in range(value.shape[1]):
            move[j, u] = value[j, u] - amplitude[j, u]
    return price


@njit(cache=True, error_model="numpy", fastmath=True)
def dot(left, right):
    """Inner product of two vectors."""
    total = 0.0
    for u in range(left.size):
        total += left[u] * right[u]
    return total


@njit(cache=True, error_model="numpy")
def norm(vector):
    """l2 norm of a vector."""
    return np.sqrt(dot(vector, vector))


@njit(cache=True, error_model="numpy", fastmath=True)
def _add_product(out, sign, left, right):
    for u in range(out.size):
        out[u] += sign * left[u] * right[u]


@njit(cache=True, error_model="numpy")
def allowed(value, up, down):
    """Return the value if its sign is allowed, else zero."""
    return value if (value > 0.0 and up) or (value < 0.0 and down) else 0.0


@njit(cache=True, error_model="numpy")
def _times(gram, value, product):
    """Multiply the banded matrix of each unit with its column."""
    product[:] = 0.0
    for j in range(len(value)):
        _add_product(product[j], 1.0, gram[j, 0], value[j])
        for back in range(1, min(gram.shape[1], j + 1)):
            _add_product(product[j], 1.0, gram[j, back], value[j - back])
            _add_product(product[j - back], 1.0, gram[j, back], value[j])


@njit(cache=True, error_model="numpy")
def _shrink(score, own, weight, guess, best):
    r"""Fill in the codes x of one group that minimise a diagonal model.

    .. math:: \sum_u \bigl(\tfrac12 q_u x_u^2 - s_u x_u\bigr) + w \|x\|_2 \quad\Rightarrow\quad
              x_u = \frac{s_u r}{q_u r + w}, \qquad
              \varphi(r) = \sum_u \frac{s_u^2}{(q_u r + w)^2} = 1

    or zero where :math:`\|s\|_2 \le w`.  The root r, the norm of x, is found by Newton steps on
    :math:`\varphi^{-1/2}`, which is concave: they come from below, and nearly straight.
    """
    radius = guess
    if norm(score) <= weight:
        best[:] = 0.0
        return
    for _ in range(_ROOT_STEPS):
        total = fall = 0.0
        for u in range(score.size):
            stiff = own[u] * radius + weight
            share = (score[u] / stiff) ** 2
            total += share
            fall += share * own[u] / stiff
        if fall <= 0.0:
            break
        step = total * (np.sqrt(total) - 1.0) / fall
        radius = max(radius + step, 0.0)
        if abs(step) <= 1e-9 * radius:
            break
    for u in range(score.size):
        best[u] = score[u] * radius / (own[u] * radius + weight)


@njit(cache=True, error_model="numpy")
def _sweep(gram, linear, weight, up, down, value, pull):
    """Minimise over each group in turn; return the largest change of the slopes of one."""
    count, width, units = gram.shape
    score, best = np.empty(units), np.empty(units)
    largest = 0.0
    for j in range(count):
        own, old = gram[j, 0], value[j]
        for u in range(units):
            here = linear[j, u] - pull[j, u] + own[u] * old[u]
            score[u] = allowed(here, up[j], down[j])
        _shrink(score, own, weight[j], norm(old), best)
        changed = 0.0
        for u in range(units):
            best[u] -= old[u]
            old[u] += best[u]
            changed += (own[u] * best[u]) ** 2
        if changed > 0.0:
            largest = max(largest, changed)
            for back in range(min(width, j + 1)):
                _add_product(pull[j - back], 1.0, gram[j, back], best)
            for i in range(j + 1, min(j + width, count)):
                _add_product(pull[i], 1.0, gram[i, i - j], best)
    return np.sqrt(largest)


@njit(cache=True, error_model="numpy")
def _solve_support(gram, linear, weight, up, down, value, pull):
    """Take a Newton step of the codes that are not zero, as far as the model falls and none turns.

    A code that may not change sign, or a group that would turn round, becomes zero if it is the
    first to reach zero.
    """
    count = len(value)
    direction = np.zeros_like(value)
    if not _newton_direction(gram, linear, weight, value, pull, direction):
        return
    longest = np.full(value.shape, np.inf)
    for j in range(count):
        square, along = dot(value[j], value[j]), dot(value[j], direction[j])
        if along < 0.0:
            longest[j] = -square / along
        if not (up[j] and down[j]):
            for u in range(value.shape[1]):
                if value[j, u] * direction[j, u] < 0.0:
                    longest[j, u] = min(longest[j, u], -value[j, u] / direction[j, u])
    bent = np.empty_like(value)
    _times(gram, direction, bent)
    step = min(1.0, longest.min())
    start = _slope(0.0, linear, weight, value, pull, direction, bent)
    for _ in range(_HALVINGS):
        if _slope(step, linear, weight, value, pull, direction, bent) <= 0.5 * abs(start):
            break
        step /= 2
    for j in range(count):
        for u in range(value.shape[1]):
            ends = longest[j, u] <= step
            value[j, u] = 0.0 if ends else value[j, u] + step * direction[j, u]


@njit(cache=True, error_model="numpy")
def _slope(step, linear, weight, value, pull, direction, bent):
    """Derivative of the model along a direction after a step; ``bent`` is G times it."""
    slope = 0.0
    for j in range(len(value)):
        square = along = 0.0
        for u in range(value.shape[1]):
            here = value[j, u] + step * direction[j, u]
            square += here * here
            along += here * direction[j, u]
            slope += direction[j, u] * (pull[j, u] + step * bent[j, u] - linear[j, u])
        if square > 0.0:
            slope += weight[j] * along / np.sqrt(square)
    return slope


@njit(cache=True, error_model="numpy")
def _newton_direction(gram, linear, weight, value, pull, direction):
    r"""Fill in the Newton direction of the codes that are not zero; tell whether there is one.

    With e the unit vectors of the groups, which are the columns of E, the Hessian is

    .. math:: H = B - E\,\mathrm{diag}(w / r)\,E^\top, \qquad
              B_u = G_u + \mathrm{diag}(w / r)

    B is banded for each unit, and the rest has as many columns as there are groups (Woodbury):

    .. math:: H^{-1} = B^{-1} + B^{-1} E\, S^{-1} E^\top B^{-1}, \qquad
              S = \mathrm{diag}(r / w) - E^\top B^{-1} E .
    """
    count = len(value)
    unit_vectors, ratio = np.zeros_like(value), np.ones(count)
    for j in range(count):
        radius = norm(value[j])
        if radius > 0.0:
            ratio[j] = radius / weight[j]
            unit_vectors[j] = value[j] / radius
    factor = _masked(gram, value, ratio)
    if not _factorize(factor):
        return False
    for j in range(count):
        for u in range(value.shape[1]):
            if value[j, u] != 0.0:
                pulled = pull[j, u] + weight[j] * unit_vectors[j, u]
                direction[j, u] = linear[j, u] - pulled
    _solve(factor, direction, 0)
    small, load = _complement(factor, unit_vectors, ratio), np.empty((count, 1))
    if not _factorize(small):
        return False
    for j in range(count):
        load[j, 0] = dot(unit_vectors[j], direction[j])
    _solve(small, load, 0)
    unit_vectors *= load
    _solve(factor, unit_vectors, 0)
    direction += unit_vectors
    return True


@njit(cache=True, error_model="numpy")
def _masked(gram, value, ratio):
    """Return B: the identity where codes are zero."""
    matrix = gram.copy()
    count, width, units = gram.shape
    for j in range(count):
        for u in range(units):
            if value[j, u] != 0.0:
                matrix[j, 0, u] += 1.0 / ratio[j]
                continue
            matrix[j, :, u] = 0.0
            matrix[j, 0, u] = 1.0
            for i in range(j + 1, min(j + width, count)):
                matrix[i, i - j, u] = 0.0
    return matrix


@njit(cache=True, error_model="numpy")
def _complement(factor, unit_vectors, ratio):
    """Return S, as a banded matrix whose band is full."""
    count = len(ratio)
    small, column = np.zeros((count, count, 1)), np.zeros_like(unit_vectors)
    for k in range(count):
        column[k:] = 0.0
        column[k] = unit_vectors[k]
        _solve(factor, column, k)
        for j in range(k, count):
            small[j, j - k, 0] = -dot(unit_vectors[j], column[j])
        small[k, 0, 0] += ratio[k]
    return small


@njit(cache=True, error_model="numpy")
def _factorize(matrix):
    """Replace banded matrices by their Cholesky factors; tell whether all are positive."""
    count, width, units = matrix.shape
    for j in range(count):
        size = matrix[j, 0].copy()
        for back in range(min(width - 1, j), -1, -1):
            entry, above = matrix[j, back], matrix[j - back]
            for further in range(back + 1, min(width, j + 1)):
                _add_product(entry, -1.0, matrix[j, further], above[further - back])
            for u in range(units):
                if back > 0:
                    entry[u] /= above[0, u]
                elif entry[u] <= 1e-13 * size[u]:
                    return False
                else:
                    entry[u] = np.sqrt(entry[u])
    return True


@njit(cache=True, error_model="numpy")
def _solve(factor, column, first):
    """Solve in place, given the factors; rows before ``first`` are zero, and not asked for."""
    count, width, _ = factor.shape
    for j in range(first, count):
        for back in range(1, min(width, j - first + 1)):
            _add_product(column[j], -1.0, factor[j, back], column[j - back])
        column[j] /= factor[j, 0]
    for j in range(count - 1, first - 1, -1):
        column[j] /= factor[j, 0]
        for back in range(1, min(width, j - first + 1)):
            _add_product(column[j - back], -1.0, factor[j, back], column[j])
