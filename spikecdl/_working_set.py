"""Sparse coding of single windows on the CPU: a working set of events and Newton steps.

Every family's cost is one of three scalar losses of the linear predictor, with two numbers a and b
per bin (both zero where nothing was observed; see `spikecdl.families.ScalarLoss`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl.families import ScalarLoss
from spikecdl.parallel import in_parallel

LOSSES = {"quadratic": 0, "logistic": 1, "exponential": 2}
QUADRATIC, LOGISTIC = LOSSES["quadratic"], LOSSES["logistic"]

_ROOM = 4096  # events per window at the most
_NEWTON_STEPS = 3  # on a working set, before it is looked at again
_SWEEPS = 60  # of coordinate descent on a Newton step's quadratic model
_SECANTS = 8  # of a line search
_FAR = 4.0  # most that a Newton step changes the linear predictor of a bin
_TOP = 80.0  # exponents are cut here


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
    model = (_array(templates), up.numpy(), down.numpy())
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
            if loss == QUADRATIC:
                residual[n, t] = b[n, t] * (a[n, t] - eta[n, t])
                curvature[n, t] = b[n, t]
            elif loss == LOGISTIC:
                small = math.exp(-abs(eta[n, t]))
                up = (1.0 if eta[n, t] >= 0 else small) / (1.0 + small)
                down = (small if eta[n, t] >= 0 else 1.0) / (1.0 + small)
                residual[n, t] = a[n, t] * down - b[n, t] * up
                curvature[n, t] = (a[n, t] + b[n, t]) * up * down
            else:
                mean = b[n, t] * math.exp(min(eta[n, t], _TOP))
                residual[n, t] = a[n, t] - mean
                curvature[n, t] = mean


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
    """Fill in the scores of the places from ``first`` up to ``last``."""
    length = templates.shape[2]
    for c in range(templates.shape[0]):
        out = score[c, first:last]
        out[:] = 0.0
        for n in range(templates.shape[1]):
            for k in range(length):
                h = templates[c, n, k]
                part = residual[n, first + k : last + k]
                for p in range(out.size):
                    out[p] += h * part[p]


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
def _newton(loss, a, b, eta, residual, curvature, templates, weight, up, down, events, count, tol):
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
        if step < 1.0:
            for j in range(count):
                amplitude[j] += (step - 1) * before[j]
        if largest < tol / 2:
            return


@njit(cache=True, error_model="numpy")
def _violation(score, weight, up, down, events, count):
    """Largest violation of the optimality conditions, relative to the weight.

    Overwrites ``score`` by how far places without an event are above their weight.
    """
    which, place, amplitude = events
    worst = 0.0
    for j in range(count):
        c, p = which[j], place[j]
        if amplitude[j] != 0.0:
            sign = 1.0 if amplitude[j] > 0 else -1.0
            worst = max(worst, abs(score[c, p] - sign * weight[c]) / weight[c])
            score[c, p] = 0.0
    for c in range(score.shape[0]):
        for p in range(score.shape[1]):
            value = score[c, p]
            height = value if up[c] and (value >= 0 or not down[c]) else -value
            above = max(height / weight[c] - 1, 0.0)
            score[c, p] = above
            worst = max(worst, above)
    return worst


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
def _solve(loss, a, b, offset, templates, weight, up, down, tol, max_iter, events, count):
    """Solve one window from the events given; return their number, the violation and rounds."""
    which, place, amplitude = events
    n_places = a.shape[1] - templates.shape[2] + 1
    reach = max(1, templates.shape[2] // 8)
    eta = offset.copy()
    residual, curvature = np.empty_like(eta), np.empty_like(eta)
    score = np.empty((templates.shape[0], n_places))
    _add(eta, templates, which, place, amplitude, count)
    _slopes(loss, a, b, eta, residual, curvature)
    worst = 0.0
    for rounds in range(max_iter + 1):
        _scores(templates, residual, 0, n_places, score)
        worst = _violation(score, weight, up, down, events, count)
        if worst <= tol or rounds == max_iter:
            return count, worst, rounds
        grown = _grow(score, tol, reach, events, count)
        if grown < 0:
            return count, worst, rounds
        count = grown
        _newton(
            loss, a, b, eta, residual, curvature, templates, weight, up, down, events, count, tol
        )
        count = _keep_nonzero(which, place, amplitude, count)
    return count, worst, max_iter


@njit(cache=True, error_model="numpy", nogil=True)
def _solve_windows(
    loss, a, b, offset, templates, up, down, weight, tol, max_iter, room, codes, violation, rounds
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
