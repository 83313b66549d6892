"""Thalamic units under periodic whisker deflection: DCEA beside its rivals.

Templates and codes come from some trials of a stimulus, all pooled; the rate that they give is
scored on the other trials.  A trial has 16 deflections at known times, of which only the models
that say so are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl import datasets, heldout
from spikecdl.baselines import BCOMP, GLM, PSTH, Basis, ConstantRate, onsets
from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
from spikecdl.estimator import DCEA
from spikecdl.experiments import _whisker_figures as figures
from spikecdl.experiments._onsets import after_onsets, onset_hits
from spikecdl.experiments.result import Options, Result
from spikecdl.goodness_of_fit import TimeRescaling, rescale
from spikecdl.io import read_nwb

if TYPE_CHECKING:
    import pandas as pd

RECORDINGS = tuple(f"dir{d}_stim{s}" for d in (3, 16) for s in (1, 2, 3))
BIN_SIZE, LENGTH, FAMILY = 0.005, 0.125, "binomial"
ONSETS = 0.5 + 0.125 * np.arange(16)
TOLERANCE = 0.01
_SAMPLE = 1e-3  # seconds, of the displacement
_N_FIRST = 30  # trials that the follow-up paper fits, of 50


@dataclass(frozen=True)
class Split:
    """Which trials of a recording are fitted; the others are the test."""

    name: str
    fitted: Callable[[pd.DataFrame], pd.Series]

    def counts(self, spikes: SpikeTrains) -> tuple[BinnedSpikes, BinnedSpikes]:
        """Return the counts of the trials to fit, and of those to test."""
        assert spikes.trials is not None
        chosen = self.fitted(spikes.trials)
        ids = spikes.trials.index
        seen, unseen = (spikes.bin(BIN_SIZE, trials=list(ids[c])) for c in (chosen, ~chosen))
        return seen, unseen


SPLITS = (
    Split("of the file", lambda trials: trials["split"] == "train"),
    Split("first 30", lambda trials: trials.index.to_series().rank() <= _N_FIRST),
)


@dataclass(frozen=True)
class Recording:
    """Spikes under one stimulus, and that stimulus in bins of a trial, shape (signal, bin)."""

    name: str
    spikes: SpikeTrains
    stimulus: np.ndarray


@dataclass(frozen=True)
class Method:
    """A model by name, made from a recording and a seed; ``apart``: for each unit on its own."""

    name: str
    make: Callable[[Recording, int], Any]
    apart: bool = False


def _dcea(n_templates: int, layout: str) -> Callable[[Recording, int], DCEA]:
    return lambda _, seed: DCEA(n_templates, LENGTH, FAMILY, layout=layout, random_state=seed)


def _stimulus_glm(recording: Recording, _: int) -> GLM:
    signals = recording.stimulus[:, None, None]
    return GLM(FAMILY, stimulus=lambda counts: signals, response=Basis(LENGTH), ridge=1.0)


def _onset_glm(*_: Any) -> GLM:
    response = Basis(LENGTH, size=None)
    return GLM(FAMILY, stimulus=onsets(ONSETS), response=response, ridge=1e-3)


METHODS = (
    Method("constant rate", lambda *_: ConstantRate()),
    Method("PSTH", lambda *_: PSTH()),
    Method("GLM, stimulus", _stimulus_glm),
    Method("GLM, known onsets", _onset_glm),
    Method("BCOMP", lambda _, seed: BCOMP(1, LENGTH, FAMILY, random_state=seed), apart=True),
    Method("DCEA", _dcea(1, "joint")),
    Method("DCEA, two templates", _dcea(2, "joint")),
    Method("DCEA, units apart", _dcea(1, "shared"), apart=True),
    Method("DCEA, one waveform", _dcea(1, "shared")),
)
ORACLE = "GLM, known onsets"


@dataclass(frozen=True)
class Fit:
    """A method on units of a recording, and what it expects of trials that it has not seen.

    Parameters
    ----------
    recording, split, method
        What was fitted.
    pooled : HeldOut
        Test trials, pooled.
    intervals : TimeRescaling
        Of single test trials.
    parts : Decomposition or None
        Of the pooled trials that were fitted, by a model that has events.
    seconds : float
        Time to fit.
    """

    recording: Recording
    split: Split
    method: Method
    pooled: heldout.HeldOut
    intervals: TimeRescaling
    parts: Decomposition | None
    seconds: float


def run(options: Options) -> Result:
    """Fit every method to every recording and split; to two recordings in the quick version."""
    import pandas as pd

    names, splits = (RECORDINGS[1::3], SPLITS[:1]) if options.quick else (RECORDINGS, SPLITS)
    fits: list[Fit] = []
    for recording in load(options.data, names):
        for split in splits:
            options.say(f"{recording.name}, trials {split.name}")
            for method in METHODS:
                fits += fit_method(recording, split, method, options.random_state)
    generator = np.random.default_rng(options.random_state)
    table = pd.DataFrame([row for fit in fits for row in _rows(fit, generator)])
    first = [fit for fit in fits if fit.split is splits[0]]
    of_first = table[table["split"] == splits[0].name]
    return Result(
        table=table,
        figures={
            "scores": figures.scores(of_first),
            "templates": figures.templates(first, ONSETS),
            "intervals": figures.intervals(first),
        },
        settings={
            "recordings": list(names),
            "splits": [split.name for split in splits],
            "bin_size": BIN_SIZE,
            "template_length": LENGTH,
            "family": FAMILY,
            "onset_tolerance": TOLERANCE,
        },
        findings=findings(of_first),
    )


def load(folder: Path | None, names: Sequence[str] = RECORDINGS) -> Iterator[Recording]:
    """Yield recordings: NWB files of a folder, or as they are published, downloaded.

    Raises
    ------
    ValueError
        If a file is not there.
    """
    for name in names:
        spikes, displacement = _fetched(name) if folder is None else _read(folder, name)
        binned = displacement.reshape(-1, round(BIN_SIZE / _SAMPLE)).mean(axis=1)
        yield Recording(name, spikes, np.stack([binned, np.gradient(binned)]))


def _fetched(name: str) -> tuple[SpikeTrains, np.ndarray]:
    """Return spikes, and the whisker's displacement in a trial, the same in all."""
    return datasets.fetch_whisker([name])[name], datasets.whisker_displacement(name)[0]


def _read(folder: Path, name: str) -> tuple[SpikeTrains, np.ndarray]:
    """Return the same of an NWB file."""
    import h5py

    path = folder / f"{name}.nwb"
    if not path.exists():
        raise ValueError(
            f"`data` (={str(folder)!r}) must be a folder that holds {path.name}; without it the "
            "recordings are downloaded"
        )
    with h5py.File(path, "r") as file:
        displacement = file["stimulus/presentation/whisker_displacement/data"][: round(3 / _SAMPLE)]
    return read_nwb(path), displacement


def fit_method(recording: Recording, split: Split, method: Method, seed: int) -> Iterator[Fit]:
    """Yield the fit of all units, or of each on its own."""
    seen, unseen = split.counts(recording.spikes)
    every = list(range(seen.n_units))
    for units in [[unit] for unit in every] if method.apart else [every]:
        pooled, single = seen.select(units=units).pool(), unseen.select(units=units)
        began = time.perf_counter()
        model = method.make(recording, seed).fit(pooled)
        seconds = time.perf_counter() - began
        expected = heldout.transfer(model, pooled, single, FAMILY).mean
        yield Fit(
            recording=recording,
            split=split,
            method=method,
            pooled=heldout.transfer(model, pooled, single.pool(), FAMILY),
            intervals=rescale(single, expected, FAMILY),
            parts=model.decompose(pooled) if hasattr(model, "decompose") else None,
            seconds=seconds,
        )


def _rows(fit: Fit, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield what was measured of each unit."""
    units = fit.pooled.counts.unit_ids
    for place, unit in enumerate(units):
        yield {
            "recording": fit.recording.name,
            "unit": unit,
            "split": fit.split.name,
            "method": fit.method.name,
            "deviance_explained": fit.pooled.deviance_explained_per_unit[place],
            "bits_per_spike": fit.pooled.bits_per_spike_per_unit[place],
            "ks_distance": fit.intervals.distance[place],
            "ks_band": fit.intervals.band[place],
            **_found(fit, place, generator),
            "seconds": fit.seconds,
        }


def _found(fit: Fit, place: int, generator: np.random.Generator) -> dict[str, float]:
    """Return the response of a unit and the onsets that its events hit; nothing without events."""
    parts = fit.parts
    if parts is None:
        return {}
    counts = parts.counts
    codes = parts.codes[0, place if parts.layout == "shared" else 0]
    times = [counts.times[np.flatnonzero(of_template)] for of_template in codes]
    found = onset_hits(times, ONSETS, TOLERANCE, counts.duration, BIN_SIZE, generator)
    n_bins = parts.templates.shape[-1]
    response = after_onsets(parts.rate[0, place], ONSETS, counts.t_start, BIN_SIZE, n_bins)
    return {
        "peak_hz": float(response.max()),
        "peak_ms": 1e3 * BIN_SIZE * (int(response.argmax()) + 0.5),
        "n_events": sum(map(len, times)),
        "hit_rate": found.hit_rate,
        "chance_hit_rate": found.chance_hit_rate,
        "hit_p_value": found.p_value,
        "false_alarm_rate": found.false_alarm_rate,
    }


def findings(table: pd.DataFrame) -> list[str]:
    """Return what the rows of one split say, in sentences."""
    scores = table.pivot_table(
        index=["recording", "unit"], columns="method", values="deviance_explained", sort=False
    )
    count = len(scores)
    lines = [
        f"deviance explained by DCEA, {count} units and stimuli: median "
        f"{scores['DCEA'].median():.3f}, from {scores['DCEA'].min():.3f} to "
        f"{scores['DCEA'].max():.3f}"
    ]
    for rival in scores.columns.drop("DCEA"):
        gain = scores["DCEA"] - scores[rival]
        lines.append(
            f"DCEA is better than {rival} on {int((gain > 0).sum())} of {count}, by a median of "
            f"{gain.median():+.3f} ({gain.min():+.3f} to {gain.max():+.3f})"
        )
    near = int((scores["DCEA"] > scores[ORACLE] - 0.03).sum())
    lines.append(f"DCEA is within 0.03 of the model that knows the onsets on {near} of {count}")
    of_events = table[table["hit_rate"].notna()].groupby("method", sort=False)
    for method, rows in of_events:
        lines.append(
            f"{method}: {rows['hit_rate'].mean():.0%} of the onsets hit within "
            f"{1e3 * TOLERANCE:g} ms (chance {rows['chance_hit_rate'].mean():.0%}), "
            f"{rows['false_alarm_rate'].mean():.0%} of its events false"
        )
    for method, rows in table.groupby("method", sort=False):
        inside = int((rows["ks_distance"] <= rows["ks_band"]).sum())
        lines.append(
            f"{method}: rescaled intervals of {inside} of {len(rows)} inside the 95 % band, "
            f"median distance {rows['ks_distance'].median():.3f}"
        )
    return lines
