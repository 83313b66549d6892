"""Held-out scores of `DCEA`: nothing leaks, noise scores nothing, and other trials agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fits import BINS, TRAINERS, quick, some_counts

from spikecdl import DCEA, BinnedSpikes, Gaussian, conversion, plots, read_nwb
from spikecdl.evaluation.heldout import masked, split, transfer
from spikecdl.evaluation.null_model import NullModel
from spikecdl.model.families import FAMILIES
from spikecdl.simulate import simulate

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
each_family = pytest.mark.parametrize("family", sorted(FAMILIES))


@pytest.fixture(scope="module")
def fitted() -> Callable[[str], DCEA]:
    """Models of `some_counts`, by family, each fitted once."""
    return cache(lambda family: quick(family, penalty_weight=None).fit(some_counts(family)))


class TestScore:
    """`DCEA.score`: of bins that neither codes, baseline nor penalty have seen."""

    @pytest.mark.parametrize(
        ("trainer", "baseline"),
        [
            ("alternating", "learned"),
            ("alternating", (0.0, 40.0)),
            ("implicit", "learned"),
            ("unrolled", "learned"),
            ("unrolled", [1.0, 1.0]),
        ],
    )
    def test_never_sees_what_it_scores(self, trainer, baseline):
        """Other counts in a fold change what is expected in the other folds, not in their own."""
        counts = some_counts(trials=4)
        weight = None if baseline == "learned" else 0.2
        model = quick(trainer=trainer, baseline=baseline, penalty_weight=weight).fit(counts)
        y = counts.counts.copy()
        y[..., 2::4] = np.random.default_rng(0).poisson(9, y[..., 2::4].shape)
        other = replace(counts, counts=y)
        before, after = (masked(model, each, "poisson") for each in (counts, other))
        for mean in ("mean", "null_mean"):
            folds = [
                np.array_equal(getattr(before, mean)[..., k::4], getattr(after, mean)[..., k::4])
                for k in range(4)
            ]
            assert folds == [False, False, True, False]
        assert model.score(counts) == pytest.approx(before.deviance_explained, rel=1e-6)
        assert model.score(other) == pytest.approx(after.deviance_explained, rel=1e-6)

    @each_family
    def test_noise_scores_nothing(self, family, fitted):
        noise = some_counts(family, n_events=0, bins=200)
        assert abs(fitted(family).score(noise)) < 0.02

    def test_a_fit_to_noise_scores_nothing(self):
        noise = some_counts(n_events=0, bins=200)
        assert quick(penalty_weight=None).fit(noise).score(noise) < 0.02

    def test_nearly_no_noise_scores_nearly_one(self):
        family = Gaussian(scale=0.05)
        counts = simulate(
            family, n_trials=6, n_units=1, duration=0.4, n_events=1, baseline=0.0, random_state=0,
            templates=[np.hanning(52)[1:-1]],
        )  # fmt: skip
        model = DCEA(1, 0.05, family, trainer=TRAINERS["alternating"], random_state=0).fit(counts)
        assert model.score(counts) > 0.98

    def test_one_spike_is_not_an_infinite_null(self, fitted):
        y = np.zeros((4, 1, 40), int)
        y[2, 0, 17] = 1
        assert -1 < fitted("poisson").score(y) < 1

    def test_nothing_to_explain_is_nan(self, fitted):
        assert np.isnan(fitted("gaussian").score(np.full((2, BINS), 2.0)))

    @pytest.mark.parametrize("n_bins", [1, 2, 3, 5])
    def test_short_windows(self, n_bins):
        y = np.random.default_rng(0).poisson(1.0, size=(30, n_bins))
        model = DCEA(1, 1, trainer=TRAINERS["unrolled"], n_epochs=1, random_state=0).fit(y)
        assert np.isfinite(model.score(y))


class TestDCEA:
    """The estimator among the models."""

    @each_family
    def test_score_is_that_of_hidden_bins(self, family, fitted):
        counts, model = some_counts(family), fitted(family)
        found = masked(model, counts, model.family)
        assert found.deviance_explained == pytest.approx(model.score(counts), rel=1e-6)
        assert (found.deviance_explained_per_unit > 0.2).all()

    @pytest.mark.parametrize("family", ["binomial", "poisson"])
    def test_expects_of_hidden_bins_what_other_bins_have(self, family):
        y = np.random.default_rng(0).binomial(1, 0.3, size=(30, 120))
        counts = BinnedSpikes.from_array(y).pool()
        model = quick().set_params(family=family).fit(counts)
        hidden = np.arange(120) % 4 == 1
        mean = model.predict(conversion.hide(counts, hidden))
        assert mean[..., hidden].mean() == pytest.approx(30 * 0.3, rel=0.1)
        assert mean[..., hidden].mean() == pytest.approx(mean[..., ~hidden].mean(), rel=0.1)

    def test_half_the_trials_say_what_the_others_do(self):
        counts = simulate(
            n_trials=40, n_units=4, duration=1.0, same_events=True, random_state=0, bin_size=0.002
        ).pool()
        parts = split(counts, "binomial", random_state=0)
        model = DCEA(3, 0.05, "binomial", random_state=0, n_epochs=3).fit(parts.seen)
        found = parts.score(model)
        assert 0.1 < found.deviance_explained < model.decompose(parts.seen).deviance_explained

    def test_whisker_responses_come_back_in_other_trials(self, shared_data):
        spikes = read_nwb(shared_data / "whisker_thalamus" / "dir3_stim2.nwb")
        train, test = (spikes.bin(0.005, trials=f"split == '{part}'") for part in ("train", "test"))
        model = DCEA(1, 0.125, "binomial", random_state=0, n_epochs=3).fit(train.pool())
        pooled = transfer(model, train.pool(), test.pool(), "binomial")
        single = transfer(model, train.pool(), test, "binomial")
        assert pooled.deviance_explained > 0.5
        assert (pooled.bits_per_spike_per_unit > 0.2).all()
        assert single.bits_per_spike == pytest.approx(pooled.bits_per_spike)


class TestEvidence:
    """Log likelihood of counts with events summed out; sums are tested in test_marginal."""

    @pytest.mark.parametrize("family", ["binomial", "poisson"])
    def test_pooled_counts_of_other_numbers_of_trials(self, family):
        counts = simulate(
            "poisson", ["vee"], n_trials=30, n_units=6, duration=1.0, bin_size=0.005, n_events=1,
            template_length=0.1, amplitude=(6, 9), baseline=5.0, same_events=True, random_state=0,
        )  # fmt: skip
        seen, unseen = counts[:20].pool(), counts[20:].pool()
        model = DCEA(1, 0.1, family, random_state=0).fit(seen)
        none = NullModel(family).fit(seen).evidence(unseen, per_unit=True)
        assert (model.evidence(unseen, per_unit=True) > none).mean() > 0.8
        assert model.evidence(unseen).sum() > none.sum() + 30

    def test_units_are_told_apart_where_their_events_are(self, fitted):
        counts = some_counts(trials=5)
        model = fitted("poisson")
        each = model.evidence(counts, per_unit=True)
        assert each.shape == (5, 2)
        np.testing.assert_allclose(model.evidence(counts), each.sum(1))
        joint = some_counts(layout="joint", trials=5)
        model = quick(layout="joint").fit(joint)
        assert model.evidence(joint, per_unit=True).shape == (5, 1)


@pytest.mark.parametrize("layout", ["shared", "joint"])
def test_figures_compute_the_rates_of_the_units_they_show(layout):
    counts = some_counts(layout=layout, trials=3, units=12)
    parts = quick(layout=layout).fit(counts).decompose(counts)
    some = [parts.of_units(name, [7, 2]) for name in ("rate", "contributions")]
    figures = [plots.rates_figure(parts), plots.event_figure(parts)]
    figures.append(plots.decomposition(parts, 0, 3)[0].figure)
    for figure in figures:
        plt.close(figure)
    assert "rate" not in vars(parts)
    assert "contributions" not in vars(parts)
    np.testing.assert_allclose(some[0], parts.rate[:, [7, 2]], rtol=1e-4)
    np.testing.assert_allclose(some[1], parts.contributions[:, [7, 2]], atol=1e-5)
    np.testing.assert_array_equal(parts.of_units("rate", [5]), parts.rate[:, [5]])
