"""Codes as events in time, and a trial taken apart into its templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.plots import style
from spikecdl.plots.rates import rates_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spikecdl.data import BinnedSpikes, Decomposition

_MOST_PANELS = 6
_FEW_SPIKES = 3  # in one bin; more are not marks but a histogram


@style.styled
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
    TypeError
        If ``decomposition`` is something else.
    ValueError
        If a unit does not exist or the number of axes is wrong.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(0.2, size=(10, 100))
    >>> counts[:, 20:25] += 2
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> (ax,) = codes(model.decompose(counts))
    >>> ax.get_title(loc="left")
    'unit 0 · tallest stem ...'
    """
    _check(decomposition)
    counts = decomposition.counts
    shown = _panels(decomposition, units)
    trials = len(counts)
    columns = min(len(shown), 3 if trials > 1 else 1)
    height = 1.7 if trials == 1 else float(np.clip(1.2 + 0.09 * trials, 2.2, 7))
    width = 7.2 if columns == 1 else 3.7 * columns
    grid = style.wrapped(axes, len(shown), columns, (width, height), sharex=True)
    for place, (ax, unit) in enumerate(zip(grid, shown, strict=True)):
        _draw_codes(ax, decomposition, unit)
        if place + columns >= len(shown) or axes is not None:
            ax.set_xlabel(style.time_label(counts.bin_size))
    if axes is None:
        _name_templates(grid[0].figure, len(decomposition.templates))
        if units is None and decomposition.layout == "shared":
            style.say_left_out(grid[0].figure, len(shown), counts.n_units)
    return grid


def _check(decomposition: Decomposition) -> None:
    """Raise unless it is one."""
    from spikecdl.data import Decomposition

    style.check_type("decomposition", decomposition, Decomposition)


def _panels(decomposition: Decomposition, units: Sequence[int] | None) -> list[int]:
    """Positions on the axis of units of the codes to draw, a panel each."""
    n_units = decomposition.counts.n_units
    if decomposition.layout == "joint":
        return [0]
    if units is None:
        return list(range(min(n_units, _MOST_PANELS)))
    return [style.check_position("units", unit, n_units) for unit in units]


def _draw_codes(ax: Axes, decomposition: Decomposition, unit: int) -> None:
    """Stems of one unit's events (of all units in the joint layout)."""
    counts = decomposition.counts
    joint = decomposition.layout == "joint"
    seen = np.any(counts.mask if joint else counts.mask[:, [unit]], axis=1)
    values = decomposition.codes[:, unit]
    title = "all units" if joint else style.unit_title(counts.unit_ids[unit])
    tallest = float(np.abs(values).max())
    if not tallest:
        ax.text(0.5, 0.5, "no events", transform=ax.transAxes, ha="center", color=style.MUTED)
    if len(values) == 1:
        base, scale = np.arange(1.0), 1.0
        style.shade(ax, counts, ~seen[0])
        ax.axhline(0, color=style.MUTED, linewidth=0.8)
        low, high = 1.1 * min(0.0, float(values.min())), 1.1 * max(0.0, float(values.max()))
        ax.set(ylabel="amplitude", ylim=(low, high if tallest else 1.0))
    else:
        two_sided = values.min() < 0
        base = np.arange(0.0, len(values)) + (0.0 if two_sided else 0.42)
        scale = -(0.42 if two_sided else 0.84) / (tallest or 1.0)
        style.shade(ax, counts, ~seen, rows=range(len(values)))
        style.row_axis(ax, counts.trial_ids)
        title += f" · tallest stem {tallest:.3g}" if tallest else ""
    ax.set_title(title)
    _stems(ax, counts.times, values, base, scale)
    style.time_axis(ax, counts, ticks=8 if len(values) == 1 else 5)
    style.tidy(ax)


def _stems(ax: Axes, times: np.ndarray, values: np.ndarray, base: np.ndarray, scale: float) -> None:
    """Draw codes (trial, template, bin) from the height ``base`` of their trial."""
    crowd = int(np.count_nonzero(values, axis=(1, 2)).max())
    for number in range(values.shape[1]):
        trial, at = np.nonzero(values[:, number])
        if not len(at):  # an empty line that is not clipped would lie at the figure's corner
            continue
        tip = base[trial] + scale * values[trial, number, at]
        shade = style.colour(number)
        ax.vlines(times[at], base[trial], tip, color=shade, linewidth=style.thin(crowd, 1.3))
        if len(values) == 1:
            size = style.thin(crowd, 4.5)
            ax.plot(times[at], tip, "o", color=shade, markersize=size, clip_on=False)


def _name_templates(figure: Figure, count: int) -> None:
    """Name the templates at the top of a new figure."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=style.colour(k), label=f"template {k}") for k in range(count)]
    columns = min(count, max(1, int(figure.get_figwidth() / 1.2)))
    figure.legend(handles=lines, loc="outside upper right", ncols=columns)


@style.styled
def decomposition(
    decomposition: Decomposition, trial: int = 0, unit: int = 0, *, axes: Any = None
) -> np.ndarray:
    """Draw one window's counts and fitted rate, and below what each template adds to eta.

    Triangles mark the onsets of events.

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
    TypeError
        If ``decomposition`` is something else.
    ValueError
        If the window does not exist or the number of axes is wrong.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(0.2, size=(10, 100))
    >>> counts[:, 20:25] += 2
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> rate, *parts = decomposition(model.decompose(counts), trial=3)
    >>> rate.get_ylabel(), parts[0].get_ylabel()
    ('spikes per bin', 'log rate')
    """
    _check(decomposition)
    count, counts = len(decomposition.templates), decomposition.counts
    style.check_position("trial", trial, len(counts))
    style.check_position("unit", unit, counts.n_units)
    size, ratios = (7.2, 2.1 + 0.95 * count), [2.2, *[1] * count]
    grid = style.axes_array(axes, (1 + count, 1), size, sharex=True, height_ratios=ratios)[:, 0]
    _draw_window(grid[0], decomposition, trial, unit)
    name = style.unit_title(counts.unit_ids[unit])
    grid[0].set_title(f"{name} · trial {style.short(counts.trial_ids[trial])}")
    style.legend_above(grid[0])
    added = decomposition.contributions[trial, unit]
    events = decomposition.codes[trial, 0 if decomposition.layout == "joint" else unit]
    low, high = min(0.0, added.min(initial=0)), max(0.0, added.max(initial=0))
    margin = 0.12 * ((high - low) or 1.0)
    for number, ax in enumerate(grid[1:]):
        style.shade(ax, counts, ~counts.mask[trial, unit])
        _draw_part(ax, counts, added[number], events[number], style.colour(number))
        ax.set_title(f"added by template {number}", fontsize=8.5, pad=3)
        ax.set(ylabel=decomposition.family.eta_name, ylim=(low - margin, high + margin))
    grid[-1].set_xlabel(style.time_label(counts.bin_size))
    return grid


def _draw_part(
    ax: Axes, counts: BinnedSpikes, added: np.ndarray, events: np.ndarray, shade: str
) -> None:
    """Draw what one template adds to eta, and where its events begin."""
    from matplotlib.ticker import MaxNLocator

    middle = counts.times + counts.bin_size / 2
    ax.axhline(0, color=style.DATA, linewidth=0.8, zorder=1)
    ax.fill_between(middle, added, color=shade, alpha=0.25, linewidth=0)
    ax.plot(middle, added, color=shade, marker="o" if len(middle) == 1 else "")
    onsets = counts.times[np.flatnonzero(events)]
    size = style.thin(len(onsets), 4.5)
    ax.plot(onsets, np.zeros(len(onsets)), "^", color=shade, markersize=size, zorder=3)
    ax.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    style.tidy(ax)


def _draw_window(ax: Axes, decomposition: Decomposition, trial: int, unit: int) -> None:
    """Fitted rate over the counts: single spikes as marks at the top, else as a histogram."""
    rates = rates_of(decomposition)
    counts = rates.counts
    middle = counts.times + counts.bin_size / 2
    fit = decomposition.rate[trial, unit]
    style.shade(ax, counts, ~counts.mask[trial, unit])
    spikes = counts.counts[trial, unit]
    single = not rates.is_signal and counts.n_pooled[trial, unit].max() <= 1
    sparse = single and spikes.max() <= _FEW_SPIKES
    if not sparse:
        style.histogram(ax, rates.data[trial, unit], style.edges(counts), "data")
    style.baseline(ax, decomposition.baseline[trial, unit])
    ax.plot(middle, fit, color=style.INK, label="fit", marker="o" if len(fit) == 1 else "")
    if not rates.is_signal:
        top = ax.get_ylim()[1]
        ax.set_ylim(0, 1.25 * top if sparse else top)
    if sparse:
        _mark_spikes(ax, middle, spikes)
    ax.set_ylabel(rates.label)
    style.time_axis(ax, counts)
    style.tidy(ax)


def _mark_spikes(ax: Axes, times: np.ndarray, spikes: np.ndarray) -> None:
    """Draw marks along the top, longer for more spikes in a bin."""
    at = np.flatnonzero(spikes)
    sizes = 90.0 * (0.5 + 0.5 * spikes[at] / spikes.max(initial=1)) ** 2
    ax.scatter(
        times[at],
        np.full(len(at), 0.93),
        sizes,
        style.INK,
        marker="|",
        linewidths=style.thin(len(at), 0.9),
        transform=ax.get_xaxis_transform(),
        label="spikes",
    )
