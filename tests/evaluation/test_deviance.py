"""Deviances and the scores made of them, against SciPy's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import d2_tweedie_score, r2_score
from tables import refused

from spikecdl.evaluation import deviance, metrics
from spikecdl.model.families import Binomial, Gaussian, NegativeBinomial, Poisson
from spikecdl.training import Observations


def observations(y: np.ndarray, family, mask: np.ndarray | None = None) -> Observations:
    """Observations (trial, unit, 1, bin) of counts (trial, unit, bin)."""
    counts = torch.tensor(y, dtype=torch.float32)[:, :, None]
    seen = torch.ones_like(counts, dtype=torch.bool) if mask is None else torch.tensor(mask)
    baseline = torch.zeros_like(counts[..., :1])
    return Observations(counts, seen.reshape(counts.shape), family, baseline, True)


def piece(eta):
    """Return what cuts a predictor (trial, unit, channel, bin) into pieces."""
    return lambda rows, bins: eta.flatten(0, 1)[rows][..., bins]


class TestPredictors:
    """Deviances of linear predictors against SciPy's likelihoods."""

    y = np.random.default_rng(0).integers(0, 6, size=(3, 2, 7))
    eta = torch.tensor(np.random.default_rng(1).normal(size=(3, 2, 1, 7)), dtype=torch.float32)
    mask = np.random.default_rng(2).random((3, 2, 7)) < 0.8

    @pytest.mark.parametrize(
        ("family", "log_prob"),
        [
            (Poisson(), lambda y, mean: stats.poisson.logpmf(y, mean)),
            (Binomial(n_trials=9), lambda y, mean: stats.binom.logpmf(y, 9, mean / 9)),
            (Gaussian(scale=2.0), lambda y, mean: stats.norm.logpdf(y, mean, 2.0)),
        ],
    )
    @pytest.mark.parametrize("masked", [False, True])
    def test_is_that_of_scipy(self, family, log_prob, masked):
        mask = self.mask if masked else np.ones_like(self.mask)
        data = observations(self.y, family, mask)
        mean = family.mean(self.eta.double()).numpy()[:, :, 0]
        per_unit = np.stack([self.y[:, i][mask[:, i]].mean() for i in range(2)])[:, None]
        best, model, null = (log_prob(self.y, m) for m in (self.y, mean, per_unit + 0 * mean))
        left, total = np.where(mask, best - model, 0), np.where(mask, best - null, 0)
        found = deviance.deviances(data, piece(self.eta), deviance.null_rate(data)).sum(1)
        expected = [2 * left.sum((0, 2)), 2 * total.sum((0, 2))]
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_extreme_predictors_stay_finite(self):
        y = np.array([[[0, 3, 9, 5]]])
        eta = torch.tensor([-60.0, 60.0, 30.0, -30.0]).reshape(1, 1, 1, 4)
        for family in (Binomial(n_trials=9), Poisson()):
            data = observations(y, family)
            lost = deviance.deviances(data, piece(eta), deviance.null_rate(data))
            assert np.isfinite(lost).all()

    def test_half_a_spike_for_counts_only(self):
        y = np.zeros((2, 1, 10), int)
        assert float(deviance.null_rate(observations(y, Poisson()), 0.5)) == pytest.approx(0.5 / 21)
        assert float(deviance.null_rate(observations(y, Binomial(3)), 0.5)) == pytest.approx(
            0.5 / 61
        )
        assert float(deviance.null_rate(observations(y, Gaussian()), 0.5)) == 0


@pytest.fixture
def poisson_data():
    rng = np.random.default_rng(3)
    mean = rng.uniform(0.2, 6, (5, 3, 40))
    return rng.poisson(mean), mean


def test_deviance_explained_is_sklearns_for_poisson(poisson_data):
    y, mean = poisson_data
    ours = metrics.deviance_explained(y, mean, y.mean(), Poisson())
    assert ours == pytest.approx(d2_tweedie_score(y.ravel(), mean.ravel(), power=1))
    null = y.mean(axis=(0, 2), keepdims=True)
    per_unit = metrics.deviance_explained(y, mean, null, Poisson(), axis=(0, 2))
    expected = [d2_tweedie_score(y[:, u].ravel(), mean[:, u].ravel(), power=1) for u in range(3)]
    np.testing.assert_allclose(per_unit, expected)


def test_deviance_explained_is_r2_for_gaussian():
    rng = np.random.default_rng(4)
    y, mean = rng.normal(size=(2, 2, 30))
    ours = metrics.deviance_explained(y, mean, y.mean(), Gaussian(scale=3.0))
    assert ours == pytest.approx(r2_score(y.ravel(), mean.ravel()))


def test_deviance_explained_for_binomial_from_scipy_likelihoods():
    rng = np.random.default_rng(5)
    trials = rng.integers(1, 30, (4, 2, 25))
    p = rng.uniform(0.02, 0.9, trials.shape)
    y = rng.binomial(trials, p)
    best = stats.binom.logpmf(y, trials, y / trials).sum()
    null = y.sum() / trials.sum()
    lost = best - stats.binom.logpmf(y, trials, p).sum()
    expected = 1 - lost / (best - stats.binom.logpmf(y, trials, null).sum())
    family = Binomial(n_trials=torch.as_tensor(trials))
    ours = metrics.deviance_explained(y, trials * p, trials * null, family)
    assert ours == pytest.approx(expected)


@pytest.mark.parametrize("family", [Poisson(), Binomial(n_trials=30), NegativeBinomial(2.0)])
def test_deviance_explained_ignores_what_is_masked(poisson_data, family):
    y, mean = poisson_data
    mask = np.random.default_rng(6).random(y.shape) > 0.3
    full = metrics.deviance_explained(y[mask], mean[mask], 1.5, family)
    hidden = np.where(mask, mean, np.nan)
    counts = np.where(mask, y, 999)
    masked = metrics.deviance_explained(counts, hidden, 1.5, family, mask=mask)
    assert masked == pytest.approx(full)


@pytest.mark.parametrize("family", [Poisson(), Binomial(n_trials=4), NegativeBinomial(5.0)])
def test_deviance_explained_at_the_ends(family):
    y = np.array([[0, 0, 4, 4], [0, 0, 0, 0]])
    null = y.mean(axis=1, keepdims=True)
    perfect, silent = metrics.deviance_explained(y, y, null, family, axis=1)
    assert perfect == pytest.approx(1)
    assert np.isnan(silent)
    impossible = metrics.deviance_explained(y[0], [0, 0, 0, 4], 2.0, family)
    assert impossible == -np.inf


def test_bits_per_spike_from_scipy_likelihoods(poisson_data):
    y, mean = poisson_data
    null = y.mean(axis=(0, 2), keepdims=True)
    gain = stats.poisson.logpmf(y, mean) - stats.poisson.logpmf(y, null)
    expected = gain.sum() / y.sum() / np.log(2)
    assert metrics.bits_per_spike(y, mean, null, Poisson()) == pytest.approx(expected)
    per_unit = metrics.bits_per_spike(y, mean, null, Poisson(), axis=(0, 2))
    np.testing.assert_allclose(per_unit, gain.sum((0, 2)) / y.sum((0, 2)) / np.log(2))

    trials = 20
    mean, null = np.minimum(mean, 19), np.broadcast_to(null, y.shape)
    gain = stats.binom.logpmf(y, trials, mean / trials) - stats.binom.logpmf(
        y, trials, null / trials
    )
    ours = metrics.bits_per_spike(y, mean, null, Binomial(n_trials=trials))
    assert ours == pytest.approx(gain.sum() / y.sum() / np.log(2))


def test_bits_per_spike_masks_and_ends():
    def bits(y, mean, null_mean, **arguments):
        return metrics.bits_per_spike(y, mean, null_mean, Poisson(), **arguments)

    y, mean = np.array([0, 3, 1, 50]), np.array([0.1, 2.0, 1.0, np.nan])
    masked = bits(y, mean, 1.0, mask=[True, True, True, False])
    assert masked == pytest.approx(bits(y[:3], mean[:3], 1.0))
    assert np.isnan(bits([0, 0], [0.5, 0.5], 1.0))
    assert bits([1, 0], [0.0, 1.0], 0.5) == -np.inf
    assert metrics.bits_per_spike([4, 0], [4, 0], 2, Binomial(n_trials=4)) == pytest.approx(2)


@pytest.mark.parametrize(
    ("y", "mean", "mask", "message"),
    [
        ([1.0, np.nan], [1.0, 1.0], None, "`y` must be finite"),
        ([1.0, 2.0], [1.0, np.inf], None, "`mean` must be finite"),
        ([1.0, 2.0], [1.0, 1.0, 1.0], None, r"`mean` \(shape \(3,\)\) must broadcast to `y`"),
        ([1.0, 2.0], [1.0, 1.0], [True] * 3, "`mask` .* must broadcast"),
    ],
)
def test_rates_are_checked(y, mean, mask, message):
    for measure in [metrics.deviance_explained, metrics.bits_per_spike]:
        with refused(ValueError, message, measure):
            measure(y, mean, 1.0, Poisson(), mask)
