"""Rows of templates under their prior, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from spikecdl.events.prior import (
    RowData,
    RowPrior,
    Rows,
    roughness,
    second_differences,
    update_rows,
)


def dense(length):
    bends = np.diff(np.eye(length), n=2, axis=0)
    return bends.T @ bends


def normal_data(rows, target, curvature):
    """Return what normal data around a target say of rows, which is linear."""
    spikes, expected = curvature * target, curvature * rows
    return RowData(spikes, expected, curvature, rows.copy(), np.zeros_like(rows), True)


@pytest.mark.parametrize("length", [3, 4, 12])
def test_a_step_is_that_of_newton_under_the_prior(length):
    rng = np.random.default_rng(0)
    row, target = 0.3 * rng.normal(size=(2, length))
    curvature, alpha, tau = 0.1 + rng.random((1, length)), 0.4, 3.0
    prior = alpha * (np.eye(length) + tau * dense(length))
    covariance = np.linalg.inv(prior + np.diag(curvature[0]))
    expected = covariance @ (curvature[0] * target)
    rows, variance, found = row[None].copy(), np.zeros((1, length)), np.empty((1, 3))
    new = np.array([alpha])
    given = normal_data(rows, target[None], curvature)
    update_rows(Rows(rows, variance, new), given, RowPrior(second_differences(length), tau), found)
    np.testing.assert_allclose(rows[0], expected)
    np.testing.assert_allclose(variance[0], np.diag(covariance))
    divergence = np.trace(prior @ covariance) + expected @ prior @ expected - length
    divergence -= np.linalg.slogdet(prior)[1] + np.linalg.slogdet(covariance)[1]
    assert found[0, 0] == pytest.approx(-divergence / 2)
    gain = curvature[0] @ (target * expected - expected**2 / 2)
    assert found[0, 2] == pytest.approx(gain)
    known = length - np.trace(covariance @ prior)
    factor = np.clip(np.sqrt(known / (expected @ prior @ expected)), 0.25, 4)
    np.testing.assert_allclose(new[0], alpha * factor)


def test_steps_on_counts_end_where_the_expected_likelihood_is_highest():
    """Of Poisson counts under events of amplitude one, with variances of the posterior."""
    length, alpha, tau = 8, 0.5, 2.0
    spikes, exposure = np.array([0, 1, 4, 9, 7, 2, 0, 0.0]), np.full(8, 1.5)
    prior = alpha * (np.eye(length) + tau * dense(length))

    def bound(values):
        """Minus the evidence bound, of means and logarithms of standard deviations."""
        row, variance = values[:length], np.exp(2 * values[length:])
        fit = spikes @ row - exposure @ np.exp(row + variance / 2)
        spread = np.log(variance).sum() - np.diag(prior) @ variance
        return -(fit - row @ prior @ row / 2 + spread / 2)

    best = minimize(bound, np.zeros(2 * length), options={"gtol": 1e-8}).x[:length]
    rows, variance, found = np.zeros((1, length)), np.zeros((1, length)), np.empty((1, 3))
    for _ in range(60):
        expected = exposure * np.exp(rows + variance / 2)
        data = RowData(spikes[None], expected, expected, rows.copy(), variance.copy(), False)
        rule = RowPrior(second_differences(length), tau, learn=False)
        update_rows(Rows(rows, variance, np.array([alpha])), data, rule, found)
    np.testing.assert_allclose(rows[0], best, atol=0.1)  # whose covariance is not diagonal
    gain = spikes @ rows[0] - (exposure * np.expm1(rows[0] + variance[0] / 2)).sum()
    assert found[0, 2] == pytest.approx(gain, abs=1e-6)


def test_roughness_is_a_trace():
    length, tau = 12, 3.0
    smooth = tau * dense(length)
    expected = np.trace(smooth @ np.linalg.inv(np.eye(length) + smooth))
    assert roughness(second_differences(length), tau) == pytest.approx(expected)


def test_rows_without_a_signal_shrink_and_others_stay():
    rng, length = np.random.default_rng(0), 20
    truth = np.zeros((2, length))
    truth[0] = 3 * np.exp(-0.5 * np.square((np.arange(length) - 8) / 2))
    rows, variance, found = np.zeros((2, length)), np.zeros((2, length)), np.empty((2, 3))
    alpha, curvature = np.ones(2), np.full((2, length), 25.0)
    target = truth + rng.normal(size=truth.shape) / 5
    rule = RowPrior(second_differences(length), 1.0)
    for _ in range(60):
        given = normal_data(rows, target, curvature)
        update_rows(Rows(rows, variance, alpha), given, rule, found)
    assert np.abs(rows[0] - truth[0]).max() < 0.6
    assert np.square(rows[1]).sum() < 0.2 * np.square(target[1]).sum()


def test_bounded_steps_end_where_the_quadratic_is_least():
    rng, length, tau, alpha = np.random.default_rng(0), 20, 3.0, 0.4
    target, curvature = rng.normal(size=length), 0.1 + rng.random(length)
    matrix = np.diag(curvature) + alpha * (np.eye(length) + tau * dense(length))
    root = np.linalg.cholesky(matrix).T
    best, _ = nnls(root, np.linalg.solve(root.T, curvature * target))
    rows, found = np.full((1, length), 0.5), np.empty((1, 3))
    parts = Rows(rows, np.zeros((1, length)), np.array([alpha]))
    rule = RowPrior(second_differences(length), tau, floor=0.0, learn=False)
    for _ in range(10):
        update_rows(parts, normal_data(rows, target[None], curvature[None]), rule, found)
    assert 0 < np.count_nonzero(best) < length
    np.testing.assert_allclose(rows[0], best, atol=1e-9)
    np.testing.assert_allclose(parts.variance[0], np.diag(np.linalg.inv(matrix)), rtol=1e-6)
