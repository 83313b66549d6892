"""Sums over all events of a window, against a list of all that may happen in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from enumeration import LENGTH, N_BINS, enumerate_events, model_of

from spikecdl.events.dense import DenseCounts
from spikecdl.events.prior import exposure
from spikecdl.events.sampling import _sweep, anneal
from spikecdl.events.windows import Drawn
from spikecdl.model.families import Binomial, Gaussian, NegativeBinomial, Poisson
from spikecdl.model.history import PoissonWithBursts
from spikecdl.model.observations import Observations

BURSTS = PoissonWithBursts(torch.tensor([0.0, 0.4, 0.0, 0.2, 0.7, 0.0, 0.1, 0.3]).double())
FAMILIES = [Poisson(), Binomial(n_trials=4), NegativeBinomial(shape=2.0), Gaussian(scale=0.7)]
FAMILIES.append(BURSTS)
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def dense(family, y, mask, eta0, onsets=None, learn=False):
    """Return one window of counts whose predictor without events is known."""
    shape = (1, 1, 1, N_BINS)
    onsets = None if onsets is None else torch.from_numpy(onsets).reshape(1, 1, 1, -1)
    data = Observations(
        y.reshape(shape).double(),
        (mask > 0).reshape(shape),
        family.map(lambda values: values.reshape(shape)),
        torch.from_numpy(np.broadcast_to(eta0, shape).copy()),
        learn,
        onsets=onsets,
    )
    return DenseCounts(data)


@pytest.fixture(autouse=True)
def every_event_may_be_one_of_a_pair(monkeypatch):
    monkeypatch.setattr("spikecdl.events.model.PAIRED", -np.inf)


@pytest.fixture
def factors_of_each_window(monkeypatch):
    """As where windows have too many patterns of counts to share their factors."""
    monkeypatch.setattr("spikecdl.events.windows._MOST_FACTORS", 0)


@pytest.mark.usefixtures("factors_of_each_window")
@pytest.mark.parametrize("varying", ["constant", "mask", "baseline", "timing"])
@each_family
def test_windows_that_share_no_factors_have_the_same_sums(family, varying):
    test_sums_are_those_over_all_that_may_happen(family, varying, 2, 0)


@pytest.mark.parametrize(("overlap", "distance"), [(1, 0), (2, 0), (2, 2), (2, LENGTH)])
@pytest.mark.parametrize("varying", ["constant", "mask", "baseline", "timing"])
@each_family
def test_sums_are_those_over_all_that_may_happen(family, varying, overlap, distance):
    generator = torch.Generator().manual_seed(1)
    eta0 = np.full(N_BINS, -0.4)
    if varying == "baseline":
        eta0 = eta0 + 0.3 * np.sin(np.arange(N_BINS))
    y = family.sample(torch.from_numpy(eta0), generator)
    mask = torch.ones(N_BINS, dtype=torch.float64)
    if varying == "mask":
        mask[[2, 6]] = 0
    model = model_of(overlap, distance)
    if varying == "timing":
        model = replace(model, timing=np.array([[0.0, 1.0, -1.0], [-2.0, 1.5, 0.5]]))
    counts = dense(family, y, mask, eta0)
    sums, found = counts.sum(model, keep_posterior=True)
    truth = enumerate_events(family, y, mask, eta0, model)

    gain = found.evidence - counts.expect(model.take([])).evidence
    np.testing.assert_allclose(gain, truth.evidence, atol=1e-6)
    np.testing.assert_allclose(found.posterior[0], truth.posterior, atol=1e-6)
    np.testing.assert_allclose(sums.number, truth.posterior.sum(-1), atol=1e-6)
    np.testing.assert_allclose(sums.free, truth.free, rtol=1e-6)
    if varying == "timing":
        np.testing.assert_allclose(sums.starts, truth.posterior.sum(1), atol=1e-6)
        idle = exposure(model, counts.expectation(sums, found)) - sums.starts.sum(0)
        np.testing.assert_allclose(idle.sum(), truth.free, rtol=1e-6)
    slope = sums.spikes - sums.expected
    np.testing.assert_allclose(slope[:, 0], truth.first, atol=2e-4)
    np.testing.assert_allclose(sums.second[:, 0], truth.second, atol=2e-4)
    np.testing.assert_allclose(found.residual[0, 0].sum(), truth.residual.sum(), atol=2e-4)
    np.testing.assert_allclose(found.curvature[0, 0].sum(), truth.curvature.sum(), atol=2e-4)
    if varying == "baseline":
        np.testing.assert_allclose(found.residual[0, 0], truth.residual, atol=2e-4)
        np.testing.assert_allclose(found.curvature[0, 0], truth.curvature, atol=2e-4)


Y = torch.tensor([0.0, 3, 1, 0, 1, 2, 4, 0], dtype=torch.float64)
ETA = np.full(N_BINS, -0.4)


def many(n_windows, model):
    """Return so many windows of the same counts, and what is expected of one."""
    y = Y.expand(n_windows, 1, 1, N_BINS).clone()
    level = torch.full_like(y[..., :1], -0.4)
    data = Observations(y, torch.ones_like(y, dtype=torch.bool), Poisson(), level, False)
    return DenseCounts(data), enumerate_events(Poisson(), Y, torch.ones(N_BINS), ETA, model)


@pytest.mark.parametrize("overlap", [1, 2])
@pytest.mark.parametrize("onsets", [(2, 3), (0, 4, 5)])
def test_events_begin_only_where_they_may(onsets, overlap):
    allowed = np.isin(np.arange(N_BINS - LENGTH + 1), onsets)
    ones, model = torch.ones(N_BINS), model_of(overlap)
    sums, found = dense(Poisson(), Y, ones, ETA, onsets=allowed).sum(model, keep_posterior=True)
    truth = enumerate_events(Poisson(), Y, ones, ETA, model, onsets)
    np.testing.assert_allclose(found.posterior[0], truth.posterior, atol=1e-6)
    np.testing.assert_allclose(sums.free, truth.free, rtol=1e-6)


def test_windows_in_which_nothing_was_observed_have_no_events():
    counts = dense(Poisson(), 0 * Y, 0 * Y, ETA)
    sums, found = counts.sum(model_of(2), keep_posterior=True)
    assert sums.number.sum() == sums.free.sum() == found.evidence.sum() == 0
    assert not found.posterior.any()


@pytest.mark.parametrize("overlap", [1, 2])
def test_draws_have_the_posterior_probabilities(overlap):
    model = model_of(overlap)
    counts, truth = many(4000, model)
    drawn = Drawn.nothing(overlap, counts.shape)
    uniform = np.random.default_rng(0).random((1, counts.shape[0], N_BINS + 1))
    counts.sum(model, drawn=drawn, uniform=uniform)
    size = model.amplitudes.size
    kinds = drawn.kind[..., : N_BINS - LENGTH + 1]
    share = [(kinds == k).sum((0, 1)) / counts.shape[0] for k in range(size)]
    np.testing.assert_allclose(share, truth.posterior.reshape(size, -1), atol=0.03)
    (_, _, signal), *_ = counts.posterior(model, np.random.default_rng(0))
    assert signal.shape == counts.shape


@pytest.mark.parametrize("distance", [0, 2])
def test_chains_that_are_sampled_have_the_probabilities_of_the_exact_sum(distance):
    model = model_of(2, distance)
    counts, truth = many(1000, model)
    rng, chains, chance = np.random.default_rng(0), Drawn.nothing(2, counts.shape), 0.0
    for sweep in range(14):
        found = _sweep(counts, model, chains, rng, keep_posterior=True)[1]
        chance = chance + (sweep >= 4) * found.posterior.mean(0) / 10
    np.testing.assert_allclose(chance, truth.posterior, atol=0.02)


@pytest.mark.parametrize("overlap", [2, 3])
def test_weights_of_annealed_draws_have_the_likelihood_for_their_mean(overlap):
    """The evidence of two chains is known; that of three is near it where events are few."""
    model = model_of(overlap)
    counts, truth = many(4000, model_of(2))
    none = counts.expect(model.take([])).evidence[0]
    for n_sweeps, worst in [(2, 5.0), (20, 0.5)]:
        weight = anneal(counts, model, np.random.default_rng(0), n_sweeps)[1] - none
        found = np.exp(weight - truth.evidence)
        spread = 4 * found.std() / len(found) ** 0.5
        assert abs(found.mean() - 1) < spread + 0.05 * (overlap == 3)
        assert truth.evidence - worst < weight.mean() < truth.evidence


def test_some_windows_give_the_numbers_of_all():
    model = model_of(2)
    counts, _ = many(6, model)
    whole = counts.expect(model).evidence
    part = counts.take(slice(None, None, 2)).expect(model).evidence
    np.testing.assert_array_equal(part, whole[::2])
