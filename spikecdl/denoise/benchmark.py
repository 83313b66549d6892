"""Methods on clean images with drawn counts: PSNR, SSIM, seconds, and what they look like."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl import validation
from spikecdl.denoise import models
from spikecdl.denoise.denoiser import PoissonDenoiser
from spikecdl.denoise.spda import SPDA
from spikecdl.denoise.vst import VST
from spikecdl.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    pass

_PEAKS, _ACTIVE = (1.0, 2.0, 4.0), (3, 4, 6)  # templates of a group in SPDA, by peak

Rates = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A method for one peak.

    Parameters
    ----------
    rates : callable
        From counts (row, column) to expected counts.
    n_parameters : int
        Numbers that it has learned from other images.
    """

    rates: Rates
    n_parameters: int = 0


def _network(model: str) -> Callable[[Benchmark, float], Method]:
    def method(test: Benchmark, peak: float) -> Method:
        path = models.find(model, peak, test.weights)
        denoiser = PoissonDenoiser.read(
            path, peak=peak, precision=test.precision, device=test.device
        )
        return Method(denoiser.predict, denoiser.n_parameters_)

    return method


def _spda(peak: float, random_state: int) -> SPDA:
    """Return SPDA with what suits a peak: the more photons, the more templates."""
    n_active = int(np.interp(peak, _PEAKS, _ACTIVE).round())
    return SPDA(n_active=n_active, max_active=n_active + 4, random_state=random_state)


def _untrained(make: Callable[[], Any]) -> Callable[..., Method]:
    return lambda *_: Method(make().predict)


METHODS: dict[str, Callable[[Benchmark, float], Method]] = {
    "noisy": lambda *_: Method(lambda counts: counts.astype(float)),
    "vst-tv": _untrained(VST),
    "vst-nlm": _untrained(lambda: VST("nlm")),
    "spda": lambda test, peak: Method(_spda(peak, test.random_state).predict),
    "ca": _network("ca"),
    "dcea-c": _network("c"),
    "dcea-uc": _network("uc"),
    "blind": _network("blind"),
}


@dataclass(frozen=True)
class Benchmark:
    """What is to be compared.

    Parameters
    ----------
    images : mapping of str to ndarray (row, column)
        Clean images by name, in any unit; 0 is dark.
    peaks : sequence of float
        Largest expected counts.
    methods : sequence of str
        Of `METHODS`.
    n_draws : int
        Draws of counts for each image and peak, the same for all methods.
    weights : path, optional
        Folder of weights, which go before those of the package.
    random_state : int
        Of the first draw.
    precision, device : str
        Of networks (see `PoissonDenoiser`).
    """

    images: Mapping[str, np.ndarray]
    peaks: Sequence[float]
    methods: Sequence[str]
    n_draws: int = 5
    weights: Path | None = None
    random_state: int = 0
    precision: str = "single"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("peaks", "methods"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty; give at least one")
        for method in self.methods:
            validation.one_of("methods", method, METHODS)
        for peak in self.peaks:
            validation.positive("peaks", peak, "counts")
        validation.integer("n_draws", self.n_draws)

    def run(self, say: Callable[[str], None]) -> pd.DataFrame:
        """Return one row for every method, peak, image and draw.

        PSNR and SSIM are of images scaled to a largest value of 1 in the clean one.

        Parameters
        ----------
        say : callable
            Told what was found for a peak by a method, a line at a time.
        """
        import pandas as pd

        table = []
        for peak in self.peaks:
            for name in self.methods:
                method = METHODS[name](self, peak)
                rows = [
                    {"method": name, "peak": peak, "n_parameters": method.n_parameters, **row}
                    for row in self._rows(method, peak)
                ]
                table += rows
                say(in_words(pd.DataFrame(rows))[-1])
        return pd.DataFrame(table)

    def counts(self, image: str, peak: float, draw: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a clean image with a largest value of 1, and counts drawn from it."""
        seed = (self.random_state + draw, sorted(self.images).index(image))
        return drawn(self.images[image], peak, seed)

    def _rows(self, method: Method, peak: float) -> list[dict[str, Any]]:
        similarity = _similarity()
        rows = []
        for image in self.images:
            for draw in range(self.n_draws):
                clean, counts = self.counts(image, peak, draw)
                began = time.perf_counter()
                found = method.rates(counts) / peak
                seconds = time.perf_counter() - began
                quality = {
                    "psnr": psnr(clean, found),
                    "ssim": similarity(clean, found, data_range=1.0),
                }
                rows.append({"image": image, "draw": draw, **quality, "seconds": seconds})
        return rows


def _similarity() -> Callable[..., float]:
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ValueError(
            'the comparison needs scikit-image, for SSIM: pip install "spikecdl[images]"'
        ) from None
    return structural_similarity


def drawn(image: np.ndarray, peak: float, seed: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with a largest value of 1, and Poisson counts drawn from it at a peak."""
    clean = image / np.max(image)
    return clean, np.random.default_rng(seed).poisson(clean * peak)


def psnr(clean: np.ndarray, found: np.ndarray) -> float:
    r"""Return the peak signal-to-noise ratio in dB.

    .. math:: 10 \log_{10} \frac{(\max m)^2}{\mathrm{mean}\,(m - \hat m)^2}

    Examples
    --------
    >>> clean = np.array([[0.0, 2.0]])
    >>> round(psnr(clean, clean + 0.2), 6)
    20.0
    """
    error = float(np.mean((clean - found) ** 2))
    return float(10 * np.log10(float(clean.max()) ** 2 / error)) if error else float("inf")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over images and draws, by peak and method, with standard errors over draws.

    The standard error is of the mean over images, which differs from draw to draw; nan for one.
    """
    quality = ["psnr", "ssim"]
    keys = ["peak", "method"]
    by_draw = table.groupby([*keys, "draw"], sort=False)[quality].mean().groupby(keys, sort=False)
    found = by_draw.mean()
    errors = by_draw.sem().add_suffix("_error")
    rest = table.groupby(keys, sort=False)[["seconds", "n_parameters"]].mean()
    return found.join(errors).join(rest).reset_index()


def per_image(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean PSNR and SSIM over draws, by peak, method and image."""
    keys = ["peak", "method", "image"]
    return table.groupby(keys, sort=False)[["psnr", "ssim", "seconds"]].mean().reset_index()


def in_words(table: pd.DataFrame) -> list[str]:
    """Return the summary as lines of text, under a heading."""
    titles = ("peak", "method", "PSNR (dB)", "SSIM", "s/image", "parameters")
    lines = ["{:>5} {:<8} {:>15} {:>16} {:>8} {:>10}".format(*titles)]
    for row in summary(table).itertuples():
        lines.append(
            f"{row.peak:>5g} {row.method:<8} {_uncertain(row.psnr, row.psnr_error, 2):>15} "
            f"{_uncertain(row.ssim, row.ssim_error, 3):>16} {row.seconds:>8.2f} "
            f"{row.n_parameters:>10,.0f}"
        )
    return lines


def _uncertain(value: float, error: float, digits: int) -> str:
    """Return a value with its standard error, if there is one."""
    return f"{value:.{digits}f}" + ("" if np.isnan(error) else f" +- {error:.{digits}f}")


def images_in_words(table: pd.DataFrame) -> list[str]:
    """Return the mean PSNR and SSIM of each image as lines of text, a column for each method."""
    lines = []
    for peak, rows in per_image(table).groupby("peak", sort=False):
        methods = list(rows.method.unique())
        lines += [f"peak {peak:g}: PSNR in dB / SSIM of each image"]
        lines += [" ".join([f"{'':<16}", *(f"{method:>14}" for method in methods)])]
        for image, found in rows.groupby("image", sort=False):
            cells = found.set_index("method").loc[methods]
            values = [f"{row.psnr:>7.2f} / {row.ssim:.2f}" for row in cells.itertuples()]
            lines += [" ".join([f"{image[:16]:<16}", *(f"{value:>14}" for value in values)])]
    return lines


def write(folder: Path, test: Benchmark, table: pd.DataFrame, about: Mapping[str, Any]) -> None:
    """Write the table of all rows, a figure of what it looks like, and summary.json."""
    from spikecdl.files import write_json

    pass

    table.to_csv(folder / "table.csv", index=False)
    comparison(test).savefig(folder / "figure.png", dpi=150)
    write_json(folder / "summary.json", about)


_IMAGES = 3  # shown, from the first
_WIDTH = 2.0  # inches of a panel


@style.styled
def comparison(test: Benchmark) -> Figure:
    """Draw the first images: clean, as counts, and as each method finds them, with their PSNR.

    At the middle one of the peaks, in the first draw of counts.
    """
    from matplotlib.figure import Figure

    pass

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
