"""Rasters, and peri-stimulus time histograms with the fitted rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
from spikecdl.plots import style
from spikecdl.plots.style import Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@style.styled
def raster(
    spikes: SpikeTrains | BinnedSpikes,
    unit: int | None = 0,
    *,
    align: str | None = None,
    window: Window = None,
    ax: Any = None,
    axes: Any = None,
) -> Axes:
    """Draw a mark per spike, with a row per trial; unobserved time is hatched.

    A real-valued signal, which has no spikes, raises ValueError.

    Parameters
    ----------
    spikes : SpikeTrains or BinnedSpikes
        Spike trains are drawn to the millisecond, binned spikes in the middle of their bin, darker
        for more spikes.
    unit : int or None
        Position of the unit; None for all units, each with a block of rows.
    align : str, optional
        Column of the trials table that time is relative to (spike trains only).
    window : (float, float), optional
        Start and stop relative to the alignment, in seconds (spike trains only).
    ax, axes : Axes, optional
        Where to draw.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> counts = BinnedSpikes.from_array([[0, 1, 0, 1], [1, 0, 0, 0]], bin_size=0.01)
    >>> raster(counts).get_ylabel()
    'trial'
    """
    style.check_type("spikes", spikes, SpikeTrains, BinnedSpikes)
    if unit is not None:
        style.check_position("unit", unit, spikes.n_units)
    if isinstance(spikes, SpikeTrains):
        ids = None if unit is None else [spikes.unit_ids[unit]]
        size = _bin_size(spikes, window)
        counts = spikes.bin(size, align=align, window=window, units=ids)
    elif not spikes.is_counts:
        raise ValueError("`spikes` must be counts; a real-valued signal has no spikes to draw")
    elif align is not None or window is not None:
        raise ValueError("`align` and `window` need SpikeTrains; binned spikes are aligned already")
    else:
        counts = spikes if unit is None else spikes.select(units=[unit])
    height = float(np.clip(1.2 + 0.02 * len(counts) * counts.n_units, 2.4, 9))
    panel = style.panel(ax, axes, (style.PAGE, height))
    draw_raster(panel, counts)
    panel.set_xlabel(style.time_label(counts.bin_size))
    return panel


@style.styled
def rate(
    source: Decomposition | BinnedSpikes,
    unit: int = 0,
    *,
    spikes: SpikeTrains | BinnedSpikes | None = None,
    ax: Any = None,
    axes: Any = None,
) -> np.ndarray:
    """Draw the raster of a unit, and below it the histogram of its spikes with the fitted rate.

    Histogram and rate are means over the observed trials. Neighbouring bins are averaged, data and
    fit alike, if bins hold fewer than two spikes on average or there are more than 800; the legend
    then gives the width of the drawn bins. Events lie within their windows, so that the fit returns
    to the baseline at both edges, also where the data do not.

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
    ax, axes : array of Axes, optional
        Two axes (raster, rate), or one for the rate alone; the same is returned.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> counts = BinnedSpikes.from_array([[0, 2, 0, 3], [2, 0, 0, 2]], bin_size=0.01)
    >>> trials, histogram = rate(counts)
    >>> histogram.get_xlabel(), histogram.get_ylabel()
    ('time (s)', 'rate (Hz)')
    """
    style.check_position("unit", unit, style.counts_of(source).n_units)
    rates = rates_of(source, [unit])
    trials, given = _single_trials(rates.counts, 0, spikes), style.given_axes(ax, axes)
    if given is not None and given.size == 1:
        trials = None
    heights = panel_heights(trials, 1.7)
    size, layout = (style.PAGE, 0.6 + sum(heights)), {"sharex": True, "height_ratios": heights}
    grid = style.axes_array(given, (len(heights), 1), size, **layout)[:, 0]
    draw_unit(grid, rates, 0, trials, merged_bins(rates, [0]))
    style.legend_above(grid[-1])
    return grid


@style.styled
def rates_figure(
    source: Decomposition | BinnedSpikes,
    spikes: SpikeTrains | BinnedSpikes | None = None,
    max_units: int | None = None,
    window: Window = None,
) -> Figure:
    """Draw `rate` for the first units, as a new figure.

    In windows of more than 100 times the length of a template, where the shape of an event could
    not be seen, the stretch of 20 times its length with most events is drawn. The title says so.

    Parameters
    ----------
    source, spikes
        As for `rate`.
    max_units : int, optional
        Largest number of units to draw; the title says if there are more.  None: 9, or 4 where
        windows have more than 1000 bins, so that each takes the width of the page.
    window : (float, float), optional
        Start and stop of the stretch to draw, in seconds; ``(-inf, inf)`` for all.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> counts = BinnedSpikes.from_array(np.ones((1, 12, 100), dtype=int), bin_size=0.01)
    >>> rates_figure(counts, max_units=4).get_suptitle()
    'first 4 of 12 units'
    """
    whole = style.counts_of(source)
    most = 9 if max_units is None else max_units
    start, stop, about = stretch(source, window, range(min(whole.n_units, most)))
    wide = stop - start > 1000
    most = 4 if wide and max_units is None else most
    shown = range(min(whole.n_units, most))
    rates = rates_of(source, shown).cut(start, stop)
    if isinstance(spikes, BinnedSpikes) and spikes.n_bins == whole.n_bins:
        spikes = spikes.select(bins=slice(start, stop))
    columns = 1 if wide else min(len(shown), 3)
    blocks = -(-len(shown) // columns)  # rows of units
    sources = [_single_trials(rates.counts, unit, spikes) for unit in shown]
    merge = merged_bins(rates, shown)
    heights = panel_heights(sources[0], 1.7 if blocks == 1 else 1.2)
    rows = len(heights)
    size = (style.PAGE, 0.4 + (0.6 + sum(heights)) * blocks)
    layout = {"sharex": "col", "height_ratios": heights * blocks}
    grid = style.axes_array(None, (blocks * rows, columns), size, **layout)
    panels = grid.reshape(blocks, rows, columns).swapaxes(1, 2).reshape(-1, rows)
    for unit, axes, trials in zip(shown, panels, sources, strict=False):
        draw_unit(axes, rates, unit, trials, merge)
        style.time_axis(axes[-1], rates.counts)
    for spare in panels[len(shown) :].ravel():
        spare.remove()
    figure = style.legend_outside(grid[-1, 0])
    style.title_above(figure, style.left_out(len(shown), whole.n_units), about)
    return figure


class Rates(NamedTuple):
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

    def cut(self, start: int, stop: int) -> Rates:
        """Return the bins from ``start`` to ``stop``."""
        fit = None if self.fit is None else self.fit[..., start:stop]
        counts = self.counts.select(bins=slice(start, stop))
        return self._replace(counts=counts, data=self.data[..., start:stop], fit=fit)

    def around(
        self, trial: np.ndarray, first: np.ndarray, span: tuple[int, int], names: Any = None
    ) -> Rates:
        """Return windows of the first unit, from ``span[0]`` to ``span[1]`` bins after each bin.

        Each is a trial, with its name or number.
        """
        old, bins = self.counts, first[:, None] + np.arange(*span)
        at = trial[:, None], 0, np.clip(bins, 0, old.n_bins - 1)
        mask = old.mask[at] & (bins >= 0) & (bins < old.n_bins)

        def taken(values: np.ndarray | None, outside: float = np.nan) -> Any:
            return None if values is None else np.where(mask, values[at], outside)[:, None]

        counts = BinnedSpikes(
            counts=taken(old.counts, 0),
            mask=mask[:, None],
            bin_size=old.bin_size,
            t_start=span[0] * old.bin_size,
            unit_ids=old.unit_ids[:1],
            trial_ids=tuple(range(len(trial)) if names is None else names.tolist()),
            n_pooled=taken(old.n_pooled, 0),
            sub_bins=old.sub_bins,
            trial_starts=np.full(len(trial), np.nan),
        )
        baseline = None if self.baseline is None else self.baseline[trial, :1]
        more = {"data": taken(self.data), "fit": taken(self.fit), "baseline": baseline}
        return self._replace(counts=counts, **more)


def stretch(
    source: Decomposition | BinnedSpikes,
    window: Window,
    units: Sequence[int],
    trials: slice = slice(None),
) -> tuple[int, int, str]:
    """Return the first bin to draw and the one after the last, and what to say about them.

    That is all bins or, in long windows, those with most events of the units.
    """
    counts = style.counts_of(source)
    unit_of_time = "bins" if style.in_bins(counts.bin_size) else "s"
    if window is not None:
        edges, slack = style.edges(counts), 1e-6 * counts.bin_size
        shown = np.flatnonzero((edges[1:] > window[0] + slack) & (edges[:-1] < window[1] - slack))
        if not len(shown):
            raise ValueError(
                f"`window` (={tuple(window)!r}) must hold bins, which are from {edges[0]:g} to "
                f"{edges[-1]:g} {unit_of_time}"
            )
        return int(shown[0]), int(shown[-1]) + 1, ""
    if not isinstance(source, Decomposition):
        return 0, counts.n_bins, ""
    length = source.templates.shape[2]
    if counts.n_bins <= 100 * length:
        return 0, counts.n_bins, ""
    chosen = [0] if source.layout == "joint" else list(units)
    n_bins = 20 * length
    start = busiest(source.codes[trials, chosen], n_bins - length + 1)
    part, whole = (f"{n * counts.bin_size:.4g} {unit_of_time}" for n in (n_bins, counts.n_bins))
    return start, start + n_bins, f"the {part} of {whole} with most events"


def busiest(codes: np.ndarray, n_onsets: int) -> int:
    """Return the first of ``n_onsets`` successive onsets with most events; onsets come last."""
    before = np.append(0, np.cumsum(np.count_nonzero(codes, axis=(0, 1, 2))))
    return int((before[n_onsets:] - before[:-n_onsets]).argmax())


def rates_of(source: Decomposition | BinnedSpikes, units: Any = slice(None)) -> Rates:
    """Return rates of some units in Hz (in spikes per bin for plain arrays), or their signal."""
    if isinstance(source, BinnedSpikes):
        widest, some = max(1, source.n_bins // 60), source.select(units=units)
        return Rates(some, some.rate(), None, None, not some.is_counts, widest)
    counts, is_signal = source.counts.select(units=units), not source.family.integer_valued
    data = counts.rate()
    if is_signal and counts.is_counts:  # a signal of whole numbers
        data = data * counts.bin_size
    widest = max(1, source.templates.shape[2] // 4)  # so that the shape of templates shows
    fit = source.of_units("rate", units)
    return Rates(counts, data, fit, source.baseline[:, units], is_signal, widest)


def _bin_size(spikes: SpikeTrains, window: Window) -> float:
    """Return one millisecond, or more in windows so long that they would have too many bins."""
    if window is not None:
        duration = window[1] - window[0]
    elif spikes.trials is not None:
        duration = float((spikes.trials["stop_time"] - spikes.trials["start_time"]).max())
    else:
        duration = spikes.t_stop - spikes.t_start
    return max(1, round(1000 * duration / 50_000)) / 1000


def _single_trials(
    counts: BinnedSpikes, unit: int, spikes: SpikeTrains | BinnedSpikes | None
) -> BinnedSpikes | None:
    """Return the counts of one unit in single trials, from ``spikes`` if given; None if unknown."""
    import pandas as pd

    if spikes is None:
        single = counts.is_counts and counts.n_pooled.max(initial=0) <= 1
        return counts.select(units=[unit]) if single else None
    style.check_type("spikes", spikes, SpikeTrains, BinnedSpikes)
    label = counts.unit_ids[unit]
    if label not in spikes.unit_ids:
        raise ValueError(f"`spikes` has no unit {label!r}; it has {list(spikes.unit_ids)}")
    if isinstance(spikes, BinnedSpikes):
        return spikes.select(units=[spikes.unit_ids.index(label)])
    starts = counts.trial_starts
    if not np.isfinite(starts).all():
        raise ValueError(
            "`spikes` cannot be aligned to counts without trial starts; give the BinnedSpikes from "
            "before pooling"
        )
    windows = pd.DataFrame(
        {"start_time": starts, "stop_time": starts + counts.duration}, index=list(counts.trial_ids)
    )
    aligned = replace(spikes, intervals={"windows": windows})
    fine = aligned.bin(min(0.001, counts.bin_size), units=[label], table="windows")
    return replace(fine, t_start=counts.t_start)


def draw_raster(ax: Axes, counts: BinnedSpikes) -> None:
    """Draw a row per trial and unit, a signal as an image, without a label of time."""
    trials, units, _ = counts.shape
    values = counts.counts.swapaxes(0, 1).reshape(trials * units, -1)
    unseen = ~counts.mask.swapaxes(0, 1).reshape(values.shape)
    style.shade(ax, counts, unseen, rows=range(len(values)))
    if counts.is_counts:
        row, at = np.nonzero(values)
        times = counts.times[at] + counts.bin_size / 2
        darkness = 0.5 + 0.5 * values[row, at] / values.max(initial=1)
        width = style.thin(np.count_nonzero(values, axis=1).max(), 0.9)
        ends = row - 0.42, row + 0.42
        style.marks(ax, times, ends, style.INK, darkness, len(values), width)
    else:
        shown, borders = np.ma.array(values, mask=unseen), np.arange(len(values) + 1) - 0.5
        ax.pcolormesh(style.edges(counts), borders, shown, cmap="Greys", rasterized=True)
    style.time_axis(ax, counts)
    if units == 1:
        style.row_axis(ax, counts.trial_ids)
        ax.set_title(style.unit_title(counts.unit_ids[0]))
    else:
        every = -(-units // 12)
        middles = np.arange(0, units, every) * trials + (trials - 1) / 2
        ax.set_yticks(middles, labels=list(map(style.short, counts.unit_ids[::every])))
        ax.set(ylabel="unit", ylim=(trials * units - 0.5, -0.5))
        if trials > 1 and units <= 20:  # lines between more would hide them
            for edge in np.arange(1, units) * trials - 0.5:
                ax.axhline(edge, color=style.DATA, linewidth=0.8)


def panel_heights(trials: BinnedSpikes | None, height: float) -> list[float]:
    """Heights in inches of a raster, if there is one, and of the histogram."""
    return [height] if trials is None else [float(np.clip(0.06 * len(trials), 0.5, 1.5)), height]


def draw_unit(
    axes: np.ndarray, rates: Rates, unit: int, trials: BinnedSpikes | None, merge: int
) -> None:
    """Draw the raster of a unit, if there are ``trials``, and its histogram with the fit."""
    *top, ax = axes
    counts, weight = rates.counts, rates.counts.n_pooled[:, unit]
    if trials is None:
        ax.set_title(style.unit_title(counts.unit_ids[unit]))
    else:
        draw_raster(top[0], trials)
        top[0].tick_params(labelbottom=False)
    starts = np.arange(0, counts.n_bins, merge)
    times = style.edges(counts)[[*starts, -1]]
    label = "data"
    if merge > 1:
        width = f"{merge * counts.bin_size * 1e3:.4g} ms bins"
        label += f" (means of {merge} bins)" if style.in_bins(counts.bin_size) else f" ({width})"
    style.shade(ax, counts, weight.sum(axis=0) == 0)
    bars = _average(rates.data[:, unit], weight, starts)
    ax.stairs(bars, times, label=label, **style.BARS)
    if rates.baseline is not None:
        mean = _average(rates.baseline[:, [unit]], weight.sum(axis=1, keepdims=True))[0]
        style.baseline(ax, mean)
    if rates.fit is not None:
        fit, middle = _average(rates.fit[:, unit], weight, starts), (times[1:] + times[:-1]) / 2
        ax.plot(middle, fit, color=style.INK, marker="" if len(fit) > 1 else "o", label="fit")
    ax.set(ylabel=rates.label, xlabel=style.time_label(counts.bin_size))
    ax.tick_params(labelbottom=True)
    style.time_axis(ax, counts)
    if not rates.is_signal:
        ax.set_ylim(bottom=0)


def merged_bins(rates: Rates, units: Sequence[int]) -> int:
    """Number of bins to average: for two spikes in each of the histogram, and at most 800 bins."""
    counts = rates.counts
    crowded = -(-counts.n_bins // 800)
    if rates.is_signal:
        return crowded
    per_bin = float(np.median(counts.counts[:, units].sum(axis=0).mean(axis=-1)))
    wanted = int(np.ceil(2 / max(per_bin, 1e-9)))
    return max(crowded, min(wanted, rates.widest))


def _average(
    values: np.ndarray, weight: np.ndarray, starts: Sequence[int] | np.ndarray = (0,)
) -> np.ndarray:
    """Weighted mean over trials and over bins from each start to the next; nan without weight."""
    summed = np.add.reduceat(np.where(weight > 0, values * weight, 0).sum(axis=0), starts)
    total = np.add.reduceat(weight.sum(axis=0), starts)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
