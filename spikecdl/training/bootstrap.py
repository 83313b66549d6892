"""Templates fitted to resampled windows, for any trainer whose family has a compiled cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spikecdl.events import em
from spikecdl.events.posterior import EXACT
from spikecdl.events.prior import perturbed
from spikecdl.solvers import parallel
from spikecdl.training.base import Problem
from spikecdl.training.events import event_model

FEWEST = 8  # trials, or windows, that are resampled
_STEPS = 20  # of EM, in a resample, and for the prior of templates of other trainers


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


def resampled_templates(
    problem: Problem,
    tensors: Mapping[str, Tensor],
    levels: np.ndarray | None,
    n_resamples: int,
    seed: int,
) -> Iterator[np.ndarray]:
    """Yield templates (template, channel, bin) fitted to windows drawn with replacement.

    The arguments up to ``levels`` are those of `evidence`.
    """
    counts, model = event_model(problem, tensors, levels)
    model = model.bounded(problem.bounded)
    if not model.variance.any():
        model = em.climb(counts, model, _STEPS)[0]
    model = replace(model, overlap=min(model.overlap, EXACT))
    n_units = 1 if problem.penalty.grouped else problem.data.y.shape[1]
    together = windows_together(len(problem.data.y), n_units)
    n_groups = counts.shape[0] // together

    def of_resample(number: int) -> np.ndarray:
        rng = np.random.default_rng((seed, number))
        drawn = rng.integers(n_groups, size=n_groups)
        windows = (drawn[:, None] * together + np.arange(together)).ravel()
        some, noise, found = counts.take(windows), perturbed(model, counts.scale, rng), model
        for _ in range(_STEPS):
            found = em.updated(some, found, some.expect(found), perturbation=noise)
        return found.templates

    return parallel.on_each(of_resample, range(n_resamples), torch.device("cpu"))
