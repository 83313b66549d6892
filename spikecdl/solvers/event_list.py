"""From the posterior of events to a list of events, compiled."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from spikecdl.solvers.events import Events

#: Columns of a table of events, with times in bins.
COLUMNS = tuple("window template onset probability time time_sd amplitude amplitude_sd".split())


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
    the nearest bin; times and amplitudes are means and standard deviations, given the event.
    Events are sorted by window, template and onset.
    """
    n_windows, n_templates, n_amplitudes, n_onsets = posterior.shape
    found, size = np.empty((64, 8)), 0
    for i in range(n_windows):
        for c in range(n_templates):
            first = size
            begins = posterior[i, c].sum(0)
            near = np.zeros(n_onsets)
            for s in range(n_onsets):
                near[s] = begins[max(0, s - width) : s + width + 1].sum()
            while True:
                s = near.argmax()
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
            found[first:size] = found[first:size][np.argsort(found[first:size, 2])]
    return found[:size]


@njit(cache=True, error_model="numpy")
def describe_events(posterior, amplitudes, width, window, template, onset):
    """Describe given events in the columns of `list_events`, their onsets as they are."""
    found = np.empty((window.size, 8))
    n_onsets = posterior.shape[3]
    for j in range(window.size):
        i, c = window[j], template[j]
        low, high = max(0, onset[j] - width), min(n_onsets, onset[j] + width + 1)
        found[j, 0], found[j, 1] = i, c
        _describe(posterior[i, c], amplitudes[c], posterior[i, c].sum(0), low, high, found[j])
        found[j, 2] = onset[j]
    return found


@njit(cache=True, error_model="numpy")
def _describe(posterior, amplitudes, begins, low, high, row):
    """Fill in onset, probability and moments of an event between two onsets."""
    total = max(begins[low:high].sum(), 1e-300)
    onset, square, size, size_square = 0.0, 0.0, 0.0, 0.0
    for s in range(low, high):
        share = begins[s] / total
        onset += share * s
        square += share * s * s
        for a in range(amplitudes.size):
            part = posterior[a, s] / total if begins[s] > 0 else 0.0
            size += part * amplitudes[a]
            size_square += part * amplitudes[a] ** 2
    row[2], row[3] = np.rint(onset), min(total, 1.0)
    row[4], row[5] = onset, np.sqrt(max(square - onset * onset, 0.0))
    row[6], row[7] = size, np.sqrt(max(size_square - size * size, 0.0))
