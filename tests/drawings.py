"""A small fit to draw, and what can be read from drawn axes."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pandas as pd
from decompositions import made_up
from matplotlib.collections import LineCollection
from matplotlib.patches import StepPatch

import spikecdl
from spikecdl.data import Decomposition
from spikecdl.evaluation.goodness_of_fit import TimeRescaling, of_decomposition
from spikecdl.model.families import FAMILIES
from spikecdl.training import NotConvergedWarning

NO_EVENTS = pd.DataFrame(columns=["trial", "unit", "template", "time", "amplitude"])


@functools.cache
def fitted() -> tuple[spikecdl.DCEA, Decomposition]:
    """Return a model of two templates, and the decomposition of its counts."""
    counts = made_up("poisson", trials=6, units=2, bins=100, n_pooled=20).counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        model = spikecdl.DCEA(2, 0.06, "poisson", n_epochs=2, random_state=0).fit(counts)
    return model, model.decompose(counts)


def rescaled(parts: Decomposition) -> TimeRescaling:
    """Return the test of a decomposition in rescaled time."""
    found = of_decomposition(parts, FAMILIES[parts.family.name]())
    assert found is not None
    return found


def axes_of(thing) -> list:
    if hasattr(thing, "axes") and hasattr(thing, "savefig"):
        return thing.axes
    return list(np.atleast_1d(np.asarray(thing, dtype=object)).ravel())


def title(ax) -> str:
    return ax.get_title(loc="left")


def line(ax, label):
    (found,) = [artist for artist in ax.lines if artist.get_label() == label]
    return found


def histogram(ax):
    (found,) = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
    return found.get_data()


def marks(ax) -> np.ndarray:
    """Segments of vertical lines: (mark, end, (x, y))."""
    segments = [
        s for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments()
    ]
    return np.array(segments).reshape(-1, 2, 2)


def shades(ax) -> list[tuple[float, float]]:
    """Start and stop of each stretch marked as unobserved."""
    boxes = [c for c in ax.collections if c.get_label() == "_unobserved"]
    paths = [path.vertices[:, 0] for box in boxes for path in box.get_paths()]
    return sorted((round(x.min(), 9), round(x.max(), 9)) for x in paths)
