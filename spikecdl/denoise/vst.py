"""Variance stabilization: counts become nearly Gaussian, are denoised as such, and turned back."""

from __future__ import annotations

import itertools
from dataclasses import KW_ONLY, dataclass
from functools import cache

import numpy as np
from scipy import interpolate, ndimage, stats

from spikecdl import validation
from spikecdl.denoise.frames import FrameDenoiser, summed


@dataclass(eq=False, repr=False)
class VST(FrameDenoiser):
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
        denoise, default = _DENOISERS[validation.one_of("denoiser", self.denoiser, _DENOISERS)]
        strength = default if self.strength is None else self.strength
        validation.positive("strength", strength)
        validation.integer("binning", self.binning)
        with validation.extra("images", f'`denoiser` (="{self.denoiser}")'):
            denoised = denoise(anscombe(summed(counts, self.binning)), float(strength))
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


def _total_variation(image: np.ndarray, strength: float) -> np.ndarray:
    from skimage import restoration

    return restoration.denoise_tv_chambolle(image, weight=strength, eps=1e-5, max_num_iter=1000)


def _nonlocal_means(image: np.ndarray, strength: float) -> np.ndarray:
    from skimage import restoration

    # scikit-image leaves out axes of one pixel
    wide = np.pad(image, [(0, max(0, 2 - side)) for side in image.shape], mode="edge")
    smooth = restoration.denoise_nl_means(
        wide, patch_size=5, patch_distance=5, h=strength, sigma=1.0
    )
    return smooth[: image.shape[0], : image.shape[1]]


def _wavelet(image: np.ndarray, strength: float, wavelet: str = "db2") -> np.ndarray:
    import pywt
    from skimage import restoration

    levels = pywt.dwt_max_level(min(image.shape), pywt.Wavelet(wavelet).dec_len)
    settings = {"sigma": strength, "wavelet": wavelet, "wavelet_levels": levels}
    shifts = list(itertools.product(range(4), repeat=2))
    total = np.zeros_like(image)
    for shift in shifts:
        smooth = restoration.denoise_wavelet(np.roll(image, shift, (0, 1)), **settings)
        total += np.roll(smooth, (-shift[0], -shift[1]), (0, 1))
    return total / len(shifts)


# for noise of standard deviation 1, with the default strength of each
_DENOISERS = {
    "tv": (_total_variation, 0.8),
    "nlm": (_nonlocal_means, 0.6),
    "wavelet": (_wavelet, 0.9),
}
