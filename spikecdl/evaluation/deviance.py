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
    total, exposure = data.totals().sum(1, keepdim=True).to(data.dtype)
    return (total + prior) / (exposure + 2 * prior).clamp(min=1)


def deviances(data: Observations, eta: Tensor, rate: Tensor) -> np.ndarray:
    """Return the deviance of a model and of the null model, over the observed bins of windows.

    Parameters
    ----------
    data : Observations
        Loaded.
    eta : tensor, shape of ``data.y``
        Linear predictor of the model.
    rate : tensor, broadcastable to ``data.y``
        Rate per exposure of the null model.

    Returns
    -------
    ndarray, shape (2, ..., channel) for observations (..., channel, bin)
    """
    data = data.to(torch.float64)
    y, family = data.y, data.family
    null = rate.double() * family.exposure(y)
    lost = torch.stack([family.deviance(y, eta.double()), family.deviance(y, family.link(null))])
    lost[1] = torch.where(y == null, 0, lost[1])
    return torch.where(data.mask, lost, 0).sum(-1).cpu().numpy()


def gained(deviances: np.ndarray) -> np.ndarray:
    """Return the share of the null model's deviance that the model explains; nan if that is 0."""
    left, total = deviances
    return np.where(total > 0, 1 - left / np.where(total > 0, total, 1), np.nan)


def explained(data: Observations, eta: Tensor, rate: Tensor, per_unit: bool = False) -> np.ndarray:
    """Return the deviance explained of the observed bins, in all or of each recorded unit.

    As `spikecdl.metrics.deviance_explained`, but of linear predictors, which do not saturate.  nan
    where there is nothing to explain.  For the arguments see `deviances`.
    """
    parts = [deviances(some, eta[part], rate) for part, some in data.parts()]
    lost = np.concatenate(parts, axis=1)  # (2, trial, unit, channel)
    return gained(lost.sum(1).reshape(2, -1) if per_unit else lost.sum((1, 2, 3)))
