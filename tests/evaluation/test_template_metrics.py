"""Template metrics against brute force and closed forms."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from decompositions import made_up
from tables import refused

from spikecdl.data.results import response_onsets
from spikecdl.evaluation import metrics
from spikecdl.model.families import FAMILIES, Binomial, NegativeBinomial, Poisson


def unit_norm(array):
    return array / np.linalg.norm(array, axis=(1, 2), keepdims=True)


def shifted(template, lag, length):
    """Place a (channel, bin) template ``lag`` bins later on an axis of ``length`` bins."""
    out = np.zeros((template.shape[0], length))
    for k in range(template.shape[1]):
        if 0 <= k + lag < length:
            out[:, k + lag] = template[:, k]
    return out


def brute_force_error(templates, truth, max_shift, sign):
    """Smallest sum of errors over every assignment and shift, written with plain loops."""
    estimates, true = unit_norm(templates), unit_norm(truth)
    longest = max(estimates.shape[2], true.shape[2])
    shifts = range(-longest, longest + 1) if max_shift is None else range(-max_shift, max_shift + 1)

    def pair(h, g):
        products = [float((h * shifted(g, s, h.shape[1])).sum()) for s in shifts]
        best = max(abs(p) if sign else max(p, 0.0) for p in products)
        return np.sqrt(max(0.0, 1 - best**2))

    table = np.array([[pair(h, g) for g in estimates] for h in true])
    short = min(table.shape)
    return min(
        sum(table[i, j] for i, j in zip(rows, columns, strict=True)) + len(true) - short
        for rows in itertools.combinations(range(len(true)), short)
        for columns in itertools.permutations(range(len(estimates)), short)
    )


@pytest.mark.parametrize(
    ("n_found", "n_true", "channels", "found_bins", "true_bins", "max_shift", "sign"),
    [
        (3, 3, 1, 8, 8, None, True),
        (3, 3, 1, 8, 8, 3, False),
        (2, 3, 2, 6, 9, 0, True),
        (2, 3, 2, 6, 9, None, False),
        (4, 2, 3, 9, 5, 3, True),
        (4, 2, 3, 9, 5, 0, False),
        (1, 1, 1, 1, 4, None, True),
    ],
)
def test_template_error_is_the_best_of_every_assignment_and_shift(
    n_found, n_true, channels, found_bins, true_bins, max_shift, sign
):
    rng = np.random.default_rng(n_found + 10 * channels)
    templates = rng.normal(size=(n_found, channels, found_bins))
    truth = rng.normal(size=(n_true, channels, true_bins))
    error = metrics.template_error(templates, truth, max_shift=max_shift, sign=sign)

    expected = brute_force_error(templates, truth, max_shift, sign)
    assert error.errors.sum() == pytest.approx(expected, abs=1e-12)
    for k, partner in enumerate(error.assignment):
        if partner < 0:
            assert error.errors[k] == 1
            continue
        moved = shifted(unit_norm(templates)[partner], error.shifts[k], true_bins)
        product = max(0.0, error.signs[k] * float((moved * unit_norm(truth)[k]).sum()))
        assert error.errors[k] == pytest.approx(np.sqrt(1 - product**2), abs=1e-12)
    partners = error.assignment[error.assignment >= 0]
    assert len(set(partners)) == len(partners) == min(n_found, n_true)


def test_template_error_recovers_order_shift_scale_and_length():
    rng = np.random.default_rng(0)
    truth = np.zeros((3, 2, 30))
    truth[..., 8:20] = rng.normal(size=(3, 2, 12))
    order, lags = [2, 0, 1], [4, -7, 0]
    templates = np.stack([7.0 * shifted(truth[k], -lags[k], 34) for k in order])
    error = metrics.template_error(templates, truth)
    assert error.assignment.tolist() == [1, 2, 0]
    assert error.shifts.tolist() == lags
    assert error.max < 1e-7
    assert error.mean <= error.max


def test_template_error_counts_what_is_shifted_out():
    truth = np.array([[1.0, 1.0, 1.0, 1.0]])
    half = metrics.template_error(np.array([[1.0, 1.0, 0.0, 0.0]]), truth)
    assert half.errors[0] == pytest.approx(np.sqrt(0.5))


def test_template_error_sign_convention():
    truth = np.array([[0.0, 1.0, 3.0, 1.0, 0.0]])
    assert metrics.template_error(-truth, truth).errors.tolist() == [1.0]
    either = metrics.template_error(-truth, truth, sign=True)
    assert either.errors[0] < 1e-7
    assert either.signs.tolist() == [-1]


def test_template_error_refuses():
    for templates, truth, message in [
        (
            np.zeros((1, 1, 4)),
            np.ones((1, 1, 4)),
            "`templates` number 0 must be finite and not all",
        ),
        (np.ones((1, 1, 4)), np.full((1, 1, 4), np.nan), "`truth` number 0 must be finite"),
        (np.ones((1, 2, 4)), np.ones((1, 1, 4)), "2 channels and `truth` has 1"),
        (np.ones(4), np.ones((1, 1, 4)), r"shape \(template, channel, bin\)"),
        (np.ones((0, 1, 4)), np.ones((1, 1, 4)), r"shape \(template, channel, bin\)"),
    ]:
        with refused(ValueError, message, templates):
            metrics.template_error(templates, truth)


def test_template_shape_of_a_gaussian_bump():
    time = (np.arange(100) + 0.5) * 0.002
    bump = -3 * np.exp(-0.5 * ((time - 0.081) / 0.01) ** 2)
    shape = metrics.template_shape(np.stack([0 * bump, bump]), bin_size=0.002)
    assert (shape.peak, shape.channel) == (pytest.approx(-3), 1)
    assert shape.time == pytest.approx(0.081)
    assert shape.width == pytest.approx(2 * np.sqrt(2 * np.log(2)) * 0.01, rel=0.01)


def test_template_shape_at_the_edges():
    for template, time, width in [
        ([4.0], 0.5, 1.0),
        ([0, 2.0, 0], 1.5, 1.0),
        ([4, 3, 1, 4.0], 0.5, 2.0),
        ([0.0, 0.0], 0.5, 0.0),
    ]:
        shape = metrics.template_shape(template)
        assert (shape.time, shape.width) == (time, width)


@pytest.mark.parametrize(
    "family", [Poisson(), NegativeBinomial(2.0), Binomial(n_trials=30), Binomial()]
)
def test_rate_gain_is_a_ratio_of_means(family):
    change, mean = np.linspace(-6, 6, 13), 0.04
    odds = np.exp(change) * mean / (1 - mean)
    expected = {"poisson": np.exp(change), "negative_binomial": np.exp(change)}
    of_30 = np.exp(change) * mean / (30 - mean)
    binomial = 30 * of_30 / (1 + of_30) if family.config().get("n_trials") else odds / (1 + odds)
    gain = metrics.rate_gain(change, mean, family)
    np.testing.assert_allclose(gain, expected.get(family.name, binomial / mean))
    np.testing.assert_allclose(metrics.rate_gain(0.0, mean, family), 1)


def test_rate_gain_at_the_ends():
    np.testing.assert_allclose(metrics.rate_gain([-900.0, 900.0], 0.5, Binomial()), [0.0, 2.0])
    assert np.isnan(metrics.rate_gain(1.0, 1.5, Binomial()))
    assert np.isnan(metrics.rate_gain(1.0, 0.0, Poisson()))


@pytest.mark.parametrize(
    ("family", "layout"), [*((family, "shared") for family in FAMILIES), ("poisson", "joint")]
)
def test_template_table_reads_the_codes_and_templates(family, layout):
    parts = made_up(family, layout, units=3, n_pooled=2)
    table = metrics.template_table(parts)
    for number, template in enumerate(parts.templates):
        row = table.loc[number]
        amplitudes = parts.codes[:, :, number][parts.codes[:, :, number] != 0]
        assert row["n_events"] == len(amplitudes)
        assert row["amplitude"] == pytest.approx(np.median(amplitudes))
        channel, at = np.unravel_index(np.abs(template).argmax(), template.shape)
        change = np.median(amplitudes) * template[channel, at]
        assert row["peak_change"] == pytest.approx(change)
        assert row["peak_time"] == pytest.approx((at + 0.5) * 0.005)
        begins = response_onsets(parts.templates)[number]
        assert row["response_time"] == pytest.approx(begins * 0.005)
        assert row["response_time"] < row["peak_time"]
        assert row["unit"] == (channel if layout == "joint" else -1)
        baseline = parts.baseline[:, channel] if layout == "joint" else parts.baseline
        p = np.median(baseline) * 0.005
        expected = {
            "gaussian": np.nan,
            "binomial": 1 / (p + (1 - p) * np.exp(-change)),
        }.get(family, np.exp(change))
        np.testing.assert_allclose(row["peak_gain"], expected)


def test_template_table_without_events():
    table = metrics.template_table(made_up(n_events=0))
    assert table["n_events"].tolist() == [0, 0]
    assert table[["amplitude", "peak_change", "peak_gain"]].isna().all(axis=None)


def test_template_table_takes_the_baseline_of_what_was_observed():
    mask = np.ones((4, 2, 120), bool)
    mask[1:] = False
    parts = made_up(mask=mask)
    silent = replace(parts, baseline=np.where(mask.any(axis=-1), parts.baseline, 0.0))
    alone = made_up(trials=4).baseline[0]
    row = metrics.template_table(silent).loc[0]
    p = np.median(alone) * 0.005
    expected = 1 / (p + (1 - p) * np.exp(-row["peak_change"]))
    assert row["peak_gain"] == pytest.approx(expected)
