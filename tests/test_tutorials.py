"""The tutorials run from top to bottom anywhere, and are the same as script and as notebook."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "tutorials").glob("*.py"))
NAMES = [path.stem for path in SCRIPTS]


def was_built(script: Path) -> bool:
    """Return whether the documentation shows the notebook as it comes out now."""
    try:
        from docs import tutorial_pages
    except ImportError:  # without mkdocs
        return False
    return tutorial_pages.kept(script.with_suffix(".ipynb")).exists()


def test_there_are_tutorials():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(1, len(NAMES) + 1)]
    assert sorted(path.stem for path in (ROOT / "tutorials").glob("*.ipynb")) == NAMES


def test_notebook_and_script_are_the_same():
    for script in SCRIPTS:
        notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
        nbformat.validate(notebook)
        one, other = (
            [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in source.cells]
            for source in (jupytext.read(script), notebook)
        )
        assert one == other, f"{script.name}: run jupytext --sync tutorials/*.py"
        assert {kind for kind, *_ in one} == {"code", "markdown"}


def test_notebooks_hold_their_output_in_small():
    """GitHub shows it; `python docs/tutorial_pages.py` writes it."""
    for script in SCRIPTS:
        path = script.with_suffix(".ipynb")
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs), script.name
        assert not any(output.get("name") == "stderr" for output in outputs), script.name
        assert path.stat().st_size < 500_000, script.name
        assert not re.search(r'"/(home|root|tmp|work)/', path.read_text("utf-8")), script.name


def test_notebook_can_install_the_package():
    """Its first code cell does, where the package is missing, as on Colab."""
    for script in SCRIPTS:
        setup = next(cell for cell in jupytext.read(script).cells if cell.cell_type == "code")
        assert setup.metadata["tags"] == ["setup"]
        install = r'^    %pip install .*"spikecdl.* @ git\+https://'
        assert re.search(install, setup.source, re.MULTILINE), script.name


def test_tutorial_is_in_the_gallery_and_in_the_menu():
    gallery = (ROOT / "docs" / "tutorials" / "index.md").read_text("utf-8")
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    for name in NAMES:
        assert re.search(rf"\[!\[.+\]\(\S+\.png\)\]\({name}\.md\)", gallery), f"figure of {name}"
        assert f"tutorials/{name}.md\n" in menu


@pytest.mark.pages
@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_tutorial_runs_outside_the_checkout(
    script: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if was_built(script):
        pytest.skip("mkdocs build has executed it, with this state of the package")
    if re.search("fetch_whisker|SPIKECDL_DATA", script.read_text("utf-8")):  # would download it
        monkeypatch.setenv("SPIKECDL_DATA", str(request.getfixturevalue("shared_data")))
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for cell in jupytext.read(script).cells:
        if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", ()):
            exec(compile(cell.source, script.name, "exec"), namespace)
    assert os.listdir(tmp_path) == []
