"""Orthogonal matching pursuit of single windows, compiled: one event at a time, the best first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl.model.penalties import Penalty
from spikecdl.solvers.events import Events
from spikecdl.solvers.l1 import BLOCK, COSTLY, as_array, mark, next_stale, scores
from spikecdl.solvers.losses import LOSSES, slopes, value
from spikecdl.solvers.threads import in_parallel
from spikecdl.training import Observations
from spikecdl.training.dictionary_update import allowed_signs
from spikecdl.training.profile_likelihood import fit_events, fit_levels

_ROUNDS = 50  # of amplitudes and baseline in turn
_TOL = 1e-3  # of a standard error, at which both have settled


@dataclass(frozen=True)
class Rule:
    """How events are chosen, and when there are enough.

    Parameters
    ----------
    penalty : Penalty
        Of which only the signs are used.
    standardise : bool
        Compare scores in units of their standard errors, not as they are.
    n_events : int
        Events of a window at the most.
    min_gain : tensor, shape (window,)
        Gain of an event, in nats, below which it is not taken and the pursuit ends.
    precision : float
        One over the variance of a normal prior of amplitudes.
    """

    penalty: Penalty
    standardise: bool
    n_events: int
    min_gain: Tensor
    precision: float


def pursue(rows: Observations, templates: Tensor, rule: Rule) -> tuple[Events, Tensor]:
    """Find the events of every window.

    Parameters
    ----------
    rows : Observations
        On the CPU, with one window axis.
    templates : tensor, shape (template, channel, bin)
    rule : Rule

    Returns
    -------
    events : Events
        Sorted; without those whose amplitude is zero.
    baseline : tensor, shape (window, channel, 1)
        Refitted with the events, if it is to be learned.
    """
    loss = rows.family.scalar_loss(rows.y)
    a, b = (as_array(values * rows.mask) for values in (loss.a, loss.b))
    levels = as_array(rows.baseline)[..., 0] - loss.shift
    stiffness = 1 / rows.family.eta_scale**2 if rows.learn_baseline else np.inf
    shape = (len(a), min(rule.n_events, a.shape[-1]))
    found = (np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape))
    number = np.zeros(len(a), np.int64)
    waves, least_gain = as_array(templates), as_array(rule.min_gain)
    precision = np.full(len(waves), rule.precision)
    up, down = (sign.numpy() for sign in allowed_signs(rule.penalty, len(waves)))
    choice = (up, down, rule.standardise, precision)

    def work(part: slice) -> None:
        _pursue_windows(
            *(LOSSES[loss.kind], a[part], b[part], levels[part], stiffness, waves, *choice),
            *(least_gain[part], *(values[part] for values in found), number[part]),
        )

    in_parallel(work, len(a), a.size * len(waves) * COSTLY)
    window, rank = np.nonzero(np.arange(shape[1]) < number[:, None])
    which, place, amplitude = (values[window, rank] for values in found)
    order = np.lexsort((place, which, window))
    order = order[amplitude[order] != 0]
    events = (torch.from_numpy(v[order]) for v in (window, which, place, amplitude))
    return Events(*events), torch.from_numpy(levels[..., None] + loss.shift)


@njit(cache=True, error_model="numpy", nogil=True)
def _pursue_windows(
    loss,
    a,
    b,
    levels,
    stiffness,
    templates,
    up,
    down,
    standardise,
    precision,
    least_gain,
    which,
    place,
    amplitude,
    number,
):
    """Fill in the events of some windows, and their baselines."""
    for i in range(a.shape[0]):
        events = (which[i], place[i], amplitude[i])
        rule = (up, down, standardise, precision, least_gain[i])
        number[i] = _pursue(loss, a[i], b[i], levels[i], stiffness, templates, *rule, *events)


@njit(cache=True, error_model="numpy")
def _pursue(
    loss,
    a,
    b,
    levels,
    stiffness,
    templates,
    up,
    down,
    standardise,
    precision,
    least_gain,
    which,
    place,
    amplitude,
):
    """Add events to one window until the next gains too little; return their number.

    Events are kept in order of time, in the first entries of ``which``, ``place`` and
    ``amplitude``.  ``levels``, the baseline of each channel, is changed in place.
    """
    n_places = a.shape[1] - templates.shape[2] + 1
    squares = templates * templates
    eta = np.empty_like(a)
    for n in range(eta.shape[0]):
        eta[n] = levels[n]
    residual, curvature = np.empty_like(eta), np.empty_like(eta)
    for n in range(eta.shape[0]):
        slopes(loss, a[n], b[n], eta[n], residual[n], curvature[n])
    state = (eta, residual, curvature)
    score = np.empty((templates.shape[0], n_places))
    spread = np.ones_like(score)
    stale = np.ones((n_places + BLOCK - 1) // BLOCK, np.bool_)
    refit = (loss, a, b, *state, templates, precision, up, down)
    level = (levels, np.ones_like(levels), levels.copy(), stiffness)
    count = 0
    now = _objective(loss, a, b, eta, residual, precision, which, amplitude, count, *level)
    while count < which.size:
        _renew(templates, squares, residual, curvature, standardise, stale, score, spread)
        c, p = _best(score, spread, up, down)
        if c < 0 or _is_there(which[:count], place[:count], c, p):
            break
        before = (which[:count].copy(), place[:count].copy(), amplitude[:count].copy())
        old_levels = levels.copy()
        _insert(which, place, amplitude, count, c, p)
        count += 1
        changed = _refit(*refit, which[:count], place[:count], amplitude[:count], p, *level)
        then = _objective(loss, a, b, eta, residual, precision, which, amplitude, count, *level)
        if not now - then >= least_gain:
            count -= 1
            which[:count], place[:count], amplitude[:count] = before
            levels[:] = old_levels
            break
        now = then
        mark(stale, changed[0] - templates.shape[2] + 1, changed[1] - 1)
    return count


@njit(cache=True, error_model="numpy")
def _renew(templates, squares, residual, curvature, standardise, stale, score, spread):
    """Compute the scores, and their spread, in the blocks of places that are stale."""
    begun, ended = next_stale(stale, 0)
    while begun < ended:
        first, last = begun * BLOCK, min(ended * BLOCK, score.shape[1])
        scores(templates, residual, first, last, score)
        if standardise:
            scores(squares, curvature, first, last, spread)
            spread[:, first:last] = np.sqrt(np.maximum(spread[:, first:last], 1e-12))
        begun, ended = next_stale(stale, ended)


@njit(cache=True, error_model="numpy")
def _best(score, spread, up, down):
    """Return template and place of the largest score of an allowed sign; -1 if there is none."""
    largest, template, where = 0.0, -1, -1
    for c in range(score.shape[0]):
        for p in range(score.shape[1]):
            height = score[c, p] / spread[c, p]
            own = max(height if up[c] else 0.0, -height if down[c] else 0.0)
            if own > largest:
                largest, template, where = own, c, p
    return template, where


@njit(cache=True, error_model="numpy")
def _is_there(which, place, c, p):
    for j in range(which.size):
        if which[j] == c and place[j] == p:
            return True
    return False


@njit(cache=True, error_model="numpy")
def _insert(which, place, amplitude, count, c, p):
    """Add an event of amplitude zero to the first ``count``, in order of time."""
    j = count
    while j > 0 and place[j - 1] > p:
        which[j], place[j], amplitude[j] = which[j - 1], place[j - 1], amplitude[j - 1]
        j -= 1
    which[j], place[j], amplitude[j] = c, p, 0.0


@njit(cache=True, error_model="numpy")
def _refit(
    loss,
    a,
    b,
    eta,
    residual,
    curvature,
    templates,
    precision,
    up,
    down,
    which,
    place,
    amplitude,
    new,
    levels,
    relax,
    expected,
    stiffness,
):
    """Fit amplitudes, and the baseline if it is free, after an event was added at ``new``.

    With the baseline as it is, only events that are linked to the new one by overlaps change.
    Returns the bins, from the first up to the last, that have changed.
    """
    length = templates.shape[2]
    begin, end = 0, place.size
    if stiffness == np.inf:
        begin = np.searchsorted(place, new)
        end = begin + 1
        while begin > 0 and place[begin] - place[begin - 1] < length:
            begin -= 1
        while end < place.size and place[end] - place[end - 1] < length:
            end += 1
    state = (loss, a, b, eta, residual, curvature)
    linked = (which[begin:end], place[begin:end], amplitude[begin:end])
    last = np.zeros_like(levels)
    for _ in range(_ROUNDS):
        moved = fit_events(*state, templates, precision, up, down, *linked, _TOL)
        if stiffness < np.inf:
            step = fit_levels(*state, levels, relax, last, expected, stiffness)
            moved = max(moved, step)
        if moved < _TOL:
            break
    if stiffness < np.inf:
        return 0, eta.shape[1]
    return place[begin], place[end - 1] + length


@njit(cache=True, error_model="numpy")
def _objective(
    loss,
    a,
    b,
    eta,
    residual,
    precision,
    which,
    amplitude,
    count,
    levels,
    relax,
    expected,
    stiffness,
):
    """Return the cost of a window, and of the priors of amplitudes and baseline."""
    total = 0.0
    for n in range(eta.shape[0]):
        total += value(loss, a[n], b[n], eta[n], residual[n])
        if stiffness < np.inf:
            total += stiffness * (levels[n] - expected[n]) ** 2 / 2
    for j in range(count):
        total += precision[which[j]] * amplitude[j] ** 2 / 2
    return total
