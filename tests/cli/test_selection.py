"""`spikecdl select`: what it compares, recommends and writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from commands import run, succeeded

from spikecdl import progress
from spikecdl.cli.options import joined
from spikecdl.estimator import load
from spikecdl.evaluation import selection

SELECT = "--length 0.02 --bin 0.002 --jobs 1".split()


def test_a_template_is_found_and_fitted(sims, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_PAUSE", 0.01)
    command = ["select", sims["gaussian"], "--family", "gaussian", *SELECT, "--out", tmp_path]
    outcome = succeeded(run(*command, "--templates", 0, 1))
    names = {"selection.csv", "selection.png", "summary.json", "model.json", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names
    table = pd.read_csv(tmp_path / "selection.csv")
    assert table["n_templates"].tolist() == [0, 1]
    assert table["recommended"].tolist() == [False, True]
    assert load(tmp_path).templates_.shape == (1, 1, 10)
    about = json.loads((tmp_path / "summary.json").read_text())
    assert about["recommended"] == {"n_templates": 1, "template_length": 0.02, "covariates": False}
    assert about["candidates"][0]["evidence"] == pytest.approx(table["evidence"][0])
    assert f"{table['evidence'][1]:.4f}" in outcome.out
    assert "recommended" in outcome.out
    assert "  0.0000 +- 0.0000" in outcome.out  # the best itself, without a minus
    assert re.search(r"fitting candidates.*: .*, fold \d of 3 ", outcome.err)
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text("utf-8")
    keys = {*about, *about["candidates"][0]}
    assert {key for key in keys if f"`{key}`" not in page} == set()


def test_bounds_hold_for_every_candidate(sims, tmp_path):
    command = ["select", sims["pooled"], "--pool-trials", *SELECT, "--family", "binomial"]
    command += ["--templates", 2, "--nonnegative", "no,yes", "--most-events", 1]
    about = succeeded(run(*command, "--out", tmp_path, "--json")).json
    assert about["settings"]["trainer"]["nonnegative"] == [False, True]
    model = load(tmp_path)
    assert model.templates_[0].min() < 0 <= model.templates_[1].min()
    assert model.trainer.most_events == 1


def test_one_candidate_after_an_interruption(sims, tmp_path, monkeypatch):
    command = ["select", sims["pooled"], "--pool-trials", *SELECT, "--family", "binomial"]
    command += ["--templates", 0, "--out", tmp_path]
    scored, fits = selection._score, []

    def interrupted(model, folds, key):
        if len(fits) == 2:
            raise KeyboardInterrupt
        fits.append(key)
        return scored(model, folds, key)

    monkeypatch.setattr(selection, "_score", interrupted)
    assert run(*command).code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["fits"]
    monkeypatch.setattr(selection, "_score", lambda *each: fits.append(each[2]) or scored(*each))
    said = succeeded(run(*command)).out
    assert [fold for _, fold in fits] == [0, 1, 2]
    about = json.loads((tmp_path / "summary.json").read_text())
    assert about["recommended"]["n_templates"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *("selection.csv", "selection.png", "summary.json"),
    }
    assert "one candidate, compared with nothing: give more numbers" in said
    assert "recommended" not in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--templates two", "`--templates` (='two') must be whole numbers, as in --templates 1 2"),
        ("--templates -1", "`--templates` (=-1) must be at least 0"),
        ("--nonnegative yes,no", "`--nonnegative` (='yes,no') has 2 values for 1 template"),
    ],
)
def test_what_is_wrong_is_said_before_any_fit(sims, tmp_path, options, words):
    command = ["select", sims["poisson"], *SELECT, *options.split(), "--out", tmp_path / "out"]
    outcome = run(*command)
    assert outcome.code == 2
    assert words in outcome.err
    assert not (tmp_path / "out").exists()


def test_values_after_an_option_are_a_list():
    lists = {"--templates", "--length", "--methods"}
    line = "a.nwb --templates 0 1 --length 50ms .1s --out 3 --json --length 0.1,0.2 b.nwb --methods"
    assert joined(line.split(), lists) == [
        *"a.nwb --templates 0,1 --length 50ms,.1s --out 3 --json --length 0.1,0.2 b.nwb".split(),
        *("--methods", ""),
    ]
    assert joined("--methods vst-tv blind --json x".split(), lists) == (
        "--methods vst-tv,blind --json x".split()
    )
