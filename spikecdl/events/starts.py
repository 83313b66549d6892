"""The search for templates: starts from many stretches, the most likely model of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from spikecdl.events.counts import Counts
from spikecdl.events.em import climb, objective, without_events
from spikecdl.events.model import EventModel

#: Takes a step of a fit that is kept in its checkpoint: a name, what computes tensors, and a
#: source of randomness.
Step = Callable[[str, Callable[[], dict[str, Tensor]], np.random.Generator], dict[str, Tensor]]

_ENOUGH_BINS = 30_000  # that starts are found in
_PADDING = 0.4  # bins learned beyond a template, as a fraction of its length
_STRETCHES = 32  # drawn, for each template
_OCCUPANCY = 0.15  # of the time by a template that is learned alone
_SHARPEST = 5  # candidates per template that are learned alone
_PROBABLE = 0.5  # events, near which no other template is sought
_FINALISTS = 2  # candidates per template that are learned with the others
_ALIKE, _ALIKE_ROW = 0.5, 0.9  # cosine of templates that are the same, with many rows or with one
_ALONE, _TOGETHER, _WITHOUT, _AFTER, _LAST = 3, 6, 2, 4, 60  # steps of EM
CROWDED = 0.4  # share of the time taken by events, from which overlaps matter to a search
SPACING = 0.25  # least distance of onsets of one template whose events overlap, in lengths
_LEAST_GAIN = 10.0  # nats, that a template must add
_SAME_NATS, _SAME_GAIN, _SAME_COSINE = 3.0, 0.01, 0.9  # of starts that have found the same optimum


@dataclass(frozen=True)
class Search:
    """What a search has found.

    ``model`` is the most likely one, ``other`` the templates of the best other optimum and ``gap``
    how much lower its objective is (nats; None if all starts agree), ``n_starts`` their number, and
    ``n_found`` how many found the best optimum.
    """

    model: EventModel
    other: np.ndarray | None
    gap: float
    n_starts: int
    n_found: int

    def as_tensors(self) -> dict[str, Tensor]:
        """Return how far starts agree: tensors that are numbers, or have a row per template."""
        found = {"n_starts": torch.tensor(self.n_starts), "n_agree": torch.tensor(self.n_found)}
        if self.other is not None and self.other.any((1, 2)).all():
            gap = torch.tensor(self.gap, dtype=torch.float64)
            found |= {"other_start": torch.from_numpy(self.other), "start_gap": gap}
        return found


@dataclass(frozen=True)
class Wanted:
    """What is searched for: templates and their bins, in at most so many starts.

    ``nonnegative`` says which templates do not fall below zero, and ``overlap`` how many events may
    be under way at a time; ``n_knots`` are those of the rate of events, if it is not constant.
    ``known`` is a model to begin with.
    """

    n_templates: int
    length: int
    most_starts: int
    nonnegative: tuple[bool, ...]
    overlap: int = 2
    n_knots: int = 0
    known: EventModel | None = None


def search(counts: Counts, wanted: Wanted, rng: np.random.Generator, step: Step) -> Search:
    """Return the most likely model of several starts, on a bounded part of the counts.

    Starts end when the best optimum has been found twice, or there were as many as may be.  A model
    that is known and has events counts as a start.
    Where events fill much of the time, every second start is that of packed events: sequences that
    follow one another without a gap are not told apart by templates that are longer than they are.
    """
    length = wanted.length
    part = counts.part(_ENOUGH_BINS, length)
    found: list[tuple[EventModel, float]] = []
    null = without_events(part, length)
    least = objective(null, part.expect(null))

    def start(number: int) -> dict[str, Tensor]:
        crowded = bool(found) and occupancy(part, found[0][0]) > CROWDED
        packed = crowded and wanted.overlap > 1 and number % 2 == 1
        known = wanted.known if number == 0 else None
        if known is None or not known.has_events.any():
            known = _built(part, wanted.n_templates, length, rng, packed)
        model = known.filled(wanted.n_templates)
        model = model.bounded(wanted.nonnegative).with_timing(wanted.n_knots)
        model, value = climb(part, model, _LAST)
        return model.as_tensors() | {"value": torch.tensor(value, dtype=torch.float64)}

    for number in range(wanted.most_starts):
        tensors = step(f"start {number + 1}", partial(start, number), rng)
        found.append((EventModel.from_tensors(tensors), float(tensors["value"])))
        found.sort(key=lambda each: -each[1])
        agree = [_same(found[0], each, least) for each in found]
        if sum(agree) > 1:
            break
    best = found[0]
    others = [each for each, same in zip(found, agree, strict=True) if not same]
    other, gap = (others[0][0].templates, best[1] - others[0][1]) if others else (None, 0.0)
    return Search(best[0], other, gap, len(found), sum(agree))


def occupancy(counts: Counts, model: EventModel) -> float:
    """Return the share of the time that events take."""
    number = float(counts.expect(model).number.sum())
    return number * model.length / (counts.shape[0] * counts.shape[2])


def _same(one: tuple[EventModel, float], other: tuple[EventModel, float], least: float) -> bool:
    """Return whether two starts have found one optimum, whose gain is that over the least."""
    near = abs(one[1] - other[1]) <= max(_SAME_NATS, _SAME_GAIN * (one[1] - least))
    return near and similarity(one[0].templates, other[0].templates) > _SAME_COSINE


def _built(
    counts: Counts, n_templates: int, length: int, rng: np.random.Generator, packed: bool
) -> EventModel:
    """Return templates learned from a start.

    Templates are added one at a time, more than asked, each the best of several stretches outside
    the events there are, which would draw most stretches to them.  Those of which the loss costs
    least are then left out one by one.  Templates are learned longer than asked and cropped to the
    bins of most energy, which fixes their shift; those that are ``packed`` have their length from
    the beginning, and may overlap.
    """
    longer = length if packed else min(length + round(_PADDING * length), counts.shape[2])
    null = without_events(counts, longer)
    model = replace(null, overlap=2, distance=round(SPACING * length)) if packed else null
    taken = np.zeros((counts.shape[0], counts.shape[2] - longer + 1), np.bool_)
    for _ in range(n_templates + max(1, n_templates // 2)):
        alone = _alone(counts, null, rng, taken)
        tried = [climb(counts, model.joined(one), _TOGETHER) for one in alone[:_FINALISTS]]
        if not tried:
            break
        model, _ = max(tried, key=lambda each: each[1])
        taken |= _near_events(counts, model)
    model = _reduced(counts, model, n_templates)
    model = model.filled(n_templates)
    extra = min(length // 2, (counts.shape[2] - longer) // 2)  # for those that begin or end late
    model, _ = climb(counts, model.padded(extra), _AFTER)
    return model.cropped(length)[0]


def _alone(
    counts: Counts, null: EventModel, rng: np.random.Generator, taken: np.ndarray
) -> list[EventModel]:
    """Return models of one template, the best first, from stretches where no onset is taken."""
    first, found = counts.stretches(null, _STRETCHES, rng, taken), []
    for c in _distinct(first, _SHARPEST) if len(first) else ():
        one = EventModel.of_templates(first[c : c + 1], null.baseline, _OCCUPANCY)
        found.append(climb(counts, null.joined(one), _ALONE))
    return [model for model, _ in sorted(found, key=lambda each: -each[1])]


def _near_events(counts: Counts, model: EventModel) -> np.ndarray:
    """Return the onsets (window, onset) less than half a template from that of a probable event."""
    width = model.length // 2
    kernel = np.ones(2 * width + 1)
    near = [
        [np.convolve(each, kernel)[width : width + each.size] for each in chance.sum((1, 2))]
        for _, chance, _ in counts.posterior(model)
    ]
    return np.concatenate(near) > _PROBABLE


def _reduced(counts: Counts, model: EventModel, n_templates: int) -> EventModel:
    """Leave out templates one by one, each time that of which the loss costs least."""
    while len(model) > n_templates:
        rests = [np.delete(np.arange(len(model)), c) for c in range(len(model))]
        tried = [climb(counts, model.take(rest), _WITHOUT) for rest in rests]
        model, _ = max(tried, key=lambda each: each[1])
        model, _ = climb(counts, model, _AFTER)
    return model


def without_idle(counts: Counts, model: EventModel) -> EventModel:
    """Return the model in which templates have no events if the objective hardly gains by them."""
    _, value = climb(counts, model, 1)
    for c in np.flatnonzero(model.has_events):
        without = model.without_events([int(c)])
        other_model, other = climb(counts, without, _WITHOUT)
        if value - other < _LEAST_GAIN:
            model, value = other_model, other
    return model


def _distinct(templates: np.ndarray, most: int) -> list[int]:
    """Return the first of the templates that are not much like one before."""
    cosine, chosen = _cosines(templates, templates), [0]
    alike = _ALIKE if templates.shape[1] > 1 else _ALIKE_ROW
    for c in range(1, len(templates)):
        if len(chosen) < most and (cosine[c, chosen] < alike).all():
            chosen.append(c)
    return chosen


def similarity(templates: np.ndarray, others: np.ndarray) -> float:
    """Return the least cosine of templates and the others most like them, one to one."""
    cosine = _cosines(templates, others)
    return float(cosine[linear_sum_assignment(-cosine)].min())


def _cosines(templates: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of templates (template, other), at the best shift."""
    size = 2 * templates.shape[2]
    spectra = [np.fft.rfft(each, size, axis=2) for each in (templates, others)]
    products = np.einsum("auf,buf->abf", spectra[0], spectra[1].conj())
    norms = [np.linalg.norm(each, axis=(1, 2)) for each in (templates, others)]
    highest = np.fft.irfft(products, size, axis=2).max(2)
    cosine = highest / np.maximum(np.outer(*norms), 1e-12)
    return np.where(np.add.outer(*norms) == 0, 1.0, cosine)  # two of zeros are the same
