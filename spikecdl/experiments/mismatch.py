"""The source's ablation of the observation model: spikes taken for a signal with Gaussian noise.

Counts become the part of a group's trials with a spike, less the baseline; a Gaussian model is
trained on them by squared error, with the same layers, penalty (as a fraction of lambda_max) and
random starts as the binomial one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.estimator import DCEA
from spikecdl.experiments import ablation
from spikecdl.experiments.ablation import Size
from spikecdl.experiments.benchmark import Groups, Method
from spikecdl.experiments.binomial import unrolled
from spikecdl.experiments.result import Options, Result, median_and_range

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.training import Learned

NAME = "gaussian"


class AsSignal:
    """A model of real-valued signals, for counts.

    Parameters
    ----------
    model : DCEA
        Gaussian, with a baseline of 0.
    baseline : float
        Rate without events, in Hz, which is taken away from the counts.
    """

    def __init__(self, model: DCEA, baseline: float) -> None:
        self.model = model
        self.baseline = baseline

    def fit(self, counts: BinnedSpikes, on_epoch: Callable[[Learned], None]) -> AsSignal:
        """Fit the model to the counts as a signal."""
        self.model.fit(self._signal(counts), on_epoch=on_epoch)
        self.converged_, self.n_iter_ = self.model.converged_, self.model.n_iter_
        return self

    def decompose(self, counts: BinnedSpikes) -> Decomposition:
        """Return what the model says of counts; its rates are in Hz, and may be negative."""
        parts = self.model.decompose(self._signal(counts))
        rate = self.baseline + parts.rate / counts.bin_size
        return replace(parts, counts=counts, rate=rate, baseline=parts.baseline + self.baseline)

    def _signal(self, counts: BinnedSpikes) -> BinnedSpikes:
        part = counts.counts / counts.n_trials - self.baseline * counts.bin_size
        return replace(counts, counts=part, n_pooled=np.ones_like(counts.n_pooled))


def run(options: Options, size: Size | None = None) -> Result:
    """Run the experiment; parameters as in `spikecdl.experiments.binomial.run`.

    Negative rates of the Gaussian model count as half a spike in all the trials of a group where
    its deviance is computed.
    """
    return ablation.run(_method, findings, options, size)


def _method(size: Size) -> Method:
    binomial = unrolled(size.n_unrolled, size.n_epochs)

    def model(groups: Groups, seed: int) -> Any:
        gaussian = binomial.model(groups, seed).set_params(family="gaussian", baseline=0.0)
        return AsSignal(gaussian, groups.baseline)

    return replace(binomial, name=NAME, model=model)


def findings(table: pd.DataFrame) -> list[str]:
    """Say what the table shows."""
    runs = table[table["method"] == NAME]
    return [
        *ablation.compared(table),
        f"The Gaussian model's rate is negative in "
        f"{median_and_range(100 * runs['below_zero'], 0)} % of the bins.",
    ]
