"""Benchmark of denoisers on clean images with drawn counts, and `VST`, which it compares with."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import interpolate, ndimage, stats

from spikecdl import validation
from spikecdl.denoise.denoiser import PoissonDenoiser, find
from spikecdl.denoise.images import SingleImageDenoiser, summed
from spikecdl.denoise.spda import SPDA
from spikecdl.evaluation.metrics import psnr
from spikecdl.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(eq=False, repr=False)
class VST(SingleImageDenoiser):
    r"""Expected counts of an image by the Anscombe transform and a denoiser for Gaussian noise.

    .. math:: \hat m = D^{-1}\bigl(\mathrm{denoise}(2 \sqrt{y + 3/8})\bigr), \qquad
              D(m) = \mathrm{E}\bigl[2 \sqrt{y + 3/8}\bigr], \quad y \sim \mathrm{Poisson}(m)

    The transform gives counts a variance of about 1, and :math:`D^{-1}`, computed from its
    definition, is the exact unbiased inverse.  At a few counts per pixel the variance is far from
    1, and sums over squares of pixels do better, at the cost of detail.

    Parameters
    ----------
    denoiser : {"tv", "nlm", "wavelet"}
        Of scikit-image: total variation (Chambolle), non-local means, or soft thresholds of
        wavelets at several shifts (BayesShrink; needs PyWavelets).
    strength : float, optional
        Weight of the total variation, filtering scale h, or assumed standard deviation of the
        noise, relative to the standard deviation of the transform, 1.  None: what was best for
        photographs at peaks of 1, 2 and 4 photons: 0.8, 0.6 and 0.9.
    binning : int
        Side in pixels of the squares over which counts are summed; the result is interpolated by
        cubic splines.  1: no sums.

    Raises
    ------
    ImportError
        In `predict`, if scikit-image, or PyWavelets for wavelets, is not installed.

    References
    ----------
    Anscombe, Biometrika 35, 1948, doi:10.1093/biomet/35.3-4.246.

    Makitalo and Foi, IEEE Trans. Image Process. 20, 2011, doi:10.1109/TIP.2010.2056693.

    Examples
    --------
    >>> expected = np.full((32, 32), 2.0)
    >>> expected[:, 16:] = 6.0
    >>> counts = np.random.default_rng(0).poisson(expected)
    >>> for estimate in (counts, VST().predict(counts)):
    ...     print(f"off by {np.abs(estimate - expected).mean():.1f}")
    off by 1.5
    off by 0.2
    """

    denoiser: str = "tv"
    _: KW_ONLY
    strength: float | None = None
    binning: int = 2

    def _rates(self, counts: np.ndarray) -> np.ndarray:
        defaults = {"tv": 0.8, "nlm": 0.6, "wavelet": 0.9}
        default = defaults[validation.one_of("denoiser", self.denoiser, defaults)]
        strength = default if self.strength is None else self.strength
        validation.positive("strength", strength)
        validation.integer("binning", self.binning)
        with validation.extra("images", f'`denoiser` (="{self.denoiser}")'):
            sums = anscombe(summed(counts, self.binning))
            denoised = _denoised(sums, self.denoiser, float(strength))
        rates = unbiased_inverse(denoised)
        if self.binning > 1:
            rates = rates / self.binning**2
            rates = ndimage.zoom(rates, self.binning, order=3, mode="nearest", grid_mode=True)
            rates = rates.clip(min=0)
        return rates[: counts.shape[0], : counts.shape[1]]


def anscombe(counts: np.ndarray) -> np.ndarray:
    """Return the Anscombe transform of counts."""
    return 2 * np.sqrt(counts + 3 / 8)


def unbiased_inverse(transformed: np.ndarray) -> np.ndarray:
    """Return the expected counts (0 or more) for expected values of the Anscombe transform."""
    spline = _inverse_table()
    first, last = spline.x[[0, -1]]
    inside = spline(np.clip(transformed, first, last))
    return np.where(transformed < last, inside.clip(min=0), transformed**2 / 4 - 1 / 8)


@cache
def _inverse_table() -> interpolate.CubicSpline:
    """Tabulate the inverse; the error of the spline is below 1e-6.

    Beyond an expected count of 100, the asymptotic inverse is right to 2e-6.
    """
    mean = np.linspace(0, 10, 501) ** 2
    counts = np.arange(300.0)  # larger ones have probabilities below 1e-50
    expected = stats.poisson.pmf(counts, mean[:, None]) @ anscombe(counts)
    return interpolate.CubicSpline(expected, mean)


def _denoised(image: np.ndarray, denoiser: str, strength: float) -> np.ndarray:
    """Denoise an image with noise of standard deviation 1."""
    from skimage import restoration

    if denoiser == "tv":
        return restoration.denoise_tv_chambolle(image, weight=strength, eps=1e-5, max_num_iter=1000)
    if denoiser == "nlm":  # scikit-image leaves out axes of one pixel
        wide = np.pad(image, [(0, max(0, 2 - side)) for side in image.shape], mode="edge")
        near = {"patch_size": 5, "patch_distance": 5, "sigma": 1.0}
        smooth = restoration.denoise_nl_means(wide, h=strength, **near)
        return smooth[: image.shape[0], : image.shape[1]]
    import pywt

    levels = pywt.dwt_max_level(min(image.shape), pywt.Wavelet("db2").dec_len)
    settings = {"sigma": strength, "wavelet": "db2", "wavelet_levels": levels}
    total = np.zeros_like(image)
    for row, column in np.ndindex(4, 4):
        moved = np.roll(image, (row, column), (0, 1))
        smooth = restoration.denoise_wavelet(moved, **settings)
        total += np.roll(smooth, (-row, -column), (0, 1))
    return total / 16


class Method(NamedTuple):
    """A method for one peak: it returns rates, given counts (row, column)."""

    rates: Callable[[np.ndarray], np.ndarray]
    n_parameters: int = 0  # that were learned from other images


def _network(model: str) -> Callable[[Benchmark, float], Method]:
    def method(test: Benchmark, peak: float) -> Method:
        path = find(model, peak, test.weights)
        settings = {"precision": test.precision, "device": test.device}
        denoiser = PoissonDenoiser.read(path, peak=peak, **settings)
        return Method(denoiser.predict, denoiser.network_.n_parameters)

    return method


def _spda(test: Benchmark, peak: float) -> Method:
    """Return SPDA with settings for a peak: the more photons, the more templates."""
    n_active = int(np.interp(peak, (1.0, 2.0, 4.0), (3, 4, 6)).round())
    spda = SPDA(n_active=n_active, max_active=n_active + 4, random_state=test.random_state)
    return Method(spda.predict)


METHODS: dict[str, Callable[[Benchmark, float], Method]] = {
    "noisy": lambda test, peak: Method(lambda counts: counts.astype(float)),
    "vst-tv": lambda test, peak: Method(VST("tv").predict),
    "vst-nlm": lambda test, peak: Method(VST("nlm").predict),
    "spda": _spda,
    "ca": _network("ca"),
    "dcea-c": _network("c"),
    "dcea-uc": _network("uc"),
    "blind": _network("blind"),
}


@dataclass(frozen=True)
class Benchmark:
    """Images, peaks and methods to compare.

    Parameters
    ----------
    images : mapping of str to ndarray (row, column)
        Clean images by name, in any unit; 0 is dark.
    peaks : sequence of float
        Largest expected counts.
    methods : sequence of str
        Names in `METHODS`.
    n_draws : int
        Draws of counts for each image and peak, the same for all methods.
    weights : path, optional
        Folder of weights, which take precedence over those of the package.
    random_state : int
        Seed of the first draw; the next draws have the next seeds.
    precision, device : str
        As for `PoissonDenoiser`.
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

        PSNR and SSIM are computed after scaling the largest value of the clean image to 1.  When a
        method is done at a peak, ``say`` receives a line of text.  Raises ModuleNotFoundError if
        scikit-image is not installed.
        """
        import pandas as pd

        with validation.extra("images", "the comparison, for SSIM,"):
            from skimage.metrics import structural_similarity
        table = []
        for peak, name in itertools.product(self.peaks, self.methods):
            method = METHODS[name](self, peak)
            about = {"method": name, "peak": peak, "n_parameters": method.n_parameters}
            rows = []
            for image, draw in itertools.product(self.images, range(self.n_draws)):
                clean, counts = self.counts(image, peak, draw)
                began = time.perf_counter()
                found = method.rates(counts) / peak
                seconds = time.perf_counter() - began
                similarity = structural_similarity(clean, found, data_range=1.0)
                quality = {"psnr": psnr(found, clean), "ssim": similarity, "seconds": seconds}
                rows.append({**about, "image": image, "draw": draw, **quality})
            table += rows
            say(in_words(pd.DataFrame(rows))[-1])
        return pd.DataFrame(table)

    def counts(self, image: str, peak: float, draw: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a clean image with a largest value of 1, and counts drawn from it."""
        seed = (self.random_state + draw, sorted(self.images).index(image))
        return drawn(self.images[image], peak, seed)


def drawn(image: np.ndarray, peak: float, seed: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with a largest value of 1, and Poisson counts drawn from it at a peak."""
    clean = image / np.max(image)
    return clean, np.random.default_rng(seed).poisson(clean * peak)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return means over images and draws, by peak and method.

    Standard errors are those of the mean over images, which differs from draw to draw; nan for a
    single draw.
    """
    quality = ["psnr", "ssim"]
    keys = ["peak", "method"]
    by_draw = table.groupby([*keys, "draw"], sort=False)[quality].mean().groupby(keys, sort=False)
    errors = by_draw.sem().add_suffix("_error")
    rest = table.groupby(keys, sort=False)[["seconds", "n_parameters"]].mean()
    return by_draw.mean().join(errors).join(rest).reset_index()


def in_words(table: pd.DataFrame) -> list[str]:
    """Return the summary as lines of text, below a heading."""

    def uncertain(value: float, error: float, digits: int) -> str:
        return f"{value:.{digits}f}" + ("" if np.isnan(error) else f" +- {error:.{digits}f}")

    line = "{:>5} {:<8} {:>15} {:>16} {:>8} {:>10}".format
    lines = [line("peak", "method", "PSNR (dB)", "SSIM", "s/image", "parameters")]
    for row in summary(table).itertuples():
        quality = uncertain(row.psnr, row.psnr_error, 2), uncertain(row.ssim, row.ssim_error, 3)
        rest = f"{row.seconds:.2f}", f"{row.n_parameters:,.0f}"
        lines.append(line(f"{row.peak:g}", row.method, *quality, *rest))
    return lines


def images_in_words(table: pd.DataFrame) -> list[str]:
    """Return the PSNR and SSIM of each image as lines of text, a column for each method."""
    means = table.groupby(["peak", "method", "image"], sort=False)[["psnr", "ssim"]].mean()
    text = (means.psnr.map("{:.2f}".format) + means.ssim.map(" / {:.2f}".format)).unstack("method")
    lines = []
    for peak, rows in text.groupby("peak", sort=False):
        shown = rows.droplevel("peak").rename_axis(None).reindex(columns=table.method.unique())
        lines += [
            f"peak {peak:g}: PSNR in dB / SSIM of each image",
            *shown.to_string().splitlines(),
        ]
    return lines


@style.styled
def comparison(test: Benchmark) -> Figure:
    """Draw the first three images: clean, as counts, and denoised by each method, with their PSNR.

    At the middle one of the peaks, in the first draw of counts.
    """
    peak = sorted(test.peaks)[len(test.peaks) // 2]
    methods = {name: METHODS[name](test, peak) for name in test.methods if name != "noisy"}
    images = list(test.images)[:3]
    shape = (len(images), 2 + len(methods))
    axes = style.axes_array(None, shape, (2 * shape[1], 2.25 * shape[0]))
    for image, row in zip(images, axes, strict=True):
        clean, counts = test.counts(image, peak, 0)
        shown = {"clean": clean, f"counts, peak {peak:g}": counts / peak}
        shown |= {name: method.rates(counts) / peak for name, method in methods.items()}
        for (name, values), ax in zip(shown.items(), row, strict=True):
            ax.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            quality = "" if name == "clean" else f", {psnr(values, clean):.2f} dB"
            ax.set_title(f"{name}{quality}")
            ax.axis("off")
    return axes[0, 0].figure
