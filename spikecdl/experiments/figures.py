"""Figures of the experiments on simulated groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.evaluation.metrics import template_error
from spikecdl.experiments.benchmark import BIN_SIZE, SHAPES, Groups, probability
from spikecdl.plots import raster, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@style.styled
def spikes(seed: int) -> Figure:
    """Draw the trials of a group above their true rate."""
    counts = Groups(1).single_trials(seed)
    shape, size = (2, 1), (7.2, 4.0)
    above, below = style.axes_array(None, shape, size, sharex=True, height_ratios=[1.5, 1])[:, 0]
    raster(counts, ax=above)
    above.set(title="spikes of a group's 30 trials", xlabel="")
    rate = probability(counts)[0, 0] / BIN_SIZE
    below.plot(counts.times + counts.bin_size / 2, rate, color=style.INK, label="true rate")
    style.baseline(below, Groups.baseline)
    events = counts.truth.events.query("trial == 0")  # type: ignore[union-attr]
    for number, name in enumerate(SHAPES):
        onsets, colour = events["time"][events["template"] == number], style.colour(number)
        marks = np.zeros(len(onsets))
        below.plot(onsets, marks, "^", color=colour, label=name, clip_on=False, ms=5)
    style.legend_above(below)
    below.set(xlabel="time (s)", ylabel="rate (Hz)", ylim=(0, None))
    style.tidy(below)
    return above.figure


@style.styled
def templates(
    learned: Mapping[str, np.ndarray], initial: Mapping[str, np.ndarray], truth: np.ndarray
) -> Figure:
    """Draw a row for each method: initial, learned and true templates in the same panels.

    Parameters
    ----------
    learned : mapping of str to ndarray (template, 1, bin)
        Learned templates by method.
    initial : mapping of str to ndarray (template, 1, bin)
        Initial templates by method, in the order of the learned ones; may lack methods.
    truth : ndarray, shape (template, 1, bin)
    """
    shape = (len(learned), len(truth))
    size = (2.5 * shape[1] + 0.6, 1.6 * shape[0] + 0.8)
    grid = style.axes_array(None, shape, size, sharex=True, sharey=True)
    for row, (name, found) in zip(grid, learned.items(), strict=True):
        error = template_error(found, truth)
        for number, ax in enumerate(row):
            partner, shift = error.assignment[number], error.shifts[number]
            ax.axhline(0, color=style.DATA, linewidth=0.8, zorder=1)
            curves = [
                (
                    "learned, shifted",
                    found[partner, 0],
                    shift,
                    {"color": style.colour(number), "lw": 2},
                ),
                (
                    "truth",
                    truth[number, 0],
                    0,
                    {"color": style.INK, "lw": 1.1, "ls": (0, (4, 2.5))},
                ),
            ]
            if name in initial:
                line = {"color": style.DATA, "lw": 1}
                curves.insert(0, ("random initialization", initial[name][partner, 0], 0, line))
            for label, values, moved, line in curves:
                ax.plot(np.arange(len(values)) + moved + 0.5, values, label=label, **line)
            ax.set_title(f"{SHAPES[number]} · error {error.errors[number]:.2f}")
            ax.set_xlim(0, truth.shape[2])
            style.tidy(ax)
        row[0].set_ylabel(name)
    for ax in grid[-1]:
        ax.set_xlabel("time (ms)")
    named: dict[str, Any] = {}  # one legend for all panels, in the colours of the first template
    for ax in grid[:, 0]:
        handles, labels = ax.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure = grid[0, 0].figure
    figure.legend(named.values(), named, loc="outside upper right", ncols=len(named))
    return figure


@style.styled
def learning(trace: pd.DataFrame, few: int, n_unrolled: int) -> Figure:
    """Draw the mean error of each method after every epoch, against epochs and against time.

    One line per seed.  Of the methods with layers, those with ``n_unrolled`` are drawn.
    """
    from matplotlib.ticker import MaxNLocator, NullFormatter

    rows = trace[(trace["n_groups"] == few) & trace["n_unrolled"].isin([n_unrolled, np.nan])]
    panels = style.axes_array(None, (1, 2), (7.2, 2.9), sharey=True)[0]
    for ax, column, label in zip(
        panels, ("epoch", "seconds"), ("epoch", "seconds of training"), strict=True
    ):
        for number, (name, runs) in enumerate(rows.groupby("method", sort=False)):
            line: dict[str, Any] = {"color": style.colour(number), "lw": 0.9, "alpha": 0.7}
            for repetition, (_, run) in enumerate(runs.groupby("seed")):
                line["label"] = "_" * repetition + str(name)  # one of them is in the legend
                ax.plot(run[column], run["error_mean"], "o-", ms=3, markevery=[-1], **line)
        ax.set(xlabel=label, ylim=(0, 1))
        ax.margins(x=0.02)
        style.tidy(ax)
    panels[0].set_ylabel("mean template error")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].set_xscale("log")
    panels[1].xaxis.set_major_formatter("{x:g}")
    panels[1].xaxis.set_minor_formatter(NullFormatter())
    style.legend_above(panels[1])
    return panels[0].figure


@style.styled
def conditions(table: pd.DataFrame, default: str, paper: str) -> Figure:
    """Draw the mean error against trials, baseline and layers: points of seeds, and the median.

    Trials and baselines are those of the method ``default``, layers those of ``paper``.
    """
    mine = table[table["method"] == default]
    mine = mine[mine["n_groups"] == mine["n_groups"].max()]
    panels = style.axes_array(None, (1, 3), (8.2, 2.7))[0]
    for ax, rows, column, label in zip(
        panels,
        (
            mine[mine["baseline"] == Groups.baseline],
            mine[mine["n_trials"] == Groups.n_trials],
            table[table["method"] == paper],
        ),
        ("n_trials", "baseline", "n_unrolled"),
        ("trials of a group", "baseline (Hz)", "layers"),
        strict=True,
    ):
        colour = style.colour(int(column == "n_unrolled"))
        values = sorted(rows[column].unique())
        at = rows[column].map({value: position for position, value in enumerate(values)})
        ax.plot(at, rows["error_mean"], "o", color=colour, ms=3.5, alpha=0.35, mew=0)
        medians = rows.groupby(column)["error_mean"].median()
        ax.plot(range(len(values)), medians[values], color=colour)
        ax.set_xticks(range(len(values)), labels=[f"{value:g}" for value in values])
        ax.margins(x=0.1)
        style.tidy(ax)
        name, groups = rows["method"].iloc[0], rows["n_groups"].iloc[0]
        ax.set(xlabel=label, title=f"{name}, {groups} groups")
        ax.set_ylim(0, max(0.2, 1.1 * rows["error_mean"].max()))
    panels[0].set_ylabel("mean template error")
    return panels[0].figure


@style.styled
def pairs(table: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """Draw columns of the table by method, with a line per seed; ``columns`` gives axis labels."""
    names = list(table["method"].unique())
    panels = style.axes_array(None, (1, len(columns)), (2.7 * len(columns), 2.7))[0]
    for ax, (column, label) in zip(panels, columns.items(), strict=True):
        each = table.pivot(index="method", columns="seed", values=column).loc[names]
        ax.plot(range(len(names)), each, "o-", color=style.PALETTE[0], lw=0.8, ms=3.5, alpha=0.5)
        ax.plot(range(len(names)), each.median(axis=1), color=style.INK, lw=2)
        ax.set_xticks(range(len(names)), labels=names)
        ax.set(ylabel=label, ylim=(min(0, 1.1 * each.min().min()), 1))
        ax.margins(x=0.25)
        style.tidy(ax)
    return panels[0].figure
