"""Counts as a list of spikes: for populations, most of whose bins are empty.

All rows are observed at the same times, and their rates are constant but for events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.ndimage import convolve1d

from spikecdl import kernels
from spikecdl.events.counts import Expectation
from spikecdl.events.model import EventModel, Factors, relative
from spikecdl.events.spike_list import N_PARTS, SpikeList, scores, spikes_under
from spikecdl.model.observations import STRETCH
from spikecdl.solvers.parallel import in_parts

_FEW_PAIRS = 1e-4  # expected pairs of two templates at one lag that say nothing
_CROWD = 3  # times as many stretches are looked at as drawn
_AVERAGED = (3, 4, 6, 8, 12, 16, 24, 32)  # stretches, in the rounds of sharpening
_ADDED = 20.0  # stretches of the mean rate, added to those averaged
_NOISE = 2.0  # squared standard errors, below which a change is taken away


class Weights(NamedTuple):
    """Parts of the log weights of events.

    ``score`` (onset, template) is the sum over spikes, ``fixed`` (pattern, event) what no spike
    changes, ``pattern`` (onset,) says which bins were observed under an event, and ``amplitudes``
    are (template, amplitude).
    """

    score: np.ndarray
    fixed: np.ndarray
    pattern: np.ndarray
    amplitudes: np.ndarray


class _Sums(NamedTuple):
    """Log likelihood ratios and idle bins of windows (window,), expected amplitudes of the events
    that begin (onset, template), expected numbers of events (pattern, event) and (template, onset),
    the latter if there is a timing, and of pairs (pattern, lag, event, event).
    """

    evidence: np.ndarray
    free: np.ndarray
    expected: np.ndarray
    number: np.ndarray
    starts: np.ndarray
    overlaps: np.ndarray


_sum_windows = kernels.function("sum_listed_windows")
_sum_window = kernels.function("sum_listed_window")


class ListedCounts:
    """Windows of spikes of the units of a population, of the Poisson family; see `Counts`."""

    scale = 1.0
    integer_valued = True

    def __init__(
        self,
        spikes: SpikeList,
        learn_baseline: bool = True,
        start: np.ndarray | None = None,
        constant: np.ndarray | None = None,
    ) -> None:
        self.spikes, self.learn_baseline = spikes, learn_baseline
        self.constant = np.zeros(spikes.shape[0]) if constant is None else constant
        self.unit = np.zeros(spikes.shape[0], np.int64)
        rate = (spikes.totals().sum(0) + 0.5) / (spikes.shown.number + 1.0)
        self.start = np.log(rate)[None] if start is None else start

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, rows and bins."""
        return self.spikes.shape

    def expect(self, model: EventModel) -> Expectation:
        """Sum over the events of all windows, of which at most two overlap."""
        spikes, mean = self.spikes, np.exp(model.baseline[0])
        totals, shown = spikes.totals(), spikes.shown.bins
        evidence = totals @ model.baseline[0] - shown.sum(1) * mean.sum()
        exposure = np.full(len(mean), float(spikes.shown.number))
        under, expected, second = np.zeros((3, *model.templates.shape))
        number, free = np.zeros(model.amplitudes.shape), 0.0
        starts = np.zeros((len(model), 0))
        if len(model):
            seen, _ = spikes.shown.under(model.length)
            weights, factors = self._weights(model), self._factors(model)
            sums = self._sum(model, weights, factors)
            gain, by_pattern, starts, amplitude, free, overlaps = sums
            evidence += gain
            number = by_pattern.sum(0).reshape(number.shape)
            of_bins = (by_pattern.T @ seen).reshape(*number.shape, -1)  # events, where observed
            under = spikes_under(spikes, amplitude, model.length)
            growth = np.exp(model.moves())
            for c, i in np.ndindex(number.shape):
                size, here = model.amplitudes[c, i], of_bins[c, i]
                exposure += ((growth[c, i] - 1.0) * here).sum(1)
                expected[c] += size * mean[:, None] * growth[c, i] * here
                second[c] += size**2 * mean[:, None] * growth[c, i] * here
            exposure += self._add_pairs(model, growth, overlaps, seen, (expected, second))
        slope, curvature = totals.sum(0) - mean * exposure, mean * exposure
        derivatives = (under, expected, second, slope[None], curvature[None])
        return Expectation(evidence, number, starts, free, *derivatives)

    def posterior(
        self, model: EventModel, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """Yield windows with the probabilities of their events; see `Counts`."""
        n_windows, _, n_bins = self.shape
        weights, factors = self._weights(model), self._factors(model)
        prior = model.prior(n_bins - model.length + 1)
        for window in range(n_windows):
            bins = slice(window * n_bins, (window + 1) * n_bins)
            part = weights._replace(score=weights.score[bins], pattern=weights.pattern[bins])
            drawn = np.full((model.overlap, n_bins if rng is not None else 0), -1, np.int32)
            uniform = np.empty(0) if rng is None else rng.random(n_bins + 1)
            chance = np.zeros((1, *model.amplitudes.shape, n_bins - model.length + 1))
            if self.spikes.shown.bins[window].any():
                found = np.zeros(factors.log.shape)
                _sum_window(n_bins, part, factors, prior, found, chance[0], uniform, drawn)
            signal = None if rng is None else self._signal(model, drawn)
            yield slice(window, window + 1), chance, signal

    def _signal(self, model: EventModel, drawn: np.ndarray) -> np.ndarray:
        """Return what drawn events (chain, bin) add to the predictor (1, row, bin)."""
        signal = np.zeros((1, *self.shape[1:]), np.float32)  # as many numbers as counts
        for chain, s in np.argwhere(drawn >= 0):
            c, i = divmod(int(drawn[chain, s]), model.amplitudes.shape[1])
            signal[0, :, s : s + model.length] += model.amplitudes[c, i] * model.templates[c]
        return signal

    def covariates_of(self, model: EventModel, found: Expectation, step: float) -> EventModel:
        """Return the model, as there are no covariates."""
        return model

    def _weights(self, model: EventModel) -> Weights:
        seen, pattern = self.spikes.shown.under(model.length)
        score, mean = scores(self.spikes, model.templates), np.exp(model.baseline[0])
        lost = np.tensordot(np.expm1(model.moves()), mean, (2, 0)) @ seen.T  # (.., pattern)
        fixed = model.log_start[..., None] - lost
        fixed = np.ascontiguousarray(fixed.reshape(-1, len(seen)).T)
        return Weights(score, fixed, pattern, model.amplitudes)

    def _factors(self, model: EventModel) -> Factors:
        """Return factors of pairs (pattern, lag, event, event); none if no events overlap."""
        seen, _ = self.spikes.shown.under(model.length)
        n_kinds, length, mean = model.amplitudes.size, model.length, np.exp(model.baseline[0])
        if model.overlap == 1:
            return relative(np.zeros((0, length, n_kinds, n_kinds)))
        growth = np.expm1(model.moves()).reshape(n_kinds, -1, length)
        factors = np.empty((len(seen), length, n_kinds, n_kinds))
        each = model.amplitudes.shape[1]
        apart = model.apart.repeat(each, 0).repeat(each, 1)
        for some, bins in zip(factors, seen, strict=True):
            weighted = growth * mean[:, None] * bins
            for lag in range(length):
                one = weighted[:, :, lag:].reshape(n_kinds, -1)
                other = growth[:, :, : length - lag].reshape(n_kinds, -1)
                some[lag] = np.where(lag < apart, -np.inf, -one @ other.T)
        return relative(factors)

    def _sum(
        self, model: EventModel, weights: Weights, factors: Factors
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, np.ndarray]:
        """Return log likelihood ratios (window,), expected numbers of events (pattern, event) and
        (template, onset), the latter if there is a timing, the expected amplitude of those that
        begin (onset, template), bins of idle chains, and pairs (pattern, lag, event, event).
        """
        spikes = self.spikes
        n_windows, _, n_bins = spikes.shape
        prior = model.prior(n_bins - model.length + 1)
        evidence, free = np.zeros(n_windows), np.zeros(n_windows)
        expected = np.zeros_like(weights.score)
        n_parts = min(N_PARTS, n_windows)
        number = np.zeros((n_parts, *weights.fixed.shape))
        starts = np.zeros((n_parts, *prior.log_timing.shape))
        overlaps = np.zeros((n_parts, *factors.log.shape))
        edges = np.arange(n_parts + 1) * n_windows // n_parts
        observed = spikes.shown.bins.any(1)

        def work(p: int) -> None:
            found = _Sums(evidence, free, expected, number[p], starts[p], overlaps[p])
            span = (edges[p], edges[p + 1], n_bins)
            _sum_windows(*span, observed, weights, factors, prior, found)

        in_parts(work, spikes.processes.share(n_parts), weights.score.size * 5)
        spikes.processes.fill(evidence, free, expected, number, starts, overlaps)
        of_events = (evidence, number.sum(0), starts.sum(0), expected)
        return *of_events, float(free.sum()), overlaps.sum(0)

    def _add_pairs(
        self,
        model: EventModel,
        growth: np.ndarray,
        overlaps: np.ndarray,
        seen: np.ndarray,
        derivatives: tuple[np.ndarray, np.ndarray],
    ) -> np.ndarray:
        """Correct derivatives for events that overlap; return their part of the exposure (row,)."""
        (expected, second), length = derivatives, model.length
        exposure, mean = np.zeros(self.shape[1]), np.exp(model.baseline[0])
        if not len(overlaps):
            return exposure
        grown = growth.reshape(model.amplitudes.size, -1, length).transpose(2, 0, 1)
        size = np.abs(model.amplitudes.ravel())
        for lag in np.flatnonzero(overlaps.sum((0, 2, 3)) > _FEW_PAIRS):
            here = np.einsum("pij,pk->kij", overlaps[:, lag], seen[:, lag:])
            early, late = grown[lag:], grown[: length - lag]
            with_late, with_early = here @ (late - 1.0), here.swapaxes(1, 2) @ (early - 1.0)
            exposure += ((early - 1.0) * with_late).sum((0, 1))
            here *= size[:, None] * size
            both = here @ late, here.swapaxes(1, 2) @ early
            for bins, part, other, crossed in (
                (slice(lag, None), early, with_late, both[0]),
                (slice(0, length - lag), late, with_early, both[1]),
            ):
                shape = (len(part), *model.amplitudes.shape, self.shape[1])
                first, more = ((mean * part * x).reshape(shape) for x in (other, crossed))
                for of_template, power in ((expected, 1), (second, 2)):
                    factor = model.amplitudes**power
                    of_template[..., bins] += np.einsum("kcan,ca->cnk", first, factor)
                second[..., bins] += more.sum(2).transpose(1, 2, 0)
        return exposure

    def take(self, windows: np.ndarray) -> ListedCounts:
        """Keep some windows."""
        some = self.spikes.stretches(windows * self.shape[2], self.shape[2])
        return self._with(some, self.constant[windows])

    def _with(self, spikes: SpikeList, constant: np.ndarray | None = None) -> ListedCounts:
        """Return other spikes of the same units."""
        start = None if self.learn_baseline else self.start
        return ListedCounts(spikes, self.learn_baseline, start, constant)

    # ----- what a search begins with

    def part(self, n_bins: int, length: int) -> ListedCounts:
        """Return a bounded part as windows, chosen where the population is most active.

        All of a short recording is returned.
        """
        n_windows, _, n_all = self.shape
        size = min(n_all, STRETCH * length)
        if n_windows * n_all <= max(n_bins, size):
            return self
        starts = np.arange(n_windows)[:, None] * n_all + np.arange(n_all // size) * size
        active = _activity(self.spikes, length)
        highest = np.array([active[s : s + size - length + 1].max() for s in starts.ravel()])
        chosen = np.sort(np.argsort(-highest, kind="stable")[: max(1, n_bins // size)])
        return self._with(self.spikes.stretches(starts.ravel()[chosen], size))

    def stretches(
        self, null: EventModel, number: int, rng: np.random.Generator, taken: np.ndarray
    ) -> np.ndarray:
        """Draw stretches far from each other, and sharpen them; the most distinct come first."""
        length, mean = null.length, np.exp(null.baseline[0])[:, None]
        closed = np.pad(taken, ((0, 0), (0, length - 1)), constant_values=True).ravel()
        if closed.all():
            return np.zeros((0, self.shape[1], length))
        first = self._far_apart(length, number, rng, closed, mean)
        first = self._sharpened(first, closed, mean)
        return first[np.argsort(-_skewness(self.spikes, first), kind="stable")]

    def _far_apart(
        self,
        length: int,
        number: int,
        rng: np.random.Generator,
        closed: np.ndarray,
        mean: np.ndarray,
    ) -> np.ndarray:
        """Return stretches of much activity, far from each other by lagged correlation.

        They are drawn as the first centres of k-means++ (Arthur and Vassilvitskii, SODA 2007).
        """
        spikes = self.spikes
        active = np.where(closed, -np.inf, _activity(spikes, length))
        picked = _highest(active, length, _CROWD * number)
        cut = spikes.stretches(np.array(picked), length)
        counts = np.zeros((len(picked), length, spikes.shape[1]))
        at = np.repeat(np.arange(len(cut.first) - 1), np.diff(cut.first))
        np.add.at(counts.reshape(-1, spikes.shape[1]), (at, cut.unit), 1.0)
        smooth = convolve1d(counts.transpose(0, 2, 1), _kernel(length), axis=2, mode="constant")
        standard = (smooth - mean) / np.sqrt(mean)
        spectrum = np.fft.rfft(standard, 2 * length, axis=2)
        norms = np.sqrt(np.square(standard).sum((1, 2)))
        chosen: list[int] = []
        distance = np.ones(len(picked))
        for _ in range(min(number, len(picked))):
            chance = np.square(np.maximum(distance, 1e-9))
            chance[chosen] = 0.0
            chosen.append(int(rng.choice(len(picked), p=chance / chance.sum())))
            products = np.fft.irfft((spectrum * spectrum[chosen[-1]].conj()).sum(1), axis=1).max(1)
            distance = np.minimum(distance, 1 - products / norms / norms[chosen[-1]])
        return np.log((smooth[chosen] + _ADDED * mean) / ((1 + _ADDED) * mean))

    def _sharpened(self, templates: np.ndarray, closed: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Replace each template by the mean of the stretches most like it that are not ``closed``.

        A single stretch is mostly noise.  More and more stretches are averaged, so that few are
        wrong at any time; changes not much larger than their standard error are taken away, and all
        are small, so that silent bins do not outweigh coincident spikes.
        """
        length = templates.shape[2]
        kernel = _kernel(length)
        width = 1 / np.square(kernel).sum()
        for number in _AVERAGED:
            expected = mean * number
            score = scores(self.spikes, templates)
            picked = np.zeros_like(score)
            for c, each in enumerate(score.T):
                picked[_highest(np.where(closed, -np.inf, each), length, number), c] = 1.0
            found = spikes_under(self.spikes, picked, length)
            found = convolve1d(found, kernel, axis=2, mode="nearest")
            change = np.log((found + _ADDED * mean) / (expected + _ADDED * mean))
            excess = np.square(found - expected) * width / expected
            templates = change * np.maximum(0.0, 1 - _NOISE / np.maximum(excess, 1e-9))
        return templates


def _activity(spikes: SpikeList, length: int) -> np.ndarray:
    """Return the number of spikes in a template that begins in each bin; minus infinity at ends."""
    n_windows, _, n_bins = spikes.shape
    total = np.append(spikes.first, np.full(length, spikes.first[-1]))
    active = (total[length : length + n_windows * n_bins] - spikes.first[:-1]).astype(float)
    active.reshape(n_windows, n_bins)[:, n_bins - length + 1 :] = -np.inf
    return active


def _kernel(length: int) -> np.ndarray:
    kernel = np.hanning(max(length // 7, 3) + 2)[1:-1]
    return kernel / kernel.sum()


def _skewness(spikes: SpikeList, templates: np.ndarray) -> np.ndarray:
    """Return the skewness (template,) of scores: large where some stretches are much alike."""
    score = scores(spikes, templates)
    score = (score - score.mean(0)) / np.maximum(score.std(0), 1e-9)
    return (score * score * score).mean(0)


def _highest(value: np.ndarray, length: int, number: int) -> list[int]:
    """Return where values are highest, at least half a template apart; they are changed."""
    found: list[int] = []
    while len(found) < number and value[s := int(value.argmax())] > -np.inf:
        found.append(s)
        value[max(0, s - length // 2) : s + length // 2 + 1] = -np.inf
    return found
