"""Posterior of the events of windows, summed exactly or, where events overlap, by sampling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from spikecdl.solvers.chain import (
    fill_backward,
    fill_forward,
    free_bins,
    sample,
    to_posterior,
)
from spikecdl.solvers.distributed import ALONE, Processes
from spikecdl.solvers.event_ratios import (
    Derivatives,
    Templates,
    add_derivatives,
    fill_count_scores,
    fill_ratios,
)
from spikecdl.solvers.losses import Loss, fill_row, value
from spikecdl.solvers.operators import add_multiple
from spikecdl.solvers.threads import in_parallel

_NEVER = -1e30  # log weight of what cannot be
N_PARTS = 8  # sums run over as many parts on any machine, so that they round alike


class Prior(NamedTuple):
    """Log probabilities of each chain: that an event (chain, template, amplitude) begins in a bin,
    and that none does (chain,).

    Events of one template that are in different chains begin at least ``distance`` bins apart.
    """

    log_start: np.ndarray
    log_idle: np.ndarray
    distance: int = 0


class Sums(NamedTuple):
    """Sums over windows, and over chains.

    The expected number of events (template, amplitude), that of free bins in which none began (1,),
    and derivatives by templates: expected ones, or with several chains those at the events drawn.
    """

    number: np.ndarray
    free: np.ndarray
    first: np.ndarray
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

    ``evidence`` (window,) is the log likelihood, up to a constant, summed over the events of the
    last chain, plus the log probability of the events of the others; ``residual`` and ``curvature``
    (window, row, bin) are the expected derivatives of the log likelihood by the predictor, or have
    no windows if events are only to be drawn, which leaves out the sums, too;
    ``posterior`` (window, template, amplitude, onset) is the probability of each event, summed over
    chains, or has no windows if it is not asked for; ``drawn`` are the events drawn;
    ``likelihood`` (window,) is the log likelihood given these events, or 0 if none are drawn.
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
    (window, onset) are True; None: anywhere.  The ``processes`` share the windows, and all have the
    same in the end.
    """

    loss: Loss
    z: np.ndarray
    per_bin: bool = False
    onsets: np.ndarray | None = None
    processes: Processes = ALONE


def sum_events(
    windows: Windows,
    model: Templates,
    prior: Prior,
    found: Found,
    uniform: np.ndarray | None = None,
) -> Sums:
    """Sum over the events of all windows; fill in ``found`` and return the sums.

    Windows in which nothing was observed are left out: what is found there is 0.  ``uniform``
    (chain, window, bin), random numbers, make a sweep of blocked Gibbs sampling: the events of each
    chain are drawn given those of the others, whose signals are in ``found`` (Jensen, Kong and
    Kjaerulff, Int. J. Human-Computer Studies 42, 1995).
    """
    loss, z, per_bin, onsets, processes = windows
    shape = (N_PARTS, *model.taps.shape)
    number = np.zeros((N_PARTS, *model.amplitudes.shape))
    free, first, second = np.zeros((N_PARTS, 1)), np.zeros(shape), np.zeros(shape)
    edges = np.arange(N_PARTS + 1) * len(z) // N_PARTS
    draws = np.empty((0, len(z), z.shape[2])) if uniform is None else uniform

    where = np.ones((len(z), 0), bool) if onsets is None else onsets
    given = (loss, z, model, prior, where)

    def work(numbers: slice) -> None:
        for p in range(numbers.start, numbers.stop):
            sums = Sums(number[p], free[p], first[p], second[p])
            _sum_windows((edges[p], edges[p + 1]), given, found, draws, sums, per_bin)

    mine = processes.share(N_PARTS)
    in_parallel(work, mine, z.size * model.amplitudes.size * max(1, len(draws)))
    of_windows = (found.evidence, found.residual, found.curvature, found.posterior)
    of_windows = (*of_windows, found.likelihood, *found.drawn.signal, *found.drawn.kind)
    for values in of_windows:
        values[: edges[mine.start]] = values[edges[mine.stop] :] = 0
    processes.fill(*of_windows, number, free, first, second)
    return Sums(number.sum(0), free.sum(0), first.sum(0), second.sum(0))


@njit(cache=True, error_model="numpy", nogil=True)
def _sum_windows(span, given, found, uniform, sums, per_bin):
    """Sum over the events of the windows of a span."""
    loss, z, model, prior, onsets = given
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
        window = Loss(loss.kind, loss.a[i], loss.b[i])
        if not (np.any(window.a) or np.any(window.b)):
            continue  # nothing was observed
        fill_count_scores(window.a, model.taps, score)
        for chain in range(max(1, len(uniform)) if n_templates else 0):
            _fill_base(base, z, found.drawn.signal, i, chain)
            of_others = log_prior.sum() - (log_prior[chain] if len(uniform) else 0.0)
            fill_ratios(window, base, model, score, weights)
            _add_prior(weights, idle, prior, chain, onsets[i])
            for other in range(len(uniform)):
                if other != chain:
                    _exclude(weights, found.drawn.kind[other, i], prior.distance)
            ratio = fill_forward(flat, idle, total, forward)
            found.evidence[i] = ratio - value(window, base) + of_others
            if len(uniform):
                kind = found.drawn.kind[chain, i]
                of_idle = sample(flat, idle, total, forward, uniform[chain, i], kind)
                signal, start = found.drawn.signal[chain, i], prior.log_start[chain]
                log_prior[chain] = of_idle + _fill_signal(signal, model, kind, start)
            if only_draw:
                continue
            fill_backward(idle, total, backward)
            sums.free[0] += free_bins(idle, n_onsets, forward, backward)
            to_posterior(flat, forward, backward)
            _add_probabilities(i, weights, sums, found)
            if len(uniform) < 2:
                add_derivatives(window, base, model, weights, _at(i, sums, found), per_bin)
        if n_templates and not len(uniform):
            continue
        _fill_base(base, z, found.drawn.signal, i, len(uniform))
        if len(uniform) != 1 and not only_draw:
            _derive_at_drawn(window, base, model, found.drawn.kind[:, i], _at(i, sums, found))
        found.likelihood[i] = -value(window, base)
        if not len(uniform):
            found.evidence[i] = found.likelihood[i]


@njit(cache=True, error_model="numpy")
def _at(i, sums, found):
    """Return where the derivatives of a window are added."""
    return Derivatives(sums.first, sums.second, found.residual[i], found.curvature[i])


@njit(cache=True, error_model="numpy")
def _fill_base(base, z, signal, i, without):
    """Fill in the predictor of a window with the signals of all chains without one."""
    for n in range(len(base)):
        base[n] = z[i, n]
        for chain in range(len(signal)):
            if chain != without:
                add_multiple(base[n], 1.0, signal[chain, i, n])


@njit(cache=True, error_model="numpy")
def _add_probabilities(i, posterior, sums, found):
    """Add the probabilities (template, amplitude, onset) of the events of a window."""
    for c in range(posterior.shape[0]):
        for j in range(posterior.shape[1]):
            if len(found.posterior):
                add_multiple(found.posterior[i, c, j], 1.0, posterior[c, j])
            sums.number[c, j] += posterior[c, j].sum()


@njit(cache=True, error_model="numpy")
def _add_prior(weights, idle, prior, chain, onsets):
    """Add the log probabilities that events begin, and fill in those that none does (onset,)."""
    for c in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            weights[c, j] += prior.log_start[chain, c, j]
    idle[:] = prior.log_idle[chain]
    for s in range(onsets.size):
        if not onsets[s]:
            weights[:, :, s], idle[s] = _NEVER, 0.0


@njit(cache=True, error_model="numpy")
def _exclude(weights, kind, distance):
    """Forbid onsets nearer than a distance to those of the same template in another chain."""
    n_amplitudes = weights.shape[1]
    for s in range(kind.size if distance else 0):
        if kind[s] >= 0:
            weights[kind[s] // n_amplitudes, :, max(0, s - distance + 1) : s + distance] = _NEVER


@njit(cache=True, error_model="numpy")
def _derive_at_drawn(window, base, model, kinds, found):
    """Fill in derivatives by the predictor at the events drawn; add those by templates."""
    for n in range(len(base)):
        of_row = (window.a[n], window.b[n], base[n])
        fill_row(window.kind, *of_row, found.residual[n], found.curvature[n])
    length, n_amplitudes = model.taps.shape[2], model.amplitudes.shape[1]
    for kind in kinds:
        for s in range(kind.size):
            if kind[s] >= 0:
                c, j = kind[s] // n_amplitudes, kind[s] % n_amplitudes
                size, bins = model.amplitudes[c, j], slice(s, s + length)
                for n in range(len(base)):
                    add_multiple(found.first[c, n], size, found.residual[n, bins])
                    add_multiple(found.second[c, n], size**2, found.curvature[n, bins])


@njit(cache=True, error_model="numpy")
def _fill_signal(signal, model, kind, log_start):
    """Fill in the templates of the events drawn; return the log probability that they begin."""
    taps, amplitudes = model
    length, n_amplitudes = taps.shape[2], amplitudes.shape[1]
    total = 0.0
    signal[:] = 0.0
    for s in range(kind.size):
        if kind[s] >= 0:
            c, j = kind[s] // n_amplitudes, kind[s] % n_amplitudes
            total += log_start[c, j]
            for n in range(len(signal)):
                add_multiple(signal[n, s : s + length], amplitudes[c, j], taps[c, n])
    return total
