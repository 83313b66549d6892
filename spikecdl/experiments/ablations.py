"""The paper's ablations: its model against the same model without one of its parts.

Both train on the same data from the same initialization.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.estimator import DCEA
from spikecdl.experiments import Options, Result, benchmark, median_and_range
from spikecdl.experiments.benchmark import PENALTY_WEIGHT, Groups, Method, unrolled
from spikecdl.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from spikecdl.training import Learned


@dataclass(frozen=True)
class Size:
    """Numbers of groups, seeds, encoder layers and epochs."""

    n_groups: int = 100
    n_seeds: int = 10
    n_unrolled: int = 100
    n_epochs: int = 20


FULL = Size()
QUICK = Size(40, 3, 50, 20)


def untied(options: Options, size: Size | None = None) -> Result:
    """Compare tied weights with an encoder that has its own, trained without labels (DCEA-UC).

    Analysis, synthesis and decoder are three dictionaries, and thresholds are learned.  The
    decoder's dictionary is compared with the truth; errors of the encoder's are in the columns
    ``error_analysis`` and ``error_synthesis``.  ``size`` replaces the full or the quick size.
    """

    def finding(runs: pd.DataFrame) -> str:
        return (
            f"Errors of the untied encoder's own dictionaries: analysis "
            f"{median_and_range(runs['error_analysis'])}, synthesis "
            f"{median_and_range(runs['error_synthesis'])}; "
            f"{median_and_range(100 * runs['false_alarm_rate'], 0)} % of its events are false."
        )

    size = size or (QUICK if options.quick else FULL)
    return _compared(unrolled(size.n_unrolled, size.n_epochs, tied=False), finding, options, size)


def mismatch(options: Options, size: Size | None = None) -> Result:
    """Compare the binomial model with a Gaussian one of the same spikes.

    Layers, penalty (as a fraction of lambda_max) and initialization are the same.  Negative rates
    of the Gaussian model count as half a spike in all the trials of a group where its deviance is
    computed.
    """

    def model(groups: Groups, seed: int) -> AsSignal:
        gaussian = binomial.model(groups, seed).set_params(family="gaussian", baseline=0.0)
        return AsSignal(gaussian, groups.baseline)

    def finding(runs: pd.DataFrame) -> str:
        share = median_and_range(100 * runs["below_zero"], 0)
        return f"The Gaussian model's rate is negative in {share} % of the bins."

    size = size or (QUICK if options.quick else FULL)
    binomial = unrolled(size.n_unrolled, size.n_epochs)
    return _compared(replace(binomial, name="gaussian", model=model), finding, options, size)


class AsSignal:
    """A Gaussian model, with a baseline of 0, fitted to counts.

    Counts become the part of a group's trials with a spike, minus the ``baseline`` in Hz.
    """

    def __init__(self, model: DCEA, baseline: float) -> None:
        self.model = model
        self.baseline = baseline

    def fit(self, counts: BinnedSpikes, on_epoch: Callable[[Learned], None]) -> AsSignal:
        """Fit the model to the counts as a signal."""
        self.model.fit(self.signal(counts), on_epoch=on_epoch)
        self.converged_, self.n_iter_ = self.model.converged_, self.model.n_iter_
        return self

    def decompose(self, counts: BinnedSpikes) -> Decomposition:
        """Return the decomposition of counts, with rates in Hz that may be negative."""
        parts = self.model.decompose(self.signal(counts))
        rate = self.baseline + parts.rate / counts.bin_size
        return replace(parts, counts=counts, rate=rate, baseline=parts.baseline + self.baseline)

    def signal(self, counts: BinnedSpikes) -> BinnedSpikes:
        """Return counts as a real-valued signal."""
        part = counts.counts / counts.n_trials - self.baseline * counts.bin_size
        return replace(counts, counts=part, n_pooled=np.ones_like(counts.n_pooled))


_MEASURES = {  # column: what it is
    "error_mean": "mean template error",
    "rate_r2": "variance of the true rate explained",
    "deviance_explained_new": "deviance of new trials explained",
}


def _compared(
    ablated: Method, finding: Callable[[pd.DataFrame], str], options: Options, size: Size
) -> Result:
    """Fit the paper's model and the ablated one; ``finding`` describes the ablated one's runs."""
    groups, whole = Groups(size.n_groups), unrolled(size.n_unrolled, size.n_epochs)
    seeds = range(options.random_state, options.random_state + size.n_seeds)
    conditions = [(method, groups) for method in (whole, ablated)]
    table, traces, learned = benchmark.compare(conditions, seeds, options.say)
    initial = dict.fromkeys(learned, benchmark.initial_templates(whole, groups, seeds[0]))
    true = benchmark.truth(groups.draw(seeds[0])).templates
    return Result(
        table=table,
        figures={
            "templates": benchmark.templates(learned, initial, true),
            "learning": benchmark.learning(traces, size.n_groups, size.n_unrolled),
            "losses": _pairs(table),
        },
        settings={
            **asdict(size),
            "groups": asdict(groups),
            "penalty_weight": PENALTY_WEIGHT,
            "seeds": list(seeds),
        },
        findings=[*_findings(table), finding(table[table["method"] == ablated.name])],
        more={"traces": traces},
    )


def _findings(table: pd.DataFrame) -> list[str]:
    """Say which of two methods learned better, and in how many seeds."""
    whole, ablated = table["method"].unique()
    by_seed = table.pivot(index="seed", columns="method")
    found = []
    for column, what in _MEASURES.items():
        values = by_seed[column]
        lead = values[whole] - values[ablated]
        loses = lead < 0 if column == "error_mean" else lead > 0
        found.append(
            f"{what.capitalize()}: {whole} {median_and_range(values[whole])}, {ablated} "
            f"{median_and_range(values[ablated])}; {ablated} is worse in {loses.sum()} of "
            f"{len(loses)} seeds{'' if loses.all() else ', so it does NOT always lose'}."
        )
    return found


@style.styled
def _pairs(table: pd.DataFrame) -> Figure:
    """Draw the measures by method, with a line per seed."""
    names = list(table["method"].unique())
    panels = style.axes_array(None, (1, len(_MEASURES)), (style.PAGE, 2.4))[0]
    for ax, (column, label) in zip(panels, _MEASURES.items(), strict=True):
        each = table.pivot(index="method", columns="seed", values=column).loc[names]
        ax.plot(range(len(names)), each, "o-", color=style.PALETTE[0], lw=0.8, ms=3.5, alpha=0.5)
        ax.plot(range(len(names)), each.median(axis=1), color=style.INK, lw=2)
        ax.set_xticks(range(len(names)), labels=names)
        ax.set(ylabel=label, ylim=(min(0, 1.1 * each.min().min()), 1))
        ax.margins(x=0.25)
        style.tidy(ax)
    return panels[0].figure
