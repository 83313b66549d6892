"""Constant rates and the PSTH against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import make_counts
from scipy.stats import norm

from spikecdl import BinnedSpikes
from spikecdl.baselines import PSTH, ConstantRate

each = pytest.mark.parametrize("model", [ConstantRate(), PSTH()], ids=["constant", "psth"])


def pooled_counts() -> BinnedSpikes:
    """Three windows of unlike numbers of pooled trials, some bins unobserved."""
    generator = np.random.default_rng(0)
    n_pooled = generator.integers(1, 9, (3, 2, 20))
    mask = generator.random((3, 2, 20)) > 0.2
    counts = generator.binomial(n_pooled, 0.3)
    return BinnedSpikes.from_array(counts, 0.005, mask=mask, n_pooled=n_pooled)


def test_a_constant_rate_is_spikes_over_observed_time():
    counts = pooled_counts()
    seconds = (counts.n_pooled * counts.mask).sum((0, 2)) * 0.005
    model = ConstantRate(prior=0.0).fit(counts)
    np.testing.assert_allclose(model.rate_, counts.counts.sum((0, 2)) / seconds)
    predicted = model.predict(counts)
    np.testing.assert_allclose((predicted * counts.mask).sum((0, 2)), counts.counts.sum((0, 2)))
    unseen = np.broadcast_to(model.rate_[:, None] * counts.n_pooled.max((0, 2))[:, None] * 0.005,
                             counts.shape)[~counts.mask]  # fmt: skip
    np.testing.assert_allclose(predicted[~counts.mask], unseen)


def test_the_prior_keeps_a_silent_unit_above_zero():
    counts = BinnedSpikes.from_array(np.zeros((2, 1, 10), int), 0.1)
    np.testing.assert_allclose(ConstantRate().fit(counts).rate_, 0.5 / 21 / 0.1)
    assert (PSTH().fit(counts).rate_ > 0).all()


def test_a_psth_is_the_mean_over_observed_trials():
    counts = pooled_counts()
    model = PSTH(prior=0.0).fit(counts)
    for unit in range(2):
        for bin_ in range(20):
            seen = counts.mask[:, unit, bin_]
            trials = counts.n_pooled[seen, unit, bin_].sum()
            if trials:
                expected = counts.counts[seen, unit, bin_].sum() / trials / 0.005
                np.testing.assert_allclose(model.rate_[unit, bin_], expected)
            else:
                assert np.isnan(model.rate_[unit, bin_])


@each
def test_pooling_before_a_fit_changes_nothing(model):
    counts = make_counts()
    single = (model.fit(counts).predict(counts) * counts.mask).sum(0)
    rate = model.rate_
    pooled = model.fit(counts.pool())
    np.testing.assert_allclose(pooled.rate_, rate)
    whole = counts.pool()
    np.testing.assert_allclose((pooled.predict(whole) * whole.mask)[0], single)


def test_a_smooth_psth_is_a_weighted_mean_of_counts_and_of_time():
    counts = pooled_counts()
    lag = np.arange(-8, 9)
    window = norm.pdf(lag, scale=2.0)  # up to four standard deviations
    window /= window.sum()
    spikes, exposed = counts.counts.sum(0), counts.n_pooled.sum(0) * 0.005

    def smooth(values):
        return np.array([np.convolve(row, window, "full")[8:-8] for row in values])

    model = PSTH(0.01, prior=0.0).fit(counts)
    np.testing.assert_allclose(model.rate_, smooth(spikes) / smooth(exposed))


def test_the_prior_of_a_psth_is_spikes_at_the_mean_rate():
    counts = pooled_counts()
    mean = ConstantRate().fit(counts).rate_[:, None]
    exposed = counts.n_pooled.sum(0) * 0.005
    expected = (counts.counts.sum(0) + 2.0) / (exposed + 2.0 / mean)
    np.testing.assert_allclose(PSTH(prior=2.0).fit(counts).rate_, expected)


@each
def test_a_signal_has_its_mean(model):
    signal = np.random.default_rng(1).normal(size=(5, 2, 8))
    counts = BinnedSpikes.from_array(signal, 0.1)
    axis = 0 if isinstance(model, PSTH) else (0, 2)
    np.testing.assert_allclose(model.fit(counts).rate_, signal.mean(axis))
    np.testing.assert_allclose(model.predict(counts).mean(axis), signal.mean(axis))


@each
def test_counts_unlike_those_of_the_fit_are_refused(model):
    counts = make_counts()
    model.fit(counts)
    with pytest.raises(ValueError, match="the counts have the units"):
        model.predict(counts.select(units=[1]))
    with pytest.raises(ValueError, match="`bin_size` of the counts"):
        model.predict(BinnedSpikes.from_array(counts.counts, 0.02, unit_ids=counts.unit_ids))
    with pytest.raises(TypeError, match="must be BinnedSpikes"):
        model.fit(counts.counts)


def test_windows_unlike_those_of_a_psth_are_refused():
    counts = make_counts()
    model = PSTH().fit(counts)
    later = BinnedSpikes.from_array(counts.counts, 0.01, unit_ids=counts.unit_ids)
    with pytest.raises(ValueError, match="10 bins from 0 s, the fit 10 from -0.03 s"):
        model.predict(later)


@pytest.mark.parametrize("model", [ConstantRate(-1.0), PSTH(prior=-1.0), PSTH(-0.1)])
def test_negative_settings_are_refused(model):
    with pytest.raises(ValueError, match="must not be negative"):
        model.fit(make_counts())
