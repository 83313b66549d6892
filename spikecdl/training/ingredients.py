"""Which ingredients a model needs beside events, by the evidence with and without each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecdl.events import em
from spikecdl.events.dense import DenseCounts
from spikecdl.events.model import EventModel
from spikecdl.events.posterior import EXACT
from spikecdl.events.starts import Search
from spikecdl.model.families import Family, NegativeBinomial
from spikecdl.solvers.parallel import ALONE, Processes
from spikecdl.training.base import Choices, Problem

_ENOUGH_BINS = 60_000  # that ingredients are compared in
_LEAST_NATS = 10.0  # that an ingredient must gain
_STEPS = 20  # of EM with an ingredient, before evidences are compared
_ROUNDS = 2  # of the fit of a shape
_LATEST = -6.0  # log rate of events far from the mean response, where a fit of their timing begins
_LOG_SHAPES = 12.0  # range of the flat prior of the log shape of a negative binomial
# which are not added to one another: the first have no common family, and explain the same; the
# others explain together what events do
_APART = ({"bursts", "dispersion"}, {"bursts", "history"})
_VALUE, _NATS = "value of ", "nats of "  # before names of ingredients


@dataclass(frozen=True)
class Chosen:
    """The values of ingredients that were chosen, and what each that was tried gains in nats."""

    values: dict[str, float]
    nats: dict[str, float]

    def as_tensors(self) -> dict[str, Tensor]:
        """Return numbers as tensors, see `from_tensors`."""
        named = {_VALUE + name: value for name, value in self.values.items()}
        named |= {_NATS + name: value for name, value in self.nats.items()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in named.items()}

    def table(self) -> dict[str, dict[str, float | None]]:
        """Return value, or None, and nats of each that was tried."""
        return {n: {"value": self.values.get(n), "nats": nats} for n, nats in self.nats.items()}

    def family(self, before: Family) -> Family:
        """Return the family, which is another one if counts are more variable."""
        shape = self.values.get("dispersion")
        return before if shape is None else NegativeBinomial(shape)

    @classmethod
    def from_table(cls, table: Mapping[str, Mapping[str, Any]]) -> Chosen:
        """Return what `table` made this of."""
        values = {n: one["value"] for n, one in table.items() if one["value"] is not None}
        return cls(values, {name: one["nats"] for name, one in table.items()})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Chosen:
        """Return what `as_tensors` made these of, if there are others among them."""

        def numbers(prefix: str) -> dict[str, float]:
            names = [name for name in tensors if name.startswith(prefix)]
            return {name.removeprefix(prefix): float(tensors[name]) for name in names}

        return cls(numbers(_VALUE), numbers(_NATS))


@dataclass(frozen=True)
class _Fit:
    """A model with ingredients, fitted to a part of the counts, and its log evidence."""

    values: dict[str, float]
    model: EventModel
    evidence: float


def with_chosen(problem: Problem, chosen: Chosen) -> Problem:
    """Return the problem with the ingredients that were chosen."""
    if not chosen.values or problem.choices is None:
        return problem
    return replace(problem, data=problem.choices.data(chosen.values))


class Comparison:
    """Models with and without ingredients, fitted to the same part of the counts.

    Their events do not overlap.  ``search`` finds templates in counts, with knots of their timing,
    and knows a model to begin with.
    """

    def __init__(
        self,
        choices: Choices,
        length: int,
        search: Callable[[DenseCounts, int, EventModel], Search],
        processes: Processes = ALONE,
    ) -> None:
        self.choices, self.length, self.processes = choices, length, processes
        self._search = search
        self._known: dict[tuple[tuple[str, float], ...], DenseCounts] = {}

    def choose(self, model: EventModel) -> dict[str, Tensor]:
        """Add the ingredient that gains most to a model, as long as one gains ten nats.

        Events are sought anew with each.  Returns the tensors of `Chosen`, of the best model and of
        the last search.
        """
        best = self._climbed({}, replace(model, overlap=1, distance=0))
        nats: dict[str, float] = {}
        searched: dict[str, Tensor] = {}
        while True:
            tried = {name: self._with(name, best) for name in self._left(best.values)}
            gains = {name: fit.evidence - best.evidence for name, fit in tried.items()}
            nats |= gains
            first = max(tried.values(), key=_evidence_of, default=best)
            if first.evidence - best.evidence < _LEAST_NATS:
                break
            n_knots = int(first.values.get("timing", 0))
            search = self._search(self._counts(first.values), n_knots, first.model)
            best = max(first, self._fitted(first.values, search.model), key=_evidence_of)
            searched = search.as_tensors()
        return Chosen(best.values, nats).as_tensors() | best.model.as_tensors() | searched

    def explains_more(self, values: dict[str, float], model: EventModel, other: EventModel) -> bool:
        """Return whether a model with ingredients has more evidence than another without.

        Models of three events at a time or more have no exact evidence, and are not compared.
        """
        exact = max(model.overlap, other.overlap) <= EXACT
        return not exact or self._evidence(values, model) - self._evidence({}, other) > _LEAST_NATS

    def _left(self, values: Mapping[str, float]) -> list[str]:
        """Return the ingredients that can be added to others."""
        taken = set(values).union(*(apart for apart in _APART if apart & set(values)))
        return [name for name in self.choices.values if name not in taken]

    def _with(self, name: str, best: _Fit) -> _Fit:
        """Return the best model with one more ingredient.

        It begins from the events found so far, or has none, as what an ingredient explains may have
        been taken for events.
        """
        options = [best.values | {name: value} for value in self.choices.values[name]]
        if name == "dispersion":
            fits = [self._with_shape(options, best.model), self._with_shape(options, None)]
            return max(fits, key=_evidence_of)
        none = max((self._without_events(values) for values in options), key=_evidence_of)
        tried = [none, self._climbed(none.values, best.model)]
        if name == "timing":
            tried.append(self._climbed(none.values, self._locked(none, best.model)))
        return max(tried, key=_evidence_of)

    def _locked(self, none: _Fit, model: EventModel) -> EventModel:
        """Return a model, the template of fewest events replaced by the mean response of windows.

        Events that are too weak to be found one by one begin at its time in most windows.
        """
        counts = self._counts(none.values)
        template, onset = counts.mean_response(none.model)
        one = EventModel.of_templates(template, none.model.baseline)
        knots = np.linspace(0, counts.shape[2] - one.length, int(none.values["timing"]))
        distance = knots - onset
        timing = np.maximum(-2 * np.square(distance / one.length), _LATEST)
        others = np.argsort(-model.rates.sum(1), kind="stable")[: max(0, len(model) - 1)]
        return replace(one, timing=timing[None]).joined(model.take(others))

    def _with_shape(self, options: list[dict[str, float]], model: EventModel | None) -> _Fit:
        """Return the model with the likeliest shape, which is summed out (Laplace)."""

        def fitted(at: int) -> _Fit:
            if model is None:
                return self._without_events(options[at])
            return self._fitted(options[at], model)

        at, found = len(options) - 2, {}
        for _ in range(_ROUNDS if model is not None else 1):
            found = {k: fitted(k).evidence for k in (at - 1, at, at + 1)}
            while found[at] < max(found[at - 1], found[at + 1]):
                at += 1 if found[at + 1] > found[at - 1] else -1
                if not 0 < at < len(options) - 1:
                    break
                found |= {k: fitted(k).evidence for k in (at - 1, at + 1) if k not in found}
            if not 0 < at < len(options) - 1:
                at = min(max(at, 1), len(options) - 2)
                break
            if model is not None:
                model = self._climbed(options[at], model).model
        step = np.log(options[at]["dispersion"] / options[at - 1]["dispersion"])
        bend = (2 * found[at] - found[at - 1] - found[at + 1]) / step**2
        volume = np.log(2 * np.pi / max(bend, 1.0)) / 2 - np.log(_LOG_SHAPES)
        fit = fitted(at)
        return replace(fit, evidence=fit.evidence + volume)

    def _counts(self, values: Mapping[str, float]) -> DenseCounts:
        """Return a part of the counts, for a model with these ingredients."""
        key = tuple(one for one in values.items() if one[0] != "timing")
        if key not in self._known:
            data = self.choices.data(values).part(_ENOUGH_BINS, self.length)
            self._known[key] = DenseCounts(data, self.processes)
        return self._known[key]

    def _climbed(self, values: dict[str, float], model: EventModel) -> _Fit:
        """Return the model that EM finds from another one."""
        first = replace(model, coefficients=None).with_timing(int(values.get("timing", 0)))
        return self._fitted(values, em.climb(self._counts(values), first, _STEPS)[0])

    def _without_events(self, values: dict[str, float]) -> _Fit:
        """Return the model of no events."""
        return self._fitted(values, em.without_events(self._counts(values), self.length))

    def _fitted(self, values: dict[str, float], model: EventModel) -> _Fit:
        evidence = self._evidence(values, model)
        return _Fit(values, model, evidence if np.isfinite(evidence) else -np.inf)

    def _evidence(self, values: Mapping[str, float], model: EventModel) -> float:
        """Return the log evidence of counts, templates and coefficients."""
        counts = self._counts(values)
        found = counts.expect(model)
        return em.objective(model, found) + counts.constant.sum() + counts.log_volume(model, found)


_evidence_of = attrgetter("evidence")
