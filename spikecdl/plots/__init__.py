"""Figures of spikes, fitted rates, templates and codes.

Every function draws on the axes that it is given, as ``ax=`` or ``axes=``, or on a new figure of
the width of one or two columns of a journal, and returns the axes; `save` writes them to a file.
Times are in seconds, in bins for plain arrays. Arguments of the wrong type raise TypeError; units
or trials that do not exist, and the wrong number of axes, raise ValueError.
"""

from spikecdl.plots.diagnostics import (
    autocorrelation,
    history,
    ks,
    selection,
    signals,
    training_curve,
    triggered,
    unit_order,
)
from spikecdl.plots.events import (
    codes,
    conditions,
    event_figure,
    event_raster,
    population_raster,
)
from spikecdl.plots.rates import raster, rate, rates_figure
from spikecdl.plots.style import save
from spikecdl.plots.template_panels import decomposition, templates
