"""Whether a model is right: rescaled intervals, the course of training, other candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import Decomposition
from spikecdl.plots import style
from spikecdl.plots.style import Units
from spikecdl.validation import counted, shaped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from spikecdl.evaluation.goodness_of_fit import TimeRescaling
    from spikecdl.evaluation.heldout import TemplateModel
    from spikecdl.evaluation.selection import Selection

_SIZE = (style.COLUMN, 2.3)


@style.styled
def ks(
    rescaling: TimeRescaling, *, units: Units = None, ax: Any = None, axes: Any = None
) -> np.ndarray:
    """Draw the distribution of each unit's rescaled intervals against the model's.

    Under a correct model, the curve follows the diagonal and stays between the dashed lines with
    probability 0.95. A curve above the diagonal has more short intervals than the model expects, a
    curve below it more long ones.

    Parameters
    ----------
    rescaling : TimeRescaling
        Made by ``spikecdl.goodness_of_fit.time_rescaling(model, counts)``.
    units : sequence of int, optional
        Positions of the units. Default: the first nine.
    ax, axes : array of Axes, shape (unit,), optional
        Where to draw.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> from spikecdl.evaluation.goodness_of_fit import rescale
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.5, (4, 1, 500)))
    >>> (ax,) = ks(rescale(counts, np.full(counts.shape, 0.5), "poisson"))
    >>> ax.get_title(loc="left"), ax.texts[0].get_text()
    ('unit 0', 'distance 0.033\\ninside')
    """
    return _panels(rescaling, units, style.given_axes(ax, axes), 2.5, _draw_ks)


@style.styled
def autocorrelation(
    rescaling: TimeRescaling, *, units: Units = None, ax: Any = None, axes: Any = None
) -> np.ndarray:
    """Draw the autocorrelation of each unit's rescaled intervals, zero under a correct model.

    Under a correct model, 95 % of the values lie between the dashed lines. Parameters are those
    of `ks`.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> from spikecdl.evaluation.goodness_of_fit import rescale
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.5, (4, 1, 500)))
    >>> (ax,) = autocorrelation(rescale(counts, np.full(counts.shape, 0.5), "poisson"))
    >>> ax.get_xlabel()
    'lag (intervals)'
    """
    return _panels(rescaling, units, style.given_axes(ax, axes), 1.9, _draw_autocorrelation)


@style.styled
def history(source: TemplateModel | Decomposition, *, ax: Any = None, axes: Any = None) -> Axes:
    """Draw by which factor a spike changes the rate of its unit afterwards, a curve per unit.

    For the binomial family, it is the odds of a spike that change by this factor.  Of more than
    four units, the median is drawn over all of them.

    Parameters
    ----------
    source : DCEA or Decomposition
        A model that was fitted with ``history``, or its decomposition of counts.
    ax, axes : Axes, optional
        Where to draw.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(0.2, (20, 200))
    >>> counts[:, 50:55] += 2
    >>> model = DCEA(history=5, random_state=0).fit(counts)
    >>> history(model).get_ylabel()
    'factor on the rate'
    """
    if isinstance(source, Decomposition):
        filters, bin_size = source.history_filter, source.counts.bin_size
        units = source.counts.unit_ids
    else:
        filters = getattr(source, "history_filter_", None)
        bin_size, units = getattr(source, "bin_size_", 1.0), getattr(source, "unit_ids_", ())
    if filters is None:
        raise ValueError("`source` has no history; fit a model with `history`, in seconds")
    panel = style.panel(ax, axes, _SIZE)
    step, unit_of_time = style.short_times(bin_size)
    lags = step * np.arange(1, 1 + filters.shape[1])
    _draw_factors(panel, lags, filters, units)
    panel.set(xlabel=f"time since a spike ({unit_of_time})", ylabel="factor on the rate")
    panel.set(xlim=(0, lags[-1]), ylim=(0, None))
    style.legend_above(panel)
    return panel


@style.styled
def signals(model: TemplateModel, *, axes: Any = None) -> np.ndarray:
    """Draw by which factor the rate of each unit changes with each signal, see `history`.

    The factor is relative to the mean over the range of the signal, on the scale of logarithms.

    Parameters
    ----------
    model : DCEA
        Fitted with ``signals``.
    axes : array of Axes, shape (signal,), optional
        Where to draw.

    Examples
    --------
    >>> from spikecdl import DCEA, BinnedSpikes
    >>> speed = np.sin(np.arange(2000) / 100)[None]
    >>> y = np.random.default_rng(0).poisson(np.exp(speed - 1))
    >>> y[:, ::50] += 5
    >>> counts = BinnedSpikes.from_array(y).with_signals({"speed": speed})
    >>> (ax,) = signals(DCEA(1, 10, signals=6, random_state=0).fit(counts))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('speed', 'factor on the rate')
    """
    from matplotlib.ticker import LogLocator, NullLocator

    effects = getattr(model, "signal_effects_", {})
    if not effects:
        raise ValueError("`model` does not depend on signals; fit it with `signals`")
    columns = min(len(effects), 3)
    size = (max(2.4 * columns, style.COLUMN), _SIZE[1])
    grid = style.wrapped(style.given_axes(None, axes), len(effects), columns, size)
    for ax, (name, (values, effect)) in zip(grid, effects.items(), strict=True):
        _draw_factors(ax, values, effect, model.unit_ids_)
        ax.set(xlabel=name, xlim=(values[0], values[-1]), yscale="log")
        ax.yaxis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter="{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    grid[0].set_ylabel("factor on the rate")
    style.legend_above(grid[0])
    return grid


@style.styled
def triggered(
    decomposition: Decomposition,
    signal: Any,
    window: tuple[float, float] | None = None,
    *,
    random_state: int = 0,
    axes: Any = None,
) -> np.ndarray:
    """Draw the average of a signal around the events of each template.

    Events are weighted by their probability, if they have one.  The band holds the average with
    probability 0.95, by a bootstrap of the events.

    Parameters
    ----------
    decomposition : Decomposition
        Of counts whose windows have times in the recording.
    signal : pair of arrays, Tsd, or table of intervals
        Times (s) and values (time,); or ``start_time`` and ``stop_time`` of intervals, inside which
        the signal is 1, and else 0.
    window : (float, float), optional
        Start and stop, in seconds after the onset of an event.  Default: a template before it, and
        two after.
    random_state : int
        Seed of the bootstrap.
    axes : array of Axes, shape (template,), optional
        Where to draw.

    Examples
    --------
    >>> from spikecdl import DCEA, BinnedSpikes
    >>> rate = np.repeat([0.2, 2, 0.2], [20, 5, 75])
    >>> y = np.random.default_rng(0).poisson(rate, (10, 100))[:, None]
    >>> counts = BinnedSpikes.from_array(y, 0.01, trial_starts=np.arange(10.0))
    >>> parts = DCEA(1, 0.1, random_state=0).fit(counts).decompose(counts)
    >>> times = np.arange(0, 10, 0.01)
    >>> (ax,) = triggered(parts, (times, np.sin(2 * np.pi * times)))
    >>> ax.get_title(loc="left"), ax.get_xlabel()
    ('template 0: 10 events', 'time after the onset (s)')
    """
    times, values = _signal(signal)
    length = decomposition.counts.bin_size * decomposition.templates.shape[-1]
    start, stop = (-length, 2 * length) if window is None else window
    lags = np.linspace(start, stop, 201)
    events, rng = decomposition.intervals(), np.random.default_rng(random_state)
    grid = style.axes_array(axes, (1, len(decomposition.templates)), (style.COLUMN, 2.0))[0]
    for number, ax in enumerate(grid):
        mine = events[events["template"] == number]
        at = mine["start_time"].to_numpy()[:, None] + lags
        found = np.interp(at, times, values, left=np.nan, right=np.nan)
        weight = mine["probability"].to_numpy() if "probability" in mine else np.ones(len(mine))
        if len(mine):
            color = style.PALETTE[number % len(style.PALETTE)]
            drawn = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), 200) * weight
            band = np.nanquantile(_average(found, drawn), [0.025, 0.975], axis=0)
            ax.fill_between(lags, *band, color=color, alpha=0.3, linewidth=0)
            ax.plot(lags, _average(found, weight[None])[0], color=color)
        else:
            style.say_why_empty(ax, "no events")
        ax.axvline(0, color=style.MUTED, linewidth=0.8)
        title = f"template {number}: {counted(len(mine), 'event')}"
        ax.set(title=title, xlabel="time after the onset (s)", xlim=(start, stop))
    grid[0].set_ylabel("mean of the signal")
    return grid


@style.styled
def unit_order(table: pd.DataFrame, *, axes: Any = None) -> np.ndarray:
    """Draw when the units that take part in each joint template do so, in their order.

    Parameters
    ----------
    table : DataFrame
        Made by ``model.unit_table()``.  Bars are the intervals of the times.
    axes : array of Axes, shape (template,), optional
        Where to draw.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"template": 0, "unit": 7, "time": 0.1, "time_lower": 0.08, "time_upper": 0.13}
    >>> (ax,) = unit_order(pd.DataFrame([{**row, "takes_part": True, "order": 1}]))
    >>> ax.get_title(loc="left"), ax.get_ylabel()
    ('template 0: 1 of 1 unit', 'unit, in order')
    """
    numbers = sorted(set(table["template"]))
    most = max(int(table.groupby("template")["takes_part"].sum().max()), 1)
    size = (min(0.8 + 1.9 * len(numbers), style.PAGE), 0.8 + 0.11 * min(most, 60))
    grid = style.axes_array(axes, (1, len(numbers)), size, sharex=True)[0]
    for ax, number in zip(grid, numbers, strict=True):
        rows = table[table["template"] == number]
        part = rows[rows["takes_part"]].sort_values("order")
        place, color = np.arange(len(part)), style.PALETTE[number % len(style.PALETTE)]
        ax.hlines(place, part["time_lower"], part["time_upper"], color=color, alpha=0.5)
        ax.plot(part["time"], place, "o", color=color, markersize=3)
        every = -(-max(len(part), 1) // 20)
        ids = [style.short(unit) for unit in part["unit"][::every]]
        ax.set_yticks(place[::every], labels=ids)
        units = counted(len(rows), "unit")
        ax.set(title=f"template {number}: {len(part)} of {units}")
        ax.set_xlabel("time after the onset (s)")
        ax.set_ylim(len(part) - 0.5, -0.5)
    grid[0].set_ylabel("unit, in order")
    return grid


@style.styled
def training_curve(model: TemplateModel, *, ax: Any = None, axes: Any = None) -> Axes:
    """Draw the loss of a fitted model after each epoch.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> training_curve(model).get_xlabel()
    'epoch'
    """
    from matplotlib.ticker import MaxNLocator
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(model)
    panel = style.panel(ax, axes, _SIZE)
    points = [(entry["epoch"], entry["loss"]) for entry in model.history_]
    marker = "o" if len(points) < 30 else ""
    panel.plot(*zip(*points, strict=True), color=style.PALETTE[0], marker=marker, markersize=3.5)
    panel.margins(x=0.02)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.set(xlabel="epoch", ylabel="loss")
    panel.set_title("converged" if model.converged_ else "stopped before it converged")
    return panel


@style.styled
def selection(found: Selection, *, ax: Any = None, axes: Any = None) -> Axes:
    """Draw the evidence of each candidate below that of the best, with its standard error.

    Differences are paired over trials. A ring marks the recommended candidate: the simplest whose
    error bar reaches the best one.

    Parameters
    ----------
    found : Selection
        Made by `spikecdl.select`.

    Examples
    --------
    >>> import spikecdl
    >>> y = np.random.default_rng(0).poisson(0.2, size=(30, 100))
    >>> found = spikecdl.select(spikecdl.DCEA(1, 10), spikecdl.BinnedSpikes.from_array(y), [0])
    >>> selection(found).get_xlabel()
    'number of templates'
    """
    from matplotlib.ticker import MaxNLocator

    table = found.table()
    panel = style.panel(ax, axes, _SIZE)
    curves = table.groupby("template_length", dropna=False)
    for number, (length, rows) in enumerate(curves):
        label = "none" if np.isnan(length) else f"{length:g}"
        place = rows["n_templates"] + 0.06 * (number - (len(curves) - 1) / 2)
        look = {"label": label, "color": style.colour(number), "marker": "o", "markersize": 4}
        panel.errorbar(place, rows["difference"], rows["difference_error"], **look)
        chosen = rows["recommended"]
        ring = {"s": 90, "facecolors": "none", "edgecolors": "black", "zorder": 3}
        panel.scatter(place[chosen], rows["difference"][chosen], **ring)
    panel.axhline(0, color=style.INK, linewidth=0.9, linestyle=style.DASHES)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set(xlabel="number of templates", ylabel="evidence, best = 0\n(bits per spike)")
    panel.margins(x=0.1)
    panel.legend(title="length")
    return panel


def _draw_factors(ax: Axes, x: np.ndarray, changes: np.ndarray, units: Sequence[Any]) -> None:
    """Draw the factors on the rate of which changes (unit, x) are the logarithms."""
    if len(units) <= 4:
        for number, (unit, values) in enumerate(zip(units, changes, strict=True)):
            name = style.unit_title(unit)
            ax.plot(x, np.exp(values), color=style.colour(number), label=name)
    else:
        ax.plot(x, np.exp(changes.T), color=style.MUTED, linewidth=0.6, alpha=0.6)
        median = np.exp(np.median(changes, axis=0))
        ax.plot(x, median, color=style.PALETTE[0], linewidth=2, label="median of units")
    ax.axhline(1, color=style.INK, linewidth=0.9, linestyle=style.DASHES, zorder=1.8)


def _panels(
    rescaling: TimeRescaling,
    units: Units,
    axes: np.ndarray | None,
    height: float,
    draw: Callable[[Axes, TimeRescaling, int], None],
) -> np.ndarray:
    """Draw a panel per unit, with labels at the left and lower edges of a new figure."""
    from spikecdl.evaluation.goodness_of_fit import TimeRescaling

    style.check_type("rescaling", rescaling, TimeRescaling)
    n_units = len(rescaling.unit_ids)
    shown = style.shown_units(units, n_units, most=9)
    columns = min(len(shown), 3)
    grid = style.wrapped(axes, len(shown), columns, (2.4 * columns, height), sharex=True)
    for ax, unit in zip(grid, shown, strict=True):
        draw(ax, rescaling, unit)
        ax.set_title(style.unit_title(rescaling.unit_ids[unit]))
    if axes is None:
        style.label_outer(grid, columns)
        if units is None:
            style.title_above(grid[0].figure, style.left_out(len(shown), n_units))
    return grid


def _draw_ks(ax: Axes, rescaling: TimeRescaling, unit: int) -> None:
    values, band = np.sort(rescaling.uniforms[unit]), rescaling.band[unit]
    if len(values):
        _draw_band(ax, band, slope=1)
        ax.plot([0, 1], [0, 1], color=style.MUTED, linewidth=0.8)
        steps = np.arange(len(values) + 1) / len(values)
        kept = np.unique(np.linspace(0, len(values), 1001).astype(int))
        curve = np.append(0, values)[kept], steps[kept]
        ax.step(*curve, where="post", color=style.PALETTE[0], zorder=3, label="data")
        verdict = "inside" if rescaling.inside[unit] else "outside"
        text = f"distance {rescaling.distance[unit]:.3f}\n{verdict}"
        ax.text(0.97, 0.04, text, transform=ax.transAxes, ha="right", va="bottom")
    else:
        style.say_why_empty(ax, "not observed")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="expected", ylabel="observed")
    ax.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def _draw_autocorrelation(ax: Axes, rescaling: TimeRescaling, unit: int) -> None:
    values, band = rescaling.autocorrelation[unit], rescaling.autocorrelation_band[unit]
    lags = np.arange(1, len(values) + 1)
    if np.isnan(values).all():
        style.say_why_empty(ax, "too few intervals")
        ax.set_yticks([])
    else:
        _draw_band(ax, band, slope=0)
        ax.axhline(0, color=style.MUTED, linewidth=0.8)
        ax.vlines(lags, 0, values, color=style.PALETTE[0])
        ax.plot(lags, values, "o", color=style.PALETTE[0], markersize=3)
        top = 1.25 * max(band, float(np.abs(values).max()))
        ax.set_ylim(-top, top)
    ax.set(xlim=(0, len(values) + 1), xlabel="lag (intervals)", ylabel="autocorrelation")


def _draw_band(ax: Axes, width: float, slope: float) -> None:
    """Draw the limits of a band, unless they are infinite."""
    for height in (-width, width) if np.isfinite(width) else ():
        line = ax.axline((0, height), slope=slope, color=style.INK, linewidth=0.9, zorder=1.8)
        line.set_linestyle(style.DASHES)


def _signal(signal: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the times and values of a signal, or of the inside of intervals."""
    if hasattr(signal, "columns") and "start_time" in signal.columns:
        edges = signal[["start_time", "stop_time"]].to_numpy(dtype=float).ravel()
        beside = np.nextafter(edges, edges + np.tile([-1.0, 1.0], len(edges) // 2))
        times = np.stack([edges, beside], axis=1).ravel()
        values = np.tile([1.0, 0.0, 1.0, 0.0], len(edges) // 2)
        order = np.argsort(times, kind="stable")
        far = np.abs(times).max() + 1e6
        return np.r_[-far, times[order], far], np.r_[0.0, values[order], 0.0]
    pair = (signal.t, signal.d) if hasattr(signal, "d") else signal
    times, values = (np.asarray(each, dtype=float) for each in pair)
    shaped("signal", values, times.shape, "its times")
    if times.ndim != 1 or (np.diff(times) <= 0).any():
        raise ValueError("`signal` must have times (time,) that rise")
    return times, values


def _average(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return weighted means (resample, lag) over events, where values (event, lag) are known."""
    known = np.isfinite(values)
    total = weights @ known
    return np.divide(
        weights @ np.where(known, values, 0.0),
        total,
        out=np.full(total.shape, np.nan),
        where=total > 0,
    )
