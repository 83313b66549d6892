"""The look of all figures: colours, sizes, labels, axes, unobserved time, and files of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl import validation
from spikecdl.data import BinnedSpikes, Decomposition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Units = Sequence[int] | None  # positions of units; None: the first ones
Window = tuple[float, float] | None  # start and stop in seconds

# Okabe and Ito's palette for colour-blind readers, without the yellow, which is faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#222222"
DATA = "#A9AFB5"
MUTED = "#6B7075"
UNSEEN = "#EFEFEF"
DASHES = (0, (4, 3))
COLUMN, PAGE = 3.5, 7.2  # widths in inches: of one column of a journal, and of two
TICKS: dict[str, Any] = {"length": 3, "width": 0.8, "color": MUTED}
TICKS |= {"labelsize": 7.5, "labelcolor": INK}
BARS: dict[str, Any] = {"fill": True, "fc": DATA, "ec": DATA, "linewidth": 0.8}  # of histograms


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(fname=Path(__file__).with_name("spikecdl.mplstyle")):
        yield


styled = _styled()
"""Decorator: lets a function draw in the style of the package, without changing the caller's."""

# Text stays text: TrueType fonts in PDF, and no outlines of letters in SVG.
_FILE: dict[str, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "spikecdl"}
_NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def save(drawn: Any, file: Any, *, format: str | None = None, dpi: float = 200) -> None:
    """Save a figure for a paper: text in PDF and SVG can be edited, and no date is written.

    Parameters
    ----------
    drawn : Figure, Axes or array of Axes
        What a function of this module returned.
    file : path or binary file
        Its suffix is the format, unless ``format`` is given: png, pdf, svg, or another one that
        matplotlib knows (ValueError if it does not).
    format : str, optional
        The format of a binary file.
    dpi : float
        Dots per inch of what is not drawn as lines.

    Examples
    --------
    >>> import io
    >>> from spikecdl.plots import raster, save
    >>> from spikecdl.data import BinnedSpikes
    >>> picture = io.BytesIO()
    >>> save(raster(BinnedSpikes.from_array([[0, 1, 0, 1]])), picture, format="svg")
    >>> b"<text" in picture.getvalue()
    True
    """
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    first = np.ravel(np.asarray(drawn, dtype=object))[0]
    check_type("drawn", first, Figure, Axes)
    figure = first if isinstance(first, Figure) else first.figure
    kind = format or Path(file).suffix[1:]
    with matplotlib.rc_context(_FILE):
        figure.savefig(file, format=kind, dpi=dpi, metadata=_NO_DATE.get(kind))


def colour(number: int) -> str:
    """Colour of a template."""
    return PALETTE[number % len(PALETTE)]


def short(name: int | str) -> str:
    """Name of a unit or trial, shortened to fit beside a panel, as text and not as mathematics."""
    text = str(name)
    text = text if len(text) <= 16 else text[:15] + "…"
    return text.replace("$", r"\$")


def unit_title(name: int | str) -> str:
    """Title of a panel of one unit."""
    return f"unit {short(name)}"


def thin(count: int, width: float) -> float:
    """Width at which ``count`` lines stay apart, at most ``width``; 120 of that width do."""
    return float(np.clip(120 * width / max(count, 1), 0.3 * width, width))


def counts_of(source: Decomposition | BinnedSpikes) -> BinnedSpikes:
    """Return the counts of a source of rates, or raise TypeError if it is none."""
    check_type("source", source, Decomposition, BinnedSpikes)
    return source.counts if isinstance(source, Decomposition) else source


def check_type(name: str, value: Any, *types: type) -> None:
    """Raise TypeError unless ``value`` is of one of the types."""
    if not isinstance(value, types):
        names = [kind.__name__ for kind in types]
        remedy = "; wrap an array with BinnedSpikes.from_array" * ("BinnedSpikes" in names)
        raise TypeError(f"`{name}` ({type(value).__name__}) must be {' or '.join(names)}{remedy}")


def check_position(name: str, value: int, size: int) -> int:
    """Return a position among ``size`` things, or raise."""
    if validation.integer(name, value, minimum=0) >= size:
        raise ValueError(f"`{name}` (={value!r}) must be a position below {size}")
    return int(value)


def shown_units(units: Units, n_units: int, most: int) -> list[int]:
    """Return checked positions of units; the first ones, at most ``most``, if they are None."""
    if units is None:
        return list(range(min(n_units, most)))
    return [check_position("units", unit, n_units) for unit in units]


def given_axes(ax: Any, axes: Any) -> np.ndarray | None:
    """Return the axes of the arguments `ax` and `axes` of a figure, which mean the same, if any."""
    from matplotlib.axes import Axes

    if ax is not None and axes is not None:
        raise ValueError("`ax` and `axes` are both given; give one of them")
    if ax is None and axes is None:
        return None
    name, value = ("axes", axes) if ax is None else ("ax", ax)
    found = np.atleast_1d(np.asarray(value, dtype=object))
    for each in found.flat:
        if not isinstance(each, Axes):
            raise TypeError(f"`{name}` ({type(each).__name__}) must be matplotlib Axes, or several")
    return found


def axes_array(
    axes: np.ndarray | None, shape: tuple[int, int], size: tuple[float, float], **layout: Any
) -> np.ndarray:
    """Return the given axes, or those of a new figure of that size, as an array of that shape.

    They get the look of the package: ticks, and no upper and right spines.
    """
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots(*shape, figsize=size, squeeze=False, **layout)[1]
    elif axes.size != shape[0] * shape[1]:
        raise ValueError(
            f"`axes` must hold {shape[0] * shape[1]} axes, not {axes.size}; make them with "
            f"plt.subplots({shape[0]}, {shape[1]})"
        )
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(**TICKS)
    return axes.reshape(shape)


def panel(ax: Any, axes: Any, size: tuple[float, float]) -> Any:
    """Return the one of the arguments `ax` and `axes`, or the axes of a new figure."""
    return axes_array(given_axes(ax, axes), (1, 1), size)[0, 0]


def wrapped(
    axes: np.ndarray | None, count: int, columns: int, size: tuple[float, float], **layout: Any
) -> np.ndarray:
    """Return ``count`` given axes, or panels of a new figure, in rows of that size."""
    if axes is not None:
        return axes_array(axes, (1, count), size)[0]
    rows = -(-count // columns)
    grid = axes_array(None, (rows, columns), (size[0], size[1] * rows + 0.4), **layout).ravel()
    for spare in grid[count:]:
        spare.remove()
    for ax in grid[count - columns : count]:
        ax.tick_params(labelbottom=True)
    return grid[:count]


def label_outer(grid: np.ndarray, columns: int, every_ylabel: bool = False) -> None:
    """Leave labels of panels in rows to those at the left and those with none below."""
    for ax in grid[:-columns]:
        ax.set_xlabel("")
    for ax in () if every_ylabel else np.delete(grid, slice(None, None, columns)):
        ax.set_ylabel("")


def legend_above(ax: Axes) -> None:
    """Put the legend over the upper right corner, outside the data."""
    handles, labels = ax.get_legend_handles_labels()
    look = {"borderaxespad": 0.1, "handlelength": 1.4, "columnspacing": 1.2, "ncols": len(labels)}
    ax.legend(handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), **look)


def legend_outside(ax: Axes) -> Any:
    """Name the lines of one panel above its figure, and return the figure."""
    handles, labels = ax.get_legend_handles_labels()
    ax.figure.legend(handles, labels, loc="outside upper right", ncols=len(handles))
    return ax.figure


def legend_of_templates(figure: Figure, count: int) -> None:
    """Name the colours of templates above a figure."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour(k), label=f"template {k}") for k in range(count)]
    most = max(1, int(figure.get_figwidth() / 1.2))
    figure.legend(handles=lines, loc="outside upper right", ncols=min(count, most))


def left_out(shown: int, count: int, noun: str = "unit", which: str = "first ") -> str:
    """How many of the units, or others, a figure shows, if not all."""
    return f"{which}{shown} of {validation.counted(count, noun)}" if shown < count else ""


def title_above(figure: Figure, *parts: str) -> None:
    """Write above a figure what it shows, if there is something to say."""
    if any(parts):
        figure.suptitle(" · ".join(filter(None, parts)), x=0.01, ha="left")


def say_why_empty(ax: Axes, why: str) -> None:
    """Write in the middle of a panel why it is empty."""
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color=MUTED)


def baseline(ax: Axes, rate: float) -> None:
    """Draw the rate without events."""
    ax.axhline(rate, color=INK, linewidth=0.9, linestyle=DASHES, label="baseline", zorder=1.8)


def in_bins(bin_size: float) -> bool:
    """Whether times are in bins, not in seconds: plain arrays have bins of size 1."""
    return bin_size == 1.0


def short_times(bin_size: float) -> tuple[float, str]:
    """Return the bin size in milliseconds, or 1 if times are in bins, and the unit."""
    return (1.0, "bins") if in_bins(bin_size) else (1e3 * bin_size, "ms")


def time_label(bin_size: float, origin: str = "") -> str:
    """Label of the time axis of a window, which may begin at an onset or a peak."""
    return f"time{f' from {origin}' * bool(origin)} ({'bins' if in_bins(bin_size) else 's'})"


def edges(counts: BinnedSpikes) -> np.ndarray:
    """Edges of the bins, in seconds."""
    return counts.t_start + counts.bin_size * np.arange(counts.n_bins + 1)


def time_axis(ax: Axes, counts: BinnedSpikes) -> None:
    """Let the time axis span the window, with labels that do not touch."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(*edges(counts)[[0, -1]])
    width = ax.get_window_extent().width / ax.figure.dpi
    most = int(width / 0.5)  # inches for each label
    ticks = MaxNLocator(max(2, min(8, most)), steps=[1, 2, 2.5, 5, 10])
    ax.xaxis.set_major_locator(ticks)


def row_axis(ax: Axes, ids: Sequence[int | str]) -> None:
    """Label rows of trials with their ids, the first row at the top."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    count = len(ids)
    height = ax.get_window_extent().height / ax.figure.dpi
    most = max(1, int(height / 0.15))  # inches for each label
    some = MaxNLocator(min(5, most), integer=True, steps=[1, 2, 5, 10])
    ax.yaxis.set_major_locator(FixedLocator(range(count)) if count <= min(6, most) else some)
    ax.yaxis.set_major_formatter(
        lambda row, _: short(ids[round(row)]) if -0.5 < row < count - 0.5 else ""
    )
    ax.set(ylabel="trial", ylim=(count - 0.5, -0.5))


def marks(
    ax: Axes,
    times: np.ndarray,
    ends: Any,
    colour: str,
    opacity: np.ndarray,
    rows: int,
    width: float,
) -> None:
    """Draw vertical lines in that many rows of an axis; none is lost where rows are thin.

    A line is at least a point high, which is a pixel or more, and is not moved to whole pixels.
    Where it is higher than its row, it is paler, as lines of many rows overlap. With 0
    rows, lines are as they are given.
    """
    from matplotlib.colors import to_rgba_array

    point = rows / (72 * ax.get_window_extent().height / ax.figure.dpi)  # in rows
    (low, high), colours = ends, to_rgba_array(colour, opacity / np.sqrt(max(point, 1)))
    half = np.copysign(np.maximum(np.abs(high - low), point), high - low) / 2
    middle = (low + high) / 2
    ax.vlines(times, middle - half, middle + half, colours, linewidth=width, snap=False)


def shade(ax: Axes, counts: BinnedSpikes, unseen: np.ndarray, rows: Any = None) -> None:
    """Hatch unobserved time: ``unseen`` (bin,) over the whole height, or (row, bin) by row."""
    from matplotlib.collections import PolyCollection
    from matplotlib.transforms import blended_transform_factory

    times = edges(counts)
    spans = [(0.0, 1.0)] if rows is None else [(row - 0.5, row + 0.5) for row in rows]
    boxes = []
    for (low, high), flags in zip(spans, np.atleast_2d(unseen), strict=True):
        changes = np.flatnonzero(np.diff(flags, prepend=False, append=False))
        for left, right in times[changes].reshape(-1, 2):
            boxes.append([(left, low), (right, low), (right, high), (left, high)])
    if boxes:
        whole = blended_transform_factory(ax.transData, ax.transAxes)
        look: dict[str, Any] = {"transform": whole if rows is None else ax.transData, "zorder": 0.5}
        look |= {"facecolor": UNSEEN, "edgecolor": "#DADADA", "linewidth": 0, "hatch": "////"}
        ax.add_collection(PolyCollection(boxes, label="_unobserved", **look), autolim=False)
