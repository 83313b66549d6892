"""Templates fitted to resampled windows: how much they would vary from data to data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikecdl.events.counts import Counts
from spikecdl.events.em import updated
from spikecdl.events.model import EventModel
from spikecdl.events.posterior import EXACT
from spikecdl.events.prior import perturbed

FEWEST = 8  # trials, or windows, that are resampled
_STEPS = 20  # of EM


def windows_together(n_trials: int, n_units: int) -> int:
    """Return how many windows are drawn together: those of a trial, or one if trials are few.

    Raises ValueError if there are fewer than eight windows.
    """
    if n_trials >= FEWEST:
        return n_units
    if n_trials * n_units < FEWEST:
        raise ValueError(
            f"a bootstrap needs {FEWEST} trials or windows, not {n_trials * n_units}; do not pool "
            "the trials, or select more units"
        )
    return 1


def resampled(
    counts: Counts, model: EventModel, windows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return templates fitted to some windows by EM, with a prior drawn anew."""
    some, noise = counts.take(windows), perturbed(model, counts.scale, rng)
    model = replace(model, overlap=min(model.overlap, EXACT))
    for _ in range(_STEPS):
        model = updated(some, model, some.expect(model), perturbation=noise)
    return model.templates
