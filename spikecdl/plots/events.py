"""Events in time, the spikes around them, and those of a population sorted by its templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl import validation
from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.plots import rates, style
from spikecdl.plots.style import Units, Window

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns of the table of events.
_COLUMNS = {"onset": "time", "response": "response_time", "peak": "peak_time"}
#: What a figure of events in single trials says.
_EXCESS = (
    "Data may exceed the fit: events are placed where spikes\n"
    "happen to be, and the fit averages over possible places."
)
_ORDERS = ("amplitude", "probability", "time")


@style.styled
def codes(
    decomposition: Decomposition, *, units: Units = None, ax: Any = None, axes: Any = None
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
    grid = style.wrapped(given, len(shown), columns, (style.PAGE, height), sharex=True)
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
def event_raster(
    decomposition: Decomposition,
    template: int = 0,
    unit: int = 0,
    *,
    align: str = "onset",
    sort: str = "amplitude",
    window: Window = None,
    spikes: BinnedSpikes | None = None,
    ax: Any = None,
    axes: Any = None,
) -> np.ndarray:
    """Draw the spikes of a unit around the events of a template, a row each, and their histogram.

    Events are those of the unit, or of the population in the joint layout. Below the raster are the
    mean rate around the events (PSTH), the mean of the fitted rate there, and the baseline. Time
    outside the trial is hatched like other unobserved time. Bins are averaged as in `rate`.

    In single trials, the data may exceed the fit where events are largest, also under the right
    model: events are placed where spikes happen to be, and the fit averages over all the places
    where each event may be, and over whether there is one.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    template, unit : int
        Positions of the template and the unit.
    align : {"onset", "response", "peak"}
        Time zero: where the template begins, where its response does, or where it is largest (see
        `Decomposition.events`).
    sort : {"amplitude", "probability", "time"}
        Order of the rows: the largest or most probable event on top, or the first one.
        Probabilities raise ValueError if the decomposition has none.
    window : (float, float), optional
        Start and stop relative to time zero, in seconds. Default: from half the length of a
        template before to one and a half after it.
    spikes : BinnedSpikes, optional
        Single trials of counts that are pooled: each event then has a row for each of them.
    ax, axes : array of Axes, optional
        Two axes (raster, rate), or one for the rate alone; the same is returned.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> above, below = event_raster(model.decompose(counts))
    >>> above.get_ylabel(), below.get_xlabel()
    ('event', 'time from onset (bins)')
    """
    style.check_type("decomposition", decomposition, Decomposition)
    validation.one_of("align", align, _COLUMNS)
    validation.one_of("sort", sort, _ORDERS)
    if spikes is not None:
        style.check_type("spikes", spikes, BinnedSpikes)
    style.check_position("template", template, len(decomposition.templates))
    style.check_position("unit", unit, decomposition.counts.n_units)
    given = style.given_axes(ax, axes)
    heights = [1.5, 1.2] if given is None or given.size > 1 else [1.2]
    size, layout = (style.COLUMN, 0.6 + sum(heights)), {"sharex": True, "height_ratios": heights}
    grid = style.axes_array(given, (len(heights), 1), size, **layout)[:, 0]
    trial, first, bins = _windows(decomposition, template, unit, align, sort, window)
    _draw(grid, decomposition, unit, trial, first, bins, spikes)
    for panel in grid:
        panel.axvline(0, color=style.colour(template), linewidth=1.2, zorder=1.9)
    about = validation.counted(len(trial), "event")
    name = style.unit_title(decomposition.counts.unit_ids[unit])
    grid[0].set_title(f"{name} · template {template} · {about}")
    grid[-1].set_xlabel(style.time_label(decomposition.counts.bin_size, align))
    if given is None and len(trial):
        style.legend_above(grid[-1])
    return grid


@style.styled
def event_figure(decomposition: Decomposition, spikes: BinnedSpikes | None = None) -> Figure:
    """Draw `event_raster` for the first three templates, and the three units of most events.

    In the joint layout, they are the units in which the template is largest.

    Parameters
    ----------
    decomposition, spikes
        As for `event_raster`.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> len(event_figure(model.decompose(counts)).axes)
    2
    """
    style.check_type("decomposition", decomposition, Decomposition)
    n_templates = min(len(decomposition.templates), 3)
    n_units = min(decomposition.counts.n_units, 3)
    heights = [0.9, 0.9] if n_units > 1 else [1.4, 1.2]
    size = (style.PAGE if n_templates > 1 else style.COLUMN, 0.5 + n_units * (0.7 + sum(heights)))
    layout = {"height_ratios": heights * n_units, "sharex": True}
    grid = style.axes_array(None, (2 * n_units, n_templates), size, **layout)
    for template in range(n_templates):
        for row, unit in enumerate(_units_of(decomposition, template)[:n_units]):
            pair = grid[2 * row : 2 * row + 2, template]
            event_raster(decomposition, template, unit, spikes=spikes, axes=pair)
            pair[0].tick_params(labelbottom=False)
    style.label_outer(grid.ravel(), n_templates)
    figure = grid[0, 0].figure
    handles, labels = grid[1, 0].get_legend_handles_labels()
    names = [label.partition(" (")[0] for label in labels]  # panels have bins of their own
    single = decomposition.certainty is not None and decomposition.counts.n_pooled.max() <= 1
    look = {"ncols": max(len(handles), 1), "title": _EXCESS if single and handles else None}
    figure.legend(handles, names, loc="outside lower right", title_fontsize=7, **look)
    templates = style.left_out(n_templates, len(decomposition.templates), "template", "")
    units = style.left_out(n_units, decomposition.counts.n_units, which="")
    style.title_above(figure, templates, units)
    return figure


@style.styled
def population_raster(
    decomposition: Decomposition,
    trial: int = 0,
    *,
    window: Window = None,
    ax: Any = None,
    axes: Any = None,
) -> Axes:
    """Draw the spikes of a population, with units sorted by its joint templates, and the events.

    Units are sorted by the template that is largest in them, then by the time when it is; a bar in
    the colour of the template is beside them. Triangles above mark the onsets of events, and lines
    through the rows the times at which an event is largest in each unit.

    Parameters
    ----------
    decomposition : Decomposition
        Of the joint layout; ValueError if not.
    trial : int
        Position of the trial.
    window : (float, float), optional
        Start and stop, in seconds. Default: the trial or, if it is longer than 100 times a
        template, the stretch of 20 times its length with most events; the title says so.
    ax, axes : Axes, optional
        Where to draw.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(0.1, (4, 3, 100))
    >>> counts[:, :, 40:45] += 2
    >>> model = DCEA(n_templates=1, template_length=10, layout="joint", random_state=0).fit(counts)
    >>> population_raster(model.decompose(counts)).get_ylabel()
    'unit (by template and time of peak)'
    """
    style.check_type("decomposition", decomposition, Decomposition)
    style.check_position("trial", trial, len(decomposition.counts))
    if decomposition.layout != "joint":
        raise ValueError(
            f"`decomposition` (layout {decomposition.layout!r}) must be of the joint layout, in "
            "which templates order the units; use `raster` and `codes`"
        )
    start, stop, about = rates.stretch(decomposition, window, (), slice(trial, trial + 1))
    counts = decomposition.counts.select(trials=[trial], bins=slice(start, stop))
    favourite, latency, order = _sorted_units(decomposition)
    height = float(np.clip(1.2 + 0.045 * len(order), 2.2, 7))
    panel = style.panel(ax, axes, (style.PAGE, height))
    rates.draw_raster(panel, counts.select(units=order))
    above, beside = panel.get_xaxis_transform(), panel.get_yaxis_transform()
    for k, codes in enumerate(decomposition.codes[trial, 0]):
        rows = np.flatnonzero(favourite[order] == k)
        look: dict[str, Any] = {"color": style.colour(k), "clip_on": False, "snap": False}
        bars = np.full(len(rows), -0.006)
        panel.vlines(bars, rows - 0.5, rows + 0.5, transform=beside, linewidth=3, **look)
        onsets = np.flatnonzero(codes[start:stop]) + start
        times = decomposition.counts.times[onsets]
        size = style.thin(len(onsets), 4.5)
        panel.plot(times, np.full(len(times), 1.02), "v", transform=above, markersize=size, **look)
        delays = (latency[order][rows] + 0.5) * counts.bin_size
        for time in times if len(rows) else ():
            panel.plot(time + delays, rows, color=style.colour(k), linewidth=1, alpha=0.7)
    panel.tick_params(axis="y", pad=7)
    panel.set_xlabel(style.time_label(counts.bin_size))
    panel.set_ylabel("unit (by template and time of peak)")
    name = f"trial {style.short(counts.trial_ids[0])}" if len(decomposition.counts) > 1 else ""
    panel.set_title(" · ".join(filter(None, (name, about))), pad=12)
    if ax is None and axes is None:
        style.legend_of_templates(panel.figure, len(decomposition.templates))
    return panel


@style.styled
def conditions(table: pd.DataFrame, *, axes: Any = None) -> np.ndarray:
    """Draw rate, amplitude and time of the events of each template in each condition.

    Panels have titles with the smallest p-value of a difference from the first condition.

    Parameters
    ----------
    table : DataFrame
        Made by `compare_conditions`.  Bars are its intervals.
    axes : array of Axes, shape (template, quantity), optional
        Where to draw.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"template": 0, "quantity": "rate", "condition": "go", "p_value": np.nan}
    >>> (panels,) = conditions(pd.DataFrame([{**row, "value": 1.0, "lower": 0.8, "upper": 1.3}]))
    >>> panels[0].get_ylabel()
    'events per second'
    """
    labels = {"rate": "events per second", "amplitude": "amplitude", "time": "time (s)"}
    quantities = [name for name in labels if name in set(table["quantity"])]
    templates = sorted(set(table["template"]))
    shape = (len(templates), len(quantities))
    grid = style.axes_array(axes, shape, (min(2.3 * shape[1], style.PAGE), 0.6 + 1.6 * shape[0]))
    for panels, template in zip(grid, templates, strict=True):
        for ax, quantity in zip(panels, quantities, strict=True):
            rows = table[(table["template"] == template) & (table["quantity"] == quantity)]
            place, value = np.arange(len(rows)), rows["value"].to_numpy(float)
            bars = np.abs(rows[["lower", "upper"]].to_numpy(float).T - value)
            ax.errorbar(place, value, bars, fmt="o", color=style.colour(template), capsize=3)
            ax.set_xticks(place, labels=[style.short(name) for name in rows["condition"]])
            ax.set(ylabel=labels[quantity], xlim=(-0.6, len(rows) - 0.4))
            least = rows["p_value"].min()
            p_value = "" if np.isnan(least) else f" · p = {least:.2g}"
            ax.set_title(f"template {template}{p_value}")
    return grid


def _draw_codes(ax: Axes, decomposition: Decomposition, unit: int, opacity: np.ndarray) -> None:
    """Draw the events of one unit (of all units in the joint layout)."""
    counts = decomposition.counts
    joint = decomposition.layout == "joint"
    seen = np.any(counts.mask if joint else counts.mask[:, [unit]], axis=1)
    values = decomposition.codes[:, unit]
    title = "all units" if joint else style.unit_title(counts.unit_ids[unit])
    tallest = float(np.abs(values).max())
    if not tallest:
        style.say_why_empty(ax, "no events")
    if len(values) == 1:
        base, scale, rows = np.arange(1.0), 1.0, 0
        style.shade(ax, counts, ~seen[0])
        ax.axhline(0, color=style.MUTED, linewidth=0.8)
        low, high = 1.1 * min(0.0, float(values.min())), 1.1 * max(0.0, float(values.max()))
        ax.set(ylabel="amplitude", ylim=(low, high if tallest else 1.0))
    else:
        two_sided, rows = values.min() < 0, len(values)
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
        ends = base[trial], base[trial] + scale * values[trial, k, onset]
        shade = opacity[trial, k, onset]
        style.marks(ax, times, ends, colour, shade, rows, style.thin(most, 1.3))
        if len(values) == 1:
            size = style.thin(most, 4.5)
            ax.scatter(times, ends[1], size**2, colour, alpha=shade, clip_on=False)
    style.time_axis(ax, counts)


def _windows(
    decomposition: Decomposition, template: int, unit: int, align: str, sort: str, window: Window
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Return trial and aligned bin of each event, in the order of rows, and the bins around it."""
    if sort == "probability" and decomposition.certainty is None:
        raise ValueError(
            "`sort` (='probability') needs probabilities of events, which this decomposition "
            "lacks; use 'amplitude' or 'time'"
        )
    bin_size, length = decomposition.counts.bin_size, decomposition.templates.shape[2]
    trial, channel, number, onset = np.nonzero(decomposition.codes)
    table = decomposition.events(probabilities=sort == "probability")
    shift = np.rint((table[_COLUMNS[align]] - table["time"]).to_numpy() / bin_size).astype(int)
    keys = -np.abs(table[sort].to_numpy()) if sort != "time" else np.arange(len(table))
    joint = decomposition.layout == "joint"
    chosen = np.flatnonzero((number == template) & (joint | (channel == unit)))
    chosen = chosen[np.argsort(keys[chosen], kind="stable")]
    span = (-(length // 2), length + length // 2)
    if window is not None:
        span = tuple(int(np.rint(edge / bin_size)) for edge in window)  # type: ignore[assignment]
        if not span[0] < span[1]:
            raise ValueError(
                f"`window` (={tuple(window)!r}) must be at least a bin of {bin_size:g}"
            )
    return trial[chosen], (onset + shift)[chosen], span


def _draw(
    grid: np.ndarray,
    decomposition: Decomposition,
    unit: int,
    trial: np.ndarray,
    first: np.ndarray,
    span: tuple[int, int],
    spikes: BinnedSpikes | None,
) -> None:
    """Draw the raster, if there are two axes, and the histogram with the fitted rate."""
    if not len(trial):
        for panel in grid:
            style.say_why_empty(panel, "no events")
            panel.set(xlim=np.array(span) * decomposition.counts.bin_size, yticks=[])
        return
    found = rates.rates_of(decomposition, [unit])
    around = found.around(trial, first, span)
    rows = None
    if len(grid) > 1:
        source = found.counts
        if spikes is not None and len(spikes) > len(source) and spikes.n_bins == source.n_bins:
            found = rates.rates_of(spikes, [spikes.unit_ids.index(source.unit_ids[0])])
            first = np.repeat(first, len(spikes))
            trial = np.tile(np.arange(len(spikes)), len(trial))
        every = -(-len(trial) // 400)
        some = np.arange(0, len(trial), every)
        rows = found.around(trial[some], first[some], span, some + 1).counts
    rates.draw_unit(grid, around, 0, rows, rates.merged_bins(around, [0]))
    if rows is not None:
        each = "event" if len(trial) == len(around.counts) else "event, trial"
        grid[0].set_ylabel(each if every == 1 else f"{each} (1 of {every})")


def _units_of(decomposition: Decomposition, template: int) -> list[int]:
    """Return the positions of units, beginning with those that a template matters most to."""
    if decomposition.layout == "joint":
        weight = np.abs(decomposition.templates[template]).max(axis=1)
    else:
        weight = np.count_nonzero(decomposition.codes[:, :, template], axis=(0, 2))
    return np.argsort(-weight, kind="stable").tolist()


def _sorted_units(decomposition: Decomposition) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the template that is largest in each unit (-1: none), when it is, and the order."""
    sizes = np.abs(decomposition.templates)  # (template, unit, bin)
    peaks = sizes.max(axis=2)
    favourite = np.where(peaks.max(axis=0) > 0, peaks.argmax(axis=0), -1)
    units = np.arange(sizes.shape[1])
    latency = sizes[favourite, units].argmax(axis=1)
    last = np.where(favourite < 0, len(sizes), favourite)
    return favourite, latency, np.lexsort((latency, last))
