"""The folder of results after errors and interruptions, and a fit that is resumed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ENVIRONMENT, FILES, FIT, SIMULATE, run, succeeded
from matplotlib.figure import Figure

import spikecdl
from spikecdl import progress
from spikecdl.cli import outputs
from spikecdl.io import read


def test_results_never_replace_the_data(sims, tmp_path):
    data = read(sims["pooled"])
    spikecdl.write_nwb(tmp_path / "results.nwb", data)
    before = (tmp_path / "results.nwb").read_bytes()
    outcome = run("fit", tmp_path / "results.nwb", *FIT, "--out", tmp_path)
    assert outcome.code == 2
    assert "`--out`" in outcome.err
    assert "holds the data themselves; choose another folder" in outcome.err
    assert (tmp_path / "results.nwb").read_bytes() == before


def test_resume_completes_a_fit_that_was_interrupted(sims, tmp_path, monkeypatch, only_summary):
    command = ["fit", sims["pooled"], "--pool-trials", *FIT, "--folds", 0]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    unbroken = succeeded(run(*command, "--out", whole, "--json")).json

    def interrupted(told, *state):
        if told.state.stage == "training":
            raise KeyboardInterrupt  # after the first epoch

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "__call__", interrupted)
        outcome = run(*command, "--out", cut)
    assert outcome == (130, "", "reading pooled.nwb\nspikecdl: interrupted\n")
    assert [path.name for path in cut.iterdir()] == ["checkpoint.safetensors"]
    other = run(*command, "--out", cut, "--resume", "--lambda", 0.3)
    assert other.code == 2
    assert "another fit" in other.err
    resumed = succeeded(run(*command, "--out", cut, "--resume", "--json")).json
    assert [path.name for path in cut.iterdir()] == ["summary.json"]
    for about in (unbroken, resumed):
        del about["command"], about["seconds"]
    assert resumed == unbroken


QUICK = ["--pool-trials", *FIT, "--epochs", 1, "--folds", 0]


def test_a_second_process_is_refused_and_a_signal_ends_the_first(sims, tmp_path):
    """The second is told of the process and start of the first, which ends with 130."""
    out = tmp_path / "out"
    line = ["fit", sims["pooled"], *QUICK, "--epochs", "100000", "--trainer", "unrolled"]
    command = [sys.executable, "-m", "spikecdl", *map(str, line), "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as first:
        until = time.monotonic() + 240  # code may have to be compiled first, on a busy machine
        while not (out / "checkpoint.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.05)
        refused = run("fit", sims["pooled"], *QUICK, "--out", out)
        files = sorted(path.name for path in out.iterdir() if path.suffix != ".tmp")
        first.send_signal(signal.SIGTERM)
        try:
            said, told = first.communicate(timeout=120)
        finally:
            first.kill()
    assert refused.code == 2
    assert f"`--out` (='{out}') is in use by process {first.pid} on " in refused.err
    assert re.search(r", since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*; wait until it ends", refused.err)
    assert f".run-{first.pid}" in files
    assert (first.returncode, said) == (130, "")
    assert told.endswith("spikecdl: interrupted\n")
    assert "Traceback" not in told
    assert [path.name for path in out.iterdir()] == ["checkpoint.safetensors"]


def test_results_are_replaced_if_asked_only(sims, fitted, tmp_path):
    (tmp_path / "results.nwb").write_text("old")
    for line in (
        ["fit", sims["pooled"], *QUICK],
        ["apply", fitted[0], sims["pooled"]],
        ["select", sims["pooled"], "--length", 0.02, "--bin", 0.002],
        ["experiment", "sea"],
    ):
        outcome = run(*line, "--out", tmp_path)
        assert outcome.code == 2
        assert f"`--out` (='{tmp_path}') holds results (results.nwb); choose" in outcome.err
        assert "replace them with --overwrite" in outcome.err
        assert [path.name for path in tmp_path.iterdir()] == ["results.nwb"]


def test_a_file_is_replaced_if_asked_only(tmp_path):
    out = tmp_path / "sim.nwb"
    succeeded(run(*SIMULATE, "--out", out))
    before = out.read_bytes()
    outcome = run(*SIMULATE, "--seed", 2, "--out", out)
    assert outcome.code == 2
    assert f"`--out` (='{out}') exists; choose another file, or replace it" in outcome.err
    assert out.read_bytes() == before
    succeeded(run(*SIMULATE, "--seed", 2, "--out", out, "--overwrite"))
    assert out.read_bytes() != before


def test_same_command_same_model_and_nothing_of_an_earlier_run(sims, fitted, tmp_path, monkeypatch):
    """And each figure is drawn once, and `--resume` without a checkpoint begins."""
    for name in ("bands.npz", "selection.csv", "summary.json", "mine.txt"):
        (tmp_path / name).write_text("old")
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **m: (drawn.append(f), save(f, *a, **m)))
    command = ["fit", sims["pooled"], "--family", "binomial", "--pool-trials", *FIT]
    succeeded(run(*command, "--folds", 0, "--resume", "--overwrite", "--out", tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "mine.txt"}
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / name).read_bytes() == (fitted[0] / name).read_bytes()
    assert len(drawn) == len({id(figure) for figure in drawn}) == 7


def test_what_a_killed_run_has_left_is_removed(sims, tmp_path, only_summary):
    """It was killed in a write of the checkpoint, or of the results."""
    (tmp_path / ".run-123").mkdir()
    (tmp_path / ".run-123" / "model.json").write_text("half")
    (tmp_path / ".checkpoint-0123abcd.tmp").write_text("half")
    (tmp_path / ".lock").write_text("process 123 on somewhere, since long ago")
    (tmp_path / ".checkpoint.safetensors.lock").write_text("process 123 on somewhere")
    succeeded(run("fit", sims["pooled"], *QUICK, "--out", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("kind", ["link", "names", "link inside"])
def test_a_folder_that_is_not_of_results_is_left(kind, tmp_path):
    other, out = tmp_path / "other", tmp_path / "out"
    complete = (other if kind == "link" else out) / ".run-complete"
    complete.mkdir(parents=True)
    out.mkdir(exist_ok=True)
    (complete / ("notes.txt" if kind == "names" else "model.json")).write_text("theirs")
    if kind == "link":
        (out / ".run-complete").symlink_to(complete)
    elif kind == "link inside":
        (complete / "summary.json").symlink_to(tmp_path)
    (out / "model.json").write_text("mine")
    for overwrite in (False, True):
        place = outputs.Results(out=out, overwrite=overwrite)
        with (
            pytest.raises(ValueError, match="not a folder of results" if overwrite else "holds"),
            place.folder(),
        ):
            pass
    assert (out / "model.json").read_text() == "mine"
    assert len(list(complete.iterdir())) == (2 if kind == "link inside" else 1)


# Before the first move, the first of four removals, and the first and the last of three files.
@pytest.mark.parametrize("n_moves", [0, 1, 5, 7])
def test_a_run_killed_while_results_take_their_place(n_moves, tmp_path, monkeypatch):
    """The next run completes it: no folder holds the results of two."""

    class Killed(BaseException):
        """The process is gone."""

    place = outputs.Results(out=tmp_path, overwrite=True)

    def results(text: str) -> None:
        with place.folder(tmp_path / "data") as folder:
            for name in ("model.json", "results.nwb", "summary.json"):
                (folder / name).write_text(text)

    def limited(function):
        def call(*arguments, **more):
            calls.append(None)
            if len(calls) > n_moves:
                raise Killed
            return function(*arguments, **more)

        return call

    results("old")
    (tmp_path / "bands.npz").write_text("old")
    with monkeypatch.context() as patch:
        calls = []
        unlink, replace = Path.unlink, outputs.os.replace
        patch.setattr(outputs.os, "replace", limited(replace))
        patch.setattr(
            Path,
            "unlink",
            lambda path, **more: (
                limited(unlink)(path, **more)
                if path.name in outputs._NAMES and path.exists()
                else unlink(path, **more)
            ),
        )
        with pytest.raises(Killed):
            results("new")
    with pytest.raises(KeyError), place.folder(tmp_path / "data"):
        raise KeyError
    kept = "new" if n_moves > 0 else "old"
    names = {"model.json", "results.nwb", "summary.json"} | (
        {"bands.npz"} if n_moves == 0 else set()
    )
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        names, kept
    )
