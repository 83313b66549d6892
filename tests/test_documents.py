"""What the README, the pages and the metadata say, held against the code and the files."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

import spikecdl
from spikecdl.model.families import FAMILIES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("datasets/*.md")])


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_use_names_that_exist(page):
    for block in python_blocks(page):
        compile(block, str(page), "exec")
        names = set(re.findall(r"\bspikecdl\.(\w+)", block))
        assert names <= set(spikecdl.__all__), f"not exported: {names - set(spikecdl.__all__)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path = unquote(target.split("#")[0])
        if path and "://" not in target:
            assert (page.parent / path).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"^  - .*: (\S+\.md)$", menu, re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in ROOT.glob("docs/*.md"))


def test_the_reference_names_things_that_exist():
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    targets = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    assert targets
    for target in targets:
        pkgutil.resolve_name(target)


@pytest.mark.parametrize("page", ["model.md", "choosing.md"])
def test_every_family_is_explained(page):
    text = (ROOT / "docs" / page).read_text("utf-8")
    assert {name for name in FAMILIES if f"`{name}`" not in text} == set()


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {spikecdl.__version__}\n" in citation
    assert f"\n## [{spikecdl.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.fixture(scope="module")
def registry():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    return tomllib.loads((ROOT / "datasets" / "registry.toml").read_text("utf-8"))


def test_every_dataset_says_where_it_comes_from(registry):
    listed = (ROOT / "datasets" / "README.md").read_text("utf-8")
    for name, entry in registry.items():
        assert entry["title"], name
        assert entry["address"], name
        assert entry["licence"], name
        assert entry["cite"], name
        assert f"`{name}`" in listed or f"`{name}.nwb`" in listed, f"{name} is not in the README"
        assert entry["shipped"] == ("://" not in entry["address"])


def test_shipped_files_have_the_stated_bytes(registry):
    for entry in registry.values():
        if entry["shipped"] and "sha256" in entry:
            assert sha256(ROOT / entry["address"]) == entry["sha256"]


def test_files_beside_the_checkout_have_the_stated_bytes(registry, shared_data):
    for entry in registry.values():
        for file in entry.get("files", []):
            if "beside" in file:
                assert sha256(shared_data / file["beside"]) == file["sha256"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
