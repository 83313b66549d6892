"""Rasters: a mark per spike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spikecdl.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spikecdl.data import BinnedSpikes, SpikeTrains

_FINEST = 1e-3  # bins in which spike trains are drawn, in seconds
_MOST_BINS = 50_000  # of a window; far more than pixels
_MANY_UNITS = 20  # more are drawn without lines between them


@style.styled
def raster(
    spikes: SpikeTrains | BinnedSpikes,
    unit: int | None = 0,
    *,
    align: str | None = None,
    window: tuple[float, float] | None = None,
    ax: Axes | None = None,
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
    ax : Axes, optional
        Where to draw.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> counts = BinnedSpikes.from_array([[0, 1, 0, 1], [1, 0, 0, 0]], bin_size=0.01)
    >>> raster(counts).get_ylabel()
    'trial'
    """
    counts = _binned(spikes, unit, align, window)
    height = float(np.clip(1.2 + 0.02 * len(counts) * counts.n_units, 2.4, 9))
    panel = style.axes_array(ax, (1, 1), (7.2, height))[0, 0]
    draw_raster(panel, counts)
    panel.set_xlabel(style.time_label(counts.bin_size))
    return panel


def _binned(
    spikes: SpikeTrains | BinnedSpikes,
    unit: int | None,
    align: str | None,
    window: tuple[float, float] | None,
) -> BinnedSpikes:
    """Return the counts of one unit or of all, in fine bins if they are of spike trains."""
    from spikecdl.data import BinnedSpikes, SpikeTrains

    style.check_type("spikes", spikes, SpikeTrains, BinnedSpikes)
    if unit is not None:
        style.check_position("unit", unit, spikes.n_units)
    if isinstance(spikes, SpikeTrains):
        ids = None if unit is None else [spikes.unit_ids[unit]]
        return spikes.bin(_bin_size(spikes, window), align=align, window=window, units=ids)
    if not spikes.is_counts:
        raise ValueError("`spikes` must be counts; a real-valued signal has no spikes to draw")
    if align is not None or window is not None:
        raise ValueError("`align` and `window` need SpikeTrains; binned spikes are aligned already")
    return spikes if unit is None else spikes.select(units=[unit])


def _bin_size(spikes: SpikeTrains, window: tuple[float, float] | None) -> float:
    """Return one millisecond, or more in windows so long that they would have too many bins."""
    if window is not None:
        duration = window[1] - window[0]
    elif spikes.trials is not None:
        duration = float((spikes.trials["stop_time"] - spikes.trials["start_time"]).max())
    else:
        duration = spikes.t_stop - spikes.t_start
    return _FINEST * max(1, round(duration / _FINEST / _MOST_BINS))


def single_trials(
    counts: BinnedSpikes, unit: int, spikes: SpikeTrains | BinnedSpikes | None
) -> BinnedSpikes | None:
    """Return the counts of one unit in single trials, from ``spikes`` if given; None if unknown."""
    import pandas as pd

    from spikecdl.data import BinnedSpikes, SpikeTrains

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
    bin_size = min(_FINEST, counts.bin_size)
    fine = aligned.bin(bin_size, units=[label], table="windows")
    return replace(fine, t_start=counts.t_start)


def draw_raster(ax: Axes, counts: BinnedSpikes) -> None:
    """Draw a row per trial and unit, without a label of time."""
    trials, units, _ = counts.shape
    values = counts.counts.swapaxes(0, 1).reshape(trials * units, -1)
    unseen = ~counts.mask.swapaxes(0, 1).reshape(values.shape)
    style.shade(ax, counts, unseen, rows=range(len(values)))
    row, at = np.nonzero(values)
    times = counts.times[at] + counts.bin_size / 2
    darkness = 0.5 + 0.5 * values[row, at] / values.max(initial=1)
    width = style.thin(np.count_nonzero(values, axis=1).max(), 0.9)
    colours = [(0.13, 0.13, 0.13, tone) for tone in darkness]
    ax.vlines(times, row - 0.42, row + 0.42, colors=colours, linewidth=width)
    style.time_axis(ax, counts)
    if units == 1:
        style.row_axis(ax, counts.trial_ids)
        ax.set_title(style.unit_title(counts.unit_ids[0]))
    else:
        _label_units(ax, counts)
    style.tidy(ax)


def _label_units(ax: Axes, counts: BinnedSpikes) -> None:
    """Label the blocks of several units, and draw lines between them."""
    trials, units, _ = counts.shape
    every = -(-units // 12)
    middles = np.arange(0, units, every) * trials + (trials - 1) / 2
    ax.set_yticks(middles, labels=[style.short(name) for name in counts.unit_ids[::every]])
    ax.set(ylabel="unit", ylim=(trials * units - 0.5, -0.5))
    if trials > 1 and units <= _MANY_UNITS:
        for row in np.arange(1, units) * trials - 0.5:
            ax.axhline(row, color=style.DATA, linewidth=0.8)
