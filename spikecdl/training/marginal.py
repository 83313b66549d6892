"""Marginal training: templates by EM, with the times and amplitudes of events summed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.model.penalties import L1
from spikecdl.solvers.distributed import current_processes
from spikecdl.solvers.event_list import COLUMNS, to_events
from spikecdl.solvers.events import Events
from spikecdl.training.alternating import Alternating, Epoch, alternate
from spikecdl.training.base import COVARIATES, Fraction, Learned, OnEpoch, Problem, Trainer
from spikecdl.training.event_model import EventModel
from spikecdl.training.event_starts import ENOUGH_BINS, build
from spikecdl.training.overlap import ENOUGH, choose_overlap, learn_overlapping
from spikecdl.training.population_events import event_table, fit_population, population, spikes_of
from spikecdl.training.posterior import (
    known_coefficients,
    of_problem,
    posterior,
    to_model,
    to_tensors,
    with_amplitudes,
    with_baseline,
)
from spikecdl.training.summation import Summation

_STEPS = 60  # of EM from a start
_STEPS_PER_EPOCH = 10
_PROBABILITY = COLUMNS.index("probability")
_FAR = 30.0  # nats below the other start, from where a start is given up
# tensors: templates of the second best start, and how much lower its objective is, in nats
OTHER_START, START_GAP = "other_start", "start_gap"


@dataclass(frozen=True)
class Marginal(Trainer):
    r"""Maximise the likelihood of the counts, summed over all events that they may hold.

    A window is a chain: in a bin that no event covers, an event of template c and amplitude a
    begins with probability :math:`\pi_{ca}`, and lasts as long as the template.  Forward and
    backward passes give the exact likelihood and the exact probability of every event; EM steps fit
    templates, event rates, amplitudes and baselines.  Second differences of a template have a
    normal prior whose variance is fitted with it (empirical Bayes).  No decision is made on single
    events and no penalty is needed: `penalty` and `penalty_weight` are not used.  Baselines are
    common to all trials of a unit.

    EM begins from templates that are added one at a time, and from those of `Alternating`; the
    higher likelihood is kept, and how far the two agree is in the summary of a fit.  Where the
    events of `Alternating` overlap, several chains are sampled, from these events on, if they make
    counts and events together more probable.

    Parameters
    ----------
    n_starts : int
        Stretches of the data that each new template is tried from.
    overlap : int, optional
        Most events at a time; 1: events do not overlap.  None: chosen by probability, 1 or 3.
    distance : float, optional
        Least distance between the onsets of overlapping events of one template, in template
        lengths.  None: chosen by probability, among 1, 1/2 and 1/4.
    nonnegative : bool or sequence of bool
        Keep templates from falling below zero, so that events do not lower the rate; or a value for
        each template, whose order is then that of the values.
    most_events : int, optional
        Events listed in a window, the most probable ones; None: all of probability 1/2 or more.
        Templates are learned from all that are possible.
    separation : float
        An event's probability is that it begins within this fraction of the template's length.

    References
    ----------
    Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1977; Rabiner, Proc. IEEE 77, 1989; for the
    prior of templates MacKay, Neural Computation 4, 1992.

    Examples
    --------
    >>> import spikecdl
    >>> spikecdl.DCEA(trainer=spikecdl.Marginal(overlap=1)).trainer.overlap
    1
    """

    n_starts: int = 6
    overlap: int | None = None
    distance: float | None = None
    nonnegative: bool | Sequence[bool] = False
    most_events: int | None = None
    separation: float = 0.125
    name: ClassVar[str] = "marginal"
    default_epochs: ClassVar[int] = 30
    takes_onsets: ClassVar[bool] = True
    uses_penalty: ClassVar[bool] = False

    def __post_init__(self) -> None:
        validation.integer("n_starts", self.n_starts)
        validation.non_negative("separation", self.separation)
        validation.yes_or_no("nonnegative", self.nonnegative)
        if self.most_events is not None:
            validation.integer("most_events", self.most_events)
        if self.distance is not None:
            validation.non_negative("distance", self.distance)
        if self.overlap is not None:
            validation.integer("overlap", self.overlap)

    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Train, or go on from the state of an earlier run.

        Processes of torch.distributed share the sums over events, also those of the search.
        """
        _refuse_penalty(problem)
        learn = problem.data.learn_baseline
        spikes = spikes_of(problem.data, problem.length) if learn else None
        if spikes is not None and self.overlap is None and self.distance is None:
            return fit_population(problem, spikes, learned, on_epoch)
        counts = Summation(problem.data, current_processes())
        n_observed = max(1, int(problem.data.mask.count_nonzero()))
        null = -float(counts.evidence(counts.without_events(problem.length)).sum())
        if learned is None:
            learned = self._search(problem, counts)

        def epoch(before: Learned) -> Epoch:
            model = to_model(before.tensors, before.state["baseline"].cpu().numpy())
            model = model.bounded(problem.bounded)
            model = counts.with_coefficients(model, known_coefficients(before))
            if model.n_chains == 1:
                model, _ = counts.climb(model, _STEPS_PER_EPOCH)
            sums, found = counts.sum(model)
            record = {
                "loss": -float(found.evidence.sum()) / n_observed,
                "objective": -float(found.evidence.sum()) - model.log_density(counts.scale),
                "n_events": round(float(sums.number.sum())),
            }
            return _learned(model, before.tensors), record

        return alternate(epoch, learned, problem.n_epochs, null, on_epoch)

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return the events of posterior probability 1/2 or more, and the baseline."""
        width, eta = round(self.separation * problem.length), problem.data.baseline
        if (known := population(problem.data, tensors)) is not None:
            table = event_table(*known, width)
            events = self._listed(table)
            level = torch.from_numpy(known[1].baseline)[:, None].expand(eta.shape)
            return events.to(eta.device), level.to(eta)
        counts = Summation(problem.data)
        model = with_baseline(counts, of_problem(counts, problem, tensors))
        events = self._listed(posterior(counts, model, width)[0])
        predictor = torch.from_numpy(counts.predictor(model) + counts.shift)
        eta = predictor[..., : eta.shape[-1]].reshape(eta.shape).to(eta)
        return events.to(eta.device), eta

    def _listed(self, table: np.ndarray) -> Events:
        """Return the events of a table, the most probable ones of each window."""
        events, probability = to_events(table), torch.from_numpy(table[:, _PROBABILITY])
        return events.take(events.strongest(probability, self.most_events))

    def _search(self, problem: Problem, counts: Summation) -> Learned:
        """Return the most likely model of several starts."""
        n_bins = counts.loss.a.size // counts.spacing(ENOUGH_BINS)
        default = Alternating(most_bins=n_bins)
        length, steps, bounded = problem.length, problem.steps, problem.bounded
        whole = replace(problem, n_epochs=default.default_epochs)

        def alternating() -> dict[str, Tensor]:
            found = default.fit(whole, None, lambda state: None)
            return {**found.tensors, **found.unit_tensors}

        units = steps("alternating", alternating)
        tensors = {name: units.pop(name) for name in ("templates", "level")}
        first = Learned(tensors, unit_tensors=units)
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=problem.generator)))
        events = default.encode(problem, first.tensors)[0].to("cpu")
        templates = first.tensors["templates"].double().cpu().numpy()
        begun = with_amplitudes(templates, events, counts.start).bounded(bounded)
        begun = counts.with_coefficients(begun, known_coefficients(first))
        distance = None if self.distance is None else round(self.distance * length)

        def with_overlap() -> dict[str, Tensor]:
            if self.overlap is None:
                return choose_overlap(counts, begun, events, rng, ENOUGH, True).as_tensors()
            return replace(begun, n_chains=self.overlap, distance=distance or 0).as_tensors()

        def likeliest() -> dict[str, Tensor]:
            if model.n_chains > 1:
                return learn_overlapping(counts, model, events, rng, distance).as_tensors()
            n_templates = problem.n_templates
            added = build(counts, n_templates, length, self.n_starts, rng, steps, bounded)
            begin = counts.climb(model, _STEPS_PER_EPOCH)
            if begin[1] > added[1] - _FAR:
                begin = counts.climb(begin[0], _STEPS)
            (best, highest), (other, lower) = sorted([begin, added], key=lambda each: -each[1])
            templates = to_tensors(other)["templates"]
            gap = torch.tensor(highest - lower, dtype=torch.float64)
            return {**best.as_tensors(), OTHER_START: templates, START_GAP: gap}

        model = EventModel.from_tensors(steps("overlap", with_overlap, rng))
        found = steps("likeliest", likeliest, rng)
        more = {name: found.pop(name) for name in (OTHER_START, START_GAP) if name in found}
        return _learned(EventModel.from_tensors(found), first.tensors | more)


def _learned(model: EventModel, before: Mapping[str, Tensor]) -> Learned:
    """Return the state of training at a model, with what the search has left."""
    left = {name: before[name] for name in ("level", OTHER_START, START_GAP) if name in before}
    units = {}
    if model.coefficients is not None:
        units[COVARIATES] = torch.from_numpy(model.coefficients)
    baseline = {"baseline": torch.from_numpy(model.baseline)}
    return Learned(left | to_tensors(model), baseline, unit_tensors=units)


def _refuse_penalty(problem: Problem) -> None:
    """Raise if a penalty was chosen, which would not be used."""
    penalty, why = problem.penalty, "which sums over events; leave it out"
    if isinstance(problem.weight, Fraction):
        chosen = f"`penalty_weight` (={problem.weight.fraction:g})"
    elif not isinstance(penalty, L1):
        chosen = f"`penalty` (={penalty.name!r})"
    elif penalty.sign != "positive":
        chosen = f"`sign` (={penalty.sign!r})"
        why = (
            "whose templates raise or lower the rate by themselves; leave it out (`nonnegative` "
            "keeps templates from falling below zero)"
        )
    else:
        return
    raise ValueError(
        f"{chosen} is not used by trainer='marginal', {why}, or use trainer='alternating'"
    )
