"""How many events may be under way at a time, and how near those of one template may begin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikecdl.events.counts import Counts
from spikecdl.events.dense import DenseCounts
from spikecdl.events.em import climb, objective
from spikecdl.events.model import EventModel
from spikecdl.events.posterior import EXACT
from spikecdl.events.sampling import anneal
from spikecdl.events.starts import SPACING

_SPACINGS = (1.0, SPACING)  # least distances of onsets of one template, in lengths
_LEAST_NATS, _LEAST_GAIN = 10.0, 0.01  # that more overlap must gain, and a smaller distance
_FIRST_STEPS, _STEPS = 3, 12  # of EM, after which overlaps are compared


def choose_overlap(
    counts: Counts,
    model: EventModel,
    rng: np.random.Generator,
    learn_templates: bool = True,
    distance: int | None = None,
) -> EventModel:
    """Return the model with as much overlap of events as raises its evidence.

    Models of one event and of two at a time are compared by their exact evidence; two and three, by
    that of annealed importance sampling of both.  A ``distance`` of None is chosen, too; a smaller
    one must raise the evidence by 1 % of what events gain.
    """
    best, highest = climb(counts, replace(model, overlap=1, distance=0), _STEPS, learn_templates)
    model = model if model.overlap > 1 else best
    none = float(counts.expect(model.take([])).evidence.sum())
    enough = _LEAST_NATS
    known = [round(part * model.length) for part in _SPACINGS] if distance is None else [distance]
    for each in known:
        two = replace(model, overlap=EXACT, distance=each)
        value = objective(two, counts.expect(two))
        if value > highest - _LEAST_NATS:
            two, value = climb(counts, two, _FIRST_STEPS, learn_templates)
        if value > highest and learn_templates:  # which takes longer than rates
            two, value = climb(counts, two, _STEPS)
        if value > highest + enough:
            best = model = two
            highest = value
            enough = max(_LEAST_NATS, _LEAST_GAIN * (highest - none))
    if best.overlap == 1 or not isinstance(counts, DenseCounts):
        return best
    more = replace(best, overlap=EXACT + 1)
    gain = anneal(counts, more, rng)[1] - anneal(counts, best, rng)[1]
    return more if gain.sum() > _LEAST_NATS else best
