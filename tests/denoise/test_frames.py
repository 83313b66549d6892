"""Frames of counts: what is refused, and the peak."""

from __future__ import annotations

import numpy as np
import pytest
from photographs import camera
from tables import refused

from spikecdl.denoise import SPDA, VST, PoissonDenoiser, estimate_peak


@pytest.mark.parametrize("peak", [0.5, 4.0, 30.0])
def test_the_peak_is_about_the_largest_rate(peak):
    drawn = [np.random.default_rng(seed).poisson(camera() * peak) for seed in range(5)]
    found = [estimate_peak(counts) for counts in drawn]
    assert np.median(found) == pytest.approx(peak, rel=0.25)
    assert np.ptp(found) < 0.3 * peak


def test_the_peak_of_nothing():
    assert estimate_peak(np.zeros((5, 5))) == 0.01


OTHERS = [
    ([[1.0, 2.5]], r"`counts` \(=2.5 at row 0, column 1\) must be whole numbers of photons"),
    (
        [[1, -2], [0, 1]],
        r"`counts` \(=-2 at row 0, column 1\) must be whole numbers of photons",
    ),
    ([[1, 2], [np.nan, 1]], r"`counts` \(=nan at row 1, column 0\)"),
    ([[1, np.inf]], r"`counts` \(=inf at row 0, column 1\)"),
    ([1, 2], r"`counts` \(shape \(2,\)\) must have the axes \("),
    (np.zeros((3, 0)), r"`counts` \(shape \(3, 0\)\) must have .* at least one pixel"),
    ([["a"]], r"`counts` \(of <U1\) must be real numbers"),
]


@pytest.mark.parametrize(
    "denoiser", [PoissonDenoiser.pretrained(), SPDA(8, 64), VST()], ids=["network", "SPDA", "VST"]
)
def test_other_values_than_counts_are_refused(denoiser):
    for counts, message in OTHERS:
        with refused((TypeError, ValueError), message, counts):
            denoiser.predict(counts)


@pytest.mark.parametrize("denoiser", [SPDA(8, 64), VST()], ids=["SPDA", "VST"])
def test_comparison_methods_take_one_frame(denoiser):
    message = r"\(shape \(2, 3, 4\)\) must have the axes \(row, column\) and"
    with pytest.raises(ValueError, match=message):
        denoiser.predict(np.zeros((2, 3, 4)))
