"""The seeded problems that the benchmarks are measured on, made on the spot.

Each is counts with their truth, drawn by `spikecdl.simulate`; probabilities are per bin and trial.
"""

from __future__ import annotations

import numpy as np

from spikecdl import BinnedSpikes, Binomial
from spikecdl.simulate import simulate


def w1(seed: int = 0) -> BinnedSpikes:
    """30 windows of 3,000 bins, 50 pooled trials, 3 templates of 125 bins, 4 events of each."""
    rng = np.random.default_rng(seed)
    return _pooled(w1_templates(), rng.uniform(0.02, 0.05, 30), 3000, 50, 4, (14, 26), 125, seed)


def w1_hard(seed: int = 0) -> BinnedSpikes:
    """As `w1`, with rarer spikes, more and weaker events close together, templates more alike."""
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0.008, 0.02, 30)
    return _pooled(w1_hard_templates(), levels, 3000, 50, 7, (8, 18), 31, seed)


def w3(seed: int = 0) -> BinnedSpikes:
    """1,000 windows of 500 bins, 25 pooled trials, 5 templates of 50 bins."""
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0.02, 0.06, 1000)
    return _pooled(five_templates(50), levels, 500, 25, 1.5, (8, 16), 12, seed)


def w2(n_bins: int = 120_000, n_units: int = 100, seed: int = 0) -> BinnedSpikes:
    """100 units of 120,000 bins, Poisson, 10 templates of 100 bins."""
    rng = np.random.default_rng(seed)
    templates = np.concatenate([five_templates(100), five_templates(100)[:, ::-1]])
    return simulate(
        "poisson",
        templates,
        n_trials=1,
        n_units=n_units,
        duration=float(n_bins),
        bin_size=1.0,
        event_rate=60 / 120_000,
        gap=25.0,
        amplitude=(7.0, 15.0),
        baseline=rng.uniform(0.015, 0.06, n_units),
        random_state=seed,
    )


def w1_templates() -> np.ndarray:
    """Return a fast rise with an exponential decay, 3.2 cycles of a Gabor, and a double bump."""
    t = _time(125)
    decay = (t > 0.12) * (np.exp(-(t - 0.12) / 0.12) - np.exp(-(t - 0.12) / 0.03))
    gabor = np.exp(-0.5 * ((t - 0.5) / 0.14) ** 2) * np.sin(2 * np.pi * 3.2 * (t - 0.45))
    bumps = _bump(t, 0.2, 0.03) + 0.9 * _bump(t, 0.75, 0.03)
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
            np.exp(-0.5 * ((t - 0.5) / 0.14) ** 2) * np.sin(2 * np.pi * 1.6 * (t - 0.45)),
            _bump(t, 0.66, 0.10) - 0.6 * _bump(t, 0.3, 0.08),
            _bump(t, 0.25, 0.05) + 0.8 * _bump(t, 0.62, 0.05),
            t**2 * (1 - 1 / (1 + np.exp(-(t - 0.8) / 0.02))),
        ]
    )


def _pooled(
    templates: np.ndarray,
    levels: np.ndarray,
    n_bins: int,
    n_pooled: int,
    events: float,
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
        event_rate=events / n_bins,
        gap=float(gap),
        amplitude=amplitude,
        baseline=levels * n_pooled,
        random_state=seed,
    )


def _time(n_bins: int) -> np.ndarray:
    return (np.arange(n_bins) + 0.5) / n_bins


def _bump(time: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((time - centre) / width) ** 2)


def _tapered(waves: list[np.ndarray]) -> np.ndarray:
    """Bring both ends smoothly to zero, and the norm to one."""
    t = _time(waves[0].size)
    ramp = np.clip(np.minimum(t, 1 - t) / 0.08, 0, 1)
    tapered = np.array(waves) * ramp**2 * (3 - 2 * ramp)
    return tapered / np.linalg.norm(tapered, axis=1, keepdims=True)
