"""Held-out scores: parts are independent, nothing leaks, and the null model scores exactly 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import make_counts
from scipy import stats
from scipy.stats import binom, poisson
from tables import refused

from spikecdl import BinnedSpikes, Binomial, Gaussian, NegativeBinomial, Poisson, conversion
from spikecdl.evaluation import metrics
from spikecdl.evaluation.heldout import HeldOut, masked, split, transfer
from spikecdl.simulate import simulate

DRAWS = 40_000
ENOUGH = 1e-3  # p value below which a law is taken for another one


def draws(law: Any, n_pooled: int = 1, sub_bins: int = 1) -> BinnedSpikes:
    """Many bins of one unit, all with the same law."""
    y = law.rvs(size=(1, 1, DRAWS), random_state=0)
    return BinnedSpikes.from_array(y, n_pooled=n_pooled, sub_bins=sub_bins)


def p_of_law(y: np.ndarray, law: Any) -> float:
    """Chi-squared test of counts against a law, with rare values together."""
    most = int(law.isf(1e-3))
    expected = law.pmf(np.arange(most))
    expected = np.append(expected, 1 - expected.sum()) * y.size
    found = np.bincount(y.ravel().clip(max=most), minlength=most + 1)
    return float(stats.chisquare(found, expected).pvalue)


def p_of_independence(one: np.ndarray, other: np.ndarray) -> float:
    """Chi-squared test of independence, with values that are rare left out."""
    table = np.histogram2d(one.ravel(), other.ravel(), bins=[np.arange(9) - 0.5] * 2)[0]
    table = table[table.sum(1) > 200][:, table.sum(0) > 200]
    return float(stats.chi2_contingency(table).pvalue)


@dataclass
class Rate:
    """Expects the same rate per recorded trial, whatever it is shown."""

    rate: Any

    def predict(self, counts: BinnedSpikes) -> np.ndarray:
        return np.broadcast_to(self.rate, counts.shape) * conversion.trials_everywhere(counts)


class Memory:
    """Expects the counts that it is shown, but for a little doubt: as overfitted as can be."""

    def predict(self, counts: BinnedSpikes) -> np.ndarray:
        trials = conversion.trials_everywhere(counts)
        return (counts.counts + 0.05) / (trials * counts.sub_bins + 0.1) * trials * counts.sub_bins


class Constant:
    """The null model itself."""

    def __init__(self, exposure_is_trials: bool) -> None:
        self.exposure_is_trials = exposure_is_trials

    def predict(self, counts: BinnedSpikes) -> np.ndarray:
        exposure = np.ones(counts.shape)
        if self.exposure_is_trials:
            exposure = conversion.trials_everywhere(counts) * counts.sub_bins
        total = np.where(counts.mask, counts.counts, 0).sum((0, 2), keepdims=True)
        seen = np.where(counts.mask, exposure, 0).sum((0, 2), keepdims=True)
        rate = (total + 0.5) / (seen + 1)
        return rate * exposure


class TestSplit:
    """The law of each part, their independence, and what cannot be split."""

    @pytest.mark.parametrize(
        ("counts", "family", "share", "one", "other", "ratio"),
        [
            (draws(binom(7, 0.3), 7), "binomial", 0.5, binom(4, 0.3), binom(3, 0.3), 1),
            (draws(binom(7, 0.3), 7), "binomial", 0.1, binom(1, 0.3), binom(6, 0.3), 1),
            (draws(binom(6, 0.6), 3, 2), "binomial", 0.7, binom(4, 0.6), binom(2, 0.6), 1),
            (draws(binom(5, 0.4), 1, 5), "binomial", 0.6, binom(3, 0.4), binom(2, 0.4), 2 / 3),
            (draws(poisson(2.4), 8), "poisson", 0.75, poisson(1.8), poisson(0.6), 1),
            (draws(poisson(2.4)), "poisson", 0.8, poisson(1.92), poisson(0.48), 0.25),
        ],
    )
    def test_parts_have_their_law_and_are_independent(
        self, counts, family, share, one, other, ratio
    ):
        parts = split(counts, family, share, random_state=1)
        assert p_of_law(parts.seen.counts, one) > ENOUGH
        assert p_of_law(parts.unseen.counts, other) > ENOUGH
        y, rest = parts.seen.counts, parts.unseen.counts
        assert abs(np.corrcoef(y.ravel(), rest.ravel())[0, 1]) < 4 / np.sqrt(DRAWS)
        assert p_of_independence(y, rest) > ENOUGH
        assert parts.ratio == pytest.approx(ratio)

    def test_the_other_familys_split_is_not_independent(self):
        """Else the test above could not fail: binomial counts must not be thinned."""
        parts = split(draws(binom(7, 0.3), 7), "poisson", 0.5, random_state=1)
        assert p_of_independence(parts.seen.counts, parts.unseen.counts) < 1e-6

    @given(
        seed=st.integers(0, 999),
        share=st.floats(0.02, 0.98),
        family=st.sampled_from(["binomial", "poisson"]),
        kind=st.sampled_from(["pooled", "sub_bins", "pooled and sub_bins"]),
    )
    def test_nothing_is_lost_or_made_up(self, seed, share, family, kind):
        rng = np.random.default_rng(seed)
        mask = rng.random((3, 2, 11)) < 0.8
        mask[0, 0, 0] = True
        n_pooled = np.full(mask.shape, 1 if kind == "sub_bins" else 4)
        if family == "binomial" and kind != "sub_bins":
            n_pooled[:, :, ::3], n_pooled[:, :, 1] = 1, 3
        sub_bins = 1 if kind == "pooled" else 4
        y = rng.binomial(n_pooled * sub_bins, 0.4)
        counts = BinnedSpikes.from_array(y, 0.01, mask=mask, n_pooled=n_pooled, sub_bins=sub_bins)
        parts = split(counts, family, share, seed)
        seen, unseen = parts.seen, parts.unseen
        assert np.array_equal(seen.counts + unseen.counts, counts.counts)
        assert np.array_equal(seen.mask, counts.mask)
        if kind == "sub_bins":
            assert np.array_equal(seen.n_pooled, unseen.n_pooled)
            assert family == "poisson" or seen.sub_bins + unseen.sub_bins == sub_bins
        else:
            assert np.array_equal(seen.n_pooled + unseen.n_pooled, counts.n_pooled)
            assert np.array_equal(unseen.mask, counts.n_pooled > 1)
            assert seen.sub_bins == unseen.sub_bins == sub_bins
        if family == "binomial":
            assert (seen.counts <= seen.n_trials).all()
            assert (unseen.counts <= unseen.n_trials).all()
        again = split(counts, family, share, seed)
        assert np.array_equal(again.seen.counts, seen.counts)

    def test_truth_stays_with_whole_trials_only(self):
        counts = simulate("poisson", n_trials=4, n_units=1, same_events=True, random_state=0)
        assert split(counts.pool(), "poisson", random_state=0).seen.truth is not None
        assert split(counts, "poisson", random_state=0).seen.truth is None

    def test_families_without_parts(self):
        for family, message in [
            (NegativeBinomial(5.0), "`family` .=NegativeBinomial.* has no `split`"),
            ("gaussian", "`family` .='gaussian'. has no `split`"),
            (Binomial(n_trials=9), "`family` .=Binomial.n_trials=9.. fixes n_trials"),
            ("bernoulli", "`family` .='bernoulli'. must be one of"),
        ]:
            with refused(ValueError, message, family):
                split(make_counts(masked=False), family)

    def test_one_bernoulli_trial_has_no_parts(self):
        counts = BinnedSpikes.from_array(np.eye(4, dtype=int))
        with pytest.raises(ValueError, match="one Bernoulli trial in each bin.*pool trials"):
            split(counts, "binomial")
        split(counts.pool(), "binomial")

    def test_share_is_a_share(self):
        for share in [0, 1, -0.1, 2]:
            with refused(ValueError, "`share` .=.*. must lie between 0 and 1", share):
                split(make_counts(), "poisson", share)

    def test_counts_that_the_family_cannot_have(self):
        with pytest.raises(ValueError, match="outside the support of Binomial"):
            split(BinnedSpikes.from_array([[3, 0]], n_pooled=2), "binomial")


def scored(how: str, model: Any, counts: BinnedSpikes, family: str) -> HeldOut:
    """Score a model in one of the three ways, on trials that share a condition."""
    if how == "masked":
        return masked(model, counts.pool(), family)
    if how == "split":
        return split(counts.pool(), family, random_state=3).score(model)
    half = len(counts) // 2
    seen, unseen = counts.select(trials=slice(half)), counts.select(trials=slice(half, None))
    return transfer(model, seen.pool(), unseen if how == "transfer" else unseen.pool(), family)


each_way = pytest.mark.parametrize("how", ["masked", "split", "transfer", "transfer, pooled"])
each_split_family = pytest.mark.parametrize("family", ["binomial", "poisson"])


class TestScores:
    """What models score that are known to be right, overfitted, or the null model."""

    rate = 0.15 + 0.12 * np.sin(np.arange(300) / 8) + np.array([[0.0], [0.1]])

    def counts(self, family: str) -> BinnedSpikes:
        rng = np.random.default_rng(5)
        rate = np.broadcast_to(self.rate, (40, *self.rate.shape))
        y = rng.binomial(1, rate) if family == "binomial" else rng.poisson(rate)
        return BinnedSpikes.from_array(y, 0.005, unit_ids=("a", "b"))

    @each_way
    @each_split_family
    def test_an_overfitted_model_explains_nothing(self, how, family):
        counts = self.counts(family)
        flat = replace(counts, counts=np.random.default_rng(6).permuted(counts.counts, axis=2))
        pooled = flat.pool()
        own = HeldOut(
            pooled,
            Memory().predict(pooled),
            np.broadcast_to(pooled.counts.mean(-1, keepdims=True), pooled.shape),
            Binomial(n_trials=40) if family == "binomial" else Poisson(),
        )
        assert own.deviance_explained > 0.95
        found = scored(how, Memory(), flat, family)
        assert found.deviance_explained < -0.05
        assert (found.bits_per_spike_per_unit < 0).all()

    @each_way
    @each_split_family
    def test_the_true_rate_is_better_than_any_constant(self, how, family):
        counts = self.counts(family)
        truth = scored(how, Rate(self.rate), counts, family)
        for constant in (*np.linspace(0.05, 0.45, 9), self.rate.mean(-1, keepdims=True)):
            flat = scored(how, Rate(constant), counts, family)
            assert flat.deviance_explained < 0.01
            assert flat.deviance_explained < truth.deviance_explained
            assert flat.bits_per_spike < truth.bits_per_spike
        assert (truth.bits_per_spike_per_unit > 0.05).all()

    @each_way
    @each_split_family
    def test_the_null_model_scores_exactly_nothing(self, how, family):
        found = scored(how, Constant(family == "binomial"), self.counts(family), family)
        assert found.deviance_explained == 0
        assert found.bits_per_spike == 0
        assert not found.deviance_explained_per_unit.any()
        assert not found.bits_per_spike_per_unit.any()

    @pytest.mark.parametrize("kind", ["sub_bins", "thinned"])
    def test_parts_of_single_trials(self, kind):
        """A model that estimates its baseline from one part predicts that of the other."""
        if kind == "sub_bins":
            counts, family = draws(binom(5, 0.4), 1, 5), "binomial"
        else:
            counts, family = draws(poisson(2.4)), "poisson"
        parts = split(counts, family, 0.8, random_state=0)

        class Baseline:
            def predict(self, shown):
                return np.full(shown.shape, shown.counts.mean())

        found = parts.score(Baseline())
        assert found.mean.mean() == pytest.approx(parts.unseen.counts.mean(), rel=0.05)
        assert abs(found.deviance_explained) < 1e-3
        assert parts.score(Rate(9e-9)).deviance_explained < -1

    def test_transfer_is_per_recorded_trial(self):
        counts = self.counts("binomial")
        seen, unseen = counts.select(trials=slice(17)), counts.select(trials=slice(17, 40))
        rate = (seen.counts.sum(0) + 0.5) / 18

        class Average:
            def predict(self, shown):
                return (shown.counts + 0.5) / (shown.n_pooled + 1) * shown.n_pooled

        pooled = transfer(Average(), seen.pool(), unseen.pool(), "binomial")
        single = transfer(Average(), seen.pool(), unseen, "binomial")
        np.testing.assert_allclose(pooled.mean[0], 23 * rate, rtol=1e-12)
        np.testing.assert_allclose(single.mean, np.broadcast_to(rate, single.mean.shape))
        assert single.bits_per_spike == pytest.approx(pooled.bits_per_spike)
        many = transfer(Average(), seen, unseen, "binomial")
        mean = ((seen.counts + 0.5) / 2).mean(0)
        np.testing.assert_allclose(many.mean, np.broadcast_to(mean, many.mean.shape))
        null = (seen.counts.sum((0, 2)) + 0.5) / (17 * 300 + 1)
        np.testing.assert_allclose(pooled.null_mean[0, :, 0], 23 * null, rtol=1e-6)

    @each_split_family
    def test_scores_are_those_of_scipy_and_metrics(self, family):
        counts = self.counts(family).pool()
        n = 40
        mean, null = n * np.broadcast_to(self.rate[None], counts.shape), np.full(counts.shape, 8.0)
        observed = np.random.default_rng(0).random(counts.shape) < 0.7
        counts = replace(
            counts,
            counts=np.where(observed, counts.counts, 0),
            mask=observed,
            n_pooled=np.where(observed, n, 0),
        )
        model = Binomial(n_trials=n) if family == "binomial" else Poisson()
        found = HeldOut(counts, mean, null, model)
        y = counts.counts

        def logpmf(expected):
            if family == "binomial":
                return stats.binom.logpmf(y, n, expected / n)
            return stats.poisson.logpmf(y, expected)

        gain = np.where(observed, logpmf(mean) - logpmf(null), 0)
        whole = np.where(observed, logpmf(np.maximum(y, 1e-300)) - logpmf(null), 0)
        axis = (0, 2)
        bits = gain.sum(axis) / y.sum(axis) / np.log(2)
        np.testing.assert_allclose(found.bits_per_spike_per_unit, bits)
        np.testing.assert_allclose(
            found.deviance_explained_per_unit, gain.sum(axis) / whole.sum(axis), rtol=1e-6
        )
        assert found.deviance_explained == pytest.approx(gain.sum() / whole.sum())
        direct = metrics.bits_per_spike(y, mean, null, model, observed)
        assert found.bits_per_spike == pytest.approx(direct)

    @pytest.mark.parametrize("how", ["masked", "transfer", "transfer, pooled"])
    def test_units_keep_their_places(self, how):
        counts = self.counts("poisson")
        turned = counts.select(units=[1, 0])
        one = scored(how, Rate(self.rate), counts, "poisson")
        other = scored(how, Rate(self.rate[::-1]), turned, "poisson")
        assert one.counts.unit_ids == other.counts.unit_ids[::-1]
        np.testing.assert_allclose(
            one.deviance_explained_per_unit, other.deviance_explained_per_unit[::-1]
        )
        assert one.deviance_explained_per_unit[0] != one.deviance_explained_per_unit[1]

    def test_only_what_was_observed_counts(self):
        counts = self.counts("poisson").select(trials=slice(4))
        mask = np.random.default_rng(1).random(counts.shape) < 0.6
        mask[:, 1, :] = False
        part = BinnedSpikes.from_array(counts.counts, 0.005, mask=mask)

        found = masked(Rate(np.where(mask, self.rate, 1e6)), part, "poisson")
        expected = [
            stats.poisson.logpmf(part.counts, m)[mask].sum() for m in (found.mean, found.null_mean)
        ]
        bits = (expected[0] - expected[1]) / part.counts.sum() / np.log(2)
        assert found.bits_per_spike == pytest.approx(bits)
        assert np.isnan(found.deviance_explained_per_unit[1])

    def test_hidden_bins_are_hidden(self):
        counts = self.counts("poisson")
        shown = []

        class Spy:
            def predict(self, seen):
                shown.append(seen)
                return np.full(seen.shape, 0.2)

        masked(Spy(), counts, "poisson", n_folds=3)
        for fold, seen in enumerate(shown):
            hidden = np.arange(counts.n_bins) % 3 == fold
            assert not seen.mask[..., hidden].any()
            assert not seen.counts[..., hidden].any()
            assert np.array_equal(seen.counts[..., ~hidden], counts.counts[..., ~hidden])

    def test_real_valued_signals_have_no_spikes(self):
        y = np.random.default_rng(0).normal(size=(3, 50))
        found = masked(Rate(0.0), BinnedSpikes.from_array(y), Gaussian())
        assert np.isnan(found.bits_per_spike)
        assert abs(found.deviance_explained) < 0.1


class TestErrors:
    """What does not fit is refused in one sentence."""

    counts = make_counts()

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (counts.select(units=[1, 0]), "`seen` and `unseen` must have the same unit_ids"),
            (replace(counts, bin_size=0.02), "the same bin_size, not 0.01 and 0.02"),
            (replace(counts, t_start=0.0), "the same t_start"),
        ],
    )
    def test_other_units_or_bins(self, other, message):
        with pytest.raises(ValueError, match=message):
            transfer(Rate(1.0), self.counts, other, "poisson")

    def test_a_model_of_another_shape(self):
        class Flat:
            def predict(self, counts):
                return np.ones(3)

        with pytest.raises(ValueError, match=r"`model` predicts counts of shape \(3,\)"):
            masked(Flat(), self.counts, "poisson")

    def test_more_than_a_bin_can_hold(self):
        counts = BinnedSpikes.from_array(np.eye(6, dtype=int))
        found = transfer(Rate(1.5), counts, counts, "binomial")
        with pytest.raises(ValueError, match=r"`mean` \(=1.5\) is not a mean that Binomial can"):
            _ = found.deviance_explained

    def test_not_finite(self):
        with pytest.raises(ValueError, match="`mean` must be finite"):
            masked(Rate(np.nan), self.counts, "poisson")

    def test_one_fold_hides_everything(self):
        with pytest.raises(ValueError, match="`n_folds` .=1. must be at least 2"):
            masked(Rate(1.0), self.counts, "poisson", n_folds=1)
