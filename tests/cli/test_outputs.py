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


def test_an_error_while_writing_leaves_a_folder_as_it_was(sims, tmp_path, monkeypatch):
    (tmp_path / "summary.json").write_text("old")

    def full(*arguments, **more):
        raise OSError(28, "No space left on device", str(tmp_path / "report.html"))

    monkeypatch.setattr("spikecdl.report.write_report", full)
    command = ["fit", sims["pooled"], "--pool-trials", *FIT, "--epochs", 1, "--out", tmp_path]
    outcome = run(*command, "--overwrite")
    assert outcome.code == 2
    assert "no space left: more than " in outcome.err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"summary.json", "checkpoint.safetensors"}
    assert (tmp_path / "summary.json").read_text() == "old"


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
    command = ["fit", sims["pooled"], "--pool-trials", *FIT]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    unbroken = succeeded(run(*command, "--out", whole, "--json")).json

    def interrupted(told, *state):
        if told.state.stage == "training":
            raise KeyboardInterrupt  # after the first epoch

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "__call__", interrupted)
        outcome = run(*command, "--out", cut)
    assert outcome == (130, "", "spikecdl: interrupted\n")
    assert [path.name for path in cut.iterdir()] == ["checkpoint.safetensors"]
    other = run(*command, "--out", cut, "--resume", "--lambda", 0.3)
    assert other.code == 2
    assert "another fit" in other.err
    resumed = succeeded(run(*command, "--out", cut, "--resume", "--json")).json
    assert [path.name for path in cut.iterdir()] == ["summary.json"]
    for about in (unbroken, resumed):
        del about["command"], about["seconds"]
    assert resumed == unbroken


def test_resume_without_a_checkpoint_begins(sims, tmp_path, only_summary):
    command = ["fit", sims["pooled"], "--pool-trials", *FIT, "--epochs", 1, "--out", tmp_path]
    succeeded(run(*command, "--resume"))


def heed_ctrl_c():
    """Undo what a shell does to a command in the background: it ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_kill_ends_a_process_with_130(sims, tmp_path, signal_sent):
    out = tmp_path / "out"
    line = ["fit", sims["pooled"], "--length", "0.02", "--bin", "0.002", "--epochs", "100000"]
    line += ["--trainer", "unrolled", "--out", out]
    command = [sys.executable, "-m", "spikecdl", *map(str, line)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, preexec_fn=heed_ctrl_c, **pipes) as process:
        until = time.monotonic() + 240  # code may have to be compiled first, on a busy machine
        while not (out / "checkpoint.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal_sent)
        try:
            said, told = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "")
    assert told.endswith("spikecdl: interrupted\n")
    assert "Traceback" not in told
    assert [path.name for path in out.iterdir()] == ["checkpoint.safetensors"]


QUICK = ["--pool-trials", *FIT, "--epochs", 1, "--folds", 0]


@pytest.mark.parametrize("command", ["fit", "apply", "select", "experiment"])
def test_results_are_replaced_if_asked_only(command, sims, fitted, tmp_path, monkeypatch):
    (tmp_path / "results.nwb").write_text("old")
    lines = {
        "fit": ["fit", sims["pooled"], *QUICK],
        "apply": ["apply", fitted[0], sims["pooled"]],
        "select": ["select", sims["pooled"], "--length", 0.02, "--bin", 0.002],
        "experiment": ["experiment", "sea"],
    }
    outcome = run(*lines[command], "--out", tmp_path)
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


def test_same_command_same_model(sims, fitted, tmp_path):
    command = ["fit", sims["pooled"], "--family", "binomial", "--pool-trials", *FIT]
    succeeded(run(*command, "--folds", 0, "--out", tmp_path))
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / name).read_bytes() == (fitted[0] / name).read_bytes()


def test_nothing_of_an_earlier_run_is_left_among_new_results(sims, tmp_path):
    for name in ("bands.npz", "selection.csv", "summary.json", "mine.txt"):
        (tmp_path / name).write_text("old")
    succeeded(run("fit", sims["pooled"], *QUICK, "--out", tmp_path, "--overwrite"))
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "mine.txt"}


def test_what_a_killed_run_has_left_is_removed(sims, tmp_path, only_summary):
    """It was killed in a write of the checkpoint, or of the results."""
    (tmp_path / ".run-123").mkdir()
    (tmp_path / ".run-123" / "model.json").write_text("half")
    (tmp_path / ".checkpoint-0123abcd.tmp").write_text("half")
    (tmp_path / ".lock").write_text("process 123 on somewhere, since long ago")
    (tmp_path / ".checkpoint.safetensors.lock").write_text("process 123 on somewhere")
    succeeded(run("fit", sims["pooled"], *QUICK, "--out", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("n_moves", range(8))
def test_a_run_killed_while_results_take_their_place(n_moves, tmp_path, monkeypatch):
    """The next run completes it: no folder holds the results of two."""

    class Killed(BaseException):
        """The process is gone."""

    def results(text: str) -> None:
        with outputs.results_folder(tmp_path, [tmp_path / "data"], overwrite=True) as folder:
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
    with pytest.raises(KeyError), outputs.results_folder(tmp_path, [tmp_path / "data"], True):
        raise KeyError
    kept = "new" if n_moves > 0 else "old"
    names = {"model.json", "results.nwb", "summary.json"} | (
        {"bands.npz"} if n_moves == 0 else set()
    )
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        names, kept
    )


def test_two_fits_cannot_have_one_folder(sims, tmp_path):
    """The second is refused at once, by the process and start of the first."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "spikecdl", "fit", sims["pooled"], *QUICK]
    command = [*map(str, command), "--trainer", "unrolled", "--epochs", "100000", "--out", str(out)]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as first:
        try:
            until = time.monotonic() + 240
            while not (out / "checkpoint.safetensors").exists() and time.monotonic() < until:
                time.sleep(0.05)
            outcome = run("fit", sims["pooled"], *QUICK, "--out", out)
            files = sorted(path.name for path in out.iterdir() if path.suffix != ".tmp")
        finally:
            first.kill()
    assert outcome.code == 2
    assert f"`--out` (='{out}') is in use by process {first.pid} on " in outcome.err
    assert re.search(r", since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*; wait until it ends", outcome.err)
    assert f".run-{first.pid}" in files
    succeeded(run("fit", sims["pooled"], *QUICK, "--out", out))  # the lock of the killed is void
    assert {path.name for path in out.iterdir()} == FILES


def test_each_figure_is_drawn_once(sims, tmp_path, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **m: (drawn.append(f), save(f, *a, **m)))
    command = ["fit", sims["pooled"], "--pool-trials", *FIT, "--epochs", 1, "--folds", 0]
    succeeded(run(*command, "--out", tmp_path))
    assert len(drawn) == len({id(figure) for figure in drawn}) == 7
