"""One round of training: codes for some observations, then templates for those codes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from spikecdl.coding import sparse_code
from spikecdl.dictionary import ConvDictionary
from spikecdl.events import Events
from spikecdl.penalties import Penalty
from spikecdl.ranks import Ranks
from spikecdl.training.gains import event_gains
from spikecdl.training.observations import Observations
from spikecdl.training.refine import Refined, refine
from spikecdl.training.weight import Weight

_PRICE = 3.0  # an event has to gain so many times what a score at the weight of the penalty does
_PRUNINGS = 2  # an event may only show that it is too weak when others are gone


@dataclass(frozen=True)
class Solved:
    """Events that solve the penalised problem, the penalty with its weight, and its value."""

    events: Events
    penalty: Penalty
    value: float


@dataclass(frozen=True)
class Round:
    """What a round does with some data.

    Parameters
    ----------
    data : Observations
    penalty, weight
        The penalty, and the rule that sets its weight.
    debias : bool
        Merge, prune and refit the events of the l1 solution without the penalty.
    separation : int
        Events of one template at most so many bins apart are joined.
    smoothness : float
        See `refine`.
    max_iter : int
        Iterations of sparse coding at the most.
    ranks : Ranks
        Processes that share the windows; the data are the part of this one, the costs are of all.
    """

    data: Observations
    penalty: Penalty
    weight: Weight
    debias: bool
    separation: int
    smoothness: float
    max_iter: int
    ranks: Ranks = field(default_factory=Ranks)

    def __call__(self, templates: Tensor, baseline: Tensor, tol: float) -> Refined:
        """Codes to a tolerance, then templates, amplitudes and baseline."""
        solved = self.codes(templates, baseline, tol)
        if self.debias:
            return self.refit(templates, solved, baseline, learn=True)
        penalty = solved.penalty
        found = self._refine(templates, solved.events, penalty, baseline, learn_amplitudes=False)
        return self._with_penalty(found, solved.value)

    def codes(self, templates: Tensor, baseline: Tensor, tol: float) -> Solved:
        """Solve for the codes, with the weight of the penalty set."""
        dtype = self.data.dtype
        dictionary = ConvDictionary(templates.to(dtype))
        penalty = self.weight(self.penalty, dictionary, self.data, baseline.to(dtype))
        # a weight for all windows follows from the highest score of all
        penalty = penalty.map(lambda w: w if w.ndim else self.ranks.largest(w))
        return self.solve(templates, baseline, penalty, tol)

    def solve(
        self,
        templates: Tensor,
        baseline: Tensor,
        penalty: Penalty,
        tol: float,
        start: Events | None = None,
    ) -> Solved:
        """Solve for the codes with a penalty whose weight is set.

        Windows are solved in parts, of whose codes only the events are kept.
        """
        data, dictionary = self.data, ConvDictionary(templates.to(self.data.dtype))
        found, value = [], 0.0
        for part, some in data.parts(len(templates)):
            weighed, (first, last) = data.share(penalty, part), data.rows_of(part)
            begun = None
            if start is not None:
                shape = (len(templates), *dictionary.code_shape(data.y.shape[-1:]))
                begun = start.within(first, last).to_codes((last - first, *shape))
                begun = begun.reshape(*some.y.shape[:-2], *shape)
            codes = sparse_code(
                some.y,
                some.family,
                dictionary,
                weighed,
                baseline[part].to(some.y.dtype),
                some.mask,
                tol=tol,
                max_iter=self.max_iter,
                start=begun,
            ).codes
            found.append(Events.from_codes(codes.flatten(0, -3)).later(first))
            value += float(weighed(codes))
        return Solved(Events.joined(found), penalty, value)

    def penalised_cost(self, templates: Tensor, solved: Solved, baseline: Tensor) -> float:
        """Return what the codes minimise."""
        rows, cost = self.data.rows(), 0.0
        levels = baseline.to(rows.baseline).reshape_as(rows.baseline)
        for part, some in rows.parts():
            events = solved.events.within(part.start, part.stop)
            eta = events.add_to(levels[part].expand_as(some.y), templates.to(rows.dtype))
            cost += float(some.cost(eta))
        return cost + solved.value

    def refit(self, templates: Tensor, solved: Solved, baseline: Tensor, learn: bool) -> Refined:
        """Merge and prune the events of the l1 solution, and refit them without the penalty."""
        penalty = solved.penalty
        units = self.data.together(penalty)
        events = solved.events.merge(self.separation, units)
        gains = event_gains(self.data, templates, events, baseline, penalty)
        events = events.take(gains.alone > 1)
        for _ in range(_PRUNINGS):
            fitted = self._refine(templates, events, penalty, baseline, learn_templates=False)
            gains = event_gains(self.data, templates, fitted.events, fitted.baseline, penalty)
            kept = gains.own > _PRICE
            events, baseline = fitted.events.take(kept), fitted.baseline
        found = self._refine(templates, events, penalty, baseline, learn_templates=learn)
        return self._with_penalty(found, _PRICE * float(gains.unit[kept].sum()))

    def _refine(
        self,
        templates: Tensor,
        events: Events,
        penalty: Penalty,
        baseline: Tensor,
        *,
        learn_templates: bool = True,
        learn_amplitudes: bool = True,
    ) -> Refined:
        return refine(
            self.data,
            templates,
            events,
            penalty,
            baseline,
            learn_templates=learn_templates,
            learn_amplitudes=learn_amplitudes,
            smoothness=self.smoothness,
            ranks=self.ranks,
        )

    def _with_penalty(self, found: Refined, penalty: float) -> Refined:
        """Note the penalty of all processes."""
        total = self.ranks.total(torch.tensor(penalty, dtype=torch.float64))
        return replace(found, penalty=float(total))
