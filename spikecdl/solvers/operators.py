"""Templates on the signals of one window, compiled: what `ConvDictionary` computes, by event.

A signal has the axes (row, bin): the channels of its first unit, then those of the next.  Events
are three arrays in order of time: template, onset and amplitude.  Amplitudes have the shape
(event,) in a window of one unit and (event, unit) in a window of several, and so has every number
per event; the kernels are compiled for either.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy", fastmath=True)
def dot(left, right):
    """Inner product of two vectors."""
    total = 0.0
    for k in range(left.size):
        total += left[k] * right[k]
    return total


@njit(cache=True, error_model="numpy", fastmath=True)
def add_multiple(out, factor, vector):
    """Add a multiple of a vector to another, in place."""
    for k in range(out.size):
        out[k] += factor * vector[k]


@njit(cache=True, error_model="numpy")
def add_events(signal, templates, which, onset, amplitude):
    """Add events to a signal (row, bin), in place."""
    n_channels, length = templates.shape[1:]
    n_units = len(signal) // n_channels
    amplitudes = amplitude.reshape(which.size, n_units)
    for j in range(which.size):
        for u in range(n_units):
            if amplitudes[j, u] != 0.0:
                for n in range(n_channels):
                    part = signal[u * n_channels + n, onset[j] : onset[j] + length]
                    add_multiple(part, amplitudes[j, u], templates[which[j], n])


@njit(cache=True, error_model="numpy")
def scores_of_events(templates, residual, which, onset, score):
    """Fill in the inner product of each event's template with the residual (row, bin) under it."""
    n_channels, length = templates.shape[1:]
    n_units = len(residual) // n_channels
    filled = score.reshape(which.size, n_units)
    for j in range(which.size):
        for u in range(n_units):
            total = 0.0
            for n in range(n_channels):
                part = residual[u * n_channels + n, onset[j] : onset[j] + length]
                total += dot(templates[which[j], n], part)
            filled[j, u] = total


@njit(cache=True, error_model="numpy", fastmath=True)
def _add_eight_taps(out, taps, rows):
    r0, r1, r2, r3, r4, r5, r6, r7 = rows
    h0, h1, h2, h3 = taps[0], taps[1], taps[2], taps[3]
    h4, h5, h6, h7 = taps[4], taps[5], taps[6], taps[7]
    for p in range(out.size):
        one = (h0 * r0[p] + h1 * r1[p]) + (h2 * r2[p] + h3 * r3[p])
        out[p] += one + ((h4 * r4[p] + h5 * r5[p]) + (h6 * r6[p] + h7 * r7[p]))


@njit(cache=True, error_model="numpy", fastmath=True)
def fill_scores(templates, residual, first, last, score):
    """Fill in the scores (template, onset) from ``first`` up to ``last``, eight taps at a time."""
    length, size = templates.shape[2], last - first
    whole = length - length % 8
    for c in range(templates.shape[0]):
        out = score[c, first:last]
        out[:] = 0
        for n in range(templates.shape[1]):
            taps, signal = templates[c, n], residual[n, first:]
            for k in range(0, whole, 8):
                rows = (
                    signal[k : k + size],
                    signal[k + 1 : k + 1 + size],
                    signal[k + 2 : k + 2 + size],
                    signal[k + 3 : k + 3 + size],
                    signal[k + 4 : k + 4 + size],
                    signal[k + 5 : k + 5 + size],
                    signal[k + 6 : k + 6 + size],
                    signal[k + 7 : k + 7 + size],
                )
                _add_eight_taps(out, taps[k : k + 8], rows)
            for k in range(whole, length):
                add_multiple(out, taps[k], signal[k : k + size])


@njit(cache=True, error_model="numpy", fastmath=True)
def _multiply(left, right, out):
    for k in range(left.size):
        out[k] = left[k] * right[k]


@njit(cache=True, error_model="numpy")
def banded_gram(templates, curvature, which, onset, amplitude):
    """Return the inner products of the events' templates, weighted by the curvature (row, bin).

    Entry (event, back), or (event, back, unit), belongs to an event and the one ``back`` events
    earlier; the band ends where no templates overlap.
    """
    n_channels, length = templates.shape[1:]
    n_units, width = len(curvature) // n_channels, _band_width(onset, length)
    gram = np.zeros((which.size, width) + amplitude.shape[1:])
    filled, weighted = gram.reshape(which.size, width, n_units), np.empty(length)
    for j in range(which.size):
        for u in range(n_units):
            for n in range(n_channels):
                part = curvature[u * n_channels + n, onset[j] : onset[j] + length]
                _multiply(templates[which[j], n], part, weighted)
                for back in range(min(width, j + 1)):
                    lag = onset[j] - onset[j - back]
                    if lag < length:
                        earlier = templates[which[j - back], n]
                        filled[j, back, u] += dot(weighted[: length - lag], earlier[lag:])
    return gram


@njit(cache=True, error_model="numpy")
def _band_width(onset, length):
    """Largest number of events, itself included, that one event and those before it overlap."""
    widest, first = 1, 0
    for j in range(onset.size):
        while onset[j] - onset[first] >= length:
            first += 1
        widest = max(widest, j - first + 1)
    return widest


@njit(cache=True, error_model="numpy")
def overlap_end(onset, begin, most, length):
    """Return the end of the run of at most ``most`` overlapping events that starts at ``begin``."""
    end = begin + 1
    while end < onset.size and end - begin < most and onset[end] - onset[end - 1] < length:
        end += 1
    return end
