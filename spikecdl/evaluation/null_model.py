"""The model without templates: a constant rate of each unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecdl import conversion, validation
from spikecdl.data import BinnedSpikes
from spikecdl.evaluation import deviance
from spikecdl.model.families import FAMILIES, Family
from spikecdl.training import Observations

_SHARED = conversion.LAYOUTS["shared"]  # every unit of every trial is a window


@dataclass
class NullModel:
    """Constant rate of each unit, the same in all trials, with half a spike added.

    Its evidence is what templates are compared with.

    Parameters
    ----------
    family : str or Family
        Observation model.
    layout : {"shared", "joint"}
        Joint: units are not told apart in the evidence, as they share their events.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.3, size=(3, 1, 100)))
    >>> NullModel("poisson").fit(counts).evidence(counts).round(1)
    array([-81.4, -87.2, -68. ])
    """

    family: str | Family
    layout: str = "shared"
    rate_: Tensor = field(init=False, repr=False)

    @classmethod
    def like(cls, model: Any) -> NullModel:
        """Return the null model of `DCEA` with the same family and layout."""
        return cls(model.family, model.layout)

    def fit(self, counts: BinnedSpikes) -> NullModel:
        """Estimate the rates; ValueError if the family cannot have the counts."""
        data = self._observed(counts)
        self.rate_ = deviance.null_rate(data, prior=0.5) * _per_trial(counts, data)
        return self

    def evidence(self, counts: BinnedSpikes, per_unit: bool = False) -> np.ndarray:
        """Return the log likelihood of each trial in nats, all constants included.

        Parameters
        ----------
        counts : BinnedSpikes
            Counts of the units of the fit.
        per_unit : bool
            Whether to return (trial, unit), or (trial, 1) in the joint layout, and not (trial,).
        """
        data = self._observed(counts)
        eta = data.family.link_rate(self.rate_ / _per_trial(counts, data))
        per_window = deviance.log_likelihood(data, eta)[..., 0]
        if self.layout == "joint":
            per_window = per_window.sum(1, keepdims=True)
        return per_window if per_unit else per_window.sum(1)

    def _observed(self, counts: BinnedSpikes) -> Observations:
        family = validation.member("family", self.family, FAMILIES, Family)
        data = conversion.observe(counts, family, _SHARED, "learned", torch.device("cpu"))
        return data.to(torch.float64)


def _per_trial(counts: BinnedSpikes, data: Observations) -> Tensor:
    """Return the exposure of a bin per recorded trial, (unit, 1, 1), as all bins have the same."""
    trials = torch.as_tensor(conversion.trials_everywhere(counts)[0, :, None, :1].copy())
    return data.family.exposure(data.load().y)[0, ..., :1] / trials
