"""Sparse coding of single windows on the CPU: a working set of events and Newton steps.

Every family's cost is one of three scalar losses of the linear predictor, with two numbers a and b
per bin (both zero where nothing was observed; see `spikecdl.model.families.ScalarLoss`).

A window is solved in rounds.  Places whose score is highest above the weight join the events;
events that overlap form groups, and each group in which something is wrong takes Newton steps, in
the bins that it covers; scores are renewed where the residual has changed.  So the cost of a round
is that of what changes, and windows may be long.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl.model.families import ScalarLoss
from spikecdl.solvers.losses import LOSSES, QUADRATIC, slopes
from spikecdl.solvers.quadratic import minimize
from spikecdl.solvers.threads import in_parallel

COSTLY = 10  # times more work than a look at each number, at the least
ROUGH = 1e-3  # tolerances for which scores in single precision do
BLOCK = 64  # places whose scores are renewed together
_MOST = 64  # events of a group; what overlaps beyond is solved in turns
_NEWTON_STEPS = 8  # of a group, before scores are looked at again
GAIN = 0.1  # share of the violation of a round that its Newton steps leave
_SECANTS = 8  # of a line search
_FAR = 4.0  # most that a Newton step changes the linear predictor of a bin


def solve(
    solve_windows: Callable[..., None],
    loss: ScalarLoss,
    offset: Tensor,
    templates: Tensor,
    weight: Tensor,
    up: Tensor,
    down: Tensor,
    start: Tensor,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Tensor, int]:
    """Solve windows, some in each thread.

    Parameters
    ----------
    solve_windows : callable
        The compiled solver of the penalty: `solve_windows` here for l1, whose windows have no unit
        axis, that of `spikecdl.solvers.group` for l2 norms over units.
    loss : ScalarLoss
        With a and b of shape (window, [unit,] channel, bin), zero where nothing was observed.
    offset : tensor, shape (window, [unit,] channel, bin)
        Linear predictor without events, less the loss' shift.
    templates : tensor, shape (template, channel, bin)
    weight : tensor, shape (window, template)
        Of the penalty; positive.
    up, down : tensor of bool, shape (template,)
        Signs that codes may take.
    start : tensor, shape (window, [unit,] template, place)
        Codes to start from.
    tol : float
        Violation of the optimality conditions, relative to the weight, that is accepted.
    max_iter : int
        Rounds at the most.

    Returns
    -------
    codes : tensor, shape of ``start``
    violation : tensor, shape (window,)
    n_iter : int
        Rounds of the slowest window.
    """
    a, b, eta, weights, codes = (as_array(t) for t in (loss.a, loss.b, offset, weight, start))
    waves = as_array(templates)
    low = waves.astype(np.float32 if tol >= ROUGH else np.float64)
    model = (waves, low, up.numpy(), down.numpy())
    violation, rounds = np.zeros(len(a)), np.zeros(len(a), dtype=np.int64)

    def work(part: slice) -> None:
        solve_windows(
            *(LOSSES[loss.kind], a[part], b[part], eta[part], *model, weights[part]),
            *(tol, max_iter, codes[part], violation[part], rounds[part]),
        )

    in_parallel(work, len(a), a.size * len(waves) * COSTLY)
    solution = torch.from_numpy(codes).to(start.dtype)
    certificate = torch.from_numpy(violation).to(start.dtype)
    return solution, certificate, int(rounds.max(initial=0))


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a copy in double precision."""
    return np.array(tensor.numpy(), dtype=np.float64, order="C")


@njit(cache=True, error_model="numpy", fastmath=True)
def _dot(left, right):
    total = 0.0
    for k in range(left.size):
        total += left[k] * right[k]
    return total


@njit(cache=True, error_model="numpy", fastmath=True)
def _move(signal, step, towards):
    for t in range(signal.size):
        signal[t] += step * towards[t]


@njit(cache=True, error_model="numpy")
def product(template, signal, start):
    """Inner product of a template (channel, bin) with the signal from a place on."""
    total = 0.0
    for n in range(template.shape[0]):
        total += _dot(template[n], signal[n, start : start + template.shape[1]])
    return total


@njit(cache=True, error_model="numpy", fastmath=True)
def _eight_taps(out, wave, r0, r1, r2, r3, r4, r5, r6, r7):
    h0, h1, h2, h3 = wave[0], wave[1], wave[2], wave[3]
    h4, h5, h6, h7 = wave[4], wave[5], wave[6], wave[7]
    for p in range(out.size):
        one = (h0 * r0[p] + h1 * r1[p]) + (h2 * r2[p] + h3 * r3[p])
        out[p] += one + ((h4 * r4[p] + h5 * r5[p]) + (h6 * r6[p] + h7 * r7[p]))


@njit(cache=True, error_model="numpy", fastmath=True)
def scores(templates, residual, first, last, score):
    """Fill in the scores of the places from ``first`` up to ``last``, eight taps at a time."""
    length = templates.shape[2]
    size = last - first
    whole = length - length % 8
    for c in range(templates.shape[0]):
        out = score[c, first:last]
        out[:] = 0
        for n in range(templates.shape[1]):
            wave, signal = templates[c, n], residual[n, first:]
            for k in range(0, whole, 8):
                _eight_taps(
                    out,
                    wave[k : k + 8],
                    signal[k : k + size],
                    signal[k + 1 : k + 1 + size],
                    signal[k + 2 : k + 2 + size],
                    signal[k + 3 : k + 3 + size],
                    signal[k + 4 : k + 4 + size],
                    signal[k + 5 : k + 5 + size],
                    signal[k + 6 : k + 6 + size],
                    signal[k + 7 : k + 7 + size],
                )
            for k in range(whole, length):
                _move(out, wave[k], signal[k : k + size])


@njit(cache=True, error_model="numpy", fastmath=True)
def _heights(score, weight, up, down, first, last, height, owner):
    """Fill in the largest score over templates, relative to the weight, and whose it is."""
    top, best = height[first:last], owner[first:last]
    for c in range(score.shape[0]):
        rise, fall = 1.0 / weight[c] if up[c] else 0.0, -1.0 / weight[c] if down[c] else 0.0
        here = score[c, first:last]
        for p in range(here.size):
            own = max(here[p] * rise, here[p] * fall)
            if c == 0 or own > top[p]:
                top[p], best[p] = own, c


@njit(cache=True, error_model="numpy")
def _renew(low, residual, weight, up, down, stale, score, height, owner, top):
    """Compute scores and heights in the blocks of places that are stale."""
    rounded = residual.astype(low.dtype)
    begun, ended = next_stale(stale, 0)
    while begun < ended:
        first, last = begun * BLOCK, min(ended * BLOCK, score.shape[1])
        scores(low, rounded, first, last, score)
        _heights(score, weight, up, down, first, last, height, owner)
        note_tops(height, begun, ended, top)
        begun, ended = next_stale(stale, ended)


@njit(cache=True, error_model="numpy")
def next_stale(stale, block):
    """Return where the next blocks that are stale begin and end, and take them for renewed."""
    while block < stale.size and not stale[block]:
        block += 1
    begun = block
    while block < stale.size and stale[block]:
        stale[block] = False
        block += 1
    return begun, block


@njit(cache=True, error_model="numpy")
def note_tops(height, begun, ended, top):
    """Fill in the largest height of each of some blocks."""
    for block in range(begun, ended):
        top[block] = height[block * BLOCK : (block + 1) * BLOCK].max()


@njit(cache=True, error_model="numpy")
def mark(stale, first, last):
    """Mark the blocks that hold the places from ``first`` to ``last``."""
    stale[max(first, 0) // BLOCK : min(last // BLOCK, stale.size - 1) + 1] = True


@njit(cache=True, error_model="numpy")
def add_events(signal, templates, which, place, amplitude):
    """Add events to a signal (channel, bin)."""
    length = templates.shape[2]
    for j in range(which.size):
        if amplitude[j] != 0.0:
            for n in range(signal.shape[0]):
                part = signal[n, place[j] : place[j] + length]
                _move(part, amplitude[j], templates[which[j], n])


@njit(cache=True, error_model="numpy", fastmath=True)
def _weighted(wave, curvature, out):
    for k in range(wave.size):
        out[k] = wave[k] * curvature[k]


@njit(cache=True, error_model="numpy")
def banded_gram(templates, curvature, which, place, gram):
    """Fill in the banded matrix of weighted inner products; row j meets its predecessors."""
    length = templates.shape[2]
    weighted = np.empty(length)
    gram[:] = 0.0
    for j in range(which.size):
        for n in range(templates.shape[1]):
            _weighted(templates[which[j], n], curvature[n, place[j] : place[j] + length], weighted)
            for back in range(min(gram.shape[1], j + 1)):
                lag = place[j] - place[j - back]
                if lag < length:
                    wave = templates[which[j - back], n]
                    gram[j, back] += _dot(weighted[: length - lag], wave[lag:])


@njit(cache=True, error_model="numpy")
def overlap(place, length):
    """Most events, itself included, that one event overlaps with going back in time."""
    widest, first = 1, 0
    for j in range(place.size):
        while place[j] - place[first] >= length:
            first += 1
        widest = max(widest, j - first + 1)
    return widest


@njit(cache=True, error_model="numpy")
def _wrong(score, amplitude, weight, up, down):
    """Violation of the optimality condition of one code, relative to the weight."""
    if amplitude > 0.0:
        return abs(score - weight) / weight
    if amplitude < 0.0:
        return abs(score + weight) / weight
    above = max(score if up else 0.0, -score if down else 0.0)
    return max(above / weight - 1.0, 0.0)


@njit(cache=True, error_model="numpy")
def line_search(loss, a, b, eta, towards, price, residual, curvature):
    """Step at which the loss plus ``price`` per step stops falling, by secants on its slope.

    On return ``eta`` has moved, and residual and curvature belong to it.
    """
    low, high = 0.0, 1.0
    slope_low, farthest = price, 0.0
    for n in range(eta.shape[0]):
        slope_low -= _dot(residual[n], towards[n])
        if loss != QUADRATIC:  # whose Newton step is exact
            farthest = max(farthest, np.abs(towards[n]).max())
    position, step = 0.0, min(1.0, _FAR / max(farthest, 1e-300))
    for trial in range(_SECANTS):
        slope = price
        for n in range(eta.shape[0]):
            _move(eta[n], step - position, towards[n])
            slopes(loss, a[n], b[n], eta[n], residual[n], curvature[n])
            slope -= _dot(residual[n], towards[n])
        position = step
        short = slope <= 0.1 * abs(slope_low) and step * farthest <= 1
        if slope <= 0 or short or trial == _SECANTS - 1:
            break
        high, slope_high = step, slope
        step = low + (high - low) * max(0.05, min(0.9, -slope_low / (slope_high - slope_low)))
    return position


@njit(cache=True, error_model="numpy")
def _newton(loss, a, b, eta, residual, curvature, templates, weight, up, down, events, goal, tol):
    """Newton steps on a group of events, until none violates its condition by more than goal.

    ``eta``, residual and curvature of the bins that the group covers follow.  Returns whether any
    code has changed.
    """
    which, place, amplitude = events
    count = which.size
    gram = np.empty((count, overlap(place, templates.shape[2])))
    slope, move = np.empty(count), np.empty(count)
    towards = np.empty_like(eta)
    changed = False
    for _ in range(_NEWTON_STEPS):
        worst = 0.0
        for j in range(count):
            c = which[j]
            slope[j] = product(templates[c], residual, place[j])
            worst = max(worst, _wrong(slope[j], amplitude[j], weight[c], up[c], down[c]))
        if worst <= goal:
            break
        banded_gram(templates, curvature, which, place, gram)
        gram[:, 0] *= 1 + 1e-9
        small = tol / 4 * weight.min()
        price = minimize(gram, slope, which, weight, up, down, amplitude, move, small)
        if not move.any():
            break
        towards[:] = 0.0
        add_events(towards, templates, which, place, move)
        step = line_search(loss, a, b, eta, towards, price, residual, curvature)
        changed = True
        for j in range(count):
            if step == 1.0 and amplitude[j] + move[j] == 0.0:
                amplitude[j] = 0.0
            else:
                amplitude[j] += step * move[j]
    return changed


@njit(cache=True, error_model="numpy")
def candidates(height, top, least, reach):
    """Places where the height is above ``least`` and the largest within reach, in order."""
    found = np.empty(height.size // (reach + 1) + 1, np.int64)
    count = 0
    p = 0
    while p < height.size:
        if top[p // BLOCK] <= least:
            p = (p // BLOCK + 1) * BLOCK
            continue
        if height[p] > least:
            around = height[max(p - reach, 0) : p + reach + 1]
            if height[p] >= around.max():
                found[count] = p
                count += 1
                p += reach
        p += 1
    return found[:count]


@njit(cache=True, error_model="numpy")
def joined(which, place, amplitude, owner, new):
    """Merge the places that join, with amplitude zero, into the events; both are in order.

    An amplitude is a number or a row of numbers.
    """
    size = which.size + new.size
    all_which, all_place = np.empty(size, np.int64), np.empty(size, np.int64)
    all_amplitude = np.zeros((size,) + amplitude.shape[1:])
    j, count = 0, 0
    for p in new:
        c = owner[p]
        there = False
        while j < which.size and place[j] <= p:
            there = there or (place[j] == p and which[j] == c)
            all_which[count], all_place[count] = which[j], place[j]
            all_amplitude[count] = amplitude[j]
            j, count = j + 1, count + 1
        if not there:
            all_which[count], all_place[count] = c, p
            count += 1
    rest = which.size - j
    all_which[count : count + rest], all_place[count : count + rest] = which[j:], place[j:]
    all_amplitude[count : count + rest] = amplitude[j:]
    count += rest
    return all_which[:count], all_place[:count], all_amplitude[:count]


@njit(cache=True, error_model="numpy")
def group_end(place, begin, most, length):
    """Return where the events that overlap, from one on and at most so many, end."""
    end = begin + 1
    while end < place.size and end - begin < most and place[end] - place[end - 1] < length:
        end += 1
    return end


@njit(cache=True, error_model="numpy")
def _solve(loss, a, b, offset, templates, low, weight, up, down, tol, max_iter, events):
    """Solve one window from the events given; return the events, the violation and rounds.

    ``low`` are the templates in the precision of scores where no event is.
    """
    which, place, amplitude = events
    length, n_places = templates.shape[2], a.shape[1] - templates.shape[2] + 1
    reach = max(1, length // 8)
    eta = offset.copy()
    residual, curvature = np.empty_like(eta), np.empty_like(eta)
    score = np.empty((templates.shape[0], n_places), low.dtype)
    height, owner = np.empty(n_places, low.dtype), np.empty(n_places, np.int32)
    stale = np.ones((n_places + BLOCK - 1) // BLOCK, np.bool_)
    top = np.empty(stale.size, low.dtype)
    add_events(eta, templates, which, place, amplitude)
    for n in range(eta.shape[0]):
        slopes(loss, a[n], b[n], eta[n], residual[n], curvature[n])
    worst = 0.0
    for rounds in range(max_iter + 1):
        _renew(low, residual, weight, up, down, stale, score, height, owner, top)
        worst = max(top.max() - 1.0, 0.0)
        for j in range(which.size):
            c = which[j]
            worst = max(worst, _wrong(score[c, place[j]], amplitude[j], weight[c], up[c], down[c]))
        if worst <= tol or rounds == max_iter:
            break
        which, place, amplitude = joined(
            which, place, amplitude, owner, candidates(height, top, 1.0 + tol, reach)
        )
        goal = max(0.5 * tol, min(0.3, GAIN * worst))
        begin, most = 0, _MOST if rounds % 2 else _MOST // 2
        while begin < which.size:
            end = group_end(place, begin, most, length)
            first, last = place[begin], place[end - 1] + length
            group = (which[begin:end], place[begin:end] - first, amplitude[begin:end])
            # copies lie in one piece, which compiled loops need to be fast
            here = eta[:, first:last].copy()
            slope, bend = residual[:, first:last].copy(), curvature[:, first:last].copy()
            part = (loss, a[:, first:last].copy(), b[:, first:last].copy(), here, slope, bend)
            if _newton(*part, templates, weight, up, down, group, goal, tol):
                eta[:, first:last] = here
                residual[:, first:last], curvature[:, first:last] = slope, bend
                mark(stale, first - length + 1, last - 1)
            begin, most = end, _MOST
        kept = amplitude != 0.0
        which, place, amplitude = which[kept], place[kept], amplitude[kept]
    return which, place, amplitude, worst, rounds


@njit(cache=True, error_model="numpy", nogil=True)
def solve_windows(
    loss, a, b, offset, templates, low, up, down, weight, tol, max_iter, codes, violation, rounds
):
    """Solve every window, from ``codes`` and into them."""
    for i in range(a.shape[0]):
        place, which = np.nonzero(codes[i].T)
        amplitude = np.empty(place.size)
        for j in range(place.size):
            amplitude[j] = codes[i, which[j], place[j]]
        codes[i] = 0.0
        window = (loss, a[i], b[i], offset[i])
        which, place, amplitude, violation[i], rounds[i] = _solve(
            *window, templates, low, weight[i], up, down, tol, max_iter, (which, place, amplitude)
        )
        for j in range(which.size):
            codes[i, which[j], place[j]] = amplitude[j]
