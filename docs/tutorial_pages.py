"""Hook of MkDocs: each notebook of ``tutorials/`` becomes a page with the output of its cells.

Notebooks are executed in an empty folder, several at a time.  What was executed is kept in
``.cache/tutorials`` until the notebook or the package changes, so that `mkdocs serve` is quick.

``python docs/tutorial_pages.py`` writes the outputs, in small, into the notebooks themselves, where
GitHub shows them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "tutorials"
DATA = ROOT.parent / "shared" / "data"
WIDTH, COLOURS = 720, 48  # of figures in notebooks: pixels at most, and colours
LOG = logging.getLogger("mkdocs.hooks.tutorials")

COLAB = "https://colab.research.google.com/github/spikecdl/spikecdl/blob/main/tutorials"
REPOSITORY = "https://github.com/spikecdl/spikecdl/blob/main"
LAUNCH = """\
[Open in Colab]({colab}/{stem}.ipynb){{ .md-button .md-button--primary }}
[Download the notebook]({stem}.ipynb){{ .md-button download="{stem}.ipynb" }}
[See it on GitHub]({repository}/tutorials/{stem}.ipynb){{ .md-button }}
"""
NOT_EXECUTED = """\
!!! warning "Without figures"
    The recording of this tutorial could not be downloaded when this page was built.
"""


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Add pages, figures and the notebooks themselves."""
    paths = sorted((ROOT / "tutorials").glob("*.ipynb"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # the last takes longest
        running = {path: pool.submit(executed, path) for path in reversed(paths)}
        for path in paths:
            notebook = running[path].result()
            text, figures = page(path.stem, notebook)
            files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
            for name, png in figures.items():
                files.append(File.generated(config, f"tutorials/{name}", content=png))
            source = str(path)
            files.append(File.generated(config, f"tutorials/{path.name}", abs_src_path=source))


def kept(path: Path) -> Path:
    """Return where a notebook is kept once it is executed, with this state of the package."""
    sources = [path.with_suffix(".py"), *sorted((ROOT / "spikecdl").rglob("*.py"))]
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return CACHE / f"{path.stem}-{key[:16]}.ipynb"


def executed(path: Path) -> nbformat.NotebookNode:
    """Return a notebook with the output of its cells; without, if its data cannot be had."""
    if kept(path).exists():
        return nbformat.read(kept(path), as_version=4)
    notebook = nbformat.read(path, as_version=4)
    LOG.info("executing %s", path.name)
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    environment.setdefault("OMP_NUM_THREADS", "1")  # one notebook per core
    environment["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of downloads; no widgets here
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)  # this state of the package
    if DATA.is_dir():
        environment.setdefault("SPIKECDL_DATA", str(DATA))
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=600,
            startup_timeout=300,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            if error.ename != "ConnectionError":
                raise
            LOG.info("%s is shown without figures: %s", path.name, error.evalue)
            return nbformat.read(path, as_version=4)
    CACHE.mkdir(parents=True, exist_ok=True)
    for stale in CACHE.glob(f"{path.stem}-*.ipynb"):
        stale.unlink()
    nbformat.write(notebook, kept(path))
    return notebook


def page(stem: str, notebook: nbformat.NotebookNode) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its figures by name."""
    title, *rest = notebook.cells
    heading, _, introduction = title.source.partition("\n")
    parts = [heading, LAUNCH.format(stem=stem, colab=COLAB, repository=REPOSITORY), introduction]
    figures: dict[str, bytes] = {}
    for cell in rest:
        if cell.cell_type == "markdown":
            source = cell.source.replace(f"({REPOSITORY}/docs/", "(../")
            parts.append(source.replace(".ipynb)", ".md)"))  # a link to another tutorial
            continue
        if "setup" in cell.metadata.get("tags", ()):
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            parts.append(shown(output, figures, f"{stem}-{len(figures) + 1}.png"))
    if not any(cell.get("execution_count") for cell in rest):
        parts.insert(2, NOT_EXECUTED)
    return "\n\n".join(parts) + "\n", figures


def shown(output: nbformat.NotebookNode, figures: dict[str, bytes], name: str) -> str:
    """Return an output as Markdown: a figure, a table, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        figures[name] = base64.b64decode(data["image/png"])
        return f"![Figure of this step]({name})"
    if "text/html" in data:
        html = re.sub(r"<style scoped>.*?</style>", "", data["text/html"], flags=re.DOTALL)
        table = re.sub(r'<table border="1" class="dataframe">', "<table>", html)
        return f'<div class="dataframe">{table}</div>'
    if output.get("name") == "stderr":
        LOG.warning("%s: a cell says %s", name.rpartition("-")[0], output["text"])
    text = output.get("text") or data.get("text/plain", "")
    return f"``` {{ .text .output }}\n{text.rstrip()}\n```"


def write_outputs(path: Path) -> None:
    """Write the outputs of a notebook into it: figures in few colours, and no messages."""
    notebook, done = nbformat.read(path, as_version=4), executed(path)
    for cell, found in zip(notebook.cells, done.cells, strict=True):
        if cell.cell_type != "code":
            continue
        cell.execution_count = found.execution_count
        cell.outputs = [each for each in found.outputs if each.get("name") != "stderr"]
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = small(data["image/png"])
    nbformat.write(notebook, path)


def small(png: str) -> str:
    """Return a figure in base64 with few pixels and colours."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.thumbnail((WIDTH, 2 * WIDTH))
    buffer = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    for path in sorted((ROOT / "tutorials").glob("*.ipynb")):
        write_outputs(path)
