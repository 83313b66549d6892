"""Fits in forked processes, in threads side by side, and where nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import spikecdl
from spikecdl import DCEA
from spikecdl.data import BinnedSpikes

FORKED = """
import os, numpy as np, spikecdl
rng = np.random.default_rng(0)
counts = spikecdl.BinnedSpikes.from_array(rng.poisson(0.2, (40, 1, 2000)), 0.005)
fit = lambda counts: spikecdl.DCEA(1, 0.1, "poisson", n_epochs=2).fit(counts)
fit(counts)
child = os.fork()
if not child:
    fit(counts.select(trials=range(10)))
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_is_forked_after_a_large_fit():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        timeout=200,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "7\n"


@pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
def test_fits_in_threads_show_their_own_progress(capsys):
    counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.2, (4, 1, 500)), 0.005)
    fits: list[DCEA] = []
    work = [
        threading.Thread(
            target=lambda: fits.append(
                DCEA(1, 0.05, "poisson", n_epochs=2, verbose=True).fit(counts)
            )
        )
        for _ in range(3)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(fits) == 3
    assert all(np.array_equal(fit.templates_, fits[0].templates_) for fit in fits)


def test_home_that_cannot_be_written_to(tmp_path):
    """As in a container: nothing is compiled, and nothing kept beside the package."""

    def files() -> set[Path]:
        inside = Path(spikecdl.__file__).parent.rglob("*")
        return {path for path in inside if "__pycache__" not in path.parts}

    seen, nowhere = files(), "/dev/null/home"
    environment = os.environ | {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "MPLCONFIGDIR": nowhere}
    recording, out = tmp_path / "a.nwb", tmp_path / "out"
    simulate = f"simulate --trials 4 --units 1 --templates square --out {recording}"
    fit = f"fit {recording} --templates 1 --length 0.05 --bin 0.005 --folds 0 --out {out}"
    for line in (simulate, fit):
        done = subprocess.run(
            [sys.executable, "-m", "spikecdl", *line.split()],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (out / "summary.json").exists()
    assert files() == seen
