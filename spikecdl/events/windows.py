"""Sums over the events of windows of counts: exact, or drawn where three or more overlap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from spikecdl.events import bursts, chain, pairs
from spikecdl.events.bursts import CountLoss
from spikecdl.events.derivatives import Derivatives, add_derivatives
from spikecdl.events.interactions import add_pair_derivatives, fill_interactions
from spikecdl.events.model import ChainPrior
from spikecdl.events.ratios import Templates, fill_count_scores, fill_ratios
from spikecdl.solvers.losses import QUADRATIC, fill_row, value
from spikecdl.solvers.operators import add_multiple
from spikecdl.solvers.parallel import ALONE, Processes, in_parallel

_MOST_FACTORS = 2**22  # of pairs of events in memory at once, shared or of a window
N_PARTS = 8  # sums run over as many parts on any machine, so that they round alike


class Sums(NamedTuple):
    """Sums over windows, and over chains.

    The expected number of events (template, amplitude), and (template, onset) if their prior has a
    timing, that of bins in which a chain was idle and none began (1,), and derivatives by
    templates, see `Derivatives`, or those at the events drawn.
    """

    number: np.ndarray
    starts: np.ndarray
    free: np.ndarray
    spikes: np.ndarray
    expected: np.ndarray
    second: np.ndarray


class Drawn(NamedTuple):
    """Events that were drawn; no chains if there are none.

    ``signal`` (chain, window, row, bin) is what they add to the predictor; ``kind`` (chain, window,
    bin) is -1, or where an event begins its template times the number of amplitudes plus its
    amplitude.
    """

    signal: np.ndarray
    kind: np.ndarray

    @classmethod
    def nothing(cls, n_chains: int, shape: tuple[int, int, int]) -> Drawn:
        """Return chains without events, of windows with a shape (window, row, bin)."""
        kind = np.full((n_chains, shape[0], shape[2]), -1, np.int32)
        return cls(np.zeros((n_chains, *shape)), kind)


class Found(NamedTuple):
    """What is found in each window.

    ``evidence`` (window,) is the log likelihood, up to a constant, summed over events, or if they
    are drawn over those of the last chain; ``residual`` and ``curvature`` (window, row, bin) are
    the expected derivatives of the log likelihood by the predictor, or have no windows if events
    are only to be drawn, which leaves out the sums, too; ``posterior`` (window, template,
    amplitude, onset) is the probability of each event, summed over chains, or has no windows if it
    is not asked for; ``drawn`` are the events drawn; ``likelihood`` (window,) is the log likelihood
    given these events.
    """

    evidence: np.ndarray
    residual: np.ndarray
    curvature: np.ndarray
    posterior: np.ndarray
    drawn: Drawn
    likelihood: np.ndarray


class Windows(NamedTuple):
    """Windows of counts.

    ``z`` (window, row, bin) is the predictor without events.  Where it is constant, the derivatives
    of all bins of a window are in its first, unless ``per_bin``.  Events begin where ``onsets``
    (window, onset) are True; None: anywhere.  Onsets with the same ``pattern`` (window, onset)
    differ in the counts from there on alone; there are no windows if no pairs are summed.  The
    ``processes`` share the windows, and all have the same in the end.
    """

    loss: CountLoss
    z: np.ndarray
    per_bin: bool
    onsets: np.ndarray | None
    pattern: np.ndarray
    processes: Processes = ALONE


def sum_events(
    windows: Windows,
    model: Templates,
    prior: ChainPrior,
    found: Found,
    uniform: np.ndarray | None = None,
) -> Sums:
    """Sum over the events of all windows; fill in ``found`` and return the sums.

    Windows in which nothing was observed are left out: what is found there is 0.  The sum is exact
    for one chain or two; ``uniform`` (1, window, bin + 1), random numbers, then let the events of
    ``found``, which has as many chains, be drawn.  With a row for each chain they make a sweep of
    blocked Gibbs sampling: the events of each chain are drawn given those of the others, whose
    signals are in ``found`` (Jensen, Kong and Kjaerulff, Int. J. Human-Computer Studies 42, 1995).
    """
    loss, z, per_bin, onsets, pattern, processes = windows
    by_template = np.zeros((3, N_PARTS, *model.taps.shape))
    number = np.zeros((N_PARTS, *model.amplitudes.shape))
    starts = np.zeros((N_PARTS, *prior.log_timing.shape))
    free = np.zeros((N_PARTS, 1))
    edges = np.arange(N_PARTS + 1) * len(z) // N_PARTS
    draws = np.empty((0, len(z), z.shape[2] + 1)) if uniform is None else uniform
    where = np.ones((len(z), 0), bool) if onsets is None else onsets
    shared, factors = _shared_factors(windows, model, prior)
    overlaps = np.zeros((N_PARTS, *factors.log.shape))
    given = (loss, z, model, prior, where, pattern, factors)
    sum_ = _sum_windows if len(draws) < 2 else _sample_windows

    def work(numbers: slice) -> None:
        for p in range(numbers.start, numbers.stop):
            sums = Sums(number[p], starts[p], free[p], *by_template[:, p])
            sum_((edges[p], edges[p + 1]), given, found, draws, sums, overlaps[p], per_bin)

    mine = processes.share(N_PARTS)
    in_parallel(work, mine, z.size * model.amplitudes.size * max(1, len(draws)))
    of_windows = (found.evidence, found.residual, found.curvature, found.posterior)
    of_windows = (*of_windows, found.likelihood, *found.drawn.signal, *found.drawn.kind)
    for values in of_windows:
        values[: edges[mine.start]] = values[edges[mine.stop] :] = 0
    processes.fill(*of_windows, number, starts, free, by_template, overlaps)
    sums = Sums(number.sum(0), starts.sum(0), free.sum(0), *by_template.sum(1))
    for (i, onset), pairs_of_pattern in zip(shared, overlaps.sum(0), strict=True):
        at = Derivatives(*sums[3:], found.residual[i], found.curvature[i])
        add_pair_derivatives(bursts.window(loss, i), z[i], model, onset, pairs_of_pattern, at, 0)
    return sums


def _shared_factors(
    windows: Windows, model: Templates, prior: ChainPrior
) -> tuple[np.ndarray, pairs.Factors]:
    """Return the first window and onset of each pattern (pattern, 2), and factors of pairs.

    There are none where derivatives are those of bins, and if there were too many.
    """
    length, n_kinds, pattern = model.taps.shape[2], model.amplitudes.size, windows.pattern
    first = np.empty(0, np.int64)
    if not windows.per_bin and (pattern.max(initial=-1) + 1) * length * n_kinds**2 < _MOST_FACTORS:
        first = np.unique(pattern, return_index=True)[1]
    shared = np.stack(np.divmod(first, pattern.shape[1]), 1)
    factors = np.zeros((len(shared), length, n_kinds, n_kinds))
    for (i, onset), some in zip(shared, factors, strict=True):
        window = bursts.window(windows.loss, i)
        fill_interactions(window, windows.z[i], model, onset, np.arange(length), some)
        _exclude_near(some, model.amplitudes.shape[1], prior.distance)
    return shared, pairs.relative(factors)


@njit(cache=True, error_model="numpy", nogil=True)
def _sum_windows(span, given, found, uniform, sums, overlaps, per_bin):
    """Sum over the events of the windows of a span, and draw them if there are random numbers.

    Expected pairs of windows of a group are added to ``overlaps``.
    """
    loss, z, model, prior, onsets, pattern, factors = given
    n_templates, n_rows, length = model.taps.shape
    n_kinds, n_bins = model.amplitudes.size, z.shape[2]
    n_onsets = n_bins - length + 1
    weights = np.empty((n_templates, model.amplitudes.shape[1], n_onsets))
    flat, posterior = weights.reshape(n_kinds, n_onsets), np.empty_like(weights)
    idle, score = np.empty(n_onsets), np.empty((n_templates, n_onsets))
    for i in range(span[0], span[1]):
        window, base = bursts.window(loss, i), z[i]
        if not (np.any(window.a) or np.any(window.b)):
            continue  # nothing was observed
        found.likelihood[i] = bursts.value(window, base) - value(window, base)
        found.evidence[i] = found.likelihood[i]
        by_bin = (found.residual[i], found.curvature[i])
        at = Derivatives(sums.spikes, sums.expected, sums.second, *by_bin)
        if n_templates:
            fill_count_scores(window.a, model.taps, score)
            fill_ratios(window, base, model, score, weights)
            bursts.add_ratios(window, base, model, weights)
            _add_prior(weights, idle, prior, onsets[i])
        draws = uniform[:, i]
        kind = found.drawn.kind[:, i]
        numbers = np.zeros((0, length, n_kinds, n_kinds))
        first = np.zeros(1, np.int64)
        if n_templates and prior.n_chains == 1:
            found.evidence[i] += _sum_chain(flat, idle, draws, kind, n_bins, posterior)
        elif n_templates:
            if len(factors.log):
                live = pairs.live_onsets(flat, prior.least, n_onsets)
                where = pattern[i], factors, overlaps
            else:
                most = _MOST_FACTORS // (length * n_kinds**2)
                live = pairs.live_onsets(flat, prior.least, most)
                where, first = _pairs_of_window(window, base, model, prior, live, pattern[i])
                numbers = where[2]
            gain = _sum_pairs(where, (flat, idle), live, draws, kind, posterior)
            found.evidence[i] += gain
        for each in range(len(kind) if n_templates else 0):
            _fill_signal(found.drawn.signal[each, i], model, kind[each], prior)
        if n_templates:
            _add_probabilities(i, posterior, n_bins, prior.n_chains, onsets[i], sums, found)
        add_derivatives(window, base, model, posterior[:n_templates], at, per_bin)
        chance = posterior[:n_templates]
        bursts.add_derivatives(window, base, model, chance, at.spikes, at.residual)
        for p in range(len(numbers)):
            level_at = -1 if per_bin else 0
            of_pairs = (window, base, model, first[p], numbers[p])
            add_pair_derivatives(*of_pairs, at, level_at)
            bursts.add_pair_derivatives(*of_pairs, at.spikes, at.residual)


@njit(cache=True, error_model="numpy")
def _sum_chain(weights, idle, uniform, kind, n_bins, posterior):
    """Sum over events that do not overlap; return the log likelihood ratio over none."""
    n_kinds, n_onsets = weights.shape
    total, forward, backward = np.empty(n_onsets), np.empty(n_bins + 1), np.empty(n_bins + 1)
    chain.sum_kinds(weights, total)
    evidence = chain.fill_forward(idle, total, forward)
    chain.fill_backward(idle, total, backward)
    if len(uniform):
        chain.sample(weights, idle, total, forward, uniform[0], kind[0])
    flat = posterior.reshape(n_kinds, n_onsets)
    flat[:] = weights
    chain.to_posterior(flat, forward, backward)
    return evidence


@njit(cache=True, error_model="numpy")
def _pairs_of_window(window, base, model, prior, live, pattern):
    """Return what `_sum_pairs` asks for, and the first onset of each pattern of live onsets."""
    length, n_kinds = model.taps.shape[2], model.amplitudes.size
    order, numbered = np.argsort(pattern[live], kind="mergesort"), np.zeros_like(pattern)
    first, n_found = np.empty_like(live), 0
    for p in range(live.size):
        here = live[order[p]]
        if p == 0 or pattern[here] != pattern[live[order[p - 1]]]:
            first[n_found] = here
            n_found += 1
        numbered[here] = n_found - 1
    factors = np.zeros((n_found, length, n_kinds, n_kinds))
    lags = np.arange(length)
    for p in range(n_found):
        if n_found == live.size:
            begin, end = np.searchsorted(live, first[p]), np.searchsorted(live, first[p] + length)
            lags = live[begin:end] - first[p]
        fill_interactions(window, base, model, first[p], lags, factors[p])
        bursts.add_interactions(window, base, model, first[p], lags, factors[p])
        _exclude_near(factors[p], model.amplitudes.shape[1], prior.distance)
    return (numbered, pairs.relative(factors), np.zeros(factors.shape)), first


@njit(cache=True, error_model="numpy")
def _sum_pairs(where, ratios, live, uniform, kind, posterior):
    """Sum over events of which two may overlap; return the log likelihood ratio over no event.

    ``where`` are the pattern of each onset, the factors of pairs, and their expected numbers,
    which are added, by pattern.
    """
    (pattern, factors, number), (weights, log_idle) = where, ratios
    n_kinds, n_onsets = weights.shape
    length, n_bins = factors.log.shape[1], n_onsets + factors.log.shape[1] - 1
    idle, total = np.zeros(n_bins + 1), np.empty(n_onsets)
    for t in range(n_bins):
        idle[t + 1] = idle[t] + (log_idle[t] if t < n_onsets else 0.0)
    chain.sum_kinds(weights, total)
    messages = pairs.overlapping(live, length, n_bins, n_kinds)
    by_onset = np.ascontiguousarray(weights.T)
    given = (by_onset, idle, pairs.Pairs(live, pattern[live], factors), total)
    evidence = pairs.fill_forward(given, messages)
    pairs.fill_backward(given, messages)
    pairs.fill_posterior(given, messages, posterior.reshape(n_kinds, n_onsets), number)
    if len(uniform):
        pairs.sample(given, messages, uniform[0], kind)
    return evidence


@njit(cache=True, error_model="numpy")
def _exclude_near(factors, n_amplitudes, distance):
    """Forbid pairs of one template that begin less than a distance apart."""
    for lag in range(min(distance, len(factors))):
        for j in range(factors.shape[1]):
            first = j - j % n_amplitudes
            factors[lag, j, first : first + n_amplitudes] = -np.inf


@njit(cache=True, error_model="numpy", nogil=True)
def _sample_windows(span, given, found, uniform, sums, overlaps, per_bin):
    """Draw the events of the windows of a span, a chain at a time, and sum over those of each."""
    loss, z, model, prior, onsets = given[:5]
    n_templates, n_rows, length = model.taps.shape
    n_amplitudes, n_bins = model.amplitudes.shape[1], z.shape[2]
    n_onsets = n_bins - length + 1
    weights = np.empty((n_templates, n_amplitudes, n_onsets))
    total, forward, backward = np.empty(n_onsets), np.empty(n_bins + 1), np.empty(n_bins + 1)
    base, idle = np.empty((n_rows, n_bins)), np.empty(n_onsets)
    log_prior = np.zeros(len(uniform))
    flat = weights.reshape(n_templates * n_amplitudes, n_onsets)
    score, only_draw = np.empty((n_templates, n_onsets)), len(found.residual) == 0
    for i in range(span[0], span[1]):
        window = bursts.window(loss, i)
        if not (np.any(window.a) or np.any(window.b)):
            continue  # nothing was observed
        fill_count_scores(window.a, model.taps, score)
        for each in range(len(uniform) if n_templates else 0):
            _fill_base(base, z, found.drawn.signal, i, each)
            of_others = log_prior.sum() - log_prior[each]
            fill_ratios(window, base, model, score, weights)
            bursts.add_ratios(window, base, model, weights)
            _add_prior(weights, idle, prior, onsets[i])
            for other in range(len(uniform)):
                if other != each:
                    _exclude(weights, found.drawn.kind[other, i], prior.distance)
            chain.sum_kinds(flat, total)
            ratio = chain.fill_forward(idle, total, forward)
            likelihood = bursts.value(window, base) - value(window, base)
            found.evidence[i] = ratio + likelihood + of_others
            kind = found.drawn.kind[each, i]
            of_idle = chain.sample(flat, idle, total, forward, uniform[each, i], kind)
            signal = found.drawn.signal[each, i]
            log_prior[each] = of_idle + _fill_signal(signal, model, kind, prior)
            if not only_draw:
                chain.fill_backward(idle, total, backward)
                chain.to_posterior(flat, forward, backward)
                _add_probabilities(i, weights, n_bins, 1, onsets[i], sums, found)
        _fill_base(base, z, found.drawn.signal, i, len(uniform))
        if not only_draw:
            by_bin = (found.residual[i], found.curvature[i])
            at = Derivatives(sums.spikes, sums.expected, sums.second, *by_bin)
            _derive_at_drawn(window, base, model, found.drawn.kind[:, i], at)
        found.likelihood[i] = bursts.value(window, base) - value(window, base)


@njit(cache=True, error_model="numpy")
def _fill_base(base, z, signal, i, without):
    """Fill in the predictor of a window with the signals of all chains without one."""
    for n in range(len(base)):
        base[n] = z[i, n]
        for each in range(len(signal)):
            if each != without:
                add_multiple(base[n], 1.0, signal[each, i, n])


@njit(cache=True, error_model="numpy")
def _add_probabilities(i, posterior, n_bins, n_chains, onsets, sums, found):
    """Add the probabilities (template, amplitude, onset) of the events of a window."""
    n_onsets = posterior.shape[2]
    allowed = np.zeros(n_onsets + 1)  # bins before each in which an event could begin
    for s in range(n_onsets):
        allowed[s + 1] = allowed[s] + (onsets.size == 0 or onsets[s])
    sums.free[0] += allowed[n_onsets] * n_chains
    length = n_bins - n_onsets + 1
    for c in range(posterior.shape[0]):
        for j in range(posterior.shape[1]):
            if len(found.posterior):
                add_multiple(found.posterior[i, c, j], 1.0, posterior[c, j])
            sums.number[c, j] += posterior[c, j].sum()
            if sums.starts.shape[1]:
                add_multiple(sums.starts[c], 1.0, posterior[c, j])
            for s in range(n_onsets):
                busy = allowed[min(s + length, n_onsets)] - allowed[s]
                sums.free[0] -= posterior[c, j, s] * busy


@njit(cache=True, error_model="numpy")
def _add_prior(weights, idle, prior, onsets):
    """Add the log probabilities that events begin, and fill in those that none does (onset,)."""
    for c in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            weights[c, j] += prior.log_start[c, j]
            if prior.log_timing.shape[1]:
                weights[c, j] += prior.log_timing[c]
    idle[:] = prior.log_idle
    for s in range(onsets.size):
        if not onsets[s]:
            weights[:, :, s], idle[s] = pairs.NEVER, 0.0


@njit(cache=True, error_model="numpy")
def _exclude(weights, kind, distance):
    """Forbid onsets nearer than a distance to those of the same template in another chain."""
    n_amplitudes = weights.shape[1]
    for s in range(kind.size if distance else 0):
        if kind[s] >= 0:
            weights[kind[s] // n_amplitudes, :, max(0, s - distance + 1) : s + distance] = (
                pairs.NEVER
            )


@njit(cache=True, error_model="numpy")
def _derive_at_drawn(window, base, model, kinds, found):
    """Fill in derivatives by the predictor at the events drawn; add those by templates."""
    for n in range(len(base)):
        of_row = (window.a[n], window.b[n], base[n])
        fill_row(window.kind, *of_row, found.residual[n], found.curvature[n])
    linear = window.a * window.b if window.kind == QUADRATIC else window.a.copy()
    bursts.take_away(window, base, linear, found.residual)
    length, n_amplitudes = model.taps.shape[2], model.amplitudes.shape[1]
    for kind in kinds:
        for s in range(kind.size):
            if kind[s] >= 0:
                c, j = kind[s] // n_amplitudes, kind[s] % n_amplitudes
                size, bins = model.amplitudes[c, j], slice(s, s + length)
                for n in range(len(base)):
                    add_multiple(found.spikes[c, n], size, linear[n, bins])
                    add_multiple(found.expected[c, n], size, linear[n, bins])
                    add_multiple(found.expected[c, n], -size, found.residual[n, bins])
                    add_multiple(found.second[c, n], size**2, found.curvature[n, bins])


@njit(cache=True, error_model="numpy")
def _fill_signal(signal, model, kind, prior):
    """Fill in the templates of the events drawn; return the log probability that they begin."""
    taps, amplitudes = model.taps, model.amplitudes
    length, n_amplitudes = taps.shape[2], amplitudes.shape[1]
    total = 0.0
    signal[:] = 0.0
    for s in range(kind.size):
        if kind[s] >= 0:
            c, j = kind[s] // n_amplitudes, kind[s] % n_amplitudes
            total += prior.log_start[c, j]
            if prior.log_timing.shape[1]:
                total += prior.log_timing[c, s]
            for n in range(len(signal)):
                add_multiple(signal[n, s : s + length], amplitudes[c, j], taps[c, n])
    return total
