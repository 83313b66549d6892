"""Draw the figures of the README from the demo recording."""

from pathlib import Path

import spikecdl
from spikecdl import plots

HERE = Path(__file__).parent

if __name__ == "__main__":
    spikes = spikecdl.read(HERE.parent / "datasets" / "demo.nwb")
    single = spikes.bin(0.001)
    counts = single.pool()
    model = spikecdl.DCEA(3, 0.05, "binomial", random_state=0).fit(counts)
    parts = model.decompose(counts.select(units=[3, 4]))
    figures = {
        "templates": plots.templates(model, counts.truth)[0].figure,
        "rates": plots.rates_figure(parts, single.select(units=[3, 4])),
    }
    (HERE / "images").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(HERE / "images" / f"{name}.png", dpi=110)
