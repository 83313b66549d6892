"""Events that overlap: blocked Gibbs sampling of several chains of events."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecdl.solvers.event_list import list_events, to_events
from spikecdl.solvers.event_posterior import Drawn, Found, Sums
from spikecdl.solvers.events import Events
from spikecdl.training.event_model import EventModel
from spikecdl.training.event_starts import ENOUGH_BINS, PADDING
from spikecdl.training.summation import Summation

_STEP_DECAY = 0.7  # of the steps of the model (Robbins and Monro 1951)
MOST_CHAINS = 3
_WARMEST = 0.4  # power of the likelihood in the first sweep
_MOST_EVENTS = 0.98  # that the chains must hold
FEW, ENOUGH = (10, 10), (20, 20)  # sweeps that say enough to go on, and to choose the overlap
_LAST = (40, 40)  # that end a fit
_ANNEALED = 40  # sweeps of a draw for the evidence, or for a run
_OF_BASELINE = (3, 7)  # sweeps after annealing that fit it
_RUNS, _AVERAGED = 4, 6  # runs for the posterior, and sweeps of each after annealing
_LEAST_POWER = 1e-12  # of the likelihood, so that it is above 0
_ROUNDS = 2  # of longer templates
_NEAR = 0.125  # of a template's length, within which an event is the same event
_DISTANCES = (1.0, 0.5, 0.25)  # of onsets of one template, in lengths, among which one is chosen
_LEAST_NATS, _LEAST_GAIN = 10.0, 0.01


@dataclass(frozen=True)
class Sampled:
    """What sampling found: the model, and averages over sweeps.

    ``posterior`` (window, template, amplitude, onset) is the probability of events; ``evidence``
    (window,) a lower bound of the log likelihood: the sum over the configurations that were drawn.
    """

    model: EventModel
    posterior: np.ndarray
    evidence: np.ndarray


def sample_events(
    counts: Summation,
    model: EventModel,
    start: Events,
    rng: np.random.Generator,
    learn: bool,
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
    warm = np.geomspace(_WARMEST, 1.0, sweeps[0])
    chains = _in_chains(counts, model, start)
    posterior: np.ndarray | None = None
    drawn: list[np.ndarray] = []
    burn_in, averaged = sweeps
    for sweep in range(burn_in + averaged):
        keep = sweep >= burn_in
        some = counts if keep else counts.tempered(warm[sweep])
        sums, found = _sweep(some, model, chains, rng, keep, not (learn or keep))
        if keep:
            posterior = found.posterior if posterior is None else posterior + found.posterior
            drawn.append(found.evidence.copy())
        if learn:
            step = 1.0 if not keep else (sweep - burn_in + 1) ** -_STEP_DECAY
            model = model.updated(sums, counts.scale, True, model.n_chains, step)
            model = counts.with_new_coefficients(model, found, step)
            model = counts.with_new_baseline(model, found, step)
    assert posterior is not None
    return Sampled(model, posterior / averaged, _bound(np.array(drawn)))


def _sweep(
    counts: Summation,
    model: EventModel,
    chains: Drawn,
    rng: np.random.Generator,
    keep_posterior: bool = False,
    only_draw: bool = False,
) -> tuple[Sums, Found]:
    """Draw the events of each chain anew, given those of the others."""
    uniform = rng.random((model.n_chains, counts.shape[0], counts.shape[2]))
    prior = model.prior(model.n_chains)
    return counts.sum(model, keep_posterior, chains, uniform, prior, only_draw)


def anneal(
    counts: Summation, model: EventModel, rng: np.random.Generator, n_sweeps: int
) -> tuple[Drawn, np.ndarray]:
    """Draw the events of the chains of a model, and return them with their log weights (window,).

    The first sweep draws from the prior; then the power of the likelihood rises to 1 as the cube of
    the sweep.  The mean of exponentials of log weights, over runs, is the likelihood of the counts
    without bias (annealed importance sampling: Neal, Stat. Comput. 11, 2001), so that their mean is
    a lower bound of its logarithm.
    """
    chains, weight = Drawn.nothing(model.n_chains, counts.shape), np.zeros(counts.shape[0])
    powers = np.maximum((np.arange(n_sweeps + 1) / n_sweeps) ** 3, _LEAST_POWER)
    for power, following in pairwise(powers):
        _, found = _sweep(counts.tempered(power), model, chains, rng, only_draw=True)
        weight += (following / power - 1.0) * found.likelihood
    return chains, weight


def sampled_evidence(counts: Summation, model: EventModel, rng: np.random.Generator) -> np.ndarray:
    """Return a lower bound of the log likelihood of each window; see `anneal`."""
    return anneal(counts, model, rng, _ANNEALED)[1]


def sampled_baseline(counts: Summation, model: EventModel, rng: np.random.Generator) -> EventModel:
    """Return the model with likelier baselines, all else as it is, while its events are sampled.

    Steps are whole in the burn-in, and then of decreasing size, as in `sample_events`.
    """
    burn_in, averaged = _OF_BASELINE
    chains, _ = anneal(counts, model, rng, averaged)
    for sweep in range(burn_in + averaged):
        _, found = _sweep(counts, model, chains, rng)
        step = max(1, sweep - burn_in + 1) ** -_STEP_DECAY
        model = counts.with_new_baseline(model, found, step)
    return model


def average_runs(
    counts: Summation, model: EventModel, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of events (window, template, amplitude, onset), and a drawn signal.

    Events are drawn several times anew, as a run may stay in a configuration that others do not
    find.  All runs count alike: their log weights differ by chance more than by the configuration.
    The signal (window, channel, bin) is that of the last draw.
    """
    chance: Any = 0
    for _ in range(_RUNS):
        chains, _ = anneal(counts, model, rng, _ANNEALED)
        for _ in range(_AVERAGED):
            chance = chance + _sweep(counts, model, chains, rng, True)[1].posterior
    return chance / (_RUNS * _AVERAGED), chains.signal.sum(0)


def choose_overlap(
    counts: Summation,
    model: EventModel,
    start: Events,
    rng: np.random.Generator,
    sweeps: tuple[int, int],
    learn: bool,
) -> EventModel:
    """Return the model with one chain of events, or with several, and the distance of onsets.

    Evenly spaced windows decide.  The lower bound of the evidence of two chains must be clearly
    above the exact evidence of one.  ``learn`` says whether the model may change before that.
    """
    model = replace(model, n_chains=1, distance=0)
    if chains_needed(start, model.length) == 1:
        return model
    every = counts.spacing(ENOUGH_BINS)
    counts = counts.take(slice(None, None, every))
    start = start.take(start.window % every == 0)
    start = replace(start, window=start.window // every)
    alone = counts.climb(model, sum(sweeps))[0] if learn else model
    one = float(counts.evidence(alone).sum())
    two = replace(model, n_chains=2, distance=round(_DISTANCES[-1] * model.length))
    bound = sample_events(counts, two, start, rng, learn, sweeps).evidence.sum()
    if bound < one + _LEAST_NATS:
        return alone
    several = replace(model, n_chains=MOST_CHAINS)
    return choose_distance(counts, several, start, rng, sweeps, learn)


def choose_distance(
    counts: Summation,
    model: EventModel,
    start: Events,
    rng: np.random.Generator,
    sweeps: tuple[int, int] = (5, 5),
    learn: bool = False,
) -> EventModel:
    """Return the model with the largest distance of onsets that explains the counts.

    A smaller one must raise the evidence, or its bound, by 1 % of what events gain.
    """
    tried = [replace(model, distance=round(part * model.length)) for part in _DISTANCES]
    bound = [sample_events(counts, m, start, rng, learn, sweeps).evidence.sum() for m in tried]
    none = float(counts.evidence(model.take([])).sum())
    enough = max(bound) - max(_LEAST_NATS, _LEAST_GAIN * (max(bound) - none))
    return next(m for m, value in zip(tried, bound, strict=True) if value >= enough)


def learn_overlapping(
    counts: Summation,
    model: EventModel,
    start: Events,
    rng: np.random.Generator,
    distance: int | None = None,
) -> EventModel:
    """Learn a model whose events overlap, from a list of events on.

    As in `build`, templates are learned longer than they are, and cropped.  A ``distance`` of None
    is chosen anew after each round.
    """
    length = model.length
    extra = min(round(PADDING / 2 * length), (counts.shape[2] - length) // 2)
    events = start
    for _ in range(_ROUNDS):
        sampled = sample_events(counts, model, events, rng, True, FEW)
        events = _moved(_listed(sampled), -extra, counts.shape[2] - length - 2 * extra)
        padded = sampled.model.padded(extra)
        sampled = sample_events(counts, padded, events, rng, True, FEW)
        model, begin = sampled.model.cropped(length)
        events = _listed(sampled)
        late = torch.from_numpy(begin)[events.template]
        events = _moved(events, late, counts.shape[2] - length)
        if distance is None:
            model = choose_distance(counts, model, events, rng)
    return sample_events(counts, model, events, rng, True, _LAST).model


def _listed(sampled: Sampled) -> Events:
    """List the events of posterior probability 1/2 or more."""
    width = round(_NEAR * sampled.model.length)
    return to_events(list_events(sampled.posterior, sampled.model.amplitudes, width, 0.5))


def _moved(events: Events, late: Tensor | int, last: int) -> Events:
    """Return events later by some bins, those that begin from bin 0 to the ``last``."""
    moved = replace(events, onset=events.onset + late)
    return moved.take((moved.onset >= 0) & (moved.onset <= last))


def chains_needed(events: Events, length: int) -> int:
    """Return the number of chains that hold 98 % of the events, at most `MOST_CHAINS`."""
    chain = _assign(events, length, MOST_CHAINS)
    for count in range(1, MOST_CHAINS):
        if not len(chain) or np.mean((chain >= 0) & (chain < count)) >= _MOST_EVENTS:
            return count
    return MOST_CHAINS


def _assign(events: Events, length: int, n_chains: int) -> np.ndarray:
    """Give each event the first chain that is free when it begins; -1 if none is."""
    window, onset = events.window.numpy(), events.onset.numpy()
    chain = np.full(len(window), -1)
    free = np.zeros(n_chains, int)
    last = -1
    for j in np.lexsort((onset, window)):
        if window[j] != last:
            free[:], last = 0, window[j]
        able = np.flatnonzero(free <= onset[j])
        if able.size:
            chain[j] = able[0]
            free[able[0]] = onset[j] + length
    return chain


def _in_chains(counts: Summation, model: EventModel, events: Events) -> Drawn:
    """Put listed events into chains, with their nearest amplitudes."""
    drawn = Drawn.nothing(model.n_chains, counts.shape)
    chain = _assign(events, model.length, model.n_chains)
    listed = (x.numpy() for x in (events.window, events.template, events.onset, events.amplitude))
    for k, w, c, s, size in zip(chain, *listed, strict=True):
        if k >= 0:
            nearest = np.abs(model.amplitudes[c] - size).argmin()
            change = model.amplitudes[c, nearest] * model.templates[c]
            drawn.signal[k, w, :, s : s + model.length] += change
            drawn.kind[k, w, s] = c * model.amplitudes.shape[1] + nearest
    return drawn


def _bound(drawn: np.ndarray) -> np.ndarray:
    """Sum the likelihoods (sweep, window) of distinct draws."""
    distinct = [np.unique(values.round(6)) for values in drawn.T]
    return np.array([np.logaddexp.reduce(values) for values in distinct])
