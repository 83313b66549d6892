"""How heavy the penalty is: by the noise, by a fraction of lambda_max, or as it was before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikecdl.dictionary import ConvDictionary
from spikecdl.penalties import Penalty
from spikecdl.training.observations import Observations


class Weight(ABC):
    """Rule that sets the weight of a penalty for some observations and templates."""

    #: Multiples of the weight among which a trainer may choose by held-out likelihood.
    levels: ClassVar[tuple[float, ...]] = (1.0,)

    def at(self, level: float) -> Weight:
        """Return the rule at one of its levels."""
        return self

    @abstractmethod
    def __call__(
        self, penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
    ) -> Penalty:
        """Return the penalty with its weight set."""


@dataclass(frozen=True)
class NullScore(Weight):
    r"""The height that the scores of pure noise reach.

    The largest of N normal scores is about :math:`\sigma\sqrt{2\log N}`, so per window and template

    .. math:: \lambda = \sqrt{2 \log(C N_{\text{place}})}
              \Bigl(\sum_{n,k} h_{n,k}^2\, c_n(\mu)\Bigr)^{1/2}

    with c the curvature at the baseline, summed over channels n and bins k (Donoho and Johnstone,
    Biometrika 81, 1994, for the Gaussian family).
    """

    #: Multiplies that height.
    level: float = 1.0
    levels: ClassVar[tuple[float, ...]] = (1.0, 0.6, 0.35, 0.2)

    def at(self, level: float) -> NullScore:
        """Return the rule at a multiple of that height, for events too many to be that rare."""
        return NullScore(level)

    def __call__(
        self, penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
    ) -> Penalty:
        """Return the penalty with one weight per window and template."""
        spread = null_spread(dictionary, data, baseline)
        places = data.y.shape[-1] - dictionary.support[0] + 1
        height = penalty.null_weight(spread, spread.shape[-2] * places)
        return penalty.with_weight(self.level * height)


@dataclass(frozen=True)
class Fraction(Weight):
    """A fraction of lambda_max, the smallest weight for which no window has any event."""

    fraction: float

    def __call__(
        self, penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
    ) -> Penalty:
        """Return the penalty with one weight for all windows."""
        return penalty.with_weight(self.fraction * lambda_max(penalty, dictionary, data, baseline))


@dataclass(frozen=True)
class Fixed(Weight):
    """A weight in the units of the score, as it was when the model was fitted."""

    weight: float

    def __call__(
        self, penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
    ) -> Penalty:
        """Return the penalty with that weight."""
        return penalty.with_weight(self.weight)


def null_spread(dictionary: ConvDictionary, data: Observations, baseline: Tensor) -> Tensor:
    """Return the standard deviation of scores at the baseline, (..., template, 1)."""
    templates, means = dictionary.templates.detach(), []
    for part, some in data.parts():
        curvature = some.family.curvature(some.y, baseline[part].expand_as(some.y))
        observed = some.mask.sum(-1).clamp(min=1)
        means.append(torch.where(some.mask, curvature, 0).sum(-1) / observed)  # (..., channel)
    return (torch.cat(means) @ templates.square().sum(-1).mT).sqrt()[..., None]


@torch.no_grad()
def lambda_max(
    penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
) -> Tensor:
    """Return the smallest weight for which all codes of these observations are zero."""
    highest = []
    for part, some in data.parts(len(dictionary.templates)):
        residual = some.residual(baseline[part].expand_as(some.y))
        highest.append(penalty.lambda_max(dictionary.adjoint(residual)))
    return torch.stack(highest).max()
