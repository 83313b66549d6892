"""Penalised quadratic programs with banded matrices, compiled: the model of a Newton step.

Numbers per event have the shape (event,) for the l1 norm and (event, unit) for l2 norms over units;
matrices have the shape (event, back[, unit]), as `spikecdl.solvers.operators.banded_gram` returns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from spikecdl.solvers.operators import dot


class Weights(NamedTuple):
    """Penalty weight and whether positive and negative codes are allowed, by template or event."""

    weight: np.ndarray
    up: np.ndarray
    down: np.ndarray


@njit(cache=True, error_model="numpy")
def weights_of(penalty, which):
    """Return the weights of events, from those of templates."""
    return Weights(penalty.weight[which], penalty.up[which], penalty.down[which])


@njit(cache=True, error_model="numpy")
def minimize(gram, score, penalty, amplitude, tol):
    r"""Minimise a quadratic model over the move d of the amplitudes.

    .. math:: \sum_u \bigl(\tfrac12 d_u^\top G_u d_u - s_u^\top d_u\bigr)
              + \sum_j w_j \|v_j + d_j\|_2

    with :math:`G_u` the banded matrix of a unit, s the scores and v the amplitudes, over codes of
    an allowed sign.  Block coordinate descent (Tseng and Yun, Math. Program. 117, 2009) finds which
    codes are zero, and Newton steps the others.

    Returns
    -------
    move : array, shape of ``amplitude``
        Found when a sweep changes the scores of no event by more than ``tol``.
    change : float
        Of the penalty.
    """
    value, product = amplitude.copy(), np.empty_like(amplitude)
    n_sweeps = 4 if amplitude.ndim == 1 else 4 + len(value)  # before each Newton step
    _times(gram, value, product)
    linear = score + product
    for _ in range(20):
        largest = 0.0
        for _ in range(n_sweeps):
            if amplitude.ndim == 1:
                largest = _sweep(gram, linear, penalty, value, product)
            else:
                largest = _sweep_groups(gram, linear, penalty, value, product)
            if largest < tol:
                break
        if largest < tol:
            break
        if amplitude.ndim == 1:
            _solve_support(gram, linear, penalty.weight, value)
        else:
            _step_on_support(gram, linear, penalty, value, product)
        _times(gram, value, product)
    change, after, before = 0.0, norms(value), norms(amplitude)
    for j in range(len(value)):
        change += penalty.weight[j] * (after[j] - before[j])
    return value - amplitude, change


@njit(cache=True, error_model="numpy")
def norms(value):
    """Return the absolute value of each event, or its l2 norm over units."""
    norm = np.empty(len(value))
    for j in range(len(value)):
        norm[j] = abs(value[j]) if value.ndim == 1 else np.sqrt(dot(value[j], value[j]))
    return norm


@njit(cache=True, error_model="numpy")
def allowed(value, up, down):
    """Return the value if its sign is allowed, else zero."""
    return value if (value > 0.0 and up) or (value < 0.0 and down) else 0.0


@njit(cache=True, error_model="numpy")
def _times(gram, value, product):
    """Fill in the product of the banded matrix (of each unit) with the values."""
    count, width = gram.shape[:2]
    n_units = value.size // count
    matrix, values = gram.reshape(count, width, n_units), value.reshape(count, n_units)
    filled = product.reshape(count, n_units)
    filled[:] = 0.0
    for u in range(n_units):
        for j in range(count):
            filled[j, u] += matrix[j, 0, u] * values[j, u]
            for back in range(1, min(width, j + 1)):
                filled[j, u] += matrix[j, back, u] * values[j - back, u]
                filled[j - back, u] += matrix[j, back, u] * values[j, u]


@njit(cache=True, error_model="numpy")
def _sweep(gram, linear, penalty, value, product):
    """Minimise over each code in turn; return the largest change of a score."""
    largest = 0.0
    for j in range(value.size):
        own, weight = gram[j, 0], penalty.weight[j]
        if own <= 0.0:
            continue
        score = linear[j] - product[j] + own * value[j]
        best = 0.0
        if score > weight and penalty.up[j]:
            best = (score - weight) / own
        elif score < -weight and penalty.down[j]:
            best = (score + weight) / own
        change = best - value[j]
        if change != 0.0:
            largest = max(largest, abs(change) * own)
            value[j] = best
            for back in range(min(gram.shape[1], j + 1)):
                product[j - back] += gram[j, back] * change
            for i in range(j + 1, min(j + gram.shape[1], value.size)):
                product[i] += gram[i, i - j] * change
    return largest


@njit(cache=True, error_model="numpy")
def _solve_support(gram, linear, weight, value):
    """Move the codes that are not zero to the minimum, or to where the first one changes sign."""
    support = np.nonzero(value)[0]
    best = np.empty(support.size)
    for i in range(support.size):
        j = support[i]
        best[i] = linear[j] - np.sign(value[j]) * weight[j]
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
    """Solve, in place, the rows and columns of a banded matrix in ``support``, by Cholesky.

    Returns False, and no solution, if a pivot vanishes.
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


@njit(cache=True, error_model="numpy", fastmath=True)
def _add_product(out, sign, left, right):
    for u in range(out.size):
        out[u] += sign * left[u] * right[u]


@njit(cache=True, error_model="numpy")
def _minimize_group(score, own, weight, radius, best):
    r"""Fill in the codes x of one event that minimise a diagonal model.

    .. math:: \sum_u \bigl(\tfrac12 q_u x_u^2 - s_u x_u\bigr) + w \|x\|_2 \quad\Rightarrow\quad
              x_u = \frac{s_u r}{q_u r + w}, \qquad
              \varphi(r) = \sum_u \frac{s_u^2}{(q_u r + w)^2} = 1

    or zero where :math:`\|s\|_2 \le w`.  The root r, the norm of x, is found from a first guess
    ``radius`` by Newton steps on :math:`\varphi^{-1/2}`, which is concave and nearly linear.
    """
    if np.sqrt(dot(score, score)) <= weight:
        best[:] = 0.0
        return
    for _ in range(50):
        total = fall = 0.0
        for u in range(score.size):
            stiffness = own[u] * radius + weight
            share = (score[u] / stiffness) ** 2
            total += share
            fall += share * own[u] / stiffness
        if fall <= 0.0:
            break
        step = total * (np.sqrt(total) - 1.0) / fall
        radius = max(radius + step, 0.0)
        if abs(step) <= 1e-9 * radius:
            break
    for u in range(score.size):
        best[u] = score[u] * radius / (own[u] * radius + weight)


@njit(cache=True, error_model="numpy")
def _sweep_groups(gram, linear, penalty, value, product):
    """Minimise over the codes of each event in turn; return the largest change of its scores."""
    count, width, n_units = gram.shape
    score, change = np.empty(n_units), np.empty(n_units)
    largest = 0.0
    for j in range(count):
        own, old = gram[j, 0], value[j]
        for u in range(n_units):
            here = linear[j, u] - product[j, u] + own[u] * old[u]
            score[u] = allowed(here, penalty.up[j], penalty.down[j])
        _minimize_group(score, own, penalty.weight[j], np.sqrt(dot(old, old)), change)
        changed = 0.0
        for u in range(n_units):
            change[u] -= old[u]
            old[u] += change[u]
            changed += (own[u] * change[u]) ** 2
        if changed > 0.0:
            largest = max(largest, changed)
            for back in range(min(width, j + 1)):
                _add_product(product[j - back], 1.0, gram[j, back], change)
            for i in range(j + 1, min(j + width, count)):
                _add_product(product[i], 1.0, gram[i, i - j], change)
    return np.sqrt(largest)


@njit(cache=True, error_model="numpy")
def _step_on_support(gram, linear, penalty, value, product):
    """Take a Newton step of the codes that are not zero, as far as the model falls.

    The step ends where the first code reaches a sign that is not allowed, or the first group its
    opposite; they become zero.
    """
    direction = np.zeros_like(value)
    if not _newton_direction(gram, linear, penalty.weight, value, product, direction):
        return
    longest = np.full(value.shape, np.inf)
    for j in range(len(value)):
        square, along = dot(value[j], value[j]), dot(value[j], direction[j])
        if along < 0.0:
            longest[j] = -square / along
        if not (penalty.up[j] and penalty.down[j]):
            for u in range(value.shape[1]):
                if value[j, u] * direction[j, u] < 0.0:
                    longest[j, u] = min(longest[j, u], -value[j, u] / direction[j, u])
    image = np.empty_like(value)
    _times(gram, direction, image)
    gradient = product - linear
    step = min(1.0, longest.min())
    start = _slope(0.0, gradient, penalty.weight, value, direction, image)
    for _ in range(6):
        if _slope(step, gradient, penalty.weight, value, direction, image) <= 0.5 * abs(start):
            break
        step /= 2
    for j in range(len(value)):
        for u in range(value.shape[1]):
            ends = longest[j, u] <= step
            value[j, u] = 0.0 if ends else value[j, u] + step * direction[j, u]


@njit(cache=True, error_model="numpy")
def _slope(step, gradient, weight, value, direction, image):
    """Derivative of the model along a direction after a step; ``image`` is G times it."""
    slope = 0.0
    for j in range(len(value)):
        square = along = 0.0
        for u in range(value.shape[1]):
            here = value[j, u] + step * direction[j, u]
            square += here * here
            along += here * direction[j, u]
            slope += direction[j, u] * (gradient[j, u] + step * image[j, u])
        if square > 0.0:
            slope += weight[j] * along / np.sqrt(square)
    return slope


@njit(cache=True, error_model="numpy")
def _newton_direction(gram, linear, weight, value, product, direction):
    r"""Fill in the Newton direction of the codes that are not zero; return whether there is one.

    With e the unit vectors of the groups, which are the columns of E, the Hessian is

    .. math:: H = B - E\,\mathrm{diag}(w / r)\,E^\top, \qquad
              B_u = G_u + \mathrm{diag}(w / r)

    B is banded for each unit, and the rest has as many columns as there are groups (Woodbury):

    .. math:: H^{-1} = B^{-1} + B^{-1} E\, S^{-1} E^\top B^{-1}, \qquad
              S = \mathrm{diag}(r / w) - E^\top B^{-1} E .
    """
    count = len(value)
    unit_vectors, ratio, radius = np.zeros_like(value), np.ones(count), norms(value)
    for j in range(count):
        if radius[j] > 0.0:
            ratio[j] = radius[j] / weight[j]
            unit_vectors[j] = value[j] / radius[j]
    factor = _on_support(gram, value, ratio)
    if not _factorize(factor):
        return False
    for j in range(count):
        for u in range(value.shape[1]):
            if value[j, u] != 0.0:
                gradient = product[j, u] + weight[j] * unit_vectors[j, u]
                direction[j, u] = linear[j, u] - gradient
    _solve(factor, direction, 0)
    complement, load = _complement(factor, unit_vectors, ratio), np.empty((count, 1))
    if not _factorize(complement):
        return False
    for j in range(count):
        load[j, 0] = dot(unit_vectors[j], direction[j])
    _solve(complement, load, 0)
    unit_vectors *= load
    _solve(factor, unit_vectors, 0)
    direction += unit_vectors
    return True


@njit(cache=True, error_model="numpy")
def _on_support(gram, value, ratio):
    """Return B, with the rows and columns of the identity where codes are zero."""
    matrix = gram.copy()
    count, width, n_units = gram.shape
    for j in range(count):
        for u in range(n_units):
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
    matrix, column = np.zeros((count, count, 1)), np.zeros_like(unit_vectors)
    for k in range(count):
        column[k:] = 0.0
        column[k] = unit_vectors[k]
        _solve(factor, column, k)
        for j in range(k, count):
            matrix[j, j - k, 0] = -dot(unit_vectors[j], column[j])
        matrix[k, 0, 0] += ratio[k]
    return matrix


@njit(cache=True, error_model="numpy")
def _factorize(matrix):
    """Replace banded matrices by their Cholesky factors; return whether all are positive."""
    count, width, n_units = matrix.shape
    for j in range(count):
        size = matrix[j, 0].copy()
        for back in range(min(width - 1, j), -1, -1):
            entry, above = matrix[j, back], matrix[j - back]
            for further in range(back + 1, min(width, j + 1)):
                _add_product(entry, -1.0, matrix[j, further], above[further - back])
            for u in range(n_units):
                if back > 0:
                    entry[u] /= above[0, u]
                elif entry[u] <= 1e-13 * size[u]:
                    return False
                else:
                    entry[u] = np.sqrt(entry[u])
    return True


@njit(cache=True, error_model="numpy")
def _solve(factor, column, first):
    """Solve in place, given the factors; rows before ``first`` are zero and stay as they are."""
    count, width, _ = factor.shape
    for j in range(first, count):
        for back in range(1, min(width, j - first + 1)):
            _add_product(column[j], -1.0, factor[j, back], column[j - back])
        column[j] /= factor[j, 0]
    for j in range(count - 1, first - 1, -1):
        column[j] /= factor[j, 0]
        for back in range(1, min(width, j - first + 1)):
            _add_product(column[j - back], -1.0, factor[j, back], column[j])
