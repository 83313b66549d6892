"""The paper's first experiment: three templates from binomial counts, and its ablations.

In `run`, every method fits the same groups of trials with the same seeds.  Then trials, baselines
and, for the paper's own trainer, layers are varied.  In `untied` and `mismatch`, the paper's model
is compared with the same model without one of its parts, on the same data and from the same
initialization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from spikecdl.baselines import BCOMP
from spikecdl.estimator import DCEA
from spikecdl.experiments import Options, Result, benchmark, findings
from spikecdl.experiments.benchmark import SHAPES, Groups, Method, Size, compare, dcea, unrolled
from spikecdl.plots import raster, style
from spikecdl.training import Alternating, Implicit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEFAULT, PAPER = "alternating", "unrolled"
QUICK = Size(60, 40, 3, (10, 30), (5.0, 8.0), (25, 50), 50, 20)


def methods(size: Size) -> list[Method]:
    """Return all methods, alternating training first."""

    def bcomp(groups: Groups, seed: int) -> BCOMP:
        hz, length = groups.baseline, groups.template_length
        return BCOMP(len(SHAPES), length, "binomial", baseline=hz, random_state=seed)

    implicit = Implicit(init="random", batch_size=8, learning_rate=0.02)
    settings = {"penalty_weight": size.penalty_weight, "n_epochs": size.n_epochs}
    return [
        dcea(DEFAULT, Alternating()),
        unrolled(size),
        dcea("implicit", implicit, **settings),
        Method("BCOMP", bcomp),
    ]


def conditions(size: Size) -> list[tuple[Method, Groups]]:
    """Return each pair of method and groups once."""
    every, few, many = methods(size), Groups(size.few), Groups(size.many)
    varied = [replace(many, n_trials=n) for n in size.n_trials]
    varied += [replace(many, baseline=hz) for hz in size.baselines]
    wanted = [(method, few) for method in [*every, *(unrolled(size, n) for n in size.depths)]]
    wanted += [(every[0], groups) for groups in [many, *varied]]
    once = {(method.name, str(method.n_unrolled), groups): method for method, groups in wanted}
    return [(method, groups) for (_, _, groups), method in once.items()]


def run(options: Options, size: Size | None = None) -> Result:
    """Run the experiment; ``size`` replaces the full or the quick size."""
    size = size or (QUICK if options.quick else Size())
    found = compare(conditions(size), size, options)
    figures = {"spikes": _spikes(options.random_state), "conditions": _errors(found.table)}
    return replace(
        found,
        figures={**figures, **found.figures},
        settings={**asdict(size), "groups": asdict(Groups(size.many)), **found.settings},
        findings=findings("binomial", found.table, DEFAULT, SHAPES, Groups()),
    )


def untied(options: Options, size: Size | None = None) -> Result:
    """Compare tied weights with an encoder that has its own, trained without labels (DCEA-UC).

    Analysis, synthesis and decoder are three dictionaries, and thresholds are learned.  The
    decoder's dictionary is compared with the truth; errors of the encoder's are in the columns
    ``error_analysis`` and ``error_synthesis``.  ``size`` replaces the full or the quick size.
    """
    return _ablated(lambda size: unrolled(size, tied=False), options, size)


def mismatch(options: Options, size: Size | None = None) -> Result:
    """Compare the binomial model with a Gaussian one of the same spikes, as `as_signal` gives them.

    Layers, penalty (as a fraction of lambda_max) and initialization are the same.  Negative rates
    of the Gaussian model count as half a spike in all the trials of a group where its deviance is
    computed.
    """

    def gaussian(size: Size) -> Method:
        paper = unrolled(size)

        def model(groups: Groups, seed: int) -> DCEA:
            return paper.model(groups, seed).set_params(family="gaussian", baseline=0.0)

        return replace(paper, name="gaussian", model=model, on_signal=True)

    return _ablated(gaussian, options, size)


def _ablated(ablated: Callable[[Size], Method], options: Options, size: Size | None) -> Result:
    """Fit the paper's model and one without one of its parts."""
    size = size or (QUICK if options.quick else Size())
    groups, both = Groups(size.few), [unrolled(size), ablated(size)]
    found = compare([(method, groups) for method in both], size, options)
    names = ("few", "n_seeds", "n_unrolled", "n_epochs", "penalty_weight")
    settings = {name: getattr(size, name) for name in names}
    measures = {
        "error_mean": "mean template error",
        "rate_r2": "variance of the true rate explained",
        "deviance_explained_new": "deviance of new trials explained",
    }
    return replace(
        found,
        figures={**found.figures, "losses": _pairs(found.table, measures)},
        settings={**settings, "groups": asdict(groups), **found.settings},
        findings=findings("ablation", found.table, measures),
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
        onsets = events["time"][events["template"] == number]
        look = {"color": style.colour(number), "label": name, "clip_on": False, "ms": 5}
        below.plot(onsets, 0 * onsets, "^", **look)
    style.legend_above(below)
    below.set(xlabel="time (s)", ylabel="rate (Hz)", ylim=(0, None))
    return above.figure


def _by_seed(ax: Axes, rows: pd.DataFrame, by: str, measure: str, names: list) -> None:
    """Draw a measure of each seed and the median against the values ``names`` of a column."""
    each = rows.pivot(index=by, columns="seed", values=measure).loc[names]
    ax.plot(range(len(names)), each, "o-", color=style.PALETTE[0], lw=0.8, ms=3.5, alpha=0.5)
    ax.plot(range(len(names)), each.median(axis=1), color=style.INK, lw=2)
    ax.set_xticks(range(len(names)), labels=names)
    ax.margins(x=0.15)


@style.styled
def _errors(table: pd.DataFrame) -> Figure:
    """Draw the mean error against trials, baseline and layers.

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
        _by_seed(ax, rows, column, "error_mean", sorted(rows[column].unique()))
        name, groups = rows["method"].iloc[0], rows["n_groups"].iloc[0]
        ax.set(xlabel=label, title=f"{name}, {groups} groups")
        ax.set_ylim(0, max(0.2, 1.1 * rows["error_mean"].max()))
    panels[0].set_ylabel("mean template error")
    return panels[0].figure


@style.styled
def _pairs(table: pd.DataFrame, measures: Mapping[str, str]) -> Figure:
    """Draw the measures by method."""
    panels = style.axes_array(None, (1, len(measures)), (style.PAGE, 2.4))[0]
    for ax, (column, label) in zip(panels, measures.items(), strict=True):
        _by_seed(ax, table, "method", column, list(table["method"].unique()))
        ax.set(ylabel=label, ylim=(min(0, 1.1 * table[column].min()), 1))
    return panels[0].figure
