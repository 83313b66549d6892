"""What comparison methods share: checks of counts, exposure, and a base class of rate models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from spikecdl import conversion, validation
from spikecdl.conversion import LAYOUTS
from spikecdl.data import BinnedSpikes
from spikecdl.model.families import FAMILIES, Family
from spikecdl.training import Observations

SHARED = LAYOUTS["shared"]  # every unit of every trial is a window
Self = TypeVar("Self", bound="PerUnit")


class PerUnit(BaseEstimator, ABC):
    """Base of models with parameters for each unit, the same in every trial."""

    unit_ids_: tuple[int | str, ...]
    bin_size_: float

    def fit(self: Self, counts: BinnedSpikes) -> Self:
        """Fit the model.

        Parameters
        ----------
        counts : BinnedSpikes

        Raises
        ------
        ValueError
            If a setting is out of range or does not fit the counts.
        TypeError
            If the counts are not `BinnedSpikes`.
        """
        counts = binned(counts)
        self._fit(counts)
        self.unit_ids_, self.bin_size_ = counts.unit_ids, counts.bin_size
        return self

    def predict(self, counts: BinnedSpikes) -> np.ndarray:
        """Return expected counts (trial, unit, bin) for the trials pooled in each bin.

        Raises
        ------
        ValueError
            If units, bins or windows are not those of the fit.
        """
        check_is_fitted(self)
        counts = binned(counts)
        if counts.unit_ids != self.unit_ids_:
            raise ValueError(
                f"the counts have the units {counts.unit_ids}, the fit {self.unit_ids_}; select "
                "the units of the fit, in their order"
            )
        conversion.check_like_fit(counts, self.bin_size_, 1, None)
        return self._predict(counts)

    @abstractmethod
    def _fit(self, counts: BinnedSpikes) -> None:
        """Set the fitted attributes."""

    @abstractmethod
    def _predict(self, counts: BinnedSpikes) -> np.ndarray:
        """Return expected counts for counts like those of the fit."""


def binned(counts: Any) -> BinnedSpikes:
    """Return the counts, or raise if they are not `BinnedSpikes`."""
    if not isinstance(counts, BinnedSpikes):
        raise TypeError(
            f"`counts` (a {type(counts).__name__}) must be BinnedSpikes; make them from an array "
            "with spikecdl.BinnedSpikes.from_array"
        )
    return counts


def observed(counts: BinnedSpikes, family: str | Family, baseline: Any = "learned") -> Observations:
    """Return counts as `conversion.observe` does, in the shared layout and double precision."""
    chosen = validation.member("family", family, FAMILIES, Family)
    data = conversion.observe(counts, chosen, SHARED, baseline, torch.device("cpu"))
    y = torch.from_numpy(SHARED.expand(counts.counts.astype(np.float64)))
    return replace(data.to(torch.float64).load(), y=y)
