"""The look of the figures, in one place: colours, sizes, units and how missing time is drawn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from spikecdl import validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spikecdl.data import BinnedSpikes

P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito's palette, distinct for colour-blind readers, less the yellow that white swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#222222"
DATA = "#A9AFB5"
MUTED = "#6B7075"
UNSEEN = "#EFEFEF"

_LONGEST_NAME = 16
_TICK = 0.17  # inches of height that a tick's label needs
_CROWD = 120  # lines of full width that stand apart in a panel

_RC: dict[str, Any] = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.07,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.xmargin": 0,
    "text.color": INK,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.solid_joinstyle": "round",
    "hatch.linewidth": 0.5,
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function with the package's settings, and leave the caller's as they were."""

    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(_RC):
            return draw(*args, **kwargs)

    return inner


def colour(number: int) -> str:
    """Colour of a template."""
    return PALETTE[number % len(PALETTE)]


def short(name: int | str) -> str:
    """Name of a unit or trial, cut to what fits beside a panel."""
    text = str(name)
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


def unit_title(name: int | str) -> str:
    """Title of a panel of one unit."""
    return f"unit {short(name)}"


def thin(count: int, width: float) -> float:
    """Width of lines of which ``count`` stand side by side, so that they stay apart."""
    return float(np.clip(_CROWD * width / max(count, 1), 0.3 * width, width))


def check_type(name: str, value: Any, *types: type) -> None:
    """Raise unless ``value`` is of one of the types."""
    if not isinstance(value, types):
        wanted = " or ".join(kind.__name__ for kind in types)
        raise TypeError(f"`{name}` ({type(value).__name__}) must be {wanted}")


def check_position(name: str, value: int, size: int) -> int:
    """Return a position among ``size`` things, or raise."""
    position = validation.integer(name, value, minimum=0)
    if position >= size:
        raise ValueError(f"`{name}` (={value!r}) must be a position below {size}")
    return position


def axes_array(
    axes: Any, shape: tuple[int, int], size: tuple[float, float], **layout: Any
) -> np.ndarray:
    """Return the caller's axes, or those of a new figure, as an array of that shape.

    Raises
    ------
    ValueError
        If the caller's axes are not as many as are drawn.
    """
    if axes is None:
        import matplotlib.pyplot as plt

        _, grid = plt.subplots(*shape, figsize=size, squeeze=False, **layout)
        return grid
    given = np.atleast_1d(np.asarray(axes, dtype=object))
    if given.size != shape[0] * shape[1]:
        raise ValueError(f"`axes` must hold {shape[0] * shape[1]} axes, not {given.size}")
    return given.reshape(shape)


def wrapped(
    axes: Any, count: int, columns: int, size: tuple[float, float], **layout: Any
) -> np.ndarray:
    """Return the caller's axes, or a new figure of panels of that size, in rows of ``columns``."""
    if axes is not None:
        return axes_array(axes, (1, count), size)[0]
    rows = -(-count // columns)
    grid = axes_array(None, (rows, columns), (size[0], size[1] * rows + 0.4), **layout).ravel()
    for spare in grid[count:]:
        spare.remove()
    for ax in grid[count - columns : count]:
        ax.tick_params(labelbottom=True)
    return grid[:count]


def tidy(ax: Axes) -> None:
    """Remove what carries no information and set the ticks, which are made only when drawn."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8.5, length=3, width=0.8, color=MUTED, labelcolor=INK)


def legend_above(ax: Axes) -> None:
    """Put the legend over the upper right corner, outside the data."""
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.1,
        ncols=len(handles),
        handlelength=1.4,
        columnspacing=1.2,
    )


def say_left_out(figure: Figure, shown: int, count: int) -> None:
    """Say over a figure that it does not show all units."""
    if shown < count:
        figure.suptitle(f"first {shown} of {count} units", x=0.01, ha="left", fontsize=9)


def histogram(ax: Axes, values: np.ndarray, edges: np.ndarray, label: str) -> None:
    """Draw data as bars, visible even where they are narrower than a pixel."""
    ax.stairs(values, edges, fill=True, fc=DATA, ec=DATA, linewidth=0.8, label=label)


def baseline(ax: Axes, level: float) -> None:
    """Draw the rate without events."""
    dashes = (0, (4, 3))
    ax.axhline(level, color=INK, linewidth=0.9, linestyle=dashes, label="baseline", zorder=1.8)


def in_bins(bin_size: float) -> bool:
    """Whether times count bins: plain arrays have bins of 1, and no seconds."""
    return bin_size == 1.0


def time_label(bin_size: float) -> str:
    """What the axis of time of a window says."""
    return f"time ({'bins' if in_bins(bin_size) else 's'})"


def edges(counts: BinnedSpikes) -> np.ndarray:
    """Edges of the bins, in seconds."""
    return counts.t_start + counts.bin_size * np.arange(counts.n_bins + 1)


def time_axis(ax: Axes, counts: BinnedSpikes, ticks: int = 8) -> None:
    """Span the whole window."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(*edges(counts)[[0, -1]])
    ax.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))


def row_axis(ax: Axes, ids: Sequence[int | str]) -> None:
    """One row per trial, the first at the top, named by its id."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    count = len(ids)
    height = ax.get_window_extent().height / ax.figure.dpi  # in inches
    most = max(1, int(height / _TICK))
    every = FixedLocator(range(count))
    some = MaxNLocator(min(5, most), integer=True, steps=[1, 2, 5, 10])
    ax.yaxis.set_major_locator(every if count <= min(6, most) else some)
    ax.yaxis.set_major_formatter(
        lambda row, _: short(ids[round(row)]) if -0.5 < row < count - 0.5 else ""
    )
    ax.set(ylabel="trial", ylim=(count - 0.5, -0.5))


def runs(flags: np.ndarray) -> np.ndarray:
    """Stretches of True as (start, stop) positions."""
    steps = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    return np.stack([np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)], axis=1)


def shade(ax: Axes, counts: BinnedSpikes, unseen: np.ndarray, rows: Any = None) -> None:
    """Draw unobserved time grey: ``unseen`` (bin,) over the whole height, or (row, bin) by row."""
    from matplotlib.collections import PolyCollection
    from matplotlib.transforms import blended_transform_factory

    times = edges(counts)
    spans = [(0.0, 1.0)] if rows is None else [(row - 0.5, row + 0.5) for row in rows]
    boxes = [
        [(times[a], low), (times[b], low), (times[b], high), (times[a], high)]
        for (low, high), flags in zip(spans, np.atleast_2d(unseen), strict=True)
        for a, b in runs(flags)
    ]
    if boxes:
        whole = blended_transform_factory(ax.transData, ax.transAxes)
        patches = PolyCollection(
            boxes,
            facecolor=UNSEEN,
            edgecolor="#DADADA",
            linewidth=0,
            hatch="////",
            zorder=0.5,
            transform=whole if rows is None else ax.transData,
            label="_unobserved",
        )
        ax.add_collection(patches, autolim=False)
