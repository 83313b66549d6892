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
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS, *ROOT.glob("datasets/*.md")])
#: Pages that the build makes of notebooks.
TUTORIALS = [ROOT / "docs" / "tutorials" / f"{n.stem}.md" for n in ROOT.glob("tutorials/*.ipynb")]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_python_examples_use_names_that_exist():
    for page in PAGES:
        for block in python_blocks(page):
            compile(block, str(page), "exec")
            unknown = set(re.findall(r"\bspikecdl\.(\w+)", block)) - set(spikecdl.__all__)
            assert not unknown, f"{page.name} uses {unknown}"


def test_links_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            path = unquote(target.split("#")[0])
            if path and "://" not in target:
                file = (page.parent / path).resolve()
                of_notebook = re.sub(r"-\d+\.png$", ".md", str(file))
                if not file.exists() and Path(of_notebook) not in TUTORIALS:
                    broken.append(f"{page.name} links to {target}")
    assert not broken


def test_home_page_and_readme_begin_alike():
    pages = [ROOT / "README.md", ROOT / "docs" / "index.md"]
    one, other = (page.read_text("utf-8").split("\n\n")[:2] for page in pages)
    assert one == other
    assert python_blocks(pages[0])[0] == python_blocks(pages[1])[0]


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", menu, re.MULTILINE)
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in [*DOCS, *TUTORIALS]]
    assert sorted(listed) == sorted(pages)


def test_the_reference_names_things_that_exist():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    text = "\n".join(page.read_text("utf-8") for page in pages)
    targets = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    for target in targets:
        pkgutil.resolve_name(target)
    shown = {target.removeprefix("spikecdl.") for target in targets}
    elsewhere = set(spikecdl.io.__all__) | {"PoissonDenoiser"}  # in `io` and `denoise`
    assert set(spikecdl.__all__) <= shown | elsewhere


def recipes() -> dict[str, str]:
    """Code of each section of the page of recipes; the first belongs to all."""
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    sections = re.split(r"^##? ", text, flags=re.MULTILINE)[1:]
    code = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return {s.splitlines()[0]: "\n".join(code.findall(s)) for s in sections}


@pytest.fixture(scope="module")
def common_to_recipes():
    namespace = {}
    exec(compile(recipes()["Recipes"], "recipes.md", "exec"), namespace)
    return namespace


@pytest.mark.filterwarnings("ignore:The .copy. argument in Quantity")  # elephant, of Neo
@pytest.mark.parametrize("name", [name for name in recipes() if name != "Recipes"])
def test_recipe_runs(name, common_to_recipes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = recipes()[name]
    for library in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE):
        pytest.importorskip(library)
    if "pynapple" in code:
        pytest.importorskip("pynapple")
    namespace = dict(common_to_recipes)
    exec(compile(code, "recipes.md", "exec"), namespace)
    again, spikes = namespace["again"], namespace["spikes"]
    if name == "Phy and Kilosort":
        assert again.n_units == 2
    elif isinstance(again, spikecdl.SpikeTrains):
        assert sum(map(len, again.times)) == sum(map(len, spikes.times))
        assert len(again.trials) == len(spikes.trials)
    else:
        assert again.counts.sum() == spikes.bin(0.002).counts.sum()


@pytest.mark.parametrize("page", ["model.md", "choosing.md"])
def test_every_family_is_explained(page):
    text = (ROOT / "docs" / page).read_text("utf-8")
    assert {name for name in FAMILIES if f"`{name}`" not in text} == set()


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {spikecdl.__version__}\n" in citation
    assert f"\n## [{spikecdl.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    citing = (ROOT / "docs/citing.md").read_text("utf-8")
    assert f"version = {{{spikecdl.__version__}}}" in citing
    assert f"spikecdl {spikecdl.__version__} " in citing


def test_the_readme_shows_its_figures_anywhere():
    """PyPI has the README, not the files beside it."""
    text = (ROOT / "README.md").read_text("utf-8")
    address = "https://raw.githubusercontent.com/spikecdl/spikecdl/main/"
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert images
    for image in images:
        assert image.startswith(address)
        assert (ROOT / image.removeprefix(address)).exists()


def test_errors_and_pages_name_extras_that_exist():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    sources = [*(ROOT / "spikecdl").rglob("*.py"), *PAGES]
    named = {
        name
        for file in sources
        for some in re.findall(
            r"(?:spikecdl|\.)\[([a-z,]+)\]\"|\bextra\(\s*\"(\w+)\"", file.read_text()
        )
        for name in "".join(some).split(",")
    }
    assert {"images", "neo", "interop", "test"} <= named <= extras


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
