"""Thalamic units under periodic whisker deflection: DCEA and its comparison methods.

Models are fitted to the pooled counts of some trials of a stimulus; the rates that they give are
scored on the other trials.  A trial has 16 deflections at known times, which only some of the
comparison methods are given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from spikecdl import datasets
from spikecdl.baselines import BCOMP, GLM, PSTH, Basis, ConstantRate, onsets
from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
from spikecdl.estimator import DCEA
from spikecdl.evaluation import heldout
from spikecdl.evaluation.goodness_of_fit import TimeRescaling, rescale
from spikecdl.experiments import Options, Result
from spikecdl.io import read_nwb
from spikecdl.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

RECORDINGS = tuple(f"dir{d}_stim{s}" for d in (3, 16) for s in (1, 2, 3))
BIN_SIZE, LENGTH, FAMILY = 0.005, 0.125, "binomial"
ONSETS = 0.5 + 0.125 * np.arange(16)  # of the deflections, in seconds
TOLERANCE = 0.01  # seconds
_SAMPLE = 1e-3  # seconds, of the displacement
_N_FIRST = 30  # trials that the follow-up paper fits, of 50
_RANDOM_DRAWS = 500  # sets of events at random times

#: Rules by name that mark the trials to fit; the others are the test trials.
SPLITS: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "of the file": lambda trials: trials["split"] == "train",
    "first 30": lambda trials: trials.index.to_series().rank() <= _N_FIRST,
}


def split_counts(spikes: SpikeTrains, split: str) -> tuple[BinnedSpikes, BinnedSpikes]:
    """Return the counts of the trials to fit and of the test trials."""
    assert spikes.trials is not None
    chosen, ids = SPLITS[split](spikes.trials), spikes.trials.index
    fitted, test = (spikes.bin(BIN_SIZE, trials=list(ids[c])) for c in (chosen, ~chosen))
    return fitted, test


@dataclass(frozen=True)
class Recording:
    """Spikes under one stimulus, and that stimulus in the bins of a trial, shape (signal, bin)."""

    name: str
    spikes: SpikeTrains
    stimulus: np.ndarray


@dataclass(frozen=True)
class Method:
    """A model made from a recording and a seed; ``apart``: one for each unit."""

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


KNOWN_ONSETS = "GLM, known onsets"
METHODS = (
    Method("constant rate", lambda *_: ConstantRate()),
    Method("PSTH", lambda *_: PSTH()),
    Method("GLM, stimulus", _stimulus_glm),
    Method(KNOWN_ONSETS, _onset_glm),
    Method("BCOMP", lambda _, seed: BCOMP(1, LENGTH, FAMILY, random_state=seed), apart=True),
    Method("DCEA", _dcea(1, "joint")),
    Method("DCEA, two templates", _dcea(2, "joint")),
    Method("DCEA, units apart", _dcea(1, "shared"), apart=True),
    Method("DCEA, one waveform", _dcea(1, "shared")),
)


@dataclass(frozen=True)
class Fit:
    """A method fitted to units of a recording, and its predictions of the test trials."""

    recording: str
    split: str
    method: str
    pooled: heldout.HeldOut  # pooled test trials
    intervals: TimeRescaling  # rescaled intervals of single test trials
    parts: Decomposition | None  # of the pooled fitted trials; None for a model without events
    seconds: float  # time to fit


def run(options: Options) -> Result:
    """Fit every method to every recording and split (quick: two recordings, one split)."""
    import pandas as pd

    names, splits = RECORDINGS, list(SPLITS)
    if options.quick:
        names, splits = names[1::3], splits[:1]
    fits: list[Fit] = []
    for recording in load(options.data, names):
        for split in splits:
            options.say(f"{recording.name}, trials {split}")
            for method in METHODS:
                fits += fit_method(recording, split, method, options.random_state)
    generator = np.random.default_rng(options.random_state)
    table = pd.DataFrame([row for fit in fits for row in _rows(fit, generator)])
    first = [fit for fit in fits if fit.split == splits[0]]
    of_first = table[table["split"] == splits[0]]
    return Result(
        table=table,
        figures={
            "scores": scores(of_first),
            "templates": templates(first),
            "intervals": intervals(first),
        },
        settings={
            "recordings": list(names),
            "splits": splits,
            "bin_size": BIN_SIZE,
            "template_length": LENGTH,
            "family": FAMILY,
            "onset_tolerance": TOLERANCE,
        },
        findings=findings(of_first),
    )


def load(folder: Path | None, names: Sequence[str] = RECORDINGS) -> Iterator[Recording]:
    """Yield recordings: NWB files of a folder, or (if None) the published files, downloaded."""
    import h5py

    for name in names:
        if folder is None:
            spikes = datasets.fetch_whisker([name])[name]
            displacement = datasets.whisker_displacement(name)[0]  # the same in all trials
        else:
            path = folder / f"{name}.nwb"
            if not path.exists():
                raise ValueError(
                    f"`data` (={str(folder)!r}) must be a folder that holds {path.name}; leave "
                    "`data` out to download the recordings"
                )
            spikes = read_nwb(path)
            with h5py.File(path, "r") as file:
                trials = file["stimulus/presentation/whisker_displacement/data"]
                displacement = trials[: round(3 / _SAMPLE)]
        binned = displacement.reshape(-1, round(BIN_SIZE / _SAMPLE)).mean(axis=1)
        yield Recording(name, spikes, np.stack([binned, np.gradient(binned)]))


def fit_method(recording: Recording, split: str, method: Method, seed: int) -> Iterator[Fit]:
    """Yield the fit of all units, or one fit per unit."""
    fitted, test = split_counts(recording.spikes, split)
    every = list(range(fitted.n_units))
    for units in [[unit] for unit in every] if method.apart else [every]:
        pooled, single = fitted.select(units=units).pool(), test.select(units=units)
        began = time.perf_counter()
        model = method.make(recording, seed).fit(pooled)
        seconds = time.perf_counter() - began
        expected = heldout.transfer(model, pooled, single, FAMILY).mean
        yield Fit(
            recording=recording.name,
            split=split,
            method=method.name,
            pooled=heldout.transfer(model, pooled, single.pool(), FAMILY),
            intervals=rescale(single, expected, FAMILY),
            parts=model.decompose(pooled) if hasattr(model, "decompose") else None,
            seconds=seconds,
        )


def _rows(fit: Fit, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield the scores of each unit."""
    for index, unit in enumerate(fit.pooled.counts.unit_ids):
        yield {
            "recording": fit.recording,
            "unit": unit,
            "split": fit.split,
            "method": fit.method,
            "deviance_explained": fit.pooled.deviance_explained_per_unit[index],
            "bits_per_spike": fit.pooled.bits_per_spike_per_unit[index],
            "ks_distance": fit.intervals.distance[index],
            "ks_band": fit.intervals.band[index],
            **(_event_scores(fit.parts, index, generator) if fit.parts is not None else {}),
            "seconds": fit.seconds,
        }


def _event_scores(
    parts: Decomposition, index: int, generator: np.random.Generator
) -> dict[str, float]:
    """Return the response of a unit to a deflection, and the onsets that its events hit."""
    counts = parts.counts
    codes = parts.codes[0, index if parts.layout == "shared" else 0]
    times = [counts.times[np.flatnonzero(of_template)] for of_template in codes]
    found = onset_hits(times, ONSETS, TOLERANCE, counts.duration, BIN_SIZE, generator)
    response = _after_onsets(parts.rate[0, index], parts)
    return {
        "peak_hz": float(response.max()),
        "peak_ms": 1e3 * BIN_SIZE * (int(response.argmax()) + 0.5),
        "n_events": sum(map(len, times)),
        "hit_rate": found.hit_rate,
        "chance_hit_rate": found.chance_hit_rate,
        "hit_p_value": found.p_value,
        "false_alarm_rate": found.false_alarm_rate,
    }


def _after_onsets(values: np.ndarray, parts: Decomposition) -> np.ndarray:
    """Return values (bin,) averaged over deflections, for as many bins as a template has."""
    first = np.rint((ONSETS - parts.counts.t_start) / BIN_SIZE).astype(int)
    return values[first[:, None] + np.arange(parts.templates.shape[-1])].mean(axis=0)


@dataclass(frozen=True)
class OnsetHits:
    """Agreement of events with known onsets; made by `onset_hits`.

    Chance is that of as many events at random times, each set with its best lags.
    """

    hit_rate: float  # fraction of the onsets with an event within the tolerance
    false_alarm_rate: float  # fraction of the events that hit no onset; nan without events
    lags: tuple[float, ...]  # subtracted from the times of each template's events, in seconds
    chance_hit_rate: float
    p_value: float  # fraction of random sets, and the events, that hit as many onsets or more


def onset_hits(
    times: Sequence[ArrayLike],
    onsets: ArrayLike,
    tolerance: float,
    duration: float,
    bin_size: float,
    generator: np.random.Generator,
) -> OnsetHits:
    """Compare the events of each template with known onsets, all in seconds.

    The onset of a template is a convention, so all events of a template are shifted by the lag, a
    whole number of bins, that hits the most onsets.  The generator draws the random times.

    ``times`` has an array for each template; ``onsets`` are more than twice the tolerance apart.
    """
    known = np.asarray(onsets, dtype=float)
    n_lags = int(np.diff(known).min() / 2 / bin_size)
    lags = bin_size * np.arange(-n_lags, n_lags + 1)
    found = [np.asarray(one, dtype=float) for one in times]
    n_events = sum(map(len, found))
    n_hit, n_near, chosen = _hits(found, known, lags, tolerance)
    drawn = np.empty(_RANDOM_DRAWS)
    for draw in range(_RANDOM_DRAWS):
        random = [generator.uniform(0, duration, len(one)) for one in found]
        drawn[draw], _, _ = _hits(random, known, lags, tolerance)
    return OnsetHits(
        hit_rate=n_hit / len(known),
        false_alarm_rate=1 - n_near / n_events if n_events else float("nan"),
        lags=chosen,
        chance_hit_rate=float(drawn.mean() / len(known)),
        p_value=float((1 + (drawn >= n_hit).sum()) / (1 + _RANDOM_DRAWS)),
    )


def _hits(
    times: Sequence[np.ndarray], onsets: np.ndarray, lags: np.ndarray, tolerance: float
) -> tuple[int, int, tuple[float, ...]]:
    """Return the number of onsets hit, that of events near an onset, and each template's best lag.

    Among lags that hit as many onsets, the best one has the most events near an onset.
    """
    hit, n_near, chosen = np.zeros(len(onsets), dtype=bool), 0, []
    for one in times:
        distance = np.abs((one - lags[:, None])[..., None] - onsets)  # (lag, event, onset)
        close = distance <= tolerance + 1e-9  # seconds, for rounding
        hits, near = np.any(close, axis=1), np.any(close, axis=2).sum(axis=1)
        best = int(np.lexsort((near, hits.sum(axis=1)))[-1])
        hit |= hits[best]
        n_near += int(near[best])
        chosen.append(float(lags[best]))
    return int(hit.sum()), n_near, tuple(chosen)


def findings(table: pd.DataFrame) -> list[str]:
    """Describe the rows of one split in sentences."""
    explained = table.pivot_table(
        index=["recording", "unit"], columns="method", values="deviance_explained", sort=False
    )
    count, ours = len(explained), explained["DCEA"]
    lines = [
        f"deviance explained by DCEA, {count} units and stimuli: median {ours.median():.3f}, from "
        f"{ours.min():.3f} to {ours.max():.3f}"
    ]
    for method in explained.columns.drop("DCEA"):
        lead = ours - explained[method]
        lines.append(
            f"DCEA is better than {method} on {int((lead > 0).sum())} of {count}, by a median of "
            f"{lead.median():+.3f} ({lead.min():+.3f} to {lead.max():+.3f})"
        )
    near = int((ours > explained[KNOWN_ONSETS] - 0.03).sum())
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
_INTERVALS_OF = {"DCEA": style.PALETTE[1], "PSTH": style.PALETTE[0], "constant rate": style.MUTED}


@style.styled
def scores(table: pd.DataFrame) -> Figure:
    """Draw the deviance explained of each unit and stimulus, with a mark for each method."""
    rows = table[table["method"] != "constant rate"]
    units = list(dict.fromkeys(zip(rows["recording"], rows["unit"], strict=True)))
    ax = style.axes_array(None, (1, 1), (7.5, 4.2))[0, 0]
    for number, (method, of_method) in enumerate(rows.groupby("method", sort=False)):
        main, ours = method == "DCEA", "DCEA" in method
        keys = zip(of_method["recording"], of_method["unit"], strict=True)
        ax.plot(
            np.array([units.index(key) for key in keys]) + (number - 3.5) * 0.08,
            of_method["deviance_explained"],
            _MARKERS[number],
            color=style.PALETTE[1] if ours else style.PALETTE[(0, 2, 3, 5)[number % 4]],
            markerfacecolor=None if main else "none",
            markersize=8 if main else 6,
            zorder=3 if main else 2,
            label=method,
        )
    names = [f"{recording.replace('_', chr(10))}\nunit {unit}" for recording, unit in units]
    ax.set(xticks=range(len(units)), xticklabels=names, ylabel="deviance explained, test trials")
    ax.set_xlim(-0.5, len(units) - 0.5)
    ax.grid(axis="y", color=style.UNSEEN)
    style.tidy(ax)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return ax.figure


@style.styled
def templates(fits: Sequence[Fit]) -> Figure:
    """Draw the mean rate after a deflection, as counted and as fitted by DCEA."""
    panels = _panels(fits)
    axes = style.wrapped(None, len(panels), _COLUMNS, _PANEL, sharex=True)
    for ax, (fit, index) in zip(axes, panels, strict=True):
        parts = fit.parts
        assert parts is not None
        measured = _after_onsets(parts.counts.rate()[0, index], parts)
        fitted = _after_onsets(parts.rate[0, index], parts)
        edges = 1e3 * BIN_SIZE * np.arange(len(measured) + 1)
        ax.stairs(measured, edges, fill=True, color=style.DATA, alpha=0.6, label="counted")
        line = {"color": style.PALETTE[1], "linewidth": 1.6, "baseline": None}
        ax.stairs(fitted, edges, label="DCEA", **line)
        ax.set_ylim(bottom=0)
    return _labelled(axes, panels, "time from the deflection (ms)", "rate (Hz)")


@style.styled
def intervals(fits: Sequence[Fit]) -> Figure:
    """Draw quantiles of the rescaled intervals of test trials minus those of the uniform law."""
    panels = _panels(fits)
    axes = style.wrapped(None, len(panels), _COLUMNS, _PANEL, sharex=True, sharey=True)
    by_name = {(fit.recording, fit.method): fit.intervals for fit in fits}
    for ax, (fit, index) in zip(axes, panels, strict=True):
        for method, colour in _INTERVALS_OF.items():
            rescaled = by_name[fit.recording, method]
            uniforms = np.sort(rescaled.uniforms[index])
            expected = (np.arange(len(uniforms)) + 0.5) / len(uniforms)
            ax.plot(expected, uniforms - expected, color=colour, label=method)
        band = rescaled.band[index]
        ax.axhspan(-band, band, color=style.UNSEEN, zorder=0)
    return _labelled(axes, panels, "quantile of the uniform law", "difference")


def _panels(fits: Sequence[Fit]) -> list[tuple[Fit, int]]:
    """Return the fits of DCEA with each of their units."""
    ours = [fit for fit in fits if fit.method == "DCEA"]
    return [(fit, index) for fit in ours for index in range(fit.pooled.counts.n_units)]


def _labelled(axes: np.ndarray, panels: list[tuple[Fit, int]], xlabel: str, ylabel: str) -> Figure:
    """Add titles, labels of the outer panels and a legend, and return the figure."""
    for ax, (fit, index) in zip(axes, panels, strict=True):
        ax.set_title(f"{fit.recording}, {style.unit_title(fit.pooled.counts.unit_ids[index])}")
        style.tidy(ax)
    for ax in axes[::_COLUMNS]:
        ax.set_ylabel(ylabel)
    for ax in axes[-_COLUMNS:]:
        ax.set_xlabel(xlabel)
    figure = axes[0].figure
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=_COLUMNS)
    return figure
