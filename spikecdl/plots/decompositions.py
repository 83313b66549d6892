"""Codes as events in time, and one window with what each template adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import Decomposition
from spikecdl.plots import style
from spikecdl.plots.rates import rates_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@style.styled
def codes(
    decomposition: Decomposition,
    *,
    units: Sequence[int] | None = None,
    ax: Any = None,
    axes: Any = None,
) -> np.ndarray:
    """Draw events as stems at their onsets, with a panel per unit and a row per trial.

    The height of a stem is the amplitude of the event; improbable events are pale, if the events
    have probabilities. With several trials, the tallest stem of a panel fills its row, and the
    title gives its amplitude.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    units : sequence of int, optional
        Positions of the units. Default: the first six. The joint layout has one panel for all.
    ax, axes : array of Axes, shape (unit,), optional
        Where to draw; (1,) in the joint layout.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> (ax,) = codes(model.decompose(counts))
    >>> ax.get_title(loc="left")
    'unit 0 · tallest stem ...'
    """
    style.check_type("decomposition", decomposition, Decomposition)
    counts, trials = decomposition.counts, len(decomposition.counts)
    joint = decomposition.layout == "joint"
    shown = [0] if joint else style.shown_units(units, counts.n_units, most=6)
    columns = min(len(shown), 3 if trials > 1 else 1)
    height = 1.7 if trials == 1 else float(np.clip(1.2 + 0.09 * trials, 2.2, 7))
    given = style.given_axes(ax, axes)
    size = (style.PAGE, height)
    grid = style.wrapped(given, len(shown), columns, size, sharex=True)
    opacity = np.ones(decomposition.codes.shape, np.float32)
    if decomposition.certainty is not None:
        probability = decomposition.events()["probability"].to_numpy()
        opacity[decomposition.codes != 0] = 0.15 + 0.85 * probability
    for panel, unit in zip(grid, shown, strict=True):
        _draw_codes(panel, decomposition, unit, opacity[:, unit])
        panel.set_xlabel(style.time_label(counts.bin_size))
    if given is None:
        figure = grid[0].figure
        style.label_outer(grid, columns, every_ylabel=True)
        style.legend_of_templates(figure, len(decomposition.templates))
        if units is None and not joint:
            style.title_above(figure, style.left_out(len(shown), counts.n_units))
    return grid


@style.styled
def decomposition(
    decomposition: Decomposition, trial: int = 0, unit: int = 0, *, ax: Any = None, axes: Any = None
) -> np.ndarray:
    """Draw the counts and fitted rate of one window, and below what each template adds to eta.

    Triangles mark the onsets of events.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    trial, unit : int
        Positions of the window.
    ax, axes : array of Axes, shape (1 + template,), optional
        Where to draw the rate and what each template adds.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> rate, *added = decomposition(model.decompose(counts), trial=3)
    >>> rate.get_ylabel(), added[0].get_ylabel()
    ('spikes per bin', 'log rate')
    """
    from matplotlib.ticker import MaxNLocator

    style.check_type("decomposition", decomposition, Decomposition)
    n_templates, counts = len(decomposition.templates), decomposition.counts
    style.check_position("trial", trial, len(counts))
    style.check_position("unit", unit, counts.n_units)
    size, ratios = (style.PAGE, 1.9 + 0.85 * n_templates), [2.2, *[1] * n_templates]
    layout, given = {"sharex": True, "height_ratios": ratios}, style.given_axes(ax, axes)
    grid = style.axes_array(given, (1 + n_templates, 1), size, **layout)[:, 0]
    _draw_window(grid[0], decomposition, trial, unit)
    added = decomposition.of_units("contributions", [unit])[trial, 0]
    events = decomposition.codes[trial, 0 if decomposition.layout == "joint" else unit]
    low, high = min(0.0, added.min(initial=0)), max(0.0, added.max(initial=0))
    margin = 0.12 * ((high - low) or 1.0)
    middle, marker = counts.times + counts.bin_size / 2, "o" if counts.n_bins == 1 else ""
    for k, panel in enumerate(grid[1:]):
        onsets, colour = counts.times[np.flatnonzero(events[k])], style.colour(k)
        style.shade(panel, counts, ~counts.mask[trial, unit])
        panel.axhline(0, color=style.DATA, linewidth=0.8, zorder=1)
        panel.fill_between(middle, added[k], color=colour, alpha=0.25, linewidth=0)
        panel.plot(middle, added[k], color=colour, marker=marker)
        width = style.thin(len(onsets), 4.5)
        panel.plot(onsets, np.zeros(len(onsets)), "^", color=colour, markersize=width, zorder=3)
        panel.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        style.tidy(panel)
        panel.set_title(f"added by template {k}", pad=3)
        panel.set(ylabel=decomposition.family.eta_name, ylim=(low - margin, high + margin))
    grid[-1].set_xlabel(style.time_label(counts.bin_size))
    return grid


def _draw_codes(ax: Axes, decomposition: Decomposition, unit: int, opacity: np.ndarray) -> None:
    """Draw the events of one unit (of all units in the joint layout)."""
    from matplotlib.colors import to_rgba_array

    counts = decomposition.counts
    joint = decomposition.layout == "joint"
    seen = np.any(counts.mask if joint else counts.mask[:, [unit]], axis=1)
    values = decomposition.codes[:, unit]
    title = "all units" if joint else style.unit_title(counts.unit_ids[unit])
    tallest = float(np.abs(values).max())
    if not tallest:
        style.say_why_empty(ax, "no events")
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
    most = int(np.count_nonzero(values, axis=(1, 2)).max())
    for k in range(values.shape[1]):
        trial, onset = np.nonzero(values[:, k])
        if not len(onset):  # an empty line that is not clipped would spoil the layout
            continue
        times, colour = counts.times[onset], style.colour(k)
        shades = to_rgba_array(colour, opacity[trial, k, onset])
        tip = base[trial] + scale * values[trial, k, onset]
        ax.vlines(times, base[trial], tip, colors=shades, linewidth=style.thin(most, 1.3))
        if len(values) == 1:
            size = style.thin(most, 4.5)
            ax.scatter(times, tip, size**2, shades, clip_on=False)
    style.time_axis(ax, counts)
    style.tidy(ax)


def _draw_window(ax: Axes, decomposition: Decomposition, trial: int, unit: int) -> None:
    """Draw the fitted rate over the counts: up to three spikes in a bin as marks, else bars."""
    rates = rates_of(decomposition, [unit])
    counts, baseline, unit = rates.counts, decomposition.baseline[trial, unit], 0
    middle = counts.times + counts.bin_size / 2
    assert rates.fit is not None
    fit = rates.fit[trial, unit]
    style.shade(ax, counts, ~counts.mask[trial, unit])
    spikes = counts.counts[trial, unit]
    single = not rates.is_signal and counts.n_pooled[trial, unit].max() <= 1
    sparse = single and spikes.max() <= 3
    if not sparse:
        ax.stairs(rates.data[trial, unit], style.edges(counts), label="data", **style.BARS)
    style.baseline(ax, baseline)
    ax.plot(middle, fit, color=style.INK, label="fit", marker="o" if len(fit) == 1 else "")
    if not rates.is_signal:
        top = ax.get_ylim()[1]
        ax.set_ylim(0, 1.25 * top if sparse else top)
    if sparse:  # longer marks for more spikes in a bin
        at = np.flatnonzero(spikes)
        sizes = 90.0 * (0.5 + 0.5 * spikes[at] / spikes.max(initial=1)) ** 2
        look: dict[str, Any] = {"marker": "|", "linewidths": style.thin(len(at), 0.9)}
        look |= {"transform": ax.get_xaxis_transform(), "label": "spikes"}
        ax.scatter(middle[at], np.full(len(at), 0.93), sizes, style.INK, **look)
    ax.set_ylabel(rates.label)
    style.time_axis(ax, counts)
    style.tidy(ax)
    name = style.unit_title(counts.unit_ids[unit])
    ax.set_title(f"{name} · trial {style.short(counts.trial_ids[trial])}")
    style.legend_above(ax)
