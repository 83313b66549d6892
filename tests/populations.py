"""Simulated recordings of a population with sequences, as in the benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spikecdl import BinnedSpikes, read_counts
from spikecdl.data import Truth
from spikecdl.data.counts_file import allocate, finish
from spikecdl.simulate import random_events, simulate

BIN, LENGTH = 0.01, 50  # seconds, and bins of a sequence
BUMP = 3.0  # standard deviation of a unit's bump, in bins


def sequences(
    rng: np.random.Generator, n_units: int, gain: float, part: float, count: int = 2
) -> np.ndarray:
    """Draw changes of log rates (sequence, unit, bin): a bump of some units, at random times."""
    centre = rng.uniform(0.05 * LENGTH, 0.95 * LENGTH, (count, n_units, 1))
    bump = np.exp(-0.5 * np.square((np.arange(LENGTH) + 0.5 - centre) / BUMP))
    return np.log(gain) * bump * (rng.random((count, n_units, 1)) < part)


def population(
    n_units: int = 60,
    duration: float = 300.0,
    rate: float = 2.0,
    peak: float = 20.0,
    part: float = 0.6,
    n_events: int = 50,
    n_windows: int = 1,
    random_state: int = 0,
) -> BinnedSpikes:
    """Draw counts of units with rates around ``rate`` (Hz) in which two sequences take place."""
    rng = np.random.default_rng(random_state)
    templates = sequences(rng, n_units, peak / rate, part)
    size = float(np.linalg.norm(templates, axis=(1, 2)).mean())
    return simulate(
        "poisson",
        templates,
        layout="joint",
        n_trials=n_windows,
        n_units=n_units,
        duration=duration,
        bin_size=BIN,
        n_events=n_events,
        amplitude=size,
        baseline=rng.gamma(8, rate / 8, n_units),
        random_state=random_state,
    )


def in_a_file(
    path: Path,
    n_units: int,
    duration: float,
    rate: float = 3.0,
    peak: float = 15.0,
    part: float = 0.3,
    n_events: int = 50,
    random_state: int = 0,
) -> BinnedSpikes:
    """Draw counts as `population` does, unit by unit, into a file that may exceed the memory."""
    rng, n_bins = np.random.default_rng(random_state), round(duration / BIN)
    templates = sequences(rng, n_units, peak / rate, part)
    baseline = rng.gamma(8, rate / 8, n_units)
    shape = (1, 1, len(templates))
    events = random_events(shape, n_bins - LENGTH + 1, LENGTH, 0.0, n_events, rng)
    counts = allocate(path, "counts", (1, n_units, n_bins), np.int16)
    covered = events["onset"].to_numpy()[:, None] + np.arange(LENGTH)
    for unit in range(n_units):
        eta = np.zeros(n_bins)
        np.add.at(eta, covered, templates[events["template"], unit])
        counts[0, unit] = rng.poisson(np.exp(eta) * (baseline[unit] * BIN))
    norms = np.linalg.norm(templates, axis=(1, 2))
    events = events.assign(unit=-1, amplitude=norms[events["template"]], time=events["onset"] * BIN)
    unit_norm, rates = templates / norms[:, None, None], baseline[None]
    truth = Truth(unit_norm, events, rates, BIN, "poisson", "joint", {"random_state": random_state})
    drawn = BinnedSpikes.from_array(counts[..., :1], BIN, trial_starts=[0.0], truth=truth)
    finish(path, drawn)
    return read_counts(path)


def shuffled(counts: BinnedSpikes, random_state: int = 0) -> BinnedSpikes:
    """Return the same counts of each unit in another order of time."""
    rng = np.random.default_rng(random_state)
    return BinnedSpikes.from_array(rng.permuted(counts.counts, axis=2), counts.bin_size)
