"""Events that overlap: how likely two are together, and what they say of the parameters, compiled.

With F the part of the loss that the exposure m multiplies, two events that change the predictor z
by u and v differ from the sum of their log-likelihood ratios by

.. math:: -\\sum_{n, t} m_{n,t} \\bigl(F(z + u + v) - F(z + u) - F(z + v) + F(z)\\bigr),

whatever the counts: the part of the loss that these multiply is linear.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spikecdl.events.derivatives import NEGLIGIBLE
from spikecdl.solvers.losses import EXPONENTIAL, LOGISTIC, QUADRATIC, exp

_TOGETHER = 8  # factors of odds whose product is taken before its logarithm


@njit(cache=True, error_model="numpy")
def fill_interactions(loss, z, model, onset, lags, table):
    """Fill in by how much two events that overlap are more likely than the product of their ratios.

    The first begins in the bin ``onset``, the other by each of the ``lags`` later; ``table`` (lag,
    event, event) receives the log of the factor, with an event for each template and amplitude.
    """
    n_templates, n_amplitudes, n_rows, length = model.moves.shape
    n_kinds, kind = n_templates * n_amplitudes, loss.kind
    grown, exposure, chance = np.empty((n_kinds, length)), np.empty(length), np.empty(length)
    for lag in lags:
        table[lag] = 0.0
    for n in range(n_rows):
        for c in range(n_templates):
            for a in range(n_amplitudes):
                for k in range(length):
                    move = model.moves[c, a, n, k]
                    if kind == QUADRATIC:
                        grown[c * n_amplitudes + a, k] = (
                            model.amplitudes[c, a] * model.taps[c, n, k]
                        )
                    else:
                        grown[c * n_amplitudes + a, k] = exp(move)
        for k in range(length):
            t = onset + k
            exposure[k] = loss.b[n, t] + (loss.a[n, t] if kind == LOGISTIC else 0.0)
            if kind == EXPONENTIAL:
                exposure[k] *= exp(z[n, t])
            chance[k] = 1.0 / (1.0 + exp(-z[n, t])) if kind == LOGISTIC else 0.0
        for lag in lags:
            for j in range(n_kinds):
                for i in range(n_kinds):
                    one, other = grown[j, lag:], grown[i, : length - lag]
                    if kind == LOGISTIC:
                        value = _logistic_interaction(exposure[lag:], chance[lag:], one, other)
                    else:
                        less = 1.0 if kind == EXPONENTIAL else 0.0
                        value = _product(exposure[lag:], one, other, less)
                    table[lag, j, i] -= value


@njit(cache=True, error_model="numpy", fastmath=True)
def _product(exposure, one, other, less):
    """Return the sum of products of what is left of two rows, less a number each."""
    total = 0.0
    for k in range(exposure.size):
        total += exposure[k] * (one[k] - less) * (other[k] - less)
    return total


@njit(cache=True, error_model="numpy")
def _logistic_interaction(exposure, chance, one, other):
    """Return the interaction of a row of a logistic loss, from the factors of its odds.

    Logarithms are taken of products over bins of the same exposure.
    """
    total, above, below, together, weight = 0.0, 1.0, 1.0, 0, 0.0
    for k in range(exposure.size):
        if exposure[k] != weight or together == _TOGETHER:
            total += weight * np.log(above / below)
            above, below, together, weight = 1.0, 1.0, 0, exposure[k]
        rest = 1.0 - chance[k]
        above *= rest + chance[k] * one[k] * other[k]
        below *= (rest + chance[k] * one[k]) * (rest + chance[k] * other[k])
        together += 1
    return total + weight * np.log(above / below)


@njit(cache=True, error_model="numpy")
def add_pair_derivatives(loss, z, model, onset, pairs, found, level_at):
    """Correct the derivatives of two events that overlap, which were added as if each were alone.

    The curvature of a bin includes that with the bin of the other event, which moves in the same
    step.  ``pairs`` (lag, event, event) are the expected numbers of pairs whose first event begins
    in the bin ``onset``; derivatives by the predictor go into its bins, or all into ``level_at`` if
    that is not negative.
    """
    n_templates, n_amplitudes, n_rows, length = model.moves.shape
    n_kinds, kind, sizes = n_templates * n_amplitudes, loss.kind, model.amplitudes
    for lag in range(length):
        for j in range(n_kinds):
            for i in range(n_kinds):
                number = pairs[lag, j, i]
                if number < NEGLIGIBLE:
                    continue
                b, c = j // n_amplitudes, i // n_amplitudes
                one, other = sizes[b, j % n_amplitudes], sizes[c, i % n_amplitudes]
                for n in range(n_rows):
                    for k in range(lag, length):
                        t = onset + k
                        weight = loss.b[n, t] + (loss.a[n, t] if kind == LOGISTIC else 0.0)
                        if weight == 0.0:
                            continue
                        first = model.moves[b, j % n_amplitudes, n, k]
                        second = model.moves[c, i % n_amplitudes, n, k - lag]
                        if kind == QUADRATIC:
                            first, second = (
                                one * model.taps[b, n, k],
                                other * model.taps[c, n, k - lag],
                            )
                        here, weight = z[n, t], weight * number
                        both, both_bend = _growth(kind, here + first + second)
                        alone, alone_bend = _growth(kind, here + first)
                        late, late_bend = _growth(kind, here + second)
                        none, none_bend = _growth(kind, here)
                        found.expected[b, n, k] += one * weight * (both - alone)
                        crossed = abs(one * other) * weight * both_bend
                        found.second[b, n, k] += one * one * weight * (both_bend - alone_bend)
                        found.second[b, n, k] += crossed
                        found.expected[c, n, k - lag] += other * weight * (both - late)
                        found.second[c, n, k - lag] += (
                            other * other * weight * (both_bend - late_bend) + crossed
                        )
                        at = t if level_at < 0 else level_at
                        found.residual[n, at] -= weight * (both - alone - late + none)
                        found.curvature[n, at] += weight * (
                            both_bend - alone_bend - late_bend + none_bend
                        )


@njit(cache=True, error_model="numpy", inline="always")
def _growth(kind, x):
    """Return the first two derivatives of what the exposure multiplies in the loss."""
    if kind == QUADRATIC:
        return x, 1.0
    if kind == EXPONENTIAL:
        return exp(x), exp(x)
    up = 1.0 / (1.0 + exp(-x))
    return up, up * (1.0 - up)
