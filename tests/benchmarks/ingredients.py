"""Spikes that are not as the model says: what a fit adds, and events with and without it.

One template of 100 ms in windows of 3 s at 15 Hz, in bins of 5 ms.  Events are compared with the
truth at the best common shift of a template.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from timing import Row, Settings

from spikecdl import DCEA
from spikecdl.config import INGREDIENTS

_BIN, _LENGTH, _BINS, _RATE, _EVENTS = 0.005, 20, 600, 15.0, 0.7
_NEAR, _SHIFTS = 3, range(-8, 9)  # bins
_NONE = dict.fromkeys(INGREDIENTS)
_EDGES = np.linspace(0.5, 1, 6)  # of the probabilities that are drawn together
_x = np.arange(_LENGTH) / _LENGTH
TEMPLATE = _x * np.exp(-8 * _x) / np.linalg.norm(_x * np.exp(-8 * _x))

#: What spikes do, by case, and how many events begin in a second.
CASES = {
    "as the model says": _EVENTS,
    "Fano factor 1.3": _EVENTS,
    "bursts after 30 %": _EVENTS,
    "bursts after 10 %": _EVENTS,
    "bursts after 30 %, no event": 0.0,
    "drift": _EVENTS,
    "drift, no event": 0.0,
    "gain of each window": _EVENTS,
    "responses at one time": _EVENTS,
    "refractory at 60 Hz": _EVENTS,
}


def simulate(case: str, seed: int, n_windows: int) -> tuple[np.ndarray, list[list[int]]]:
    """Return counts (window, bin) of a case, and the onsets of events in each window."""
    rng = np.random.default_rng(seed)
    log, onsets = np.zeros((n_windows, _BINS)), []
    locked = case.startswith("responses")
    for window in log:
        at: list[int] = []
        number = rng.random() < 0.7 if locked else rng.poisson(CASES[case] * _BINS * _BIN)
        for _ in range(number):
            onset = int(rng.integers(0, _BINS - _LENGTH + 1))
            onset = round(0.4 * _BINS + 6 * rng.standard_normal()) if locked else onset
            if all(abs(onset - other) >= _LENGTH for other in at):
                at.append(onset)
                window[onset : onset + _LENGTH] += rng.uniform(6, 9) * TEMPLATE
        onsets.append(at)
    if case.startswith("drift"):
        phase = 2 * np.pi * (1.5 * np.arange(log.size) / log.size + rng.random())
        log += 0.8 * np.sin(phase).reshape(log.shape)
    if case.startswith("gain"):
        log += 0.3 * rng.standard_normal((n_windows, 1))
    if case.startswith("refractory"):
        return _refractory(4 * _RATE * np.exp(log), rng), onsets
    mean = _RATE * _BIN * np.exp(log)
    if case.startswith("Fano"):
        return rng.poisson(rng.gamma(mean / 0.3, 0.3)), onsets
    counts = rng.poisson(mean)
    if case.startswith("bursts"):
        share = 0.3 if "30" in case else 0.1
        for i, first in np.argwhere(counts > 0):
            spike = (first + rng.random()) * _BIN
            for _ in range(rng.integers(1, 4) * (rng.random() < share)):
                spike += rng.uniform(0.003, 0.008)
                if spike < _BINS * _BIN:
                    counts[i, int(spike / _BIN)] += 1
    return counts, onsets


def _refractory(rate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw spikes, in steps of 1 ms, that rarely follow another within about 12 ms."""
    counts, age = np.zeros(rate.shape, int), np.full(len(rate), 1.0)
    for bin_ in range(rate.shape[1]):
        for _ in range(round(_BIN / 0.001)):
            recovered = 1 - np.exp(-np.maximum(age - 0.004, 0) / 0.004)
            spike = rng.random(len(rate)) < 1.4 * rate[:, bin_] * 0.001 * recovered
            age = np.where(spike, 0.001, age + 0.001)
            counts[:, bin_] += spike
    return counts


def measure(settings: Settings) -> Iterator[Row]:
    """Hits, false events and the own account of a fit with what it adds, and without."""
    curves: dict[str, dict[str, pd.DataFrame]] = {}
    for case in CASES:
        seeds = range(settings.seeds)
        tables = {
            name: pd.DataFrame([_fit(case, seed, settings.quick, more) for seed in seeds])
            for name, more in (("without", _NONE), ("with", {}))
        }
        curves[case] = {
            name: pd.concat(list(table.pop("events"))) for name, table in tables.items()
        }
        medians = {name: table.drop(columns="added").median() for name, table in tables.items()}
        number = tables["with"]["added"].value_counts()
        yield Row(
            f"ingredients, {case}",
            _described(medians["without"]),
            _described(medians["with"]),
            f"{medians['with'].seconds / medians['without'].seconds:.1f} x time",
            "added: " + ", ".join(f"{name} ({count})" for name, count in number.items()),
        )
    if settings.figures is not None:
        _draw(curves, settings.figures / "calibration.png")


def _described(median: pd.Series) -> str:
    return (
        f"hits {median.hits:.2f}, false {median.false:.2f} (own account {median.own:.2f}), "
        f"{median.listed:.0f} events"
    )


def _fit(case: str, seed: int, quick: bool, more: dict[str, None]) -> dict[str, object]:
    counts, onsets = simulate(case, seed, 8 if quick else 80)
    began = time.perf_counter()
    model = DCEA(1, 0.1, "poisson", bin_size=_BIN, random_state=0, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of no events
        model.fit(counts)
    seconds = time.perf_counter() - began
    table = model.decompose(counts).events()
    found = max((_true(table, onsets, shift) for shift in _SHIFTS), key=np.sum)
    hits, listed, true = int(found.sum()), len(table), sum(map(len, onsets))
    added = [name for name, one in model.ingredients_.items() if one["value"] is not None]
    return {
        "hits": hits / true if true else np.nan,
        "false": (listed - hits) / max(listed, 1),
        "own": float((1 - table["probability"]).mean()) if listed else 0.0,
        "listed": listed,
        "seconds": seconds,
        "added": " and ".join(added) or "nothing",
        "events": pd.DataFrame({"said": table["probability"], "true": found}),
    }


def _true(table: pd.DataFrame, onsets: list[list[int]], shift: int) -> np.ndarray:
    """Return which events are at most 15 ms from a true one of their own."""
    found = np.zeros(len(table), bool)
    for window, mine in table.groupby("trial"):
        free = [onset + shift for onset in onsets[int(window)]]
        for row, onset in (mine["time"] / _BIN).items():
            near = [other for other in free if abs(other - onset) <= _NEAR]
            found[row] = bool(near)
            if near:
                free.remove(near[0])
    return found


def _draw(curves: Mapping[str, Mapping[str, pd.DataFrame]], path: Path) -> None:
    """Draw the share of events that are true against their probability, a panel for each case."""
    figure = Figure((9, 4.2), layout="constrained")
    axes = figure.subplots(2, 5, sharex=True, sharey=True).ravel()
    for ax, (case, tables) in zip(axes, curves.items(), strict=True):
        ax.plot([0.5, 1], [0.5, 1], color=".8", linewidth=1)
        for (name, table), colour in zip(tables.items(), (".5", "C0"), strict=True):
            label = {"without": "nothing added", "with": "by default"}[name]
            bins = np.digitize(table["said"], _EDGES[1:-1])
            each = table.assign(true=table["true"].astype(float)).groupby(bins)
            shares = each.mean()[each.size() >= 10]  # fewer say little
            ax.plot(shares["said"], shares["true"], "o-", color=colour, markersize=3, label=label)
        ax.set_title(case.replace(", ", ",\n"), fontsize=8)
        ax.set(xlim=(0.48, 1.02), ylim=(-0.05, 1.05))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=7)
    figure.supxlabel("probability of events", fontsize=9)
    figure.supylabel("share of true events", fontsize=9)
    figure.savefig(path, dpi=150)
