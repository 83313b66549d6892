"""Sparse coding of units that fire together, on the CPU: a working set of groups.

A window is a trial with its units; an event has a template, a place and one amplitude for each
unit, and costs the weight times their l2 norm (Yuan and Lin, J. R. Stat. Soc. B 68, 2006).  Rounds
are those of `spikecdl.solvers.l1`: a group may join where the norm over units of the scores of
allowed sign is highest above the weight.  Groups that overlap take proximal Newton steps (Lee, Sun
and Saunders, SIAM J. Optim. 24, 2014): the curvature is of each unit alone and banded in time, and
the penalty couples units.

The certificate of a group with scores s and amplitudes a, relative to its weight w:

- at a = 0: what the norm of s, of allowed sign, exceeds w by;
- else: the norm of s - w a / |a|, with s of allowed sign where the amplitude of a unit is zero.

Both bound from above how fast each code moves under a short proximal gradient step.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spikecdl.solvers.group_quadratic import allowed, minimize, norm
from spikecdl.solvers.l1 import (
    BLOCK,
    GAIN,
    add_events,
    banded_gram,
    candidates,
    group_end,
    joined,
    line_search,
    mark,
    next_stale,
    note_tops,
    overlap,
    product,
    scores,
)
from spikecdl.solvers.losses import slopes

_MOST = 32  # groups solved together; what overlaps beyond is solved in turns
_PATIENCE = 12  # rounds after which that number doubles, twice at the most
_NEWTON_STEPS = 3  # of groups that overlap, before scores are looked at again


@njit(cache=True, error_model="numpy", fastmath=True)
def _add_squares(total, score, up, down):
    for p in range(score.size):
        rise = score[p] if up else max(-score[p], 0)
        rise = rise if down else max(rise, 0)
        total[p] += rise * rise


@njit(cache=True, error_model="numpy")
def _heights(score, weight, up, down, first, last, height, owner):
    """Fill in the largest norm of scores over templates, relative to the weight, and whose."""
    top, best = height[first:last], owner[first:last]
    total = np.empty(top.size, top.dtype)
    for c in range(score.shape[1]):
        total[:] = 0
        for u in range(score.shape[0]):
            _add_squares(total, score[u, c, first:last], up[c], down[c])
        for p in range(top.size):
            own = np.sqrt(total[p]) / weight[c]
            if c == 0 or own > top[p]:
                top[p], best[p] = own, c


@njit(cache=True, error_model="numpy")
def _renew(low, residual, weight, up, down, stale, score, height, owner, top):
    """Compute scores (unit, template, place) and heights in the blocks that are stale."""
    rounded = residual.astype(low.dtype)
    begun, ended = next_stale(stale, 0)
    while begun < ended:
        first, last = begun * BLOCK, min(ended * BLOCK, height.size)
        for u in range(len(rounded)):
            scores(low, rounded[u], first, last, score[u])
        _heights(score, weight, up, down, first, last, height, owner)
        note_tops(height, begun, ended, top)
        begun, ended = next_stale(stale, ended)


@njit(cache=True, error_model="numpy")
def _wrong(score, amplitude, weight, up, down):
    """Violation of the optimality conditions of one group, relative to the weight."""
    radius, square = norm(amplitude), 0.0
    for u in range(amplitude.size):
        if amplitude[u] != 0.0:
            square += (score[u] - weight * amplitude[u] / radius) ** 2
        else:
            square += allowed(score[u], up, down) ** 2
    wrong = np.sqrt(square) / weight
    return wrong if radius > 0.0 else max(wrong - 1.0, 0.0)


@njit(cache=True, error_model="numpy")
def _worst_event(score, events, weight, up, down):
    """Largest violation of the groups present, from the scores (unit, template, place)."""
    which, place, amplitude = events
    worst, here = 0.0, np.empty(len(score))
    for j in range(which.size):
        c = which[j]
        for u in range(here.size):
            here[u] = score[u, c, place[j]]
        worst = max(worst, _wrong(here, amplitude[j], weight[c], up[c], down[c]))
    return worst


@njit(cache=True, error_model="numpy")
def _grams(templates, curvature, which, place, gram):
    """Fill in the banded matrices (group, back, unit) of weighted inner products."""
    own = np.empty(gram.shape[:2])
    for u in range(len(curvature)):
        banded_gram(templates, curvature[u], which, place, own)
        gram[:, :, u] = own
    gram[:, 0] *= 1 + 1e-9


@njit(cache=True, error_model="numpy")
def _newton(loss, a, b, eta, residual, curvature, templates, weight, up, down, events, goal):
    """Newton steps on groups that overlap, until none violates its condition by more than goal.

    ``eta``, residual and curvature (unit, channel, bin) of the bins that the groups cover follow.
    Returns whether any code has changed.
    """
    which, place, amplitude = events
    own_weight, own_up, own_down = weight[which], up[which], down[which]
    gram = np.empty((which.size, overlap(place, templates.shape[2]), len(eta)))
    slope, move = np.empty_like(amplitude), np.empty_like(amplitude)
    towards, rows = np.empty_like(eta), (eta.shape[0] * eta.shape[1], eta.shape[2])
    data = (a.reshape(rows), b.reshape(rows), eta.reshape(rows), towards.reshape(rows))
    changed = False
    for _ in range(_NEWTON_STEPS):
        worst = 0.0
        for j in range(which.size):
            for u in range(len(eta)):
                slope[j, u] = product(templates[which[j]], residual[u], place[j])
            wrong = _wrong(slope[j], amplitude[j], own_weight[j], own_up[j], own_down[j])
            worst = max(worst, wrong)
        if worst <= goal:
            break
        _grams(templates, curvature, which, place, gram)
        small = goal / 4 * own_weight.min()
        price = minimize(gram, slope, own_weight, own_up, own_down, amplitude, move, small)
        if not move.any():
            break
        towards[:] = 0.0
        for u in range(len(eta)):
            add_events(towards[u], templates, which, place, move[:, u])
        bent = (residual.reshape(rows), curvature.reshape(rows))
        step = line_search(loss, *data, price, *bent)
        changed = True
        for j in range(which.size):
            for u in range(len(eta)):
                ends = step == 1.0 and amplitude[j, u] + move[j, u] == 0.0
                amplitude[j, u] = 0.0 if ends else amplitude[j, u] + step * move[j, u]
    return changed


@njit(cache=True, error_model="numpy")
def _step(loss, a, b, state, templates, weight, up, down, events, limits, goal, stale):
    """Take Newton steps of all groups, those that overlap together; mark what has changed.

    ``limits`` says how many go together, in the first place and after it.
    """
    eta, residual, curvature = state
    which, place, amplitude = events
    length, begin, limit = templates.shape[2], 0, limits[0]
    while begin < which.size:
        end = group_end(place, begin, limit, length)
        first, last = place[begin], place[end - 1] + length
        ours = (which[begin:end], place[begin:end] - first, amplitude[begin:end])
        # copies lie in one piece, which compiled loops need to be fast
        here = eta[:, :, first:last].copy()
        slope, bend = residual[:, :, first:last].copy(), curvature[:, :, first:last].copy()
        part = (loss, a[:, :, first:last].copy(), b[:, :, first:last].copy(), here, slope, bend)
        if _newton(*part, templates, weight, up, down, ours, goal):
            eta[:, :, first:last] = here
            residual[:, :, first:last], curvature[:, :, first:last] = slope, bend
            mark(stale, first - length + 1, last - 1)
        begin, limit = end, limits[1]


@njit(cache=True, error_model="numpy")
def _solve(loss, a, b, offset, templates, low, weight, up, down, tol, max_iter, events):
    """Solve one window from the events given; return the events, the violation and rounds.

    ``low`` are the templates in the precision of scores where no event is.
    """
    which, place, amplitude = events
    n_templates, _, length = templates.shape
    n_units, n_channels, n_places = a.shape[0], a.shape[1], a.shape[2] - length + 1
    eta = offset.copy()
    residual, curvature = np.empty_like(eta), np.empty_like(eta)
    score = np.empty((n_units, n_templates, n_places), low.dtype)
    height, owner = np.empty(n_places, low.dtype), np.empty(n_places, np.int32)
    stale = np.ones((n_places + BLOCK - 1) // BLOCK, np.bool_)
    top = np.empty(stale.size, low.dtype)
    for u in range(n_units):
        add_events(eta[u], templates, which, place, amplitude[:, u])
        for n in range(n_channels):
            slopes(loss, a[u, n], b[u, n], eta[u, n], residual[u, n], curvature[u, n])
    worst = 0.0
    for rounds in range(max_iter + 1):
        _renew(low, residual, weight, up, down, stale, score, height, owner, top)
        worst = _worst_event(score, (which, place, amplitude), weight, up, down)
        worst = max(worst, top.max() - 1.0)
        if worst <= tol or rounds == max_iter:
            break
        new = candidates(height, top, 1.0 + tol, max(1, length // 8))
        which, place, amplitude = joined(which, place, amplitude, owner, new)
        goal = max(0.5 * tol, min(0.3, GAIN * worst))
        events = (which, place, amplitude)
        most, state = _MOST << min(rounds // _PATIENCE, 2), (eta, residual, curvature)
        limits = (most if rounds % 2 else most // 2, most)  # edges lie elsewhere every other time
        _step(loss, a, b, state, templates, weight, up, down, events, limits, goal, stale)
        kept = np.array([amplitude[j].any() for j in range(which.size)], np.bool_)
        which, place, amplitude = which[kept], place[kept], amplitude[kept]
    return which, place, amplitude, worst, rounds


@njit(cache=True, error_model="numpy")
def _listed(codes):
    """List the groups of codes (unit, template, place) that are not zero, in order of time."""
    n_units, n_templates, n_places = codes.shape
    live = np.zeros((n_places, n_templates), np.bool_)
    for u in range(n_units):
        for c in range(n_templates):
            for p in range(n_places):
                live[p, c] = live[p, c] or codes[u, c, p] != 0.0
    place, which = np.nonzero(live)
    amplitude = np.empty((place.size, n_units))
    for j in range(place.size):
        amplitude[j] = codes[:, which[j], place[j]]
    return which, place, amplitude


@njit(cache=True, error_model="numpy", nogil=True)
def solve_windows(
    loss, a, b, offset, templates, low, up, down, weight, tol, max_iter, codes, violation, rounds
):
    """Solve every window, from ``codes`` (window, unit, template, place) and into them."""
    for i in range(len(a)):
        events = _listed(codes[i])
        codes[i] = 0.0
        window = (loss, a[i], b[i], offset[i])
        which, place, amplitude, violation[i], rounds[i] = _solve(
            *window, templates, low, weight[i], up, down, tol, max_iter, events
        )
        for j in range(which.size):
            codes[i, :, which[j], place[j]] = amplitude[j]
