"""What counts say of their events: tables, expected rates, and the evidence of windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from spikecdl.events import em
from spikecdl.events.counts import Counts
from spikecdl.events.dense import DenseCounts
from spikecdl.events.model import EventModel
from spikecdl.events.sampling import EXACT, anneal, average_runs, sampled_baseline
from spikecdl.events.table import LEAST_PROBABILITY, describe_events, list_events
from spikecdl.solvers.events import Events


def posterior(
    counts: Counts, model: EventModel, rng: np.random.Generator | None = None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
    """Yield windows, probabilities of their events, and what drawn ones add; see `Counts`."""
    if model.overlap <= EXACT:
        yield from counts.posterior(model, rng)
        return
    assert isinstance(counts, DenseCounts)  # `spikecdl.training.marginal.counts_of`
    rng = rng or np.random.default_rng(0)
    for part in counts.pieces(model):
        yield part, *average_runs(counts.take(part), model, rng)


def event_table(
    counts: Counts, model: EventModel, width: int, listed: Events | None = None
) -> np.ndarray:
    """Return a table of events (event, column) with the columns `COLUMNS`, times in bins.

    The probability of an event is that it begins at most ``width`` bins from its onset.  Without a
    list, the events are those of probability 1/2 or more.
    """
    tables = []
    for part, chance, _ in posterior(counts, model):
        if listed is None:
            table = list_events(chance, model.amplitudes, width, LEAST_PROBABILITY)
        else:
            mine = listed.within(part.start, part.stop)
            places = (x.numpy() for x in (mine.window, mine.template, mine.onset))
            table = describe_events(chance, model.amplitudes, width, *places)
        table[:, 0] += part.start
        tables.append(table)
    return np.concatenate(tables)


def with_baseline(counts: Counts, model: EventModel) -> EventModel:
    """Return the model with the baselines that are most likely, all else as it is.

    They are sought from its own on, or from the mean counts if these are likelier.
    """
    if not counts.learn_baseline:
        return model
    if not _begins_well(counts, model):
        alone = em.with_baseline(counts, replace(model, overlap=1, baseline=counts.start))
        if model.overlap == 1:
            return alone
        model = replace(alone, overlap=model.overlap)  # soon there, and not far from it
    if model.overlap <= EXACT:
        return em.with_baseline(counts, model)
    assert isinstance(counts, DenseCounts)
    return sampled_baseline(counts, model)  # where that of fewer chains is too high


def _begins_well(counts: Counts, model: EventModel) -> bool:
    """Return whether baselines of a model are likelier than those of mean counts."""
    if np.array_equal(model.baseline, counts.start):
        return False
    mine, mean = (
        counts.expect(replace(model, overlap=1, baseline=level)).evidence.sum()
        for level in (model.baseline, counts.start)
    )
    return bool(mine > mean)


def evidence(counts: Counts, model: EventModel) -> np.ndarray:
    """Return the log likelihood (window,) up to a constant; if sampled, a lower bound of it."""
    if model.overlap <= EXACT:
        return counts.expect(model).evidence
    assert isinstance(counts, DenseCounts)
    rng, parts = np.random.default_rng(0), counts.pieces(model)
    return np.concatenate([anneal(counts.take(part), model, rng)[1] for part in parts])
