"""Sums over all events of a window, against a list of all that may happen in it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from spikecdl import BinnedSpikes, conversion
from spikecdl.model.families import Binomial, Gaussian, NegativeBinomial, Poisson
from spikecdl.solvers.event_list import describe_events, list_events
from spikecdl.solvers.event_posterior import (
    Drawn,
    Found,
    Prior,
    Windows,
    _sum_windows,
    sum_events,
)
from spikecdl.solvers.event_ratios import Templates
from spikecdl.solvers.losses import LOSSES, Loss, as_array
from spikecdl.training.event_model import EventModel
from spikecdl.training.overlap import anneal
from spikecdl.training.summation import Summation

N_BINS, LENGTH = 9, 3
TEMPLATES = Templates(
    np.array([[[1.0, 0.5, -0.5]], [[-0.7, 0.2, 1.2]]]), np.array([[0.8, 1.3], [1.0, 1.5]])
)
RATES = np.array([[0.05, 0.03], [0.02, 0.08]])
PRIOR = Prior(np.log(RATES)[None], np.log([1 - RATES.sum()]))
ANYWHERE = range(N_BINS - LENGTH + 1)
FAMILIES = [Poisson(), Binomial(n_trials=4), NegativeBinomial(shape=2.0), Gaussian(scale=0.7)]


def paths():
    """Yield every chain of events: a list of (template, amplitude, onset)."""

    def rest(t, events):
        if t == N_BINS:
            yield events
            return
        yield from rest(t + 1, events)
        if t + LENGTH <= N_BINS:
            for c, i in product(range(2), range(2)):
                yield from rest(t + LENGTH, [*events, (c, i, t)])

    yield from rest(0, [])


def n_idle(events, onsets=ANYWHERE):
    """Count the bins in which an event could have begun and none did."""
    covered = {s + k for *_, s in events for k in range(LENGTH)}
    return len(set(onsets) - covered)


def too_near(events, others, distance):
    """Whether two chains have events of one template that begin within a distance."""
    pairs = product(events, others)
    return any(c == d and abs(s - t) < distance for (c, _, s), (d, _, t) in pairs)


def brute_force(family, y, mask, eta0, onsets=ANYWHERE):
    """Return log evidence, event probabilities, and derivatives by templates and predictor."""
    found = []
    for events in paths():
        if not {s for *_, s in events} <= set(onsets):
            continue
        eta = eta0.copy()
        for c, i, s in events:
            eta[s : s + LENGTH] += TEMPLATES.amplitudes[c, i] * TEMPLATES.taps[c, 0]
        eta_t = torch.from_numpy(eta)
        log = -(family.cost(y, eta_t) * mask).sum().item()
        log += n_idle(events, onsets) * float(PRIOR.log_idle[0])
        log += sum(float(PRIOR.log_start[0, c, i]) for c, i, _ in events)
        slope = (family.residual(y, eta_t) * mask).numpy()
        found.append((log, events, slope))
    logs = np.array([log for log, *_ in found])
    evidence = np.logaddexp.reduce(logs)
    chance = np.exp(logs - evidence)
    posterior = np.zeros((2, 2, N_BINS - LENGTH + 1))
    first, residual = np.zeros((2, LENGTH)), np.zeros(N_BINS)
    for weight, (_, events, slope) in zip(chance, found, strict=True):
        residual += weight * slope
        for c, i, s in events:
            posterior[c, i, s] += weight
            first[c] += weight * TEMPLATES.amplitudes[c, i] * slope[s : s + LENGTH]
    free = sum(p * n_idle(events, onsets) for p, (_, events, _) in zip(chance, found, strict=True))
    return evidence, posterior, first, residual, free


def compute(family, y, mask, eta0, **more):
    loss = family.scalar_loss(y)
    arrays = Loss(
        LOSSES[loss.kind], *(as_array((x * mask)[None, None].double()) for x in (loss.a, loss.b))
    )
    z = (eta0 - loss.shift)[None, None].copy()
    found = Found(
        np.zeros(1),
        np.zeros_like(z),
        np.zeros_like(z),
        np.zeros((1, 2, 2, N_BINS - LENGTH + 1)),
        more.pop("drawn", Drawn.nothing(0, z.shape)),
        np.zeros(1),
    )
    windows = Windows(arrays, z, onsets=more.pop("onsets", None))
    return sum_events(windows, TEMPLATES, PRIOR, found, **more), found


@pytest.mark.parametrize("varying", ["constant", "mask", "baseline", "bin"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_sums_are_those_over_every_chain_of_events(family, varying):
    generator = torch.Generator().manual_seed(1)
    eta0 = np.full(N_BINS, -0.4)
    if varying == "baseline":
        eta0 = eta0 + 0.3 * np.sin(np.arange(N_BINS))
    if varying == "bin":  # of which only some events know
        eta0[0] += 0.7
    y = family.sample(torch.from_numpy(eta0), generator)
    mask = torch.ones(N_BINS, dtype=torch.float64)
    if varying == "mask":
        mask[[2, 6]] = 0
    sums, found = compute(family, y, mask, eta0)
    evidence, posterior, first, residual, free = brute_force(family, y, mask, eta0)

    np.testing.assert_allclose(found.evidence, evidence, rtol=1e-8)
    np.testing.assert_allclose(found.posterior[0], posterior, atol=1e-8)
    np.testing.assert_allclose(sums.number, posterior.sum(-1), atol=1e-8)
    np.testing.assert_allclose(sums.free, free, rtol=1e-8)
    np.testing.assert_allclose(sums.first[:, 0], first, atol=1e-6)
    np.testing.assert_allclose(found.residual[0, 0].sum(), residual.sum(), atol=1e-6)
    if varying in ("baseline", "bin"):
        np.testing.assert_allclose(found.residual[0, 0], residual, atol=1e-6)


@pytest.mark.parametrize("onsets", [(2, 3), (0, 4, 6)])
def test_events_begin_only_where_they_may(onsets):
    y = torch.tensor([0.0, 3, 1, 0, 0, 1, 2, 4, 0], dtype=torch.float64)
    eta0, ones = np.full(N_BINS, -0.4), torch.ones_like(y)
    allowed = np.isin(ANYWHERE, onsets)[None]
    sums, found = compute(Poisson(), y, ones, eta0, onsets=allowed)
    evidence, posterior, first, _, free = brute_force(Poisson(), y, ones, eta0, onsets)
    np.testing.assert_allclose(found.evidence, evidence, rtol=1e-8)
    np.testing.assert_allclose(found.posterior[0], posterior, atol=1e-8)
    np.testing.assert_allclose(sums.free, free, rtol=1e-8)
    np.testing.assert_allclose(sums.first[:, 0], first, atol=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn, uniform = Drawn.nothing(1, (1, 1, N_BINS)), rng.random((1, 1, N_BINS))
        compute(Poisson(), y, ones, eta0, drawn=drawn, uniform=uniform, onsets=allowed)
        assert set(np.flatnonzero(drawn.kind[0, 0] >= 0)) <= set(onsets)


def test_windows_in_which_nothing_was_observed_have_no_events():
    y = torch.zeros(N_BINS, dtype=torch.float64)
    sums, found = compute(Poisson(), y, torch.zeros_like(y), np.full(N_BINS, -0.4))
    assert sums.number.sum() == sums.free.sum() == found.evidence.sum() == 0
    assert not found.posterior.any()


def test_draws_have_the_posterior_probabilities():
    y = torch.tensor([0.0, 3, 1, 0, 0, 1, 2, 4, 0], dtype=torch.float64)
    rng, eta0, drawn = np.random.default_rng(0), np.full(N_BINS, -0.4), np.zeros(N_BINS)
    for _ in range(2000):
        _, found = compute(
            Poisson(),
            y,
            torch.ones_like(y),
            eta0,
            drawn=Drawn.nothing(1, (1, 1, N_BINS)),
            uniform=rng.random((1, 1, N_BINS)),
        )
        drawn += found.drawn.signal[0, 0, 0] != 0
    begins = found.posterior[0].sum((0, 1))
    covered = np.convolve(begins, np.ones(LENGTH))
    np.testing.assert_allclose(drawn / 2000, covered, atol=0.04)


@pytest.mark.parametrize("distance", [0, 2])
def test_two_chains_sample_the_model_in_which_events_overlap(distance):
    """The product of two chains, without pairs that are too near, is summed by brute force."""
    y = torch.tensor([0.0, 3, 4, 2, 0, 1, 2, 4, 0], dtype=torch.float64)
    eta0, rng = np.full(N_BINS, -0.4), np.random.default_rng(0)
    prior = Prior(np.log(RATES / 2)[None].repeat(2, 0), np.log(1 - RATES.sum() / 2).repeat(2))
    prior = prior._replace(distance=distance)
    listed = list(paths())
    signals, priors = np.zeros((len(listed), N_BINS)), np.zeros(len(listed))
    for row, events in enumerate(listed):
        priors[row] = n_idle(events) * prior.log_idle[0]
        for c, i, s in events:
            signals[row, s : s + LENGTH] += TEMPLATES.amplitudes[c, i] * TEMPLATES.taps[c, 0]
            priors[row] += prior.log_start[0, c, i]
    eta = eta0 + signals[:, None] + signals
    logs = priors[:, None] + priors + (y.numpy() * eta - np.exp(eta)).sum(-1)
    logs[[[too_near(a, b, distance) for a in listed] for b in listed]] = -np.inf
    weight = np.exp(logs - np.logaddexp.reduce(logs, axis=None))
    expected = (weight[..., None] * (signals[:, None] + signals)).sum((0, 1))
    loss = Loss(LOSSES["exponential"], y.numpy()[None, None], np.ones((1, 1, N_BINS)))
    z, drawn, mean = np.full((1, 1, N_BINS), -0.4), Drawn.nothing(2, (1, 1, N_BINS)), 0.0
    found = Found(
        np.zeros(1), np.zeros_like(z), np.zeros_like(z), np.zeros((0, 2, 2, 7)), drawn, np.zeros(1)
    )
    bound = set()
    for sweep in range(4000):
        derived = np.zeros((sweep % 2, 1, N_BINS))  # every other sweep finds the sums, too
        found = found._replace(residual=derived, curvature=derived.copy())
        sum_events(Windows(loss, z), TEMPLATES, prior, found, rng.random((2, 1, N_BINS)))
        mean = mean + drawn.signal.sum((0, 1, 2)) / 4000
        bound.add(round(float(found.evidence[0]), 6))
    np.testing.assert_allclose(mean, expected, atol=0.05)
    # the sum over configurations that were drawn comes close to the sum over all, from below
    evidence = np.logaddexp.reduce(logs, axis=None)
    assert evidence - 0.3 < np.logaddexp.reduce(list(bound)) < evidence + 1e-6


@pytest.mark.parametrize("distance", [0, 2])
def test_weights_of_annealed_draws_have_the_likelihood_for_their_mean(distance):
    model = EventModel(*TEMPLATES, RATES, np.array([[-0.4]]), np.ones(2))
    model = replace(model, n_chains=2, distance=distance)
    prior, y = model.prior(2), np.array([0.0, 3, 4, 2, 0, 1, 2, 4, 0])
    priors, logs = [], []
    for first, second in product(list(paths()), repeat=2):
        if too_near(first, second, distance):
            continue
        log, eta = (n_idle(first) + n_idle(second)) * prior.log_idle[0], np.full(N_BINS, -0.4)
        for c, i, s in first + second:
            log += prior.log_start[0, c, i]
            eta[s : s + LENGTH] += TEMPLATES.amplitudes[c, i] * TEMPLATES.taps[c, 0]
        priors.append(log)
        logs.append(log + (y * eta - np.exp(eta)).sum())
    expected = np.logaddexp.reduce(logs) - np.logaddexp.reduce(priors)
    counts = BinnedSpikes.from_array(np.tile(y.astype(int), (4000, 1, 1)), 0.01)
    data = conversion.observe(
        counts, Poisson(), conversion.LAYOUTS["shared"], "learned", torch.device("cpu")
    )
    for n_sweeps, worst in [(2, 5.0), (20, 0.5)]:
        weight = anneal(Summation(data), model, np.random.default_rng(0), n_sweeps)[1]
        found = np.exp(weight - expected)
        assert abs(found.mean() - 1) < 4 * found.std() / len(found) ** 0.5
        assert expected - worst < weight.mean() < expected


def test_events_are_listed_with_their_moments():
    posterior = np.zeros((1, 1, 2, 20))
    posterior[0, 0, 0, 4:7] = [0.1, 0.3, 0.1]
    posterior[0, 0, 1, 5] = 0.3
    posterior[0, 0, 0, 15] = 0.4
    amplitudes = np.array([[1.0, 2.0]])
    (event,) = list_events(posterior, amplitudes, 2, 0.5)
    window, template, onset, probability, time, time_sd, amplitude, amplitude_sd = event
    assert (window, template, onset) == (0, 0, 5)
    np.testing.assert_allclose([probability, time, amplitude], [0.8, 5, (0.5 + 2 * 0.3) / 0.8])
    np.testing.assert_allclose(time_sd, np.sqrt(0.2 / 0.8), rtol=0.15)  # but for times in bins
    np.testing.assert_allclose(amplitude_sd, np.sqrt(0.5 * 0.3) / 0.8)
    places = (np.array([0, 0]), np.array([0, 0]), np.array([6, 15]))
    first, second = describe_events(posterior, amplitudes, 2, *places)
    np.testing.assert_allclose([first[3], second[3]], [0.8, 0.4])
    assert (first[2], second[2]) == (6, 15)


@pytest.mark.parametrize("sd", [0.3, 0.5, 2.0])
@pytest.mark.parametrize("at", [8.0, 8.2, 8.4])
def test_times_lie_between_bins(at, sd):
    """The moments of a normal density, of which the probabilities are values at bins."""
    density = np.exp(-((np.arange(20) - at) ** 2) / (2 * sd**2))
    posterior = (0.9 * density / density.sum())[None, None, None]
    (event,) = list_events(posterior, np.ones((1, 1)), 8, 0.5)
    assert event[2] == round(at)
    np.testing.assert_allclose(event[4], at, atol=0.02)
    np.testing.assert_allclose(event[5], sd, rtol=0.03)


def test_every_second_window_is_summed_by_the_code_compiled_for_all():
    counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.5, (4, 1, N_BINS)), 0.01)
    shared, device = conversion.LAYOUTS["shared"], torch.device("cpu")
    whole = Summation(conversion.observe(counts, Poisson(), shared, "learned", device))
    model = EventModel(*TEMPLATES, RATES, np.array([[-0.4]]), np.ones(2))
    evidence, compiled = whole.evidence(model), len(_sum_windows.signatures)
    found = whole.take(slice(None, None, 2)).evidence(model)
    np.testing.assert_array_equal(found, evidence[::2])
    assert len(_sum_windows.signatures) == compiled
