"""Exact sums over the events of a window of which at most two are under way at a time, compiled.

There are two chains (see `spikecdl.events.chain`), in each of which an event k begins with
probability :math:`\\rho_k` in every idle bin.  As no more than two events overlap, the likelihood
is a product of ratios of events, and of factors K of events that follow each other and overlap.
With

- V(t) the weight of all that may happen before bin t with both chains idle in it, and
- U(s, k, t) that of event k, begun in bin s, with the other chain idle in bin t before it ends,

an event j that begins in a bin s' while k lasts adds

.. math:: \\sum_k U(s, k, s')\\, K_{kj}(s' - s)\\, \\rho_j \\Lambda_j(s')

to U(s', j, t) from t = s + L on, when k ends; it is U(s', j, s' + L) that returns to V.  All
weights are logarithms.  Only *live* onsets, where an event is not hopeless, are those of pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from spikecdl.events.chain import LEAST, log_add
from spikecdl.solvers.operators import add_multiple

_LOG_2 = float(np.log(2.0))  # chains in which an event can begin while both are idle
NEVER = -1e30  # log weight of what cannot be
_TINY = 1e-290  # sum of relative numbers that may have lost some
_NEGLIGIBLE = -20.0  # log probability of pairs that say nothing


class Factors(NamedTuple):
    """Factors of two events that overlap, as logarithms (pattern, lag, event, event).

    ``largest`` (pattern, lag) are the largest logarithms, and ``linear`` the factors relative to
    these.
    """

    log: np.ndarray
    largest: np.ndarray
    linear: np.ndarray


class Pairs(NamedTuple):
    """Live onsets and what two events may do from there.

    ``onset`` (live,) are the bins; ``pattern`` (live,) says which factors belong to an event that
    begins there.
    """

    onset: np.ndarray
    pattern: np.ndarray
    factors: Factors


class Messages(NamedTuple):
    """Log weights of the past (bin + 1,) and of the future with both chains idle; of events begun
    while another lasted, ``past`` (pair, event), summed over pairs with the same second onset and a
    first onset up to this one; and ``future`` (pair, event), of first events, summed over pairs
    with the same first onset and a second onset from this one on.  Pairs are numbered by second
    onset from ``begin``, and by first onset from ``until``; ``low`` and ``high`` are the first and
    the end of the live onsets whose events overlap with each.  ``most`` (2, live) are the largest
    weights of the past and of the future of the events of an onset.
    """

    forward: np.ndarray
    backward: np.ndarray
    past: np.ndarray
    future: np.ndarray
    begin: np.ndarray
    until: np.ndarray
    low: np.ndarray
    high: np.ndarray
    most: np.ndarray


@njit(cache=True, error_model="numpy", inline="always")
def _add(x, y, out):
    """Fill in the log of exp(x) + exp(y) (event,)."""
    for k in range(out.size):
        out[k] = log_add(max(x[k], y[k]), min(x[k], y[k]))


@njit(cache=True, error_model="numpy", nogil=True)
def live_onsets(weights, least, most):
    """Return the onsets at which some event has at least a log weight; the best if too many."""
    highest = np.empty(weights.shape[1])
    for s in range(highest.size):
        highest[s] = weights[:, s].max()
    found = np.flatnonzero(highest > least)
    return np.sort(found[np.argsort(-highest[found])[:most]]) if found.size > most else found


@njit(cache=True, error_model="numpy", nogil=True)
def relative(factors):
    """Return logarithms of factors together with their largest ones, and relative to these."""
    largest, linear = np.empty(factors.shape[:2]), np.zeros_like(factors)
    for p in range(largest.shape[0]):
        for lag in range(largest.shape[1]):
            largest[p, lag] = factors[p, lag].max()
            if largest[p, lag] > -np.inf:
                linear[p, lag] = np.exp(factors[p, lag] - largest[p, lag])
    return Factors(factors, largest, linear)


@njit(cache=True, error_model="numpy", nogil=True)
def overlapping(onset, length, n_bins, n_kinds):
    """Return messages without values for these live onsets."""
    size = onset.size
    low, high = np.zeros(size, np.int64), np.zeros(size, np.int64)
    begin, until = np.zeros(size + 1, np.int64), np.zeros(size + 1, np.int64)
    for i in range(size):
        low[i] = low[i - 1] if i else 0
        while onset[low[i]] <= onset[i] - length:
            low[i] += 1
        begin[i + 1] = begin[i] + i - low[i]
        high[i] = max(high[i - 1] if i else 0, i + 1)
        while high[i] < size and onset[high[i]] < onset[i] + length:
            high[i] += 1
        until[i + 1] = until[i] + high[i] - i - 1
    shape = (begin[size], n_kinds)
    ends, most = np.full((2, n_bins + 1), NEVER), np.full((2, size), NEVER)
    return Messages(
        ends[0], ends[1], np.empty(shape), np.empty(shape), begin, until, low, high, most
    )


@njit(cache=True, error_model="numpy")
def _fill_first(i, until, given, messages, out):
    """Fill in U (event,) of events that begin at a live onset, with a chain idle in a later bin.

    ``until`` is the first live onset that overlaps with this bin.
    """
    weights, idle, pairs = given[:3]
    s = pairs.onset[i]
    begun = messages.forward[s] + _LOG_2 - idle[s]
    last = messages.begin[i] + min(until, i) - messages.low[i] - 1
    out[:] = weights[s]
    out += begun
    if last >= messages.begin[i]:
        _add(out, messages.past[last], out)


@njit(cache=True, error_model="numpy")
def _log_sum(logs, factors):
    """Return the log of the sum of products of numbers given by logarithms."""
    each, total = logs + factors, 0.0
    highest = each.max()
    for k in range(logs.size if highest > NEVER else 0):
        if each[k] > highest + LEAST:
            total += np.exp(each[k] - highest)
    return highest + np.log(total) if total > 0.0 else NEVER


@njit(cache=True, error_model="numpy")
def _fill_mixed(logs, log, largest, linear, out):
    """Fill in the log (event,) of the sum over events, given by logs, times their factors.

    ``log`` and ``linear`` (event, other event) are the factors of one lag.
    """
    highest = logs.max()
    out[:] = 0.0
    for j in range(out.size):
        weight = np.exp(logs[j] - highest)
        if weight > 0.0:
            for k in range(out.size):
                out[k] += weight * linear[j, k]
    for k in range(out.size):
        if out[k] > _TINY:
            out[k] = np.log(out[k]) + highest + largest
        else:  # underflow
            out[k] = _log_sum(logs, log[:, k])


@njit(cache=True, error_model="numpy", nogil=True)
def fill_forward(given, messages):
    """Fill in the weights of the past; return that of all that may happen in the window.

    ``given`` are log weights (onset, event), the number of idle bins before each bin (bin + 1,)
    times their log probability, `Pairs`, and the log of the sum over events (onset,).
    """
    weights, idle, pairs, total = given
    forward, past, most = messages.forward, messages.past, messages.most
    n_onsets, n_kinds = weights.shape
    log, largest, linear = pairs.factors
    log_n = np.log(n_kinds)
    n_bins = forward.size - 1
    length, live = n_bins - n_onsets + 1, 0
    first, both, none = np.empty(n_kinds), np.empty(n_kinds), np.zeros(n_kinds)
    ended = np.full(n_onsets, NEVER)
    forward[0] = 0.0
    for t in range(n_bins + 1):
        if t > 0:
            forward[t] = forward[t - 1] + 2 * (idle[t] - idle[t - 1])
        s = t - length
        if s >= 0:
            alone = forward[s] + _LOG_2 + total[s] + idle[t] - idle[s]
            forward[t] = log_add(forward[t], alone)
            forward[t] = log_add(forward[t], ended[s] + idle[t])
        if live == pairs.onset.size or pairs.onset[live] != t:
            continue
        i, live = live, live + 1
        begun = forward[t] + _LOG_2 - idle[t]
        most[0, i] = begun + weights[t].max()
        for p in range(messages.begin[i], messages.begin[i + 1]):
            j = messages.low[i] + p - messages.begin[i]
            r = pairs.onset[j]
            bound = most[0, j] + idle[t] - idle[r + length] + log_n
            here = pairs.pattern[j], t - r
            if bound + largest[here] < begun + LEAST:
                past[p] = past[p - 1] if p > messages.begin[i] else none + NEVER
                continue
            _fill_first(j, messages.low[i], given, messages, first)
            _fill_mixed(first, log[here], largest[here], linear[here], both)
            add_multiple(both, 1.0, weights[t])
            both += idle[t] - idle[r + length]
            if p > messages.begin[i]:
                _add(both, past[p - 1], both)
            past[p] = both
        if messages.begin[i + 1] > messages.begin[i]:
            last = past[messages.begin[i + 1] - 1]
            ended[t] = _log_sum(last, none)
            most[0, i] = max(most[0, i], last.max())
        at_once = _at_once(weights[t], log[pairs.pattern[i], 0], first)
        ended[t] = log_add(ended[t], at_once + forward[t] - idle[t + length])
    return forward[n_bins]


@njit(cache=True, error_model="numpy")
def _at_once(weights, factors, sums):
    """Return the log weight of two events that begin in one bin."""
    for j in range(weights.size):
        sums[j] = weights[j] + _log_sum(weights, factors[j])
    return _log_sum(sums, np.zeros(weights.size))


@njit(cache=True, error_model="numpy")
def _fill_second(i, begin, given, messages, out):
    """Fill in the weight of the future of events (event,) of a live onset.

    The other chain is idle up to the live onset numbered ``begin``, from which on events overlap.
    Weights are relative to the idle bins before the event's own.
    """
    idle, pairs = given[1], given[2]
    length = messages.backward.size - len(given[0])
    end = pairs.onset[i] + length
    out[:] = messages.backward[end] + idle[end]
    if begin < messages.high[i]:
        at = messages.until[i] + max(begin, i + 1) - i - 1
        _add(out, messages.future[at], out)


@njit(cache=True, error_model="numpy", nogil=True)
def fill_backward(given, messages):
    """Fill in the weights of the future; see `fill_forward`."""
    weights, idle, pairs, total = given
    backward, future, most = messages.backward, messages.future, messages.most
    n_onsets, n_kinds = weights.shape
    log, largest, linear = pairs.factors
    log_n = np.log(n_kinds)
    n_bins = backward.size - 1
    length, live = n_bins - n_onsets + 1, pairs.onset.size - 1
    second, both, none = np.empty(n_kinds), np.empty(n_kinds), np.zeros(n_kinds)
    backward[n_bins] = 0.0
    for t in range(n_bins - 1, -1, -1):
        backward[t] = backward[t + 1] + 2 * (idle[t + 1] - idle[t])
        if t < n_onsets:
            end = t + length
            alone = _LOG_2 + total[t] + idle[end] - idle[t] + backward[end]
            backward[t] = log_add(backward[t], alone)
        if live < 0 or pairs.onset[live] != t:
            continue
        i, live = live, live - 1
        end = t + length
        alone = backward[end] + idle[end]
        most[1, i] = alone + weights[t].max()
        for j in range(messages.high[i] - 1, i, -1):
            p, s = messages.until[i] + j - i - 1, pairs.onset[j]
            bound = most[1, j] + idle[s] - idle[end] + log_n
            here = pairs.pattern[i], s - t
            if bound + largest[here] < alone + LEAST:
                future[p] = future[p + 1] if j < messages.high[i] - 1 else none + NEVER
                continue
            _fill_second(j, messages.high[i], given, messages, second)
            add_multiple(second, 1.0, weights[s])
            _fill_mixed(second, log[here].T, largest[here], linear[here].T, both)
            both += idle[s] - idle[end]
            if j < messages.high[i] - 1:
                _add(both, future[p + 1], both)
            future[p] = both
        if messages.high[i] > i + 1:
            second[:] = weights[t] + future[messages.until[i]]
            most[1, i] = max(most[1, i], second.max())
            paired = _log_sum(second, none) + _LOG_2 - idle[t]
            backward[t] = log_add(backward[t], paired)
        at_once = _at_once(weights[t], log[pairs.pattern[i], 0], second)
        backward[t] = log_add(backward[t], at_once + backward[end])


@njit(cache=True, error_model="numpy", nogil=True)
def fill_posterior(given, messages, posterior, number):
    """Fill in the probability (event, onset) of each event; add the expected numbers of pairs.

    ``number`` (pattern, lag, event, event) is that of pairs, the first of which has the pattern.
    """
    weights, idle, pairs = given[:3]
    forward, backward, evidence = messages.forward, messages.backward, messages.forward[-1]
    n_onsets, n_kinds = weights.shape
    length = forward.size - n_onsets
    first, second, (log, largest, _) = np.empty(n_kinds), np.empty(n_kinds), pairs.factors
    for s in range(n_onsets):
        begun = forward[s] + _LOG_2 + idle[s + length] - idle[s] + backward[s + length] - evidence
        for k in range(n_kinds):
            posterior[k, s] = np.exp(min(begun + weights[s, k], 0.0))
    for i in range(pairs.onset.size):
        t = pairs.onset[i]
        begun = forward[t] + _LOG_2 - idle[t] - evidence
        if messages.high[i] > i + 1:
            for k in range(n_kinds):
                paired = begun + weights[t, k] + messages.future[messages.until[i], k]
                posterior[k, t] += np.exp(min(paired, 0.0))
        at_once = forward[t] + backward[t + length] - evidence
        factors, found = log[pairs.pattern[i], 0], number[pairs.pattern[i], 0]
        for j in range(n_kinds):
            for k in range(n_kinds):
                both = at_once + weights[t, j] + weights[t, k] + factors[j, k]
                if both > _NEGLIGIBLE:
                    chance = np.exp(min(both, 0.0))
                    found[j, k] += chance
                    posterior[j, t] += chance
                    posterior[k, t] += chance
        for j in range(messages.low[i], i):
            r = pairs.onset[j]
            rest = idle[t] - idle[r + length] - evidence
            bound = messages.most[0, j] + messages.most[1, i] + rest
            if bound + largest[pairs.pattern[j], t - r] < _NEGLIGIBLE:
                continue
            _fill_first(j, messages.low[i], given, messages, first)
            _fill_second(i, messages.high[j], given, messages, second)
            here = pairs.pattern[j], t - r
            add_multiple(second, 1.0, weights[t])
            second += rest
            least = _NEGLIGIBLE - largest[here] - second.max()
            for b in range(n_kinds):
                for k in range(n_kinds if first[b] > least else 0):
                    both = first[b] + log[here][b, k] + second[k]
                    if both > _NEGLIGIBLE:
                        chance = np.exp(min(both, 0.0))
                        number[here][b, k] += chance
                        posterior[k, t] += chance


@njit(cache=True, error_model="numpy", nogil=True)
def sample(given, messages, uniform, kind):
    """Draw the events of a window; fill in the kinds (chain, bin) that begin in each bin, or -1.

    ``uniform`` (bin + 1,) are random numbers from 0 to 1.
    """
    weights, idle, pairs = given[:3]
    backward = messages.backward
    n_onsets, n_kinds = weights.shape
    n_bins = backward.size - 1
    length, t, live = n_bins - n_onsets + 1, 0, 0
    kind[:] = -1
    while t < n_onsets:
        left = uniform[t] - np.exp(backward[t + 1] + 2 * (idle[t + 1] - idle[t]) - backward[t])
        if left < 0.0:
            t += 1
            continue
        while live < pairs.onset.size and pairs.onset[live] < t:
            live += 1
        here, begun = live < pairs.onset.size and pairs.onset[live] == t, -1
        for k in range(n_kinds):
            alone = _LOG_2 + weights[t, k] - idle[t] + idle[t + length] + backward[t + length]
            chance = np.exp(min(alone - backward[t], 0.0))
            if here and messages.high[live] > live + 1:
                paired = _LOG_2 + weights[t, k] - idle[t] + messages.future[messages.until[live], k]
                chance += np.exp(min(paired - backward[t], 0.0))
            left -= chance
            if left < 0.0:
                begun = k
                break
        if begun < 0 and here:
            rest = backward[t + length] - backward[t]
            begun = _draw_two(live, given, left, rest, kind)
        elif begun < 0:
            begun = n_kinds - 1
        kind[0, t] = begun
        last = live
        if here and kind[1, t] < 0:
            last = _draw_followers(live, given, messages, uniform, kind)
        t = pairs.onset[last] + length if here else t + length


@njit(cache=True, error_model="numpy")
def _draw_two(i, given, left, rest, kind):
    """Draw two events that begin at a live onset; return the kind of one and fill in the other."""
    weights, pairs = given[0], given[2]
    t, factors = pairs.onset[i], pairs.factors.log[pairs.pattern[i], 0]
    n_kinds = weights.shape[1]
    for j in range(n_kinds):
        for k in range(n_kinds):
            left -= np.exp(min(weights[t, j] + weights[t, k] + factors[j, k] + rest, 0.0))
            if left < 0.0:
                kind[1, t] = k
                return j
    return n_kinds - 1


@njit(cache=True, error_model="numpy")
def _draw_followers(i, given, messages, uniform, kind):
    """Draw the events that begin one after the other, each before the last has ended.

    Returns the live onset of the last one.
    """
    weights, idle, pairs = given[:3]
    n_kinds, chain, begin = weights.shape[1], 0, i + 1
    length = messages.backward.size - len(weights)
    future, second = np.empty(n_kinds), np.empty(n_kinds)
    while True:
        s = pairs.onset[i]
        now = kind[chain, s]
        _fill_second(i, begin, given, messages, future)
        end = s + length
        left = uniform[s + 1] - np.exp(messages.backward[end] + idle[end] - future[now])
        if left < 0.0 or begin >= messages.high[i]:
            return i
        follows = -1
        for j in range(begin, messages.high[i]):
            _fill_second(j, messages.high[i], given, messages, second)
            t = pairs.onset[j]
            before = idle[t] - idle[end] - future[now]
            factors = pairs.factors.log[pairs.pattern[i], t - s]
            for k in range(n_kinds):
                log_chance = before + weights[t, k] + second[k] + factors[now, k]
                left -= np.exp(min(log_chance, 0.0))
                if left < 0.0:
                    follows, chain = j, 1 - chain
                    kind[chain, t] = k
                    break
            if follows >= 0:
                break
        if follows < 0:
            return i
        i, begin = follows, messages.high[i]
