"""Variance stabilisation: its inverse against two oracles, and what it does to images."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from sklearn.base import clone

from spikecdl.denoise import VST
from spikecdl.denoise.benchmark import anscombe, unbiased_inverse

DENOISERS = ["nlm", "tv", "wavelet"]
each_denoiser = pytest.mark.parametrize("denoiser", DENOISERS)


def expected_transform(mean: float) -> float:
    """Sum the definition, over more counts than any table does."""
    counts = np.arange(int(mean + 40 * np.sqrt(mean) + 200))
    return float(stats.poisson.pmf(counts, mean) @ (2 * np.sqrt(counts + 3 / 8)))


def photons(shape: tuple[int, int] = (48, 40), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected counts of a disc on a ramp, and counts."""
    row, column = np.ogrid[: shape[0], : shape[1]]
    disc = (row - shape[0] / 2) ** 2 + (column - shape[1] / 2) ** 2 < (min(shape) / 4) ** 2
    mean = 1 + 2 * column / shape[1] + 4 * disc
    return mean, np.random.default_rng(seed).poisson(mean)


def test_the_inverse_undoes_the_expected_value():
    means = [0.0, *np.geomspace(1e-6, 99, 300), *np.linspace(99, 101, 21), 300.0, 5000.0]
    transformed = np.array([expected_transform(mean) for mean in means])
    np.testing.assert_allclose(unbiased_inverse(transformed), means, rtol=1e-7, atol=3e-6)


def test_the_inverse_is_about_the_closed_form():
    # Makitalo and Foi, IEEE Trans. Image Process. 20(9), 2011, doi:10.1109/TIP.2011.2121085
    d = np.linspace(anscombe(np.zeros(1)), 200, 5000)
    root = np.sqrt(3 / 2)
    closed = d**2 / 4 + root / 4 / d - 11 / 8 / d**2 + 5 * root / 8 / d**3 - 1 / 8
    assert np.abs(unbiased_inverse(d) - closed).max() < 0.019  # what the approximation is off by


@pytest.mark.parametrize("mean", [0.05, 1.0, 30.0])
def test_the_inverse_by_drawing(mean):
    n_draws = 200_000
    values = anscombe(np.random.default_rng(0).poisson(mean, n_draws))
    slope = (expected_transform(mean * 1.01) - expected_transform(mean)) / (0.01 * mean)
    error = values.std() / np.sqrt(n_draws) / slope
    assert abs(unbiased_inverse(values.mean()) - mean) < 4 * error
    algebraic = values.mean() ** 2 / 4 - 3 / 8
    assert abs(algebraic - mean) > 4 * error  # as it is biased


def test_the_inverse_is_zero_below_no_counts_and_never_falls():
    d = np.linspace(0, 60, 20_000)
    inverse = unbiased_inverse(d)
    assert (inverse[d <= anscombe(np.zeros(()))] == 0).all()
    assert (np.diff(inverse) >= 0).all()


@pytest.mark.parametrize(
    ("denoiser", "binning"),
    [("nlm", 1), ("nlm", 2), ("tv", 2), ("tv", 3), ("wavelet", 1), ("wavelet", 3)],
)
def test_it_takes_most_of_the_noise_away(denoiser, binning):
    mean, counts = photons()
    estimate = VST(denoiser, binning=binning).predict(counts)
    assert estimate.shape == counts.shape
    assert ((estimate - mean) ** 2).mean() < 0.35 * ((counts - mean) ** 2).mean()


@each_denoiser
def test_a_flat_image_has_the_right_level(denoiser):
    counts = np.random.default_rng(0).poisson(1.0, (90, 90))
    estimate = VST(denoiser, strength=3.0, binning=1).predict(counts)[20:-20, 20:-20]
    assert abs(estimate.mean() - 1) < 0.05  # the algebraic inverse says 0.8


@each_denoiser
def test_more_strength_is_smoother(denoiser):
    _, counts = photons()
    rough, smooth = (VST(denoiser, strength=s).predict(counts) for s in (0.3, 2.0))
    assert np.abs(np.diff(smooth)).sum() < np.abs(np.diff(rough)).sum()


@pytest.mark.parametrize("binning", [2, 3, 5])
def test_binning_does_not_move_the_image(binning):
    row, column = np.mgrid[:45, :60]
    counts = 40 * row + 25 * column + 100
    estimate = VST("tv", strength=1e-6, binning=binning).predict(counts)
    inside = (slice(15, 30), slice(15, 45))
    np.testing.assert_allclose(estimate[inside], counts[inside], rtol=2e-3)


@each_denoiser
@settings(deadline=None, max_examples=12)
@given(
    counts=arrays.arrays(
        np.int64,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.integers(0, 9),
    ),
    binning=st.integers(1, 4),
)
def test_small_images(denoiser, counts, binning):
    estimate = VST(denoiser, binning=binning).predict(counts)
    assert estimate.shape == counts.shape
    assert np.isfinite(estimate).all()
    assert (estimate >= 0).all()


@each_denoiser
def test_no_photons_at_all(denoiser):
    assert VST(denoiser).predict(np.zeros((20, 20), dtype=int)).max() < 1e-12


def test_the_counts_are_left_alone_and_may_be_of_any_type():
    _, counts = photons()
    before = counts.copy()
    estimate = VST().predict(counts)
    np.testing.assert_array_equal(counts, before)
    for dtype in (np.uint8, np.uint16, np.float32):
        np.testing.assert_array_equal(VST().predict(counts.astype(dtype)), estimate)
    np.testing.assert_array_equal(VST().predict(counts.tolist()), estimate)


def test_it_is_an_estimator():
    model = VST("nlm", strength=0.5, binning=3)
    assert clone(model).get_params() == {"denoiser": "nlm", "strength": 0.5, "binning": 3}


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"denoiser": "bm3d"}, "`denoiser` (='bm3d') must be one of: nlm, tv, wavelet"),
        ({"strength": 0}, "`strength` (=0) must be positive"),
        ({"binning": 0}, "`binning` (=0) must be at least 1"),
    ],
)
def test_bad_settings(settings_, message):
    with pytest.raises(ValueError) as caught:
        VST(**settings_).predict(photons()[1])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("missing", "denoiser", "remedy"),
    [
        ("skimage", "tv", 'pip install "spikecdl[images]"'),
        ("skimage", "nlm", 'pip install "spikecdl[images]"'),
        ("skimage", "wavelet", 'pip install "spikecdl[images]"'),
        ("pywt", "wavelet", 'pip install "spikecdl[images]"'),
    ],
)
def test_what_is_missing_is_named(missing, denoiser, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as caught:
        VST(denoiser).predict(photons()[1])
    assert str(caught.value).endswith(remedy)
    assert f'(="{denoiser}")' in str(caught.value)
