"""How much of some observations a model's linear predictor explains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spikecdl.training import Observations


def null_rate(data: Observations, prior: float = 0.0) -> Tensor:
    """Return the rate per exposure of each unit over all its trials and bins.

    Counts have ``prior`` spikes added in twice as many exposures: half a spike keeps the rate of a
    unit that was not seen to fire above zero (Krichevsky and Trofimov, IEEE Trans. Inf. Theory 27,
    1981).
    """
    prior = prior if data.family.integer_valued else 0.0
    exposure = torch.where(data.mask, data.family.exposure(data.y), 0).sum((0, -1), keepdim=True)
    total = torch.where(data.mask, data.y, 0).sum((0, -1), keepdim=True)
    return (total + prior) / (exposure + 2 * prior).clamp(min=1)


def explained(data: Observations, eta: Tensor, rate: Tensor, axis: int | None = None) -> np.ndarray:
    """Return the deviance explained of the observed bins, in all or along an axis.

    As `spikecdl.metrics.deviance_explained`, but of linear predictors, which do not saturate.  nan
    where there is nothing to explain.

    Parameters
    ----------
    data : Observations
    eta : tensor, shape of ``data.y``
        Linear predictor of the model.
    rate : tensor, broadcastable to ``data.y``
        Rate per exposure of the null model.
    axis : int, optional
        The axis to keep.
    """
    data = data.to(torch.float64)
    y, family = data.y, data.family
    null = rate.double() * family.exposure(y)
    lost = torch.stack([family.deviance(y, eta.double()), family.deviance(y, family.link(null))])
    lost[1] = torch.where(y == null, 0, lost[1])
    lost = torch.where(data.mask, lost, 0)
    dim = tuple(i for i in range(1, lost.ndim) if axis is None or i != axis + 1)
    left, total = lost.sum(dim).cpu().numpy()
    return np.where(total > 0, 1 - left / np.where(total > 0, total, 1), np.nan)
