"""Figures of spikes, fitted rates, templates and codes.

Every function draws on the axes that it is given, or on a new figure, and returns the axes. Times
are in seconds, in bins for plain arrays. Arguments of the wrong type raise TypeError; units or
trials that do not exist, and the wrong number of axes, raise ValueError.
"""

from spikecdl.plots.decompositions import codes, decomposition
from spikecdl.plots.diagnostics import autocorrelation, history, ks, selection, training_curve
from spikecdl.plots.rates import raster, rate, rates_figure
from spikecdl.plots.template_panels import templates

__all__ = [
    "autocorrelation",
    "codes",
    "decomposition",
    "history",
    "ks",
    "raster",
    "rate",
    "rates_figure",
    "selection",
    "templates",
    "training_curve",
]
