"""Figures of the experiment `sea`: squared distances against gradient steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spikecdl.plots import _style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@_style.styled
def contraction(table: pd.DataFrame) -> Figure:
    """Draw the conditions that contract, and what was fitted to them, dashed."""
    axes = _panels(table)
    for ax, (_, rows) in zip(axes, table.groupby("varied", sort=False), strict=True):
        for number, (name, runs) in enumerate(rows.groupby("condition", sort=False)):
            _draw(ax, runs, _style.colour(number), f"{name}: times {runs.rate.mean():.2f} a step")
            _draw_fit(ax, runs)
    _legends(axes, table)
    return axes[0].figure


@_style.styled
def breaks(table: pd.DataFrame) -> Figure:
    """Draw the conditions that take an assumption away, beside the one that has them all."""
    axes = _panels(table)
    for ax, (_, rows) in zip(axes, table.groupby("varied", sort=False), strict=True):
        for number, (name, runs) in enumerate(rows.groupby("condition", sort=False)):
            _draw(ax, runs, _style.colour(number), str(name))
    _legends(axes, table)
    return axes[0].figure


def _panels(table: pd.DataFrame) -> np.ndarray:
    count = table.varied.nunique()
    axes = _style.axes_array(None, (1, count), (2.7 * count, 3.9), sharex=True, sharey=True)[0]
    for ax in axes:
        ax.set(yscale="log", xlabel="gradient steps")
        _style.tidy(ax)
    axes[0].set_ylabel("squared distance from the truth")
    return axes


def _legends(axes: np.ndarray, table: pd.DataFrame) -> None:
    """Put legends over their panels, as tall as each other."""
    for ax, varied in zip(axes, table.varied.unique(), strict=True):
        ax.legend(title=varied, alignment="left", loc="lower left", bbox_to_anchor=(0, 1))


def _draw(ax: Axes, runs: pd.DataFrame, colour: str, label: str) -> None:
    """Draw the median column, geometric mean over seeds, and a band up to the worst column."""
    by_step = np.log(runs.set_index("step")[["median", "max"]]).groupby("step").mean()
    middle, worst = np.exp(by_step["median"]), np.exp(by_step["max"])
    ax.plot(middle, color=colour, label=label)
    ax.fill_between(middle.index, middle, worst, color=colour, alpha=0.12, linewidth=0)


def _draw_fit(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw what was fitted, averaged over seeds."""
    fit = runs[["rate", "excess", "neighbourhood"]].mean()
    steps = np.arange(runs.step.max() + 1)
    fitted = fit.neighbourhood + fit.excess * fit.rate**steps
    ax.plot(steps, fitted, color=_style.INK, linewidth=0.9, linestyle=(0, (3, 3)))
