"""The paper's first experiment: three templates from binomial counts, and its ablations.

In `run`, every method fits the same groups of trials with the same seeds.  Then trials, baselines
and, for the paper's own trainer, layers are varied.  In `untied` and `mismatch`, the paper's model
is compared with the same model without one of its parts, on the same data and from the same
initialization.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from spikecdl.baselines import BCOMP
from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.estimator import DCEA
from spikecdl.experiments import Options, Result, benchmark, findings
from spikecdl.experiments.benchmark import PENALTY_WEIGHT, SHAPES, Groups, Method, dcea, unrolled
from spikecdl.plots import raster, style
from spikecdl.training import Alternating, Implicit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from spikecdl.training import Learned

DEFAULT, PAPER = "alternating", "unrolled"


@dataclass(frozen=True)
class Size:
    """How much is run; tuples are values that are varied."""

    many: int = 1000  # groups for alternating training
    few: int = 100  # groups for the comparison of all methods
    n_seeds: int = 10  # repetitions, each with its own data and initialization
    n_trials: tuple[int, ...] = (5, 10, 30, 50)  # of a group
    baselines: tuple[float, ...] = (2.0, 5.0, 8.0, 17.0)  # Hz
    depths: tuple[int, ...] = (25, 50, 100, 250)  # layers of the encoder
    n_unrolled: int = 100  # layers where they are not varied
    n_epochs: int = 20  # of the gradient trainers


FULL = Size()
QUICK = Size(60, 40, 3, (10, 30), (5.0, 8.0), (25, 50), 50, 20)


def methods(size: Size) -> list[Method]:
    """Return all methods, alternating training first."""

    def bcomp(groups: Groups, seed: int) -> BCOMP:
        hz, length = groups.baseline, benchmark.TEMPLATE_LENGTH
        return BCOMP(len(SHAPES), length, "binomial", baseline=hz, random_state=seed)

    implicit = Implicit(init="random", batch_size=8, learning_rate=0.02)
    return [
        dcea(DEFAULT, Alternating()),
        unrolled(size.n_unrolled, size.n_epochs),
        dcea("implicit", implicit, PENALTY_WEIGHT, size.n_epochs),
        Method("BCOMP", bcomp, traced=False),
    ]


def conditions(size: Size) -> list[tuple[Method, Groups]]:
    """Return each pair of method and groups once."""
    every, few, many = methods(size), Groups(size.few), Groups(size.many)
    varied = [replace(many, n_trials=n) for n in size.n_trials]
    varied += [replace(many, baseline=hz) for hz in size.baselines]
    depths = [unrolled(layers, size.n_epochs) for layers in size.depths]
    wanted = [(method, few) for method in [*every, *depths]]
    wanted += [(every[0], groups) for groups in [many, *varied]]
    once = {(method.name, method.n_unrolled, groups): method for method, groups in wanted}
    return [(method, groups) for (_, _, groups), method in once.items()]


def run(options: Options, size: Size | None = None) -> Result:
    """Run the experiment; ``size`` replaces the full or the quick size."""
    size = size or (QUICK if options.quick else FULL)
    found = benchmark.compare(conditions(size), size, options, alike=[PAPER])
    figures = {"spikes": _spikes(options.random_state), "conditions": _errors(found.table)}
    settings = {
        **asdict(size),
        "groups": asdict(Groups(size.many)),
        "penalty_weight_of_gradient_steps": PENALTY_WEIGHT,
    }
    return replace(
        found,
        figures={**figures, **found.figures},
        settings={**settings, **found.settings},
        findings=findings("binomial", found.table, DEFAULT, SHAPES, Groups()),
    )


@style.styled
def _spikes(seed: int) -> Figure:
    """Draw the trials of a group above their true rate."""
    counts = Groups(1).draw(seed, pooled=False)
    shape, size = (2, 1), (style.PAGE, 3.6)
    above, below = style.axes_array(None, shape, size, sharex=True, height_ratios=[1.5, 1])[:, 0]
    raster(counts, ax=above)
    above.set(title="spikes of a group's 30 trials", xlabel="")
    rate = benchmark.probability(counts)[0, 0] / counts.bin_size
    below.plot(counts.times + counts.bin_size / 2, rate, color=style.INK, label="true rate")
    style.baseline(below, Groups.baseline)
    events = benchmark.truth(counts).events.query("trial == 0")
    for number, name in enumerate(SHAPES):
        onsets, colour = events["time"][events["template"] == number], style.colour(number)
        marks = np.zeros(len(onsets))
        below.plot(onsets, marks, "^", color=colour, label=name, clip_on=False, ms=5)
    style.legend_above(below)
    below.set(xlabel="time (s)", ylabel="rate (Hz)", ylim=(0, None))
    style.tidy(below)
    return above.figure


@style.styled
def _errors(table: pd.DataFrame) -> Figure:
    """Draw the mean error against trials, baseline and layers: points of seeds, and the median.

    Trials and baselines are those of alternating training, layers those of the paper's trainer.
    """
    mine = table[table["method"] == DEFAULT]
    mine = mine[mine["n_groups"] == mine["n_groups"].max()]
    varied = {
        "n_trials": ("trials of a group", mine[mine["baseline"] == Groups.baseline]),
        "baseline": ("baseline (Hz)", mine[mine["n_trials"] == Groups.n_trials]),
        "n_unrolled": ("layers", table[table["method"] == PAPER]),
    }
    panels = style.axes_array(None, (1, 3), (style.PAGE, 2.4))[0]
    for ax, (column, (label, rows)) in zip(panels, varied.items(), strict=True):
        colour = style.colour(int(column == "n_unrolled"))
        values, at = np.unique(rows[column], return_inverse=True)
        ax.plot(at, rows["error_mean"], "o", color=colour, ms=3.5, alpha=0.35, mew=0)
        medians = rows.groupby(column)["error_mean"].median()
        ax.plot(range(len(values)), medians, color=colour)
        ax.set_xticks(range(len(values)), labels=[f"{value:g}" for value in values])
        ax.margins(x=0.1)
        style.tidy(ax)
        name, groups = rows["method"].iloc[0], rows["n_groups"].iloc[0]
        ax.set(xlabel=label, title=f"{name}, {groups} groups")
        ax.set_ylim(0, max(0.2, 1.1 * rows["error_mean"].max()))
    panels[0].set_ylabel("mean template error")
    return panels[0].figure


# ----- ablations


def untied(options: Options, size: Size | None = None) -> Result:
    """Compare tied weights with an encoder that has its own, trained without labels (DCEA-UC).

    Analysis, synthesis and decoder are three dictionaries, and thresholds are learned.  The
    decoder's dictionary is compared with the truth; errors of the encoder's are in the columns
    ``error_analysis`` and ``error_synthesis``.  ``size`` replaces the full or the quick size.
    """

    return _compared(
        lambda size: unrolled(size.n_unrolled, size.n_epochs, tied=False), options, size
    )


def mismatch(options: Options, size: Size | None = None) -> Result:
    """Compare the binomial model with a Gaussian one of the same spikes.

    Layers, penalty (as a fraction of lambda_max) and initialization are the same.  Negative rates
    of the Gaussian model count as half a spike in all the trials of a group where its deviance is
    computed.
    """

    def gaussian(size: Size) -> Method:
        binomial = unrolled(size.n_unrolled, size.n_epochs)

        def model(groups: Groups, seed: int) -> AsSignal:
            model = binomial.model(groups, seed).set_params(family="gaussian", baseline=0.0)
            return AsSignal(model, groups.baseline)

        return replace(binomial, name="gaussian", model=model)

    return _compared(gaussian, options, size)


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


def _compared(ablated: Callable[[Size], Method], options: Options, size: Size | None) -> Result:
    """Fit the paper's model and the ablated one."""
    size = size or (QUICK if options.quick else FULL)
    groups, methods = Groups(size.few), [unrolled(size.n_unrolled, size.n_epochs), ablated(size)]
    names = [method.name for method in methods]
    conditions = [(method, groups) for method in methods]
    found = benchmark.compare(conditions, size, options, alike=names)
    settings = {
        "n_groups": size.few,
        "n_seeds": size.n_seeds,
        "n_unrolled": size.n_unrolled,
        "n_epochs": size.n_epochs,
        "groups": asdict(groups),
        "penalty_weight": PENALTY_WEIGHT,
    }
    return replace(
        found,
        figures={**found.figures, "losses": _pairs(found.table)},
        settings={**settings, **found.settings},
        findings=findings("ablation", found.table, _MEASURES),
    )


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
