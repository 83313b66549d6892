"""Alternating training: codes solved, then templates, on the same likelihood."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.solvers.events import Events
from spikecdl.training.base import Learned, Observations, OnEpoch, Problem, Weight
from spikecdl.training.dictionary_update import Round
from spikecdl.training.distributed import Processes, current_processes
from spikecdl.training.initialization import Initialization

_GAIN = 1e-3  # gain of an epoch, as a fraction of all gain so far, that counts as converged


@dataclass(frozen=True)
class Alternating:
    """Codes to convergence, then templates, amplitudes and baseline on the support they found.

    `Initialization` decides the first templates and the level of the penalty.  Its templates are
    longer than asked and are cropped to the bins of most energy, which fixes their shift.

    Parameters
    ----------
    overcomplete : float
        Templates that a run of the race begins with beyond those asked, as a multiple of them.
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

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import spikecdl
    >>> spikecdl.DCEA(trainer=spikecdl.Alternating(overcomplete=3.0)).trainer.overcomplete
    3.0
    """

    overcomplete: float = 1.7
    debias: bool = True
    padding: float = 0.4
    separation: float = 0.125
    smoothness: float = 0.0
    tol: float = 0.1
    max_iter: int = 300
    name: ClassVar[str] = "alternating"
    default_epochs: ClassVar[int] = 10

    def __post_init__(self) -> None:
        """Check what would break the race."""
        for name in ("overcomplete", "padding", "separation", "smoothness"):
            value = getattr(self, name)
            if validation.real(name, value) < 0:
                raise ValueError(f"`{name}` (={value!r}) must not be negative")
        validation.positive("tol", self.tol)
        validation.integer("max_iter", self.max_iter)

    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Train, or go on from the state of an earlier run.

        Processes of torch.distributed share the windows, after a race that each runs for itself.
        """
        data, processes = problem.windows(), current_processes()
        if learned is None:
            templates, level = self._race(problem, data)
            start = {"templates": templates, "baseline": data.baseline, "level": level}
            learned = Learned(start)
        null = _null_cost(data)
        level = learned.tensors["level"]
        mine, n_observed = processes.part(len(data.y)), int(data.mask.count_nonzero())
        step = self._round(problem, data.take(mine), problem.weight.at(float(level)), processes)
        while learned.epoch < problem.n_epochs and not learned.converged:
            began = time.perf_counter()
            found = step(learned.tensors["templates"], learned.tensors["baseline"][mine], self.tol)
            record = {
                "epoch": learned.epoch + 1,
                "loss": found.cost / n_observed,
                "objective": found.objective,
                "n_events": int(processes.total(torch.tensor(len(found.events)))),
                "seconds": time.perf_counter() - began,
            }
            _check_finite(record)
            if learned.history and record["objective"] > learned.history[-1]["objective"]:
                return replace(learned, converged=True)  # codes are solved anew: uphill can be
            history = [*learned.history, record]
            baseline = processes.whole(found.baseline, len(data.y))
            tensors = {"templates": found.templates, "baseline": baseline, "level": level}
            learned = Learned(tensors, learned.epoch + 1, history, settled(history, null))
            on_epoch(learned)
        return learned

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return events and baseline of the problem's data; the templates stay as they are."""
        data = problem.windows()
        step = self._round(problem, data, problem.weight.at(float(tensors["level"])))
        baseline = data.baseline
        for _ in range(2 if self.debias and data.learn_baseline else 1):
            solved = step.codes(tensors["templates"], baseline, self.tol)
            events = solved.events
            if self.debias:
                found = step.refit(tensors["templates"], solved, baseline, learn=False)
                baseline, events = found.baseline, found.events
        lead = problem.data.y.shape[:2]
        return events, baseline.reshape(*lead, -1, 1)

    def _race(self, problem: Problem, data: Observations) -> tuple[Tensor, Tensor]:
        """Return templates to start from, and the level of the penalty."""
        extra = min(round(self.padding * problem.length), data.y.shape[-1] - problem.length)

        def make_round(seen: Observations, weight: Weight) -> Round:
            return self._round(problem, seen, weight)

        templates, level = Initialization(problem, make_round, self.overcomplete, extra, self.tol)(
            data
        )
        return templates, torch.tensor(level)

    def _round(
        self,
        problem: Problem,
        data: Observations,
        weight: Weight,
        processes: Processes | None = None,
    ) -> Round:
        return Round(
            data=data,
            penalty=problem.penalty,
            weight=weight,
            debias=self.debias,
            separation=round(self.separation * problem.length),
            smoothness=self.smoothness,
            max_iter=self.max_iter,
            processes=processes or Processes(),
        )


def _null_cost(data: Observations) -> float:
    """Return the cost without events."""
    return sum(float(some.cost(some.baseline.expand_as(some.y))) for _, some in data.parts())


def settled(history: list[dict[str, Any]], null: float) -> bool:
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
