"""Held-out scores and data that were not observed: nothing leaks, nothing is made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import BINS, LENGTH, TRAINERS, quick, same_bits, some_counts
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spikecdl import DCEA, BinnedSpikes, Binomial, Gaussian, Poisson, Unrolled
from spikecdl.evaluation import deviance
from spikecdl.model.families import FAMILIES
from spikecdl.simulate import simulate
from spikecdl.training import Observations

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.estimator.NotConvergedWarning")
each_family = pytest.mark.parametrize("family", sorted(FAMILIES))
each_trainer = pytest.mark.parametrize("trainer", sorted(TRAINERS))


def observations(y: np.ndarray, family, mask: np.ndarray | None = None) -> Observations:
    """Observations (trial, unit, 1, bin) of counts (trial, unit, bin)."""
    counts = torch.tensor(y, dtype=torch.float32)[:, :, None]
    seen = torch.ones_like(counts, dtype=torch.bool) if mask is None else torch.tensor(mask)
    baseline = torch.zeros_like(counts[..., :1])
    return Observations(counts, seen.reshape(counts.shape), family, baseline, True)


class TestExplained:
    """Deviance explained against SciPy's likelihoods."""

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
        rate = deviance.null_rate(data)
        whole = deviance.explained(data, self.eta, rate)
        assert whole == pytest.approx(1 - left.sum() / total.sum(), rel=1e-5)
        units = deviance.explained(data, self.eta, rate, per_unit=True)
        np.testing.assert_allclose(units, 1 - left.sum((0, 2)) / total.sum((0, 2)), rtol=1e-5)

    def test_extreme_predictors_stay_finite(self):
        y = np.array([[[0, 3, 9, 5]]])
        eta = torch.tensor([-60.0, 60.0, 30.0, -30.0]).reshape(1, 1, 1, 4)
        for family in (Binomial(n_trials=9), Poisson()):
            data = observations(y, family)
            assert np.isfinite(deviance.explained(data, eta, deviance.null_rate(data)))

    def test_half_a_spike_for_counts_only(self):
        y = np.zeros((2, 1, 10), int)
        assert float(deviance.null_rate(observations(y, Poisson()), 0.5)) == pytest.approx(0.5 / 21)
        assert float(deviance.null_rate(observations(y, Binomial(3)), 0.5)) == pytest.approx(
            0.5 / 61
        )
        assert float(deviance.null_rate(observations(y, Gaussian()), 0.5)) == 0


class TestHeldOut:
    """`DCEA.score`: of bins that neither codes, baseline nor penalty have seen."""

    @each_trainer
    @pytest.mark.parametrize("baseline", ["learned", (0.0, 40.0), [1.0, 1.0]])
    def test_never_sees_what_it_scores(self, trainer, baseline, monkeypatch):
        counts = some_counts(trials=4)
        weight = None if baseline == "learned" else 0.2
        model = quick(trainer=trainer, baseline=baseline, penalty_weight=weight).fit(counts)
        found = []
        encode = DCEA._encode

        def recorded(self, problem):
            events, level = encode(self, problem)
            found.append((self._codes(problem, events), level))
            return events, level

        monkeypatch.setattr(DCEA, "_encode", recorded)
        model.score(counts)
        y = counts.counts.copy()
        y[..., 2::4] = np.random.default_rng(0).poisson(9, y[..., 2::4].shape)
        model.score(replace(counts, counts=y))
        before, after = found[:4], found[4:]
        same = [
            all(torch.equal(one, other) for one, other in zip(*pair, strict=True))
            for pair in zip(before, after, strict=True)
        ]
        assert same == [False, False, True, False]

    @each_family
    def test_noise_scores_nothing(self, family):
        noise = some_counts(family, n_events=0, bins=400)
        model = quick(family, penalty_weight=None).fit(some_counts(family))
        assert abs(model.score(noise)) < 0.02

    def test_a_fit_to_noise_scores_nothing(self):
        noise = some_counts(n_events=0, bins=400)
        assert quick(penalty_weight=None).fit(noise).score(noise) < 0.02

    def test_nearly_no_noise_scores_nearly_one(self):
        family = Gaussian(scale=0.05)
        counts = simulate(
            family, n_trials=6, n_units=1, duration=0.4, n_events=1, baseline=0.0, random_state=0,
            templates=[np.hanning(52)[1:-1]],
        )  # fmt: skip
        model = DCEA(1, 0.05, family, trainer=TRAINERS["alternating"], random_state=0).fit(counts)
        assert model.score(counts) > 0.98

    def test_one_spike_is_not_an_infinite_null(self):
        y = np.zeros((4, 1, 40), int)
        y[2, 0, 17] = 1
        model = quick().fit(some_counts(units=1))
        assert -1 < model.score(y) < 1

    def test_nothing_to_explain_is_nan(self):
        model = quick("gaussian").fit(some_counts("gaussian", units=1))
        assert np.isnan(model.score(np.full((2, BINS), 2.0)))

    @pytest.mark.parametrize("n_bins", [1, 2, 3, 5])
    def test_short_windows(self, n_bins):
        y = np.random.default_rng(0).poisson(1.0, size=(30, n_bins))
        model = DCEA(1, 1, trainer=TRAINERS["unrolled"], n_epochs=1, random_state=0).fit(y)
        assert np.isfinite(model.score(y))


class TestNotObserved:
    """Bins outside the mask are missing, not silent."""

    def masked(self, **arguments) -> BinnedSpikes:
        counts = some_counts(**arguments)
        mask = np.ones(counts.shape, bool)
        mask[0, :, 60:] = False
        mask[1, 1, :45] = False
        mask[2, 0, 10:20] = False
        return BinnedSpikes.from_array(counts.counts, mask=mask, sub_bins=counts.sub_bins)

    @each_trainer
    def test_baseline_is_that_of_the_observed_bins(self, trainer):
        noise = some_counts(n_events=0, bins=400)
        mask = np.ones(noise.shape, bool)
        mask[:, 0, 100:] = False
        counts = BinnedSpikes.from_array(noise.counts, mask=mask)
        model = quick(trainer=trainer, penalty_weight=None).fit(counts)
        seen = noise.counts[:, 0, :100].mean()
        assert model.baseline_[:, 0].mean() == pytest.approx(seen, rel=0.2)

    @pytest.mark.parametrize("trainer", [TRAINERS["alternating"], Unrolled(n_unrolled=300)])
    def test_a_window_cut_short_is_a_window_not_observed_to_its_end(self, trainer):
        """Codes before the cut are those of the window that ends there, to numerical accuracy."""
        model = quick(baseline=[1.0]).fit(some_counts(units=1)).set_params(trainer=trainer)
        whole = some_counts(units=1, trials=6, n_events=1, bins=60)
        cut = 45
        mask = np.ones(whole.shape, bool)
        mask[..., cut:] = False
        one = model.transform(BinnedSpikes.from_array(whole.counts, mask=mask))
        other = model.transform(whole.counts[..., :cut])
        place = (whole.truth.events["time"]).to_numpy()
        clear = (place < cut - 2 * LENGTH) | (place > cut)
        assert clear.sum() >= 3
        assert other[clear].any()
        few = cut - 2 * LENGTH
        np.testing.assert_allclose(one[clear][..., :few], other[clear][..., :few], atol=0.02)

    @each_family
    @each_trainer
    def test_windows_that_were_never_observed(self, family, trainer):
        counts = some_counts(family)
        mask = np.ones(counts.shape, bool)
        mask[5], mask[3, 1] = False, False
        part = BinnedSpikes.from_array(counts.counts, mask=mask, sub_bins=counts.sub_bins)
        model = quick(family, trainer, penalty_weight=None).fit(part)
        codes = model.transform(part)
        assert np.isfinite(codes).all()
        assert not codes[5].any()
        assert not codes[3, 1].any()
        assert np.isfinite(model.score(part))
        parts = model.decompose(part)
        assert np.array_equal(np.isnan(parts.rate), ~mask)

    def test_group_of_a_unit_that_was_not_observed(self):
        part = self.masked()
        codes = quick(penalty="group_l1").fit(part).transform(part)
        assert np.isfinite(codes).all()
        assert codes.any()

    def test_joint_layout(self):
        part = self.masked(layout="joint")
        model = quick(layout="joint", penalty_weight=None).fit(part)
        assert model.score(part) > 0.2

    @given(data=st.data())
    def test_what_stands_behind_a_mask_does_not_matter(self, data):
        counts = some_counts(trials=2, bins=40)
        rows = data.draw(st.lists(st.booleans(), min_size=40, max_size=40))
        mask = np.broadcast_to(rows, counts.shape)
        behind = data.draw(st.sampled_from([np.nan, np.inf, -3.0, 99.0]))
        one, other = (
            BinnedSpikes.from_array(np.where(mask, counts.counts, value), mask=mask)
            for value in (0.0, behind)
        )
        assert same_bits(one.counts, other.counts)
        assert not one.counts[~mask].any()
