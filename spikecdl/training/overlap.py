"""Events that overlap: blocked Gibbs sampling of several chains of events."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spikecdl.solvers.event_list import list_events, to_events
from spikecdl.solvers.events import Events
from spikecdl.training.event_model import EventModel
from spikecdl.training.event_starts import PADDING
from spikecdl.training.summation import Summation

_STEP_DECAY = 0.7  # of the steps of the model (Robbins and Monro 1951)
MOST_CHAINS = 3
_MOST_EVENTS = 0.98  # that the chains must hold
_FEW = (10, 10)  # sweeps that say enough to go on
_ROUNDS = 2  # of longer templates
_NEAR = 0.125  # of a template's length, within which an event is the same event
_LEAST_NATS, _LEAST_GAIN = 10.0, 0.01


@dataclass(frozen=True)
class Sampled:
    """What sampling found: the model, averages over sweeps, and the last events drawn.

    ``posterior`` (window, template, amplitude, onset) is the probability of events; ``signal``
    (window, channel, bin) that of the events of the last sweep; ``evidence`` (window,) a lower
    bound of the log likelihood: the sum over the configurations that were drawn; ``joint`` the mean
    log probability of the counts and the events drawn.
    """

    model: EventModel
    posterior: np.ndarray
    signal: np.ndarray
    evidence: np.ndarray
    joint: float


def sample_events(
    counts: Summation,
    model: EventModel,
    start: Events,
    n_chains: int,
    rng: np.random.Generator,
    learn: bool,
    sweeps: tuple[int, int] = (20, 40),
) -> Sampled:
    """Sample the events of several chains, from a list of events on, and learn the model with them.

    Each chain is drawn given the others (forward filtering, backward sampling).  The templates,
    rates and baselines take a step after each sweep, whole in the burn-in (the first number of
    ``sweeps``) and of decreasing size in those that are averaged (the second)
    (stochastic approximation EM: Delyon, Lavielle and Moulines, Ann. Stat. 27, 1999).
    """
    signal = _signals(counts, model, start, n_chains)
    shares = np.full((n_chains, len(model)), 1 / n_chains)
    posterior: np.ndarray | None = None
    drawn: list[np.ndarray] = []
    joint: list[float] = []
    burn_in, averaged = sweeps
    for sweep in range(burn_in + averaged):
        keep = sweep >= burn_in
        uniform = rng.random((n_chains, counts.shape[0], counts.shape[2]))
        sums, found = counts.sum(model, keep, signal, uniform, shares)
        if keep:
            posterior = found.posterior if posterior is None else posterior + found.posterior
            drawn.append(found.evidence.copy())
            joint.append(float(found.joint.sum()))
        if learn:
            step = 1.0 if not keep else (sweep - burn_in + 1) ** -_STEP_DECAY
            model = model.updated(sums, counts.scale, True, n_chains, step)
            model = counts.with_new_coefficients(model, found, step)
            model = counts.with_new_baseline(model, found, step)
    assert posterior is not None
    evidence = _bound(np.array(drawn))
    return Sampled(model, posterior / averaged, signal.sum(0), evidence, float(np.mean(joint)))


def choose_overlap(
    counts: Summation,
    model: EventModel,
    start: Events,
    rng: np.random.Generator,
    sweeps: tuple[int, int],
    learn: bool,
) -> int:
    """Return how many chains of events, at most `MOST_CHAINS`, explain the counts.

    One chain more must raise the joint log probability of counts and events, by 1 % of what
    events gain.
    """
    best, chosen = sample_events(counts, model, start, 1, rng, False, sweeps).joint, 1
    least = max(_LEAST_NATS, _LEAST_GAIN * (best - counts.evidence(model.take([])).sum()))
    while chosen < MOST_CHAINS:
        joint = sample_events(counts, model, start, chosen + 1, rng, learn, sweeps).joint
        if joint < best + least:
            break
        best, chosen = joint, chosen + 1
    return chosen


def learn_overlapping(
    counts: Summation,
    model: EventModel,
    start: Events,
    n_chains: int | None,
    rng: np.random.Generator,
) -> tuple[EventModel, int]:
    """Learn the model with several chains of events; None: as many as explain the counts.

    As in `build`, templates are learned longer than they are, and cropped.
    """
    if n_chains is None:
        n_chains = choose_overlap(counts, model, start, rng, _FEW, True)
    if n_chains == 1:
        return model, 1
    length = model.length
    extra = min(round(PADDING / 2 * length), (counts.shape[2] - length) // 2)
    events = start
    for _ in range(_ROUNDS):
        sampled = sample_events(counts, model, events, n_chains, rng, True, _FEW)
        events = _moved(_listed(sampled), -extra, counts.shape[2] - length - 2 * extra)
        padded = sampled.model.padded(extra)
        sampled = sample_events(counts, padded, events, n_chains, rng, True, _FEW)
        model, begin = sampled.model.cropped(length)
        events = _listed(sampled)
        late = torch.from_numpy(begin)[events.template]
        events = _moved(events, late, counts.shape[2] - length)
    return sample_events(counts, model, events, n_chains, rng, True).model, n_chains


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


def _signals(counts: Summation, model: EventModel, events: Events, n_chains: int) -> np.ndarray:
    """Return the signal (chain, window, channel, bin) of listed events."""
    signal = np.zeros((n_chains, *counts.shape))
    chain = _assign(events, model.length, n_chains)
    listed = (x.numpy() for x in (events.window, events.template, events.onset, events.amplitude))
    for k, w, c, s, size in zip(chain, *listed, strict=True):
        if k >= 0:
            nearest = model.amplitudes[c][np.abs(model.amplitudes[c] - size).argmin()]
            signal[k, w, :, s : s + model.length] += nearest * model.templates[c]
    return signal


def _bound(drawn: np.ndarray) -> np.ndarray:
    """Sum the likelihoods (sweep, window) of distinct draws."""
    distinct = [np.unique(values.round(6)) for values in drawn.T]
    return np.array([np.logaddexp.reduce(values) for values in distinct])
