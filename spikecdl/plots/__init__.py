"""Figures of spikes, fitted rates, templates and codes.

Every function draws on the axes it is given, or on a new figure, and returns the axes.
"""

from spikecdl.plots.goodness import autocorrelation, ks
from spikecdl.plots.parts import codes, decomposition
from spikecdl.plots.rasters import raster
from spikecdl.plots.rates import rate, rates_figure
from spikecdl.plots.shapes import templates
from spikecdl.plots.training import training_curve

__all__ = [
    "autocorrelation",
    "codes",
    "decomposition",
    "ks",
    "raster",
    "rate",
    "rates_figure",
    "templates",
    "training_curve",
]
