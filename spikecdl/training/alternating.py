"""Alternating training: codes solved, then templates, on the same likelihood."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecdl.coding import sparse_code
from spikecdl.dictionary import ConvDictionary
from spikecdl.events import Events
from spikecdl.penalties import Penalty
from spikecdl.training.observations import Observations
from spikecdl.training.problem import Learned, OnEpoch, Problem
from spikecdl.training.refine import Refined, refine
from spikecdl.training.starts import data_starts
from spikecdl.training.weight import Weight, null_spread

_LOOSE = (0.5, 0.3, 0.1)  # tolerances of the first rounds, when the templates are still noise
_SETTLING_ROUNDS = 3  # of the winner, before its templates are cropped
_HIDE_EVERY = 4  # one bin in so many is hidden from a race and judges it
_RACE_BINS = 120_000  # observed bins that a race looks at
_GAIN = 1e-3  # gain of an epoch, as a fraction of all gain so far, that counts as converged


@dataclass(frozen=True)
class Alternating:
    """Codes to convergence, then templates, amplitudes and baseline on the support they found.

    Several short races decide the start and the level of the penalty: each begins at stretches of
    the data, sees three quarters of the bins, and is judged by the likelihood of the others.
    Templates are learned longer than asked and cropped to the bins of most energy, which fixes
    their shift.

    Parameters
    ----------
    n_starts : int
        Races.
    debias : bool
        Merge events that the l1 solution spreads over neighbouring places, drop those that the
        likelihood does not support, and refit amplitudes with the templates, without the penalty.
        If false, the template step is on the penalised objective with the codes fixed.
    padding : float
        Bins learned beyond the template, as a fraction of its length.
    separation : float
        Events of one template closer than this fraction of its length are one event.
    smoothness : float
        Weight of squared first differences of the templates.
    tol : float
        Violation of optimality at which codes are accepted, relative to the penalty weight.
    max_iter : int
        Iterations of a coding step at the most.

    Examples
    --------
    >>> import spikecdl
    >>> spikecdl.DCEA(gradient=spikecdl.Alternating(n_starts=3)).gradient.n_starts
    3
    """

    n_starts: int = 9
    debias: bool = True
    padding: float = 0.4
    separation: float = 0.125
    smoothness: float = 0.0
    tol: float = 0.1
    max_iter: int = 300
    name: ClassVar[str] = "alternating"
    default_epochs: ClassVar[int] = 10

    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Train, or go on from the state of an earlier run."""
        data = _windows(problem, problem.data)
        if learned is None:
            templates, level = self._race(problem, data)
            tensors = {"templates": templates, "baseline": data.baseline, "level": level}
            learned = Learned(tensors)
        null = float(data.cost(data.baseline.expand_as(data.y)))
        level = learned.tensors["level"]
        step = _Step(self, problem, data, problem.weight.at(float(level)))
        while learned.epoch < problem.n_epochs and not learned.converged:
            began = time.perf_counter()
            found = step(learned.tensors["templates"], learned.tensors["baseline"], self.tol)
            record = {
                "epoch": learned.epoch + 1,
                "loss": found.cost / int(data.mask.sum()),
                "objective": found.cost + found.penalty,
                "n_events": len(found.events),
                "seconds": time.perf_counter() - began,
            }
            _check_finite(record)
            history = [*learned.history, record]
            tensors = {"templates": found.templates, "baseline": found.baseline, "level": level}
            learned = Learned(tensors, learned.epoch + 1, history, _settled(history, null))
            on_epoch(learned)
        return learned

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return codes and baseline of the problem's data; the templates stay as they are."""
        data = _windows(problem, problem.data)
        step = _Step(self, problem, data, problem.weight.at(float(tensors["level"])))
        baseline = data.baseline
        for _ in range(2 if self.debias and data.learn_baseline else 1):
            codes, penalty = step.codes(tensors["templates"], baseline, self.tol)
            if self.debias:
                found = step.debias(tensors["templates"], codes, baseline, penalty, learn=False)
                baseline = found.baseline
                codes = found.events.to_codes(codes.flatten(0, -3).shape).reshape(codes.shape)
        lead = problem.data.y.shape[:2]
        return codes.reshape(*lead, *codes.shape[-2:]), baseline.reshape(*lead, -1, 1)

    def _race(self, problem: Problem, data: Observations) -> tuple[Tensor, Tensor]:
        """Return cropped templates and the level of the penalty that predict hidden bins best."""
        data = _part(data, problem.generator)
        hidden = torch.arange(data.y.shape[-1], device=data.y.device) % _HIDE_EVERY == 0
        seen = replace(data, mask=data.mask & ~hidden)
        rows = data.rows()
        eta = rows.baseline.expand_as(rows.y)
        extra = min(round(self.padding * problem.length), data.y.shape[-1] - problem.length)
        levels = problem.weight.levels
        best = _Racer(math.inf, data.baseline, data.baseline, 1.0)
        for number in range(max(self.n_starts, len(levels))):
            templates = data_starts(
                rows, eta, problem.n_templates, problem.length + extra, problem.generator
            )
            level = levels[number % len(levels)]
            start = _Racer(math.inf, templates, data.baseline, level)
            racer = self._run(problem, seen, data, start, _LOOSE)
            best = min(best, racer, key=lambda racer: racer.cost)
        others = [replace(best, level=level) for level in levels if level != best.level]
        racers = [best, *(self._run(problem, seen, data, other, _LOOSE[-1:]) for other in others)]
        best = min(racers, key=lambda racer: racer.cost)
        settled = self._run(problem, data, data, best, [self.tol] * _SETTLING_ROUNDS)
        return _crop(settled.templates, problem.length), torch.tensor(best.level)

    def _run(
        self,
        problem: Problem,
        seen: Observations,
        data: Observations,
        racer: _Racer,
        tolerances: Sequence[float],
    ) -> _Racer:
        """Take a few rounds on the bins that are seen; the cost is that of the others."""
        step = _Step(self, problem, seen, problem.weight.at(racer.level))
        templates, baseline = racer.templates, racer.baseline
        for tol in tolerances:
            found = step(templates, baseline, tol)
            templates, baseline = found.templates, found.baseline
        if self.debias:
            # as `encode` will have them
            found = refine(
                seen, templates, found.events, problem.penalty, baseline, learn_templates=False
            )
        rows = replace(data, mask=data.mask & ~seen.mask).rows().to(torch.float64)
        offset = found.baseline.reshape_as(rows.baseline)
        eta = found.events.add_to(offset.expand_as(rows.y), templates)
        return _Racer(float(rows.cost(eta)), templates, baseline, racer.level)


@dataclass(frozen=True)
class _Racer:
    """Where a race stands: cost of the hidden bins, templates, baseline, level of the penalty."""

    cost: float
    templates: Tensor
    baseline: Tensor
    level: float


@dataclass(frozen=True)
class _Step:
    """One round on some data: codes, then templates."""

    trainer: Alternating
    problem: Problem
    data: Observations
    weight: Weight

    def __call__(self, templates: Tensor, baseline: Tensor, tol: float) -> Refined:
        codes, penalty = self.codes(templates, baseline, tol)
        if self.trainer.debias:
            return self.debias(templates, codes, baseline, penalty, learn=True)
        events = Events.from_codes(codes.flatten(0, -3))
        found = refine(self.data, templates, events, penalty, baseline, learn_amplitudes=False)
        return replace(found, penalty=float(penalty(codes)))

    def codes(self, templates: Tensor, baseline: Tensor, tol: float) -> tuple[Tensor, Penalty]:
        """Solve for the codes; the penalty comes with its weight set."""
        data, dtype = self.data, self.data.y.dtype
        dictionary, baseline = ConvDictionary(templates.to(dtype)), baseline.to(dtype)
        penalty = self.weight(self.problem.penalty, dictionary, data, baseline)
        solved = sparse_code(
            data.y,
            data.family,
            dictionary,
            penalty,
            baseline,
            data.mask,
            tol=tol,
            max_iter=self.trainer.max_iter,
        )
        return solved.codes, penalty

    def debias(
        self, templates: Tensor, codes: Tensor, baseline: Tensor, penalty: Penalty, learn: bool
    ) -> Refined:
        """Merge and prune the events of the l1 solution, and refit them without the penalty."""
        events = Events.from_codes(codes.flatten(0, -3))
        events = events.merge(round(self.trainer.separation * self.problem.length))
        events, price = _prune(self.data, templates, events, baseline, penalty)
        found = refine(
            self.data,
            templates,
            events,
            penalty,
            baseline,
            learn_templates=learn,
            smoothness=self.trainer.smoothness,
        )
        return replace(found, penalty=price)


def _windows(problem: Problem, data: Observations) -> Observations:
    """Lay trials and units along one axis unless the penalty needs them apart."""
    return data if problem.penalty.coupled else data.rows()


def _part(data: Observations, generator: torch.Generator) -> Observations:
    """Choose windows at random that hold enough bins for a race."""
    per_window = max(data.y[0].numel(), 1)
    count = max(_RACE_BINS // per_window, 1)
    if count >= len(data.y):
        return data
    chosen = torch.randperm(len(data.y), generator=generator)[:count].sort().values
    return data.take(chosen.to(data.y.device))


def _crop(templates: Tensor, length: int) -> Tensor:
    """Keep the stretch of most energy of each template, at unit norm."""
    energy = templates.square().sum(1).unfold(-1, length, 1).sum(-1)
    start = energy.argmax(-1)
    cut = torch.stack([h[:, s : s + length] for h, s in zip(templates, start, strict=True)])
    return cut / cut.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]


def _prune(
    data: Observations, templates: Tensor, events: Events, baseline: Tensor, penalty: Penalty
) -> tuple[Events, float]:
    r"""Drop events that gain less likelihood than a score at the penalty's weight would.

    A score s of spread sigma gains :math:`s^2 / 2 \sigma^2`, and the penalty lets scores above its
    weight through: an event of amplitude a and curvature w under its template must gain
    :math:`a^2 w / 2 > \lambda^2 / 2 \sigma^2`.  Returns the events kept, and the sum of what they
    had to gain.  A penalty that couples units judges whole groups; its events are all kept.
    """
    if penalty.coupled:
        return events, 0.0
    templates, baseline = templates.to(data.y.dtype), baseline.to(data.y.dtype)
    spread = null_spread(ConvDictionary(templates), data, baseline)
    height = (penalty.weight / spread.clamp(min=1e-9)).expand(len(data.y), len(templates), 1)
    eta = events.add_to(baseline.expand_as(data.y), templates)
    curvature = torch.where(data.mask, data.family.curvature(data.y, eta), 0)
    patches = events.patches(curvature, templates.shape[-1])
    energy = (templates.square()[events.template] * patches).sum(dim=(1, 2))
    price = height[events.window, events.template, 0].square() / 2
    kept = events.amplitude.square() * energy / 2 > price
    return events.take(kept), float(price[kept].sum())


def _settled(history: list[dict[str, Any]], null: float) -> bool:
    """Whether the last epoch gained little of what all epochs gained."""
    if len(history) < 2:
        return False
    before, now = history[-2]["objective"], history[-1]["objective"]
    return before - now < _GAIN * max(null - now, 0.0) + 1e-9 * abs(now)


def _check_finite(record: dict[str, Any]) -> None:
    if not math.isfinite(record["loss"]):
        raise FloatingPointError(
            f"the loss is {record['loss']} at epoch {record['epoch']}; check the counts for "
            "outliers, or raise `penalty_weight`"
        )
