"""What a model found in simulated data against what made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spikecdl.evaluation.metrics.events import EventRates, event_rates
from spikecdl.evaluation.metrics.templates import TemplateError, template_error

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


def comparable(decomposition: Decomposition) -> bool:
    """Return whether counts hold a truth of the same bins, layout and channels as the model.

    Parameters
    ----------
    decomposition : Decomposition
        Of any counts.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(0.2, size=(20, 200))
    >>> counts[:, 50:55] += 2
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> comparable(model.decompose(counts))
    False
    """
    return _mismatch(decomposition) is None


def recovery(decomposition: Decomposition, tolerance: float | None = None) -> Recovery:
    """Compare templates and events with the truth of the counts that were decomposed.

    Templates are known up to order and shift, and up to sign if codes have both signs: found ones
    are assigned to true ones, and the onsets of their events moved by the shift, before events are
    paired.

    Parameters
    ----------
    decomposition : Decomposition
        Of simulated counts.
    tolerance : float, optional
        Largest distance of an event from a true one, in seconds; default: three bins.

    Raises
    ------
    ValueError
        If the counts hold no truth, or its bins, layout or channels are not the model's.

    Examples
    --------
    >>> from spikecdl import DCEA, simulate
    >>> counts = simulate.simulate("binomial", ["square"], n_units=3, baseline=20.0, n_events=3,
    ...                            same_events=True, random_state=0).pool()
    >>> model = DCEA(1, 0.05, "binomial", random_state=0).fit(counts)
    >>> recovery(model.decompose(counts)).events.hit_rate
    1.0
    """
    counts, truth = decomposition.counts, decomposition.counts.truth
    mismatch = _mismatch(decomposition)
    if truth is None or mismatch is not None:
        raise ValueError(mismatch)
    two_sided = bool((decomposition.codes < 0).any())  # then signs are a convention
    error = template_error(decomposition.templates, truth.templates, sign=two_sided)
    tolerance = 3 * counts.bin_size if tolerance is None else tolerance
    found = _as_in_truth(decomposition, error, truth)
    true = truth.events.assign(time=truth.events["time"] + counts.t_start)
    return Recovery(error, event_rates(found, true, tolerance), tolerance)


def _mismatch(decomposition: Decomposition) -> str | None:
    """Say why model and truth cannot be compared; None if they can."""
    counts, truth = decomposition.counts, decomposition.counts.truth
    if truth is None:
        return "`decomposition` is of counts without a truth; simulate them to have one"
    if not np.isclose(truth.bin_size, counts.bin_size):
        return (
            f"`decomposition` has bins of {counts.bin_size:g} s, the truth {truth.bin_size:g} s; "
            "fit with the truth's bins"
        )
    if truth.layout != decomposition.layout:
        return (
            f"`decomposition` has the layout {decomposition.layout!r}, the truth "
            f"{truth.layout!r}; fit with the truth's layout"
        )
    return None


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
