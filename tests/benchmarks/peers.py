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
        error = template_error(parts.templates, truth.templates)
        return Score(
            float(error.errors.mean()),
            found.events.hit_rate,
            found.events.false_alarm_rate,
            seconds,
        )

    return fitted


def _dcea_gaussian(counts: BinnedSpikes) -> Score:
    return _dcea(Gaussian(float(counts.counts.std())))(counts)


def _centred(
    learn: Callable[..., Found], counts: BinnedSpikes, longer: float, share: float, seed: int
) -> tuple[Found, BinnedSpikes, float]:
    """Learn from counts minus their mean in each window."""
    y = counts.counts[0] - counts.counts[0].mean(axis=1, keepdims=True)
    return _timed(learn, y, counts, longer, share, seed)


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
    error = template_error(templates, counts.truth.templates)
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
