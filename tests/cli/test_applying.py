"""`spikecdl apply`, `evaluate` and `compare`: what they say agrees with the fit."""

from __future__ import annotations

import json

from commands import run, succeeded


def test_compare_says_what_fit_said_of_the_truth(fitted, sims):
    recovery = json.loads((fitted[0] / "summary.json").read_text())["recovery"]
    found = succeeded(run("compare", fitted[0], sims["pooled"], "--pool-trials", "--json")).json
    assert {key: found[key] for key in recovery} == recovery
    assert recovery["n_true_events"] == 4
    loose = run("compare", fitted[0], sims["pooled"], "--pool-trials", "--tolerance", 0.1)
    assert "within 100 ms" in succeeded(loose).out


def test_apply_finds_the_same_events_as_the_fit(fitted, sims, tmp_path):
    from pynwb import NWBHDF5IO

    out = tmp_path / "applied"
    outcome = succeeded(run("apply", fitted[0], sims["pooled"], "--pool-trials", "--out", out))
    names = {"summary.json", "rates.png", "codes.png", "results.nwb"}
    assert {path.name for path in out.iterdir()} == names
    tables = []
    for folder in (fitted[0], out):
        with NWBHDF5IO(str(folder / "results.nwb"), "r") as io:
            tables.append(io.read().processing["ecephys"]["events"].to_dataframe())
    assert tables[0].equals(tables[1])
    about = json.loads((out / "summary.json").read_text())
    said = json.loads((fitted[0] / "summary.json").read_text())
    assert about["deviance_explained"] == said["deviance_explained"]
    assert f"{about['deviance_explained']:.3f}" in outcome.out


def test_evaluate_takes_some_trials(fitted, sims):
    command = ["evaluate", fitted[0] / "model.safetensors", sims["pooled"], "--pool-trials"]
    about = succeeded(run(*command, "--trials", "start_time < 5", "--json")).json
    assert 0 < about["data"]["n_pooled"] < 20
    assert about["settings"]["trials"] == "start_time < 5"
    assert about["held_out_deviance_explained"] <= about["deviance_explained"]


def test_evaluate_says_who_agrees_with_the_model_in_rescaled_time(fitted, sims):
    command = ["evaluate", fitted[0], sims["pooled"], "--pool-trials"]
    about = succeeded(run(*command, "--json")).json
    per_unit = about["time_rescaling_per_unit"]
    assert list(per_unit) == list(about["deviance_explained_per_unit"])
    assert sum(found["n_intervals"] for found in per_unit.values()) == (
        about["data"]["n_spikes"] + len(per_unit)
    )
    text = succeeded(run(*command)).out
    for found in per_unit.values():
        assert found["inside"] == (found["distance"] <= found["band"])
        verdict = "inside" if found["inside"] else "outside"
        assert f"{found['distance']:.3f} ({verdict} {found['band']:.3f})" in text
    inside = sum(found["inside"] for found in per_unit.values())
    assert f"{inside} of {len(per_unit)} units within the 95 % band" in text
