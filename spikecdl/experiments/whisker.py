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

from spikecdl import datasets
from spikecdl.baselines import BCOMP, GLM, PSTH, Basis, ConstantRate, onsets
from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
from spikecdl.estimator import DCEA
from spikecdl.evaluation import heldout
from spikecdl.evaluation.goodness_of_fit import TimeRescaling, rescale
from spikecdl.experiments.onsets import after_onsets, onset_hits
from spikecdl.experiments.result import Options, Result
from spikecdl.io import read_nwb
from spikecdl.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spikecdl.data import Decomposition

    pass

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
            "scores": scores(of_first),
            "templates": templates(first, ONSETS),
            "intervals": intervals(first),
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


_MARKERS = "osD^vP*Xh"
_PANEL, _COLUMNS = (7.5, 1.9), 3
_COMPARED = ("DCEA", "PSTH", "constant rate")  # whose rescaled intervals are shown


@style.styled
def scores(table: pd.DataFrame) -> Figure:
    """Draw the deviance explained of each unit and stimulus, a mark for each method."""
    rows = table[table["method"] != "constant rate"]
    places = list(dict.fromkeys(zip(rows["recording"], rows["unit"], strict=True)))
    ax = style.axes_array(None, (1, 1), (7.5, 4.2))[0, 0]
    for number, (method, of_method) in enumerate(rows.groupby("method", sort=False)):
        main, ours = method == "DCEA", "DCEA" in method
        keys = zip(of_method["recording"], of_method["unit"], strict=True)
        at = np.array([places.index(key) for key in keys]) + (number - 3.5) * 0.08
        ax.plot(
            at,
            of_method["deviance_explained"],
            _MARKERS[number],
            color=style.PALETTE[1] if ours else style.PALETTE[(0, 2, 3, 5)[number % 4]],
            markerfacecolor=None if main else "none",
            markersize=8 if main else 6,
            zorder=3 if main else 2,
            label=method,
        )
    names = [f"{recording.replace('_', chr(10))}\nunit {unit}" for recording, unit in places]
    ax.set(xticks=range(len(places)), xticklabels=names, ylabel="deviance explained, test trials")
    ax.set_xlim(-0.5, len(places) - 0.5)
    ax.grid(axis="y", color=style.UNSEEN)
    style.tidy(ax)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return ax.figure


@style.styled
def templates(fits: Sequence[Fit], onsets: np.ndarray) -> Figure:
    """Draw the rate around a deflection: the template of DCEA, and the average over cycles."""
    chosen = [
        (fit.recording.name, place, fit.parts)
        for fit in fits
        if fit.method.name == "DCEA" and fit.parts is not None
        for place in range(fit.parts.counts.n_units)
    ]
    axes = style.wrapped(None, len(chosen), _COLUMNS, _PANEL, sharex=True)
    for ax, (name, place, parts) in zip(axes, chosen, strict=True):
        _draw_template(ax, parts, place, onsets)
        ax.set_title(f"{name}, {style.unit_title(parts.counts.unit_ids[place])}")
    return _labelled(axes, "time from the deflection (ms)", "rate (Hz)")


def _draw_template(ax: Axes, parts: Decomposition, place: int, onsets: np.ndarray) -> None:
    """Draw the mean rate after an onset as counted, and as fitted by templates and codes."""
    counts = parts.counts
    n_bins = parts.templates.shape[-1]
    where = (onsets, counts.t_start, counts.bin_size, n_bins)
    time = 1e3 * counts.bin_size * np.arange(n_bins + 1)
    measured = after_onsets(counts.rate()[0, place], *where)
    ax.stairs(measured, time, fill=True, color=style.DATA, alpha=0.6, label="counted")
    fitted = after_onsets(parts.rate[0, place], *where)
    ax.stairs(fitted, time, color=style.PALETTE[1], linewidth=1.6, baseline=None, label="DCEA")
    ax.set_ylim(bottom=0)
    style.tidy(ax)


@style.styled
def intervals(fits: Sequence[Fit]) -> Figure:
    """Draw the rescaled intervals of single test trials against their law, less their law."""
    compared = [fit for fit in fits if fit.method.name in _COMPARED]
    panels = [
        (fit.recording.name, place)
        for fit in compared
        if fit.method.name == "DCEA"
        for place in range(len(fit.intervals.unit_ids))
    ]
    axes = style.wrapped(None, len(panels), _COLUMNS, _PANEL, sharex=True, sharey=True)
    for ax, (name, place) in zip(axes, panels, strict=True):
        for number, label in enumerate(_COMPARED):
            fit = next(f for f in compared if (f.recording.name, f.method.name) == (name, label))
            uniforms = np.sort(fit.intervals.uniforms[place])
            expected = (np.arange(len(uniforms)) + 0.5) / len(uniforms)
            colour = (style.PALETTE[1], style.PALETTE[0], style.MUTED)[number]
            ax.plot(expected, uniforms - expected, color=colour, label=label)
        band = fit.intervals.band[place]
        ax.axhspan(-band, band, color=style.UNSEEN, zorder=0)
        ax.set_title(f"{name}, {style.unit_title(fit.intervals.unit_ids[place])}")
        style.tidy(ax)
    return _labelled(axes, "quantile of the uniform law", "difference")


def _labelled(axes: np.ndarray, xlabel: str, ylabel: str) -> Figure:
    """Label the outer panels, put the legend above all, and return their figure."""
    for ax in axes[::_COLUMNS]:
        ax.set_ylabel(ylabel)
    for ax in axes[-_COLUMNS:]:
        ax.set_xlabel(xlabel)
    figure = axes[0].figure
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=_COLUMNS)
    return figure
