"""Peri-stimulus time histograms with the fitted rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.plots import style
from spikecdl.plots.rasters import draw_raster, single_trials

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains

_MOST_BINS = 800  # of a histogram
_FEWEST_SPIKES = 2  # in a bin of a histogram, on average
_FEWEST_BINS = 60  # of a histogram of counts without a fit
_LONG = 1000  # bins; units with longer windows are drawn in one column


@dataclass(frozen=True, eq=False)
class Rates:
    """Data and fit to draw, each (trial, unit, bin), nan where nothing was observed."""

    counts: BinnedSpikes
    data: np.ndarray
    fit: np.ndarray | None
    baseline: np.ndarray | None  # (trial, unit)
    is_signal: bool
    widest: int  # most bins that may be averaged into one

    @property
    def label(self) -> str:
        """Label of the axis of rates."""
        if self.is_signal:
            return "signal"
        return "spikes per bin" if style.in_bins(self.counts.bin_size) else "rate (Hz)"


def rates_of(source: Decomposition | BinnedSpikes) -> Rates:
    """Return rates in Hz (in spikes per bin for plain arrays), or the signal in its own unit."""
    from spikecdl.data import BinnedSpikes, Decomposition

    if isinstance(source, BinnedSpikes):
        widest = max(1, source.n_bins // _FEWEST_BINS)
        return Rates(source, source.rate(), None, None, not source.is_counts, widest)
    style.check_type("source", source, Decomposition, BinnedSpikes)
    counts, is_signal = source.counts, not source.family.integer_valued
    data = counts.rate()
    if is_signal and counts.is_counts:  # a signal of whole numbers
        data = data * counts.bin_size
    widest = max(1, source.templates.shape[2] // 4)  # so that the shape of templates shows
    return Rates(counts, data, source.rate, source.baseline, is_signal, widest)


@style.styled
def rate(
    source: Decomposition | BinnedSpikes,
    unit: int = 0,
    *,
    spikes: SpikeTrains | BinnedSpikes | None = None,
    axes: Any = None,
) -> np.ndarray:
    """Draw the raster of a unit, and below it the histogram of its spikes with the fitted rate.

    Histogram and rate are means over the observed trials. Neighbouring bins are averaged, data and
    fit alike, if bins hold fewer than two spikes on average or there are more than 800; the legend
    then gives the width of the drawn bins.

    Parameters
    ----------
    source : Decomposition or BinnedSpikes
        Made by ``model.decompose(counts)``; or counts, which are drawn without a fit.
    unit : int
        Position of the unit.
    spikes : BinnedSpikes or SpikeTrains, optional
        Source of the raster. Default: the counts; no raster if they are pooled over trials. Spike
        trains are aligned as the counts were, which must know when their trials start (pooled ones
        do not); ValueError if they cannot be aligned or have other units.
    axes : array of Axes, optional
        Two axes (raster, rate), or one without a raster; the same is returned.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> counts = BinnedSpikes.from_array([[0, 2, 0, 3], [2, 0, 0, 2]], bin_size=0.01)
    >>> trials, histogram = rate(counts)
    >>> histogram.get_xlabel(), histogram.get_ylabel()
    ('time (s)', 'rate (Hz)')
    """
    rates = rates_of(source)
    style.check_position("unit", unit, rates.counts.n_units)
    trials = single_trials(rates.counts, unit, spikes)
    heights = _heights(trials, 1.9)
    shape, size = (len(heights), 1), (7.2, 0.7 + sum(heights))
    grid = style.axes_array(axes, shape, size, sharex=True, height_ratios=heights)[:, 0]
    _draw_unit(grid, rates, unit, trials, _merged_bins(rates, [unit]))
    style.legend_above(grid[-1])
    return grid


@style.styled
def rates_figure(
    source: Decomposition | BinnedSpikes,
    spikes: SpikeTrains | BinnedSpikes | None = None,
    max_units: int = 9,
) -> Figure:
    """Draw `rate` for the first units, as a new figure.

    Parameters
    ----------
    source, spikes
        As for `rate`.
    max_units : int
        Largest number of units to draw; the title says if there are more.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> counts = BinnedSpikes.from_array(np.ones((1, 12, 100), dtype=int), bin_size=0.01)
    >>> rates_figure(counts, max_units=4).get_suptitle()
    'first 4 of 12 units'
    """
    rates = rates_of(source)
    shown = range(min(rates.counts.n_units, max_units))
    columns = 1 if rates.counts.n_bins > _LONG else min(len(shown), 3)
    blocks = -(-len(shown) // columns)  # rows of units
    sources = [single_trials(rates.counts, unit, spikes) for unit in shown]
    merge = _merged_bins(rates, shown)
    heights = _heights(sources[0], 1.9 if blocks == 1 else 1.5)
    rows = len(heights)
    size = (7.2 if columns == 1 else 4.0 * columns, 0.4 + (0.6 + sum(heights)) * blocks)
    layout = {"sharex": "col", "height_ratios": heights * blocks}
    grid = style.axes_array(None, (blocks * rows, columns), size, **layout)
    panels = grid.reshape(blocks, rows, columns).swapaxes(1, 2).reshape(-1, rows)
    for unit, axes, trials in zip(shown, panels, sources, strict=False):
        _draw_unit(axes, rates, unit, trials, merge)
        style.time_axis(axes[-1], rates.counts, ticks=8 if columns == 1 else 5)
    for spare in panels[len(shown) :].ravel():
        spare.remove()
    figure = grid[0, 0].figure
    handles, labels = grid[-1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(handles))
    style.say_left_out(figure, len(shown), rates.counts.n_units)
    return figure


def _heights(trials: BinnedSpikes | None, height: float) -> list[float]:
    """Heights in inches of a raster, if there is one, and of the histogram."""
    return [height] if trials is None else [float(np.clip(0.06 * len(trials), 0.5, 1.5)), height]


def _draw_unit(
    axes: np.ndarray, rates: Rates, unit: int, trials: BinnedSpikes | None, merge: int
) -> None:
    *top, bottom = axes
    _draw_rate(bottom, rates, unit, merge)
    bottom.tick_params(labelbottom=True)
    if trials is None:
        bottom.set_title(style.unit_title(rates.counts.unit_ids[unit]))
    else:
        draw_raster(top[0], trials)
        top[0].tick_params(labelbottom=False)


def _draw_rate(ax: Axes, rates: Rates, unit: int, merge: int) -> None:
    counts = rates.counts
    weight = counts.n_pooled[:, unit]
    starts = np.arange(0, counts.n_bins, merge)
    times = style.edges(counts)[[*starts, -1]]
    middle = (times[1:] + times[:-1]) / 2

    style.shade(ax, counts, weight.sum(axis=0) == 0)
    label = "data"
    if merge > 1:
        width = f"{merge * counts.bin_size * 1e3:.4g} ms bins"
        label += f" (means of {merge} bins)" if style.in_bins(counts.bin_size) else f" ({width})"
    style.histogram(ax, _average(rates.data[:, unit], weight, starts), times, label)
    if rates.baseline is not None:
        mean = _average(rates.baseline[:, [unit]], weight.sum(axis=1, keepdims=True))[0]
        style.baseline(ax, mean)
    if rates.fit is not None:
        fit = _average(rates.fit[:, unit], weight, starts)
        ax.plot(middle, fit, color=style.INK, marker="" if len(fit) > 1 else "o", label="fit")
    ax.set(ylabel=rates.label, xlabel=style.time_label(counts.bin_size))
    style.time_axis(ax, counts)
    if not rates.is_signal:
        ax.set_ylim(bottom=0)
    style.tidy(ax)


def _merged_bins(rates: Rates, units: Sequence[int]) -> int:
    """Number of bins to average: enough spikes in each bin of the histogram, not too many bins."""
    counts = rates.counts
    crowded = -(-counts.n_bins // _MOST_BINS)
    if rates.is_signal:
        return crowded
    per_bin = float(np.median(counts.counts[:, units].sum(axis=0).mean(axis=-1)))
    wanted = int(np.ceil(_FEWEST_SPIKES / max(per_bin, 1e-9)))
    return max(crowded, min(wanted, rates.widest))


def _average(
    values: np.ndarray, weight: np.ndarray, starts: Sequence[int] | np.ndarray = (0,)
) -> np.ndarray:
    """Weighted mean over trials and over bins from each start to the next; nan without weight."""
    summed = np.add.reduceat(np.where(weight > 0, values * weight, 0).sum(axis=0), starts)
    total = np.add.reduceat(weight.sum(axis=0), starts)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
