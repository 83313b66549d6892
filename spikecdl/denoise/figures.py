"""What methods make of the same counts, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikecdl.plots import _style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spikecdl.denoise.benchmark import Benchmark

_IMAGES = 3  # shown, from the first
_WIDTH = 2.0  # inches of a panel


@_style.styled
def comparison(test: Benchmark) -> Figure:
    """Draw the first images: clean, as counts, and as each method finds them, with their PSNR.

    At the middle one of the peaks, in the first draw of counts.
    """
    from matplotlib.figure import Figure

    from spikecdl.denoise.benchmark import METHODS, psnr

    peak = sorted(test.peaks)[len(test.peaks) // 2]
    names = [name for name in test.methods if name != "noisy"]
    methods = [METHODS[name](test, peak) for name in names]
    images = list(test.images)[:_IMAGES]
    figure = Figure(figsize=(_WIDTH * (2 + len(names)), (_WIDTH + 0.25) * len(images)))
    axes = figure.subplots(len(images), 2 + len(names), squeeze=False)
    for image, row in zip(images, axes, strict=True):
        clean, counts = test.counts(image, peak, 0)
        found = {"clean": clean, f"counts, peak {peak:g}": counts / peak}
        found |= {
            name: method.rates(counts) / peak for name, method in zip(names, methods, strict=True)
        }
        for (name, values), ax in zip(found.items(), row, strict=True):
            ax.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            quality = "" if name == "clean" else f", {psnr(clean, values):.2f} dB"
            ax.set_title(f"{name}{quality}")
            ax.axis("off")
    return figure
