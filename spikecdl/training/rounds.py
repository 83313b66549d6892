"""One round of training: codes for some observations, then templates for those codes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from spikecdl.coding import sparse_code
from spikecdl.dictionary import ConvDictionary
from spikecdl.events import Events
from spikecdl.penalties import Penalty
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
    """

    data: Observations
    penalty: Penalty
    weight: Weight
    debias: bool
    separation: int
    smoothness: float
    max_iter: int

    def __call__(self, templates: Tensor, baseline: Tensor, tol: float) -> Refined:
        """Codes to a tolerance, then templates, amplitudes and baseline."""
        codes, penalty = self.codes(templates, baseline, tol)
        if self.debias:
            return self.refit(templates, codes, baseline, penalty, learn=True)
        events = Events.from_codes(codes.flatten(0, -3))
        found = refine(self.data, templates, events, penalty, baseline, learn_amplitudes=False)
        return replace(found, penalty=float(penalty(codes)))

    def codes(self, templates: Tensor, baseline: Tensor, tol: float) -> tuple[Tensor, Penalty]:
        """Solve for the codes; the penalty comes with its weight set."""
        data, dtype = self.data, self.data.y.dtype
        dictionary, baseline = ConvDictionary(templates.to(dtype)), baseline.to(dtype)
        penalty = self.weight(self.penalty, dictionary, data, baseline)
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
        return solved.codes, penalty

    def refit(
        self, templates: Tensor, codes: Tensor, baseline: Tensor, penalty: Penalty, learn: bool
    ) -> Refined:
        """Merge and prune the events of the l1 solution, and refit them without the penalty."""
        units = self.data.together(penalty)
        events = Events.from_codes(codes.flatten(0, -3)).merge(self.separation, units)
        gains = event_gains(self.data, templates, events, baseline, penalty)
        events = events.take(gains.alone > 1)
        for _ in range(_PRUNINGS):
            fitted = refine(
                self.data, templates, events, penalty, baseline, learn_templates=False, max_iter=8
            )
            gains = event_gains(self.data, templates, fitted.events, fitted.baseline, penalty)
            kept = gains.own > _PRICE
            events, baseline = fitted.events.take(kept), fitted.baseline
        found = refine(
            self.data,
            templates,
            events,
            penalty,
            baseline,
            learn_templates=learn,
            smoothness=self.smoothness,
        )
        return replace(found, penalty=_PRICE * float(gains.unit[kept].sum()))
