"""Templates, at the size of a typical event and together with the truth, and in one window."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikecdl.data import Decomposition, Truth
from spikecdl.data.truth import unit_norm
from spikecdl.evaluation.bands import Bands
from spikecdl.evaluation.metrics import template_error, template_shape
from spikecdl.evaluation.template_metrics import gain_of, template_table
from spikecdl.plots import style
from spikecdl.plots.rates import rates_of
from spikecdl.validation import counted, shaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spikecdl.evaluation.heldout import TemplateModel


class _Match(NamedTuple):
    """A true template, scaled like its estimate; the bins by which it starts later; its error."""

    template: np.ndarray
    shift: int
    error: float


class _Sheet(NamedTuple):
    """Templates to draw, the true template of each, and labels."""

    templates: np.ndarray
    matches: list[_Match | None]
    bands: list[tuple[np.ndarray, np.ndarray]]  # lower and upper ends, the narrowest last
    names: list[str]
    label: str
    gain: Callable[[np.ndarray], np.ndarray] | None
    # rate in Hz of each unit in the joint layout after changes of eta; empty where there is none
    rates: list[Callable[[np.ndarray], np.ndarray]]
    unit_ids: tuple[int | str, ...]
    step: float  # bin size in ms; 1 if times are in bins
    time_label: str


@style.styled
def templates(
    source: TemplateModel | Decomposition,
    truth: Truth | np.ndarray | None = None,
    *,
    bands: Bands | None = None,
    sort_units: bool = False,
    image: bool | None = None,
    ax: Any = None,
    axes: Any = None,
) -> np.ndarray:
    """Draw templates over time, as curves or, for many units in the joint layout, as images.

    For a decomposition, templates are the change of eta in an event of median size; an axis on the
    right shows this as a multiple of the baseline rate. Curves of joint templates are the rate of
    each unit during such an event. For a model, templates have unit norm.

    Parameters
    ----------
    source : Decomposition or DCEA
        A fitted model, or a decomposition made by it.
    truth : Truth or ndarray (template, channel, bin), optional
        True templates; ValueError if their bins or channels are others. Each is drawn over its
        estimate, with the best shift and the scale of the estimate (see
        `spikecdl.metrics.template_error`).
    bands : Bands, optional
        Made by `spikecdl.bands` from the same model; ValueError if its templates have another
        shape.  Curves get the pointwise band, and the simultaneous one in a paler shade; images
        are blank where the pointwise band holds zero.
    sort_units : bool
        In the joint layout, sort units by the time of their largest value in the first template.
    image : bool, optional
        In the joint layout, whether to draw images (unit, time). Default: of more than eight units.
    ax, axes : array of Axes, shape (template,), optional
        Where to draw; in the joint layout (unit, template) for curves, and (2, template) for images
        with a truth, which has the second row.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> templates(model)[0].get_ylabel(), templates(model.decompose(counts))[0].get_ylabel()
    ('template (unit norm)', 'change of log rate')
    """
    sheet, given = _sheet(source, truth, bands), style.given_axes(ax, axes)
    if source.layout == "shared":
        return _curves(sheet, given)
    units = np.arange(len(sheet.unit_ids))
    if sort_units:
        units = np.argsort([template_shape(row).time for row in sheet.templates[0]], kind="stable")
    as_image = len(units) > 8 if image is None else image
    if as_image:
        return _images(sheet, units, "unit (by time of peak)" if sort_units else "unit", given)
    return _curves_of_units(sheet, units, given)


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
        panel.set_title(f"added by template {k}", pad=3)
        panel.set(ylabel=decomposition.family.eta_name, ylim=(low - margin, high + margin))
    grid[-1].set_xlabel(style.time_label(counts.bin_size))
    return grid


def _sheet(
    source: TemplateModel | Decomposition, truth: Truth | np.ndarray | None, bands: Bands | None
) -> _Sheet:
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(source, Decomposition) and not hasattr(type(source), "templates_"):
        raise TypeError(f"`source` ({type(source).__name__}) must be Decomposition or DCEA")
    label, gain, rates = "template (unit norm)", None, []
    if isinstance(source, Decomposition):
        shapes, counts = source.templates, source.counts
        bin_size, unit_ids = counts.bin_size, counts.unit_ids
        table = template_table(source)
        sizes = table["amplitude"]  # nan without events
        scale = sizes.fillna(sizes.dropna().median()).fillna(1.0).to_numpy()
        events = [counted(n, "event") if n else "no events" for n in table["n_events"]]
        names = [f"template {k} · {text}" for k, text in enumerate(events)]
        if table["n_events"].any():
            label = f"change of {source.family.eta_name}"  # type: ignore[union-attr]
            gain, rates = gain_of(source), _rates(source)
    else:
        check_is_fitted(source)
        shapes, bin_size = source.templates_, source.bin_size_
        scale, unit_ids = np.ones(len(shapes)), tuple(source.unit_ids_)
        names = [f"template {k}" for k in range(len(shapes))]
    matches = _matches(shapes, truth, bin_size, scale)
    step, unit = style.short_times(bin_size)
    size, time_label = scale[:, None, None], f"time from onset ({unit})"
    ends = [(size * low, size * high) for low, high in _ends(bands, shapes)]
    shown = size * shapes
    return _Sheet(shown, matches, ends, names, label, gain, rates, unit_ids, step, time_label)


def _rates(source: Decomposition) -> list[Callable[[np.ndarray], np.ndarray]]:
    """Return the rates of the units of joint templates, if all are known; none of a signal."""
    if source.layout != "joint":
        return []
    rates: list[Callable[[np.ndarray], np.ndarray]] = []
    for unit in range(source.counts.n_units):
        gain = gain_of(source, unit)  # None of a signal, nan where nothing was observed
        if gain is None or not np.isfinite(gain(0.0)):
            return []
        seen = source.counts.mask[:, unit].any(axis=-1)
        median = np.median(source.baseline[seen, unit])
        rates.append(lambda change, gain=gain, median=median: median * gain(change))  # type: ignore[misc]
    return rates


def _ends(bands: Bands | None, shapes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the ends of simultaneous and pointwise bands, if any."""
    if bands is None:
        return []
    shaped("bands", bands.templates, shapes.shape, "templates")
    return [(bands.simultaneous_lower, bands.simultaneous_upper), (bands.lower, bands.upper)]


def _matches(
    shapes: np.ndarray, truth: Truth | np.ndarray | None, bin_size: float, scale: np.ndarray
) -> list[_Match | None]:
    """Return the true template of each estimate, with its shift and scale; None if it has none."""
    found: list[_Match | None] = [None] * len(shapes)
    if truth is None:
        return found
    true_bin_size = getattr(truth, "bin_size", bin_size)
    if not np.isclose(true_bin_size, bin_size):
        raise ValueError(
            f"`truth` has bins of {true_bin_size:g} s and the model of {bin_size:g} s; "
            "simulate or bin with the same bin size"
        )
    true = unit_norm("truth", getattr(truth, "templates", truth))
    error = template_error(shapes, true)
    for k, partner in enumerate(error.assignment):
        if partner >= 0:
            shift = -int(error.shifts[k])
            found[partner] = _Match(scale[partner] * true[k], shift, float(error.errors[k]))
    return found


def _curves(sheet: _Sheet, axes: np.ndarray | None) -> np.ndarray:
    count = len(sheet.templates)
    columns = count if count <= 3 or axes is not None else 3
    size = (min(1.5 + 2.0 * columns, style.PAGE), 2.1)
    grid = style.wrapped(axes, count, columns, size, sharex=True, sharey=True)
    for k, (ax, title) in enumerate(zip(grid, sheet.names, strict=True)):
        _curve(ax, sheet, k, 0)
        ax.set_title(title + _error(sheet.matches[k]))
        ax.set(xlabel=sheet.time_label, ylabel=sheet.label)
        if sheet.gain is not None and (k % columns == columns - 1 or k == count - 1):
            _gain_axis(ax, sheet.gain)
    style.label_outer(grid, columns)
    return grid


def _curves_of_units(sheet: _Sheet, units: np.ndarray, axes: np.ndarray | None) -> np.ndarray:
    """Draw a row of panels per unit and a column per template, in rates if these are known."""
    count = len(sheet.templates)
    size = (min(1.5 + 2.0 * count, style.PAGE), 0.6 + 0.75 * len(units))
    grid = style.axes_array(axes, (len(units), count), size, sharex=True, sharey="row")
    label = "rate (Hz)" if sheet.rates else sheet.label
    for row, unit in zip(grid, units, strict=True):
        for k, ax in enumerate(row):
            _curve(ax, sheet, k, unit)
            ax.locator_params(axis="y", nbins=3)
        if sheet.rates:
            row[0].set_ylim(bottom=0)
        row[0].set_ylabel(style.unit_title(sheet.unit_ids[unit]))
    for k, title in enumerate(_titles(sheet)):
        grid[0, k].set_title(title + _error(sheet.matches[k]))
        grid[-1, k].set_xlabel(sheet.time_label)
    if axes is None:
        grid[0, 0].figure.align_ylabels(grid[:, 0])
        grid[0, 0].figure.supylabel(label, fontsize=8)
    else:
        grid[0, 0].set_ylabel(f"{grid[0, 0].get_ylabel()}\n{label}")
    return grid


def _curve(ax: Axes, sheet: _Sheet, k: int, unit: int) -> None:
    """Draw a template in one unit, with its bands and the truth, in rates if these are known."""
    length, colour = sheet.templates.shape[2], style.colour(k)
    shown: Callable[[np.ndarray], np.ndarray] = np.asarray
    if sheet.rates:
        shown = sheet.rates[unit]
        style.baseline(ax, float(shown(np.zeros(()))))
    else:
        ax.axhline(0, color=style.DATA, linewidth=0.8, zorder=1)
    marker = "o" if length == 1 else ""
    times = (np.arange(length) + 0.5) * sheet.step
    for low, high in sheet.bands:
        ends = shown(low[k, unit]), shown(high[k, unit])
        ax.fill_between(times, *ends, color=colour, alpha=0.2, linewidth=0)
    ax.plot(times, shown(sheet.templates[k, unit]), color=colour, linewidth=1.8, marker=marker)
    match = sheet.matches[k]
    if match is not None:
        line: dict[str, Any] = {"linewidth": 1.1, "linestyle": (0, (4, 2.5))}
        line["marker"] = marker and "x"
        times = (match.shift + np.arange(match.template.shape[-1]) + 0.5) * sheet.step
        ax.plot(times, shown(match.template[unit]), color=style.INK, **line)
    ax.set_xlim(0, length * sheet.step)


def _error(match: _Match | None) -> str:
    """Second line of the title of a template that is drawn with its truth."""
    return "" if match is None else f"\nerror {match.error:.2f} (dashed: truth)"


def _titles(sheet: _Sheet) -> list[str]:
    """Return titles of templates side by side, in two lines if there are many."""
    many = len(sheet.names) > 3
    return [name.replace(" · ", "\n") if many else name for name in sheet.names]


def _gain_axis(ax: Axes, gain: Callable[[np.ndarray], np.ndarray]) -> None:
    """Mark on the right by which factor a change of eta changes the baseline rate."""
    changes = np.linspace(-12, 12, 4801)
    gains = gain(changes)
    if not np.isfinite(gains).all():
        return
    low, high = ax.get_ylim()
    marks = 2.0 ** np.arange(-10, 11)
    marks = marks[(marks > gains[0]) & (marks < gains[-1])]
    positions = np.interp(marks, gains, changes)
    inside = np.flatnonzero((positions >= low) & (positions <= high))
    every = max(1, -(-len(inside) // 6))
    kept = inside[(inside - np.flatnonzero(marks == 1)[0]) % every == 0]
    right = ax.secondary_yaxis("right")
    names = [f"×{gain:g}" if gain >= 1 else f"×1/{1 / gain:g}" for gain in marks[kept]]
    right.set_yticks(positions[kept], labels=names)
    right.set_ylabel("rate / baseline rate")
    right.tick_params(**style.TICKS)


def _images(sheet: _Sheet, order: np.ndarray, label: str, axes: np.ndarray | None) -> np.ndarray:
    count, units, length = sheet.templates.shape
    rows = 1 + any(match is not None for match in sheet.matches)
    size = (min(1.6 + 1.9 * count, style.PAGE), 0.5 + rows * (1.9 + 0.025 * min(units, 60)))
    grid = style.axes_array(axes, (rows, count), size, sharex=True, sharey=True)
    top = float(np.abs(sheet.templates).max()) or 1.0
    for k, name in enumerate(_titles(sheet)):
        shown = sheet.templates[k]
        for low, high in sheet.bands[-1:]:
            shown = np.where((low[k] <= 0) & (high[k] >= 0), 0.0, shown)
        mesh = _image(grid[0, k], sheet, shown[order], 0, top)
        grid[0, k].set_title(name)
        match = sheet.matches[k]
        if match is not None:
            _image(grid[1, k], sheet, match.template[order], match.shift, top)
            grid[1, k].set_title(f"truth · error {match.error:.2f}")
        elif rows == 2:
            grid[1, k].set_axis_off()
        grid[-1, k].set_xlabel(sheet.time_label)
    for ax in grid[:, 0]:
        ax.set_ylabel(label)
    every = -(-units // 12)
    ids = [style.short(sheet.unit_ids[i]) for i in order[::every]]
    grid[0, 0].set_yticks(np.arange(0, units, every), labels=ids)
    grid[0, 0].set_xlim(0, length * sheet.step)
    bar = grid[0, 0].figure.colorbar(mesh, ax=list(grid.ravel()), label=sheet.label, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(**style.TICKS)
    return grid if rows == 2 else grid[0]


def _image(ax: Axes, sheet: _Sheet, values: np.ndarray, shift: int, top: float) -> Any:
    units, length = values.shape
    edges = (shift + np.arange(length + 1)) * sheet.step
    rows = np.arange(units + 1) - 0.5
    mesh = ax.pcolormesh(edges, rows, values, cmap="RdBu_r", vmin=-top, vmax=top)
    ax.set_ylim(units - 0.5, -0.5)
    return mesh


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
    name = style.unit_title(counts.unit_ids[unit])
    ax.set_title(f"{name} · trial {style.short(counts.trial_ids[trial])}")
    style.legend_above(ax)
