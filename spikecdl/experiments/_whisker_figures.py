"""Figures of the whisker experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spikecdl.experiments._onsets import after_onsets
from spikecdl.plots import _style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spikecdl.data import Decomposition
    from spikecdl.experiments.whisker import Fit

_MARKERS = "osD^vP*Xh"
_PANEL, _COLUMNS = (7.5, 1.9), 3
_COMPARED = ("DCEA", "PSTH", "constant rate")  # whose rescaled intervals are shown


@_style.styled
def scores(table: pd.DataFrame) -> Figure:
    """Draw the deviance explained of each unit and stimulus, a mark for each method."""
    rows = table[table["method"] != "constant rate"]
    places = list(dict.fromkeys(zip(rows["recording"], rows["unit"], strict=True)))
    ax = _style.axes_array(None, (1, 1), (7.5, 4.2))[0, 0]
    for number, (method, of_method) in enumerate(rows.groupby("method", sort=False)):
        main, ours = method == "DCEA", "DCEA" in method
        keys = zip(of_method["recording"], of_method["unit"], strict=True)
        at = np.array([places.index(key) for key in keys]) + (number - 3.5) * 0.08
        ax.plot(
            at,
            of_method["deviance_explained"],
            _MARKERS[number],
            color=_style.PALETTE[1] if ours else _style.PALETTE[(0, 2, 3, 5)[number % 4]],
            markerfacecolor=None if main else "none",
            markersize=8 if main else 6,
            zorder=3 if main else 2,
            label=method,
        )
    names = [f"{recording.replace('_', chr(10))}\nunit {unit}" for recording, unit in places]
    ax.set(xticks=range(len(places)), xticklabels=names, ylabel="deviance explained, test trials")
    ax.set_xlim(-0.5, len(places) - 0.5)
    ax.grid(axis="y", color=_style.UNSEEN)
    _style.tidy(ax)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return ax.figure


@_style.styled
def templates(fits: Sequence[Fit], onsets: np.ndarray) -> Figure:
    """Draw the rate around a deflection: the template of DCEA, and the average over cycles."""
    chosen = [
        (fit.recording.name, place, fit.parts)
        for fit in fits
        if fit.method.name == "DCEA" and fit.parts is not None
        for place in range(fit.parts.counts.n_units)
    ]
    axes = _style.wrapped(None, len(chosen), _COLUMNS, _PANEL, sharex=True)
    for ax, (name, place, parts) in zip(axes, chosen, strict=True):
        _draw_template(ax, parts, place, onsets)
        ax.set_title(f"{name}, {_style.unit_title(parts.counts.unit_ids[place])}")
    return _labelled(axes, "time from the deflection (ms)", "rate (Hz)")


def _draw_template(ax: Axes, parts: Decomposition, place: int, onsets: np.ndarray) -> None:
    """Draw the mean rate after an onset as counted, and as fitted by templates and codes."""
    counts = parts.counts
    n_bins = parts.templates.shape[-1]
    where = (onsets, counts.t_start, counts.bin_size, n_bins)
    time = 1e3 * counts.bin_size * np.arange(n_bins + 1)
    measured = after_onsets(counts.rate()[0, place], *where)
    ax.stairs(measured, time, fill=True, color=_style.DATA, alpha=0.6, label="counted")
    fitted = after_onsets(parts.rate[0, place], *where)
    ax.stairs(fitted, time, color=_style.PALETTE[1], linewidth=1.6, baseline=None, label="DCEA")
    ax.set_ylim(bottom=0)
    _style.tidy(ax)


@_style.styled
def intervals(fits: Sequence[Fit]) -> Figure:
    """Draw the rescaled intervals of single test trials against their law, less their law."""
    compared = [fit for fit in fits if fit.method.name in _COMPARED]
    panels = [
        (fit.recording.name, place)
        for fit in compared
        if fit.method.name == "DCEA"
        for place in range(len(fit.intervals.unit_ids))
    ]
    axes = _style.wrapped(None, len(panels), _COLUMNS, _PANEL, sharex=True, sharey=True)
    for ax, (name, place) in zip(axes, panels, strict=True):
        for number, label in enumerate(_COMPARED):
            fit = next(f for f in compared if (f.recording.name, f.method.name) == (name, label))
            uniforms = np.sort(fit.intervals.uniforms[place])
            expected = (np.arange(len(uniforms)) + 0.5) / len(uniforms)
            colour = (_style.PALETTE[1], _style.PALETTE[0], _style.MUTED)[number]
            ax.plot(expected, uniforms - expected, color=colour, label=label)
        band = fit.intervals.band[place]
        ax.axhspan(-band, band, color=_style.UNSEEN, zorder=0)
        ax.set_title(f"{name}, {_style.unit_title(fit.intervals.unit_ids[place])}")
        _style.tidy(ax)
    return _labelled(axes, "quantile of the uniform law", "difference")


def _labelled(axes: np.ndarray, xlabel: str, ylabel: str) -> Figure:
    """Label the outer panels, put the legend above all, and return their figure."""
    for ax in axes[::_COLUMNS]:
        ax.set_ylabel(ylabel)
    for ax in axes[-_COLUMNS:]:
        ax.set_xlabel(xlabel)
    figure = axes[0].figure
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=_COLUMNS)
    return figure
