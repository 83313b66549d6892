"""All that may happen in a short window, listed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from spikecdl.events.model import EventModel

N_BINS, LENGTH = 8, 3
TEMPLATES = np.array([[[1.0, 0.5, -0.5]], [[-0.7, 0.2, 1.2]]])
AMPLITUDES = np.array([[0.8, 1.3], [1.0, 1.5]])
RATES = np.array([[0.05, 0.03], [0.02, 0.08]])


def model_of(overlap: int, distance: int = 0, baseline: float = 0.0) -> EventModel:
    """Return a model of the two templates."""
    model = EventModel.of_templates(TEMPLATES, np.array([[baseline]]))
    model = replace(model, amplitudes=AMPLITUDES, rates=RATES, cost=np.zeros(2))
    return replace(model, overlap=overlap, distance=distance)


def chains(onsets):
    """Yield every chain of events: a list of (template, amplitude, onset)."""

    def rest(t, events):
        if t >= N_BINS:
            yield events
            return
        yield from rest(t + 1, events)
        if t in onsets:
            for c, i in product(range(2), range(2)):
                yield from rest(t + LENGTH, [*events, (c, i, t)])

    yield from rest(0, [])


def too_near(events, others, distance):
    """Whether two chains have events of one template that begin within a distance."""
    pairs = product(events, others)
    return any(c == d and abs(s - t) < distance for (c, _, s), (d, _, t) in pairs)


@dataclass
class Truth:
    """Log evidence over that of no event, probabilities, and expected derivatives."""

    evidence: float
    posterior: np.ndarray
    first: np.ndarray
    second: np.ndarray
    residual: np.ndarray
    curvature: np.ndarray
    free: float


def enumerate_events(family, y, mask, eta0, model, onsets=range(N_BINS - LENGTH + 1)) -> Truth:
    """Sum over every configuration of the chains of a model, of which there are one or two."""
    listed, rates = list(chains(onsets)), model.rates / model.overlap
    timing = np.ones((2, N_BINS))
    if model.timing.size:
        timing = np.exp(model.log_timing(N_BINS - LENGTH + 1))
    log_idle = np.log(1 - rates.sum(1) @ timing)
    signals, priors, idle, covering = [], [], [], []
    for events in listed:
        signal, size = np.zeros((2, N_BINS))
        for c, i, s in events:
            size[s : s + LENGTH] += model.amplitudes[c, i]
            signal[s : s + LENGTH] += model.amplitudes[c, i] * model.templates[c, 0]
        covered = {s + k for *_, s in events for k in range(LENGTH)}
        idle.append(len(set(onsets) - covered))
        of_idle = log_idle[sorted(set(onsets) - covered)].sum()
        signals.append(signal)
        covering.append(size)
        log = of_idle + sum(np.log(rates[c, i] * timing[c, s]) for c, i, s in events)
        priors.append(log)
    which = list(product(range(len(listed)), repeat=model.overlap))
    if model.overlap == 2:
        near = [too_near(listed[a], listed[b], model.distance) for a, b in which]
        which = [pair for pair, no in zip(which, near, strict=True) if not no]
    which = np.array(which)
    eta = torch.from_numpy(eta0 + np.array(signals)[which].sum(1))
    logs = np.array(priors)[which].sum(1) - (family.cost(y, eta) * mask).sum(1).numpy()
    total = np.logaddexp.reduce(logs)
    chance = np.exp(logs - total)
    slope = (family.residual(y, eta) * mask).numpy()
    bend = (family.curvature(y, eta) * mask).numpy()
    sizes = np.array(covering)[which].sum(1)  # of events under way
    posterior = np.zeros((*model.amplitudes.shape, N_BINS - LENGTH + 1))
    first, second = np.zeros((2, len(model.templates), LENGTH))
    for column in which.T:  # what is expected of each chain that is listed
        number, slopes, bends = (
            np.zeros((len(listed), *shape)) for shape in ((), (N_BINS,), (N_BINS,))
        )  # curvatures include those with the other event's bin
        np.add.at(number, column, chance)
        np.add.at(slopes, column, chance[:, None] * slope)
        np.add.at(bends, column, chance[:, None] * bend * sizes)
        for events, p, r, b in zip(listed, number, slopes, bends, strict=True):
            for c, i, s in events:
                size = model.amplitudes[c, i]
                posterior[c, i, s] += p
                first[c] += size * r[s : s + LENGTH]
                second[c] += size * b[s : s + LENGTH]
    null = -float((family.cost(y, torch.from_numpy(eta0)) * mask).sum())
    free = float(chance @ np.array(idle)[which].sum(1))
    return Truth(float(total) - null, posterior, first, second, chance @ slope, chance @ bend, free)
