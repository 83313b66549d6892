"""From the posterior of events to a list of events, compiled."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from spikecdl.solvers.events import Events

#: Columns of a table of events, with times in bins.
COLUMNS = tuple("window template onset probability time time_sd amplitude".split())

NEAR = 0.125  # of a template's length, within which an event is the same event
LEAST_PROBABILITY = 0.5  # of an event that is listed
_IMPOSSIBLE = 1e-12  # probability of an onset that says nothing of its neighbours
_PARTS = 5  # of a bin, in which times are averaged


def to_events(table: np.ndarray) -> Events:
    """Return the events of a table (event, column), with their mean amplitudes."""
    window, template, onset = torch.from_numpy(table[:, :3]).long().T
    amplitude = torch.from_numpy(table[:, COLUMNS.index("amplitude")].copy())
    return Events(window, template, onset, amplitude)


@njit(cache=True, error_model="numpy")
def list_events(posterior, amplitudes, width, least):
    """List the events of posterior probability ``least`` or more.

    An event's probability is that one of the template begins at most ``width`` bins from the
    onset where this probability is highest.  The columns of the list are `COLUMNS`: the onset is
    the nearest bin; times, which lie between bins, are means and standard deviations, and
    amplitudes means, given the event.
    Events are sorted by window, template and onset.
    """
    n_windows, n_templates, n_amplitudes, n_onsets = posterior.shape
    found, size = np.empty((64, len(COLUMNS))), 0
    for i in range(n_windows):
        for c in range(n_templates):
            first = size
            begins = posterior[i, c].sum(0)
            near = np.zeros(n_onsets)
            for s in range(n_onsets):
                near[s] = begins[max(0, s - width) : s + width + 1].sum()
            begin = 0
            while begin < n_onsets:  # stretches that share no event
                end = begin + 1
                while end < n_onsets and near[end - 1] > 0.0:
                    end += 1
                while True:
                    s = begin + near[begin:end].argmax()
                    if near[s] < least:
                        break
                    low, high = max(0, s - width), min(n_onsets, s + width + 1)
                    if size == len(found):
                        found = np.concatenate((found, np.empty_like(found)))
                    found[size, 0], found[size, 1] = i, c
                    _describe(posterior[i, c], amplitudes[c], begins, low, high, found[size])
                    size += 1
                    begins[low:high] = 0.0
                    for t in range(max(0, low - width), min(n_onsets, high + width)):
                        near[t] = begins[max(0, t - width) : t + width + 1].sum()
                begin = end
            found[first:size] = found[first:size][np.argsort(found[first:size, 2])]
    return found[:size]


@njit(cache=True, error_model="numpy")
def describe_events(posterior, amplitudes, width, window, template, onset):
    """Describe given events in the columns of `list_events`, their onsets as they are."""
    found = np.empty((window.size, len(COLUMNS)))
    n_onsets = posterior.shape[3]
    for j in range(window.size):
        i, c = window[j], template[j]
        low, high = max(0, onset[j] - width), min(n_onsets, onset[j] + width + 1)
        found[j, 0], found[j, 1] = i, c
        some = posterior[i, c][:, low:high]
        _describe(some, amplitudes[c], some.sum(0), 0, high - low, found[j])
        found[j, 2] = onset[j]
        found[j, 4] += low
    return found


@njit(cache=True, error_model="numpy")
def _between_bins(begins, s):
    """Return the mean density of a bin relative to its middle, and moments of the time in it.

    The log density is the parabola through the probabilities of the bin and its neighbours.
    """
    if not 0 < s < begins.size - 1 or min(begins[s - 1], begins[s], begins[s + 1]) < _IMPOSSIBLE:
        return 1.0, float(s), float(s * s)
    before, here, after = np.log(begins[s - 1]), np.log(begins[s]), np.log(begins[s + 1])
    slope, bend = (after - before) / 2, after - 2 * here + before
    total, first, second = 0.0, 0.0, 0.0
    for k in range(_PARTS):
        late = (k + 0.5) / _PARTS - 0.5
        density = np.exp(late * (slope + bend * late / 2))
        total += density
        first += density * (s + late)
        second += density * (s + late) ** 2
    return total / _PARTS, first / total, second / total


@njit(cache=True, error_model="numpy")
def _describe(posterior, amplitudes, begins, low, high, row):
    """Fill in onset, probability and moments of an event between two onsets."""
    total = max(begins[low:high].sum(), 1e-300)
    onset, time, square, finer, size = 0.0, 0.0, 0.0, 0.0, 0.0
    for s in range(low, high):
        share = begins[s] / total
        onset += share * s
        each, first, second = _between_bins(begins, s)
        finer += share * each
        time += share * each * first
        square += share * each * second
        for a in range(amplitudes.size):
            size += posterior[a, s] / total * amplitudes[a] if begins[s] > 0 else 0.0
    row[2], row[3] = np.rint(onset), min(total, 1.0)
    time, square = time / max(finer, 1e-300), square / max(finer, 1e-300)
    row[4], row[5], row[6] = time, np.sqrt(max(square - time * time, 0.0)), size
