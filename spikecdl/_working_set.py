"""Sparse coding of single windows on the CPU: a working set of events and Newton steps.

Every family's cost is one of three scalar losses of the linear predictor, with two numbers a and b
per bin (both zero where nothing was observed; see `spikecdl.families.ScalarLoss`).
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl._losses import LOSSES, QUADRATIC, slopes
from spikecdl.families import ScalarLoss
from spikecdl.parallel import in_parallel

_ROUGH = 1e-3  # tolerances for which scores in single precision do
_BLOCK = 64  # places whose scores are renewed together
_ROOM = 4096  # events per window at the most
_NEWTON_STEPS = 3  # on a working set, before it is looked at again
_SWEEPS = 60  # of coordinate descent on a Newton step's quadratic model
_SECANTS = 8  # of a line search
_FAR = 4.0  # most that a Newton step changes the linear predictor of a bin


def solve(
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
    loss : ScalarLoss
        With a and b of shape (window, channel, bin), zero where nothing was observed.
    offset : tensor, shape (window, channel, bin)
        Linear predictor without events, less the loss' shift.
    templates : tensor, shape (template, channel, bin)
    weight : tensor, shape (window, template)
        Of the l1 penalty; positive.
    up, down : tensor of bool, shape (template,)
        Signs that codes may take.
    start : tensor, shape (window, template, place)
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
    windows = [_array(t) for t in (loss.a, loss.b, offset, weight, start)]
    a, b, eta, weights, codes = windows
    waves = _array(templates)
    low = waves.astype(np.float32 if tol >= _ROUGH else np.float64)
    model = (waves, low, up.numpy(), down.numpy())
    violation, rounds = np.zeros(len(a)), np.zeros(len(a), dtype=np.int64)
    room = min(int(codes[:1].size), _ROOM)

    def work(part: slice) -> None:
        _solve_windows(
            *(LOSSES[loss.kind], a[part], b[part], eta[part], *model, weights[part]),
            *(tol, max_iter, room, codes[part], violation[part], rounds[part]),
        )

    in_parallel(work, len(a))
    solution = torch.from_numpy(codes).to(start.dtype)
    certificate = torch.from_numpy(violation).to(start.dtype)
    return solution, certificate, int(rounds.max(initial=0))


def _array(tensor: Tensor) -> np.ndarray:
    """Return a copy in double precision."""
    return np.array(tensor.numpy(), dtype=np.float64, order="C")


@njit(cache=True, error_model="numpy")
def _slopes(loss, a, b, eta, residual, curvature):
    """Fill in the residual (minus the loss' derivative) and the curvature of every bin."""
    for n in range(eta.shape[0]):
        for t in range(eta.shape[1]):
            residual[n, t], curvature[n, t] = slopes(loss, a[n, t], b[n, t], eta[n, t])


@njit(cache=True, error_model="numpy", fastmath=True)
def _product(template, signal, start):
    """Inner product of a template (channel, bin) with the signal from a place on."""
    total = 0.0
    for n in range(template.shape[0]):
        wave = template[n]
        part = signal[n, start : start + wave.size]
        for k in range(wave.size):
            total += wave[k] * part[k]
    return total


@njit(cache=True, error_model="numpy", fastmath=True)
def _scores(templates, residual, first, last, score):
    """Fill in the scores of the places from ``first`` up to ``last``, four taps at a time."""
    length = templates.shape[2]
    size = last - first
    for c in range(templates.shape[0]):
        out = score[c, first:last]
        out[:] = 0
        for n in range(templates.shape[1]):
            wave, signal = templates[c, n], residual[n, first:]
            for k in range(0, length - 3, 4):
                h0, h1, h2, h3 = wave[k], wave[k + 1], wave[k + 2], wave[k + 3]
                r0, r1 = signal[k : k + size], signal[k + 1 : k + 1 + size]
                r2, r3 = signal[k + 2 : k + 2 + size], signal[k + 3 : k + 3 + size]
                for p in range(size):
                    out[p] += (h0 * r0[p] + h1 * r1[p]) + (h2 * r2[p] + h3 * r3[p])
            for k in range(length - length % 4, length):
                h0, r0 = wave[k], signal[k : k + size]
                for p in range(size):
                    out[p] += h0 * r0[p]


@njit(cache=True, error_model="numpy")
def _renew(templates, residual, stale, score):
    """Compute the scores of the blocks of places that are stale."""
    n_places = score.shape[1]
    block = 0
    while block < stale.size:
        if not stale[block]:
            block += 1
            continue
        start = block
        while block < stale.size and stale[block]:
            stale[block] = False
            block += 1
        _scores(templates, residual, start * _BLOCK, min(block * _BLOCK, n_places), score)


@njit(cache=True, error_model="numpy")
def _mark(stale, place, move, count, length):
    """Mark the blocks of places whose scores the moves of events change."""
    for j in range(count):
        if move[j] != 0.0:
            first = max(place[j] - length + 1, 0) // _BLOCK
            last = min((place[j] + length - 1) // _BLOCK, stale.size - 1)
            for block in range(first, last + 1):
                stale[block] = True


@njit(cache=True, error_model="numpy", fastmath=True)
def _add(signal, templates, which, place, amplitude, count):
    """Add events to a signal (channel, bin)."""
    length = templates.shape[2]
    for j in range(count):
        if amplitude[j] != 0.0:
            for n in range(signal.shape[0]):
                wave = templates[which[j], n]
                part = signal[n, place[j] : place[j] + length]
                for k in range(length):
                    part[k] += amplitude[j] * wave[k]


@njit(cache=True, error_model="numpy", fastmath=True)
def _gram(templates, curvature, which, place, count, gram):
    """Fill in the banded matrix of weighted inner products; row j meets its predecessors."""
    length, n_channels = templates.shape[2], templates.shape[1]
    for j in range(count):
        for back in range(gram.shape[1]):
            i = j - back
            gram[j, back] = 0.0
            if i < 0 or place[j] - place[i] >= length:
                continue
            lag = place[j] - place[i]
            total = 0.0
            for n in range(n_channels):
                left, right = templates[which[i], n], templates[which[j], n]
                weight = curvature[n, place[j] : place[j] + length]
                for k in range(length - lag):
                    total += weight[k] * left[k + lag] * right[k]
            gram[j, back] = total


@njit(cache=True, error_model="numpy")
def _shrink(value, weight, up, down):
    """Soft threshold that leaves only the allowed signs."""
    if value > weight and up:
        return value - weight
    if value < -weight and down:
        return value + weight
    return 0.0


@njit(cache=True, error_model="numpy", fastmath=True)
def _quadratic(gram, linear, which, weight, up, down, amplitude, count, tol):
    """Minimise the quadratic model with its l1 term, by coordinate descent from ``amplitude``."""
    band = gram.shape[1]
    pull = np.empty(count)  # gram @ amplitude, kept up to date
    for j in range(count):
        pull[j] = 0.0
    for j in range(count):
        for back in range(min(band, j + 1)):
            pull[j] += gram[j, back] * amplitude[j - back]
            if back > 0:
                pull[j - back] += gram[j, back] * amplitude[j]
    for _ in range(_SWEEPS):
        largest = 0.0
        for j in range(count):
            own = gram[j, 0]
            if own <= 0.0:
                continue
            c = which[j]
            best = (
                _shrink(linear[j] - pull[j] + own * amplitude[j], weight[c], up[c], down[c]) / own
            )
            change = best - amplitude[j]
            if change != 0.0:
                largest = max(largest, abs(change) * own / weight[c])
                amplitude[j] = best
                for back in range(min(band, j + 1)):
                    pull[j - back] += gram[j, back] * change
                for i in range(j + 1, min(j + band, count)):
                    pull[i] += gram[i, i - j] * change
        if largest < tol:
            break


@njit(cache=True, error_model="numpy")
def _step_length(loss, a, b, eta, towards, price, residual, curvature):
    """Step at which the loss plus ``price`` per step stops falling, by secants on its slope.

    On return ``eta`` has moved, and residual and curvature belong to it.
    """
    low, high = 0.0, 1.0
    slope_low = price
    for n in range(eta.shape[0]):
        for t in range(eta.shape[1]):
            slope_low -= residual[n, t] * towards[n, t]
    farthest = 0.0
    if loss != QUADRATIC:  # whose Newton step is exact
        farthest = np.abs(towards).max()
    position, step = 0.0, min(1.0, _FAR / max(farthest, 1e-300))
    for trial in range(_SECANTS):
        for n in range(eta.shape[0]):
            for t in range(eta.shape[1]):
                eta[n, t] += (step - position) * towards[n, t]
        position = step
        _slopes(loss, a, b, eta, residual, curvature)
        slope = price
        for n in range(eta.shape[0]):
            for t in range(eta.shape[1]):
                slope -= residual[n, t] * towards[n, t]
        short = slope <= 0.1 * abs(slope_low) and step * farthest <= 1
        if slope <= 0 or short or trial == _SECANTS - 1:
            return step
        high, slope_high = step, slope
        step = low + (high - low) * max(0.05, min(0.9, -slope_low / (slope_high - slope_low)))
    return step


@njit(cache=True, error_model="numpy")
def _insert(which, place, amplitude, count, c, p):
    """Put an event of amplitude zero in its place in time; return the new number of events."""
    j = count
    while j > 0 and (place[j - 1] > p or (place[j - 1] == p and which[j - 1] > c)):
        which[j], place[j], amplitude[j] = which[j - 1], place[j - 1], amplitude[j - 1]
        j -= 1
    which[j], place[j], amplitude[j] = c, p, 0.0
    return count + 1


@njit(cache=True, error_model="numpy")
def _keep_nonzero(which, place, amplitude, count):
    kept = 0
    for j in range(count):
        if amplitude[j] != 0.0:
            which[kept], place[kept], amplitude[kept] = which[j], place[j], amplitude[j]
            kept += 1
    return kept


@njit(cache=True, error_model="numpy")
def _band(place, count, length):
    """Most events, itself included, that one event overlaps with going back in time."""
    widest, first = 1, 0
    for j in range(count):
        while place[j] - place[first] >= length:
            first += 1
        widest = max(widest, j - first + 1)
    return widest


@njit(cache=True, error_model="numpy")
def _newton(
    loss, a, b, eta, residual, curvature, templates, weight, up, down, events, count, tol, stale
):
    """Newton steps on the working set; ``eta`` follows."""
    which, place, amplitude = events
    gram = np.empty((count, _band(place, count, templates.shape[2])))
    linear, before = np.empty(count), np.empty(count)
    towards = np.empty_like(eta)
    for _ in range(_NEWTON_STEPS):
        _gram(templates, curvature, which, place, count, gram)
        for j in range(count):
            before[j] = amplitude[j]
            gram[j, 0] *= 1 + 1e-7
            linear[j] = _product(templates[which[j]], residual, place[j])
        for j in range(count):
            for back in range(min(gram.shape[1], j + 1)):
                linear[j] += gram[j, back] * before[j - back]
                if back > 0:
                    linear[j - back] += gram[j, back] * before[j]
        _quadratic(gram, linear, which, weight, up, down, amplitude, count, tol / 4)
        price, largest = 0.0, 0.0
        for j in range(count):
            move = amplitude[j] - before[j]
            price += weight[which[j]] * (abs(amplitude[j]) - abs(before[j]))
            largest = max(largest, abs(move) * gram[j, 0] / weight[which[j]])
            before[j] = move
        if largest == 0.0:
            return
        towards[:] = 0.0
        _add(towards, templates, which, place, before, count)
        step = _step_length(loss, a, b, eta, towards, price, residual, curvature)
        _mark(stale, place, before, count, templates.shape[2])
        if step < 1.0:
            for j in range(count):
                amplitude[j] += (step - 1) * before[j]
        if largest < tol / 2:
            return


@njit(cache=True, error_model="numpy")
def _violation(score, weight, up, down, events, count, above):
    """Largest violation of the optimality conditions, relative to the weight.

    Fills in how far ``above`` their weight the scores of places without an event are.
    """
    which, place, amplitude = events
    worst = 0.0
    for j in range(count):
        c, p = which[j], place[j]
        if amplitude[j] != 0.0:
            sign = 1.0 if amplitude[j] > 0 else -1.0
            worst = max(worst, abs(score[c, p] - sign * weight[c]) / weight[c])
    for c in range(score.shape[0]):
        rise, fall = 1.0 / weight[c] if up[c] else 0.0, -1.0 / weight[c] if down[c] else 0.0
        for p in range(score.shape[1]):
            above[c, p] = max(score[c, p] * rise, score[c, p] * fall) - 1.0
    for j in range(count):
        above[which[j], place[j]] = 0.0
    return max(worst, above.max())


@njit(cache=True, error_model="numpy")
def _grow(above, tol, reach, events, count):
    """Add the places where ``above`` is largest within reach; -1 if there is no room."""
    which, place, amplitude = events
    for c in range(above.shape[0]):
        p = 0
        while p < above.shape[1]:
            value = above[c, p]
            if value > tol:
                first, last = max(p - reach, 0), min(p + reach + 1, above.shape[1])
                top = True
                for q in range(first, last):
                    if above[c, q] > value or (above[c, q] == value and q < p):
                        top = False
                        break
                if top:
                    if count == which.size:
                        return -1
                    count = _insert(which, place, amplitude, count, c, p)
            p += 1
    return count


@njit(cache=True, error_model="numpy")
def _solve(loss, a, b, offset, templates, low, weight, up, down, tol, max_iter, events, count):
    """Solve one window from the events given; return their number, the violation and rounds.

    ``low`` are the templates in the precision of scores where no event is.
    """
    which, place, amplitude = events
    n_places = a.shape[1] - templates.shape[2] + 1
    reach = max(1, templates.shape[2] // 8)
    eta = offset.copy()
    residual, curvature = np.empty_like(eta), np.empty_like(eta)
    score = np.empty((templates.shape[0], n_places), low.dtype)
    above = np.empty((templates.shape[0], n_places))
    stale = np.ones((n_places + _BLOCK - 1) // _BLOCK, np.bool_)
    _add(eta, templates, which, place, amplitude, count)
    _slopes(loss, a, b, eta, residual, curvature)
    worst = 0.0
    for rounds in range(max_iter + 1):
        _renew(low, residual.astype(low.dtype), stale, score)
        worst = _violation(score, weight, up, down, events, count, above)
        if worst <= tol or rounds == max_iter:
            return count, worst, rounds
        grown = _grow(above, tol, reach, events, count)
        if grown < 0:
            return count, worst, rounds
        count = grown
        work = (loss, a, b, eta, residual, curvature, templates, weight, up, down)
        _newton(*work, events, count, tol, stale)
        count = _keep_nonzero(which, place, amplitude, count)
    return count, worst, max_iter


@njit(cache=True, error_model="numpy", nogil=True)
def _solve_windows(
    loss,
    a,
    b,
    offset,
    templates,
    low,
    up,
    down,
    weight,
    tol,
    max_iter,
    room,
    codes,
    violation,
    rounds,
):
    """Solve every window, from ``codes`` and into them."""
    for i in range(a.shape[0]):
        which, place = np.empty(room, np.int64), np.empty(room, np.int64)
        amplitude = np.empty(room)
        count = 0
        for p in range(codes.shape[2]):
            for c in range(codes.shape[1]):
                if codes[i, c, p] != 0.0:
                    if count < room:
                        which[count], place[count], amplitude[count] = c, p, codes[i, c, p]
                        count += 1
                    codes[i, c, p] = 0.0
        count, violation[i], rounds[i] = _solve(
            loss,
            a[i],
            b[i],
            offset[i],
            templates,
            low,
            weight[i],
            up,
            down,
            tol,
            max_iter,
            (which, place, amplitude),
            count,
        )
        for j in range(count):
            codes[i, which[j], place[j]] = amplitude[j]
