"""Expectation maximisation: templates, rates of events and baselines from sums over events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikecdl.events.counts import Counts, Expectation
from spikecdl.events.model import EventModel
from spikecdl.events.prior import exposure, timing_cost, updated_templates, updated_timing

MOST_BUSY = 5.0  # events of a template in an idle time as long as the template, at most
_FEWEST = 0.1  # events added to the count of a template, so that none becomes impossible
_SPREAD = 0.5  # events added to each amplitude
_LARGEST_STEP = 0.5  # of a baseline, in units of the family's `eta_scale`
_SMALL_STEP = 3e-3  # of a baseline, that ends a fit
_NULL_STEPS = 12  # for baselines alone
_LEAST_STEPS = 6
_SETTLED = 0.05  # nats that a step gains at the end, or
_SETTLED_RELATIVE = 1e-4  # that fraction of the gain over no events


def updated(
    counts: Counts,
    model: EventModel,
    found: Expectation,
    learn_templates: bool = True,
    step: float = 1.0,
    perturbation: np.ndarray | None = None,
) -> EventModel:
    """Return the model after a step towards what sums over events ask for.

    ``step`` is 1 for whole steps; for ``perturbation`` see `spikecdl.events.prior.perturbed`.
    """
    if learn_templates:
        linear = not counts.integer_valued
        model = updated_templates(model, found, counts.scale, linear, step, perturbation)
    model = replace(model, rates=_new_rates(model, found, step))
    if model.timing.size:
        model = updated_timing(model, found, step)
    return with_new_level(counts, counts.covariates_of(model, found, step), found, step)


def _new_rates(model: EventModel, found: Expectation, step: float) -> np.ndarray:
    """Return the most likely rates, of which events are the more likely the longer chains idle."""
    count, number = found.number, found.number.sum(1, keepdims=True)
    idle: float | np.ndarray = found.free + number.sum()
    if model.timing.size:
        each = exposure(model, found)
        idle = np.exp(model.log_timing(each.size)) @ each[:, None]
    rate = model.overlap * (number + _FEWEST) / (idle + 2 * _FEWEST)
    rate = np.minimum(rate, MOST_BUSY / model.length)
    shares = (count + _SPREAD) / (count + _SPREAD).sum(1, keepdims=True)
    new = np.exp((1 - step) * np.log(model.rates) + step * np.log(rate * shares))
    return np.where(model.has_events[:, None], new, model.rates)


def as_often_as_may_be(model: EventModel) -> np.ndarray:
    """Return which templates have events at the highest rate that is allowed (template,)."""
    return model.rates.sum(1) > 0.99 * MOST_BUSY / model.length


def with_new_level(
    counts: Counts, model: EventModel, found: Expectation, step: float = 1.0
) -> EventModel:
    """Take a step of baselines, see `_level_change`, if they are learned."""
    if not counts.learn_baseline:
        return model
    return replace(model, baseline=model.baseline + step * _level_change(counts, model, found))


def _level_change(counts: Counts, model: EventModel, found: Expectation) -> np.ndarray:
    """Return a Newton step of baselines, with half a spike in a bin added to counts of units."""
    slope, curvature = found.level_slope, found.level_curvature
    if counts.integer_valued:
        one = np.exp(np.minimum(model.baseline, 0.0))
        slope, curvature = slope + 0.5 - one, curvature + one
    change = slope / np.maximum(curvature, 1e-9 / counts.scale**2)
    limit = _LARGEST_STEP * counts.scale
    return np.clip(change, -limit, limit)


def without_events(counts: Counts, length: int) -> EventModel:
    """Return the model of no templates, with the most likely constant rates."""
    none = EventModel.of_templates(np.zeros((0, counts.shape[1], length)), counts.start)
    return with_baseline(counts, none, learn_covariates=True)


def with_baseline(counts: Counts, model: EventModel, learn_covariates: bool = False) -> EventModel:
    """Return the model with the baselines that are most likely, all else as it is.

    EM goes too short where events follow the baseline, by a factor that its last two steps tell
    (the secant method, for each baseline).  Units whose baselines have settled are left out.
    """
    taken = before = np.zeros_like(model.baseline)
    moving = np.ones(len(before), bool)
    for number in range(_NULL_STEPS if counts.learn_baseline else 0):
        found = counts.expect(model)
        if learn_covariates:
            model = counts.covariates_of(model, found, 1.0)
        change = np.where(moving[:, None], _level_change(counts, model, found), 0.0)
        longer = np.ones_like(change)
        if number and len(model):
            np.divide(taken, before - change, out=longer, where=before != change)
        taken, before = np.clip(longer, 1.0, 3.0) * change, change
        model = replace(model, baseline=model.baseline + taken)
        still = np.abs(taken).max(1, initial=0.0) >= _SMALL_STEP * counts.scale
        if not still.any():
            break
        if not learn_covariates and (moving & ~still).any():
            counts, moving = counts.take(np.flatnonzero(still[counts.unit])), still
    return model


def objective(model: EventModel, found: Expectation) -> float:
    """Return the log evidence of counts and templates, up to a constant of the counts."""
    return float(found.evidence.sum() - model.cost.sum()) - timing_cost(model, found)


def climb(
    counts: Counts, model: EventModel, most_steps: int, learn_templates: bool = True
) -> tuple[EventModel, float]:
    """Take steps of EM until they gain little; return the best model and its objective."""
    none = float(counts.expect(model.take([])).evidence.sum())
    best, highest = model, -np.inf
    for number in range(most_steps):
        found = counts.expect(model)
        value = objective(model, found)
        gained = value - highest
        if gained > 0:
            best, highest = model, value
        enough = max(_SETTLED, _SETTLED_RELATIVE * abs(value - none))
        if number + 1 == most_steps or (number >= _LEAST_STEPS and gained < enough):
            break
        model = updated(counts, model, found, learn_templates)
    return best, highest
