"""Codes as events in time, and a trial taken apart into its templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.plots import _style
from spikecdl.plots.rates import observed_rate, rate_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spikecdl.data import Decomposition

_MOST_PANELS = 6


@_style.styled
def codes(
    decomposition: Decomposition, *, units: Sequence[int] | None = None, axes: Any = None
) -> np.ndarray:
    """Draw events as stems at the onset of their template, one row per trial, a panel per unit.

    A single trial has its amplitudes on the axis; with several, the tallest stem of a panel fills
    its row and the panel says how large it is.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    units : sequence of int, optional
        Positions of the units. Default: the first six. The joint layout has one panel for all.
    axes : array of Axes, optional
        One per panel. Default: a new figure.

    Returns
    -------
    ndarray of Axes
        Of shape (unit,), or (1,) in the joint layout.

    Raises
    ------
    ValueError
        If the number of axes is wrong.

    Examples
    --------
    >>> axes = codes(decomposition)  # doctest: +SKIP
    """
    counts = decomposition.counts
    joint = decomposition.layout == "joint"
    shown = [0] if joint else list(range(counts.n_units) if units is None else units)
    if units is None:
        shown = shown[:_MOST_PANELS]
    trials = len(counts)
    columns = min(len(shown), 3 if trials > 1 else 1)
    height = 1.7 if trials == 1 else float(np.clip(1.2 + 0.09 * trials, 2.2, 7))
    width = 7.2 if columns == 1 else 3.7 * columns
    grid = _style.wrapped(axes, len(shown), columns, (width, height), sharex=True)
    for place, (ax, unit) in enumerate(zip(grid, shown, strict=True)):
        name = "all units" if joint else f"unit {counts.unit_ids[unit]}"
        _draw_codes(ax, decomposition, unit, name)
        if place + columns >= len(shown) or axes is not None:
            ax.set_xlabel(f"time ({_style.seconds(counts.bin_size)})")
    if axes is None:
        _template_legend(grid[0].figure, decomposition, len(shown))
    return grid


def _draw_codes(ax: Axes, decomposition: Decomposition, unit: int, name: str) -> None:
    """Stems of one unit's events (of all units in the joint layout)."""
    counts = decomposition.counts
    joint = decomposition.layout == "joint"
    seen = np.any(counts.mask if joint else counts.mask[:, [unit]], axis=1)
    values = decomposition.codes[:, unit]
    tallest = float(np.abs(values).max())
    ax.set_title(name)
    if not tallest:
        ax.text(0.5, 0.5, "no events", transform=ax.transAxes, ha="center", color=_style.MUTED)
    if len(values) == 1:
        base, scale = np.arange(1.0), 1.0
        _style.shade(ax, counts, ~seen[0])
        ax.axhline(0, color=_style.MUTED, linewidth=0.8)
        low, high = 1.1 * min(0.0, float(values.min())), 1.1 * max(0.0, float(values.max()))
        ax.set(ylabel="amplitude", ylim=(low, high if tallest else 1.0))
    else:
        two_sided = values.min() < 0
        base = np.arange(0.0, len(values)) + (0.0 if two_sided else 0.42)
        scale = -(0.42 if two_sided else 0.84) / (tallest or 1.0)
        _style.shade(ax, counts, ~seen, rows=range(len(values)))
        _style.row_axis(ax, counts.trial_ids)
        if tallest:
            ax.set_title(f"{name} · tallest stem {tallest:.3g}")
    _stems(ax, counts.times, values, base, scale)
    _style.time_axis(ax, counts, ticks=8 if len(values) == 1 else 5)
    _style.tidy(ax)


def _stems(ax: Axes, times: np.ndarray, values: np.ndarray, base: np.ndarray, scale: float) -> None:
    """Draw codes (trial, template, bin) from the height ``base`` of their trial."""
    for number in range(values.shape[1]):
        trial, at = np.nonzero(values[:, number])
        tip = base[trial] + scale * values[trial, number, at]
        style = {"color": _style.colour(number), "label": f"template {number}"}
        ax.vlines(times[at], base[trial], tip, linewidth=1.3, **style)
        if len(values) == 1:
            ax.plot(times[at], tip, "o", color=style["color"], markersize=4.5, clip_on=False)


def _template_legend(figure: Any, decomposition: Decomposition, shown: int) -> None:
    """Name the templates at the top of a new figure, and say if units were left out."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    n_units = decomposition.counts.n_units
    if shown == 1 and len(labels) <= 3:
        _style.legend_above(figure.axes[0])
    else:
        figure.legend(handles, labels, loc="outside upper right", ncols=min(len(labels), 6))
    if decomposition.layout == "shared" and shown == _MOST_PANELS < n_units:
        figure.suptitle(f"first {shown} of {n_units} units", x=0.01, ha="left", fontsize=9)


@_style.styled
def decomposition(
    decomposition: Decomposition, trial: int = 0, unit: int = 0, *, axes: Any = None
) -> np.ndarray:
    """Draw one window's counts and fitted rate, and below what each template adds to eta.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    trial, unit : int
        Positions of the window.
    axes : array of Axes, optional
        One for the rate and one per template. Default: a new figure.

    Returns
    -------
    ndarray of Axes
        Of shape (1 + template,).

    Raises
    ------
    ValueError
        If the window does not exist or the number of axes is wrong.

    Examples
    --------
    >>> rate, *parts = decomposition(model.decompose(counts))  # doctest: +SKIP
    """
    count = len(decomposition.templates)
    joint = decomposition.layout == "joint"
    counts = decomposition.counts
    size, ratios = (7.2, 2.1 + 0.95 * count), [2.2, *[1] * count]
    grid = _style.axes_array(axes, (1 + count, 1), size, sharex=True, height_ratios=ratios)[:, 0]
    _draw_window(grid[0], decomposition, trial, unit)
    grid[0].set_title(f"unit {counts.unit_ids[unit]} · trial {counts.trial_ids[trial]}")
    _style.legend_above(grid[0])
    added = decomposition.contributions[trial, unit]
    middle = counts.times + counts.bin_size / 2
    events = decomposition.codes[trial, 0 if joint else unit]
    for number, ax in enumerate(grid[1:]):
        shade = _style.colour(number)
        _style.shade(ax, counts, ~counts.mask[trial, unit])
        ax.axhline(0, color=_style.DATA, linewidth=0.8, zorder=1)
        ax.fill_between(middle, added[number], color=shade, alpha=0.25, linewidth=0)
        ax.plot(middle, added[number], color=shade, marker="o" if len(middle) == 1 else "")
        onsets = counts.times[np.flatnonzero(events[number])]
        ax.plot(onsets, np.zeros(len(onsets)), "^", color=shade, markersize=4.5, zorder=3)
        ax.set_title(f"template {number}", fontsize=8.5, color=shade, pad=3)
        _style.tidy(ax)
    low, high = min(0.0, added.min(initial=0)), max(0.0, added.max(initial=0))
    margin = 0.12 * ((high - low) or 1.0)
    for ax in grid[1:]:
        ax.set_ylim(low - margin, high + margin)
    grid[1 + count // 2].set_ylabel(f"added {_style.ETA[decomposition.family]}")
    grid[-1].set_xlabel(f"time ({_style.seconds(counts.bin_size)})")
    return grid


def _draw_window(ax: Axes, decomposition: Decomposition, trial: int, unit: int) -> None:
    """Fitted rate over the counts: single spikes as marks at the top, else as a histogram."""
    counts = decomposition.counts
    times = _style.edges(counts)
    middle = counts.times + counts.bin_size / 2
    fit = decomposition.rate[trial, unit]
    _style.shade(ax, counts, ~counts.mask[trial, unit])
    sparse = counts.is_counts and counts.n_pooled[trial, unit].max() <= 1
    if not sparse:
        data = observed_rate(decomposition)[trial, unit]
        ax.stairs(data, times, fill=True, color=_style.DATA, label="data")
    ax.plot(middle, fit, color=_style.INK, label="fit", marker="o" if len(fit) == 1 else "")
    baseline = decomposition.baseline[trial, unit]
    ax.axhline(baseline, color=_style.PALETTE[1], lw=1, ls=(0, (4, 3)), label="baseline")
    if counts.is_counts:
        top = ax.get_ylim()[1]
        ax.set_ylim(0, 1.25 * top if sparse else top)
    if sparse:
        spikes = counts.counts[trial, unit]
        at = np.flatnonzero(spikes)
        sizes = 90.0 * (0.5 + 0.5 * spikes[at] / spikes.max(initial=1)) ** 2
        ax.scatter(
            middle[at],
            np.full(len(at), 0.93),
            sizes,
            _style.INK,
            marker="|",
            linewidths=0.9,
            transform=ax.get_xaxis_transform(),
            label="spikes",
        )
    ax.set_ylabel(rate_label(decomposition))
    _style.time_axis(ax, counts)
    _style.tidy(ax)
