"""Orthogonal matching pursuit of single windows, compiled: one event at a time, the best first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl.model.penalties import Penalty
from spikecdl.solvers.amplitudes import Baselines, Prior, fit_in_turn, of_window, prior_value
from spikecdl.solvers.events import Events
from spikecdl.solvers.losses import LOSSES, Loss, State, as_array, fill_state, value
from spikecdl.solvers.operators import fill_scores
from spikecdl.solvers.threads import COSTLY, in_parallel
from spikecdl.solvers.working_set import BLOCK, mark_stale, next_stale
from spikecdl.training import Observations
from spikecdl.training.dictionary_update import allowed_signs

_UNTIL = (1e-3, 50)  # of a standard error; rounds of amplitudes and baseline in turn


@dataclass(frozen=True)
class Rule:
    """How events are chosen, and when there are enough."""

    penalty: Penalty  # of which only the signs are used
    standardise: bool  # compare scores in units of their standard errors, not as they are
    n_events: int  # of a window, at the most
    min_gain: Tensor  # (window,), in nats; an event with less is not taken and ends the pursuit
    precision: float  # one over the variance of a normal prior of amplitudes


def pursue(rows: Observations, templates: Tensor, rule: Rule) -> tuple[Events, Tensor]:
    """Find the events of every window, with templates (template, channel, bin).

    ``rows`` are on the CPU, with one window axis.  Returns events, sorted and without those whose
    amplitude is zero, and baselines (window, channel, 1), refitted if they are to be learned.
    """
    scalar = rows.family.scalar_loss(rows.y)
    loss = Loss(LOSSES[scalar.kind], *(as_array(v * rows.mask) for v in (scalar.a, scalar.b)))
    level = as_array(rows.baseline)[..., 0] - scalar.shift
    none = np.zeros((*level.shape, 1))
    baselines = Baselines(level, np.ones_like(level), level.copy(), rows.level_precision, none)
    shape = (len(level), min(rule.n_events, loss.a.shape[-1]))
    found = (np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape))
    number, shapes = np.zeros(len(level), np.int64), as_array(templates)
    up, down = (sign.numpy() for sign in allowed_signs(rule.penalty, len(shapes)))
    prior = Prior(np.full(len(shapes), rule.precision), up, down)
    criteria = (rule.standardise, as_array(rule.min_gain))

    def work(part: slice) -> None:
        span = (part.start, part.stop)
        _pursue_windows(span, loss, shapes, prior, baselines, criteria, found, number)

    in_parallel(work, len(level), loss.a.size * len(shapes) * COSTLY)
    window, rank = np.nonzero(np.arange(shape[1]) < number[:, None])
    which, onset, amplitude = (values[window, rank] for values in found)
    order = np.lexsort((onset, which, window))
    order = order[amplitude[order] != 0]
    events = (torch.from_numpy(v[order]) for v in (window, which, onset, amplitude))
    return Events(*events), torch.from_numpy(level[..., None] + scalar.shift)


@njit(cache=True, error_model="numpy", nogil=True)
def _pursue_windows(span, loss, templates, prior, baselines, rule, found, number):
    """Fill in the events of some windows and their number, and their baselines."""
    (standardise, min_gain), (which, onset, amplitude) = rule, found
    for i in range(span[0], span[1]):
        window, level = of_window(loss, baselines, i)
        events, own_rule = (which[i], onset[i], amplitude[i]), (standardise, min_gain[i])
        number[i] = _pursue(window, level, templates, prior, own_rule, events)


@njit(cache=True, error_model="numpy")
def _pursue(loss, baseline, templates, prior, rule, events):
    """Add events to one window until the next gains too little; return their number.

    Events are kept in order of time, in the first entries of the arrays of ``events``.  The
    baseline of each channel is changed in place.
    """
    (which, onset, amplitude), (standardise, min_gain) = events, rule
    n_onsets = loss.a.shape[1] - templates.shape[2] + 1
    squares = templates * templates
    eta = np.empty_like(loss.a)
    for n in range(len(eta)):
        eta[n] = baseline.value[n]
    state = State(eta, np.empty_like(eta), np.empty_like(eta))
    fill_state(loss, state)
    score = np.empty((templates.shape[0], n_onsets))
    spread = np.ones_like(score)
    stale = np.ones((n_onsets + BLOCK - 1) // BLOCK, np.bool_)
    count, present = 0, (which[:0], onset[:0], amplitude[:0])
    now = value(loss, eta) + prior_value(prior, baseline, present)
    while count < which.size:
        _renew(templates, squares, state, standardise, stale, score, spread)
        c, p = _best(score, spread, prior.up, prior.down)
        if c < 0 or np.any((present[0] == c) & (present[1] == p)):
            break
        before = (which[:count].copy(), onset[:count].copy(), amplitude[:count].copy())
        old = baseline.value.copy()
        _insert(which, onset, amplitude, count, c, p)
        count += 1
        present = (which[:count], onset[:count], amplitude[:count])
        changed = _refit(loss, state, templates, prior, baseline, present, p)
        then = value(loss, eta) + prior_value(prior, baseline, present)
        if not now - then >= min_gain:
            count -= 1
            which[:count], onset[:count], amplitude[:count] = before
            baseline.value[:] = old
            break
        now = then
        mark_stale(stale, changed[0] - templates.shape[2] + 1, changed[1] - 1)
    return count


@njit(cache=True, error_model="numpy")
def _renew(templates, squares, state, standardise, stale, score, spread):
    """Compute the scores, and their spread, in the blocks of onsets that are stale."""
    begun, ended = next_stale(stale, 0)
    while begun < ended:
        first, last = begun * BLOCK, min(ended * BLOCK, score.shape[1])
        fill_scores(templates, state.residual, first, last, score)
        if standardise:
            fill_scores(squares, state.curvature, first, last, spread)
            spread[:, first:last] = np.sqrt(np.maximum(spread[:, first:last], 1e-12))
        begun, ended = next_stale(stale, ended)


@njit(cache=True, error_model="numpy")
def _best(score, spread, up, down):
    """Return template and onset of the largest score of an allowed sign; -1 if there is none."""
    largest, template, where = 0.0, -1, -1
    for c in range(score.shape[0]):
        for p in range(score.shape[1]):
            relative = score[c, p] / spread[c, p]
            own = max(relative if up[c] else 0.0, -relative if down[c] else 0.0)
            if own > largest:
                largest, template, where = own, c, p
    return template, where


@njit(cache=True, error_model="numpy")
def _insert(which, onset, amplitude, count, c, p):
    """Add an event of amplitude zero to the first ``count``, in order of time."""
    j = count
    while j > 0 and onset[j - 1] > p:
        which[j], onset[j], amplitude[j] = which[j - 1], onset[j - 1], amplitude[j - 1]
        j -= 1
    which[j], onset[j], amplitude[j] = c, p, 0.0


@njit(cache=True, error_model="numpy")
def _refit(loss, state, templates, prior, baseline, events, new):
    """Fit amplitudes, and the baseline if it is free, after an event was added at ``new``.

    With a fixed baseline, only events that are linked to the new one by overlaps change.  Returns
    the first bin that has changed and the end of those bins.
    """
    which, onset, amplitude = events
    length, is_free = templates.shape[2], baseline.stiffness < np.inf
    begin, end = 0, onset.size
    if not is_free:
        begin = np.searchsorted(onset, new)
        end = begin + 1
        while begin > 0 and onset[begin] - onset[begin - 1] < length:
            begin -= 1
        while end < onset.size and onset[end] - onset[end - 1] < length:
            end += 1
    linked = (which[begin:end], onset[begin:end], amplitude[begin:end])
    fit_in_turn(loss, state, templates, prior, baseline, linked, _UNTIL)
    if is_free:
        return 0, state.eta.shape[1]
    return onset[begin], onset[end - 1] + length
