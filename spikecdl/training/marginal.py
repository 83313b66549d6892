"""Marginal training: templates by EM, with the times and amplitudes of events summed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.events import em, posterior, starts
from spikecdl.events.counts import Counts
from spikecdl.events.dense import DenseCounts
from spikecdl.events.model import EventModel
from spikecdl.events.sampling import choose_overlap, learn_overlapping
from spikecdl.events.speeds import CountsAtSpeeds, Speeds
from spikecdl.events.table import COLUMNS, NEAR, to_events
from spikecdl.model.penalties import L1
from spikecdl.solvers.events import Events
from spikecdl.solvers.parallel import Processes, current_processes
from spikecdl.training.alternating import Alternating, Epoch, alternate
from spikecdl.training.base import COVARIATES, Fraction, Learned, OnEpoch, Problem, Trainer
from spikecdl.training.covariates import with_covariates
from spikecdl.training.events import counts_of, encoded, of_events
from spikecdl.training.ingredients import Chosen, Comparison, with_chosen
from spikecdl.training.steps import Steps

_STEPS = 20  # of EM with a given overlap
_STEPS_PER_EPOCH = 10
_ENOUGH_BINS = 30_000  # that overlaps are compared in
_PROBABILITY = COLUMNS.index("probability")


@dataclass(frozen=True)
class Marginal(Trainer):
    r"""Maximise the likelihood of the counts, summed over all events that they may hold.

    In every bin in which fewer events are under way than may be, an event of template c and
    amplitude a begins with probability :math:`\pi_{ca}`, and lasts as long as the template.
    Forward and backward passes give the exact likelihood and the exact probability of every event,
    if at most two overlap; EM steps fit templates, event rates, amplitudes and baselines.  Rows of
    templates have a normal prior that is smooth and shrinks them, whose strength is fitted with
    them (empirical Bayes), and are uncertain where events are few.  No decision is made on single
    events and no penalty is needed: `penalty` and `penalty_weight` are not used.  Baselines are
    common to all trials of a unit.

    EM begins from stretches of the counts, again and again until the best optimum has been found
    twice.  How far starts agree is in the summary of a fit.

    Parameters
    ----------
    n_starts : int
        Most starts.
    overlap : int, optional
        Most events at a time.  One and two are summed exactly; three or more are sampled.  None:
        one, two or three, by their evidence.
    distance : float, optional
        Least distance between the onsets of overlapping events of one template, in template
        lengths.  None: 1 or 1/4, by their evidence.
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
    chooses: ClassVar[bool] = True
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
        processes = current_processes()
        if learned is None:
            learned = self._search(problem, processes)
        chosen = Chosen.from_tensors(learned.state)
        counts = counts_of(
            with_chosen(problem, chosen).data, problem.length, self.overlap, processes
        )
        n_observed = max(1, int(problem.data.mask.count_nonzero()))
        none = em.without_events(counts, problem.length)
        null = -float(counts.expect(none).evidence.sum())

        def epoch(before: Learned) -> Epoch:
            model = EventModel.from_tensors(before.state)
            exact = replace(model, overlap=min(model.overlap, posterior.EXACT))
            if model.overlap == exact.overlap:
                model, _ = em.climb(counts, model, _STEPS_PER_EPOCH)
                exact = model
            found = counts.expect(exact)
            record = {
                "loss": -float(found.evidence.sum()) / n_observed,
                "objective": -em.objective(exact, found),
                "n_events": round(float(found.number.sum())),
            }
            return _learned(model, before, problem.code_shape[1]), record

        return alternate(epoch, learned, problem.n_epochs, null, on_epoch)

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return the events of posterior probability 1/2 or more, and the baseline."""
        table, eta = encoded(problem, tensors, round(self.separation * problem.length))
        events, probability = to_events(table), torch.from_numpy(table[:, _PROBABILITY])
        return events.take(events.strongest(probability, self.most_events)).to(eta.device), eta

    def settled(self, tensors: Mapping[str, Tensor]) -> Marginal:
        """Return the trainer with the overlap of events that it has chosen."""
        distance = int(tensors["distance"]) / tensors["templates"].shape[2]
        return replace(self, overlap=int(tensors["overlap"]), distance=distance)

    def _search(self, problem: Problem, processes: Processes) -> Learned:
        """Return the most likely model of several starts, with the ingredients that it needs."""
        counts = counts_of(problem.data, problem.length, self.overlap, processes)
        seed = int(torch.randint(2**31, (1,), generator=problem.generator))
        rng = np.random.default_rng(seed)
        most = posterior.EXACT if self.overlap is None else min(self.overlap, posterior.EXACT)
        size = (problem.n_templates, problem.length, self.n_starts)
        wanted = starts.Wanted(*size, problem.bounded, most)
        found = starts.search(counts, wanted, rng, problem.steps)
        model, chosen = self._with_overlap(problem, counts, found.model, rng), Chosen({}, {})
        searched = found.as_tensors()
        if problem.choices is not None:

            def again(part: DenseCounts, n_knots: int, known: EventModel) -> starts.Search:
                anew = replace(wanted, overlap=1, n_knots=n_knots, known=known)
                return starts.search(part, anew, rng, Steps())

            compared = Comparison(problem.choices, problem.length, again, processes)
            compute = partial(compared.choose, found.model)
            tensors = problem.steps("ingredients", compute, rng)
            chosen = Chosen.from_tensors(tensors)
            if chosen.values:
                data = with_chosen(problem, chosen).data
                counts = counts_of(data, problem.length, self.overlap, processes)
                other = EventModel.from_tensors(tensors).filled(problem.n_templates)
                other = self._with_overlap(problem, counts, other, rng)
                if compared.explains_more(chosen.values, other, model):
                    model, searched = other, tensors
                else:
                    chosen = Chosen({}, chosen.nats)
        before = Learned(searched, chosen.as_tensors())
        return _learned(model, before, problem.code_shape[1])

    def _with_overlap(
        self, problem: Problem, counts: Counts, found: EventModel, rng: np.random.Generator
    ) -> EventModel:
        """Return a model with the overlap of events that was asked for, or is likeliest."""
        distance = None if self.distance is None else round(self.distance * problem.length)

        def compute() -> dict[str, Tensor]:
            part = counts.part(_ENOUGH_BINS, problem.length)
            if self.overlap is None:
                apart = partial(_of_decided_events, problem, found)
                model = choose_overlap(part, found, rng, distance=distance, apart=apart)
            else:
                most = min(self.overlap, posterior.EXACT)
                exact = replace(found, overlap=most, distance=distance or 0)
                model = replace(em.climb(part, exact, _STEPS)[0], overlap=self.overlap)
            exact = replace(model, overlap=min(model.overlap, posterior.EXACT))
            exact = starts.without_idle(part, exact)
            model = replace(exact, overlap=model.overlap)
            if model.overlap <= posterior.EXACT:
                return model.as_tensors()
            assert isinstance(counts, DenseCounts)
            table = posterior.event_table(counts, exact, round(NEAR * model.length))
            return learn_overlapping(counts, model, to_events(table), rng).as_tensors()

        return EventModel.from_tensors(problem.steps("overlap", compute, rng))


@dataclass(frozen=True)
class AtSpeeds(Marginal):
    """Fit rates of events and baselines, and templates if asked for, of events of several speeds.

    It begins from a ``known`` model, whose baselines are not used, and has the ingredients that
    were ``chosen`` for it.  See `DCEA.at_speeds`.
    """

    known: EventModel | None = None
    chosen: Chosen | None = None
    speeds: Speeds | None = None
    learn_templates: bool = False

    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Take steps of EM until they gain little."""
        assert self.known is not None
        assert self.chosen is not None
        assert self.speeds is not None
        data = with_chosen(problem, self.chosen).data
        counts = counts_of(data, problem.length, posterior.EXACT, current_processes())
        null = em.without_events(counts, self.known.length)
        known = replace(self.known, baseline=null.baseline, coefficients=null.coefficients)
        there = cast(Counts, CountsAtSpeeds(counts, self.speeds))
        most = problem.n_epochs * _STEPS_PER_EPOCH
        model, value = em.climb(there, self.speeds.spread(known), most, self.learn_templates)
        played = self.speeds.played(model)
        done = _learned(played, Learned({}, self.chosen.as_tensors()), problem.code_shape[1])
        done.tensors["speed"] = torch.from_numpy(np.tile(self.speeds.values, len(known)))
        done.tensors["original"] = torch.from_numpy(played.original)
        loss = -value / max(1, int(problem.data.mask.count_nonzero()))
        return replace(done, epoch=1, converged=True, history=[{"epoch": 1, "loss": loss}])


#: Tensors of a search, which stay: how many starts there were, and how many agree; templates of the
#: best other optimum, and how much lower its objective is, in nats.
_OF_SEARCH = ("n_starts", "n_agree", "other_start", "start_gap")


def _of_decided_events(problem: Problem, model: EventModel) -> EventModel:
    """Return the model with the templates of `Alternating`, whose events may overlap at will."""
    part, trainer = problem.data.part(_ENOUGH_BINS, problem.length), Alternating()
    problem = with_covariates(replace(problem, data=part, n_epochs=trainer.default_epochs))
    found = trainer.fit(problem, None, lambda learned: None).tensors
    events = trainer.encode(problem, found)[0].to("cpu")
    other = of_events(found["templates"], events, model.baseline, model.coefficients)
    return replace(other, nonnegative=model.nonnegative, timing=np.zeros_like(model.timing))


def _learned(model: EventModel, before: Learned, n_onsets: int) -> Learned:
    """Return the state of training at a model, with what the search has left."""
    left = {name: before.tensors[name] for name in _OF_SEARCH if name in before.tensors}
    units = {}
    if model.coefficients is not None:
        units[COVARIATES] = torch.from_numpy(model.coefficients)
    left["n_onsets"] = torch.tensor(n_onsets)
    left["at_bound"] = torch.from_numpy(em.as_often_as_may_be(model))
    state = model.as_tensors() | Chosen.from_tensors(before.state).as_tensors()
    return Learned(left | model.to_file(), state, unit_tensors=units)


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
