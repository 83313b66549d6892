"""`evaluate`, `apply` and `compare` choose windows as the fit has, and say so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import FIT, run, succeeded, without_figures

from spikecdl import DCEA, SpikeTrains, count_like, load, read, write_nwb

SCORE = "hidden_bins_deviance_explained"


def test_a_model_of_pooled_trials_is_scored_on_pooled_trials(fitted, sims, tmp_path):
    folder, _ = fitted
    about = json.loads((folder / "summary.json").read_text())
    for command in (["evaluate", folder], ["apply", folder, "--out", tmp_path / "o"]):
        name, model, *rest = command
        found = succeeded(run(name, model, sims["pooled"], *rest, "--json")).json
        assert found[SCORE] == pytest.approx(about[SCORE])
        assert found["settings"]["pool_trials"] is True
        assert found["windows"] == ["as in the fit: --pool-trials"]
    shown = succeeded(run("compare", folder, sims["pooled"])).out
    assert shown.splitlines()[0] == "as in the fit: --pool-trials"
    assert "of 4 true events" in shown


def test_single_trials_of_a_pooled_fit_are_asked_for_and_warned_of(fitted, sims):
    command = ["evaluate", fitted[0], sims["pooled"], "--own-windows", "--json"]
    outcome = succeeded(run(*command))
    assert outcome.err.count("summed over trials, but these are 20 single trials") == 1
    found = outcome.json
    assert found["settings"]["pool_trials"] is False
    assert found["data"]["n_trials"] == 20
    assert found["windows"] == []


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A recording with cues, and the folder of a fit of windows around them."""
    folder = tmp_path_factory.mktemp("cues")
    rng = np.random.default_rng(0)
    starts = 2.0 * np.arange(10)
    cues = starts + rng.uniform(0.3, 0.6, 10)
    spikes = np.concatenate([rng.uniform(0, 20, 200), *(c + 0.002 * np.arange(12) for c in cues)])
    trials = {"start_time": starts, "stop_time": starts + 1.5, "cue": cues, "late": cues + 0.1}
    made = SpikeTrains.from_arrays([np.unique(spikes)], trials=trials, observed=(0.0, 20.0))
    write_nwb(folder / "cues.nwb", made)
    options = ["--align", "cue", "--window", -0.2, 0.4, "--folds", 0, "--out", folder / "fit"]
    with without_figures():
        succeeded(run("fit", folder / "cues.nwb", *FIT, *options, "--trainer", "alternating"))
    return folder / "cues.nwb", folder / "fit"


def test_alignment_and_window_travel_in_the_model(aligned):
    file, folder = aligned
    windows = {"align": "cue", "window": (-0.2, 0.4), "table": "trials"}
    assert load(folder).windows_ == windows
    counts = read(file).bin(0.002, **windows)
    assert counts.windows == windows
    found = succeeded(run("evaluate", folder, file, "--json")).json
    assert found["windows"] == ["as in the fit: --align cue --window -0.2 0.4"]
    assert found["data"]["n_bins"] == 300
    assert found[SCORE] == pytest.approx(load(folder).score(counts))
    np.testing.assert_array_equal(count_like(load(folder), read(file)).counts, counts.counts)


def test_another_choice_is_said(aligned):
    file, folder = aligned
    found = succeeded(run("evaluate", folder, file, "--align", "late", "--json")).json
    assert found["windows"] == [
        "as in the fit: --window -0.2 0.4",
        "not as in the fit (--align cue): --align late",
    ]
    assert found["settings"]["align"] == "late"
    pooled = succeeded(run("evaluate", folder, file, "--pool-trials", "--json")).json
    assert pooled["windows"][1] == "not as in the fit (no --pool-trials): --pool-trials"
    whole = succeeded(run("evaluate", folder, file, "--own-windows", "--json")).json
    assert (whole["windows"], whole["data"]["n_bins"]) == ([], 750)


def test_an_error_about_windows_of_the_fit_says_where_they_come_from(aligned, tmp_path):
    _, folder = aligned
    other = SpikeTrains.from_arrays([[0.1, 0.4, 1.7]], trials=[[0.0, 1.0], [1.0, 2.0]])
    write_nwb(tmp_path / "other.nwb", other)
    outcome = run("evaluate", folder, tmp_path / "other.nwb")
    assert outcome.code == 2
    assert "lacks ['cue']" in outcome.err
    assert "(as in the fit: --align cue --window -0.2 0.4; --own-windows leaves" in outcome.err


def test_joint_templates_take_the_units_of_the_fit(sims, tmp_path, no_figures):
    options = ["--layout", "joint", "--family", "poisson", "--units", "1", "--folds", 0]
    succeeded(run("fit", sims["joint"], *FIT, *options, "--out", tmp_path / "o"))
    found = succeeded(run("evaluate", tmp_path / "o", sims["joint"], "--json")).json
    assert found["windows"] == ["units of the fit: 1"]
    assert found["data"]["n_units"] == 1


def test_bins_of_a_file_are_pooled_as_in_the_fit(fitted, sims, tmp_path):
    from spikecdl import write_npz

    write_npz(tmp_path / "bins.npz", read(sims["pooled"]).bin(0.002))
    found = succeeded(run("evaluate", fitted[0], tmp_path / "bins.npz", "--json")).json
    assert found["data"]["n_pooled"] == 20


def test_python_warns_of_single_trials_and_models_keep_their_windows(tmp_path):
    values = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 1, 100))
    spikes = [np.flatnonzero(values[:, 0].ravel()) * 0.01 + 0.005]
    recording = SpikeTrains.from_arrays(
        spikes, trials=[[k, k + 1.0] for k in range(10)], observed=(0.0, 10.0)
    )
    counts = recording.bin(0.01)
    model = DCEA(1, 0.1, trainer="alternating", random_state=0).fit(counts.pool())
    assert model.windows_["pool_trials"]
    with pytest.warns(UserWarning, match="explains far less; pool them"):
        model.score(counts)
    model.score(counts.pool())
    model.save(tmp_path)
    again = count_like(load(tmp_path), recording)
    np.testing.assert_array_equal(again.counts, counts.pool().counts)
    assert load(tmp_path).windows_ == model.windows_
