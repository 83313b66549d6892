"""Rasters on pixels: no row is lost, however many there are and however thin they are drawn."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from decompositions import made_up

from spikecdl import plots
from spikecdl.data import BinnedSpikes

ROWS = [1, 2, 7, 30, 100, 157, 200, 365, 400, 1000, 2500, 5000]


def darkness_of_rows(ax, dpi: int) -> tuple[np.ndarray, float, float]:
    """Return the darkest ink (0 to 1) in each row of pixels of a panel, and its top and height."""
    ax.figure.savefig(file := io.BytesIO(), format="png", dpi=dpi)
    file.seek(0)
    picture = plt.imread(file)[..., :3].mean(-1)
    box = ax.get_position()
    height, width = picture.shape
    left, right = round(box.x0 * width) + dpi // 25, round(box.x1 * width) - dpi // 25
    return 1 - picture[:, left:right].min(1), (1 - box.y1) * height, box.height * height


@pytest.mark.parametrize("dpi", [80, 200])
@pytest.mark.parametrize(
    ("figure", "n_rows"),
    [
        (figure, n)
        for figure in ("rate", "raster", "codes")
        for n in ROWS
        if n > 1 or figure != "codes"
    ],
)
def test_rows_with_spikes_leave_ink_where_they_are_and_others_none(figure, n_rows, dpi):
    filled = np.random.default_rng(n_rows).random(-(-n_rows // 20)) < 0.5
    filled = np.repeat(filled, 20)[:n_rows]  # stretches of rows with spikes, and of rows without
    filled[0] = True
    rows = np.flatnonzero(filled)
    spikes = np.zeros((n_rows, 1, 100), int)
    spikes[rows, 0, 30 + 7 * rows % 40] = 1
    if figure == "codes":
        parts = made_up(trials=n_rows, bins=100, units=1, n_templates=1)
        object.__setattr__(parts, "codes", spikes[:, :, np.newaxis].astype(float))
        ax = plots.codes(parts)[0]
        ax.figure.legends[0].remove()
    else:
        ax = np.ravel(getattr(plots, figure)(BinnedSpikes.from_array(spikes, 0.005)))[0]
    dark, top, height = darkness_of_rows(ax, dpi)
    plt.close("all")
    middle = top + (rows + 0.5) * height / n_rows
    whole = (middle > top + 1) & (middle < top + height - 1)  # panels begin and end within a pixel
    assert dark[middle[whole].astype(int)].min(initial=1) > 0.02

    blank = np.ones(len(dark), bool)
    for at in middle:
        reach = 1.5 + max(0.45 * height / n_rows, dpi / 144)
        blank[max(0, int(at - reach)) : int(at + reach) + 1] = False
    inside = slice(int(top) + 2, int(top + height) - 2)  # without the line of the axis
    assert not dark[inside][blank[inside]].any()


@pytest.mark.parametrize("dpi", [80, 200])
def test_rows_of_every_event_leave_ink(dpi):
    parts = made_up(trials=365, units=1, n_templates=1, n_events=1)
    spikes = np.ones(parts.counts.shape, int)
    object.__setattr__(parts, "counts", BinnedSpikes.from_array(spikes, 0.005))
    ax = plots.event_raster(parts)[0]
    dark, top, height = darkness_of_rows(ax, dpi)
    assert dark[int(np.ceil(top)) : int(top + height)].min() > 0.2
