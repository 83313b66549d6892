"""Without the libraries of the extras: a first fit works, and what is missing is named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from commands import ENVIRONMENT, FIT, SIMULATE, run

import spikecdl
from spikecdl.denoise import images
from spikecdl.io import read
from spikecdl.validation import MissingExtraError, extra

OF_EXTRAS = "neo quantities tifffile skimage pywt pynapple spikeinterface elephant xarray".split()


@pytest.fixture
def without_neo(monkeypatch):
    monkeypatch.setitem(sys.modules, "neo", None)


def test_files_and_objects_of_neo_need_it(without_neo, tmp_path):
    file = tmp_path / "recording.plx"
    file.write_bytes(b"something")
    remedy = r'needs neo: pip install "spikecdl\[neo\]"'
    with pytest.raises(MissingExtraError, match=f"'recording.plx'.*{remedy}"):
        read(file)
    with pytest.raises(MissingExtraError, match=remedy):
        spikecdl.to_neo(spikecdl.SpikeTrains.from_arrays([[0.1]]))
    with pytest.raises(MissingExtraError, match=remedy):
        spikecdl.read_neo(file)
    outcome = run("inspect", file)
    assert outcome.code == 2
    assert outcome.err == (
        "spikecdl: error: 'recording.plx', which only Neo may read, needs neo: pip "
        'install "spikecdl[neo]"\n'
    )


def test_tiff_needs_tifffile(monkeypatch, tmp_path):
    images.write_images(tmp_path / "a.tif", np.ones((4, 4)))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for work in (images.read_images, lambda path: images.write_images(path, np.ones((4, 4)))):
        with pytest.raises(MissingExtraError, match=r'TIFF needs tifffile: .*"spikecdl\[images\]"'):
            work(tmp_path / "a.tif")


def test_other_errors_pass():
    with pytest.raises(ImportError, match="cannot import name"), extra("neo", "this"):
        from math import nothing  # noqa: F401
    with pytest.raises(MissingExtraError) as caught, extra("neo", "this"):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert caught.value.name == "no_such_module"


def test_a_first_fit_needs_none_of_them(tmp_path):
    code = (
        "import sys\n"
        f"for name in {OF_EXTRAS}: sys.modules[name] = None\n"
        "from spikecdl.cli import main\n"
        "main()"
    )
    lines = [
        [*SIMULATE, "--family", "poisson", "--out", "sim.nwb"],
        ["fit", "sim.nwb", *FIT, "--folds", "0", "--trainer", "alternating", "--out", "out"],
    ]
    for line in lines:
        command = [sys.executable, "-c", code, *map(str, line)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").exists()
