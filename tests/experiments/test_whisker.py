"""The whisker experiment: events against known onsets, and all of it on the recordings."""

from __future__ import annotations

import numpy as np
import pytest
from commands import run, succeeded

from spikecdl.experiments import Options, whisker
from spikecdl.experiments.whisker import onset_hits

ONSETS = 0.5 + 0.125 * np.arange(16)


def hits(times, tolerance=0.01, seed=0):
    generator = np.random.default_rng(seed)
    return onset_hits(times, ONSETS, tolerance, 3.0, 0.005, generator)


def test_events_at_a_constant_distance_hit_every_onset():
    found = hits([ONSETS - 0.02])
    assert found.hit_rate == 1
    assert found.false_alarm_rate == 0
    assert found.lags == pytest.approx([-0.02], abs=0.01 + 1e-9)
    assert found.p_value == 1 / 501


def test_each_template_has_a_lag_of_its_own():
    found = hits([ONSETS[:8] + 0.03, ONSETS[8:] - 0.04], tolerance=0.0)
    assert found.hit_rate == 1
    assert found.lags == pytest.approx([0.03, -0.04])


def test_events_that_hit_nothing_are_false_alarms():
    found = hits([np.append(ONSETS[:12], [0.05, 2.8, 2.85, 2.9])])
    assert found.hit_rate == 0.75
    assert found.false_alarm_rate == 0.25


def test_two_events_at_one_onset_hit_one_and_none_is_false():
    found = hits([np.append(ONSETS, ONSETS[3] + 0.005)])
    assert (found.hit_rate, found.false_alarm_rate) == (1, 0)


def test_without_events_nothing_is_hit():
    found = hits([[]])
    assert (found.hit_rate, found.chance_hit_rate, found.p_value) == (0, 0, 1)
    assert np.isnan(found.false_alarm_rate)


def test_events_at_random_times_are_at_chance():
    generator = np.random.default_rng(5)
    found = [hits([generator.uniform(0, 3, 16)], seed=seed) for seed in range(20)]
    rates = np.array([one.hit_rate for one in found])
    standard_error = rates.std() / np.sqrt(len(rates))
    assert abs(rates.mean() - found[0].chance_hit_rate) < 3 * standard_error
    assert 0.2 < np.mean([one.p_value for one in found]) < 0.8


def test_a_folder_without_recordings_is_an_error(tmp_path):
    outcome = run("experiment", "whisker", "--quick", "--data", tmp_path, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "--data" in outcome.err
    assert "dir3_stim2.nwb" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def whisker_folder(shared_data):
    return shared_data / "whisker_thalamus"


@pytest.fixture(scope="module")
def result(whisker_folder):
    return whisker.run(Options(quick=True, data=whisker_folder))


def test_dcea_is_better_than_the_psth_and_close_to_known_onsets(result):
    scores = result.table.pivot_table(
        index=["recording", "unit"], columns="method", values="deviance_explained"
    )
    assert (scores["constant rate"].abs() < 0.01).all()
    assert (scores["DCEA"] > scores["PSTH"]).all()
    assert (scores["DCEA"] > scores["GLM, stimulus"]).all()
    assert (scores["DCEA"] > scores["GLM, known onsets"] - 0.03).all()


def test_dcea_finds_the_deflections_beyond_chance(result):
    rows = result.table[result.table["method"] == "DCEA"]
    assert (rows["hit_rate"] > rows["chance_hit_rate"] + 0.3).all()
    assert (rows["hit_p_value"] < 0.01).all()


def test_the_response_peaks_where_the_counts_do(result, whisker_folder):
    recording = next(whisker.load(whisker_folder, ["dir3_stim2"]))
    fitted, _ = whisker.split_counts(recording.spikes, "of the file")
    cycles = fitted.pool().rate()[0, 0, 100:500].reshape(16, 25).mean(axis=0)
    row = result.table[(result.table["method"] == "DCEA") & (result.table["unit"] == 0)].iloc[0]
    assert row["peak_ms"] == 5 * (cycles.argmax() + 0.5)
    assert row["peak_hz"] == pytest.approx(cycles.max(), rel=0.1)


def test_every_method_is_in_the_table_and_in_the_findings(result):
    names = [method.name for method in whisker.METHODS]
    assert list(result.table["method"].unique()) == names
    assert set(result.figures) == {"scores", "templates", "intervals"}
    said = " ".join(result.findings)
    assert all(name in said for name in names)
    rows = result.table.set_index(["recording", "unit", "method"])["deviance_explained"]
    best = f"{rows.xs('DCEA', level='method').max():.3f}"
    assert best in said


def test_the_splits_share_no_trial(whisker_folder):
    recording = next(whisker.load(whisker_folder, ["dir3_stim2"]))
    for split, sizes in zip(whisker.SPLITS, ((17, 33), (30, 20)), strict=True):
        fitted, test = whisker.split_counts(recording.spikes, split)
        assert (len(fitted), len(test)) == sizes
        assert not set(fitted.trial_ids) & set(test.trial_ids)


def test_the_command_writes_table_figures_and_summary(whisker_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(whisker, "METHODS", whisker.METHODS[:2] + whisker.METHODS[3:6:2])
    out = tmp_path / "out"
    line = ("experiment", "whisker", "--quick", "--data", whisker_folder, "--out", out, "--json")
    found = succeeded(run(*line)).json
    written = sorted(file.name for file in out.iterdir())
    assert written == ["intervals.png", "scores.png", "summary.json", "table.csv", "templates.png"]
    assert found["settings"]["bin_size"] == 0.005
    assert found["findings"]
