"""Events of other speeds: laps that are not equally fast, and replays while the animal rests.

Places of 30 units along a track are random, and the others fire at rest.  Laps of 1.2 to 3.3 s
follow each other after pauses of .25 to 1.5 s.  Replays take 2 s / 12, every fourth of them
backward, with as many spikes in each as in a tenth of a lap, or more: both are said.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import numpy as np
from timing import Row, Settings

from spikecdl import DCEA, BinnedSpikes

_N_UNITS, _N_PART, _BIN, _LENGTH, _FIELD = 80, 30, 0.05, 40, 0.06
_LAPS, _REPLAYS = (0.6, 0.8, 1, 1.25, 1.6), (8, 12, 16, 20, -12)


class Track:
    """Units with a field each (the first ones), and rates at rest (Hz)."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.where, self.peak = rng.random(_N_PART), rng.gamma(4, 3, _N_PART) + 4
        self.rest = rng.gamma(2, 0.15, _N_UNITS) + 0.05

    def rate(self, n_bins: int) -> np.ndarray:
        """Return rates (unit, bin) of a passage in so many bins."""
        rates, place = self.still(n_bins), (np.arange(n_bins) + 0.5) / n_bins
        field = np.exp(-0.5 * np.square((place - self.where[:, None]) / _FIELD))
        rates[:_N_PART] += self.peak[:, None] * field
        return rates

    def still(self, n_bins: int) -> np.ndarray:
        return np.repeat(self.rest[:, None], n_bins, axis=1)

    def counts(self, rates: np.ndarray, bin_size: float) -> BinnedSpikes:
        return BinnedSpikes.from_array(self.rng.poisson(rates * bin_size)[None], bin_size=bin_size)

    def laps(self, slowest: float, fastest: float) -> tuple[BinnedSpikes, np.ndarray, np.ndarray]:
        """Return counts of 400 s, and onsets (s) and speeds of the laps."""
        rates, starts, speeds, start = self.still(8_000), [], [], 40
        while start + 80 < rates.shape[1]:
            speed = float(np.exp(self.rng.uniform(np.log(slowest), np.log(fastest))))
            n_bins = round(_LENGTH / speed)
            rates[:, start : start + n_bins] = self.rate(n_bins)
            starts.append(start * _BIN)
            speeds.append(speed)
            start += n_bins + int(self.rng.integers(5, 30))
        return self.counts(rates, _BIN), np.array(starts), np.array(speeds)

    def replays(self, strength: float) -> tuple[BinnedSpikes, np.ndarray, np.ndarray]:
        """Return counts of 300 s in bins of 5 ms, and onsets (s) and speeds of 60 replays."""
        bin_size, n_bins = 0.005, round(_LENGTH * _BIN / 12 / 0.005)
        rates = self.still(60_000)
        first = np.sort(self.rng.choice(np.arange(5, 995), 60, replace=False)) * 60
        speeds = np.where(np.arange(60) % 4, 12, -12)
        for start, speed in zip(first, speeds, strict=True):
            played = strength * self.rate(n_bins)
            rates[:, start : start + n_bins] = played[:, :: np.sign(speed)]
        return self.counts(rates, bin_size), first * bin_size, speeds


def _found(model: DCEA, counts: BinnedSpikes, starts: np.ndarray, near: float) -> tuple:
    """Return hits, the share of false events, and which event each hit is (event, onset)."""
    events, pairs = model.decompose(counts).events(), {}
    for number, time_ in enumerate(events["time"]):
        closest = int(np.abs(starts - time_).argmin())
        if abs(starts[closest] - time_) < near:
            pairs.setdefault(closest, number)
    false = 1 - len(pairs) / max(len(events), 1)
    return len(pairs) / len(starts), false, events, pairs


def _error(template: np.ndarray, track: Track) -> float:
    """Return the distance of unit-norm templates at the best shift."""
    true = np.log(track.rate(_LENGTH) / track.still(_LENGTH))
    true, found = true / np.linalg.norm(true), template / np.linalg.norm(template)
    return min(float(np.linalg.norm(np.roll(found, k, 1) - true)) for k in range(-15, 16))


def _laps(seed: int, slowest: float, fastest: float) -> list[list[float]]:
    """Return hits, false events, template error, seconds: at one speed, at several."""
    track = Track(seed)
    counts, starts, _ = track.laps(slowest, fastest)
    rows, model = [], DCEA(1, 2.0, "poisson", layout="joint", random_state=0)
    for run in (model.fit, lambda x: model.at_speeds(x, _LAPS, learn_templates=True)):
        began = time.perf_counter()
        fitted = run(counts)
        taken = time.perf_counter() - began
        one = fitted.templates_[0]
        if "speed" in fitted.of_templates_:
            number = list(fitted.of_templates_["speed"]).index(1)
            one = fitted.templates_[number, :, :_LENGTH]
        rows.append([*_found(fitted, counts, starts, 0.6)[:2], _error(one, track), taken])
    return rows


def _replays(seed: int, strength: float) -> list[float]:
    """Return hits, false events, and the share of hits with the true speed, and direction."""
    track = Track(seed)
    laps = track.laps(1.0, 1.0001)[0]
    model = DCEA(1, 2.0, "poisson", layout="joint", random_state=0).fit(laps)
    counts, starts, speeds = track.replays(strength)
    hits, false, events, pairs = _found(model.at_speeds(counts, _REPLAYS), counts, starts, 0.08)
    said = events["speed"].to_numpy()[list(pairs.values())]
    true = speeds[list(pairs)]
    return [hits, false, float(np.mean(said == true)), float(np.mean(said * true > 0))]


def measure(settings: Settings) -> Iterator[Row]:
    """Medians over seeds, with their range."""
    warnings.simplefilter("ignore")
    seeds = range(100, 100 + settings.seeds)
    for slowest, fastest in ((0.6, 1.7), (1.0, 1.0001)):
        found = np.array([_laps(seed, slowest, fastest) for seed in seeds])
        for number, name in enumerate(("hits", "false events", "template error", "seconds")):
            one, several = (_spread(found[:, k, number]) for k in (0, 1))
            what = f"laps at speeds of {slowest:g} to {fastest:.1f}: {name}"
            yield Row(what, one, several, "", "a fit at one speed; then at five")
    for strength in (1.0, 2.0):
        found = np.array([_replays(seed, strength) for seed in seeds])
        for number, name in enumerate(("hits", "false events", "true speed", "true direction")):
            what = f"replays 12 times as fast, rates times {strength:g}: {name}"
            yield Row(what, "", _spread(found[:, number]))


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f}-{values.max():.2f})"
