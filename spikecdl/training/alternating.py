"""Alternating training: codes solved, then templates, on the same likelihood."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecdl.coding import sparse_code
from spikecdl.dictionary import ConvDictionary
from spikecdl.events import Events
from spikecdl.training.observations import Observations
from spikecdl.training.problem import Learned, OnEpoch, Problem
from spikecdl.training.refine import Refined, refine
from spikecdl.training.starts import data_starts

_LOOSE = (0.5, 0.3, 0.1)  # tolerances of the first rounds, when the templates are still noise
_SETTLING_ROUNDS = 3  # of the winner, before its templates are cropped
_RACE_BINS = 150_000  # observed bins that a race looks at
_GAIN = 1e-3  # gain of an epoch, as a fraction of all gain so far, that counts as converged


@dataclass(frozen=True)
class Alternating:
    """Codes to convergence, then templates, amplitudes and baseline on the support they found.

    Several short races from stretches of the data decide the start.  Templates are learned longer
    than asked and cropped to the bins of most energy, which fixes their shift.

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

    n_starts: int = 6
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
            learned = Learned({"templates": self._race(problem, data), "baseline": data.baseline})
        null = float(data.cost(data.baseline.expand_as(data.y)))
        while learned.epoch < problem.n_epochs and not learned.converged:
            began = time.perf_counter()
            state = learned.tensors
            found = self._round(problem, data, state["templates"], state["baseline"], self.tol)
            record = {
                "epoch": learned.epoch + 1,
                "loss": found.cost / int(data.mask.sum()),
                "objective": self._objective(problem, data, found),
                "n_events": len(found.events),
                "seconds": time.perf_counter() - began,
            }
            _check_finite(record)
            history = [*learned.history, record]
            tensors = {"templates": found.templates, "baseline": found.baseline}
            learned = Learned(tensors, learned.epoch + 1, history, _settled(history, null))
            on_epoch(learned)
        return learned

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return codes and baseline of the problem's data; the templates stay as they are."""
        data = _windows(problem, problem.data)
        templates, baseline = tensors["templates"], data.baseline
        passes = 2 if self.debias and data.learn_baseline else 1
        for _ in range(passes):
            codes = self._codes(problem, data, templates, baseline, self.tol)
            if self.debias:
                found = self._debias(problem, data, templates, codes, baseline, learn=False)
                baseline = found.baseline
                codes = found.events.to_codes(codes.flatten(0, -3).shape).reshape(codes.shape)
        lead = problem.data.y.shape[:2]
        return codes.reshape(*lead, *codes.shape[-2:]), baseline.reshape(*lead, -1, 1)

    def _race(self, problem: Problem, data: Observations) -> Tensor:
        """Return the cropped templates of the best of several short runs on part of the data."""
        data = _part(data, problem.generator)
        extra = min(round(self.padding * problem.length), data.y.shape[-1] - problem.length)
        best, best_objective = None, math.inf
        for _ in range(self.n_starts):
            rows = data.rows()
            templates = data_starts(
                rows,
                rows.baseline.expand_as(rows.y),
                problem.n_templates,
                problem.length + extra,
                problem.generator,
            )
            found = self._rounds(problem, data, templates, data.baseline, _LOOSE)
            objective = self._objective(problem, data, found)
            if best is None or objective < best_objective:
                best, best_objective = found, objective
        assert best is not None
        settle = [self.tol] * _SETTLING_ROUNDS
        found = self._rounds(problem, data, best.templates, best.baseline, settle)
        return _crop(found.templates, problem.length)

    def _rounds(
        self,
        problem: Problem,
        data: Observations,
        templates: Tensor,
        baseline: Tensor,
        tolerances: tuple[float, ...] | list[float],
    ) -> Refined:
        for tol in tolerances:
            found = self._round(problem, data, templates, baseline, tol)
            templates, baseline = found.templates, found.baseline
        return found

    def _round(
        self,
        problem: Problem,
        data: Observations,
        templates: Tensor,
        baseline: Tensor,
        tol: float,
    ) -> Refined:
        """Codes, then templates: one epoch on some data."""
        codes = self._codes(problem, data, templates, baseline, tol)
        if self.debias:
            return self._debias(problem, data, templates, codes, baseline, learn=True)
        events = Events.from_codes(codes.flatten(0, -3))
        return refine(data, templates, events, problem.penalty, baseline, learn_amplitudes=False)

    def _codes(
        self, problem: Problem, data: Observations, templates: Tensor, baseline: Tensor, tol: float
    ) -> Tensor:
        dictionary = ConvDictionary(templates.to(data.y.dtype))
        baseline = baseline.to(data.y.dtype)
        penalty = problem.weight(problem.penalty, dictionary, data, baseline)
        solved = sparse_code(
            data.y,
            data.family,
            dictionary,
            penalty,
            baseline,
            data.mask,
            tol=tol,
            max_iter=self.max_iter,
        )
        return solved.codes

    def _debias(
        self,
        problem: Problem,
        data: Observations,
        templates: Tensor,
        codes: Tensor,
        baseline: Tensor,
        learn: bool,
    ) -> Refined:
        """Merge and prune the events of the l1 solution, and refit them without the penalty."""
        events = Events.from_codes(codes.flatten(0, -3))
        events = events.merge(round(self.separation * problem.length))
        events = _prune(data.rows(), templates, events, baseline, codes.shape[-1])
        return refine(
            data,
            templates,
            events,
            problem.penalty,
            baseline,
            learn_templates=learn,
            smoothness=self.smoothness,
        )

    def _objective(self, problem: Problem, data: Observations, found: Refined) -> float:
        """Cost and the description length of the events' places, in nats."""
        places = problem.n_templates * data.y.shape[-1]
        return found.cost + len(found.events) * math.log(places)


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
    rows: Observations, templates: Tensor, events: Events, baseline: Tensor, n_places: int
) -> Events:
    """Drop events that gain less likelihood than it takes to say where they are."""
    templates = templates.to(rows.y.dtype)
    offset = baseline.reshape_as(rows.baseline).to(rows.y.dtype)
    eta = events.add_to(offset.expand_as(rows.y).contiguous(), templates)
    curvature = torch.where(rows.mask, rows.family.curvature(rows.y, eta), 0)
    patches = events.patches(curvature, templates.shape[-1])
    energy = (templates.square()[events.template] * patches).sum(dim=(1, 2))
    gain = events.amplitude.square() * energy / 2
    return events.take(gain > math.log(max(len(templates) * n_places, 2)))


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
