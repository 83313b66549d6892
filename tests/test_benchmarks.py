"""The benchmarks run from end to end at tiny sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [  # of the table, by how they begin; those that need other packages or data may be skipped
    *("matrix product", "multiply-add", "copy"),
    *(f"encoder iteration, {workload}" for workload in ("W1", "W3", "W2")),
    *(f"codes at the gap of 25 iterations, {workload}" for workload in ("W1", "W3")),
    *(f"codes to gap 1e-06, {workload}" for workload in ("W1", "W2")),
    *(f"training, {step}" for step in ("l1 round", "debiased round", "l1 gradient step")),
    *("from correlation 0.6", "without knowledge, all errors < 0.1, W1"),
    *(f"final error over that with known events, {workload}" for workload in ("W1", "W1hard")),
    *(f"peak memory against depth, {who}" for who in ("yardstick", "package")),
    *(f"peak memory of a fit against bins, counts in {where}" for where in ("memory", "a file")),
    *(f"time of a debiased round against {what}" for what in ("number of windows", "bins")),
    *("denoiser, single precision", "denoiser, bfloat16", "memory of the denoiser", "multiscale"),
    *(f"pooled trials, {method}" for method in ("DCEA, binomial", "DCEA, Gaussian")),
    *(f"pooled trials, {package}" for package in ("alphacsc", "sporco")),
    *("sequences, DCEA", "sequences, seqNMF", "sequences, PP-Seq", "population of 20 units"),
    *("ingredients, ", "selection, "),
]
NEED_DATA_OR_PACKAGES = ("alphacsc", "Gaussian codes", "spikecdl fit", "whiskers", "songbird")


@pytest.mark.slow
def test_quick_benchmarks_print_every_row():
    command = [sys.executable, ROOT / "tests" / "benchmarks", "--quick", "--repeats=1", "--seeds=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = [line.split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    measured = {cells[1].strip(): cells[2:6] for cells in table[2:]}
    for row in ROWS:
        found = [cells for name, cells in measured.items() if name.startswith(row)]
        assert found, f"no row {row!r}"
        assert all("".join(cells).strip() for cells in found)
    unexpected = [name for name in measured if not name.startswith((*ROWS, *NEED_DATA_OR_PACKAGES))]
    assert not unexpected
