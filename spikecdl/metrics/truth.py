"""What a model found in simulated data against what made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spikecdl.metrics.events import EventRates, event_rates
from spikecdl.metrics.templates import TemplateError, template_error

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data import Decomposition, Truth


@dataclass(frozen=True, eq=False)
class Recovery:
    """How much of the truth a model recovered; made by `recovery`.

    Attributes
    ----------
    templates : TemplateError
        Errors of the true templates.
    events : EventRates
        Hits, misses and false alarms of all templates' events.
    tolerance : float
        Largest distance in seconds that counts as a hit.
    """

    templates: TemplateError
    events: EventRates
    tolerance: float


def recovery(decomposition: Decomposition, tolerance: float | None = None) -> Recovery:
    """Compare templates and events with the truth of the counts that were decomposed.

    Templates are known up to order and shift: found ones are assigned to true ones, and the onsets
    of their events moved by the shift, before events are paired.

    Parameters
    ----------
    decomposition : Decomposition
        Of simulated counts.
    tolerance : float, optional
        Largest distance of an event from a true one, in seconds; default: three bins.

    Raises
    ------
    ValueError
        If the counts hold no truth, or bins of another size than the truth's.

    Examples
    --------
    >>> from spikecdl import DCEA, simulate
    >>> counts = simulate.simulate("poisson", ["vee"], n_trials=8, n_units=1, baseline=20,
    ...                            n_events=3, random_state=0)
    >>> model = DCEA(1, 0.05, "poisson", random_state=0).fit(counts)
    >>> bool(recovery(model.decompose(counts)).templates.max < 0.4)
    True
    """
    counts = decomposition.counts
    if counts.truth is None:
        raise ValueError("`decomposition` is of counts without a truth; simulate them to have one")
    if not np.isclose(counts.truth.bin_size, counts.bin_size):
        raise ValueError(
            f"`decomposition` has bins of {counts.bin_size:g} s, the truth "
            f"{counts.truth.bin_size:g} s; fit with the truth's bins"
        )
    error = template_error(decomposition.templates, counts.truth.templates)
    tolerance = 3 * counts.bin_size if tolerance is None else tolerance
    found = _as_in_truth(decomposition, error, counts.truth)
    true = counts.truth.events.assign(time=counts.truth.events["time"] + counts.t_start)
    return Recovery(error, event_rates(found, true, tolerance), tolerance)


def _as_in_truth(decomposition: Decomposition, error: TemplateError, truth: Truth) -> pd.DataFrame:
    """Return found events with the truth's numbers of trials, units and templates, and onsets."""
    counts, events = decomposition.counts, decomposition.events()
    n_found = len(decomposition.templates)
    # a template that stands for no true one keeps a number that no true one has
    number = np.arange(n_found) + len(truth.templates)
    shift = np.zeros(n_found)
    for true, found in enumerate(error.assignment):
        if found >= 0:
            number[found], shift[found] = true, error.shifts[true]
    units = {unit: i for i, unit in enumerate(counts.unit_ids)}
    return events.assign(
        trial=events["trial"].map({trial: i for i, trial in enumerate(counts.trial_ids)}),
        unit=events["unit"] if decomposition.layout == "joint" else events["unit"].map(units),
        time=events["time"] - shift[events["template"]] * counts.bin_size,
        template=number[events["template"]],
    )
