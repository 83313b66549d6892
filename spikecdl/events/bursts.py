"""What events say of spikes that may be of a burst, compiled.

Where bursts add c to the mean of a bin with a spikes, its log likelihood is that without bursts,
a z - b exp(z), and

.. math:: a \\log\\frac{e^z + c}{e^z} - b c,

which moves by the log of 1 - p + p E less that of E when an event multiplies exp(z) by E, with the
share p of spikes that are not of bursts.  Few bins have spikes that may be of a burst, and only
these are visited.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from spikecdl.events.derivatives import NEGLIGIBLE
from spikecdl.solvers.losses import exp, to_log
from spikecdl.solvers.operators import add_multiple


class CountLoss(NamedTuple):
    """A scalar loss, as `Loss`, and what bursts add to the mean, (row, bin), or (row, 0)."""

    kind: int
    a: np.ndarray
    b: np.ndarray
    excess: np.ndarray


@njit(cache=True, error_model="numpy")
def window(loss, i):
    """Return the loss of one window of several."""
    return CountLoss(loss.kind, loss.a[i], loss.b[i], loss.excess[i])


@njit(cache=True, error_model="numpy", inline="always")
def _share(z, excess, factor):
    """Return the share of spikes that are not of bursts where an event multiplies exp(z)."""
    mean = exp(z) * factor
    return mean / (mean + excess)


@njit(cache=True, error_model="numpy")
def value(loss, z):
    """Return what bursts add to the log likelihood of a window without events."""
    total = 0.0
    for n in range(len(loss.excess)):
        for t in range(loss.excess.shape[1]):
            total -= loss.b[n, t] * loss.excess[n, t]
            if loss.a[n, t] * loss.excess[n, t] > 0.0:
                total -= loss.a[n, t] * np.log(_share(z[n, t], loss.excess[n, t], 1.0))
    return total


@njit(cache=True, error_model="numpy")
def _factors(model, n):
    """Return by what events multiply the rate of a row (template, amplitude, bin)."""
    size = model.amplitudes.shape
    found = np.empty((size[0], size[1], model.taps.shape[2]))
    for c in range(size[0]):
        for i in range(size[1]):
            for k in range(found.shape[2]):
                found[c, i, k] = exp(model.amplitudes[c, i] * model.taps[c, n, k])
    return found


@njit(cache=True, error_model="numpy")
def add_ratios(loss, z, model, ratios):
    """Add what bursts change of the log-likelihood ratios (template, amplitude, onset)."""
    n_templates, n_amplitudes, n_onsets = ratios.shape
    length = model.taps.shape[2]
    product = np.empty(length)
    for n in range(len(loss.excess) if loss.excess.shape[1] else 0):
        factors, moves = _factors(model, n)[:, :, ::-1].copy(), model.taps[:, n, ::-1].copy()
        for t in range(loss.excess.shape[1]):
            a = loss.a[n, t]
            if a * loss.excess[n, t] == 0.0:
                continue
            share = _share(z[n, t], loss.excess[n, t], 1.0)
            first, last = max(0, t - length + 1), min(n_onsets, t + 1)
            skip = length - 1 - (t - first)
            here = product[: last - first]
            for c in range(n_templates):
                for i in range(n_amplitudes):
                    _fill_product(here, share, factors[c, i, skip:])
                    to_log(here)
                    add_multiple(ratios[c, i, first:last], a, here)
                    size = a * model.amplitudes[c, i]
                    add_multiple(ratios[c, i, first:last], -size, moves[c, skip:][: last - first])


@njit(cache=True, error_model="numpy", fastmath=True)
def _fill_product(product, share, factors):
    for s in range(product.size):
        product[s] = 1.0 + share * (factors[s] - 1.0)


@njit(cache=True, error_model="numpy")
def add_derivatives(loss, z, model, posterior, spikes, residual):
    """Take away the spikes that are of bursts, from those under events and from residuals.

    ``posterior`` (template, amplitude, onset) are the probabilities of events.
    """
    n_templates, n_amplitudes, n_onsets = posterior.shape
    length = model.taps.shape[2]
    for n in range(len(loss.excess)):
        for t in range(loss.excess.shape[1]):
            a, excess = loss.a[n, t], loss.excess[n, t]
            if a * excess == 0.0:
                continue
            usual = _share(z[n, t], excess, 1.0)
            residual[n, t] -= a * (1 - usual)
            for c in range(n_templates):
                for i in range(n_amplitudes):
                    size = model.amplitudes[c, i]
                    for k in range(max(0, t - n_onsets + 1), min(length, t + 1)):
                        number = posterior[c, i, t - k] * a
                        if number < NEGLIGIBLE:
                            continue
                        share = _share(z[n, t], excess, exp(size * model.taps[c, n, k]))
                        spikes[c, n, k] -= number * size * (1 - share)
                        residual[n, t] += number * (share - usual)


@njit(cache=True, error_model="numpy")
def add_interactions(loss, z, model, onset, lags, table):
    """Add what bursts change of the interactions of two events; see `fill_interactions`."""
    n_kinds, length = model.amplitudes.size, model.taps.shape[2]
    apart = np.empty((n_kinds, length))
    for n in range(len(loss.excess) if loss.excess.shape[1] else 0):
        factors = np.empty((0, 0))
        for t in range(onset, onset + length):
            a = loss.a[n, t]
            if a * loss.excess[n, t] == 0.0:
                continue
            if not len(factors):
                factors = _factors(model, n).reshape(n_kinds, length)
            share, k = _share(z[n, t], loss.excess[n, t], 1.0), t - onset
            for j in range(n_kinds):
                _fill_product(apart[j], share, factors[j])
            for lag in lags:
                for j in range(n_kinds if lag <= k else 0):
                    one, alone = share * factors[j, k], apart[j, k]
                    for i in range(n_kinds):
                        both = 1 - share + one * factors[i, k - lag]
                        table[lag, j, i] += a * np.log(both / (alone * apart[i, k - lag]))


@njit(cache=True, error_model="numpy")
def add_pair_derivatives(loss, z, model, onset, pairs, spikes, residual):
    """Correct `add_derivatives` for two events that overlap; see there and `Derivatives`."""
    n_amplitudes, length = model.amplitudes.shape[1], model.taps.shape[2]
    for n in range(len(loss.excess) if loss.excess.shape[1] else 0):
        factors = _factors(model, n).reshape(-1, length)
        for t in range(onset, onset + length):
            a, excess, k = loss.a[n, t], loss.excess[n, t], t - onset
            if a * excess == 0.0:
                continue
            none = _share(z[n, t], excess, 1.0)
            for lag in range(k + 1):
                for j in range(pairs.shape[1]):
                    for i in range(pairs.shape[2]):
                        number = pairs[lag, j, i] * a
                        if number < NEGLIGIBLE:
                            continue
                        one, other = factors[j, k], factors[i, k - lag]
                        alone, late = _share(z[n, t], excess, one), _share(z[n, t], excess, other)
                        both = _share(z[n, t], excess, one * other)
                        b, c = j // n_amplitudes, i // n_amplitudes
                        size = model.amplitudes[b, j % n_amplitudes]
                        spikes[b, n, k] += number * size * (both - alone)
                        size = model.amplitudes[c, i % n_amplitudes]
                        spikes[c, n, k - lag] += number * size * (both - late)
                        residual[n, t] += number * (both - alone - late + none)


@njit(cache=True, error_model="numpy")
def take_away(loss, z, counts, residual):
    """Take the spikes that are of bursts away from counts and residuals of a window (row, bin)."""
    for n in range(len(loss.excess)):
        for t in range(loss.excess.shape[1]):
            others = loss.a[n, t] * (1 - _share(z[n, t], loss.excess[n, t], 1.0))
            counts[n, t] -= others
            residual[n, t] -= others
