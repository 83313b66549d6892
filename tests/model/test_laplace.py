"""Laplace's approximation against the integral, where it is exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spikecdl.model.covariates import log_volume


@pytest.mark.parametrize(
    ("curvature", "slope", "precision", "bound"),
    [
        (3.0, 2.0, 1.0, math.inf),
        (30.0, 5.0, 1.0, 0.0),  # near the bound
        (3.0, -2.0, 1.0, 0.0),  # at the bound
        (300.0, -0.1, 25.0, 0.0),
    ],
)
def test_is_the_integral_of_a_quadratic_log_likelihood(curvature, slope, precision, bound):
    x = np.linspace(0 if bound == 0 else -30, 30, 2_000_001)
    mode = slope / (curvature + precision)
    mode = max(mode, 0.0) if bound == 0 else mode
    likelihood = slope * (x - mode) - curvature * (x**2 - mode**2) / 2
    prior = math.sqrt(precision / 2 / math.pi) * np.exp(-precision * x**2 / 2)
    expected = np.log((2 if bound == 0 else 1) * np.trapezoid(np.exp(likelihood) * prior, x))
    at, bend, gone = torch.tensor([[mode], [curvature], [slope - curvature * mode]]).double()
    found = log_volume(bend[None], gone, at, torch.tensor([precision]).double(), bound)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_of_several_coefficients_is_that_of_their_determinant():
    matrix = torch.tensor([[4.0, 1.0], [1.0, 2.0]]).double()
    zero, one = torch.zeros(2).double(), torch.ones(2).double()
    expected = -math.log(5 * 3 - 1) / 2
    assert float(log_volume(matrix, zero, zero, one, math.inf)) == pytest.approx(expected)
