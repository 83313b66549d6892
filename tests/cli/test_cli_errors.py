"""The command line when something is wrong: warnings, errors, interruptions; what they leave."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands import ENVIRONMENT, FIT, SIMULATE, run, succeeded, write_only_summary

import spikecdl
from spikecdl.cli import outputs
from spikecdl.io import read


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Two units, 20 trials, the same events in each."""
    path = tmp_path_factory.mktemp("sims") / "sim.nwb"
    succeeded(run(*SIMULATE, "--same-events", "--out", path))
    return path


@pytest.fixture
def only_summary(monkeypatch) -> None:
    monkeypatch.setattr(outputs, "write_fit", write_only_summary)


def test_warnings_are_one_line_and_name_options(recording, tmp_path, only_summary):
    command = ["fit", recording, "--pool-trials", *FIT, "--epochs", 1, "--out", tmp_path]
    outcome = succeeded(run(*command, "--json"))
    warned = "training had not settled after 1 epochs; raise `--epochs`"
    assert outcome.err == f"spikecdl: warning: {warned}\n"


def test_a_panel_without_events_draws_no_warning():
    """Matplotlib gave up its layout for an empty line that is not clipped."""
    from recordings import make_counts, make_decomposition

    from spikecdl import plots

    counts = make_counts(masked=False).pool()
    parts = make_decomposition(counts)
    codes = np.zeros_like(parts.codes)
    codes[0, 0, 0, 1] = 1.0
    object.__setattr__(parts, "codes", codes)
    plots.codes(parts)[0].figure.savefig(os.devnull, format="png")


@pytest.mark.parametrize("debug", [False, True])
def test_warnings_of_others_are_for_debug_only(recording, monkeypatch, debug):
    monkeypatch.setattr("spikecdl.io.read", lambda path: (warnings.warn("old"), read(path))[1])  # noqa: B028
    outcome = succeeded(run("inspect", recording, *["--debug"] * debug))
    assert ("old" in outcome.err) == debug


def test_a_bug_is_told_from_a_mistake(recording, monkeypatch):
    def broken(path):
        raise RuntimeError("out of\ncheese")

    monkeypatch.setattr("spikecdl.io.read", broken)
    outcome = run("inspect", recording)
    assert (outcome.code, outcome.out) == (1, "")
    assert "unexpected error: RuntimeError: out of cheese" in outcome.err
    assert outcome.err.count("\n") == 1
    assert "Traceback" in run("inspect", recording, "--debug").err


def test_debug_shows_the_traceback_of_a_mistake_too():
    plain, debug = run("inspect", "nowhere.nwb"), run("--debug", "inspect", "nowhere.nwb")
    assert (plain.code, debug.code) == (2, 2)
    assert plain.err == "spikecdl: error: there is no file or folder 'nowhere.nwb'\n"
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)


def test_an_error_while_writing_leaves_a_folder_as_it_was(recording, tmp_path, monkeypatch):
    (tmp_path / "summary.json").write_text("old")

    def full(*arguments, **more):
        raise OSError(28, "No space left on device", str(tmp_path / "report.html"))

    monkeypatch.setattr("spikecdl.report.write_report", full)
    outcome = run("fit", recording, "--pool-trials", *FIT, "--epochs", 1, "--out", tmp_path)
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"summary.json", "checkpoint.safetensors"}
    assert (tmp_path / "summary.json").read_text() == "old"


def test_results_never_replace_the_data(recording, tmp_path):
    data = read(recording)
    spikecdl.write_nwb(tmp_path / "results.nwb", data)
    before = (tmp_path / "results.nwb").read_bytes()
    outcome = run("fit", tmp_path / "results.nwb", *FIT, "--out", tmp_path)
    assert outcome.code == 2
    assert "`--out`" in outcome.err
    assert "holds the data themselves; choose another folder" in outcome.err
    assert (tmp_path / "results.nwb").read_bytes() == before


# ----- interruptions


def test_resume_completes_a_fit_that_was_interrupted(
    recording, tmp_path, monkeypatch, only_summary
):
    command = ["fit", recording, "--pool-trials", *FIT]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    unbroken = succeeded(run(*command, "--out", whole, "--json")).json

    @contextlib.contextmanager
    def interrupting(first, quiet):
        def update(text, epoch, last):
            raise KeyboardInterrupt  # after the first

        yield update

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "epochs_shown", interrupting)
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


def test_resume_without_a_checkpoint_begins(recording, tmp_path, only_summary):
    command = ["fit", recording, "--pool-trials", *FIT, "--epochs", 1, "--out", tmp_path]
    succeeded(run(*command, "--resume"))


def heed_ctrl_c():
    """Undo what a shell does to a command in the background: it ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_a_process_with_130(recording, tmp_path):
    out = tmp_path / "out"
    line = ["fit", recording, "--length", "0.02", "--bin", "0.002", "--epochs", "100000"]
    line += ["--trainer", "unrolled", "--out", out]
    command = [sys.executable, "-m", "spikecdl", *map(str, line)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, preexec_fn=heed_ctrl_c, **pipes) as process:
        until = time.monotonic() + 240  # code may have to be compiled first, on a busy machine
        while not (out / "checkpoint.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            said, told = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "")
    assert told.endswith("spikecdl: interrupted\n")
    assert "Traceback" not in told
    assert [path.name for path in out.iterdir()] == ["checkpoint.safetensors"]
