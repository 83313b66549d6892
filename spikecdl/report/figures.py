"""All figures of a fit, and their content as PNG files."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains, Truth
    from spikecdl.estimator import DCEA

DPI = 150

_ORDER = ("templates", "rates", "codes", "decomposition", "ks", "training")


def draw_figures(
    model: DCEA,
    decomposition: Decomposition,
    *,
    spikes: SpikeTrains | BinnedSpikes | None = None,
    truth: Truth | None = None,
) -> dict[str, Figure]:
    """Draw all figures of a fit.

    Parameters
    ----------
    model : DCEA
        A fitted model.
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    spikes : BinnedSpikes or SpikeTrains, optional
        Source of the rasters if ``counts`` are pooled; see `spikecdl.plots.rate`.
    truth : Truth, optional
        Drawn over the templates. A truth with other bins or channels than the model's is ignored.

    Returns
    -------
    dict of str to Figure
        ``templates``, ``rates``, ``codes``, ``decomposition`` (of the window with most spikes),
        ``ks`` (counts only) and ``training``, in this order. No figure is shown or left open.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(0.2, size=(10, 100))
    >>> counts[:, 20:25] += 2
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> list(draw_figures(model, model.decompose(counts)))
    ['templates', 'rates', 'codes', 'decomposition', 'ks', 'training']
    """
    import matplotlib.pyplot as plt

    from spikecdl import plots
    from spikecdl.evaluation.goodness_of_fit import of_decomposition

    trial, unit = np.unravel_index(
        np.abs(decomposition.counts.counts).sum(axis=-1).argmax(), decomposition.baseline.shape
    )
    axes = {
        "templates": plots.templates(decomposition, comparable(truth, decomposition))[..., 0],
        "codes": plots.codes(decomposition)[0],
        "decomposition": plots.decomposition(decomposition, int(trial), int(unit))[0],
        "training": plots.training_curve(model),
    }
    rescaling = of_decomposition(decomposition, model.family)
    if rescaling is not None:
        axes["ks"] = plots.ks(rescaling)[0]
    drawn = {name: np.atleast_1d(ax)[0].figure for name, ax in axes.items()}
    drawn["rates"] = plots.rates_figure(decomposition, spikes)
    for figure in drawn.values():
        plt.close(figure)
    return {name: drawn[name] for name in _ORDER if name in drawn}


def comparable(truth: Truth | None, decomposition: Decomposition) -> Truth | None:
    """Return the truth if its templates have the bins and channels of the decomposition's."""
    if truth is None or not math.isclose(truth.bin_size, decomposition.counts.bin_size):
        return None
    same = truth.templates.shape[1] == decomposition.templates.shape[1]
    return truth if same else None


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file, at 150 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
