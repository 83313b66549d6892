"""`fit`, `demo`, `apply`, `evaluate`, `compare`: what they write; numbers agree everywhere."""

from __future__ import annotations

import html
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands import FILES, FIT, SIMULATE, run, succeeded

import spikecdl
from spikecdl import datasets, progress
from spikecdl.data.results import response_onsets
from spikecdl.estimator import DCEA, load
from spikecdl.io import read
from spikecdl.report.summary import lines
from spikecdl.suggestions import suggest

FIGURES = sorted(name for name in FILES if name.endswith(".png"))


def test_every_file_is_there_and_figures_show_something(fitted):
    from matplotlib.image import imread

    assert {path.name for path in fitted[0].iterdir()} == FILES
    for name in FIGURES:
        pixels = imread(fitted[0] / name)
        assert min(pixels.shape[:2]) > 200
        assert np.ptp(pixels[..., :3]) > 0.5


def test_the_nwb_file_is_valid_and_holds_the_fit(fitted):
    from pynwb import NWBHDF5IO, validate

    path = fitted[0] / "results.nwb"
    assert not validate(path=str(path))
    about = json.loads((fitted[0] / "summary.json").read_text())
    with NWBHDF5IO(str(path), "r") as io:
        module = io.read().processing["ecephys"]
        events = module["events"].to_dataframe()
        template = module["templates"]["template_0"][:]
    assert events["template"].value_counts().sort_index().tolist() == about["events_per_template"]
    assert template == pytest.approx(load(fitted[0]).templates_[0, 0])


def test_the_model_transforms_to_the_same_bits(fitted, sims):
    counts = read(sims["pooled"]).bin(0.002).pool()
    model = DCEA(1, 0.02, "binomial", n_epochs=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(counts)
    again = load(fitted[0])
    assert np.array_equal(again.transform(counts), model.transform(counts))
    assert np.array_equal(again.templates_, model.templates_)


def test_templates_begin_where_their_response_does(sims, tmp_path, no_figures):
    options = "--length 40ms --bin 2ms --family binomial --pool-trials --folds 0 --epochs 3".split()
    options += ["--trainer", "alternating"]
    found = {}
    for name, more in (("plain", []), ("shifted", ["--onset", 0.5])):
        out = tmp_path / name
        about = succeeded(run("fit", sims["pooled"], *options, *more, "--out", out, "--json")).json
        assert about["settings"]["onset"] == (0.5 if more else None)
        found[name] = load(out).templates_
    lag = response_onsets(found["plain"], 0.5)[0]
    assert response_onsets(found["shifted"], 0.5) == [0]
    assert lag > 0
    kept = found["plain"][0, 0, lag:]
    expected = kept / np.linalg.norm(kept)
    np.testing.assert_allclose(found["shifted"][0, 0, : 20 - lag], expected, atol=1e-5)


@pytest.mark.parametrize("given", [[], ["--bin", "4ms"], ["--length", "40ms"]])
def test_bins_and_length_that_are_left_out_are_those_suggested(sims, tmp_path, no_figures, given):
    options = ["--pool-trials", "--folds", 0, "--epochs", 1, "--trainer", "alternating"]
    best = suggest(read(sims["pooled"])).in_bins(
        0.004 if "--bin" in given else None, 0.04 if "--length" in given else None
    )
    outcome = succeeded(run("fit", sims["pooled"], *options, *given, "--out", tmp_path / "out"))
    assert f"--bin {best.bin_size:g} --length {best.length:g}\n" in outcome.out
    model = load(tmp_path / "out")
    assert model.bin_size_ == pytest.approx(best.bin_size)
    assert model.template_length == pytest.approx(best.length)
    assert ("--bin" not in given) or best.bin_size == 0.004
    assert ("--length" not in given) or best.length == 0.04
    assert best.length / best.bin_size == pytest.approx(round(best.length / best.bin_size))


def test_the_summary_says_everything_and_is_documented(fitted, sims):
    about = json.loads((fitted[0] / "summary.json").read_text())
    model = load(fitted[0])
    counts = read(sims["pooled"]).bin(0.002).pool()
    parts = model.decompose(counts)
    assert about["deviance_explained"] == pytest.approx(parts.deviance_explained)
    assert list(about["deviance_explained_per_unit"]) == ["0", "1"]
    assert about["hidden_bins_deviance_explained"] == pytest.approx(model.score(counts))
    assert about["held_out"]["n_folds"] == len(about["held_out"]["template_errors"]) == 3
    assert about["held_out"]["how"] == "pooled trials"
    assert (about["converged"], about["n_epochs"]) == (model.converged_, model.n_iter_)
    assert about["penalty_weight_fraction"] == pytest.approx(model.penalty_weight_)
    assert about["seed"] == 0
    assert about["data"]["bernoulli_trials_per_bin"] == about["data"]["n_pooled"] == 20
    assert about["data"]["n_spikes"] == counts.counts.sum()
    assert about["settings"]["pool_trials"] is True
    assert about["versions"]["spikecdl"] == spikecdl.__version__
    assert {"torch", "numpy", "pynwb"} <= set(about["versions"])
    assert about["command"].startswith("spikecdl fit /")
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text("utf-8")
    model = json.loads((fitted[0] / "model.json").read_text())
    parts = [about, about["settings"], about["data"], about["recovery"], about["held_out"]]
    parts += [next(iter(about["time_rescaling_per_unit"].values()))]
    parts += [model, model["settings"], model["fitted"], model["fitted"]["history_"][0]]
    keys = {key for part in parts for key in part} - {"random_state"}
    assert {key for key in keys if f"`{key}`" not in page} == set()
    assert {name for name in FILES if f"`{name}`" not in page} == set()


def test_marginal_training_says_how_many_events_to_believe(sims, tmp_path, no_figures):
    more = ["--length", 0.02, "--bin", 0.002, "--pool-trials", "--family", "binomial"]
    more += ["--trainer", "marginal", "--epochs", 1, "--folds", 0]
    outcome = succeeded(run("fit", sims["pooled"], *more, "--out", tmp_path / "fit"))
    about = json.loads((tmp_path / "fit" / "summary.json").read_text())
    assert about["penalty_weight_fraction"] is None
    assert "lambda_max" not in outcome.out
    found = about["event_probabilities"]
    assert found["kept_per_template"][0] > 0
    share = f"(false: {found['expected_false_per_template'][0]:.0%}); kept"
    assert share in outcome.out
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text("utf-8")
    assert {key for key in found if f"`{key}`" not in page} == set()
    where = ("--pool-trials", "--out", tmp_path / "again")
    succeeded(run("apply", tmp_path / "fit", sims["pooled"], *where))
    events = read(tmp_path / "again" / "results.nwb")  # a recording with its results
    assert events.n_units == 2
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["event_probabilities"] == found


def test_report_and_what_is_printed_hold_the_numbers_of_the_summary(fitted):
    folder, outcome = fitted
    about = json.loads((folder / "summary.json").read_text())
    page = (folder / "report.html").read_text()
    for value in (about["deviance_explained"], about["held_out"]["deviance_explained"]):
        assert f"{value:.3f}" in page
    assert all(html.escape(sentence.split("`")[0]) in page for sentence in about["verdict"])
    assert about["data"]["sha256"] in page
    assert page.count("data:image/png;base64,") == 7
    assert "http://" not in page
    assert "20 trials summed, 2 units, 200 bins of 2 ms" in outcome.out
    assert "M = 20 Bernoulli trials per bin, one for each trial summed" in outcome.out
    score = f"score of held-out data: {about['held_out']['evidence_gain']:.3f} bits per spike above"
    explained = (
        (about["held_out"]["deviance_explained"], "held-out data (standard error"),
        (about["hidden_bins_deviance_explained"], "hidden bins: events"),
        (about["deviance_explained"], "all bins: events"),
    )
    found = [outcome.out.index(f"  {value:.3f}  in {what}") for value, what in explained]
    assert [outcome.out.index(score), *found] == sorted([outcome.out.index(score), *found])
    assert all(f"verdict: {sentence}" in outcome.out for sentence in about["verdict"])
    assert f"error of each true template: {about['recovery']['template_errors'][0]:.3f}" in (
        outcome.out
    )
    assert f"results in {folder}/" in outcome.out
    progress = (
        r"[a-z ]+(: .*)? \(\d+ (s|min).*\)\n"  # a line every ten seconds, if it takes so long
    )
    assert re.fullmatch(f"reading .*\n(.*warning.*\n|{progress})*", outcome.err)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("poisson", "--bin 0.002 --sign both --penalty group_l1 --folds 0"),
        ("gaussian", "--family gaussian --folds 2"),
        ("joint", "--bin 0.002 --layout joint --folds 0"),
    ],
)
def test_single_trials_signals_and_sequences(sims, tmp_path, name, options):
    command = ["fit", sims[name], "--length", 0.02, "--epochs", 2, *options.split()]
    about = succeeded(run(*command, "--out", tmp_path, "--json")).json
    population = {"population.png", "units.png", "units.csv"} if name == "joint" else set()
    assert {path.name for path in tmp_path.iterdir()} == FILES | population
    assert about == json.loads((tmp_path / "summary.json").read_text())
    if name == "gaussian":
        assert any("bits per bin above" in line for line in lines("fit", about))
    else:
        assert about["held_out"] == {"n_folds": 0, "why": None}
        assert "Nothing was held out" in about["verdict"][0]
    assert about["data"]["n_trials"] == 20
    assert about["layout"] == ("joint" if name == "joint" else "shared")
    assert load(tmp_path).templates_.shape == (1, 2 if name == "joint" else 1, 10)
    evaluated = succeeded(run("evaluate", tmp_path, sims[name], "--json")).json
    assert evaluated["deviance_explained"] == about["deviance_explained"]
    assert evaluated.get("time_rescaling_per_unit") == about.get("time_rescaling_per_unit")
    assert ("time_rescaling_per_unit" in about) == (name != "gaussian")


def test_a_truth_that_cannot_be_compared_is_left_out(sims, tmp_path, only_summary):
    joint = ["fit", sims["pooled"], "--layout", "joint", *FIT, "--epochs", 1, "--folds", 0]
    assert "true template" not in succeeded(run(*joint, "--out", tmp_path)).out
    assert "recovery" not in json.loads((tmp_path / "summary.json").read_text())


SETTINGS = {
    "--lambda 0.4 --baseline 28.5 --sign both --device cpu --family negative_binomial "
    "--templates 2 --seed 5": {
        "penalty_weight": 0.4,
        "baseline": 28.5,
        "penalty": {"name": "l1", "sign": "both"},
        "device": "cpu",
        "family": "negative_binomial",
        "n_templates": 2,
    },
    # all of which was recorded
    "--window -0.1 0.1 --trials start_time>1 --baseline -0.1:0 --trainer unrolled": {
        "window": [-0.1, 0.1],
        "trials": "start_time>1",
        "baseline": {"window": [-0.1, 0]},
        "trainer": "unrolled",
    },
    "--align stop_time --window -0.2 0 --units 1,0 --baseline 28,31.5 --trainer implicit": {
        "align": "stop_time",
        "window": [-0.2, 0],
        "units": "1,0",
        "baseline": [28, 31.5],
        "trainer": "implicit",
    },
}


@pytest.mark.parametrize("options", SETTINGS)
def test_options_reach_the_model(sims, tmp_path, only_summary, options):
    command = ["fit", sims["pooled"], "--pool-trials", *FIT, "--epochs", 1, *options.split()]
    command += ["--folds", 0]
    about = succeeded(run(*command, "--out", tmp_path, "--json")).json
    settings, chosen = about["settings"], SETTINGS[options]
    assert {key: settings[key] for key in chosen} == chosen
    assert len(about["events_per_template"]) == settings["n_templates"]
    assert about["seed"] == (5 if "--seed" in options else 0)
    if "units" in chosen:
        assert list(about["deviance_explained_per_unit"]) == ["1", "0"]
    if "trials" in chosen:
        assert 0 < about["data"]["n_pooled"] < 20
    if "window" in chosen:
        assert about["data"]["n_bins"] == 100


def test_sub_bins_are_explained(tmp_path, only_summary):
    generator = np.random.default_rng(0)
    trials = {"start_time": np.arange(10.0), "stop_time": np.arange(10.0) + 1}
    spikes = spikecdl.SpikeTrains.from_arrays(
        [np.sort(generator.uniform(0, 10, 300))], trials=trials
    )
    spikecdl.write_nwb(tmp_path / "r.nwb", spikes)
    bins = ["--bin", 0.005, "--length", 0.05, "--epochs", 1, "--family", "binomial", "--folds", 0]
    command = ["fit", tmp_path / "r.nwb", *bins, "--pool-trials", "--out", tmp_path / "out"]
    outcome = succeeded(run(*command))
    assert "10 trials summed, 1 unit, 200 bins of 5 ms, 300 spikes" in outcome.out
    assert (
        "M = 50 Bernoulli trials per bin: 10 trials x 5 sub-bins of 1 ms, as some bins"
        in outcome.out
    )


def test_a_silent_unit_is_a_dash_or_a_number(tmp_path, only_summary):
    spikes = spikecdl.SpikeTrains.from_arrays([[], []], observed=(0.0, 2.0))
    spikecdl.write_nwb(tmp_path / "r.nwb", spikes)
    outcome = succeeded(run("fit", tmp_path / "r.nwb", *FIT, "--out", tmp_path / "out"))
    assert "nan" not in outcome.out
    assert "no events were found" in outcome.err
    about = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert about["events_per_template"] == [0]


def test_demo_checks_itself(tmp_path, monkeypatch, only_summary):
    assert read(datasets.demo()).truth is not None
    three = tmp_path / "three.nwb"
    options = "--templates square,vee,cosine --length 0.05 --bin 0.001 --same-events".split()
    succeeded(run(*SIMULATE, *options, "--duration", 0.2, "--events", 1, "--out", three))
    monkeypatch.setattr(datasets, "demo", lambda: three)
    outcome = succeeded(run("demo", "--out", tmp_path / "demo"))
    assert "error of each true template" in outcome.out
    about = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert len(about["recovery"]["template_errors"]) == 3
    assert about["verdict"][0].startswith("Nothing was held out, but the truth")
    assert "matplotlib" not in outcome.err


def test_whiskers_pooled(shared_data, tmp_path):
    file = shared_data / "whisker_thalamus" / "dir3_stim2.nwb"
    options = "--family binomial --templates 1 --length 0.125 --bin 0.005 --pool-trials".split()
    about = succeeded(run("fit", file, *options, "--out", tmp_path, "--json")).json
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert about["data"]["bernoulli_trials_per_bin"] == 250
    assert about["events_per_template"][0] >= 16  # deflections
    assert about["held_out"]["deviance_explained"] > 0.4
    held_out = ["--pool-trials", "--trials", "split == 'test'", "--json"]
    assert succeeded(run("evaluate", tmp_path, file, *held_out)).json["deviance_explained"] > 0.4


@pytest.mark.slow
def test_whiskers_of_single_trials(shared_data, tmp_path):
    file = shared_data / "whisker_thalamus" / "dir16_stim1.nwb"
    options = "--family poisson --templates 2 --length 0.100 --bin 0.005".split()
    about = succeeded(run("fit", file, *options, "--out", tmp_path, "--json")).json
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert about["data"]["n_trials"] == 50
    assert min(about["events_per_template"]) > 0
    assert about["deviance_explained"] > 0.1


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
    names = {"summary.json", "report.html", "results.nwb", "events.csv"}
    names |= {f"{name}.png" for name in ("rates", "codes", "events")}
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
    command = ["apply", fitted[0], sims["pooled"], "--format", "svg", "--overwrite"]
    succeeded(run(*command, "--out", out))
    assert all(
        "<text" in (out / f"{name}.svg").read_text() for name in ("rates", "codes", "events")
    )
    assert not list(out.glob("*.png"))


def test_evaluate_takes_some_trials_and_tests_in_rescaled_time(fitted, sims):
    command = ["evaluate", fitted[0] / "model.safetensors", sims["pooled"], "--pool-trials"]
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
        assert f"{found['distance']:.3f} ({verdict} {found['band']:.3f}, p = " in text
        assert found["p_value"] <= found["p_holm"] <= 1
    some = succeeded(run(*command, "--trials", "start_time < 5", "--json")).json
    assert 0 < some["data"]["n_pooled"] < 20
    assert some["settings"]["trials"] == "start_time < 5"
    assert some["hidden_bins_deviance_explained"] <= some["deviance_explained"]
    inside = sum(found["inside"] for found in per_unit.values())
    assert f"{inside} of {len(per_unit)} units within the 95 % band" in text


def test_bands_are_written_drawn_and_said(sims, tmp_path, monkeypatch):
    """And every stage of the fit is said."""
    monkeypatch.setattr(progress, "_PAUSE", 0.02)
    command = ["fit", sims["poisson"], *FIT, "--trainer", "alternating", "--folds", 2]
    outcome = succeeded(run(*command, "--bootstrap", 20, "--out", tmp_path))
    about = json.loads((tmp_path / "summary.json").read_text())
    with np.load(tmp_path / "bands.npz") as arrays:
        templates, lower, upper = (arrays[name] for name in ("templates", "lower", "upper"))
    assert about["bands"]["n_bootstrap"] == 20
    assert (lower < upper).all()
    assert templates == pytest.approx(load(tmp_path).templates_)
    error = about["bands"]["template_errors"][0]
    assert f"expected error of each template: {error:.3f} (0 is perfect" in outcome.out
    assert f"{error:.2f}" in (tmp_path / "report.html").read_text()
    said = {re.split(r"[:(]", line)[0].strip() for line in outcome.err.splitlines()}
    stages = {"choosing a start", "fitting without a part of the data", "writing results"}
    assert stages | {"fitting to resampled trials"} <= said
    assert re.search(r"choosing a start: step \d+, \w+", outcome.err)


def test_bands_of_pooled_trials(sims, tmp_path, no_figures):
    """Trials of the file are drawn, and pooled again."""
    command = ["fit", sims["pooled"], "--pool-trials", *FIT, "--folds", 0, "--bootstrap", 20]
    succeeded(run(*command, "--out", tmp_path))
    with np.load(tmp_path / "bands.npz") as arrays:
        assert (arrays["lower"] < arrays["upper"]).all()


def test_bands_of_few_windows_are_refused_before_the_fit(sims, tmp_path):
    few = tmp_path / "few.nwb"
    succeeded(run(*SIMULATE, "--trials", 3, "--out", few))
    command = ["fit", few, "--pool-trials", *FIT, "--out", tmp_path / "out"]
    outcome = run(*command, "--bootstrap", 20)
    assert outcome.code == 2
    assert "a bootstrap needs 8 trials or windows, not 6" in outcome.err
    assert "epoch" not in outcome.err
    assert "`--bootstrap` (=3)" in run(*command, "--bootstrap", 3).err


def test_bounds_and_strongest_events_of_the_command_line(sims, tmp_path, no_figures):
    options = ("--templates", 2, "--nonnegative", "no,yes", "--most-events", 1, "--folds", 0)
    command = ("fit", sims["poisson"], *FIT, *options, "--sign", "positive,positive", "--trainer")
    succeeded(run(*command, "alternating", "--out", tmp_path / "out"))
    model = spikecdl.load(tmp_path / "out")
    assert model.trainer.nonnegative == [False, True]
    assert model.templates_[1].min() >= 0 > model.templates_[0].min()
    refused = run(*command, "unrolled", "--out", tmp_path / "other")
    assert refused.code == 2
    assert "`--nonnegative` (='no,yes') is not used by trainer='unrolled'" in refused.err
    refused = run(*command, "alternating", "--templates", 3, "--out", tmp_path / "other")
    assert "`--sign` (='positive,positive') has 2 values for 3 templates" in refused.err
    command = (*command[: command.index("--sign")], "--trainer")
    refused = run(*command, "alternating", "--templates", 1, "--out", tmp_path / "other")
    words = "`--nonnegative` (='no,yes') has 2 values for 1 template; give one for each, or one for"
    assert words in refused.err
    refused = run(*command, "alternating", "--nonnegative", "maybe", "--out", tmp_path / "other")
    assert "`--nonnegative` (='maybe')" in refused.err
