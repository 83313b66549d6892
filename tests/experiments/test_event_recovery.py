"""The experiment on events in harder spikes: the laws of its spikes, its truth, and its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spikecdl.data import Decomposition
from spikecdl.experiments import Options, event_recovery
from spikecdl.experiments.event_recovery import (
    CASES,
    bursting,
    capped,
    poisson,
    refractory,
    regular,
    scores,
    summary,
)

FLAT = np.full((200, 400), 40.0)  # Hz


@pytest.mark.parametrize("spiking", [poisson, regular, bursting])
def test_spikes_have_the_rate_that_is_asked_for(spiking):
    rate = FLAT * np.linspace(0.5, 1.5, 400)
    halves = spiking(rate, 0.005, np.random.default_rng(0)).reshape(200, 2, 200).sum(axis=(0, 2))
    np.testing.assert_allclose(halves, rate.reshape(200, 2, 200).sum((0, 2)) * 0.005, rtol=0.05)


def test_refractory_spikes_keep_their_distance():
    counts = refractory(FLAT, 0.004, np.random.default_rng(0))
    assert counts.max() == 1
    assert not (counts[:, 1:] & counts[:, :-1]).any()  # 8 ms cannot be less than two bins
    assert (counts[:, 2:] & counts[:, :-2]).any()
    assert counts.mean() / 0.004 == pytest.approx(40 / (1 + 40 * 0.008), rel=0.03)


@pytest.mark.parametrize(("spiking", "fano"), [(regular, 0.25), (poisson, 1.0), (bursting, 3.86)])
def test_variance_of_counts_is_that_of_the_law(spiking, fano):
    """Bursts: E[n^2] / E[n] of 2 to 5 spikes; gamma renewal: 1 / shape."""
    sums = spiking(FLAT, 0.005, np.random.default_rng(1)).sum(axis=1)
    assert sums.var() / sums.mean() == pytest.approx(fano, rel=0.25)


def test_capped_spikes_are_at_most_nine_tenths():
    counts = capped(30)(np.full((4, 3000), 1e6), 0.001, np.random.default_rng(0))
    assert counts.mean() == pytest.approx(27, rel=0.02)


def test_counts_follow_their_truth():
    case = replace(CASES["capped"], spiking=poisson, n_windows=400)
    counts = case.draw(3)
    made = counts.truth
    log_rate = np.repeat(np.log(30 * made.baseline * made.bin_size)[..., None], counts.n_bins, 2)
    for event in made.events.itertuples():
        first = round(event.time / made.bin_size)
        change = event.amplitude * made.templates[event.template, 0]
        log_rate[event.trial, event.unit, first : first + len(change)] += change
    expected = np.exp(log_rate)
    scatter = ((counts.counts - expected) ** 2 / expected).mean()
    assert scatter == pytest.approx(1, abs=0.02)
    assert (counts.n_pooled == 30).all()


@pytest.mark.parametrize("name", CASES)
def test_cases_are_drawn_as_they_say(name):
    case = CASES[name]
    counts, again = case.draw(2, 8), case.draw(2, 8)
    np.testing.assert_array_equal(counts.counts, again.counts)
    assert not np.array_equal(counts.counts, case.draw(3, 8).counts)
    assert counts.shape[0] * counts.shape[1] == 8
    assert (counts.truth is None) == (not case.shapes)
    if case.shapes and case.gap is None:
        length = case.templates().shape[1]
        for _, events in counts.truth.events.groupby(["trial", "unit"]):
            onsets = np.sort((events["time"] / case.bin_size).round())
            assert (np.diff(onsets) >= length).all()


def test_drift_goes_on_across_trials():
    case = replace(CASES["drift alone"], hz=500.0, drift=1.5)
    per_trial = case.draw(0).counts.sum(axis=-1)[:, 0]
    assert per_trial.max() > 5 * per_trial.min()
    assert np.abs(np.diff(np.log(per_trial))).max() < 1.3


class Sure(Decomposition):
    """Events that come with a probability."""

    def events(self, fdr=None, *, probabilities=True):
        events = super().events()
        return events.assign(probability=np.where(events["template"] == 0, 0.9, 0.5))


def known(case, counts):
    """Return the decomposition by somebody who knows the truth."""
    made = counts.truth
    shape = (*counts.shape[:2], len(made.templates), counts.n_bins - made.templates.shape[2] + 1)
    codes = np.zeros(shape)
    onset = (made.events["time"] / made.bin_size).round().astype(int)
    index = (made.events["trial"], made.events["unit"], made.events["template"], onset)
    codes[index] = made.events["amplitude"]
    parts = case.estimator(0, n_epochs=1).fit(counts).decompose(counts)
    fields = {name: getattr(parts, name) for name in parts.__dataclass_fields__}
    changed = {"codes": codes, "templates": made.templates, "certainty": None}
    return Sure(**{**fields, **changed})


@pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
def test_scores_of_somebody_who_knows_the_truth():
    case = CASES["quick"]
    counts = case.draw(0, 16)
    parts = known(case, counts)
    found = scores(parts, case)
    assert found["hit_rate"] == 1
    assert found["false_alarm_rate"] == 0
    assert found["error_1"] == found["error_2"] == pytest.approx(0, abs=1e-6)
    probability = parts.events()["probability"]
    assert found["own_false"] == pytest.approx(1 - probability.mean())
    assert found["expected_events"] == pytest.approx(100 * probability.sum() / 16)


def test_summary_says_what_misses_its_target():
    good = {"error_1": 0.1, "error_2": 0.2, "hit_rate": 0.6, "false_alarm_rate": 0.1}
    bad = {"error_1": 0.1, "error_2": 0.4, "hit_rate": 0.4, "false_alarm_rate": 0.1}
    rows = [
        {"case": "slow", "method": method, "seed": seed, **values}
        for method, values in (("good", good), ("bad", bad))
        for seed in (0, 1, 2)
    ]
    table = pd.DataFrame(rows).assign(own_false=[0.15, 0.5, 0.15, 0.05, 0.25, 0.28])
    table = pd.concat([table, pd.DataFrame([{"case": "noise", "method": "good", "seed": 0}])])
    table.loc[table["case"] == "noise", "expected_events"] = 6.0
    medians = summary(table).set_index(["case", "method"])
    assert medians["missed"].to_dict() == {
        ("slow", "good"): "",
        ("slow", "bad"): "error hit_rate account",
        ("noise", "good"): "expected_events",
    }
    assert medians.loc[("slow", "good"), "error"] == 0.2
    assert medians.loc[("slow", "good"), "account"] == pytest.approx(0.05)


def test_the_experiment_runs(monkeypatch, tmp_path):
    cases = {name: replace(CASES[name], n_windows=8) for name in ("quick", "noise")}
    monkeypatch.setattr(event_recovery, "CASES", cases)
    result = event_recovery.run(Options())
    methods = list(event_recovery.METHODS)
    assert list(result.table["case"]) == ["quick"] * 5 * len(methods) + ["noise"] * 5 * len(methods)
    assert list(result.table["method"]) == methods * 10
    assert len(result.findings) == len(result.more["medians"]) == 2 * len(methods)
    assert "100 windows" in result.findings[-1]
    result.write(tmp_path, {})
    assert (tmp_path / "medians.csv").exists()
    assert (tmp_path / "templates_alternating.png").exists()
