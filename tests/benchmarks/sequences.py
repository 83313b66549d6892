"""Sequences of 60 units: joint templates, seqNMF and PP-Seq, each in a process of its own.

Events and templates are those of 300 s; predictions are of every fourth bin of another 100 s, from
the other bins.  Joint templates have the settings of `spikecdl fit`, seqNMF the penalty at which
the normalised costs of reconstruction and correlation cross (Mackevicius, Bahle et al., eLife
2019), and PP-Seq the true numbers of events and of their spikes; the threshold for seqNMF's events
is the best one by the truth.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import outside
import pandas as pd
from machine import peak_memory
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from timing import Row, Settings, Skip, duration

from spikecdl import DCEA, BinnedSpikes, Poisson
from spikecdl.baselines import PPSeq
from spikecdl.conversion import hidden_in_turn, hide
from spikecdl.evaluation.metrics import deviance_explained, event_rates, template_error
from spikecdl.simulate import random_events

#: Rates at rest and at the peak (Hz), share of units, jitter of latencies (bins), durations.
RECORDINGS = {
    "2 Hz to 20 Hz, 60 % of units": (2.0, 20.0, 0.6, 0.0, (1.0, 1.0)),
    "3 Hz to 15 Hz, 40 % of units": (3.0, 15.0, 0.4, 0.0, (1.0, 1.0)),
    "2 Hz to 20 Hz, 60 % of units, jitter of 30 ms": (2.0, 20.0, 0.6, 3.0, (1.0, 1.0)),
    "2 Hz to 20 Hz, 60 % of units, durations of 0.7 to 1.4": (2.0, 20.0, 0.6, 0.0, (0.7, 1.4)),
}
_BIN, _LENGTH, _BUMP, _COUNT = 0.01, 50, 3.0, 2  # seconds; bins of a sequence and of a bump
_SETTINGS = {"layout": "joint", "trainer": "marginal", "random_state": 0}
_NEAR = 5.0  # bins from a true event
_N_FOLDS = 4
_SEEDS = 3
_SHRINKAGE = np.linspace(0, 1, 11)  # toward the unit's mean
_THRESHOLDS = np.linspace(0.05, 0.8, 16)  # of a template's largest code
_PENALTIES = np.array([-4.0, -3.0, -2.5, -2.0, -1.5])  # log10
_SMOOTHING, _TRIED_BINS = 2.0, 3_000


@dataclass(frozen=True)
class Found:
    """Profiles of the rate (template, unit, bin), tables of events, and a way to predict."""

    profiles: np.ndarray
    events: list[pd.DataFrame]  # of which the best is taken, with the columns template and onset
    predict: Callable[[BinnedSpikes], np.ndarray]


@dataclass(frozen=True)
class Recording:
    """Counts to learn from and to predict, true profiles of the rate, and events."""

    train: BinnedSpikes
    test: BinnedSpikes
    profiles: np.ndarray
    events: pd.DataFrame


def measure(settings: Settings) -> Iterator[Row]:
    """Hits, false events, templates and predictions of each method on each recording."""
    n_seeds = 1 if settings.quick else min(settings.seeds, _SEEDS)
    for name in list(RECORDINGS)[: 1 if settings.quick else None]:
        for method in METHODS:
            runs = [_in_a_process(name, method, seed, settings.quick) for seed in range(n_seeds)]
            if "skipped" in runs[0]:
                yield Row(f"sequences, {method}", note=f"skipped: {runs[0]['skipped']}")
                continue
            table = pd.DataFrame(runs)
            mean, low, high = table.mean(), table.min(), table.max()
            text = f"{mean.hits:.2f} hit, {mean.false:.2f} false"
            note = (
                f"{low.hits:.2f}-{high.hits:.2f}, {low.false:.2f}-{high.false:.2f}; correlation "
                f"{mean.correlation:.2f} ({low.correlation:.2f}-{high.correlation:.2f}); explained "
                f"{mean.plain:.4f} ({low.plain:.4f}-{high.plain:.4f}), shrunk {mean.shrunk:.4f}; "
                f"{duration(mean.seconds)} of processors; {mean.memory:.0f} MB"
            )
            column = {"package" if method.startswith("DCEA") else "yardstick": text}
            yield Row(f"sequences, {method}, {name}", note=note, **column)


def draw(name: str, seed: int, quick: bool = False) -> Recording:
    """Draw two recordings with the same two sequences, whose events vary as named."""
    rate, peak, part, jitter, durations = RECORDINGS[name]
    rng, n_units = np.random.default_rng(seed), 20 if quick else 60
    centre = rng.uniform(-0.45, 0.45, (_COUNT, n_units)) * _LENGTH
    height = np.log(peak / rate) * (rng.random((_COUNT, n_units)) < part)
    mean = rng.gamma(8, rate / 8, n_units) * _BIN

    def drawn(seconds: float) -> tuple[BinnedSpikes, pd.DataFrame]:
        n_bins = round(seconds / _BIN)
        eta, n_events = np.zeros((n_units, n_bins)), round(seconds / 6)
        onsets = n_bins - 2 * _LENGTH
        events = random_events((1, 1, _COUNT), onsets, _LENGTH, 0.0, n_events, rng)
        for kind, first in zip(events["template"], events["onset"], strict=True):
            middle = rng.uniform(*durations) * centre[kind] + jitter * rng.normal(size=n_units)
            eta[:, first : first + 2 * _LENGTH] += _bumps(height[kind], middle, 2 * _LENGTH)
        counts = rng.poisson(np.exp(eta) * mean[:, None])
        return BinnedSpikes.from_array(counts[None], _BIN), events.assign(
            onset=events["onset"] + _LENGTH // 2
        )

    train, events = drawn(60.0 if quick else 300.0)
    rises = np.expm1([_bumps(h, c, _LENGTH) for h, c in zip(height, centre, strict=True)])
    return Recording(train, drawn(30.0 if quick else 100.0)[0], rises * mean[:, None], events)


def _bumps(height: np.ndarray, middle: np.ndarray, n_bins: int) -> np.ndarray:
    late = np.arange(n_bins) + 0.5 - n_bins / 2 - middle[:, None]
    return height[:, None] * np.exp(-0.5 * np.square(late / _BUMP))


def joint_templates(recording: Recording) -> Found:
    """Learn joint templates, as `spikecdl fit` does."""
    model = DCEA(_COUNT, _LENGTH * _BIN, "poisson", **_SETTINGS)
    parts = model.fit(recording.train).decompose(recording.train)
    events, mean = parts.events(), parts.baseline[0][:, None] * _BIN
    size = events["amplitude"].median()
    events = events.assign(onset=np.rint(events["time"] / _BIN).astype(int))
    return Found(np.expm1(parts.templates * size) * mean, [events], lambda y: model.predict(y)[0])


def pp_seq(recording: Recording) -> Found:
    """Learn with the true numbers of events and of their spikes."""
    model = PPSeq(
        _COUNT,
        _LENGTH * _BIN,
        spikes_per_event=recording.profiles.sum() / _COUNT,
        event_rate=len(recording.events) / recording.train.duration,
    ).fit(recording.train)
    late = np.arange(-_LENGTH, _LENGTH) * _BIN - model.offset_[..., None]
    width = model.width_[..., None]
    profiles = model.share_[..., None] * np.exp(-0.5 * np.square(late / width)) / width
    events = model.events_.assign(onset=np.rint(model.events_["time"] / _BIN) - _LENGTH)
    return Found(profiles, [events], lambda y: model.predict(y)[0])


def seqnmf(recording: Recording) -> Found:
    """Learn with the penalty at which two costs cross, in a part of the recording."""
    y = gaussian_filter1d(recording.train.counts[0].astype(float), _SMOOTHING, axis=1)
    fit = outside.seqnmf(y, _COUNT, _LENGTH, _crossing(y[:, :_TRIED_BINS]), 0)
    template, onset = outside.peaks(fit.codes[0], _LENGTH // 2, share=0)
    events = pd.DataFrame({"template": template, "onset": onset})
    share = fit.codes[0][template, onset] / fit.codes[0].max(1)[template]

    def predict(seen: BinnedSpikes) -> np.ndarray:
        known = fit.templates
        return outside.seqnmf(seen.counts[0], _COUNT, _LENGTH, 0.0, 0, seen.mask[0], known).mean

    return Found(fit.templates, [events[share >= least] for least in _THRESHOLDS], predict)


def _crossing(y: np.ndarray) -> float:
    """Return the penalty at which the costs cross, if each goes from 0 to 1."""
    fits = [outside.seqnmf(y, _COUNT, _LENGTH, 10.0**penalty, 0) for penalty in _PENALTIES]
    costs = np.array([(np.square(y - fit.mean).sum(), _correlation(y, fit)) for fit in fits])
    costs = (costs - costs.min(0)) / np.maximum(np.ptp(costs, axis=0), 1e-12)
    above = costs[:, 0] - costs[:, 1]
    last = max(1, int(np.argmax(above > 0)))
    return 10.0 ** float(
        np.interp(0.0, above[last - 1 : last + 1], _PENALTIES[last - 1 : last + 1])
    )


def _correlation(y: np.ndarray, fit: outside.Found) -> float:
    """Return the cost of correlated sequences, which the penalty multiplies."""
    n_bins, codes = y.shape[1], fit.codes[0][:, : y.shape[1]]
    padded = np.pad(y, ((0, 0), (0, _LENGTH)))
    score = sum(fit.templates[..., k] @ padded[:, k : k + n_bins] for k in range(_LENGTH))
    width = 2 * _LENGTH - 1
    products = uniform_filter1d(score, width, axis=1, mode="constant") * width
    products = products[:, : codes.shape[1]] @ codes.T
    return float(products.sum() - np.trace(products))


METHODS = {"DCEA": joint_templates, "seqNMF": seqnmf, "PP-Seq": pp_seq}


def scored(recording: Recording, found: Found) -> dict[str, float]:
    """Compare with the truth; events and templates are those of the best threshold."""
    norms = np.linalg.norm(found.profiles, axis=(1, 2), keepdims=True)
    profiles = np.where(norms > 0, found.profiles, 1.0)  # a template without events is a constant
    error = template_error(profiles, recording.profiles)
    names = {each: true for true, each in enumerate(error.assignment) if each >= 0}
    rates, true = [], recording.events.assign(time=recording.events["onset"])
    for table in found.events:
        kept = table[table["template"].isin(names)]
        name = kept["template"].map(names).to_numpy(int)
        mine = {"template": name, "time": kept["onset"].to_numpy() - error.shifts[name]}
        hits = event_rates(mine, true[["template", "time"]], _NEAR).hits
        rates.append((2 * hits / (len(true) + len(table)), hits, len(table)))
    _, hits, number = max(rates)
    hidden = next(hidden_in_turn(recording.test.n_bins, _N_FOLDS))
    mean, y = found.predict(hide(recording.test, hidden))[:, hidden], recording.test.counts[0]
    null = y[:, ~hidden].mean(1, keepdims=True)
    explained = [
        deviance_explained(
            y[:, hidden], np.maximum((1 - share) * mean + share * null, 1e-9), null, Poisson()
        )
        for share in _SHRINKAGE
    ]
    return {
        "hits": hits / len(true),
        "false": 1 - hits / max(number, 1),
        "correlation": float(np.sqrt(1 - np.square(error.errors)).mean()),
        "plain": explained[0],
        "shrunk": max(explained),
    }


def _in_a_process(name: str, method: str, seed: int, quick: bool) -> dict[str, float]:
    command = [sys.executable, __file__, name, method, str(seed), *["quick"] * quick]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def _run(name: str, method: str, seed: int, quick: bool) -> dict[str, float]:
    recording, began = draw(name, seed, quick), time.process_time()
    found = METHODS[method](recording)
    spent = {"seconds": time.process_time() - began, "memory": peak_memory()}
    return scored(recording, found) | spent


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        print(json.dumps(_run(*sys.argv[1:3], int(sys.argv[3]), len(sys.argv) > 4)))
    except Skip as reason:
        print(json.dumps({"skipped": str(reason)}))
