"""Cross-validation: nothing that is learned has seen what is scored, and errors are honest."""

from __future__ import annotations

import numpy as np
import pytest
from fits import quick, some_counts
from sklearn.base import BaseEstimator

from spikecdl import DCEA, BinnedSpikes, conversion
from spikecdl.evaluation.crossvalidation import cross_validate, divide, ratio
from spikecdl.evaluation.heldout import masked


def pooled_counts(trials: int = 12, **arguments) -> BinnedSpikes:
    y = np.random.default_rng(0).binomial(1, 0.3, size=(trials, 2, 60))
    return BinnedSpikes.from_array(y, **arguments)


class Recorder(BaseEstimator):
    """Keeps what it was fitted to, and expects the mean rate of it."""

    family = "poisson"

    def fit(self, counts):
        self.seen_ = counts
        return self

    def predict(self, counts):
        rate = self.seen_.counts.sum() / self.seen_.n_pooled.sum()
        return rate * conversion.trials_everywhere(counts).astype(float)


class TestFolds:
    """What is seen and what is scored are the whole, and have nothing in common."""

    def test_trials(self):
        counts = pooled_counts()
        folds = divide(counts, "poisson", 5)
        assert folds.how == "trials"
        left_out = [fold.unseen.trial_ids for fold in folds.folds]
        assert sorted(sum(left_out, ())) == list(counts.trial_ids)
        for fold in folds.folds:
            assert set(fold.seen.trial_ids) == set(counts.trial_ids) - set(fold.unseen.trial_ids)

    @pytest.mark.parametrize("known", [True, False])
    def test_pooled_trials(self, known):
        single = pooled_counts()
        counts = single.pool()
        folds = divide(counts, "binomial", 3, single if known else None)
        assert folds.how == ("pooled trials" if known else "parts of pooled trials")
        for fold in folds.folds:
            assert fold.unseen.n_pooled.max() == 4
            for name in ("counts", "n_pooled"):
                both = getattr(fold.seen, name) + getattr(fold.unseen, name)
                assert np.array_equal(both, getattr(counts, name))
        assert sum(fold.unseen.counts.sum() for fold in folds.folds) == counts.counts.sum()

    def test_one_long_trial(self):
        counts = pooled_counts(trials=1)
        folds = divide(counts, "binomial", 3)
        assert folds.how == "stretches of time"
        for fold in folds.folds:
            assert not (fold.seen.mask & fold.unseen.mask).any()
            assert (fold.seen.mask | fold.unseen.mask).all()
            assert fold.unseen.mask.sum() == 2 * 20

    def test_pooled_trials_that_cannot_be_split(self):
        counts = pooled_counts()
        with pytest.raises(ValueError, match="has no `split`"):
            divide(counts.pool(), "negative_binomial", 3)
        assert divide(counts.pool(), "negative_binomial", 3, counts).how == "pooled trials"
        with pytest.raises(ValueError, match="`n_folds` .=1. must be at least 2"):
            divide(counts, "poisson", 1)


class TestScores:
    """Sums over folds, and their standard error."""

    def test_models_are_fitted_to_what_is_seen(self):
        counts, numbers = pooled_counts(), []
        found = cross_validate(Recorder(), counts, 4, on_fold=numbers.append)
        assert numbers == [0, 1, 2, 3]
        for model, fold in zip(found.models, found.folds, strict=True):
            assert not set(model.seen_.trial_ids) & set(fold.counts.trial_ids)
            again = masked(model, fold.counts, "poisson")
            assert again.deviance_explained == fold.deviance_explained

    @pytest.mark.parametrize("layout", ["shared", "joint"])
    def test_events_that_come_back_are_predicted(self, layout):
        counts = some_counts(layout=layout, trials=16, bins=150)
        found = cross_validate(quick(layout=layout), counts)
        assert found.deviance_explained > 5 * found.standard_error > 0
        assert found.deviance_explained_per_fold.mean() == pytest.approx(
            found.deviance_explained, abs=0.05
        )
        assert found.bits_per_spike > 0
        whole = quick(layout=layout).fit(counts)
        assert found.template_errors(whole.templates_).shape == (3, 1)
        assert found.template_errors(whole.templates_).max() < 0.3

    def test_standard_error_is_the_spread_over_data_sets(self):
        generator = np.random.default_rng(1)
        weights = generator.gamma(5.0, size=(2000, 30))
        values = [ratio(0.3 * one + generator.normal(size=30), one) for one in weights]
        found, errors = np.transpose(values)
        assert errors.mean() == pytest.approx(found.std(), rel=0.1)
        assert np.isnan(ratio(np.ones(1), np.ones(1))[1])
        assert np.isnan(ratio(np.ones(2), np.zeros(2))).all()

    def test_a_stretch_of_time_left_out_takes_the_memory_of_one_unit(self):
        counts = BinnedSpikes.from_array(np.ones((1, 5, 90), int))
        folds = divide(counts, "poisson", 3)
        assert folds.how == "stretches of time"
        for number, fold in enumerate(folds.folds):
            assert fold.unseen.mask[0, 0].nonzero()[0].tolist() == [
                *range(30 * number, 30 * number + 30)
            ]
            np.testing.assert_array_equal(fold.seen.mask, ~fold.unseen.mask)
            assert fold.seen.mask.strides[1] == fold.seen.n_pooled.strides[1] == 0

    @pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
    @pytest.mark.parametrize("layout", ["shared", "joint"])
    def test_scores_of_stretches_are_those_of_hidden_bins(self, layout):
        counts = some_counts(layout=layout, trials=2, bins=240)
        fold = divide(counts, "poisson", 3).folds[1]
        model = quick(layout=layout).fit(fold.seen)
        found, expected = fold.score(model), masked(model, fold.unseen, "poisson")
        np.testing.assert_allclose(found.deviances, expected.deviances, rtol=1e-4)
        assert found.deviance_explained == pytest.approx(expected.deviance_explained, abs=1e-5)

    @pytest.mark.slow
    def test_sequences_that_are_not_there(self):
        """Joint templates of many units remember the noise of the trials that they saw."""
        y = np.random.default_rng(0).poisson(0.05, size=(12, 60, 200))
        counts = BinnedSpikes.from_array(y, 0.01)
        model = DCEA(4, 0.2, "poisson", layout="joint", trainer="alternating", random_state=0)
        assert model.fit(counts).score(counts) > 0
        found = cross_validate(model, counts)
        assert found.deviance_explained + 2 * found.standard_error < 0
        assert found.evidence_gain[0] <= 0
        assert found.template_errors(model.templates_).mean() > 0.5


def test_windows_that_share_spikes_are_in_one_fold():
    starts = np.array([0.0, 0.5, 3.0, 6.0, 6.9, 7.8, 12.0, 15.0])
    spikes = np.random.default_rng(0).poisson(0.2, (8, 1, 100))
    counts = BinnedSpikes.from_array(spikes, 0.01, trial_starts=starts)
    for seed in range(5):
        folds = divide(counts, "poisson", 3, random_state=seed).folds
        dealt = [set(fold.unseen.trial_starts) for fold in folds]
        assert sorted(start for fold in dealt for start in fold) == sorted(starts)
        for fold in dealt:
            assert len(fold & {0.0, 0.5}) != 1
            assert len(fold & {6.0, 6.9, 7.8}) in (0, 3)
