"""Rows of templates under their prior, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from spikecdl.solvers.smooth_rows import RowPrior, Rows, roughness, second_differences, update_rows

LIMITS = (100.0, 1e-3, 1e6)


def dense(length):
    bends = np.diff(np.eye(length), n=2, axis=0)
    return bends.T @ bends


@pytest.mark.parametrize("length", [3, 4, 12])
def test_a_step_is_that_of_newton_under_the_prior(length):
    rng = np.random.default_rng(0)
    row, slope = rng.normal(size=(2, length))
    curvature, alpha = 0.1 + rng.random(length), 0.4
    tau, found = 3.0, np.empty((1, 2))
    prior = alpha * (np.eye(length) + tau * dense(length))
    covariance = np.linalg.inv(prior + np.diag(curvature))
    expected = row + covariance @ (slope - prior @ row)
    rows, variance = row[None].copy(), np.empty((1, length))
    new = np.array([alpha])
    bends = second_differences(length)
    prior_of_rows = RowPrior(bends, tau, LIMITS)
    update_rows(Rows(rows, variance, new), slope[None], curvature[None], prior_of_rows, found)
    np.testing.assert_allclose(rows[0], expected)
    np.testing.assert_allclose(variance[0], np.diag(covariance))
    divergence = np.trace(prior @ covariance) + expected @ prior @ expected - length
    divergence -= np.linalg.slogdet(prior)[1] + np.linalg.slogdet(covariance)[1]
    assert found[0, 0] == pytest.approx(-divergence / 2)
    known = length - np.trace(covariance @ prior)
    factor = np.clip(known / (expected @ prior @ expected), 0.2, 5)
    np.testing.assert_allclose(new[0], alpha * factor)


def test_roughness_is_a_trace():
    length, tau = 12, 3.0
    smooth = tau * dense(length)
    expected = np.trace(smooth @ np.linalg.inv(np.eye(length) + smooth))
    assert roughness(second_differences(length), tau) == pytest.approx(expected)


def test_rows_without_a_signal_shrink_and_others_stay():
    rng, length = np.random.default_rng(0), 20
    truth = np.zeros((2, length))
    truth[0] = 3 * np.exp(-0.5 * np.square((np.arange(length) - 8) / 2))
    rows, variance, found = np.zeros((2, length)), np.empty((2, length)), np.empty((2, 2))
    alpha, curvature = np.ones(2), np.full((2, length), 25.0)
    data = truth + rng.normal(size=truth.shape) / 5
    bends = second_differences(length)
    for _ in range(60):
        slope = curvature * (data - rows)
        prior = RowPrior(bends, 1.0, LIMITS)
        update_rows(Rows(rows, variance, alpha), slope, curvature, prior, found)
    assert np.abs(rows[0] - truth[0]).max() < 0.6
    assert np.square(rows[1]).sum() < 0.2 * np.square(data[1]).sum()


def test_bounded_steps_end_where_the_quadratic_is_least():
    rng, length, tau, alpha = np.random.default_rng(0), 20, 3.0, 0.4
    target, curvature = rng.normal(size=length), 0.1 + rng.random(length)
    matrix = np.diag(curvature) + alpha * (np.eye(length) + tau * dense(length))
    root = np.linalg.cholesky(matrix).T
    best, _ = nnls(root, np.linalg.solve(root.T, curvature * target))
    rows, found = np.full((1, length), 0.5), np.empty((1, 2))
    parts = Rows(rows, np.empty((1, length)), np.array([alpha]))
    prior = RowPrior(second_differences(length), tau, (100.0, alpha, alpha), floor=0.0)
    for _ in range(10):
        update_rows(parts, curvature * (target - rows), curvature[None], prior, found)
    assert 0 < np.count_nonzero(best) < length
    np.testing.assert_allclose(rows[0], best, atol=1e-9)
    np.testing.assert_allclose(parts.variance[0], np.diag(np.linalg.inv(matrix)))
