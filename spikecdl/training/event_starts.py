"""Starts of EM: templates added one at a time, from stretches that a model explains least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import convolve1d
from torch import Tensor

from spikecdl.solvers.event_posterior import Found
from spikecdl.solvers.losses import QUADRATIC
from spikecdl.training.event_model import EventModel
from spikecdl.training.steps import Steps
from spikecdl.training.summation import Summation

_TRIAL_STEPS = 5  # of EM, after which candidates are compared
_FINALISTS = 2
_STEPS, _LAST_STEPS = 10, 60  # of EM, with longer templates, and with those of the length asked
ENOUGH_BINS = 30_000  # to compare candidates in
PADDING = 0.4  # bins learned beyond a template, as a fraction of its length
_CROWD = 10  # stretches among which each start is drawn
_DAMPING = 1.5  # of the changes in a stretch


def build(
    counts: Summation,
    n_templates: int,
    length: int,
    n_starts: int,
    rng: np.random.Generator,
    steps: Steps,
    nonnegative: Sequence[bool],
) -> tuple[EventModel, float]:
    """Add templates one at a time, each the best of several starts after some steps of EM.

    Starts are compared on evenly spaced windows, as few as hold `ENOUGH_BINS`.  Templates are
    learned longer than asked and cropped to the bins of most energy, which fixes their shift.
    Those that are ``nonnegative`` (template,) do not fall below zero.  Returns the model and its
    objective.
    """
    extra = min(round(PADDING * length), counts.shape[2] - length)
    model = counts.without_events(length + extra)

    def added() -> dict[str, Tensor]:
        new = _stretches(counts, model, n_starts, rng)
        kept, share = nonnegative[len(model) :][:1], 0.3 / n_templates
        alone = (EventModel.of_templates(x[None], model.baseline, share) for x in new)
        starts = [model.joined(each.bounded(kept)) for each in alone]
        tried = sorted(
            (part.climb(start, _TRIAL_STEPS) for start in starts), key=lambda each: -each[1]
        )
        finalists = (part.climb(each, _STEPS) for each, _ in tried[:_FINALISTS])
        best, _ = max(finalists, key=lambda each: each[1])
        return counts.climb(best, _STEPS)[0].as_tensors()

    part = counts.take(slice(None, None, counts.spacing(ENOUGH_BINS)))
    for _ in range(n_templates):
        model = EventModel.from_tensors(steps("template", added, rng))
    return counts.climb(model.cropped(length)[0], _LAST_STEPS)


def _stretches(
    counts: Summation, model: EventModel, number: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw stretches of much energy, half of them where the model has no events, as templates."""
    length = model.length
    kernel = np.hanning(max(length // 8, 1) + 2)[1:-1]
    null = counts.sum(model.take([]))[1]
    slope, weight = (convolve1d(x, kernel / kernel.sum()) for x in (null.residual, null.curvature))
    busy = _occupancy(counts.sum(model, keep_posterior=True)[1], length)
    # the variance of a smoothed residual is the smoothed curvature over the width of the kernel
    energy = np.square(slope) / np.maximum(weight, 1e-12)
    change = slope / np.maximum(_DAMPING * weight, 1e-12)
    if counts.loss.kind != QUADRATIC:
        change = np.log1p(np.maximum(change, 1 / _DAMPING - 1.6))
    everywhere = number - number // 2 if len(model) else number
    onsets = counts.onsets_of(length)
    picked = _draw(energy, length, everywhere, onsets, rng)
    if len(picked) < number:
        picked += _draw(energy * (busy < 0.5), length, number - len(picked), onsets, rng)
    return np.stack([change[w, :, s : s + length] for w, s in picked])


def _occupancy(found: Found, length: int) -> np.ndarray:
    """Return the probability that an event covers each bin (window, 1, bin)."""
    begins = found.posterior.sum((1, 2))
    total = np.pad(begins, ((0, 0), (length, length - 1))).cumsum(-1)
    return (total[:, length:] - total[:, :-length])[:, None]


def _draw(
    energy: np.ndarray,
    length: int,
    number: int,
    onsets: np.ndarray | None,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Draw windows and first bins of stretches, those of much energy more often."""
    total = np.pad(energy.sum(1), ((0, 0), (1, 0))).cumsum(-1)
    total = total[:, length:] - total[:, :-length]
    total = total if onsets is None else total * onsets
    order = np.argsort(-total, axis=None, kind="stable")[: 4 * _CROWD * number]
    chance = np.exp(-np.arange(len(order)) / (_CROWD * number))
    number = min(number, len(order))
    rank = rng.choice(len(order), number, replace=False, p=chance / chance.sum())
    window, first = np.unravel_index(order[rank], total.shape)
    return list(zip(window.tolist(), first.tolist(), strict=True))
