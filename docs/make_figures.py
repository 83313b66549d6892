"""Draw figures of the README and the pages; or of some parts: spikes, guide, gallery, images."""

import re
import sys
from pathlib import Path
from typing import Any

import guide_figures
import numpy as np
from matplotlib.figure import Figure

import spikecdl
from spikecdl import plots
from spikecdl.denoise.benchmark import Benchmark, comparison

HERE = Path(__file__).parent


def spikes() -> dict[str, Figure]:
    """Draw templates and rates of the demo recording."""
    recording = spikecdl.read(HERE.parent / "datasets" / "demo.nwb")
    single = recording.bin(0.001)
    counts = single.pool()
    model = spikecdl.DCEA(3, 0.05, "binomial", random_state=0).fit(counts)
    parts = model.decompose(counts.select(units=[3, 4]))
    return {
        "templates": plots.templates(model, counts.truth)[0].figure,
        "rates": plots.rates_figure(parts, single.select(units=[3, 4])),
    }


def gallery() -> dict[str, Figure]:
    """Run the code of the gallery; each image is drawn by the code above it, as ``axes``."""
    text = (HERE / "gallery.md").read_text("utf-8")
    steps = re.findall(
        r"^```python\n(.*?)^```|\]\(images/(\w+)\.png\)", text, re.DOTALL | re.MULTILINE
    )
    known: dict[str, Any] = {}
    figures = {}
    for code, name in steps:
        if name:
            figures[name] = np.atleast_1d(known["axes"]).flat[0].figure
        else:
            exec(code, known)
    return figures


def images() -> dict[str, Figure]:
    """Draw a cell and a photograph at 4 photons per pixel, denoised."""
    from skimage import data

    clean = {"cell": data.cell()[265:485, 290:510], "camera": data.camera()[60:280, 130:350]}
    test = Benchmark(clean, [4.0], ["vst-tv", "dcea-uc", "blind"])
    return {"denoised": comparison(test)}


if __name__ == "__main__":
    (HERE / "images").mkdir(exist_ok=True)
    parts = {"spikes": spikes, "guide": guide_figures.drawn, "gallery": gallery, "images": images}
    chosen = sys.argv[1:] or list(parts)
    figures = {name: figure for part in chosen for name, figure in parts[part]().items()}
    for name, figure in figures.items():
        figure.savefig(HERE / "images" / f"{name}.png", dpi=110)
