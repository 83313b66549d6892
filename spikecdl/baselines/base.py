"""What rivals have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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


class PerUnit(BaseEstimator):
    """Base of models that have parameters for each unit, and the same in every trial."""

    unit_ids_: tuple[int | str, ...]
    bin_size_: float

    def _begin(self, counts: Any) -> BinnedSpikes:
        """Take note of the units and bins of counts to be fitted."""
        counts = binned(counts)
        self.unit_ids_, self.bin_size_ = counts.unit_ids, counts.bin_size
        return counts

    def _known(self, counts: Any) -> BinnedSpikes:
        """Check that counts to be predicted are of the units and bins of the fit."""
        check_is_fitted(self)
        counts = binned(counts)
        if counts.unit_ids != self.unit_ids_:
            raise ValueError(
                f"the counts have the units {counts.unit_ids}, the fit {self.unit_ids_}; select "
                "the units of the fit, in their order"
            )
        if not np.isclose(counts.bin_size, self.bin_size_, rtol=1e-9):
            raise ValueError(
                f"`bin_size` of the counts (={counts.bin_size:g}) must be that of the fit "
                f"({self.bin_size_:g}); bin the spikes again"
            )
        return counts


def binned(counts: Any) -> BinnedSpikes:
    """Return the counts, or raise if they are not `BinnedSpikes`."""
    if not isinstance(counts, BinnedSpikes):
        raise TypeError(
            f"`counts` (a {type(counts).__name__}) must be BinnedSpikes; make them of an array "
            "with spikecdl.BinnedSpikes.from_array"
        )
    return counts


def exposure(counts: BinnedSpikes) -> np.ndarray:
    """Return what a rate per recorded trial is multiplied by to give an expected count."""
    return counts.n_pooled * _unit(counts)


def expected(rate: np.ndarray, counts: BinnedSpikes) -> np.ndarray:
    """Return expected counts at a rate, also of bins that were not observed."""
    return rate * conversion.trials_everywhere(counts) * _unit(counts)


def _unit(counts: BinnedSpikes) -> float:
    """Seconds per bin; 1 for a real-valued signal."""
    return counts.bin_size if counts.is_counts else 1.0


def observed(counts: BinnedSpikes, family: str | Family, baseline: Any = "learned") -> Observations:
    """Check the counts, and return them as `preparation.observe` does, in double precision."""
    chosen = validation.member("family", family, FAMILIES, Family)
    data = conversion.observe(counts, chosen, SHARED, baseline, torch.device("cpu"))
    y = torch.from_numpy(SHARED.expand(counts.counts.astype(np.float64)))
    return replace(data.to(torch.float64).load(), y=y)
