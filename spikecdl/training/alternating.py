"""Alternating training: codes solved, then the dictionary updated, on the same likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import Family
from spikecdl.solvers.events import Events
from spikecdl.solvers.parallel import current_processes
from spikecdl.training.base import COVARIATES, Learned, Observations, OnEpoch, Problem, Trainer
from spikecdl.training.covariates import fitted, with_coefficients, with_covariates
from spikecdl.training.dictionary_update import Round
from spikecdl.training.initialization import Initialization

#: What an epoch has learned, and what goes into its record.
Epoch = tuple[Learned, dict[str, Any]]


@dataclass(frozen=True)
class Alternating(Trainer):
    """Solve for the codes, then fit templates, amplitudes and baseline on their support.

    `Initialization` chooses the first templates and the level of the penalty.  It learns templates
    longer than asked and crops them to the bins of most energy, which fixes their shift.

    Parameters
    ----------
    overcomplete : float
        Templates beyond those asked that the initialization begins with, as a multiple of them.
    debias : bool
        Merge events that the l1 solution spreads over neighbouring onsets, drop those that the
        likelihood does not support, and refit amplitudes with the templates, without the penalty.
        If false, the dictionary update is on the penalised objective with the codes fixed.
    padding : float
        Bins learned beyond the template, as a fraction of its length.
    separation : float
        Events of one template closer than this fraction of its length are one event.
    smoothness : float
        Time constant of the smoothing of templates, as a fraction of their length.
    nonnegative : bool or sequence of bool
        Keep templates from falling below zero, so that events do not lower the rate; or a value for
        each template, whose order is then that of the values.
    most_events : int, optional
        Events kept in a window, those that gain most; None: all that gain enough.
    tol : float
        Violation of optimality at which codes are accepted, relative to the penalty weight.
    max_iter : int
        Largest number of iterations of a coding step.
    most_bins : int
        Observed bins that the initialization uses; of more, random windows.

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
    nonnegative: bool | Sequence[bool] = False
    most_events: int | None = None
    tol: float = 0.1
    max_iter: int = 300
    most_bins: int = 120_000
    name: ClassVar[str] = "alternating"
    default_epochs: ClassVar[int] = 10
    takes_onsets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("overcomplete", "padding", "separation", "smoothness"):
            validation.non_negative(name, getattr(self, name))
        validation.positive("tol", self.tol)
        validation.integer("max_iter", self.max_iter)
        validation.yes_or_no("nonnegative", self.nonnegative)
        if self.most_events is not None:
            validation.integer("most_events", self.most_events)
            if not self.debias:
                raise ValueError(
                    f"`most_events` (={self.most_events}) selects events after debiasing; "
                    "use debias=True"
                )
        validation.integer("most_bins", self.most_bins)

    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Train, or go on from the state of an earlier run.

        Processes of torch.distributed share the windows, after an initialization that each runs.
        """
        data, processes = problem.windows(), current_processes()
        if learned is None:
            tensors = problem.steps("initialization", partial(self._initialize, problem, data))
            state = {"baseline": data.baseline}
            learned = Learned(tensors, state, unit_tensors=dict(problem.unit_tensors))
        level = learned.tensors["level"]
        mine, n_observed = processes.part(len(data.y)), max(1, int(data.mask.count_nonzero()))
        part = data.take(mine)
        step = replace(self.round(problem, part, float(level)), processes=processes)

        def epoch(before: Learned) -> Epoch:
            coefficients, now = before.unit_tensors.get(COVARIATES), part
            if coefficients is not None:
                start = problem.unit_tensors[COVARIATES]
                now = with_coefficients(part, coefficients, start, processes.total)
            begin = (before.tensors["templates"], before.state["baseline"][mine], self.tol)
            found = replace(step, data=now)(*begin)
            record = {
                "loss": found.cost / n_observed,
                "objective": found.objective,
                "n_events": int(processes.total(torch.tensor(len(found.events)))),
            }
            baseline, units = found.baseline, before.unit_tensors
            if coefficients is not None:
                new = fitted(now, coefficients, found.eta(now), processes.total)
                now = replace(now, baseline=baseline)
                now = with_coefficients(now, new, coefficients, processes.total)
                baseline, units = now.baseline, {**units, COVARIATES: new}
            state = {"baseline": processes.whole(baseline, len(data.y))}
            tensors = {"templates": found.templates, "level": level}
            return replace(before, tensors=tensors, state=state, unit_tensors=units), record

        return alternate(epoch, learned, problem.n_epochs, null_cost(data), on_epoch)

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return events and baseline: the penalised codes, debiased as in training."""
        data = problem.windows()
        step = self.round(problem, data, float(tensors["level"]))
        baseline = data.baseline
        for _ in range(2 if self.debias and data.learn_baseline else 1):
            solved = step.codes(tensors["templates"], baseline, self.tol)
            events = solved.events
            if self.debias:
                found = step.refit(tensors["templates"], solved, baseline, learn=False)
                baseline, events = found.baseline, found.events
        return events, baseline.reshape_as(problem.data.baseline)

    def _initialize(self, problem: Problem, data: Observations) -> dict[str, Tensor]:
        """Return the first templates, and the level of the penalty."""
        extra = min(round(self.padding * problem.length), data.y.shape[-1] - problem.length)
        step = self.round(problem, data)
        choose = Initialization(problem, step, self.overcomplete, extra, self.tol, self.most_bins)
        templates, level = choose()
        return {"templates": templates, "level": torch.tensor(level)}

    def round(self, problem: Problem, data: Observations, level: float = 1.0) -> Round:
        """Return what makes one pass over codes and dictionary."""
        return Round(
            data=data,
            penalty=problem.penalty,
            weight=problem.weight.at(level),
            debias=self.debias,
            separation=round(self.separation * problem.length),
            smoothness=self.smoothness * problem.length,
            nonnegative=problem.bounded,
            most_events=self.most_events,
            max_iter=self.max_iter,
        )


def alternate(
    epoch: Callable[[Learned], Epoch],
    learned: Learned,
    n_epochs: int,
    null: float,
    on_epoch: OnEpoch = lambda learned: None,
) -> Learned:
    """Take epochs until the objective settles, or there have been ``n_epochs`` in all.

    ``epoch`` makes one pass over codes and dictionary from the state before it; its record holds
    ``loss``, ``objective`` and ``n_events``.  ``null`` is the cost without events, see `null_cost`.
    Raises FloatingPointError if the loss is not finite.
    """
    while learned.epoch < n_epochs and not learned.converged:
        new, measured = epoch(learned)
        number = learned.epoch + 1
        record = {"epoch": number, **measured}
        if not math.isfinite(record["loss"]):
            raise FloatingPointError(
                f"the loss is {record['loss']} at epoch {number}; check the counts for outliers, "
                "or raise `penalty_weight`"
            )
        if learned.history and record["objective"] > learned.history[-1]["objective"]:
            return replace(learned, converged=True)  # events are found anew, so it can rise
        history = [*learned.history, record]
        converged = _settled(history, null)
        learned = replace(new, epoch=number, history=history, converged=converged)
        on_epoch(learned)
    return learned


def null_cost(data: Observations) -> float:
    """Return the cost without events."""
    pieces = (some for *_, some in data.pieces())
    return sum(float(some.cost(some.baseline.expand_as(some.y))) for some in pieces)


def _settled(history: list[dict[str, Any]], null: float, little: float = 1e-3) -> bool:
    """Return whether the last epoch gained little, a fraction, of what all epochs gained."""
    if len(history) < 2:
        return False
    before, now = history[-2]["objective"], history[-1]["objective"]
    return before - now < little * max(null - now, 0.0) + 1e-9 * abs(now)


def family_of_first_fit(problem: Problem, family: Family) -> Family:
    """Return the family, what is not known of it estimated around the rates of a first epoch.

    Around a constant rate, events would be taken for variability of the counts, as they would by
    a trainer that weighs them against it.
    """
    trainer = Alternating()
    problem = with_covariates(problem)
    once = replace(problem, n_epochs=1)

    def first_fit() -> dict[str, Tensor]:
        return trainer.fit(once, None, lambda state: None).model(problem.n_templates)

    tensors = problem.steps("first fit", first_fit)
    dictionary = ConvDictionary(tensors["templates"].to(problem.data.baseline.device))
    mean = problem.mean(dictionary, *trainer.coded(problem, tensors))
    return problem.data.estimated_family(family, mean)
