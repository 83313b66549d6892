"""From counts to observations and back: layouts, baselines, exposure, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logit
from tables import refused

from spikecdl import BinnedSpikes, Binomial, Gaussian, History, NegativeBinomial, Poisson
from spikecdl.config import LAYOUTS
from spikecdl.conversion import hide, observe, rates, with_sub_bins
from spikecdl.data.inputs import as_counts
from spikecdl.model.families import FAMILIES
from spikecdl.model.history import Terms

each_family = pytest.mark.parametrize("family", sorted(FAMILIES))
each_layout = pytest.mark.parametrize("layout", sorted(LAYOUTS))
CPU = torch.device("cpu")


def counts_of(y, **arguments) -> BinnedSpikes:
    return BinnedSpikes.from_array(np.asarray(y), **{"bin_size": 0.01, **arguments})


def random_counts(shape=(3, 2, 40), most=1, seed=0, **arguments) -> BinnedSpikes:
    return counts_of(np.random.default_rng(seed).integers(0, most + 1, shape), **arguments)


def observed(counts, family, baseline="learned", layout="shared"):
    return observe(counts, family, LAYOUTS[layout], baseline, CPU)


class TestLayout:
    """Where the axis of units goes."""

    @each_layout
    def test_round_trip(self, layout):
        counts, axes = random_counts(), LAYOUTS[layout]
        data = observed(counts, Poisson(), layout=layout)
        assert data.y.shape == {"shared": (3, 2, 1, 40), "joint": (3, 1, 2, 40)}[layout]
        assert np.array_equal(axes.squeeze(data.y), counts.counts)
        assert data.baseline.shape == (*data.y.shape[:3], 1)

    def test_one_unit_and_one_channel_are_not_confused(self):
        one = random_counts((1, 1, 1))
        for layout in LAYOUTS.values():
            assert layout.squeeze(torch.tensor(layout.expand(one.counts))).shape == (1, 1, 1)


class TestCounts:
    """What arrays mean."""

    def test_signals_of_negative_integers(self):
        assert not as_counts(np.array([[1, -2, 3]]), 1.0).is_counts
        assert as_counts(np.array([[1, 2, 3]]), 1.0).is_counts

    def test_hidden_bins_hold_nothing(self):
        bins = np.arange(40) % 4 == 1
        hidden = hide(random_counts(), bins)
        assert not hidden.counts[..., bins].any()
        assert not hidden.mask[..., bins].any()
        assert np.array_equal(hidden.counts[..., ~bins], random_counts().counts[..., ~bins])

    @each_layout
    def test_spikes_of_hidden_bins_are_history_of_later_ones(self, layout):
        counts, bins = random_counts(), np.arange(40) % 4 == 1
        hidden = hide(hide(counts, bins), bins[::-1])
        about = (Poisson(), LAYOUTS[layout], "learned", CPU, Terms(History(0.03)))
        whole, part = (observe(each, *about) for each in (counts, hidden))
        coefficients = torch.tensor([[-1.0, -0.5, -0.2], [-2.0, -1.0, 0.0]])
        offsets = [data.covariates.offset(coefficients) for data in (whole, part)]
        torch.testing.assert_close(*offsets)
        assert offsets[0].any()
        assert not part.mask[..., bins].any()
        assert not part.y[..., bins].any()
        some = hidden.select(trials=[2, 0], units=[1], bins=slice(10, 30))
        np.testing.assert_array_equal(some.past, counts.counts[[2, 0], 1:, 10:30])

    def test_sub_bins_are_those_of_the_family(self):
        for family, n_pooled, sub_bins in [
            (Binomial(n_trials=30), 1, 30),
            (Binomial(n_trials=30), 30, 1),
            (Binomial(n_trials=30), 10, 3),
            (Binomial(n_trials=30), 7, 1),
            (Binomial(), 10, 1),
            (Poisson(), 10, 1),
        ]:
            assert with_sub_bins(random_counts(n_pooled=n_pooled), family).sub_bins == sub_bins


class TestBaseline:
    """Linear predictor without events."""

    @each_family
    @each_layout
    def test_given_rates_come_back_in_hz(self, family, layout):
        """Per recorded trial, whatever is pooled."""
        given = np.array([[3.0, 8.0]])
        counts = random_counts((1, 2, 40), most=4, n_pooled=5, sub_bins=2)
        model = FAMILIES[family]()
        data = observed(counts, model, given, layout)
        mean = LAYOUTS[layout].squeeze(data.family.mean(data.baseline.expand_as(data.y)))
        np.testing.assert_allclose(rates(counts, mean, model)[..., 0], given, rtol=1e-5)
        assert not data.learn_baseline

    def test_predictors_of_given_rates(self):
        counts = random_counts(n_pooled=5, sub_bins=2)
        data = observed(counts, Binomial(), [3.0, 8.0])
        expected = logit(np.array([3.0, 8.0]) * 0.01 / 2)
        np.testing.assert_allclose(data.baseline[0, :, 0, 0], expected, rtol=1e-5)
        data = observed(counts, Poisson(), 3.0)
        np.testing.assert_allclose(data.baseline, np.log(3.0 * 0.01 * 5), rtol=1e-5)
        data = observed(counts, Gaussian(), 3.0)
        np.testing.assert_allclose(data.baseline, 15.0, rtol=1e-5)

    @each_family
    def test_estimate_is_the_mean_of_long_windows(self, family):
        counts = random_counts((2, 2, 20_000), most=3, sub_bins=4)
        data = observed(counts, FAMILIES[family]())
        mean = data.family.mean(data.baseline.expand_as(data.y))[..., 0].squeeze(-1).numpy()
        np.testing.assert_allclose(mean, counts.counts.mean(-1), rtol=1e-3)
        assert data.learn_baseline

    @each_family
    def test_estimate_from_part_of_the_window(self, family):
        y = np.zeros((2, 1, 2000), int)
        y[..., :1000] = np.random.default_rng(0).integers(0, 3, (2, 1, 1000))
        counts = counts_of(y, t_start=-10.0, sub_bins=2)
        data = observed(counts, FAMILIES[family](), (-10.0, 0.0))
        mean = data.family.mean(data.baseline.expand_as(data.y))[..., 0].squeeze(-1).numpy()
        np.testing.assert_allclose(mean, y[..., :1000].mean(-1), rtol=5e-3)
        assert not data.learn_baseline

    @pytest.mark.parametrize("family", ["binomial", "poisson", "negative_binomial"])
    def test_silent_windows_are_finite_and_quieter_than_the_others(self, family):
        y = np.random.default_rng(0).integers(0, 2, (4, 2, 50))
        y[1, 0], y[:, 1] = 0, 0
        baseline = observed(counts_of(y), FAMILIES[family]()).baseline
        assert torch.isfinite(baseline).all()
        assert baseline[1, 0] < baseline[[0, 2, 3], 0].min()
        assert baseline[:, 1].max() < baseline[1, 0]

    def test_unobserved_bins_do_not_count(self):
        mask = np.ones((1, 1, 100), bool)
        mask[..., 50:] = False
        for family in (Poisson(), Binomial(), Gaussian()):
            part = observed(counts_of(np.ones((1, 1, 100), int), mask=mask, sub_bins=2), family)
            whole = observed(counts_of(np.ones((1, 1, 50), int), sub_bins=2), family)
            np.testing.assert_allclose(part.baseline, whole.baseline, rtol=1e-6)

    def test_a_signal_not_observed_has_the_mean_of_its_unit(self):
        y = np.array([[[1.5, 2.5]], [[0.0, 0.0]]])
        mask = np.array([[[True, True]], [[False, False]]])
        data = observed(counts_of(y, mask=mask), Gaussian())
        assert data.baseline.flatten().tolist() == [2.0, 2.0]

    def test_what_does_not_fit(self):
        for baseline, words in [
            ((5.0, 6.0), "no whole bin of the windows, which last from 0 to 0.4 s"),
            ((0.1, 0.1), "no whole bin"),
            ((0.0, np.inf), "finite"),
            ((0.3, 0.4), "no observed bin of unit 'b'"),
            ([1.0, 2.0, 3.0], "rates of shape"),
            ([1.0, -2.0], "above 0, and below the Bernoulli"),
            ([1.0, np.nan], "above 0, and below the Bernoulli"),
            (100.0, "above 0, and below the Bernoulli"),
            ("fitted", "must be one of: learned"),
        ]:
            mask = np.ones((3, 2, 40), bool)
            mask[:, 1, 20:] = False
            counts = random_counts(mask=mask, unit_ids=("a", "b"))
            with refused(ValueError, f"`baseline`.*{words}", baseline):
                observed(counts, Binomial(), baseline)


class TestExposure:
    """Pooled trials and Bernoulli trials per bin."""

    def uneven(self) -> BinnedSpikes:
        mask = np.ones((5, 2, 40), bool)
        mask[0, 1, 30:] = False
        return random_counts((5, 2, 40), mask=mask, unit_ids=("a", "b")).pool()

    def test_binomial_follows_the_trials_that_were_observed(self):
        data = observed(self.uneven(), Binomial())
        assert data.family.exposure(data.y)[0, 1, 0, [0, 39]].tolist() == [5, 4]

    def test_families_that_do_not_know_of_it_are_refused(self):
        for family in [Poisson(), NegativeBinomial(5.0), Gaussian(), Binomial(n_trials=5)]:
            name = type(family).__name__
            words = (
                f"unit 'b' pool from 4 to 5 trials, which {name} .*family='binomial'.*do not pool"
            )
            with refused(ValueError, words, family):
                observed(self.uneven(), family)
            observed(self.uneven().select(units=0), family)

    def test_bins_that_nobody_observed_do_not_vary(self):
        mask = np.ones((5, 1, 40), bool)
        mask[:, :, 10] = False
        observed(random_counts((5, 1, 40), mask=mask).pool(), Poisson())

    @each_layout
    def test_n_trials_of_each_window(self, layout):
        n_trials = torch.tensor([2, 3, 4]).reshape(3, 1, 1)
        data = observed(random_counts(), Binomial(n_trials=n_trials), layout=layout)
        exposure = LAYOUTS[layout].squeeze(data.family.exposure(data.y))
        assert np.array_equal(exposure, np.broadcast_to(n_trials.numpy(), (3, 2, 40)))
        rows = data.rows()
        assert rows.family.exposure(rows.y).shape == rows.y.shape
        with pytest.raises(ValueError, match="`n_trials` .shape .4, 1, 1.. must broadcast"):
            observed(random_counts(), Binomial(n_trials=torch.ones(4, 1, 1)))

    @each_layout
    def test_the_count_that_is_too_large_is_named(self, layout):
        y = np.zeros((3, 2, 40), int)
        y[2, 1, 17] = 4
        counts = counts_of(y, unit_ids=("a", "b"), trial_ids=(10, 20, 30))
        n_trials = torch.tensor([9.0, 9.0, 3.0]).reshape(3, 1, 1)
        words = r"count 4 of unit 'b', trial 30, bin 17 .* whole counts from 0 to n_trials \(=3\)"
        with pytest.raises(ValueError, match=words):
            observed(counts, Binomial(n_trials=n_trials), layout=layout)
        with pytest.raises(ValueError, match=r"n_trials \(=1\)"):
            observed(counts, Binomial(), layout=layout)

    def test_counts_that_single_precision_cannot_tell_apart(self):
        y = np.array([[2**24, 2**24 + 1]])
        with pytest.raises(ValueError, match="bin 1 is above 16777216"):
            observed(counts_of(y), Poisson())

    def test_rates_are_per_recorded_trial(self):
        pooled = random_counts((5, 1, 40), most=3).pool()
        mean = pooled.counts.astype(float)
        np.testing.assert_allclose(rates(pooled, mean, Poisson()), pooled.rate())
        np.testing.assert_allclose(rates(pooled, mean, Gaussian()), pooled.rate() * 0.01)
        mask = np.arange(40) < 30
        part = hide(pooled, ~mask)
        assert np.array_equal(np.isnan(rates(part, mean, Poisson())[0, 0]), ~mask)
