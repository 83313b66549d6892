"""One round of training: codes for some observations, then templates for those codes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikecdl.coding import sparse_code
from spikecdl.dictionary import ConvDictionary
from spikecdl.events import Events
from spikecdl.penalties import Penalty
from spikecdl.training.observations import Observations
from spikecdl.training.refine import Refined, refine
from spikecdl.training.weight import Weight, null_spread

_PRICE = 4.0  # times what a score at the weight gains: twice as high a score
_LENIENT = 0.25  # share of its price that an event of the l1 solution, which is shrunk, has to gain


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
        events = Events.from_codes(codes.flatten(0, -3))
        events = events.merge(self.separation)
        events, _ = _prune(self.data, templates, events, baseline, penalty, _LENIENT)
        first = refine(
            self.data, templates, events, penalty, baseline, learn_templates=False, max_iter=8
        )
        events, price = _prune(self.data, templates, first.events, first.baseline, penalty)
        found = refine(
            self.data,
            templates,
            events,
            penalty,
            first.baseline,
            learn_templates=learn,
            smoothness=self.smoothness,
        )
        return replace(found, penalty=price)


def _prune(
    data: Observations,
    templates: Tensor,
    events: Events,
    baseline: Tensor,
    penalty: Penalty,
    share: float = _PRICE,
) -> tuple[Events, float]:
    r"""Drop events that gain less likelihood than a score twice the penalty's weight would.

    A score s of spread sigma gains :math:`s^2 / 2 \sigma^2`.  An event of amplitude a, with the
    curvature w under its template, must gain :math:`a^2 w / 2 > q \lambda^2 / 2 \sigma^2` with
    q = ``share``.  Returns the events kept, and the sum of what they had to gain.  A penalty that
    couples units judges whole groups; its events are all kept.
    """
    if penalty.coupled:
        return events, 0.0
    dtype = data.y.dtype
    templates, baseline = templates.to(dtype), baseline.to(dtype)
    amplitude = events.amplitude.to(dtype)
    spread = null_spread(ConvDictionary(templates), data, baseline)
    height = (penalty.weight / spread.clamp(min=1e-9)).expand(len(data.y), len(templates), 1)
    eta = events.with_amplitude(amplitude).add_to(baseline.expand_as(data.y), templates)
    curvature = torch.where(data.mask, data.family.curvature(data.y, eta), 0)
    patches = events.patches(curvature, templates.shape[-1])
    energy = (templates.square()[events.template] * patches).sum(dim=(1, 2))
    price = share * height[events.window, events.template, 0].square() / 2
    kept = amplitude.square() * energy / 2 > price
    return events.take(kept), float(price[kept].sum())
