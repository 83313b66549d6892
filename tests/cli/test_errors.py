"""Warnings, errors and bugs: one line each, that names the options of the command."""

from __future__ import annotations

import warnings

from commands import FIT, run, succeeded

from spikecdl.io import read


def test_warnings_are_one_line_and_name_options(sims, tmp_path, only_summary):
    command = ["fit", sims["pooled"], "--pool-trials", *FIT, "--epochs", 1, "--folds", 0]
    outcome = succeeded(run(*command, "--out", tmp_path, "--json"))
    warned = "training did not converge in 1 epochs; raise `--epochs`"
    assert outcome.err == f"spikecdl: warning: {warned}\n"


def test_warnings_of_others_are_for_debug_only(sims, monkeypatch):
    monkeypatch.setattr("spikecdl.io.read", lambda path, **_: (warnings.warn("old"), read(path))[1])  # noqa: B028
    assert "old" not in succeeded(run("inspect", sims["pooled"])).err
    assert "old" in succeeded(run("inspect", sims["pooled"], "--debug")).err


def test_a_bug_is_told_from_a_mistake(sims, monkeypatch):
    def broken(path, **_):
        raise RuntimeError("out of\ncheese")

    monkeypatch.setattr("spikecdl.io.read", broken)
    outcome = run("inspect", sims["pooled"])
    assert (outcome.code, outcome.out) == (1, "")
    assert "unexpected error: RuntimeError: out of cheese" in outcome.err
    assert outcome.err.count("\n") == 1
    assert "Traceback" in run("inspect", sims["pooled"], "--debug").err


def test_debug_shows_the_traceback_of_a_mistake_too():
    plain, debug = run("inspect", "nowhere.nwb"), run("--debug", "inspect", "nowhere.nwb")
    assert (plain.code, debug.code) == (2, 2)
    assert plain.err == "spikecdl: error: there is no file or folder 'nowhere.nwb'\n"
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)
