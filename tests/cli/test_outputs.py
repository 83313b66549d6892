"""The folder of results after errors and interruptions, and a fit that is resumed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

from commands import ENVIRONMENT, FIT, run, succeeded

import spikecdl
from spikecdl.cli import outputs
from spikecdl.io import read


def test_an_error_while_writing_leaves_a_folder_as_it_was(sims, tmp_path, monkeypatch):
    (tmp_path / "summary.json").write_text("old")

    def full(*arguments, **more):
        raise OSError(28, "No space left on device", str(tmp_path / "report.html"))

    monkeypatch.setattr("spikecdl.report.write_report", full)
    outcome = run("fit", sims["pooled"], "--pool-trials", *FIT, "--epochs", 1, "--out", tmp_path)
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
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


def test_resume_without_a_checkpoint_begins(sims, tmp_path, only_summary):
    command = ["fit", sims["pooled"], "--pool-trials", *FIT, "--epochs", 1, "--out", tmp_path]
    succeeded(run(*command, "--resume"))


def heed_ctrl_c():
    """Undo what a shell does to a command in the background: it ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_a_process_with_130(sims, tmp_path):
    out = tmp_path / "out"
    line = ["fit", sims["pooled"], "--length", "0.02", "--bin", "0.002", "--epochs", "100000"]
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
