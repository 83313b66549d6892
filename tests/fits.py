"""Small problems with known templates, and models that fit them in a moment."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikecdl import DCEA, Alternating, BinnedSpikes, Binomial, Implicit, NegativeBinomial, Unrolled
from spikecdl.simulate import simulate

LENGTH, BINS = 12, 96
WAVE = np.sin(2 * np.pi * (np.arange(LENGTH) + 0.5) / LENGTH)[None]
LEVEL = {"gaussian": 1.0, "binomial": 2.0, "poisson": 1.0, "negative_binomial": 1.0}
MODEL = {"binomial": Binomial(n_trials=12), "negative_binomial": NegativeBinomial(shape=20.0)}
TRAINERS = {
    "alternating": Alternating(),
    "implicit": Implicit(),
    "unrolled": Unrolled(n_unrolled=20),
}


def some_counts(
    family: str = "poisson",
    layout: str = "shared",
    *,
    trials: int = 8,
    units: int = 2,
    bins: int = BINS,
    n_events: int = 3,
    templates: Any = None,
    seed: int = 0,
) -> BinnedSpikes:
    """Return counts in bins of 1 s with events that are easily seen."""
    return simulate(
        MODEL.get(family, family),
        (_across(units) if layout == "joint" else WAVE) if templates is None else templates,
        n_trials=trials,
        n_units=units,
        duration=float(bins),
        bin_size=1.0,
        n_events=n_events,
        amplitude=(6.0, 8.0),
        baseline=LEVEL[family],
        layout=layout,
        random_state=seed,
    )


def quick(family: str = "poisson", trainer: str = "alternating", **arguments: Any) -> DCEA:
    """Return a model for `some_counts` that is fitted in a fraction of a second."""
    settings = {"penalty_weight": 0.2, "n_epochs": 2, "random_state": 0, **arguments}
    chosen = MODEL.get(family, family)
    trainer = TRAINERS.get(trainer, trainer)
    return DCEA(1, LENGTH, chosen, trainer=trainer).set_params(**settings)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal to the last bit."""
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def _across(units: int) -> np.ndarray:
    """Return one template with the wave in every unit, one bin later in each."""
    return np.stack([np.roll(WAVE[0], unit) for unit in range(units)])[None]
