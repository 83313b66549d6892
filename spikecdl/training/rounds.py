"""One round of training: codes for some observations, then templates for those codes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
        codes, penalty = self.codes(templates, baseline, tol)
        if self.debias:
            return self.refit(templates, codes, baseline, penalty, learn=True)
        events = Events.from_codes(codes.flatten(0, -3))
        found = self._refine(templates, events, penalty, baseline, learn_amplitudes=False)
        return self._with_penalty(found, penalty(codes))

    def codes(self, templates: Tensor, baseline: Tensor, tol: float) -> tuple[Tensor, Penalty]:
        """Solve for the codes; the penalty comes with its weight set."""
        dtype = self.data.y.dtype
        dictionary = ConvDictionary(templates.to(dtype))
        penalty = self.weight(self.penalty, dictionary, self.data, baseline.to(dtype))
        # a weight for all windows follows from the highest score of all
        penalty = penalty.map(lambda w: w if w.ndim else self.ranks.largest(w))
        return self.solve(templates, baseline, penalty, tol), penalty

    def solve(
        self,
        templates: Tensor,
        baseline: Tensor,
        penalty: Penalty,
        tol: float,
        start: Tensor | None = None,
    ) -> Tensor:
        """Solve for the codes with a penalty whose weight is set."""
        data, dtype = self.data, self.data.y.dtype
        return sparse_code(
            data.y,
            data.family,
            ConvDictionary(templates.to(dtype)),
            penalty,
            baseline.to(dtype),
            data.mask,
            tol=tol,
            max_iter=self.max_iter,
            start=start,
        ).codes

    def penalised_cost(
        self, templates: Tensor, codes: Tensor, baseline: Tensor, penalty: Penalty
    ) -> float:
        """Return what the codes minimise."""
        rows, dtype = self.data.rows(), self.data.y.dtype
        level = baseline.to(dtype).reshape_as(rows.baseline).expand_as(rows.y)
        eta = Events.from_codes(codes.flatten(0, -3)).add_to(level, templates.to(dtype))
        return float(rows.cost(eta)) + float(penalty(codes))

    def refit(
        self, templates: Tensor, codes: Tensor, baseline: Tensor, penalty: Penalty, learn: bool
    ) -> Refined:
        """Merge and prune the events of the l1 solution, and refit them without the penalty."""
        units = self.data.together(penalty)
        events = Events.from_codes(codes.flatten(0, -3)).merge(self.separation, units)
        gains = event_gains(self.data, templates, events, baseline, penalty)
        events = events.take(gains.alone > 1)
        for _ in range(_PRUNINGS):
            fitted = self._refine(templates, events, penalty, baseline, learn_templates=False)
            gains = event_gains(self.data, templates, fitted.events, fitted.baseline, penalty)
            kept = gains.own > _PRICE
            events, baseline = fitted.events.take(kept), fitted.baseline
        found = self._refine(templates, events, penalty, baseline, learn_templates=learn)
        return self._with_penalty(found, _PRICE * gains.unit[kept].sum())

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

    def _with_penalty(self, found: Refined, penalty: Tensor) -> Refined:
        """Note the penalty of all processes."""
        return replace(found, penalty=float(self.ranks.total(penalty.double())))
