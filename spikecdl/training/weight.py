"""How heavy the penalty is: by the noise, by a fraction of lambda_max, or as it was before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from spikecdl.dictionary import ConvDictionary
from spikecdl.penalties import Penalty
from spikecdl.training.observations import Observations


class Weight(ABC):
    """Rule that sets the weight of a penalty for some observations and templates."""

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

    def __call__(
        self, penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
    ) -> Penalty:
        """Return the penalty with one weight per window and template."""
        templates = dictionary.templates.detach()
        curvature = data.family.curvature(data.y, baseline.expand_as(data.y))
        observed = data.mask.sum(-1).clamp(min=1)
        mean = torch.where(data.mask, curvature, 0).sum(-1) / observed  # (..., channel)
        spread = (mean @ templates.square().sum(-1).mT).sqrt()[..., None]
        places = data.y.shape[-1] - templates.shape[-1] + 1
        return penalty.with_weight(penalty.null_weight(spread, len(templates) * places))


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


@torch.no_grad()
def lambda_max(
    penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
) -> Tensor:
    """Return the smallest weight for which all codes of these observations are zero."""
    residual = data.residual(baseline.expand_as(data.y))
    return penalty.lambda_max(dictionary.adjoint(residual))
