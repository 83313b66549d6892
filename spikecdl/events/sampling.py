"""Overlapping events: how many at a time, and blocked Gibbs sampling of three chains or more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecdl.events.counts import Counts
from spikecdl.events.dense import DenseCounts
from spikecdl.events.em import climb, objective, updated, with_new_level
from spikecdl.events.model import EventModel
from spikecdl.events.starts import CROWDED, SPACING, occupancy
from spikecdl.events.table import COLUMNS, NEAR, list_events, to_events
from spikecdl.events.windows import Drawn, Found, Sums
from spikecdl.solvers.events import Events

_STEP_DECAY = 0.7  # of the steps of the model (Robbins and Monro 1951)
_WARMEST = 0.4  # power of the likelihood in the first sweep
_FEW, _LAST = (10, 10), (40, 40)  # sweeps that say enough to go on, and that end a fit
_ANNEALED = 40  # sweeps of a draw for the evidence, or for a run
_OF_BASELINE = (3, 7)  # sweeps after annealing that fit it
_RUNS, _AVERAGED = 4, 6  # runs for the posterior, and sweeps of each after annealing
EXACT = 2  # most events at a time that are summed exactly; more are sampled
_LEAST_POWER = 1e-12  # of the likelihood, so that it is above 0
_ROUNDS = 2  # of longer templates
_SPACINGS = (1.0, SPACING)  # least distances of onsets of one template, in lengths
_LEAST_NATS, _LEAST_GAIN = 10.0, 0.01  # that more overlap must gain, and a smaller distance
_FIRST_STEPS, _STEPS = 3, 12  # of EM, after which overlaps are compared
_PADDING = 0.2  # bins learned beyond a template at each end, as a fraction of its length


@dataclass(frozen=True)
class Sampled:
    """The model that was learned, and the averaged probabilities of events
    (window, template, amplitude, onset).
    """

    model: EventModel
    posterior: np.ndarray


def sample_events(
    counts: DenseCounts,
    model: EventModel,
    start: Events,
    rng: np.random.Generator,
    sweeps: tuple[int, int],
) -> Sampled:
    """Sample the events of the chains of a model, from a list of events on, and learn it with them.

    Each chain is drawn given the others (forward filtering, backward sampling).  In the burn-in,
    the first number of ``sweeps``, the likelihood has a power that rises to 1, so that
    configurations still change (Kirkpatrick, Gelatt and Vecchi, Science 220, 1983).  The templates,
    rates and baselines take a step after each sweep, whole in the burn-in and of decreasing size in
    the sweeps that are averaged, the second number
    (stochastic approximation EM: Delyon, Lavielle and Moulines, Ann. Stat. 27, 1999).
    """
    burn_in, averaged = sweeps
    warm = np.geomspace(_WARMEST, 1.0, burn_in)
    chains = _in_chains(counts, model, start)
    posterior: Any = 0.0
    for sweep in range(burn_in + averaged):
        keep = sweep >= burn_in
        some = counts if keep else counts.tempered(warm[sweep])
        sums, found = _sweep(some, model, chains, rng, keep)
        if keep:
            posterior = posterior + found.posterior / averaged
        step = 1.0 if not keep else (sweep - burn_in + 1) ** -_STEP_DECAY
        model = updated(counts, model, counts.expectation(sums, found), step=step)
    return Sampled(model, posterior)


def _sweep(
    counts: DenseCounts,
    model: EventModel,
    chains: Drawn,
    rng: np.random.Generator,
    keep_posterior: bool = False,
    only_draw: bool = False,
) -> tuple[Sums, Found]:
    """Draw the events of each chain anew, given those of the others."""
    uniform = rng.random((model.overlap, counts.shape[0], counts.shape[2] + 1))
    return counts.sum(model, keep_posterior, chains, uniform, only_draw)


def anneal(
    counts: DenseCounts, model: EventModel, rng: np.random.Generator, n_sweeps: int = _ANNEALED
) -> tuple[Drawn, np.ndarray]:
    """Draw the events of the chains of a model, and return them with their log weights (window,).

    The first sweep draws from the prior; then the power of the likelihood rises to 1 as the cube of
    the sweep.  The mean of exponentials of log weights, over runs, is the likelihood of the counts
    without bias (annealed importance sampling: Neal, Stat. Comput. 11, 2001), so that their mean is
    a lower bound of its logarithm.
    """
    chains, weight = Drawn.nothing(model.overlap, counts.shape), np.zeros(counts.shape[0])
    powers = np.maximum((np.arange(n_sweeps + 1) / n_sweeps) ** 3, _LEAST_POWER)
    for power, following in pairwise(powers):
        _, found = _sweep(counts.tempered(power), model, chains, rng, only_draw=True)
        weight += (following / power - 1.0) * found.likelihood
    return chains, weight


def sampled_baseline(counts: DenseCounts, model: EventModel) -> EventModel:
    """Return the model with likelier baselines, all else as it is, while its events are sampled.

    Steps are whole in the burn-in, and then of decreasing size, as in `sample_events`.
    """
    burn_in, averaged = _OF_BASELINE
    rng = np.random.default_rng(0)
    chains, _ = anneal(counts, model, rng, averaged)
    for sweep in range(burn_in + averaged):
        found = counts.expectation(*_sweep(counts, model, chains, rng))
        model = with_new_level(counts, model, found, max(1, sweep - burn_in + 1) ** -_STEP_DECAY)
    return model


def average_runs(
    counts: DenseCounts, model: EventModel, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of events (window, template, amplitude, onset), and a drawn signal.

    Events are drawn several times anew, as a run may stay in a configuration that others do not
    find.  All runs count alike: their log weights differ by chance more than by the configuration.
    The signal (window, row, bin) is that of the last draw.
    """
    chance: Any = 0.0
    for _ in range(_RUNS):
        chains, _ = anneal(counts, model, rng)
        for _ in range(_AVERAGED):
            chance = chance + _sweep(counts, model, chains, rng, True)[1].posterior
    return chance / (_RUNS * _AVERAGED), chains.signal.sum(0)


def learn_overlapping(
    counts: DenseCounts, model: EventModel, start: Events, rng: np.random.Generator
) -> EventModel:
    """Learn a model of which three events or more overlap, from a list of events on.

    As in a search, templates are learned longer than they are, and cropped.
    """
    length = model.length
    extra = min(round(_PADDING * length), (counts.shape[2] - length) // 2)
    events = start
    for _ in range(_ROUNDS):
        sampled = sample_events(counts, model, events, rng, _FEW)
        events = _moved(_listed(sampled), -extra, counts.shape[2] - length - 2 * extra)
        sampled = sample_events(counts, sampled.model.padded(extra), events, rng, _FEW)
        model, begin = sampled.model.cropped(length)
        events = _listed(sampled)
        late = torch.from_numpy(begin)[events.template]
        events = _moved(events, late, counts.shape[2] - length)
    return sample_events(counts, model, events, rng, _LAST).model


def _listed(sampled: Sampled) -> Events:
    """List the events of posterior probability 1/2 or more."""
    width = round(NEAR * sampled.model.length)
    return to_events(list_events(sampled.posterior, sampled.model.amplitudes, width, 0.5))


def _moved(events: Events, late: Tensor | int, last: int) -> Events:
    """Return events later by some bins, those that begin from bin 0 to the ``last``."""
    moved = events.shifted(late)
    return moved.take((moved.onset >= 0) & (moved.onset <= last))


def _in_chains(counts: DenseCounts, model: EventModel, events: Events) -> Drawn:
    """Put listed events, each into the first chain that is idle, with their nearest amplitudes."""
    drawn = Drawn.nothing(model.overlap, counts.shape)
    listed = (x.numpy() for x in (events.window, events.onset, events.template, events.amplitude))
    idle_from = np.zeros((counts.shape[0], model.overlap), int)
    for w, s, c, size in sorted(zip(*listed, strict=True)):
        chain = int(np.argmax(idle_from[w] <= s))
        if idle_from[w, chain] > s:
            continue  # all are busy
        nearest = np.abs(model.amplitudes[c] - size).argmin()
        change = model.amplitudes[c, nearest] * model.templates[c]
        drawn.signal[chain, w, :, s : s + model.length] += change
        drawn.kind[chain, w, s] = c * model.amplitudes.shape[1] + nearest
        idle_from[w, chain] = s + model.length
    return drawn


def choose_overlap(
    counts: Counts,
    model: EventModel,
    rng: np.random.Generator,
    learn_templates: bool = True,
    distance: int | None = None,
    apart: Callable[[], EventModel] | None = None,
) -> EventModel:
    """Return the model with as much overlap of events as raises its evidence.

    Models of one event and of two at a time are compared by their exact evidence; two and three, by
    that of annealed importance sampling.  A ``distance`` of None is chosen, too; a smaller
    one must raise the evidence by 1 % of what events gain.  Where events are crowded, three are
    learned, too, from the model that ``apart`` returns, of events that may overlap at will.
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
            best, model, highest = two, two, value
            enough = max(_LEAST_NATS, _LEAST_GAIN * (highest - none))
    if best.overlap == 1 or not isinstance(counts, DenseCounts):
        return best
    models = [best, replace(best, overlap=EXACT + 1)]
    if apart is not None and occupancy(counts, best) > CROWDED:
        # templates of two may stand for what three explain, and be the likelier ones of two
        nothing = to_events(np.empty((0, len(COLUMNS))))
        begin = replace(apart(), overlap=EXACT + 1, distance=best.distance)
        models.append(learn_overlapping(counts, begin, nothing, rng))
    return max(models, key=lambda each: _annealed(counts, each, rng) - each.overlap * _LEAST_NATS)


def _annealed(counts: DenseCounts, model: EventModel, rng: np.random.Generator) -> float:
    """Return a lower bound of `objective`, the mean of several runs."""
    runs = [anneal(counts, model, rng)[1].sum() for _ in range(_RUNS)]
    return float(np.mean(runs) - model.cost.sum())
