"""Templates: a training step, and recovery from near and from unknown templates."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import workloads
from problems import Coding, observations, true_events, true_templates
from timing import Row, Settings, compared, duration, interleaved
from torch import Tensor
from yardstick import Training

from spikecdl import DCEA, L1, Alternating, BinnedSpikes, ConvDictionary, sparse_code
from spikecdl.evaluation.metrics import template_error
from spikecdl.solvers import parallel
from spikecdl.training import NotConvergedWarning, Observations, UniversalThreshold
from spikecdl.training.dictionary_update import DictionaryUpdate, Round, Updater

GOOD = 0.1  # error of a template that counts as found
_LOOSE = (0.5, 0.3)  # tolerances of the first rounds
_TOL = 0.1
_MOST_ROUNDS = 30
_TO_THE_END = 200  # iterations of the dictionary update with known events
LENGTH = 125  # bins of a template of W1


def training_steps(settings: Settings) -> Iterator[Row]:
    """A round, and a gradient step from the last codes, compared with the yardstick's step."""
    problem = Coding.of(_w1(settings))
    start, baseline = perturbed(problem.templates, 0.9, seed=0), problem.data.baseline
    n_iter = 10 if settings.quick else 250
    penalised, debiased = (default_round(problem.data, debias) for debias in (False, True))
    calls = {
        "yardstick": Training(problem.yardstick, start, n_iter).step,
        "l1 round": partial(take, penalised, start, baseline),
        "debiased round": partial(take, debiased, start, baseline),
        "l1 gradient step, warm": _WarmSteps(problem, start).step,
    }
    seconds = interleaved(calls, settings.repeats)
    for name in list(calls)[1:]:
        note = f"against a gradient step through {n_iter} iterations"
        yield compared(f"training, {name}, W1", seconds, note=note, by=name)


def from_near(settings: Settings) -> Iterator[Row]:
    """Rounds from templates that correlate 0.6 with the truth until all errors are small."""
    counts = _w1(settings)
    data, truth = observations(counts, known_baseline=False), true_templates(counts)
    take(default_round(data), truth, data.baseline)  # compiles
    starts = [perturbed(truth, 0.6, seed) for seed in range(settings.repeats)]
    runs = [_seconds_to_good(data, start, truth) for start in starts]
    good = [run for run in runs if run is not None]
    share = f"{len(good)} of {len(runs)} starts"
    what = f"from correlation 0.6 to all errors < {GOOD}, W1"
    if not good:
        yield Row(what, package="never", note=f"{share} in {_MOST_ROUNDS} rounds")
        return
    seconds, rounds = np.median(good, axis=0)
    yield Row(what, package=duration(seconds), note=f"{rounds:g} rounds; {share}")


def from_nothing(settings: Settings) -> Iterator[Row]:
    """Fits of W1 from unknown templates, as of pooled trials."""
    return _without_knowledge("W1", _w1, "alternating", settings)


def from_nothing_hard(settings: Settings) -> Iterator[Row]:
    """Fits of W1hard from unknown templates."""
    for trainer in ("alternating", "marginal"):
        yield from _without_knowledge("W1hard", _w1_hard, trainer, settings)


def perturbed(templates: Tensor, correlation: float, seed: int) -> Tensor:
    """Return templates of unit norm with that correlation, mixed with white noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(templates.shape, generator=generator)
    noise -= (noise * templates).sum(-1, keepdim=True) * templates
    noise /= noise.norm(dim=-1, keepdim=True)
    return correlation * templates + (1 - correlation**2) ** 0.5 * noise


class _WarmSteps:
    """Gradient steps on the penalised objective at its minimum over the codes.

    Each solves for the codes from those of the last step.
    """

    def __init__(self, problem: Coding, templates: Tensor) -> None:
        self.problem, self.dictionary = problem, ConvDictionary(templates.clone())
        self.codes: Tensor | None = None
        self.adam = torch.optim.Adam(self.dictionary.parameters(), lr=1e-3, eps=1e-3)

    def step(self) -> None:
        """Take one step."""
        data = self.problem.data
        self.codes = sparse_code(
            data.y,
            data.family,
            self.dictionary,
            self.problem.penalty,
            data.baseline,
            tol=_TOL,
            start=self.codes,
        ).codes
        self.adam.zero_grad()
        data.family.cost(data.y, self.dictionary(self.codes) + data.baseline).mean().backward()
        self.adam.step()
        self.dictionary.normalize_()


def default_round(data: Observations, debias: bool = True) -> Round:
    """Return a round with the settings of the default fit, for templates of W1's length."""
    default = Alternating(debias=debias)
    return Round(
        data=data,
        penalty=L1(),
        weight=UniversalThreshold(),
        debias=debias,
        separation=round(default.separation * LENGTH),
        smoothness=default.smoothness,
        max_iter=default.max_iter,
    )


def take(step: Round, templates: Tensor, baseline: Tensor, tol: float = _TOL) -> DictionaryUpdate:
    """Take a round with as many threads as a fit uses."""
    with parallel.for_size(step.data.y.numel() * len(templates)):
        return step(templates, baseline, tol)


def _seconds_to_good(
    data: Observations, templates: Tensor, truth: Tensor
) -> tuple[float, int] | None:
    """Return the seconds and rounds until all errors are small; None if they never are."""
    step, baseline, seconds = default_round(data), data.baseline, 0.0
    for count in range(_MOST_ROUNDS):
        began = time.perf_counter()
        found = take(step, templates, baseline, _LOOSE[count] if count < len(_LOOSE) else _TOL)
        seconds += time.perf_counter() - began
        templates, baseline = found.templates, found.baseline
        if template_error(templates, truth).max < GOOD:
            return seconds, count + 1
    return None


def _without_knowledge(
    name: str, make: Callable[[Settings, int], BinnedSpikes], trainer: str, settings: Settings
) -> Iterator[Row]:
    """Fits of several seeds, compared with templates fitted to the true events."""
    _fit(make(replace(settings, quick=True), 0), trainer, 0)  # compiles
    fits = [_fit(make(settings, seed), trainer, seed) for seed in range(settings.seeds)]
    name = f"{name}, {trainer}"
    seconds, errors, known = (np.array(values) for values in zip(*fits, strict=True))
    good = int((errors < GOOD).all(axis=1).sum())
    yield Row(
        f"without knowledge, all errors < {GOOD}, {name}",
        package=f"{good} of {len(fits)}",
        note=f"{duration(np.median(seconds))} a fit, at most {duration(seconds.max())}",
    )
    errors, known = errors.mean(axis=1), known.mean(axis=1)
    ratio = errors / known
    yield Row(
        f"final error over that with known events, {name}",
        package=f"{np.median(ratio):.2f}",
        note=f"{ratio.min():.2f}-{ratio.max():.2f}; median errors {np.median(errors):.3f} and "
        f"{np.median(known):.3f}",
    )


def _fit(counts: BinnedSpikes, trainer: str, seed: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the seconds of a fit, its errors, and those of templates fitted to the true events."""
    model = DCEA(3, LENGTH, counts.truth.family, trainer=trainer, random_state=seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        model.fit(counts)
    seconds = time.perf_counter() - began
    data, truth = observations(counts, known_baseline=False), true_templates(counts)
    known = Updater(data, L1(), max_iter=_TO_THE_END)(truth, true_events(counts), data.baseline)
    return (
        seconds,
        template_error(model.templates_, truth).errors,
        template_error(known.templates, truth).errors,
    )


def _w1(settings: Settings, seed: int = 0) -> BinnedSpikes:
    return workloads.w1(seed, n_windows=10) if settings.quick else workloads.w1(seed)


def _w1_hard(settings: Settings, seed: int = 0) -> BinnedSpikes:
    return workloads.w1_hard(seed, n_windows=6) if settings.quick else workloads.w1_hard(seed)
