"""From the posterior of events to a list of events."""

from __future__ import annotations

import numpy as np
import torch

from spikecdl import kernels
from spikecdl.solvers.events import Events

#: Columns of a table of events, with times in bins.
COLUMNS = tuple("window template onset probability time time_sd amplitude".split())

NEAR = 0.125  # of a template's length, within which an event is the same event
LEAST_PROBABILITY = 0.5  # of an event that is listed

_list_events = kernels.function("list_events")
_describe_events = kernels.function("describe_events")


def to_events(table: np.ndarray) -> Events:
    """Return the events of a table (event, column), with their mean amplitudes."""
    window, template, onset = torch.from_numpy(table[:, :3]).long().T
    amplitude = torch.from_numpy(table[:, COLUMNS.index("amplitude")].copy())
    return Events(window, template, onset, amplitude)


def list_events(
    posterior: np.ndarray, amplitudes: np.ndarray, width: int, least: float
) -> np.ndarray:
    """List the events of posterior probability ``least`` or more.

    An event's probability is that one of the template begins at most ``width`` bins from the
    onset where this probability is highest.  The columns of the list are `COLUMNS`: the onset is
    the nearest bin; times, which lie between bins, are means and standard deviations, and
    amplitudes means, given the event.
    Events are sorted by window, template and onset.

    Parameters
    ----------
    posterior : ndarray, shape (window, template, amplitude, onset)
    amplitudes : ndarray, shape (template, amplitude)
    width : int
        In bins.
    least : float
    """
    table = np.empty((int(posterior.sum() / least) + 1, len(COLUMNS)))
    return table[: _list_events(posterior, amplitudes, width, least, table)]


def describe_events(
    posterior: np.ndarray,
    amplitudes: np.ndarray,
    width: int,
    window: np.ndarray,
    template: np.ndarray,
    onset: np.ndarray,
) -> np.ndarray:
    """Describe given events in the columns of `list_events`, their onsets as they are."""
    table = np.empty((len(window), len(COLUMNS)))
    _describe_events(posterior, amplitudes, width, window, template, onset, table)
    return table
