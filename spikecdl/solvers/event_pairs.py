"""Exact sums over events of which two may overlap, in windows of any length, compiled.

A window is a chain of free bins, single events, and pairs: a second event may begin in any bin that
the first covers, and after it none until both have ended.  In every bin where one may begin, an
event of template c begins with probability :math:`\\pi_c`.  With log weights of events relative to
no event, and of pairs

.. math:: w_{c,s} + w_{c',s'} - \\kappa_{c c'}(s' - s), \\qquad
          \\kappa_{c c'}(l) = \\sum_n e^{\\mu_n} \\sum_k
              (e^{h_{c,n,k}} - 1) (e^{h_{c',n,k-l}} - 1)

for the Poisson family, the sums are those of `spikecdl.solvers.chain`, with a pair as another kind
of event that lasts until its second event ends.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spikecdl.solvers.chain import log_add
from spikecdl.solvers.distributed import ALONE, Processes
from spikecdl.solvers.losses import exp
from spikecdl.solvers.spike_list import N_PARTS
from spikecdl.solvers.threads import in_parallel

_LEAST = -30.0  # log weight, relative to the sum, below which a term is left out
_LIVE = -8.0  # log weight below which an event is in no pair
_NEGLIGIBLE = -14.0  # log probability of an event that says nothing
_HOPELESS = -40.0  # log weight that need not be exact


@njit(cache=True, error_model="numpy", inline="always")
def _log_sum(values):
    """Return the log of the sum of exponentials."""
    highest = values[0]
    for c in range(1, values.size):
        highest = max(highest, values[c])
    total = 0.0
    for c in range(values.size):
        if values[c] > highest + _LEAST:
            total += exp(values[c] - highest)
    return highest + np.log(total) if total > 1.0 else highest


@njit(cache=True, error_model="numpy", nogil=True)
def fill_weights(score, fixed, pattern, amplitudes, weight):
    """Fill in the log weight (onset, template) of events, summed over amplitudes.

    ``fixed`` (pattern, template, amplitude) are the parts of the log weights that no spike changes,
    and ``pattern`` (onset,) is which of them are those of an onset.
    """
    n_onsets, n_templates = weight.shape
    for s in range(n_onsets):
        for c in range(n_templates):
            highest = -np.inf
            for i in range(amplitudes.size):
                each = amplitudes[i] * score[s, c] + fixed[pattern[s], c, i]
                highest = max(highest, each)
            total = 0.0 if highest > _HOPELESS else 1.0
            for i in range(amplitudes.size if highest > _HOPELESS else 0):
                each = amplitudes[i] * score[s, c] + fixed[pattern[s], c, i]
                if each > highest + _LEAST:
                    total += exp(each - highest)
            weight[s, c] = highest + np.log(total)


@njit(cache=True, error_model="numpy", nogil=True)
def fill_forward(weight, log_idle, crowding, pattern, with_pairs, covered, live, forward):
    """Fill in the log weights (bin + 1,) of all that may happen before each bin.

    All are relative to no event.  ``covered`` (onset,) becomes the log weight that an event of
    which all bins are covered gains for the idle bins that it saves, and ``live`` (onset,) whether
    an event that begins there may be one of a pair.
    """
    n_bins, n_templates = weight.shape
    length, n_onsets = crowding.shape[3], covered.size
    for s in range(n_onsets):
        covered[s] = -log_idle * min(length, n_onsets - s)
        live[s] = False
        for c in range(n_templates):
            live[s] = live[s] or (with_pairs and weight[s, c] > _LIVE)
    forward[0] = 0.0
    for t in range(1, n_bins + 1):
        total, s = forward[t - 1], t - length
        if s >= 0:
            alone = -log_idle if with_pairs else covered[s]
            total = log_add(total, forward[s] + _log_sum(weight[s]) + alone)
            if live[s]:
                for lag in range(1, min(length, s + 1)):
                    if live[s - lag]:
                        before = forward[s - lag] - log_idle + covered[s]
                        lost = crowding[pattern[s - lag]]
                        for b in range(n_templates):
                            for c in range(n_templates):
                                term = before + weight[s - lag, b] + weight[s, c]
                                total = log_add(total, term - lost[b, c, lag])
        forward[t] = total


@njit(cache=True, error_model="numpy", nogil=True)
def sum_window(weight, log_idle, crowding, pattern, posterior, pairs):
    """Return the log likelihood ratio of a window over no events, summed over events.

    Parameters
    ----------
    weight : ndarray, shape (bin, template)
        Log weights; those of events that would not end in the window are not used.
    log_idle : float
        Log probability that no event begins in a bin in which one could.
    crowding : ndarray, shape (pattern, template, template, lag)
        How much less likely pairs are, by what is shown under the first event; there are as many
        lags as bins of a template.
    pattern : ndarray of int, shape (bin,)
        Which of them are those of an onset.
    posterior : ndarray, shape (bin, template)
        Receives the probability of every event.
    pairs : ndarray, shape (template, template, lag)
        The expected numbers of pairs are added; without lags (0), events do not overlap.

    Returns
    -------
    evidence, free : float
        The log likelihood ratio, and the expected number of bins in which an event could begin.
    """
    n_bins, n_templates = weight.shape
    length, with_pairs = crowding.shape[3], pairs.shape[2] > 0
    n_onsets = n_bins - length + 1
    covered, live = np.empty(n_onsets), np.zeros(n_onsets, np.bool_)
    forward, backward = np.zeros(n_bins + 1), np.zeros(n_bins + 1)
    fill_forward(weight, log_idle, crowding, pattern, with_pairs, covered, live, forward)
    evidence = forward[n_bins]
    for t in range(n_bins - 1, -1, -1):
        total = backward[t + 1]
        posterior[t] = 0.0
        if t < n_onsets:
            alone = -log_idle if with_pairs else covered[t]
            total = log_add(total, _log_sum(weight[t]) + alone + backward[t + length])
            alone += forward[t] + backward[t + length] - evidence
            for c in range(n_templates):
                posterior[t, c] = _chance(weight[t, c] + alone)
            if live[t]:
                for lag in range(1, min(length, n_onsets - t)):
                    s = t + lag
                    if live[s]:
                        after = backward[s + length] - log_idle + covered[s]
                        lost = crowding[pattern[t]]
                        for b in range(n_templates):
                            for c in range(n_templates):
                                term = after + weight[t, b] + weight[s, c] - lost[b, c, lag]
                                total = log_add(total, term)
                                chance = _chance(forward[t] + term - evidence)
                                if chance > 0.0:
                                    pairs[b, c, lag] += chance
                                    posterior[t, b] += chance
                                    posterior[s, c] += chance
        backward[t] = total
    free = 0.0
    for t in range(n_onsets):
        free += _chance(forward[t] + backward[t + 1] - evidence)
    return evidence + log_idle * n_onsets, free


@njit(cache=True, error_model="numpy", nogil=True)
def draw_events(weight, log_idle, crowding, pattern, uniform, drawn):
    """Draw the events of a window, backward; mark them in ``drawn`` (bin, template).

    Pairs are possible.  ``uniform`` (bin,) are random numbers from 0 to 1.
    """
    n_bins, n_templates = weight.shape
    length = crowding.shape[3]
    n_onsets = n_bins - length + 1
    covered, live = np.empty(n_onsets), np.zeros(n_onsets, np.bool_)
    forward = np.zeros(n_bins + 1)
    fill_forward(weight, log_idle, crowding, pattern, True, covered, live, forward)
    t = n_bins
    while t > 0:
        left = uniform[t - 1] - exp(forward[t - 1] - forward[t])
        s, until = t - length, t - 1
        for c in range(n_templates if s >= 0 else 0):
            if left >= 0.0:
                left -= _chance(forward[s] + weight[s, c] - log_idle - forward[t])
                if left < 0.0:
                    until, drawn[s, c] = s, True
        for lag in range(1, min(length, s + 1) if s >= 0 and live[s] else 0):
            before = forward[s - lag] - log_idle + covered[s] - forward[t]
            for b in range(n_templates if live[s - lag] else 0):
                for c in range(n_templates):
                    if left >= 0.0:
                        term = before + weight[s - lag, b] + weight[s, c]
                        left -= _chance(term - crowding[pattern[s - lag], b, c, lag])
                        if left < 0.0:
                            until = s - lag
                            drawn[s - lag, b] = drawn[s, c] = True
        t = until


@njit(cache=True, error_model="numpy", inline="always")
def _chance(log_chance):
    """Return a probability, or 0 if it is negligible."""
    return exp(min(log_chance, 0.0)) if log_chance > _NEGLIGIBLE else 0.0


def sum_windows(
    weight: np.ndarray,
    shape: tuple[int, int],
    log_idle: float,
    crowding: np.ndarray,
    pattern: np.ndarray,
    with_pairs: bool,
    processes: Processes = ALONE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Sum over the events of all windows; see `sum_window`.

    ``weight`` (onset, template) runs through all windows, of which ``shape`` is (window, bin), and
    which the ``processes`` share.  Returns the evidence (window,), the posterior (onset, template),
    the expected numbers of pairs (template, template, lag), and that of free bins.
    """
    n_windows, n_bins = shape
    evidence, free = np.zeros(n_windows), np.zeros(n_windows)
    posterior = np.zeros_like(weight)
    pairs = np.zeros((N_PARTS, *crowding.shape[1:3], crowding.shape[3] if with_pairs else 0))
    edges = np.arange(N_PARTS + 1) * n_windows // N_PARTS

    def work(numbers: slice) -> None:
        for p in range(numbers.start, numbers.stop):
            for i in range(edges[p], edges[p + 1]):
                bins = slice(i * n_bins, (i + 1) * n_bins)
                evidence[i], free[i] = sum_window(
                    weight[bins], log_idle, crowding, pattern[bins], posterior[bins], pairs[p]
                )

    in_parallel(work, processes.share(N_PARTS), weight.size)
    processes.fill(evidence, free, posterior, pairs)
    return evidence, posterior, pairs.sum(0), float(free.sum())
