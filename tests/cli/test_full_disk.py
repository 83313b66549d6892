"""A full disk: one sentence with the bytes needed; checkpoint and earlier results stay."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

import pynwb
import pytest
from commands import FILES, FIT, run, succeeded

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
#: As h5py says it.
FULL_HDF5 = RuntimeError(
    "Can't decrement id ref count (file write failed: errno = 28, error message = 'No space left "
    "on device', total write size = 9896, bytes this sub-write = 9896, offset = 151552)"
)
SAID = re.compile(
    r"spikecdl: error: no space left: (?:more than )?[\d,]+ bytes are needed, [\d,]+ are free; "
    r"free some, or write to another disk: '.*'\n"
)


def failing(function, part: str, error: Exception = FULL):
    """Return a function that writes half of a file whose name has this part, and fails."""

    def call(first, *arguments, **more):
        if part in str(first):
            if part:
                with open(first, "w") as file:
                    file.write("half")
            raise error
        return function(first, *arguments, **more)

    return call


PLACES = {
    "checkpoint": (Path, "write_bytes", failing(Path.write_bytes, ".checkpoint")),
    "model": (Path, "write_bytes", failing(Path.write_bytes, ".model")),
    "recording": (pynwb.NWBHDF5IO, "write", failing(pynwb.NWBHDF5IO.write, "", FULL_HDF5)),
}


def old_results(out: Path) -> None:
    for name in FILES:
        (out / name).write_text("old")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("place", PLACES)
def test_one_sentence_and_all_stays(place, sims, tmp_path, monkeypatch, no_figures):
    old_results(tmp_path)
    command = ["fit", sims["poisson"], *FIT, "--epochs", 1, "--folds", 0, "--out", tmp_path]
    command += ["--trainer", "alternating", "--overwrite"]
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[place])
        outcome = run(*command)
    assert outcome.code == 2, outcome.err
    assert SAID.fullmatch(outcome.err.splitlines(keepends=True)[-1]), outcome.err
    assert all((tmp_path / name).read_text() == "old" for name in FILES)
    more = {path.name for path in tmp_path.iterdir()} - FILES
    assert more == (set() if place == "checkpoint" else {"checkpoint.safetensors"})
    if place == "recording":
        succeeded(run(*command, "--resume"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk in memory, whose size can be set while it is empty."""

    def mounted(kilobytes: int) -> Path:
        subprocess.run(["umount", tmp_path], check=False, capture_output=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", tmp_path]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no small disk can be mounted here")
        return tmp_path

    yield mounted
    subprocess.run(["umount", tmp_path], check=False, capture_output=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_on_small_disks(sims, small_disk):
    command = ["fit", sims["pooled"], "--pool-trials", *FIT, "--epochs", 1, "--folds", 0]
    codes = []
    for kilobytes in (44, 52, 64, 100, 200, 300, 400, 500, 600, 700, 800, 900, 2000):
        out = small_disk(kilobytes)
        old_results(out)
        outcome = run(*command, "--overwrite", "--out", out)
        codes.append(outcome.code)
        if outcome.code == 0:
            assert (out / "summary.json").read_text() != "old"
            continue
        assert outcome.code == 2, outcome.err
        assert SAID.fullmatch(outcome.err.splitlines(keepends=True)[-1]), outcome.err
        assert all((out / name).read_text() == "old" for name in FILES)
        assert {path.name for path in out.iterdir()} - FILES <= {"checkpoint.safetensors"}
    assert codes[0] == 2
    assert codes[-1] == 0
