"""How well spikes agree with a model: distribution and autocorrelation of rescaled intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spikecdl.evaluation.goodness_of_fit import TimeRescaling

_MOST_PANELS = 9
_COLUMNS = 3
_MOST_POINTS = 1000  # of a curve


@style.styled
def ks(
    rescaling: TimeRescaling, *, units: Sequence[int] | None = None, axes: Any = None
) -> np.ndarray:
    """Draw the distribution of each unit's rescaled intervals against the model's.

    A right model lies on the diagonal. A curve above it has more short intervals than the model
    expects, one below it more long ones; between the dashed lines are 95 % of right models.

    Parameters
    ----------
    rescaling : TimeRescaling
        Made by ``spikecdl.goodness_of_fit.time_rescaling(model, counts)``.
    units : sequence of int, optional
        Positions of the units. Default: the first nine.
    axes : array of Axes, optional
        One per unit. Default: a new figure.

    Returns
    -------
    ndarray of Axes
        Of shape (unit,).

    Raises
    ------
    TypeError
        If ``rescaling`` is something else.
    ValueError
        If a unit does not exist or the number of axes is wrong.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> from spikecdl.evaluation.goodness_of_fit import rescale
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.5, (4, 1, 500)))
    >>> (ax,) = ks(rescale(counts, np.full(counts.shape, 0.5), "poisson"))
    >>> ax.get_title(loc="left"), ax.texts[0].get_text()
    ('unit 0', 'distance 0.033\\ninside')
    """
    return _panels(rescaling, units, axes, 2.9, _draw_ks)


@style.styled
def autocorrelation(
    rescaling: TimeRescaling, *, units: Sequence[int] | None = None, axes: Any = None
) -> np.ndarray:
    """Draw the autocorrelation of each unit's rescaled intervals, which a right model has not.

    Between the dashed lines are 95 % of the values of a right model.

    Parameters
    ----------
    rescaling, units, axes
        As for `ks`.

    Returns
    -------
    ndarray of Axes
        Of shape (unit,).

    Raises
    ------
    TypeError, ValueError
        As `ks`.

    Examples
    --------
    >>> from spikecdl.data import BinnedSpikes
    >>> from spikecdl.evaluation.goodness_of_fit import rescale
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.5, (4, 1, 500)))
    >>> (ax,) = autocorrelation(rescale(counts, np.full(counts.shape, 0.5), "poisson"))
    >>> ax.get_xlabel()
    'lag (intervals)'
    """
    return _panels(rescaling, units, axes, 2.2, _draw_autocorrelation)


def _panels(
    rescaling: TimeRescaling,
    units: Sequence[int] | None,
    axes: Any,
    height: float,
    draw: Callable[[Axes, TimeRescaling, int], None],
) -> np.ndarray:
    """Draw a panel per unit, with labels at the left and the lower edge."""
    from spikecdl.evaluation.goodness_of_fit import TimeRescaling

    style.check_type("rescaling", rescaling, TimeRescaling)
    count = len(rescaling.unit_ids)
    shown = [
        style.check_position("units", unit, count)
        for unit in (range(min(count, _MOST_PANELS)) if units is None else units)
    ]
    columns = min(len(shown), _COLUMNS)
    grid = style.wrapped(axes, len(shown), columns, (3.0 * columns, height), sharex=True)
    for place, (ax, unit) in enumerate(zip(grid, shown, strict=True)):
        draw(ax, rescaling, unit)
        style.tidy(ax)
        if axes is None and place % columns:
            ax.set_ylabel("")
        if axes is None and place + columns < len(shown):
            ax.set_xlabel("")
    if axes is None and units is None:
        style.say_left_out(grid[0].figure, len(shown), count)
    return grid


def _draw_ks(ax: Axes, rescaling: TimeRescaling, unit: int) -> None:
    values, band = np.sort(rescaling.uniforms[unit]), rescaling.band[unit]
    if len(values):
        _dashed(ax, -band, slope=1)
        _dashed(ax, band, slope=1)
        ax.plot([0, 1], [0, 1], color=style.MUTED, linewidth=0.8)
        steps = np.arange(len(values) + 1) / len(values)
        kept = np.unique(np.linspace(0, len(values), _MOST_POINTS + 1).astype(int))
        curve = np.append(0, values)[kept], steps[kept]
        ax.step(*curve, where="post", color=style.PALETTE[0], zorder=3, label="data")
        place = "inside" if rescaling.inside[unit] else "outside"
        said = f"distance {rescaling.distance[unit]:.3f}\n{place}"
        ax.text(0.97, 0.04, said, transform=ax.transAxes, ha="right", va="bottom")
    else:
        _nothing(ax, "not observed")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="expected", ylabel="observed")
    ax.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    ax.set_title(style.unit_title(rescaling.unit_ids[unit]))


def _draw_autocorrelation(ax: Axes, rescaling: TimeRescaling, unit: int) -> None:
    values, band = rescaling.autocorrelation[unit], rescaling.autocorrelation_band[unit]
    lags = np.arange(1, len(values) + 1)
    if np.isnan(values).all():
        _nothing(ax, "too few intervals")
        ax.set_yticks([])
    else:
        _dashed(ax, -band, slope=0)
        _dashed(ax, band, slope=0)
        ax.axhline(0, color=style.MUTED, linewidth=0.8)
        ax.vlines(lags, 0, values, color=style.PALETTE[0])
        ax.plot(lags, values, "o", color=style.PALETTE[0], markersize=3)
        top = 1.25 * max(band, float(np.abs(values).max()))
        ax.set_ylim(-top, top)
    ax.set(xlim=(0, len(values) + 1), xlabel="lag (intervals)", ylabel="autocorrelation")
    ax.set_title(style.unit_title(rescaling.unit_ids[unit]))


def _dashed(ax: Axes, level: float, slope: float) -> None:
    """Draw a limit of a band; nothing where it is infinite."""
    if np.isfinite(level):
        dashes = (0, (4, 3))
        ax.axline(
            (0, level), slope=slope, color=style.INK, linewidth=0.9, linestyle=dashes, zorder=1.8
        )


def _nothing(ax: Axes, why: str) -> None:
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color=style.MUTED)
