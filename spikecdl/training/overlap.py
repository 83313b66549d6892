"""Events that overlap: blocked Gibbs sampling of several chains of events."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spikecdl.solvers.event_list import list_events, to_events
from spikecdl.solvers.event_posterior import Drawn
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
_BURN_IN, _AVERAGED = 40, 15  # of the posterior: in all runs together, and in each
_ROUNDS = 2  # of longer templates
_NEAR = 0.125  # of a template's length, within which an event is the same event
_DISTANCES = (1.0, 0.5, 0.25)  # of onsets of one template, in lengths, among which one is chosen
_LEAST_NATS, _LEAST_GAIN = 10.0, 0.01


@dataclass(frozen=True)
class Sampled:
    """What sampling found: the model, averages over sweeps, and the last events drawn.

    ``posterior`` (window, template, amplitude, onset) is the probability of events; ``signal``
    (window, channel, bin) that of the events of the last sweep; ``evidence`` (window,) a lower
    bound of the log likelihood: the sum over the configurations that were drawn, or over all in
    which no events overlap; ``joint``
    (window,) the mean log probability of the counts and the events drawn.
    """

    model: EventModel
    posterior: np.ndarray
    signal: np.ndarray
    evidence: np.ndarray
    joint: np.ndarray


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
    n_chains = model.n_chains
    warm = np.geomspace(_WARMEST, 1.0, sweeps[0])
    chains = _in_chains(counts, model, start)
    posterior: np.ndarray | None = None
    drawn: list[np.ndarray] = []
    joint = np.zeros(counts.shape[0])
    burn_in, averaged = sweeps
    for sweep in range(burn_in + averaged):
        keep = sweep >= burn_in
        uniform = rng.random((n_chains, counts.shape[0], counts.shape[2]))
        some = counts if keep else counts.tempered(warm[sweep])
        given = (chains, uniform, model.prior(n_chains), not (learn or keep))
        sums, found = some.sum(model, keep, *given)
        if keep:
            posterior = found.posterior if posterior is None else posterior + found.posterior
            drawn.append(found.evidence.copy())
            joint += found.joint / averaged
        if learn:
            step = 1.0 if not keep else (sweep - burn_in + 1) ** -_STEP_DECAY
            model = model.updated(sums, counts.scale, True, n_chains, step)
            model = counts.with_new_coefficients(model, found, step)
            model = counts.with_new_baseline(model, found, step)
    assert posterior is not None
    evidence = _bound(np.array(drawn))
    return Sampled(model, posterior / averaged, chains.signal.sum(0), evidence, joint)


def sampled_baseline(
    counts: Summation, model: EventModel, start: Events, rng: np.random.Generator
) -> EventModel:
    """Return the model with likelier baselines, all else as it is, while its events are sampled.

    Steps are whole in the burn-in, and then of decreasing size, as in `sample_events`.
    """
    chains, prior = _in_chains(counts, model, start), model.prior(model.n_chains)
    burn_in, averaged = FEW
    for sweep in range(burn_in + averaged):
        uniform = rng.random((model.n_chains, counts.shape[0], counts.shape[2]))
        found = counts.sum(model, drawn=chains, uniform=uniform, prior=prior)[1]
        step = max(1, sweep - burn_in + 1) ** -_STEP_DECAY
        model = counts.with_new_baseline(model, found, step)
    return model


def average_runs(
    counts: Summation, model: EventModel, start: Events, rng: np.random.Generator, n_runs: int
) -> Sampled:
    """Sample events several times from the same start, and average over the runs.

    The burn-in is divided among them.  A run may stay in a configuration that others do not find.
    In each window it has the weight of the joint probability that it reached; the signal is that of
    one run, drawn by weight.
    """
    sweeps = (_BURN_IN // n_runs, _AVERAGED)
    runs = [sample_events(counts, model, start, rng, False, sweeps) for _ in range(n_runs)]
    joint = np.stack([run.joint for run in runs])
    weight = np.exp(joint - np.logaddexp.reduce(joint))
    posterior = sum(w[:, None, None, None] * x.posterior for w, x in zip(weight, runs, strict=True))
    chosen = (weight.cumsum(0) < rng.random(len(weight[0]))).sum(0).clip(max=n_runs - 1)
    signal = np.stack([runs[run].signal[window] for window, run in enumerate(chosen)])
    apart = counts.sum(model, prior=model.prior_without_overlap())[1].evidence
    evidence = np.max([apart, *(run.evidence for run in runs)], axis=0)
    return Sampled(model, np.asarray(posterior), signal, evidence, (weight * joint).sum(0))


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
