"""Seeded workloads of the benchmarks: simulated counts with their truth, and an image.

Probabilities are per bin and trial.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from spikecdl import BinnedSpikes, Binomial
from spikecdl.simulate import simulate


def w1(seed: int = 0, n_windows: int = 30, n_bins: int = 3000) -> BinnedSpikes:
    """30 windows of 3,000 bins, 50 pooled trials, 3 templates of 125 bins, 4 events of each."""
    levels = np.random.default_rng(seed).uniform(0.02, 0.05, n_windows)
    return _pooled(w1_templates(), levels, n_bins, 50, 4 / 3000, (14, 26), 125, seed)


def w1_hard(seed: int = 0, n_windows: int = 30, n_bins: int = 3000) -> BinnedSpikes:
    """As `w1`, with fewer spikes, more, weaker and closer events, and more similar templates."""
    levels = np.random.default_rng(seed).uniform(0.008, 0.02, n_windows)
    return _pooled(w1_hard_templates(), levels, n_bins, 50, 7 / 3000, (8, 18), 31, seed)


@cache
def w2(n_bins: int = 120_000, n_units: int = 100, seed: int = 0) -> BinnedSpikes:
    """100 units of 120,000 bins, Poisson, 10 templates of 100 bins; 60 events of each."""
    levels = np.random.default_rng(seed).uniform(0.015, 0.06, n_units)
    templates = np.concatenate([five_templates(100), five_templates(100)[:, ::-1]])
    units = [
        _continuous(templates, level, n_bins, 1000 * seed + u) for u, level in enumerate(levels)
    ]
    events = [unit.truth.events.assign(unit=u) for u, unit in enumerate(units)]
    truth = replace(units[0].truth, events=pd.concat(events), baseline=levels[None])
    counts = np.concatenate([unit.counts for unit in units], axis=1)
    return BinnedSpikes.from_array(counts, truth=truth)


def w3(seed: int = 0, n_windows: int = 1000, n_bins: int = 500) -> BinnedSpikes:
    """1,000 windows of 500 bins, 25 pooled trials, 5 templates of 50 bins."""
    levels = np.random.default_rng(seed).uniform(0.02, 0.06, n_windows)
    return _pooled(five_templates(50), levels, n_bins, 25, 1.5 / 500, (8, 16), 12, seed)


def w4(seed: int = 0, size: int = 256, n_filters: int = 169) -> tuple[np.ndarray, np.ndarray]:
    """Poisson counts of an image at peak 4, and random filters of 11 x 11 pixels and unit norm.

    The image, (row, column), is a smooth background with 25 discs.
    """
    rng = np.random.default_rng(seed)
    row, column = (np.mgrid[:size, :size] + 0.5) / size
    image = 0.35 + 0.25 * np.sin(6 * column + 3 * row) * np.cos(4 * row)
    for x, y, radius, height in rng.uniform((0, 0, 0.03, -0.4), (1, 1, 0.2, 0.5), (25, 4)):
        image += height * ((column - x) ** 2 + (row - y) ** 2 < radius**2)
    image = (image - image.min()) / np.ptp(image)
    filters = rng.standard_normal((n_filters, 1, 11, 11))
    filters /= np.linalg.norm(filters, axis=(2, 3), keepdims=True)
    return rng.poisson(4 * np.maximum(image, 1 / 255)), filters


def w1_templates() -> np.ndarray:
    """Return a fast rise with an exponential decay, 3.2 cycles of a Gabor, and a double bump."""
    t = _time(125)
    decay = (t > 0.12) * (np.exp(-(t - 0.12) / 0.12) - np.exp(-(t - 0.12) / 0.03))
    gabor = np.exp(-0.5 * ((t - 0.5) / 0.14) ** 2) * np.sin(2 * np.pi * 3.2 * (t - 0.45))
    bumps = _bump(t, 0.2, 0.03) + _bump(t, 0.75, 0.03)
    return _tapered([decay, gabor, bumps])


def w1_hard_templates() -> np.ndarray:
    """Return templates whose largest correlation over shifts is 0.8."""
    return five_templates(125)[:3]


def five_templates(n_bins: int) -> np.ndarray:
    """Return decay, slow Gabor, late bump after a dip, double bump, and ramp."""
    t = _time(n_bins)
    return _tapered(
        [
            (t > 0.12) * (np.exp(-(t - 0.12) / 0.12) - np.exp(-(t - 0.12) / 0.03)),
            np.exp(-0.5 * ((t - 0.5) / 0.17) ** 2) * np.sin(2 * np.pi * 1.8 * (t - 0.45)),
            _bump(t, 0.66, 0.10) - 0.8 * _bump(t, 0.3, 0.08),
            _bump(t, 0.25, 0.05) + 0.8 * _bump(t, 0.62, 0.05),
            t**2 * (1 - 1 / (1 + np.exp(-(t - 0.8) / 0.02))),
        ]
    )


def _pooled(
    templates: np.ndarray,
    levels: np.ndarray,
    n_bins: int,
    n_pooled: int,
    event_rate: float,
    amplitude: tuple[float, float],
    gap: int,
    seed: int,
) -> BinnedSpikes:
    """Draw windows of pooled trials; ``levels`` are probabilities per bin and trial."""
    return simulate(
        Binomial(n_pooled),
        templates,
        n_trials=1,
        n_units=len(levels),
        duration=float(n_bins),
        bin_size=1.0,
        event_rate=event_rate,
        gap=float(gap),
        amplitude=amplitude,
        baseline=levels * n_pooled,
        random_state=seed,
    )


def _continuous(templates: np.ndarray, level: float, n_bins: int, seed: int) -> BinnedSpikes:
    """Draw a unit's recording; ``level`` is its mean count per bin."""
    return simulate(
        "poisson",
        templates,
        n_trials=1,
        n_units=1,
        duration=float(n_bins),
        bin_size=1.0,
        event_rate=60 / 120_000,
        gap=25.0,
        amplitude=(7.0, 15.0),
        baseline=level,
        random_state=seed,
    )


def _time(n_bins: int) -> np.ndarray:
    return (np.arange(n_bins) + 0.5) / n_bins


def _bump(time: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((time - centre) / width) ** 2)


def _tapered(shapes: list[np.ndarray]) -> np.ndarray:
    """Taper both ends smoothly to zero, and scale to unit norm."""
    t = _time(shapes[0].size)
    ramp = np.clip(np.minimum(t, 1 - t) / 0.08, 0, 1)
    tapered = np.array(shapes) * ramp**2 * (3 - 2 * ramp)
    return tapered / np.linalg.norm(tapered, axis=1, keepdims=True)
