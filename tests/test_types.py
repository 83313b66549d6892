"""What a type checker sees of the public names."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest
from mypy import api

import spikecdl
from spikecdl import config
from spikecdl.model.families import FAMILIES
from spikecdl.training import TRAINERS

#: Only types of our own are looked at, which is quick.
SETTINGS = """
[mypy]
ignore_missing_imports = True
follow_imports = silent

[mypy-numpy.*,pandas.*,scipy.*,torch.*]
follow_imports = skip
"""
PROGRAM = """
import spikecdl

spikes = spikecdl.read_nwb("recording.nwb")
counts = spikes.bin(0.005)
model = spikecdl.DCEA(2, 0.125, family="binomial").fit(counts)
reveal_type(counts)
reveal_type(model.score(counts))
spikecdl.DCEA(famly="binomial")
spikecdl.Poison()
spikecdl.DCEA(layout="apart")
"""


def test_a_type_checker_sees_real_types(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    settings = tmp_path / "mypy.ini"
    settings.write_text(SETTINGS)
    arguments = [f"--config-file={settings}", f"--cache-dir={tmp_path / 'cache'}"]
    found, errors, _ = api.run([*arguments, str(file)])
    assert not errors
    lines = [line.split(": ", 1)[1] for line in found.splitlines() if file.name in line]
    assert 'note: Revealed type is "spikecdl.data.binned.BinnedSpikes"' in lines
    assert any(line.startswith('note: Revealed type is "') and "float" in line for line in lines)
    wrong = [line for line in lines if line.startswith("error")]
    assert len(wrong) == 3
    assert 'Unexpected keyword argument "famly" for "DCEA"' in wrong[0]
    assert 'Module has no attribute "Poison"' in wrong[1]
    assert """expected "Literal['shared', 'joint']\"""" in wrong[2]


def test_names_that_editors_offer_are_those_that_there_are():
    assert set(get_args(config.FamilyName)) == set(FAMILIES)
    assert set(get_args(config.TrainerName)) == {"auto", *TRAINERS}


def test_the_stub_lists_what_it_imports():
    tree = ast.parse(Path(spikecdl.__file__).with_suffix(".pyi").read_text("utf-8"))
    names = {a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
    (listed,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    assert names == set(ast.literal_eval(listed)) == set(spikecdl.__all__)


def test_every_public_name_is_there():
    for name in sorted(spikecdl.__all__):
        assert getattr(spikecdl, name) is not None
        assert name in dir(spikecdl)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="Poison"):
        spikecdl.Poison  # noqa: B018
