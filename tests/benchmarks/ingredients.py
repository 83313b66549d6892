"""Spikes that are not as the model says: what a fit adds, and events with and without it.

One template of 100 ms in windows of 3 s at 15 Hz, in bins of 5 ms.  Events are compared with the
truth at the best common shift of a template.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from timing import Row, Settings

from spikecdl import DCEA

_BIN, _LENGTH, _BINS, _RATE, _EVENTS = 0.005, 20, 600, 15.0, 0.7
_NEAR, _SHIFTS = 3, range(-8, 9)  # bins
_NONE = dict.fromkeys(("history", "drift", "bursts", "dispersion"))
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
}


def simulate(case: str, seed: int, n_windows: int) -> tuple[np.ndarray, list[list[int]]]:
    """Return counts (window, bin) of a case, and the onsets of events in each window."""
    rng = np.random.default_rng(seed)
    log, onsets = np.zeros((n_windows, _BINS)), []
    for window in log:
        at: list[int] = []
        for _ in range(rng.poisson(CASES[case] * _BINS * _BIN)):
            onset = int(rng.integers(0, _BINS - _LENGTH + 1))
            if all(abs(onset - other) >= _LENGTH for other in at):
                at.append(onset)
                window[onset : onset + _LENGTH] += rng.uniform(6, 9) * TEMPLATE
        onsets.append(at)
    if case.startswith("drift"):
        phase = 2 * np.pi * (1.5 * np.arange(log.size) / log.size + rng.random())
        log += 0.8 * np.sin(phase).reshape(log.shape)
    if case.startswith("gain"):
        log += 0.3 * rng.standard_normal((n_windows, 1))
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


def measure(settings: Settings) -> Iterator[Row]:
    """Hits, false events and the own account of a fit with what it adds, and without."""
    for case in CASES:
        seeds = range(settings.seeds)
        tables = {
            name: pd.DataFrame([_fit(case, seed, settings.quick, more) for seed in seeds])
            for name, more in (("without", _NONE), ("with", {}))
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
    hits = max(_hits(table, onsets, shift) for shift in _SHIFTS)
    listed, true = len(table), sum(map(len, onsets))
    added = [name for name, one in model.ingredients_.items() if one["value"] is not None]
    return {
        "hits": hits / true if true else np.nan,
        "false": (listed - hits) / max(listed, 1),
        "own": float((1 - table["probability"]).mean()) if listed else 0.0,
        "listed": listed,
        "seconds": seconds,
        "added": " and ".join(added) or "nothing",
    }


def _hits(table: pd.DataFrame, onsets: list[list[int]], shift: int) -> int:
    """Return how many events are at most 15 ms from a true one of their own."""
    number = 0
    for window, mine in table.groupby("trial"):
        free = [onset + shift for onset in onsets[int(window)]]
        for onset in mine["time"] / _BIN:
            near = [other for other in free if abs(other - onset) <= _NEAR]
            number += bool(near)
            if near:
                free.remove(near[0])
    return number
