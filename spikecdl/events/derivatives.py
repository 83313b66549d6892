"""What events, weighted by their probabilities, say of templates and of the predictor, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from spikecdl.events.ratios import constant_row
from spikecdl.solvers.losses import EXPONENTIAL, LOGISTIC, QUADRATIC, exp, fill_row
from spikecdl.solvers.operators import add_multiple, dot

NEGLIGIBLE = 1e-6  # probability of an event that says nothing of the parameters


class Derivatives(NamedTuple):
    """Sums over events, weighted by their probabilities.

    The derivative of the expected log likelihood by templates (template, row, bin) of amplitude one
    is ``spikes``, which do not depend on them, less what is ``expected``; ``second`` is minus its
    second derivative.  ``residual`` and ``curvature`` (row, bin) are the expected derivatives by
    the predictor of each bin.
    """

    spikes: np.ndarray
    expected: np.ndarray
    second: np.ndarray
    residual: np.ndarray
    curvature: np.ndarray


@njit(cache=True, error_model="numpy")
def add_derivatives(loss, z, model, posterior, found, per_bin):
    """Add the derivatives of one window, given the posterior (template, amplitude, onset).

    Those by the predictor of a constant row go into its first bin, unless ``per_bin``.
    """
    for n in range(len(z)):
        a, b = loss.a[n], loss.b[n]
        constant, exposure, q = constant_row(loss.kind, a, b, z[n])
        residual, curvature = found.residual[n], found.curvature[n]
        fill_row(loss.kind, a, b, z[n], residual, curvature)
        by_template = (found.spikes[:, n], found.expected[:, n], found.second[:, n])
        rows = (*by_template, residual, curvature)
        if constant and not per_bin:
            _add_constant(loss.kind, a, (z[n, 0], exposure, q), model, n, posterior, rows)
        elif loss.kind == EXPONENTIAL:
            _add_exponential(a, model, n, posterior, rows)
        else:
            _add_varying(loss.kind, a, b, z[n], model, n, posterior, rows)


@njit(cache=True, error_model="numpy")
def _add_constant(kind, a, row, model, n, posterior, found):
    """Add the derivatives of a constant row; those by the predictor go into its first bin."""
    (z, exposure, q), (under, expected, second, residual, curvature) = row, found
    length = model.taps.shape[2]
    spikes = np.zeros(length)
    base = exp(z) if kind != LOGISTIC else 1.0 / (1.0 + exp(-z))
    for c in range(posterior.shape[0]):
        _add_spikes(a, posterior[c], model.amplitudes[c], under[c])
        for i in range(posterior.shape[1]):
            chance, amplitude = posterior[c, i], model.amplitudes[c, i]
            number = chance.sum()
            if number < NEGLIGIBLE:
                continue
            if q != 0.0:
                spikes[:] = 0.0
                _add_spikes(a, posterior[c, i : i + 1], np.ones(1), spikes)
            for k in range(length):
                x = z + model.moves[c, i, n, k]
                weight = exposure * number + q * spikes[k]
                mean = exp(x) if kind != LOGISTIC else 1.0 / (1.0 + exp(-x))
                bend = mean if kind != LOGISTIC else mean * (1.0 - mean)
                bent = base if kind != LOGISTIC else base * (1.0 - base)
                expected[c, k] += amplitude * weight * mean
                second[c, k] += amplitude * amplitude * weight * bend
                residual[0] -= weight * (mean - base)
                curvature[0] += weight * (bend - bent)


@njit(cache=True, error_model="numpy")
def _add_spikes(a, posterior, amplitudes, out):
    """Add the expected amplitudes of events, times the counts that each bin of them covers."""
    length, n_onsets = out.size, posterior.shape[1]
    weight = np.zeros(n_onsets + 2 * length)  # from late to early onsets, padded
    for i in range(amplitudes.size):
        add_multiple(weight[length : length + n_onsets], amplitudes[i], posterior[i, ::-1])
    for t in range(a.size):
        if a[t] != 0.0:
            begin = length + n_onsets - 1 - t
            first, last = max(0, -begin), min(length, n_onsets + length - begin)
            if last > first:
                add_multiple(out[first:last], a[t], weight[begin + first : begin + last])


@njit(cache=True, error_model="numpy")
def _add_exponential(a, model, n, posterior, found):
    """Add the derivatives of a row of an exponential loss, whose mean is its curvature."""
    under, expected, second, residual, mean = found
    length, n_onsets = model.taps.shape[2], posterior.shape[2]
    grown = np.zeros(mean.size)
    for c in range(posterior.shape[0]):
        _add_spikes(a, posterior[c], model.amplitudes[c], under[c])
        for i in range(posterior.shape[1]):
            chance, amplitude = posterior[c, i], model.amplitudes[c, i]
            if chance.sum() < NEGLIGIBLE:
                continue
            for k in range(length):
                factor = exp(model.moves[c, i, n, k])
                here = amplitude * factor * dot(chance, mean[k : k + n_onsets])
                expected[c, k] += here
                second[c, k] += amplitude * here
                add_multiple(grown[k : k + n_onsets], factor - 1.0, chance)
    for t in range(mean.size):
        residual[t] -= mean[t] * grown[t]
        mean[t] *= 1.0 + grown[t]


@njit(cache=True, error_model="numpy")
def _add_varying(kind, a, b, z, model, n, posterior, found):
    """Add the derivatives of a row, event by event."""
    under, expected, second, residual, curvature = found
    length = model.taps.shape[2]
    moved, pull, bend = np.empty(length), np.empty(length), np.empty(length)
    base, bent = residual.copy(), curvature.copy()
    for c in range(posterior.shape[0]):
        for i in range(posterior.shape[1]):
            amplitude = model.amplitudes[c, i]
            for s in range(posterior.shape[2]):
                chance, bins = posterior[c, i, s], slice(s, s + length)
                if chance < NEGLIGIBLE:
                    continue
                _fill_moved(
                    kind, z[bins], (amplitude, model.taps[c, n]), model.moves[c, i, n], moved
                )
                fill_row(kind, a[bins], b[bins], moved, pull, bend)
                for k in range(length):
                    linear = a[s + k] * (b[s + k] if kind == QUADRATIC else 1.0)
                    under[c, k] += chance * amplitude * linear
                    expected[c, k] += chance * amplitude * (linear - pull[k])
                add_multiple(second[c], chance * amplitude * amplitude, bend)
                for k in range(length):
                    residual[s + k] += chance * (pull[k] - base[s + k])
                    curvature[s + k] += chance * (bend[k] - bent[k + s])


@njit(cache=True, error_model="numpy")
def _fill_moved(kind, z, event, moves, moved):
    """Fill in the predictor under an event at which derivatives are the expected ones."""
    amplitude, taps = event
    for k in range(z.size):
        moved[k] = z[k] + (amplitude * taps[k] if kind == QUADRATIC else moves[k])
