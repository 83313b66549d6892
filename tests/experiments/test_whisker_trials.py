"""Single trials of the whisker experiment: likelihood of unseen trials, and deflections found."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from spikecdl import BinnedSpikes
from spikecdl.baselines import GLM, Basis
from spikecdl.experiments import findings, whisker_trials
from spikecdl.experiments.whisker_trials import (
    HISTORY,
    chosen,
    compared,
    held_out,
    hits,
    log_likelihood,
)


def test_log_likelihood_is_that_of_the_counts_with_all_constants():
    rng = np.random.default_rng(0)
    mean = rng.uniform(0.1, 1.0, (4, 1, 50))
    mask = rng.random(mean.shape) < 0.9
    counts = BinnedSpikes.from_array(rng.binomial(3, mean / 3), 0.005, mask=mask, sub_bins=3)
    expected = np.where(mask, binom.logpmf(counts.counts, 3, mean / 3), 0).sum((1, 2))
    np.testing.assert_allclose(log_likelihood(counts, mean), expected)


def test_evidence_is_used_where_a_model_has_it():
    counts = BinnedSpikes.from_array([[0, 1, 1, 0]], 0.005)
    with_codes = SimpleNamespace(decompose=None, predict=None)
    assert held_out(with_codes, counts) is None  # its codes would have seen the counts
    with_codes.evidence = lambda counts: np.array([-3.0])
    assert held_out(with_codes, counts) == [-3.0]
    past = SimpleNamespace(predict=lambda counts: np.full(counts.shape, 0.5))
    assert held_out(past, counts) == pytest.approx([4 * np.log(0.5)])


def test_the_chosen_history_is_the_one_that_predicts_other_trials():
    rng = np.random.default_rng(1)
    spikes = np.zeros((30, 600), dtype=int)
    for bin_ in range(600):  # a spike makes another one 4 bins later more likely
        p = 0.05 + 0.5 * (spikes[:, bin_ - 4] if bin_ >= 4 else 0)
        spikes[:, bin_] = rng.random(30) < p
    models = [GLM(history=Basis(bins * 0.005, None), ridge=0.1) for bins in (3, 4)]
    assert chosen(models, BinnedSpikes.from_array(spikes, 0.005)) is models[1]


def test_hits_are_counted_over_trials_with_one_lag():
    counts = BinnedSpikes.from_array(np.zeros((4, 600), int), 0.005, trial_ids=["a", "b", "c", "d"])
    times = {"a": whisker_trials.ONSETS - 0.02, "b": [0.1], "c": whisker_trials.ONSETS[:8] - 0.02}
    events = pd.DataFrame(
        [(trial, time, 0.75) for trial, each in times.items() for time in each],
        columns=["trial", "time", "probability"],
    )
    model = SimpleNamespace(decompose=lambda counts: SimpleNamespace(events=lambda: events))
    found = hits(model, counts, 0)
    assert found["hit_rate"] == 24 / 64
    assert found["false_alarm_rate"] == pytest.approx(1 / 25)
    assert found["n_events"] == 25 / 4
    assert found["own_false"] == 0.25
    assert found["chance_hit_rate"] < 0.2


def test_leads_are_over_the_glm_with_history():
    spikes = np.array([10.0, 10.0, 20.0])
    bits = spikes * np.log(2)
    gains = {"marginal": 0.7 * bits, HISTORY: 0.5 * bits, "BCOMP": None}
    events = {"marginal": {"hit_rate": 0.5}, HISTORY: {}, "BCOMP": {"hit_rate": 0.1}}
    rows = pd.DataFrame(compared(gains, events, spikes)).set_index("method")
    assert rows.loc["marginal", "bits_per_spike"] == pytest.approx(0.7)
    assert rows.loc["marginal", "lead"] == pytest.approx(0.2)
    assert rows.loc["marginal", "lead_se"] == pytest.approx(0, abs=1e-9)
    assert np.isnan(rows.loc["BCOMP", "lead"])


def test_every_method_is_judged_on_trials_it_has_not_seen(shared_data, monkeypatch):
    methods = dict(whisker_trials.METHODS)
    del methods["marginal, history"]
    monkeypatch.setattr(whisker_trials, "METHODS", methods)
    recording = next(whisker_trials.load(shared_data / "whisker_thalamus", ["dir16_stim2"]))
    rows = pd.DataFrame(whisker_trials.judge(recording, "of the file", 0)).set_index("method")
    assert list(rows.index) == list(whisker_trials.METHODS)
    assert rows.loc["alternating", "hit_rate"] > rows.loc["alternating", "chance_hit_rate"] + 0.5
    assert min(rows.loc[["marginal", "alternating"], "bits_per_spike"]) > 0.38
    known = rows.loc["GLM, history and known onsets"]
    assert known["lead"] > 2 * known["lead_se"]
    said = findings("single_trials", rows.reset_index(), HISTORY)
    assert len(said) == len(methods)
    assert f"{rows.loc[HISTORY, 'bits_per_spike']:.3f} bits per spike" in said[3]
