"""Exact sums over the events of a window, a chain of idle bins and events, compiled.

A chain is idle for a bin or begins an event, which lasts as many bins as a template.  Events of one
chain do not overlap, and none begins so late that it would not end in the window.  With the log
weight :math:`G_s` of all events that begin in bin s,

.. math:: F_{t+1} = \\log\\bigl(e^{F_t + \\log p_{\\text{idle}}} + e^{F_{t+1-L} + G_{t+1-L}}\\bigr)

is the log weight of all that may happen before bin t + 1, and likewise backward (Rabiner, Proc.
IEEE 77, 1989; explicit durations: Ferguson 1980).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spikecdl.solvers.losses import exp, log1p, to_log

LEAST = -30.0  # log of a ratio below which the smaller term is left out
_LARGEST = 30.0  # log of a sum, in its unit


@njit(cache=True, error_model="numpy", inline="always")
def log_add(x, y):
    """Return log(exp(x) + exp(y)), most quickly where y is negligible."""
    return x if y < x + LEAST else max(x, y) + log1p(exp(-abs(x - y)))


@njit(cache=True, error_model="numpy", fastmath=True)
def _add_exp(total, row, highest):
    for s in range(total.size):
        total[s] += exp(row[s] - highest[s])


@njit(cache=True, error_model="numpy", nogil=True)
def sum_kinds(weights, total):
    """Fill in the log of the sum over events (onset,) of log weights (kind of event, onset)."""
    highest = weights[0].copy()
    for j in range(1, len(weights)):
        np.maximum(highest, weights[j], highest)
    total[:] = 0.0
    for j in range(len(weights)):
        _add_exp(total, weights[j], highest)
    to_log(total)
    total += highest


@njit(cache=True, error_model="numpy")
def fill_forward(log_idle, total, forward):
    """Fill in the forward log weights (bin + 1,); return the log of the sum over all events.

    ``log_idle`` (onset,) are log probabilities that no event begins in a bin, and ``total``
    (onset,) the log weights of all events that do.
    """
    n_bins, n_onsets = forward.size - 1, total.size
    length = n_bins - n_onsets + 1
    forward[0] = 0.0
    # log weight of no event, and the sum over all in units of the exponential of both
    idle, shift, units, log_units = 0.0, 0.0, 1.0, 0.0
    for t in range(1, n_bins + 1):
        idle += log_idle[t - 1] if t <= n_onsets else 0.0
        if t >= length:
            more = forward[t - length] + total[t - length] - idle
            if more > shift + log_units + LEAST:
                shift, units = _added(shift, units, more)
                log_units = np.log(units)
        forward[t] = idle + shift + log_units
    return forward[n_bins]


@njit(cache=True, error_model="numpy", inline="always")
def _added(shift, units, more):
    """Add the exponential of ``more`` to a sum in units of that of ``shift``; return both anew."""
    if more > shift + _LARGEST:
        return more, 1.0 + units * exp(shift - more)
    return shift, units + exp(more - shift)


@njit(cache=True, error_model="numpy")
def fill_backward(log_idle, total, backward):
    """Fill in the log weights (bin + 1,) of all that may happen from each bin on."""
    n_bins = backward.size - 1
    length = n_bins - total.size + 1
    backward[n_bins] = 0.0
    idle, shift, units, log_units = 0.0, 0.0, 1.0, 0.0
    for t in range(n_bins - 1, -1, -1):
        idle += log_idle[t] if t < total.size else 0.0
        if t + length <= n_bins:
            more = backward[t + length] + total[t] - idle
            if more > shift + log_units + LEAST:
                shift, units = _added(shift, units, more)
                log_units = np.log(units)
        backward[t] = idle + shift + log_units


@njit(cache=True, error_model="numpy", fastmath=True)
def _to_probabilities(row, before, after, evidence):
    for s in range(row.size):
        row[s] = exp(min(row[s] + before[s] + after[s] - evidence, 0.0))


@njit(cache=True, error_model="numpy")
def to_posterior(weights, forward, backward):
    """Turn log weights (kind, onset) into the probability of each event, in place."""
    n_onsets, n_bins = weights.shape[1], forward.size - 1
    after = backward[n_bins - n_onsets + 1 :]
    for j in range(len(weights)):
        _to_probabilities(weights[j], forward[:n_onsets], after, forward[n_bins])


@njit(cache=True, error_model="numpy")
def sample(weights, log_idle, total, forward, uniform, kind):
    """Draw the events of a window backward; fill in the kind that begins in each bin, or -1.

    ``uniform`` (bin,) are random numbers from 0 to 1.  Returns the log weight of the bins in which
    no event begins.
    """
    n_kinds, n_onsets = weights.shape
    n_bins = forward.size - 1
    length = n_bins - n_onsets + 1
    kind[:] = -1
    t, of_idle = n_bins, 0.0
    while t > 0:
        here = log_idle[t - 1] if t <= n_onsets else 0.0
        idle = exp(forward[t - 1] + here - forward[t])
        draw = uniform[t - 1]
        if t < length or draw < idle:
            t -= 1
            of_idle += here
            continue
        t -= length
        left = (draw - idle) / (1.0 - idle)
        for j in range(n_kinds):
            left -= exp(weights[j, t] - total[t])
            if left < 0 or j == n_kinds - 1:
                kind[t] = j
                break
    return of_idle
