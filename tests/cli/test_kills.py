"""Fits that are killed at any time, many times: nothing is lost, mixed or left behind."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path

import killable
import pytest
from commands import FILES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here"),
]

KILLS = 100
OPTIONS = "--templates 2 --length 0.02 --bin 0.002 --folds 0 --overwrite --resume".split()
FITS = {
    "alternating": ["--family", "binomial", "--pool-trials", "--trainer", "alternating"],
    "marginal": ["--trainer", "marginal"],
}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["killable", "spikecdl.estimator", "spikecdl.report", "matplotlib.pyplot", "pynwb"]
)


def start(fit: str, recording: Path, seed: int, out: Path) -> multiprocessing.process.BaseProcess:
    """Start a fit in a process of its own."""
    line = ["fit", recording, *OPTIONS, *FITS[fit], "--seed", seed, "--out", out]
    process = PROCESSES.Process(target=killable.command, args=([*map(str, line)],))
    process.start()
    return process


def finish(process: multiprocessing.process.BaseProcess) -> int:
    """Wait for the end of a process, which may not be an error."""
    process.join(300)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode


def digest(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("fit", FITS)
def test_killed_at_any_time(fit, sims, tmp_path):
    """The results are always those of one fit, and at the end those of an uninterrupted one."""
    recording = sims["pooled" if fit == "alternating" else "poisson"]
    expected = {}
    for seed in (0, 1):
        began = time.monotonic()
        assert finish(start(fit, recording, seed, tmp_path / f"{seed}")) == 0
        expected[seed] = digest(tmp_path / f"{seed}")
    longest, draw = time.monotonic() - began, random.Random(0)
    out, seed = tmp_path / "out", 0
    counts = {"killed": 0, "with a checkpoint": 0, "finished": 0, "leftovers": 0}
    while counts["killed"] < KILLS // len(FITS):
        process = start(fit, recording, seed, out)
        process.join(draw.uniform(0.1, 1.1) * longest)
        process.kill()
        ended = finish(process)
        names = {path.name for path in out.iterdir()} if out.exists() else set()
        about = {}
        if (out / "summary.json").exists():
            about = json.loads((out / "summary.json").read_text())
            assert digest(out) == expected[about["seed"]]
        if ended == 0:
            assert names == FILES
            assert about["seed"] == seed
            counts["finished"] += 1
            seed = 1 - seed
        else:
            counts["killed"] += 1
            counts["with a checkpoint"] += "checkpoint.safetensors" in names
            counts["leftovers"] += any(name.startswith(".") for name in names)
    print(f"{fit}: {counts}, {longest:.1f} s a fit")
    assert finish(start(fit, recording, seed, out)) == 0
    assert digest(out) == expected[seed]
    assert {path.name for path in out.iterdir()} == FILES
    assert counts["with a checkpoint"] > counts["killed"] // 2
