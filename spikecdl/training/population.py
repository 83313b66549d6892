"""Events of a population summed out: EM for templates with a row per unit, from listed spikes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from spikecdl.solvers.event_pairs import fill_weights, sum_windows
from spikecdl.solvers.smooth_rows import RowPrior, Rows, roughness, second_differences, update_rows
from spikecdl.solvers.spike_list import SpikeList, scores, spikes_under
from spikecdl.training.event_model import RELATIVE_AMPLITUDES, ByTemplate

_MOST_BUSY = 0.1  # expected events of a template in a time as long as the template
_NEVER = 1e-10  # probability of a template that has no events
_FEWEST, _SPREAD_COUNT = 0.1, 0.5  # events added to the count of a template, and of an amplitude
_FIRST_SMOOTHNESS, _ROUGHEST, _SMOOTHEST = 30.0, 0.03, 1000.0
_FIRST_SHRINKAGE, _LEAST_SHRINKAGE, _MOST_SHRINKAGE = 10.0, 0.05, 1e5
_LARGEST_STEP = 0.7  # of a bin of a template
_FEW_PAIRS = 1e-6
_NEWTON_STEPS, _BASELINE_STEPS = 2, 3
_SETTLED, _SETTLED_RELATIVE = 0.1, 1e-4  # nats that a step gains at the end, and of the whole gain
_ROW_COST = 1.0  # nats that a row must gain beyond what its prior costs, to be other than zero
_LEAST_STEPS = 5


@dataclass(frozen=True)
class PopulationModel(ByTemplate):
    """Templates, their prior, and that of their events; see `EventModel` for the words.

    Parameters
    ----------
    templates : ndarray, shape (template, unit, bin)
        Change of the log rate by an event of amplitude one: posterior means,
    variance : ndarray, shape (template, unit, bin)
        and variances.
    rates : ndarray, shape (template, amplitude)
        Probability that an event of each of `RELATIVE_AMPLITUDES` begins in a bin.
    baseline : ndarray, shape (unit,)
        Log of the expected count of a bin without events.
    smoothness : ndarray, shape (template,)
        Precision of second differences, relative to that of values.
    shrinkage : ndarray, shape (template, unit)
        Precision of each row; see `spikecdl.solvers.smooth_rows`.
    cost : ndarray, shape (template,)
        Divergence of the templates' posterior from their prior, and what their rows cost; it is
        taken off the log evidence.
    nonnegative : ndarray of bool, shape (template,)
        Which of the templates do not fall below zero.
    """

    variance: np.ndarray
    rates: np.ndarray
    baseline: np.ndarray
    smoothness: np.ndarray
    shrinkage: np.ndarray
    cost: np.ndarray
    nonnegative: np.ndarray
    by_bin = ("templates", "variance")
    by_template = (*by_bin, "rates", "smoothness", "shrinkage", "cost", "nonnegative")

    @classmethod
    def of_templates(
        cls, templates: np.ndarray, baseline: np.ndarray, occupancy: float = 0.1
    ) -> PopulationModel:
        """Return a model whose templates cover some of the time, together."""
        count, n_units, length = templates.shape
        shape = (count, RELATIVE_AMPLITUDES.size)
        rates = np.full(shape, occupancy / length / max(1, count * RELATIVE_AMPLITUDES.size))
        smooth = np.full(count, _FIRST_SMOOTHNESS)
        shrinkage = np.full(templates.shape[:2], _FIRST_SHRINKAGE)
        return cls(
            templates,
            np.zeros_like(templates),
            rates,
            baseline,
            smooth,
            shrinkage,
            np.full(count, np.inf),
            np.zeros(count, bool),
        )

    @property
    def mean_amplitude(self) -> np.ndarray:
        """Mean amplitude of each template's events (template,)."""
        return self.rates @ RELATIVE_AMPLITUDES / self.rates.sum(1)

    def bounded(self, nonnegative: Sequence[bool]) -> PopulationModel:
        """Return the model in which these templates do not fall below zero.

        If others do, those take these places from whose likelihood the bound takes least.
        """
        kept, order = np.array(nonnegative, bool), np.arange(len(self))
        rate = self.rates.sum(1)[:, None, None] * np.exp(self.baseline)[:, None]
        taken = (np.square(self.templates.clip(max=0)) * rate).sum((1, 2))
        least = taken.argsort(kind="stable")[: kept.sum()]
        order[kept], order[~kept] = np.sort(least), np.setdiff1d(order, least)
        return super(PopulationModel, self.take(order)).bounded(nonnegative)

    def without_events(self, index: Sequence[int] | np.ndarray) -> PopulationModel:
        """Return the model in which some templates are zero and have no events."""
        names = ("rates", "templates", "variance", "cost")
        rates, templates, variance, cost = (getattr(self, name).copy() for name in names)
        rates[index] = _NEVER / 10
        templates[index] = variance[index] = cost[index] = 0.0
        return replace(self, rates=rates, templates=templates, variance=variance, cost=cost)

    def factors(self) -> np.ndarray:
        """Return the relative change of each rate (template, unit, bin) by a mean event."""
        return self.factor(self.mean_amplitude[:, None, None]) - 1.0

    def factor(self, amplitude: np.ndarray | float) -> np.ndarray:
        """Return the expected factor of each rate (template, unit, bin) by an event."""
        return np.exp(amplitude * self.templates + np.square(amplitude) * self.variance / 2)


class PopulationSums(NamedTuple):
    """Sums over events.

    The log likelihood ratio (window,) over no events; scores, log weights and probabilities of
    events (onset, template); the log weight (pattern, template, amplitude) of each amplitude but
    for the score; expected numbers of events (pattern, template, amplitude), of pairs (template,
    template, lag), and of bins in which an event could begin.  For patterns see `Shown`.
    """

    pattern: np.ndarray
    evidence: np.ndarray
    score: np.ndarray
    weight: np.ndarray
    posterior: np.ndarray
    fixed: np.ndarray
    number: np.ndarray
    possible: list[tuple[np.ndarray, np.ndarray]]
    pairs: np.ndarray
    free: float

    def shares(self, at: np.ndarray, template: int) -> np.ndarray:
        """Return the posterior of amplitudes (onset, amplitude), given that events begin there."""
        fixed = self.fixed[self.pattern[at], template]
        log = self.score[at, template, None] * RELATIVE_AMPLITUDES + fixed
        return np.exp(log - self.weight[at, template, None])


def lost(model: PopulationModel, shown: np.ndarray) -> np.ndarray:
    """Return the spikes (pattern, template, amplitude) that events add in bins (pattern, bin)."""
    mean = np.exp(model.baseline)
    added = [mean @ (model.factor(a) - 1.0) @ shown.T for a in RELATIVE_AMPLITUDES]
    return np.stack(added, axis=-1).transpose(1, 0, 2)


def crowding(model: PopulationModel, shown: np.ndarray) -> np.ndarray:
    """Return how much less likely pairs of events are (pattern, template, template, lag)."""
    change, length = model.factors(), model.length
    found = np.zeros((len(shown), len(model), len(model), length))
    for some, seen in zip(found, shown, strict=True):
        weighted = change * np.exp(model.baseline)[:, None] * seen
        for lag in range(length):
            some[:, :, lag] = np.tensordot(
                weighted[:, :, lag:], change[:, :, : length - lag], axes=((1, 2), (1, 2))
            )
    return found


def sum_events(spikes: SpikeList, model: PopulationModel, with_pairs: bool) -> PopulationSums:
    """Sum over all events that the windows may hold."""
    n_windows, _, n_bins = spikes.shape
    shown, pattern = spikes.shown.under(model.length)
    score, fixed = scores(spikes, model.templates), np.log(model.rates) - lost(model, shown)
    weight = np.empty_like(score)
    fill_weights(score, fixed, pattern, RELATIVE_AMPLITUDES, weight)
    log_idle = float(np.log1p(-model.rates.sum()))
    none = np.zeros((1, len(model), len(model), model.length))
    between = crowding(model, shown) if with_pairs else none
    evidence, posterior, pairs, free = sum_windows(
        weight, (n_windows, n_bins), log_idle, between, pattern, with_pairs, spikes.processes
    )
    number = np.zeros_like(fixed)
    possible: list[tuple[np.ndarray, np.ndarray]] = []
    sums = PopulationSums(
        pattern, evidence, score, weight, posterior, fixed, number, possible, pairs, free
    )
    for c in range(len(model)):
        at = np.flatnonzero(posterior[:, c])
        chance = sums.shares(at, c) * posterior[at, c, None]
        possible.append((at, chance))
        for i, each in enumerate(chance.T):
            number[:, c, i] = np.bincount(pattern[at], each, len(number))
    return sums


def updated(model: PopulationModel, spikes: SpikeList, sums: PopulationSums) -> PopulationModel:
    """Return the model after a step of EM."""
    expected = np.zeros_like(sums.posterior)
    for c, (at, chance) in enumerate(sums.possible):
        expected[at, c] = chance @ RELATIVE_AMPLITUDES
    under = spikes_under(spikes, expected, model.length)
    model = replace(model, rates=_new_rates(model, sums))
    model = _new_templates(model, under, sums, spikes.shown.under(model.length)[0])
    return replace(model, baseline=_new_baseline(model, spikes, sums))


def _new_rates(model: PopulationModel, sums: PopulationSums) -> np.ndarray:
    by_amplitude = sums.number.sum(0)
    number = by_amplitude.sum(1, keepdims=True)
    known = model.rates.sum(1, keepdims=True) > _NEVER
    rate = np.minimum((number + _FEWEST) / (sums.free + _FEWEST), _MOST_BUSY / model.length)
    shares = (by_amplitude + _SPREAD_COUNT) / (by_amplitude + _SPREAD_COUNT).sum(1, keepdims=True)
    return np.where(known, rate * shares, model.rates)


def _crowd(model: PopulationModel, sums: PopulationSums) -> np.ndarray:
    """Return how much events that overlap change the rate under each other, summed over pairs."""
    found, change = np.zeros_like(model.templates), model.factors()
    for lag in range(1, sums.pairs.shape[2]):
        number, rest = sums.pairs[:, :, lag], model.length - lag
        if number.sum() > _FEW_PAIRS:
            found[:, :, lag:] += np.tensordot(number, change[:, :, :rest], 1)
            found[:, :, :rest] += np.tensordot(number.T, change[:, :, lag:], 1)
    return found


def _new_templates(
    model: PopulationModel, under: np.ndarray, sums: PopulationSums, shown: np.ndarray
) -> PopulationModel:
    bends = second_differences(model.length)
    mean, crowd = np.exp(model.baseline)[:, None], _crowd(model, sums)
    typical = model.mean_amplitude
    templates, variance = model.templates.copy(), model.variance.copy()
    shrinkage = model.shrinkage.copy()
    smoothness, cost = model.smoothness.copy(), model.cost.copy()
    limits = (_LARGEST_STEP, _LEAST_SHRINKAGE, _MOST_SHRINKAGE)
    for c in np.flatnonzero(model.rates.sum(1) > _NEVER):
        rows, found = templates[c], np.empty((templates.shape[1], 2))
        number = np.einsum("pa,pk->ak", sums.number[:, c], shown)  # of events by bin, where shown
        seen = sums.number[:, c].sum(1)
        seen = seen / max(seen.sum(), 1e-300) @ shown
        terms = [*zip(RELATIVE_AMPLITUDES, number, strict=True), (typical[c], seen * crowd[c])]
        for _ in range(_NEWTON_STEPS):
            slope, curvature = under[c].copy(), np.zeros_like(rows)
            for amplitude, count in terms:
                spread = amplitude**2 * variance[c] / 2
                expected = mean * np.exp(amplitude * rows + spread) * count
                slope -= amplitude * expected
                curvature += amplitude**2 * expected
            floor = 0.0 if model.nonnegative[c] else -np.inf
            prior = RowPrior(bends, float(smoothness[c]), limits, floor)
            parts = Rows(rows, variance[c], shrinkage[c])
            update_rows(parts, slope, np.maximum(curvature, 0.0), prior, found)
        # rows that gain less than they cost are zero, until they gain more
        gain = (under[c] * rows).sum(1) + found[:, 0] - _ROW_COST
        for amplitude, count in terms:
            factor = np.exp(amplitude * rows + amplitude**2 * variance[c] / 2)
            gain -= ((factor - 1) * mean * count).sum(1)
        none = gain < 0
        rows[none] = variance[c, none] = 0.0
        cost[c] = (_ROW_COST - found[~none, 0]).sum()
        wanted = len(rows) * roughness(bends, smoothness[c]) / max(found[:, 1].sum(), 1e-9)
        smoothness[c] = np.clip(wanted, _ROUGHEST, _SMOOTHEST)
    return replace(
        model,
        templates=templates,
        variance=variance,
        shrinkage=shrinkage,
        smoothness=smoothness,
        cost=cost,
    )


def _new_baseline(model: PopulationModel, spikes: SpikeList, sums: PopulationSums) -> np.ndarray:
    """Return the most likely baselines: spikes over the time, counted by what events do to it."""
    exposure = np.full(spikes.shape[1], float(spikes.shown.number))
    shown, _ = spikes.shown.under(model.length)
    for a, number in zip(RELATIVE_AMPLITUDES, sums.number.T, strict=True):
        exposure += np.einsum("cuk,cp,pk->u", model.factor(a) - 1.0, number, shown, optimize=True)
    if sums.pairs.size:  # of any pattern
        crowd = _crowd(model, sums) * model.factors()
        exposure += spikes.shown.bins.mean() * crowd.sum((0, 2)) / 2
    return np.log((spikes.totals() + 0.5) / np.maximum(exposure + 1.0, 1.0))


def fit_baseline(spikes: SpikeList, model: PopulationModel) -> PopulationModel:
    """Return the model with the baselines that are most likely, all else as it is."""
    model = replace(model, baseline=null_baseline(spikes))
    for _ in range(_BASELINE_STEPS):
        sums = sum_events(spikes, model, with_pairs=True)
        model = replace(model, baseline=_new_baseline(model, spikes, sums))
    return model


def climb(
    spikes: SpikeList,
    model: PopulationModel,
    most_steps: int,
    with_pairs: bool = False,
    on_step: Callable[[int, float], None] = lambda number, value: None,
) -> tuple[PopulationModel, float]:
    """Take steps of EM until they gain little; return the best model and its objective.

    The objective is the log evidence over that of constant rates, less the cost of the templates.
    """
    null = null_value(spikes)
    best, highest = model, -np.inf
    for number in range(most_steps):
        sums = sum_events(spikes, model, with_pairs)
        value = objective(spikes, model, sums) - null
        gained = value - highest
        if gained > 0:
            best, highest = model, value
        on_step(number, value)
        settled = gained < max(_SETTLED, _SETTLED_RELATIVE * abs(value))
        if number + 1 == most_steps or (number >= _LEAST_STEPS and settled):
            break
        model = updated(model, spikes, sums)
    return best, highest


def null_value(spikes: SpikeList) -> float:
    """Return the log likelihood of constant rates, up to a constant."""
    none = PopulationModel.of_templates(np.zeros((0, spikes.shape[1], 1)), null_baseline(spikes))
    return no_events(spikes, none)


def null_baseline(spikes: SpikeList) -> np.ndarray:
    """Return the log of the mean count of each unit (unit,), with half a spike added."""
    return np.log((spikes.totals() + 0.5) / (spikes.shown.number + 1.0))


def no_events(spikes: SpikeList, model: PopulationModel) -> float:
    """Return the log likelihood of counts without events, up to a constant."""
    return float(
        spikes.totals() @ model.baseline - spikes.shown.number * np.exp(model.baseline).sum()
    )


def objective(spikes: SpikeList, model: PopulationModel, sums: PopulationSums) -> float:
    """Return the log evidence of counts and templates, up to a constant."""
    return float(sums.evidence.sum() - model.cost.sum()) + no_events(spikes, model)
