"""Checks of a fit: silent where the model is right, and for what is wrong each its own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from spikecdl import DCEA, BinnedSpikes, CheckWarning, concatenate, load
from spikecdl.config import INGREDIENTS

BIN, WINDOWS, BINS = 0.005, 60, 400
PLAIN = dict.fromkeys(INGREDIENTS)  # none is added
x = np.arange(20) / 20
TEMPLATE = x * np.exp(-8 * x) / np.linalg.norm(x * np.exp(-8 * x))
SLOW = 0.8 * np.sin(np.linspace(0, 9, WINDOWS * BINS)).reshape(WINDOWS, BINS)


def log_rates(rng, size=(6, 9)):
    found = np.zeros((WINDOWS, BINS))
    for window in found:
        for onset in rng.permutation(np.arange(0, BINS - 20, 40))[: rng.poisson(1.4)]:
            window[onset : onset + 20] = rng.uniform(*size) * TEMPLATE
    return found


def fitted(counts, **settings):
    settings = {"trainer": "marginal", "bin_size": BIN, "random_state": 0, **PLAIN, **settings}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = DCEA(1, settings.pop("length", 0.1), "poisson", **settings).fit(counts)
    told = [str(one.message) for one in said if one.category is CheckWarning]
    failed = [one for one in model.checks_ if not one["passed"]]
    assert told == [f"{one['found']}: {one['remedy']}" for one in failed]
    return model, {one["check"] for one in failed}


@pytest.mark.parametrize("seed", range(4))
def test_nothing_fails_under_a_right_model(seed):
    rng = np.random.default_rng(seed)
    model, failed = fitted(rng.poisson(15 * BIN * np.exp(log_rates(rng))))
    assert not failed - {"search"}  # which depends on the data
    names = ["rate of events", "search", "variability", "short distances", "length of templates"]
    assert [one["check"] for one in model.checks_[:5]] == names


def test_weak_events_that_are_not_found_are_no_fault():
    rng = np.random.default_rng(7)
    counts = rng.poisson(15 * BIN * np.exp(log_rates(rng, (4, 5))))
    model, failed = fitted(counts)
    assert not failed - {"search"}
    assert np.count_nonzero(model.transform(counts)) < 60


def test_counts_that_vary_more_than_the_family_says():
    rng = np.random.default_rng(1)
    mean = 15 * BIN * np.exp(log_rates(rng))
    assert "variability" in fitted(rng.poisson(rng.gamma(mean / 0.4, 0.4)))[1]


def test_rates_that_drift():
    rng = np.random.default_rng(2)
    assert "drift" in fitted(rng.poisson(15 * BIN * np.exp(SLOW)))[1]


def test_spikes_that_avoid_each_other():
    rng = np.random.default_rng(3)
    counts = (rng.random((WINDOWS, BINS)) < 0.25).astype(int)
    for bin_ in range(1, BINS):
        counts[:, bin_] *= 1 - counts[:, bin_ - 1]
    assert "short distances" in fitted(counts)[1]


def test_a_template_cut_at_both_ends():
    rng = np.random.default_rng(4)
    mean = np.full((WINDOWS, BINS), 0.1)
    for window in mean:
        onset = rng.integers(0, BINS - 60)
        window[onset : onset + 60] = 0.8
    assert "length of templates" in fitted(rng.poisson(mean), length=0.05)[1]


def test_a_template_that_fills_its_window_is_not_cut():
    rng = np.random.default_rng(4)
    mean = np.full((WINDOWS, BINS), 0.1)
    for window in mean:
        onset = rng.integers(0, BINS - 60)
        window[onset : onset + 20] = 0.8
    assert "length of templates" not in fitted(rng.poisson(mean), length=0.1)[1]


def test_windows_that_share_spikes():
    rng = np.random.default_rng(5)
    spikes = rng.poisson(0.1, (8, 1, 400))
    apart = {"bin_size": BIN, "trial_starts": 2.0 * np.arange(8)}
    counts = BinnedSpikes.from_array(spikes, **apart)
    assert "windows" not in fitted(counts)[1]
    near = BinnedSpikes.from_array(spikes, bin_size=BIN, trial_starts=1.5 * np.arange(8))
    model, failed = fitted(near)
    assert "windows" in failed
    (found,) = [one["found"] for one in model.checks_ if one["check"] == "windows"]
    once = spikes.sum() - spikes[1:, :, :100].sum()
    assert f"7 of 8 windows overlap an earlier one, so that {spikes.sum()} counts" in found
    assert f"come from {once} spikes" in found


def test_windows_of_different_recordings_share_nothing():
    spikes = np.random.default_rng(5).poisson(0.1, (8, 1, 400))
    one = BinnedSpikes.from_array(spikes, bin_size=BIN, trial_starts=2.0 * np.arange(8))
    assert "windows" not in fitted(concatenate({"a": one, "b": one}))[1]


def test_a_long_recording_of_one_window_is_checked_in_part():
    counts = np.random.default_rng(6).poisson(0.1, (1, 3, 100_000))
    model, failed = fitted(counts, n_epochs=1, trainer="alternating")
    assert "rescaled time" not in failed


def test_checks_are_saved_with_the_model(tmp_path):
    rng = np.random.default_rng(2)
    model, _ = fitted(rng.poisson(15 * BIN * np.exp(SLOW)))
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").checks_ == model.checks_
