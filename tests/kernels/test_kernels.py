"""Functions in C: what they refuse, for which processors they are, and how they are built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from spikecdl import kernels
from spikecdl.kernels import build
from spikecdl.solvers.amplitudes import LOSSES, Loss

LIBRARIES = sorted(path for path in kernels.FOLDER.iterdir() if path.suffix == build.SUFFIX)
FIT = """
import numpy as np
from spikecdl import DCEA, BinnedSpikes
counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.3, (20, 1, 200)), 0.01)
model = DCEA(1, 0.2, n_epochs=2, random_state=0).fit(counts)
print(model.score(counts), model.evidence(counts).sum())
"""

value = kernels.function("loss_value")


@pytest.fixture
def loss() -> Loss:
    return Loss(
        LOSSES["logistic"], *np.random.default_rng(0).poisson(1.0, (2, 3, 50)).astype(float)
    )


def test_functions_compute(loss):
    eta = np.random.default_rng(1).normal(size=(3, 50))
    expected = ((loss.a + loss.b) * np.logaddexp(0, eta) - loss.a * eta).sum()
    assert value(loss, eta) == pytest.approx(expected, rel=1e-9)


def test_arguments_that_calls_share_are_passed_again(loss):
    eta = np.random.default_rng(1).normal(size=(3, 50))
    known = kernels.packed("loss_value", "loss", loss)
    assert value(known, eta) == value(loss, eta)
    with pytest.raises(TypeError, match="`eta` of `loss_value` must be an array"):
        value(loss, known)
    with pytest.raises(TypeError, match="`loss` of `loss_value` must be a named tuple"):
        kernels.packed("loss_value", "loss", eta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda eta: eta.astype(np.float32), "`eta` of `loss_value` must be float64 with 2 axes"),
        (lambda eta: eta[0], "must be float64 with 2 axes, not float64 with 1"),
        (lambda eta: eta[:, ::2], "must be contiguous"),
        (lambda eta: eta.tolist(), "must be an array, not list"),
    ],
)
def test_arrays_that_are_not_what_the_header_says_are_refused(loss, change, message):
    with pytest.raises(TypeError, match=message):
        value(loss, change(np.zeros((3, 50))))


def test_named_tuples_have_the_fields_of_the_struct(loss):
    class Other(NamedTuple):
        kind: int
        b: np.ndarray
        a: np.ndarray

    with pytest.raises(TypeError, match="named tuple of kind, a, b"):
        value(Other(*loss), np.zeros((3, 50)))
    with pytest.raises(TypeError, match="`a` of `loss` of `loss_value` must be float64"):
        value(loss._replace(a=np.zeros((3, 50), int)), np.zeros((3, 50)))
    with pytest.raises(TypeError, match="takes 2 arguments, not 1"):
        value(loss)


def test_a_fit_is_the_same_on_each_processor():
    levels = [path.stem for path in LIBRARIES]
    if kernels.level() in kernels.LEVELS:
        levels = list(kernels.LEVELS[: kernels.LEVELS.index(kernels.level()) + 1])
    command, found = [sys.executable, "-c", FIT], []
    for level in levels:
        environment = {**os.environ, "SPIKECDL_CPU": level}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append([float(word) for word in done.stdout.split()])
    np.testing.assert_allclose(found, np.broadcast_to(found[0], np.shape(found)), rtol=1e-4)


def test_a_processor_that_is_not_known_is_refused():
    environment = {**os.environ, "SPIKECDL_CPU": "z80"}
    command = [sys.executable, "-c", "import spikecdl.events.windows"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode
    assert "SPIKECDL_CPU must be one of" in done.stderr


def test_sources_that_are_not_compiled_say_what_to_do(tmp_path):
    shutil.copytree(Path(kernels.__file__).parents[1], tmp_path / "spikecdl")
    for library in (tmp_path / "spikecdl" / "kernels").glob(f"*{build.SUFFIX}"):
        library.unlink()
    command = [sys.executable, "-c", "import spikecdl.events.windows"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "`pip install .` in the project's folder" in done.stderr


@pytest.mark.skipif(build.compiler() is None, reason="there is no C compiler")
def test_sources_compile_without_warnings(tmp_path, monkeypatch, capfd):
    for source in kernels.FOLDER.glob("*.[ch]"):
        shutil.copy(source, tmp_path)
    level, flags = list(build.levels().items())[-1]
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setattr(build, "levels", lambda: {level: flags})
    build.build()
    assert (tmp_path / f"{level}{build.SUFFIX}").exists()
    assert capfd.readouterr().err == ""


def test_a_machine_without_compiler_gets_one(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    said = []
    hook = build.Hook.__new__(build.Hook)
    hook.app = type("App", (), {"display_info": staticmethod(said.append)})
    assert hook.dependencies() == ["ziglang>=0.13"]
    assert "no C compiler was found" in said[0]
