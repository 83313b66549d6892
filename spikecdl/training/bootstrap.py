"""Templates fitted to resampled windows, for any trainer whose family has a compiled cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from spikecdl.events import em
from spikecdl.events.bootstrap import resampled, windows_together
from spikecdl.solvers import parallel
from spikecdl.training.base import Problem
from spikecdl.training.events import event_model

_STEPS = 20  # of EM that fit the strength of the prior to templates of other trainers


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
    n_units = 1 if problem.penalty.grouped else problem.data.y.shape[1]
    together = windows_together(len(problem.data.y), n_units)
    n_groups = counts.shape[0] // together

    def of_resample(number: int) -> np.ndarray:
        rng = np.random.default_rng((seed, number))
        drawn = rng.integers(n_groups, size=n_groups)
        windows = (drawn[:, None] * together + np.arange(together)).ravel()
        return resampled(counts, model, windows, rng)

    return parallel.on_each(of_resample, range(n_resamples), torch.device("cpu"))
