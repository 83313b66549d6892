"""Rasters, and peri-stimulus time histograms with the fitted rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.plots import _style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains

_MOST_BINS = 800  # of a histogram
_FEWEST_SPIKES = 2  # in a bin of a histogram, on average
_FINEST = 1e-3  # seconds; a raster mark cannot be placed more finely


@_style.styled
def raster(
    spikes: SpikeTrains | BinnedSpikes,
    unit: int | None = 0,
    *,
    align: str | None = None,
    window: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a mark for each spike, trial below trial; unobserved time is grey.

    Parameters
    ----------
    spikes : SpikeTrains or BinnedSpikes
        Spike trains are drawn to the millisecond; binned spikes in the middle of their bin, darker
        for more spikes.
    unit : int or None
        Position of the unit; None draws all units, block below block.
    align : str, optional
        Column of the trials table that time is relative to (spike trains only).
    window : (float, float), optional
        Start and stop relative to the alignment, in seconds (spike trains only).
    ax : Axes, optional
        Default: a new figure.

    Returns
    -------
    Axes
        The axes drawn on.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> counts = BinnedSpikes.from_array([[0, 1, 0, 1], [1, 0, 0, 0]], bin_size=0.01)
    >>> raster(counts).get_ylabel()
    'trial'
    """
    counts = _binned(spikes, unit, align, window)
    height = float(np.clip(1.2 + 0.02 * counts.n_windows, 2.4, 9))
    panel = _style.axes_array(ax, (1, 1), (6.4, height))[0, 0]
    _draw_raster(panel, counts)
    panel.set_xlabel(f"time ({_style.seconds(counts.bin_size)})")
    return panel


@_style.styled
def rate(
    decomposition: Decomposition,
    unit: int = 0,
    *,
    spikes: SpikeTrains | BinnedSpikes | None = None,
    axes: Any = None,
) -> np.ndarray:
    """Draw a unit's histogram of spikes over time with the fitted rate, below its raster.

    Both are means over the trials that were observed. Where bins hold fewer than two spikes on
    average or are more than 800, neighbouring bins are averaged, data and fit alike, and the legend
    says how wide the drawn bins are.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    unit : int
        Position of the unit.
    spikes : BinnedSpikes or SpikeTrains, optional
        Where the raster comes from. Default: the decomposed counts, unless these are pooled over
        trials, which leaves no raster. Spike trains are aligned as the counts were, so they need
        counts that know where their trials begin (not pooled ones).
    axes : array of Axes, optional
        Two axes (raster, rate), or one if there is no raster. Default: a new figure.

    Returns
    -------
    ndarray of Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If ``spikes`` have other units, or the number of axes is wrong.

    Examples
    --------
    >>> raster, histogram = rate(decomposition)  # doctest: +SKIP
    """
    trials = _raster_source(decomposition, unit, spikes)
    heights = _heights(trials)
    shape, size = (len(heights), 1), (6.4, 0.7 + sum(heights))
    grid = _style.axes_array(axes, shape, size, sharex=True, height_ratios=heights)[:, 0]
    _draw_unit(grid, decomposition, unit, trials, _merged_bins(decomposition, [unit]))
    _style.legend_above(grid[-1])
    return grid


@_style.styled
def rates_figure(
    decomposition: Decomposition,
    spikes: SpikeTrains | BinnedSpikes | None = None,
    max_units: int = 6,
) -> Figure:
    """Draw `rate` for the first units, as a whole figure.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    spikes : BinnedSpikes or SpikeTrains, optional
        Where rasters come from; see `rate`.
    max_units : int
        Most units to draw; the figure's title says if there are more.

    Returns
    -------
    Figure
        A new figure.

    Examples
    --------
    >>> rates_figure(decomposition).savefig("rates.png")  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt

    n_units = decomposition.counts.n_units
    shown = range(min(n_units, max_units))
    columns = min(len(shown), 3)
    blocks = -(-len(shown) // columns)
    sources = [_raster_source(decomposition, unit, spikes) for unit in shown]
    merge = _merged_bins(decomposition, shown)
    heights = _heights(sources[0])
    rows = len(heights)
    size = (7.2 if columns == 1 else 4.0 * columns, 0.4 + (0.6 + sum(heights)) * blocks)
    figure = plt.figure(figsize=size)
    grid = figure.add_gridspec(blocks * rows, columns, height_ratios=heights * blocks)
    for unit, source in zip(shown, sources, strict=True):
        block, column = divmod(unit, columns)
        panels: list[Axes] = []
        for row in range(rows):
            place = grid[block * rows + row, column]
            panels.append(figure.add_subplot(place, sharex=panels[0] if panels else None))
        _draw_unit(np.array(panels), decomposition, unit, source, merge)
        _style.time_axis(panels[-1], decomposition.counts, ticks=8 if columns == 1 else 5)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(handles))
    if n_units > len(shown):
        figure.suptitle(f"first {len(shown)} of {n_units} units", x=0.01, ha="left", fontsize=9)
    return figure


def _binned(
    spikes: SpikeTrains | BinnedSpikes,
    unit: int | None,
    align: str | None,
    window: tuple[float, float] | None,
) -> BinnedSpikes:
    """Counts to draw as a raster: those of one unit or of all."""
    from spikecdl.data import BinnedSpikes, SpikeTrains

    if isinstance(spikes, SpikeTrains):
        ids = None if unit is None else [spikes.unit_ids[unit]]
        return spikes.bin(_FINEST, align=align, window=window, units=ids)
    if not isinstance(spikes, BinnedSpikes):
        raise TypeError(
            f"`spikes` ({type(spikes).__name__}) must be SpikeTrains or BinnedSpikes; "
            "wrap an array with BinnedSpikes.from_array"
        )
    if not spikes.is_counts:
        raise ValueError("`spikes` must be counts; a real-valued signal has no spikes to draw")
    if align is not None or window is not None:
        raise ValueError("`align` and `window` need SpikeTrains; binned spikes are aligned already")
    return spikes if unit is None else spikes.select(units=[unit])


def _raster_source(
    decomposition: Decomposition, unit: int, spikes: SpikeTrains | BinnedSpikes | None
) -> BinnedSpikes | None:
    """Counts whose rows are single trials of one unit; None if there are none."""
    from spikecdl.data import BinnedSpikes

    counts = decomposition.counts
    if spikes is None:
        single = counts.is_counts and counts.n_pooled.max(initial=0) <= 1
        return counts.select(units=[unit]) if single else None
    label = counts.unit_ids[unit]
    if label not in spikes.unit_ids:
        raise ValueError(f"`spikes` has no unit {label!r}; it has {list(spikes.unit_ids)}")
    if isinstance(spikes, BinnedSpikes):
        return spikes.select(units=[spikes.unit_ids.index(label)])
    if not np.isfinite(counts.trial_starts).all():
        raise ValueError(
            "`spikes` cannot be aligned to counts that do not know where their trials begin; "
            "give the BinnedSpikes from before pooling"
        )
    return _bin_at(spikes, label, counts)


def _bin_at(spikes: SpikeTrains, label: int | str, counts: BinnedSpikes) -> BinnedSpikes:
    """Bin one unit finely in the windows of ``counts``."""
    import pandas as pd

    from spikecdl.data import SpikeTrains

    starts = counts.trial_starts
    index = spikes.unit_ids.index(label)
    windows = pd.DataFrame({"start_time": starts, "stop_time": starts + counts.duration})
    train = SpikeTrains(
        times=(spikes.times[index],),
        unit_ids=(label,),
        observed=(spikes.observed[index],),
        intervals={"windows": windows.set_axis(list(counts.trial_ids), axis=0)},
        clock_rate=spikes.clock_rate,
    )
    fine = train.bin(min(_FINEST, counts.bin_size), table="windows")
    return replace(fine, t_start=counts.t_start)


def _draw_raster(ax: Axes, counts: BinnedSpikes) -> None:
    trials, units, _ = counts.shape
    values = counts.counts.swapaxes(0, 1).reshape(trials * units, -1)
    unseen = ~counts.mask.swapaxes(0, 1).reshape(values.shape)
    _style.shade(ax, counts, unseen, rows=range(len(values)))
    row, at = np.nonzero(values)
    times = counts.times[at] + counts.bin_size / 2
    darkness = 0.5 + 0.5 * values[row, at] / values.max(initial=1)
    tones = [(0.13, 0.13, 0.13, tone) for tone in darkness]
    ax.vlines(times, row - 0.42, row + 0.42, colors=tones, linewidth=0.9)
    _style.time_axis(ax, counts)
    if units == 1:
        _style.row_axis(ax, counts.trial_ids)
        ax.set_title(f"unit {counts.unit_ids[0]}")
    else:
        _unit_blocks(ax, counts)
    _style.tidy(ax)


def _unit_blocks(ax: Axes, counts: BinnedSpikes) -> None:
    """Name the units of a raster of several, and draw lines between their trials."""
    trials, units, _ = counts.shape
    every = -(-units // 12)
    middles = np.arange(0, units, every) * trials + (trials - 1) / 2
    ax.set_yticks(middles, labels=[str(name) for name in counts.unit_ids[::every]])
    ax.set(ylabel="unit", ylim=(trials * units - 0.5, -0.5))
    if trials > 1:
        for row in np.arange(1, units) * trials - 0.5:
            ax.axhline(row, color=_style.DATA, linewidth=0.8)


def _heights(trials: BinnedSpikes | None) -> list[float]:
    """Heights in inches of a raster (if there is one) and the histogram below it."""
    return [1.9] if trials is None else [float(np.clip(0.06 * len(trials), 0.4, 1.7)), 1.9]


def _draw_unit(
    axes: np.ndarray,
    decomposition: Decomposition,
    unit: int,
    trials: BinnedSpikes | None,
    merge: int,
) -> None:
    *top, bottom = axes
    if trials is not None:
        _draw_raster(top[0], trials)
        top[0].tick_params(labelbottom=False)
    _draw_rate(bottom, decomposition, unit, merge)
    if trials is None:
        bottom.set_title(f"unit {decomposition.counts.unit_ids[unit]}")


def _draw_rate(ax: Axes, decomposition: Decomposition, unit: int, merge: int) -> None:
    counts = decomposition.counts
    weight = counts.n_pooled[:, unit]
    starts = np.arange(0, counts.n_bins, merge)
    data = _average(observed_rate(decomposition)[:, unit], weight, starts)
    fit = _average(decomposition.rate[:, unit], weight, starts)
    baseline = _average(decomposition.baseline[:, [unit]], weight.sum(axis=1, keepdims=True))
    times = _style.edges(counts)[[*starts, -1]]
    middle = (times[1:] + times[:-1]) / 2

    _style.shade(ax, counts, weight.sum(axis=0) == 0)
    label = "data" if merge == 1 else f"data ({_width(merge, counts.bin_size)})"
    ax.stairs(data, times, fill=True, color=_style.DATA, label=label)
    ax.plot(middle, fit, color=_style.INK, marker="" if len(fit) > 1 else "o", label="fit")
    ax.axhline(baseline[0], color=_style.PALETTE[1], lw=1, ls=(0, (4, 3)), label="baseline")
    ax.set(ylabel=rate_label(decomposition), xlabel=f"time ({_style.seconds(counts.bin_size)})")
    _style.time_axis(ax, counts)
    if counts.is_counts:
        ax.set_ylim(bottom=0)
    _style.tidy(ax)


def _merged_bins(decomposition: Decomposition, units: Sequence[int]) -> int:
    """Bins to average so that a histogram can be read: enough spikes in each, not too many bins.

    Sparse bins are merged up to a quarter of the templates' length, which still shows their shape.
    """
    counts = decomposition.counts
    crowded = -(-counts.n_bins // _MOST_BINS)
    if not counts.is_counts:
        return crowded
    per_bin = counts.counts[:, units].sum(axis=0).mean(axis=-1).min()
    wanted = int(np.ceil(_FEWEST_SPIKES / max(per_bin, 1e-9)))
    return max(crowded, min(wanted, decomposition.templates.shape[2] // 4), 1)


def _width(merge: int, bin_size: float) -> str:
    if _style.seconds(bin_size) == "bins":
        return f"means of {merge} bins"
    return f"{merge * bin_size * 1e3:.4g} ms bins"


def observed_rate(decomposition: Decomposition) -> np.ndarray:
    """Observed counterpart of ``decomposition.rate``; nan where nothing was observed."""
    counts = decomposition.counts
    rate = counts.rate()
    return rate * counts.bin_size if counts.is_counts and _is_signal(decomposition) else rate


def rate_label(decomposition: Decomposition) -> str:
    """Axis label of a rate."""
    if _is_signal(decomposition):
        return "signal"
    return "rate (Hz)" if _style.seconds(decomposition.counts.bin_size) == "s" else "spikes per bin"


def _is_signal(decomposition: Decomposition) -> bool:
    return decomposition.family == "gaussian"


def _average(
    values: np.ndarray, weight: np.ndarray, starts: Sequence[int] | np.ndarray = (0,)
) -> np.ndarray:
    """Weighted mean over trials, and over bins from each start to the next; nan without weight."""
    summed = np.add.reduceat(np.where(weight > 0, values * weight, 0).sum(axis=0), starts)
    total = np.add.reduceat(weight.sum(axis=0), starts)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
