"""Templates fitted to resampled windows: how much they would vary from data to data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spikecdl.solvers import threads
from spikecdl.training.alternating import Alternating
from spikecdl.training.base import Problem
from spikecdl.training.event_model import EventModel
from spikecdl.training.posterior import known_coefficients, to_model
from spikecdl.training.summation import Summation

_FEWEST = 8  # trials, or windows, that are resampled
_STEPS, _STEP = 20, 1.8  # of EM: their number, and length relative to whole steps
_EPOCHS = 3  # of alternating training, where events overlap


def windows_together(n_trials: int, n_units: int) -> int:
    """Return how many windows are drawn together: those of a trial, or one if trials are few.

    Raises ValueError if there are fewer than eight windows.
    """
    if n_trials >= _FEWEST:
        return n_units
    if n_trials * n_units < _FEWEST:
        raise ValueError(
            f"a bootstrap needs {_FEWEST} trials or windows, not {n_trials * n_units}; do not pool "
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
    data = problem.data
    if "event_rates" not in tensors:
        data.family.scalar_loss(data.y[:1])  # says what is missing
    n_units = 1 if problem.penalty.grouped else data.y.shape[1]
    together = windows_together(len(data.y), n_units)
    fit: _Marginal | _Alternating
    if int(tensors["overlap"]) == 1:
        fit = _marginal(problem, tensors, levels)
        together *= data.y.shape[1] // n_units
    else:
        fit = _Alternating(problem, tensors)

    def of_resample(number: int) -> np.ndarray:
        rng = np.random.default_rng((seed, number))
        drawn = rng.integers(len(fit) // together, size=len(fit) // together)
        return fit((drawn[:, None] * together + np.arange(together)).ravel(), rng)

    return threads.on_each(of_resample, range(n_resamples), torch.device("cpu"))


@dataclass(frozen=True)
class _Marginal:
    """Steps of EM with the events summed out, and a prior that is drawn anew each time."""

    counts: Summation
    model: EventModel

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __call__(self, windows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        counts, model = self.counts.take(windows), self.model.perturbed(self.counts.scale, rng)
        return _climbed(counts, model).templates


@dataclass(frozen=True)
class _Alternating:
    """Epochs of alternating training; coefficients of covariates stay."""

    problem: Problem
    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.problem.windows().y)

    def __call__(self, windows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        data = replace(self.problem.windows(), covariates=None).take(torch.from_numpy(windows))
        trainer, level = Alternating(), float(self.tensors.get("level", 1.0))
        step = trainer.round(self.problem, data, level)
        templates, baseline = self.tensors["templates"].to(data.baseline), data.baseline
        for _ in range(_EPOCHS):
            found = step(templates, baseline, trainer.tol)
            templates, baseline = found.templates, found.baseline
        return templates.double().cpu().numpy()


def _marginal(
    problem: Problem, tensors: Mapping[str, Tensor], levels: np.ndarray | None
) -> _Marginal:
    counts = Summation(problem.data)
    model = to_model(tensors, counts.start if levels is None else levels)
    model = model.bounded(problem.bounded)
    model = counts.with_coefficients(model, known_coefficients(problem))
    if "smoothness" not in tensors:  # of another trainer
        model = replace(model, smoothness=_climbed(counts, model).smoothness)
    return _Marginal(counts, model)


def _climbed(counts: Summation, model: EventModel) -> EventModel:
    """Take steps of EM, of nearly twice the length, which still converge but sooner."""
    for _ in range(_STEPS):
        sums, found = counts.sum(model)
        model = model.updated(sums, counts.scale, step=_STEP)
        model = counts.with_new_coefficients(model, found)
        model = counts.with_new_baseline(model, found)
    return model
