"""Likelihood ratios of single events.

An event of amplitude a and template h that begins in bin s changes the predictor z of its bins to
z + a h.  Where z and the exposure do not change within a window, its log-likelihood ratio is a
correlation of the counts with a vector and a constant; elsewhere it is summed bin by bin.

Templates are normal with mean h and variance v, over which the log likelihood is averaged: in terms
that grow as exp(z) the mean of exp(z + a h) is exp(z + a h + a^2 v / 2), by which the logarithm of
1 + exp(z) is bounded (Jensen), so that sums of these ratios are lower bounds of the log evidence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from spikecdl.solvers.losses import (
    EXPONENTIAL,
    LOGISTIC,
    QUADRATIC,
    exp,
    fill_row,
    fill_terms,
    softplus,
    to_log,
)
from spikecdl.solvers.operators import add_multiple, fill_scores

_ROUNDING = 1e-9
_CROWDED = 0.1  # fraction of bins with counts, from which all bins are visited
_LARGEST_LOG = 600.0  # of a product of numbers
_HOPELESS = -20.0  # log-likelihood ratio below which only a bound of it is computed


class Templates(NamedTuple):
    """Templates (template, row, bin), the amplitudes (template, amplitude) of their events, and
    ``moves`` (template, amplitude, row, bin), the logarithms of the expected factors of rates.
    """

    taps: np.ndarray
    amplitudes: np.ndarray
    moves: np.ndarray


@njit(cache=True, error_model="numpy")
def constant_row(kind, a, b, z):
    """Return whether a row is constant but for its counts, its exposure, and their weight.

    The exposure m and the weight q are such that the loss is m and q a, together, times the
    softplus of z (times exp(z), for an exponential loss) minus a z.
    """
    if kind == QUADRATIC:
        return False, 0.0, 0.0
    same, same_rest = True, kind == LOGISTIC
    for t in range(1, z.size):
        if z[t] != z[0]:
            return False, 0.0, 0.0
        same_rest = same_rest and a[t] + b[t] == a[0] + b[0]
        same = same and b[t] == b[0]
    if same_rest:
        return True, a[0] + b[0], 0.0
    if same:
        return True, b[0], 1.0 if kind == LOGISTIC else 0.0
    return False, 0.0, 0.0


@njit(cache=True, error_model="numpy", fastmath=True)
def _change(kind, z, move, out):
    """Fill in the change of the softplus, or of the exponential, from z to z + move."""
    before = softplus(z) if kind == LOGISTIC else exp(z)
    for k in range(move.size):
        after = softplus(z + move[k]) if kind == LOGISTIC else exp(z + move[k])
        out[k] = after - before


@njit(cache=True, error_model="numpy")
def _correlate_counts(counts, vector, out):
    """Add to ``out`` (onset,) the correlation of a vector with counts, most of which are zero."""
    length = vector.size
    reversed_vector = vector[::-1].copy()
    for t in range(counts.size):
        if counts[t] != 0.0:
            first, last = max(0, t - length + 1), min(out.size - 1, t)
            skip = length - 1 - (t - first)
            add_multiple(
                out[first : last + 1], counts[t], reversed_vector[skip:][: last + 1 - first]
            )


@njit(cache=True, error_model="numpy")
def fill_count_scores(counts, taps, score):
    """Fill in the correlation (template, onset) of counts (row, bin) and templates."""
    if np.count_nonzero(counts) > _CROWDED * counts.size:
        fill_scores(taps, counts, 0, score.shape[1], score)
        return
    score[:] = 0.0
    for c in range(len(taps)):
        for n in range(taps.shape[1]):
            _correlate_counts(counts[n], taps[c, n], score[c])


@njit(cache=True, error_model="numpy")
def fill_ratios(loss, z, model, score, ratios):
    """Fill in the log-likelihood ratio (template, amplitude, onset) of an event in one window.

    ``score`` (template, onset) is from `fill_count_scores`.
    """
    usual, constant = np.empty((len(z), 3)), True
    for n in range(len(z)):
        same, exposure, q = constant_row(loss.kind, loss.a[n], loss.b[n], z[n])
        usual[n, 0], usual[n, 1], usual[n, 2] = z[n, 0], exposure, q
        constant = constant and same
    if constant:
        _fill_constant(loss, usual, model, ratios)
    elif loss.kind == EXPONENTIAL or (loss.kind == LOGISTIC and _have_one_exposure(loss)):
        stretches = _unusual(loss, z, model.taps.shape[2], usual)
        _fill_constant(loss, usual, model, ratios)
        if loss.kind == EXPONENTIAL:
            _fill_exponential(loss, z, model, stretches, ratios)
        else:
            _fill_logistic(loss, z, model, stretches, ratios)
    else:
        _fill_varying(loss, z, model, ratios)
        return
    for c in range(len(score)):
        for i in range(model.amplitudes.shape[1]):
            add_multiple(ratios[c, i], model.amplitudes[c, i], score[c])


@njit(cache=True, error_model="numpy")
def _unusual(loss, z, length, usual):
    """Return stretches of onsets (stretch, 2) whose events cover bins that differ from most.

    Fills in what most bins of each row have: predictor, exposure, and 0, as for `constant_row`.
    """
    differs = np.zeros(z.shape[1], np.bool_)
    for n in range(len(z)):
        exposure = loss.b[n] + loss.a[n] if loss.kind == LOGISTIC else loss.b[n]
        most, common = exposure.max(), _most_common(z[n])
        usual[n, 0], usual[n, 1], usual[n, 2] = common, most, 0.0
        for t in range(differs.size):
            other = abs(exposure[t] - most) > _ROUNDING * most
            differs[t] = differs[t] or other or z[n, t] != common
    stretches, count = np.empty((z.shape[1], 2), np.int64), 0
    for t in range(differs.size):
        if differs[t]:
            first, end = max(0, t - length + 1), min(t + 1, differs.size - length + 1)
            if count == 0 or first > stretches[count - 1, 1]:
                stretches[count, 0], count = first, count + 1
            stretches[count - 1, 1] = end
    return stretches[:count]


@njit(cache=True, error_model="numpy")
def _most_common(values):
    """Return the value that more than half of all have, if there is one (Boyer and Moore 1991)."""
    found, lead = values[0], 0
    for value in values:
        if lead == 0:
            found = value
        lead += 1 if value == found else -1
    return found


@njit(cache=True, error_model="numpy")
def _fill_constant(loss, usual, model, ratios):
    """Fill in the ratios for predictor, exposure and q of each row, without the counts' score."""
    n_templates, n_amplitudes, _ = ratios.shape
    change = np.empty(model.taps.shape[2])
    ratios[:] = 0.0
    for n in range(len(usual)):
        z, exposure, q = usual[n]
        for c in range(n_templates):
            for i in range(n_amplitudes):
                _change(loss.kind, z, model.moves[c, i, n], change)
                ratios[c, i] -= exposure * change.sum()
                if q != 0.0:
                    change *= -q
                    _correlate_counts(loss.a[n], change, ratios[c, i])


@njit(cache=True, error_model="numpy")
def _fill_exponential(loss, z, model, stretches, ratios):
    """Fill in the ratios of an exponential loss in stretches: correlations with means."""
    n_templates, n_amplitudes, n_onsets = ratios.shape
    n_rows, length = model.taps.shape[1:]
    growth = np.empty((n_templates * n_amplitudes, n_rows, length))
    for c in range(n_templates):
        for i in range(n_amplitudes):
            for n in range(n_rows):
                for k in range(length):
                    growth[c * n_amplitudes + i, n, k] = 1.0 - exp(model.moves[c, i, n, k])
    mean, residual = np.empty_like(z), np.empty(z.shape[1])
    for n in range(n_rows):
        fill_row(loss.kind, loss.a[n], loss.b[n], z[n], residual, mean[n])
    flat = ratios.reshape(n_templates * n_amplitudes, n_onsets)
    for first, end in stretches:
        fill_scores(growth, mean, first, end, flat)


@njit(cache=True, error_model="numpy")
def _have_one_exposure(loss):
    """Return whether the exposure a + b of each row is the same in all bins that are observed."""
    for n in range(len(loss.a)):
        most = (loss.a[n] + loss.b[n]).max()
        for t in range(loss.a.shape[1]):
            exposure = loss.a[n, t] + loss.b[n, t]
            if exposure != 0.0 and abs(exposure - most) > _ROUNDING * most:
                return False
    return True


@njit(cache=True, error_model="numpy")
def _fill_logistic(loss, z, model, stretches, ratios):
    """Fill in the ratios, in stretches, of a logistic loss whose rows have one exposure each.

    An event multiplies the odds of a bin by E = exp(a h), and 1 + exp(z) by 1 - p + p E, where p is
    the logistic function of z.  The logarithm is taken of the product over bins.
    """
    n_templates, n_amplitudes, n_onsets = ratios.shape
    length = model.taps.shape[2]
    up, down, product = np.empty(z.shape[1]), np.empty(z.shape[1]), np.empty(n_onsets)
    odds = np.empty(length)
    for first, end in stretches:
        ratios[:, :, first:end] = 0.0
    for n in range(len(z)):
        most = (loss.a[n] + loss.b[n]).max()
        for t in range(z.shape[1]):
            small = exp(-abs(z[n, t]))
            up[t] = (1.0 if z[n, t] >= 0 else small) / (1.0 + small)
            down[t] = (small if z[n, t] >= 0 else 1.0) / (1.0 + small)
            if loss.a[n, t] + loss.b[n, t] == 0.0:
                up[t], down[t] = 0.0, 1.0
        for c in range(n_templates):
            for i in range(n_amplitudes):
                for k in range(length):
                    odds[k] = exp(model.moves[c, i, n, k])
                largest = np.abs(model.moves[c, i, n]).max()
                together = max(1, min(length, int(_LARGEST_LOG / max(largest, 1e-9))))
                for first, end in stretches:
                    part, out = product[: end - first], ratios[c, i, first:end]
                    for k in range(0, length, together):
                        fill = min(length, k + together)
                        _multiply(part, down[first + k :], up[first + k :], odds[k:fill])
                        to_log(part)
                        add_multiple(out, -most, part)


@njit(cache=True, error_model="numpy", fastmath=True)
def _multiply(product, down, up, odds):
    """Fill in the product over bins of the sum of ``down`` and ``up`` times the odds."""
    product[:] = 1.0
    whole = odds.size - odds.size % 4
    for k in range(0, whole, 4):
        e, f, g, h = odds[k], odds[k + 1], odds[k + 2], odds[k + 3]
        for s in range(product.size):
            one = (down[s + k] + up[s + k] * e) * (down[s + k + 1] + up[s + k + 1] * f)
            two = (down[s + k + 2] + up[s + k + 2] * g) * (down[s + k + 3] + up[s + k + 3] * h)
            product[s] *= one * two
    for k in range(whole, odds.size):
        for s in range(product.size):
            product[s] *= down[s + k] + up[s + k] * odds[k]


@njit(cache=True, error_model="numpy")
def _fill_varying(loss, z, model, ratios):
    """Fill in the ratios bin by bin, where an event is not hopeless.

    The ratio is concave in the amplitude, and zero at zero: it is at most the amplitude times the
    score, and falls at least in proportion once it is negative.
    """
    amplitudes = model.amplitudes
    n_templates, _, n_onsets = ratios.shape
    residual, base = np.empty_like(z), np.empty_like(z)
    curvature, score = np.empty(z.shape[1]), np.empty((n_templates, n_onsets))
    for n in range(len(z)):
        fill_row(loss.kind, loss.a[n], loss.b[n], z[n], residual[n], curvature)
        fill_terms(loss.kind, loss.a[n], loss.b[n], z[n], base[n])
    fill_scores(model.taps, residual, 0, n_onsets, score)
    for c in range(n_templates):
        order = np.argsort(np.abs(amplitudes[c]))
        for s in range(n_onsets):
            smallest = np.zeros(2)  # ratio per amplitude of the last negative ratio of each sign
            for i in order:
                amplitude = amplitudes[c, i]
                sign = 1 if amplitude > 0 else 0
                bound = min(
                    amplitude * score[c, s],
                    abs(amplitude) * smallest[sign] if smallest[sign] < 0 else np.inf,
                )
                if bound > _HOPELESS:
                    bound = _ratio(loss, z, model, (c, i), s, base)
                    if bound < 0:
                        smallest[sign] = bound / abs(amplitude)
                ratios[c, i, s] = bound


@njit(cache=True, error_model="numpy")
def _ratio(loss, z, model, event, s, base):
    """Return the ratio of one event, of a template and an amplitude."""
    (c, i), total = event, 0.0
    length, amplitude = model.taps.shape[2], model.amplitudes[c, i]
    for n in range(len(z)):
        bins = slice(s, s + length)
        part = (loss.a[n, bins], loss.b[n, bins], z[n, bins])
        total += _gain(loss.kind, part, amplitude, model.taps[c, n], model.moves[c, i, n])
        total += base[n, bins].sum()
    return total


@njit(cache=True, error_model="numpy", fastmath=True)
def _gain(kind, part, amplitude, taps, moves):
    """Return minus the loss of a row with an event."""
    (a, b, z), total = part, 0.0
    if kind == QUADRATIC:
        for k in range(taps.size):
            miss = a[k] - z[k] - amplitude * taps[k]
            total -= b[k] * (miss * miss / 2 + moves[k] - amplitude * taps[k])
    elif kind == LOGISTIC:
        for k in range(taps.size):
            x = z[k] + amplitude * taps[k]
            total += a[k] * x - (a[k] + b[k]) * softplus(z[k] + moves[k])
    else:
        for k in range(taps.size):
            total += a[k] * (z[k] + amplitude * taps[k]) - b[k] * exp(z[k] + moves[k])
    return total
