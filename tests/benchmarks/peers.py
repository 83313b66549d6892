"""Templates and events that other packages find in the same counts.

Their codes are dense: their events are the peaks above a threshold.  The threshold and the penalty
are those that agree best with the truth; this package runs with its defaults.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import outside
import pandas as pd
from outside import Found
from scipy.ndimage import gaussian_filter1d
from timing import Row, Settings, Skip, duration

from spikecdl import DCEA, BinnedSpikes, Binomial, Family, Gaussian
from spikecdl.evaluation.metrics import event_rates, recovery, template_error
from spikecdl.simulate import simulate

_DATA_SETS = 3
_TOLERANCE = 3  # bins from a true event
_THRESHOLDS = np.linspace(0.05, 0.8, 16)  # of a template's largest code


@dataclass(frozen=True)
class Score:
    """Mean error of templates, hit rate, false alarm rate, and seconds of a fit."""

    error: float
    hits: float
    false: float
    seconds: float

    @property
    def f1(self) -> float:
        """Harmonic mean of the hit rate and the precision."""
        right = 1 - self.false
        return 2 * self.hits * right / max(self.hits + right, 1e-12)


Method = Callable[[BinnedSpikes], Score]


def pooled(settings: Settings) -> Iterator[Row]:
    """Three templates, 30 trials pooled: a binomial model, and Gaussian ones of all packages."""
    data = [_pooled_trials(seed, settings) for seed in _seeds(settings)]
    grid = _grid(settings, (0.1, 0.3))
    yield from _compared(
        "pooled trials",
        {
            "DCEA, binomial": _dcea("binomial"),
            "DCEA, Gaussian": _dcea_gaussian,
            "alphacsc": lambda c: _best(_centred(outside.alphacsc, c, *choice) for choice in grid),
            "sporco": lambda c: _best(_centred(outside.sporco, c, *choice) for choice in grid),
        },
        data,
        f"best of {len(grid)} lengths, penalties and starts by the truth",
    )


def sequences(settings: Settings) -> Iterator[Row]:
    """Two Poisson sequences across 40 units: joint templates, and seqNMF."""
    data = [_two_sequences(seed, settings) for seed in _seeds(settings)]
    grid = [(*choice, width) for choice in _grid(settings, (1e-3, 1e-2)) for width in (0.0, 2.0)]
    yield from _compared(
        "sequences",
        {
            "DCEA, Poisson": _dcea("poisson"),
            "seqNMF": lambda c: _best(_seqnmf(c, *choice) for choice in grid),
        },
        data,
        f"best of {len(grid)} lengths, penalties, starts and smoothings by the truth",
    )


def _grid(settings: Settings, penalties: tuple[float, ...]) -> list[tuple[float, float, int]]:
    """Return lengths, as multiples of the true one, penalties and seeds of starts."""
    lengths, starts = ((1.4,), (0,)) if settings.quick else ((1.0, 1.4), (0, 1))
    return list(product(lengths, penalties, starts))


def _seeds(settings: Settings) -> range:
    return range(1 if settings.quick else min(settings.seeds, _DATA_SETS))


def _pooled_trials(seed: int, settings: Settings) -> BinnedSpikes:
    """Simulate bins of 1 ms, 8 Hz, amplitudes of 10 to 20, 4 events per template and window."""
    return simulate(
        Binomial(1),
        n_trials=30,
        n_units=5 if settings.quick else 30,
        n_events=4,
        same_events=True,
        random_state=seed,
    ).pool()


def _two_sequences(seed: int, settings: Settings) -> BinnedSpikes:
    """Simulate a minute in bins of 10 ms, 2 Hz; each unit rises for 50 ms at its own latency."""
    rng, time_ = np.random.default_rng(seed), np.arange(50)
    latency = rng.uniform(6, 44, (2, 40, 1))
    return simulate(
        "poisson",
        np.exp(-0.5 * ((time_ - latency) / 2) ** 2),
        layout="joint",
        n_trials=1,
        n_units=40,
        duration=20.0 if settings.quick else 60.0,
        bin_size=0.01,
        event_rate=0.5,
        amplitude=(30.0, 40.0),
        baseline=2.0,
        random_state=seed,
    )


def _compared(
    problem: str, methods: Mapping[str, Method], data: list[BinnedSpikes], advantage: str
) -> Iterator[Row]:
    for name, method in methods.items():
        what, ours = f"{problem}, {name}", name.startswith("DCEA")
        try:
            scores = [method(counts) for counts in data]
        except Skip as reason:
            yield Row(what, note=f"skipped: {reason}")
            continue
        errors = [score.error for score in scores]
        text = f"error {np.mean(errors):.3f}"
        note = (
            f"{min(errors):.3f}-{max(errors):.3f}, data sets: {len(data)}; events: "
            f"{np.mean([s.hits for s in scores]):.0%} found, "
            f"{np.mean([s.false for s in scores]):.0%} of those found false; "
            f"{duration(float(np.median([s.seconds for s in scores])))}"
        )
        if ours:
            yield Row(what, package=text, note=note)
        else:
            yield Row(what, yardstick=text, note=f"{note} a fit; {advantage}")


def _dcea(family: str | Family) -> Method:
    def fitted(counts: BinnedSpikes) -> Score:
        truth = counts.truth
        n_templates, _, length = truth.templates.shape
        model = DCEA(
            n_templates, length * counts.bin_size, family, layout=truth.layout, random_state=0
        )
        began = time.perf_counter()
        parts = model.fit(counts).decompose(counts)
        seconds = time.perf_counter() - began
        found = recovery(parts, _TOLERANCE * counts.bin_size)
        amplitude = parts.events()["amplitude"].median()
        error = template_error(_profiles(parts.templates, amplitude, truth.layout), _true(counts))
        return Score(
            float(error.errors.mean()),
            found.events.hit_rate,
            found.events.false_alarm_rate,
            seconds,
        )

    return fitted


def _dcea_gaussian(counts: BinnedSpikes) -> Score:
    return _dcea(Gaussian(float(counts.counts.std())))(counts)


def _true(counts: BinnedSpikes) -> np.ndarray:
    truth = counts.truth
    return _profiles(truth.templates, truth.events["amplitude"].median(), truth.layout)


def _profiles(templates: np.ndarray, amplitude: float, layout: str) -> np.ndarray:
    """Return templates; for sequences the increase of the rate, because seqNMF adds rates."""
    return np.expm1(templates * amplitude) if layout == "joint" else templates


def _centred(
    learn: Callable[..., Found], counts: BinnedSpikes, longer: float, share: float, seed: int
) -> tuple[Found, BinnedSpikes, float]:
    """Learn from counts minus their mean in each window."""
    y = counts.counts[0] - counts.counts[0].mean(axis=1, keepdims=True)
    return _timed(learn, y, counts, longer, share, seed)


def _seqnmf(
    counts: BinnedSpikes, longer: float, penalty: float, seed: int, smoothing: float
) -> tuple[Found, BinnedSpikes, float]:
    """Learn sequences from counts smoothed with a Gaussian of that standard deviation in bins."""
    y = counts.counts[0].astype(float)
    y = gaussian_filter1d(y, smoothing, axis=1) if smoothing else y
    return _timed(outside.seqnmf, y, counts, longer, penalty, seed)


def _timed(
    learn: Callable[..., Found],
    y: np.ndarray,
    counts: BinnedSpikes,
    longer: float,
    penalty: float,
    seed: int,
) -> tuple[Found, BinnedSpikes, float]:
    n_templates, _, length = counts.truth.templates.shape
    began = time.perf_counter()
    found = learn(y, n_templates, round(longer * length), penalty, seed)
    return found, counts, time.perf_counter() - began


def _best(tries: Iterable[tuple[Found, BinnedSpikes, float]]) -> Score:
    """Return the score with the smallest template error."""
    return min((_score(*one) for one in tries), key=lambda score: score.error)


def _score(found: Found, counts: BinnedSpikes, seconds: float) -> Score:
    """Compare with the truth, with the best threshold for events."""
    alive = np.linalg.norm(found.templates, axis=(1, 2)) > 0
    if not alive.any():
        return Score(1.0, 0.0, 0.0, seconds)
    templates, codes = found.templates[alive], found.codes[:, alive]
    error = template_error(templates, _true(counts))
    peaks = _peaks(codes, templates.shape[2] // 2)
    numbers = {found: true for true, found in enumerate(error.assignment) if found >= 0}
    peaks = peaks[peaks["template"].isin(numbers)]
    peaks["time"] = peaks["time"] - error.shifts[peaks["template"].map(numbers)]
    peaks["template"] = peaks["template"].map(numbers)
    scores = []
    for threshold in _THRESHOLDS:
        kept = peaks[peaks["share"] >= threshold]
        rates = event_rates(kept[list(_KEYS)], _true_events(counts), _TOLERANCE)
        false = rates.false_alarms / max(len(kept), 1)
        scores.append(Score(float(error.errors.mean()), rates.hit_rate, false, seconds))
    return max(scores, key=lambda score: score.f1)


_KEYS = ("unit", "template", "time")


def _true_events(counts: BinnedSpikes) -> pd.DataFrame:
    """Return true events with windows as units, and times in bins."""
    events = counts.truth.events
    onsets = np.rint(events["time"] / counts.bin_size)
    return events.assign(time=onsets, unit=events["unit"].clip(lower=0))[list(_KEYS)]


def _peaks(codes: np.ndarray, apart: int) -> pd.DataFrame:
    """Return the peaks of codes (window, template, onset), as fractions of the largest code."""
    highest = codes.max(axis=(0, 2))
    tables = []
    for unit, rows in enumerate(codes):
        template, onset = outside.peaks(rows, apart, share=0)
        share = rows[template, onset] / highest[template]
        tables.append(
            pd.DataFrame({"unit": unit, "template": template, "time": onset, "share": share})
        )
    return pd.concat(tables, ignore_index=True)
