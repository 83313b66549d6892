"""Sparse coding of single windows on the CPU: a working set of events and Newton steps.

A window is solved in rounds.  Events enter where the score is highest above the penalty weight.
Events that overlap form runs, and each run that violates its optimality conditions takes proximal
Newton steps (Lee, Sun and Saunders, SIAM J. Optim. 24, 2014) in the bins that it covers.  Scores
are renewed where the residual has changed, so a round costs as much as what changes in it, and
windows may be long.

One code serves both penalties.  For l1, a window has codes (template, onset) and an event has one
amplitude.  For l2 norms over units (Yuan and Lin, J. R. Stat. Soc. B 68, 2006), it has codes (unit,
template, onset) and an event has an amplitude for each unit.  The certificate of an event with
scores s and amplitudes a, relative to its weight w:

- at a = 0: by how much the norm of s, of allowed sign, exceeds w;
- else: the norm of s - w a / |a|, with s of allowed sign where the amplitude of a unit is zero.

Both bound from above how fast each code moves under a short proximal gradient step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import Windows
from spikecdl.solvers import operators
from spikecdl.solvers.losses import LOSSES, Loss, State, as_array, cut, fill_state, paste, take_step
from spikecdl.solvers.parallel import COSTLY, in_parallel
from spikecdl.solvers.quadratic import Weights, allowed, minimize, norms, weights_of

BLOCK = 64  # onsets whose scores are renewed together


class _Scan(NamedTuple):
    """Scores of a window and what follows from them, in blocks of onsets."""

    score: np.ndarray  # ([unit,] template, onset)
    ratio: np.ndarray  # largest over templates, relative to the weight
    owner: np.ndarray  # the template that has it
    largest: np.ndarray  # ratio of each block
    stale: np.ndarray  # blocks to be renewed


def solve(
    windows: Windows,
    dictionary: ConvDictionary,
    start: Tensor,
    onsets: Tensor | None,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Tensor, int]:
    """Solve windows, divided among threads.

    Parameters
    ----------
    windows : Windows
        With a family that has a scalar loss and a positive weight for each window and template.
    dictionary : ConvDictionary
        Of templates (template, channel, bin).
    start : tensor, shape (window, [unit,] template, onset)
        Codes to start from; without the unit axis, the penalty is the l1 norm.
    onsets : tensor of bool, shape (window, onset), optional
        Where codes may differ from zero; None: everywhere.
    tol : float
        Violation of the optimality conditions that is accepted, relative to the weight.
    max_iter : int
        Largest number of rounds.

    Returns
    -------
    codes, violation of each window, rounds of the slowest window
    """
    y, penalty, limits = windows.y, windows.penalty, (tol, max_iter)
    loss, seen = windows.family.scalar_loss(y), 1 if windows.mask is None else windows.mask
    shape = (len(start), -1, y.shape[-1])
    offset = windows.baseline.expand_as(y) - loss.shift
    a, b, eta = (as_array(t.reshape(shape)) for t in (loss.a * seen, loss.b * seen, offset))
    codes, full = as_array(start), as_array(dictionary.templates.detach())
    # scores in single precision are accurate to this
    low = full.astype(np.float32 if tol >= 1e-3 else np.float64)
    weights = as_array(torch.as_tensor(penalty.weight).flatten(1).expand(-1, len(full)))
    signs = torch.ones(len(full), 1)
    up = (penalty.project(signs)[:, 0] > 0).numpy()
    down = (penalty.project(-signs)[:, 0] < 0).numpy()
    violation, rounds = np.zeros(len(a)), np.zeros(len(a), dtype=np.int64)
    where = np.ones((len(a), 0), bool) if onsets is None else onsets.contiguous().numpy()

    def work(part: slice) -> None:
        _solve_windows(
            Loss(LOSSES[loss.kind], a[part], b[part]),
            eta[part],
            (full, low),
            Weights(weights[part], up, down),
            limits,
            (codes[part], where[part]),
            (violation[part], rounds[part]),
        )

    in_parallel(work, len(a), a.size * len(full) * COSTLY)
    solution = torch.from_numpy(codes).to(start.dtype)
    certificate = torch.from_numpy(violation).to(start.dtype)
    return solution, certificate, int(rounds.max(initial=0))


@njit(cache=True, error_model="numpy", nogil=True)
def _solve_windows(loss, offset, templates, penalty, limits, solution, certificate):
    """Solve every window, from codes and into them; ``solution`` also says where they may be."""
    (codes, onsets), (violation, rounds) = solution, certificate
    for i in range(len(codes)):
        window = Loss(loss.kind, loss.a[i], loss.b[i])
        weights = Weights(penalty.weight[i], penalty.up, penalty.down)
        of_window = (codes[i], onsets[i])
        violation[i], rounds[i] = _solve(window, offset[i], templates, weights, limits, of_window)


@njit(cache=True, error_model="numpy")
def _solve(loss, offset, templates, penalty, limits, solution):
    """Solve one window, from codes and into them; return the violation and the rounds.

    ``templates`` come twice: in double precision, and in that of the scores.
    """
    (full, low), (tol, max_iter), (codes, onsets) = templates, limits, solution
    single, length = codes.ndim == 2, full.shape[2]
    # overlapping events that are solved together, doublings of that number, Newton steps for them
    together, doublings, n_steps = (64, 0, 8) if single else (32, 2, 3)
    events = _listed(codes)
    codes[:] = 0.0
    state = State(offset.copy(), np.empty_like(offset), np.empty_like(offset))
    operators.add_events(state.eta, full, *events)
    fill_state(loss, state)
    scan = _new_scan(codes, low)
    worst = 0.0
    for rounds in range(max_iter + 1):
        _renew(scan, low, state.residual, penalty, onsets)
        worst = max(_worst_event(scan.score, events, penalty), scan.largest.max() - 1.0)
        if worst <= tol or rounds == max_iter:
            break
        events = _joined(events, scan.owner, _candidates(scan, 1.0 + tol, max(1, length // 8)))
        goal = max(0.5 * tol, min(0.3, 0.1 * worst))  # what the Newton steps may leave
        accuracy = (goal, (tol if single else goal) / 4 * penalty.weight.min(), n_steps)
        most = together << min(rounds // 12, doublings)  # doubles after 12 rounds
        which, onset, amplitude = events
        begin, limit = 0, most if rounds % 2 else most // 2  # runs end elsewhere every other round
        while begin < which.size:
            end = operators.overlap_end(onset, begin, limit, length)
            run = (which[begin:end], onset[begin:end], amplitude[begin:end])
            if _worst_event(scan.score, run, penalty) > goal:
                first, last = onset[begin], onset[end - 1] + length
                part_loss, part = cut(loss, state, first, last)
                inside = (run[0], run[1] - first, run[2])
                _take_newton_steps(part_loss, part, full, penalty, inside, accuracy)
                paste(state, first, part)
                mark_stale(scan.stale, first - length + 1, last - 1)
            begin, limit = end, most
        events = _without_zeros(events)
    _write(events, codes)
    return worst, rounds


@njit(cache=True, error_model="numpy")
def _listed(codes):
    """List the events of codes ([unit,] template, onset), in order of time."""
    by_unit = _by_unit(codes)
    present = np.zeros(codes.shape[-2:], np.bool_)
    for u in range(len(by_unit)):
        present |= by_unit[u] != 0.0
    onset, which = np.nonzero(present.T)
    return which, onset, _at_events(codes, which, onset)


@njit(cache=True, error_model="numpy")
def _at_events(values, which, onset):
    """Return values ([unit,] template, onset) at events, (event, [unit])."""
    by_unit, found = _by_unit(values), np.empty((onset.size,) + values.shape[:-2])
    of_units = found.reshape(onset.size, len(by_unit))
    for j in range(onset.size):
        for u in range(len(by_unit)):
            of_units[j, u] = by_unit[u, which[j], onset[j]]
    return found


@njit(cache=True, error_model="numpy")
def _write(events, codes):
    """Write events into codes ([unit,] template, onset)."""
    which, onset, amplitude = events
    by_unit = _by_unit(codes)
    amplitudes = amplitude.reshape(onset.size, len(by_unit))
    for j in range(which.size):
        for u in range(len(by_unit)):
            by_unit[u, which[j], onset[j]] = amplitudes[j, u]


@njit(cache=True, error_model="numpy")
def _by_unit(values):
    """View values ([unit,] template, onset) with a unit axis."""
    n_templates, n_onsets = values.shape[-2:]
    return values.reshape(values.size // (n_templates * n_onsets), n_templates, n_onsets)


@njit(cache=True, error_model="numpy")
def _without_zeros(events):
    which, onset, amplitude = events
    kept = norms(amplitude) > 0.0
    return which[kept], onset[kept], amplitude[kept]


@njit(cache=True, error_model="numpy")
def _new_scan(codes, templates):
    """Return scores to be filled, in the precision of the templates."""
    n_onsets, dtype = codes.shape[-1], templates.dtype
    n_blocks = (n_onsets + BLOCK - 1) // BLOCK
    return _Scan(
        np.empty(codes.shape, dtype),
        np.empty(n_onsets, dtype),
        np.empty(n_onsets, np.int32),
        np.empty(n_blocks, dtype),
        np.ones(n_blocks, np.bool_),
    )


@njit(cache=True, error_model="numpy")
def _renew(scan, templates, residual, penalty, onsets):
    """Compute the scores, and what follows from them, in the blocks that are stale.

    No code may differ from zero where ``onsets``, if there are any, are False.
    """
    n_channels, n_onsets = templates.shape[1], scan.ratio.size
    rounded, score = residual.astype(templates.dtype), _by_unit(scan.score)
    begin, end = next_stale(scan.stale, 0)
    while begin < end:
        first, last = begin * BLOCK, min(end * BLOCK, n_onsets)
        for u in range(len(score)):
            rows = rounded[u * n_channels : (u + 1) * n_channels]
            operators.fill_scores(templates, rows, first, last, score[u])
        _rate(scan.score, penalty, first, last, scan.ratio, scan.owner)
        if onsets.size:
            scan.ratio[first:last] *= onsets[first:last]
        for block in range(begin, end):
            scan.largest[block] = scan.ratio[block * BLOCK : (block + 1) * BLOCK].max()
        begin, end = next_stale(scan.stale, end)


@njit(cache=True, error_model="numpy")
def next_stale(stale, block):
    """Return begin and end of the next stale blocks, and mark them as renewed."""
    while block < stale.size and not stale[block]:
        block += 1
    begin = block
    while block < stale.size and stale[block]:
        stale[block] = False
        block += 1
    return begin, block


@njit(cache=True, error_model="numpy")
def mark_stale(stale, first, last):
    """Mark the blocks that hold the onsets from ``first`` to ``last``."""
    stale[max(first, 0) // BLOCK : min(last // BLOCK, stale.size - 1) + 1] = True


@njit(cache=True, error_model="numpy", fastmath=True)
def _rate(score, penalty, first, last, ratio, owner):
    """Fill in the largest score over templates, relative to the weight, and whose it is."""
    largest, best = ratio[first:last], owner[first:last]
    weight, up, down = penalty
    total = np.empty(largest.size, largest.dtype)
    for c in range(weight.size):
        if score.ndim == 2:
            rise, fall = 1.0 / weight[c] if up[c] else 0.0, -1.0 / weight[c] if down[c] else 0.0
            here = score[c, first:last]
            for p in range(here.size):
                own = max(here[p] * rise, here[p] * fall)
                if c == 0 or own > largest[p]:
                    largest[p], best[p] = own, c
        else:
            total[:] = 0
            for u in range(score.shape[0]):
                _add_squares(total, score[u, c, first:last], up[c], down[c])
            for p in range(total.size):
                own = np.sqrt(total[p]) / weight[c]
                if c == 0 or own > largest[p]:
                    largest[p], best[p] = own, c


@njit(cache=True, error_model="numpy", fastmath=True)
def _add_squares(total, score, up, down):
    for p in range(score.size):
        own = score[p] if up else max(-score[p], 0)
        own = own if down else max(own, 0)
        total[p] += own * own


@njit(cache=True, error_model="numpy")
def _candidates(scan, least, reach):
    """Onsets, in order, whose ratio exceeds ``least`` and is the largest within reach."""
    ratio = scan.ratio
    found = np.empty(ratio.size // (reach + 1) + 1, np.int64)
    count = p = 0
    while p < ratio.size:
        if scan.largest[p // BLOCK] <= least:
            p = (p // BLOCK + 1) * BLOCK
            continue
        if ratio[p] > least and ratio[p] >= ratio[max(p - reach, 0) : p + reach + 1].max():
            found[count] = p
            count += 1
            p += reach
        p += 1
    return found[:count]


@njit(cache=True, error_model="numpy")
def _joined(events, owner, new):
    """Merge events of amplitude zero at the onsets ``new`` into the events, in order of time."""
    which, onset, amplitude = events
    size = which.size + new.size
    all_which, all_onset = np.empty(size, np.int64), np.empty(size, np.int64)
    all_amplitude = np.zeros((size,) + amplitude.shape[1:])
    j = count = 0
    for i in range(new.size + 1):
        p = new[i] if i < new.size else owner.size  # after the last onset
        present = i == new.size
        while j < which.size and onset[j] <= p:
            present = present or (onset[j] == p and which[j] == owner[p])
            all_which[count], all_onset[count] = which[j], onset[j]
            all_amplitude[count] = amplitude[j]
            j, count = j + 1, count + 1
        if not present:
            all_which[count], all_onset[count] = owner[p], p
            count += 1
    return all_which[:count], all_onset[:count], all_amplitude[:count]


@njit(cache=True, error_model="numpy")
def _worst_event(score, events, penalty):
    """Largest violation of the events present, from the scores ([unit,] template, onset)."""
    which, onset, amplitude = events
    return _worst(_at_events(score, which, onset), amplitude, weights_of(penalty, which))


@njit(cache=True, error_model="numpy")
def _worst(score, amplitude, penalty):
    """Largest violation of the optimality conditions of events, relative to their weight."""
    worst, norm = 0.0, norms(amplitude)
    if norm.size == 0:
        return worst
    shape = (norm.size, score.size // norm.size)
    scores, amplitudes = score.reshape(shape), amplitude.reshape(shape)
    for j in range(norm.size):
        square, weight = 0.0, penalty.weight[j]
        for u in range(shape[1]):
            if amplitudes[j, u] != 0.0:
                square += (scores[j, u] - weight * (amplitudes[j, u] / norm[j])) ** 2
            else:
                square += allowed(scores[j, u], penalty.up[j], penalty.down[j]) ** 2
        wrong = np.sqrt(square) / weight
        worst = max(worst, wrong if norm[j] > 0.0 else wrong - 1.0)
    return worst


@njit(cache=True, error_model="numpy")
def _take_newton_steps(loss, state, templates, penalty, events, accuracy):
    """Take Newton steps of overlapping events until none violates its conditions by the goal.

    ``accuracy`` holds the goal, the tolerance of the quadratic programs and the largest number of
    steps.
    """
    (which, onset, amplitude), (goal, tol, n_steps) = events, accuracy
    own, score = weights_of(penalty, which), np.empty_like(amplitude)
    for _ in range(n_steps):
        operators.scores_of_events(templates, state.residual, which, onset, score)
        if _worst(score, amplitude, own) <= goal:
            break
        gram = operators.banded_gram(templates, state.curvature, *events)
        gram[:, 0] *= 1 + 1e-9
        move, change = minimize(gram, score, own, amplitude, tol)
        if not move.any():
            break
        take_step(loss, state, templates, events, move, change)
