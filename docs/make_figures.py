"""Draw figures of the README and the pages: the demo recording, two images of scikit-image."""

from pathlib import Path

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


def images() -> dict[str, Figure]:
    """Draw a cell and a photograph at 4 photons per pixel, denoised."""
    from skimage import data

    clean = {"cell": data.cell()[265:485, 290:510], "camera": data.camera()[60:280, 130:350]}
    test = Benchmark(clean, [4.0], ["vst-tv", "dcea-uc", "blind"])
    return {"denoised": comparison(test)}


if __name__ == "__main__":
    (HERE / "images").mkdir(exist_ok=True)
    for name, figure in (spikes() | images()).items():
        figure.savefig(HERE / "images" / f"{name}.png", dpi=110)
