"""The model without templates: a constant rate of each unit, or one with history and drift."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecdl import config, conversion, validation
from spikecdl.data import BinnedSpikes, inputs
from spikecdl.evaluation import deviance
from spikecdl.evaluation.heldout import SHARED, TemplateModel
from spikecdl.model.families import FAMILIES, Family
from spikecdl.model.history import History, Terms
from spikecdl.training import Observations
from spikecdl.training.covariates import fitted, with_bursts

_STEPS, _LEVEL_STEPS = 15, 10


@dataclass
class NullModel:
    """Constant rate of each unit, the same in all trials, with half a spike added.

    Its evidence is what templates are compared with.  With history or drift the rate depends on
    them, and is constant otherwise.

    Parameters
    ----------
    family : str or Family
        Observation model.
    layout : {"shared", "joint"}
        Joint: units are not told apart in the evidence, as they share their events.
    history : float or History, optional
    drift, bursts : float, optional
    signals : int, optional
        As in `DCEA`; for counts of single trials.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.3, size=(3, 1, 100)))
    >>> NullModel("poisson").fit(counts).evidence(counts).round(1)
    array([-81.4, -87.2, -68. ])
    """

    family: str | Family
    layout: str = "shared"
    history: float | History | None = None
    drift: float | None = None
    bursts: float | None = None
    signals: int | None = None
    unit_ids_: tuple[int | str, ...] = field(init=False, repr=False)
    unit_rate_: list[list[float]] = field(init=False, repr=False)
    shift_: Tensor = field(init=False, repr=False)
    coefficients_: Tensor = field(init=False, repr=False)
    ranges_: tuple[Any, Any] = field(init=False, repr=False)  # of time and of signals

    @classmethod
    def like(cls, model: TemplateModel, covariates: bool = True) -> NullModel:
        """Return the null model of a `DCEA`, with its history, drift and bursts unless left out.

        Of those that are "auto", a fitted model has what was chosen, and another one none.
        """
        if not covariates:
            return cls(model.family, model.layout)
        known = config.settled(model)
        given = {n: None if known[n] == "auto" else known[n] for n in Terms._fields}
        return cls(getattr(model, "family_", model.family), model.layout, **given)

    def fit(self, counts: BinnedSpikes) -> NullModel:
        """Estimate the rates; ValueError if the model cannot have the counts."""
        self.ranges_ = inputs.time_span(counts), inputs.signal_ranges(counts)
        data = self._observed(counts)
        level = data.family.link_rate(deviance.null_rate(data, prior=0.5)[0])
        self.unit_ids_ = counts.unit_ids
        self.unit_rate_ = conversion.rates_of_levels(counts, SHARED, data, level[..., 0])
        self.shift_ = torch.zeros_like(level)
        if data.covariates is None:
            return self
        self.coefficients_ = data.covariates.none().to(level)
        for _ in range(_STEPS):
            eta = self._eta(data, level)
            excited = with_bursts(data, self.coefficients_)
            self.coefficients_ = fitted(excited, self.coefficients_, eta)
            excited = with_bursts(data, self.coefficients_)
            for _ in range(_LEVEL_STEPS):
                mean_rate = _mean_rate(excited, self._eta(data, level))
                self.shift_ = self.shift_ + level - data.family.link_rate(mean_rate)
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
        known = (self.unit_ids_, self.unit_rate_)
        level = torch.as_tensor(conversion.known_levels(counts, SHARED, data, *known))[..., None]
        eta = self._eta(data, level)
        if data.covariates is not None:
            data = with_bursts(data, self.coefficients_)
        per_window = deviance.log_likelihood(data, eta)[..., 0]
        if self.layout == "joint":
            per_window = per_window.sum(1, keepdims=True)
        return per_window if per_unit else per_window.sum(1)

    def _observed(self, counts: BinnedSpikes) -> Observations:
        family = validation.member("family", self.family, FAMILIES, Family)
        terms = config.terms(vars(self), *self.ranges_)
        about = (family, SHARED, "learned", torch.device("cpu"), terms)
        data = conversion.observe(counts, *about)
        return data.to(torch.float64)

    def _eta(self, data: Observations, level: Tensor) -> Tensor:
        """Return the linear predictor at a level of each unit, (unit, 1, 1), or of each bin."""
        eta = level + self.shift_
        if data.covariates is None:
            return eta
        return eta.expand(data.y.shape) + data.covariates.offset(self.coefficients_).to(eta)


def _mean_rate(data: Observations, eta: Tensor) -> Tensor:
    """Return the expected rate per exposure of each unit, (unit, 1, 1), over its observed bins."""
    loaded = data.load()
    both = torch.stack([loaded.family.mean(eta), loaded.family.exposure(loaded.y)])
    mean, exposure = torch.where(loaded.mask, both, 0).sum((1, -1), keepdim=True)[:, 0]
    return mean / exposure.clamp(min=1)
