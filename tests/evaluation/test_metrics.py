"""Metrics against brute force, closed forms and other libraries."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from decompositions import made_up
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import d2_tweedie_score, r2_score

from spikecdl.evaluation import metrics
from spikecdl.model.families import FAMILIES, Binomial, Gaussian, NegativeBinomial, Poisson


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


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("max_shift", [None, 0, 3])
@pytest.mark.parametrize(
    ("n_found", "n_true", "channels", "found_bins", "true_bins"),
    [(3, 3, 1, 8, 8), (2, 3, 2, 6, 9), (4, 2, 3, 9, 5), (1, 1, 1, 1, 4)],
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


@pytest.mark.parametrize(
    ("templates", "truth", "message"),
    [
        (
            np.zeros((1, 1, 4)),
            np.ones((1, 1, 4)),
            "`templates` number 0 must be finite and not all",
        ),
        (np.ones((1, 1, 4)), np.full((1, 1, 4), np.nan), "`truth` number 0 must be finite"),
        (np.ones((1, 2, 4)), np.ones((1, 1, 4)), "2 channels and `truth` has 1"),
        (np.ones(4), np.ones((1, 1, 4)), r"shape \(template, channel, bin\)"),
        (np.ones((0, 1, 4)), np.ones((1, 1, 4)), r"shape \(template, channel, bin\)"),
    ],
)
def test_template_error_refuses(templates, truth, message):
    with pytest.raises(ValueError, match=message):
        metrics.template_error(templates, truth)


def brute_force_matching(found, true, tolerance):
    """Most pairs, then least distance, over every one-to-one pairing."""
    small, large = sorted((found, true), key=len)
    best = (0, 0.0)
    for partners in itertools.permutations([*range(len(large)), *[-1] * len(small)], len(small)):
        distances = [abs(small[i] - large[j]) for i, j in enumerate(partners) if j >= 0]
        if all(d <= tolerance for d in distances):
            best = max(best, (len(distances), -sum(distances)))
    return best[0], -best[1]


def two_pointers(found, true, tolerance):
    """Greedy matching of sorted times: optimal in number for intervals of equal length."""
    found, true, i, j, hits = sorted(found), sorted(true), 0, 0, 0
    while i < len(found) and j < len(true):
        if abs(found[i] - true[j]) <= tolerance:
            hits, i, j = hits + 1, i + 1, j + 1
        elif found[i] < true[j]:
            i += 1
        else:
            j += 1
    return hits


ticks = st.lists(st.integers(0, 12), max_size=4)


@settings(max_examples=150, deadline=None)
@given(found=ticks, true=ticks, tolerance=st.integers(0, 4))
def test_events_are_matched_as_brute_force_would(found, true, tolerance):
    rates = metrics.event_rates({"time": found}, {"time": true}, tolerance)
    hits, distance = brute_force_matching(found, true, tolerance)
    assert rates.hits == hits == two_pointers(found, true, tolerance)
    assert rates.hits + rates.misses == len(true)
    assert rates.hits + rates.false_alarms == len(found)
    total = sum(abs(found[i] - true[j]) for i, j in rates.pairs)
    assert total == pytest.approx(distance)
    assert len({*rates.pairs[:, 0]}) == len({*rates.pairs[:, 1]}) == hits


def test_many_events_are_matched_as_greedily():
    rng = np.random.default_rng(1)
    true = rng.uniform(0, 100, 2000)
    found = np.concatenate([true[::2] + rng.normal(0, 0.01, 1000), rng.uniform(0, 100, 700)])
    rates = metrics.event_rates({"time": found}, {"time": true}, 0.02)
    assert rates.hits == two_pointers(found, true, 0.02)


def test_events_pair_only_within_trial_unit_and_template():
    columns = ["trial", "unit", "template", "time", "amplitude"]
    true = pd.DataFrame(
        [
            (0, "a", 0, 0.1, 1.0),
            (0, "a", 1, 0.2, 2.0),
            (1, "b", 0, 0.3, 3.0),
            (1, "b", 0, 0.6, 5.0),
        ],
        columns=columns,
    )
    found = true.iloc[::-1].assign(amplitude=lambda t: 2 * t["amplitude"] + 1)
    same = metrics.event_rates(found, true, 0.0)
    assert (same.hits, same.misses, same.false_alarms) == (4, 0, 0)
    assert same.amplitude_correlation == pytest.approx(1)
    assert same.hit_rate == 1
    assert same.false_alarm_rate == 0
    assert (found.iloc[same.pairs[:, 0]].index == true.index[same.pairs[:, 1]]).all()
    for column, value in (("trial", 7), ("unit", "z"), ("template", 9)):
        other = metrics.event_rates(found.assign(**{column: value}), true, 10.0)
        assert (other.hits, other.misses, other.false_alarms) == (0, 4, 4)


def test_tolerance_includes_whole_bins():
    bins = np.arange(2000)
    true = {"trial": bins, "time": bins * 0.001}
    found = {"trial": bins, "time": (bins + 5) * 0.001}
    assert metrics.event_rates(found, true, 0.005).hits == 2000
    assert metrics.event_rates(found, true, 0.0049).hits == 0


def test_event_rates_without_events_are_undefined():
    empty = metrics.event_rates({"time": []}, {"time": []}, 0.1)
    assert (empty.hits, empty.misses, empty.false_alarms) == (0, 0, 0)
    assert np.isnan([empty.hit_rate, empty.false_alarm_rate, empty.amplitude_correlation]).all()


@pytest.mark.parametrize(
    ("found", "true", "tolerance", "message"),
    [
        ({"time": [0.0]}, {"time": [0.0]}, -1, "`tolerance` .* 0 or more, in seconds"),
        ({"trial": [0]}, {"time": [0.0]}, 1, "`found` must have a column 'time'"),
        ({"time": [0.0]}, {"time": [np.nan]}, 1, "`true` must have finite times"),
        ({"time": [0.0], "unit": [0]}, {"time": [0.0]}, 1, "both tables need the same"),
        (
            {"time": [0.0, 1.0], "unit": [0]},
            {"time": [0.0], "unit": [0]},
            1,
            "as many rows in 'unit'",
        ),
    ],
)
def test_event_rates_refuses(found, true, tolerance, message):
    with pytest.raises(ValueError, match=message):
        metrics.event_rates(found, true, tolerance)


@pytest.fixture
def poisson_data():
    rng = np.random.default_rng(3)
    mean = rng.uniform(0.2, 6, (5, 3, 40))
    return rng.poisson(mean), mean


def test_deviance_explained_is_sklearns_for_poisson(poisson_data):
    y, mean = poisson_data
    ours = metrics.deviance_explained(y, mean, y.mean(), Poisson())
    assert ours == pytest.approx(d2_tweedie_score(y.ravel(), mean.ravel(), power=1))
    null = y.mean(axis=(0, 2), keepdims=True)
    per_unit = metrics.deviance_explained(y, mean, null, Poisson(), axis=(0, 2))
    expected = [d2_tweedie_score(y[:, u].ravel(), mean[:, u].ravel(), power=1) for u in range(3)]
    np.testing.assert_allclose(per_unit, expected)


def test_deviance_explained_is_r2_for_gaussian():
    rng = np.random.default_rng(4)
    y, mean = rng.normal(size=(2, 2, 30))
    ours = metrics.deviance_explained(y, mean, y.mean(), Gaussian(scale=3.0))
    assert ours == pytest.approx(r2_score(y.ravel(), mean.ravel()))


def test_deviance_explained_for_binomial_from_scipy_likelihoods():
    rng = np.random.default_rng(5)
    trials = rng.integers(1, 30, (4, 2, 25))
    p = rng.uniform(0.02, 0.9, trials.shape)
    y = rng.binomial(trials, p)
    best = stats.binom.logpmf(y, trials, y / trials).sum()
    null = y.sum() / trials.sum()
    lost = best - stats.binom.logpmf(y, trials, p).sum()
    expected = 1 - lost / (best - stats.binom.logpmf(y, trials, null).sum())
    family = Binomial(n_trials=torch.as_tensor(trials))
    ours = metrics.deviance_explained(y, trials * p, trials * null, family)
    assert ours == pytest.approx(expected)


@pytest.mark.parametrize("family", [Poisson(), Binomial(n_trials=30), NegativeBinomial(2.0)])
def test_deviance_explained_ignores_what_is_masked(poisson_data, family):
    y, mean = poisson_data
    mask = np.random.default_rng(6).random(y.shape) > 0.3
    full = metrics.deviance_explained(y[mask], mean[mask], 1.5, family)
    hidden = np.where(mask, mean, np.nan)
    counts = np.where(mask, y, 999)
    masked = metrics.deviance_explained(counts, hidden, 1.5, family, mask=mask)
    assert masked == pytest.approx(full)


@pytest.mark.parametrize("family", [Poisson(), Binomial(n_trials=4), NegativeBinomial()])
def test_deviance_explained_at_the_ends(family):
    y = np.array([[0, 0, 4, 4], [0, 0, 0, 0]])
    null = y.mean(axis=1, keepdims=True)
    perfect, silent = metrics.deviance_explained(y, y, null, family, axis=1)
    assert perfect == pytest.approx(1)
    assert np.isnan(silent)
    impossible = metrics.deviance_explained(y[0], [0, 0, 0, 4], 2.0, family)
    assert impossible == -np.inf


def test_bits_per_spike_from_scipy_likelihoods(poisson_data):
    y, mean = poisson_data
    null = y.mean(axis=(0, 2), keepdims=True)
    gain = stats.poisson.logpmf(y, mean) - stats.poisson.logpmf(y, null)
    expected = gain.sum() / y.sum() / np.log(2)
    assert metrics.bits_per_spike(y, mean, null) == pytest.approx(expected)
    per_unit = metrics.bits_per_spike(y, mean, null, axis=(0, 2))
    np.testing.assert_allclose(per_unit, gain.sum((0, 2)) / y.sum((0, 2)) / np.log(2))

    trials = 20
    mean, null = np.minimum(mean, 19), np.broadcast_to(null, y.shape)
    gain = stats.binom.logpmf(y, trials, mean / trials) - stats.binom.logpmf(
        y, trials, null / trials
    )
    ours = metrics.bits_per_spike(y, mean, null, n_trials=trials)
    assert ours == pytest.approx(gain.sum() / y.sum() / np.log(2))


def test_bits_per_spike_masks_and_ends():
    y, mean = np.array([0, 3, 1, 50]), np.array([0.1, 2.0, 1.0, np.nan])
    masked = metrics.bits_per_spike(y, mean, 1.0, mask=[True, True, True, False])
    assert masked == pytest.approx(metrics.bits_per_spike(y[:3], mean[:3], 1.0))
    assert np.isnan(metrics.bits_per_spike([0, 0], [0.5, 0.5], 1.0))
    assert metrics.bits_per_spike([1, 0], [0.0, 1.0], 0.5) == -np.inf
    assert metrics.bits_per_spike([4, 0], [4, 0], 2, n_trials=4) == pytest.approx(2)


def poisson_deviance_explained(y, mean, null_mean, mask):
    return metrics.deviance_explained(y, mean, null_mean, Poisson(), mask)


@pytest.mark.parametrize("measure", [poisson_deviance_explained, metrics.bits_per_spike])
@pytest.mark.parametrize(
    ("y", "mean", "mask", "message"),
    [
        ([1.0, np.nan], [1.0, 1.0], None, "`y` must be finite"),
        ([1.0, 2.0], [1.0, np.inf], None, "`mean` must be finite"),
        ([1.0, 2.0], [1.0, 1.0, 1.0], None, r"`mean` \(shape \(3,\)\) must broadcast to `y`"),
        ([1.0, 2.0], [1.0, 1.0], [True] * 3, "`mask` .* must broadcast"),
    ],
)
def test_rates_are_checked(measure, y, mean, mask, message):
    with pytest.raises(ValueError, match=message):
        measure(y, mean, 1.0, mask)


def test_psnr_is_the_usual_formula():
    """The definition that skimage.metrics.peak_signal_noise_ratio has, with the image's maximum."""
    rng = np.random.default_rng(8)
    clean, estimate = rng.uniform(0, 4, (2, 16, 16))
    expected = 20 * np.log10(clean.max()) - 10 * np.log10(np.square(clean - estimate).mean())
    assert metrics.psnr(estimate, clean) == pytest.approx(expected)


def test_psnr():
    clean = np.linspace(0, 5, 12).reshape(3, 4)
    noisy = clean + 0.5
    assert metrics.psnr(noisy, clean) == pytest.approx(20)
    assert metrics.psnr(noisy, clean, peak=50) == pytest.approx(40)
    assert metrics.psnr(clean, clean) == np.inf
    for estimate, target, message in [
        (clean[:2], clean, "must have the shape of `clean`"),
        (clean * np.nan, clean, "must be finite"),
        (clean - 1, -clean, r"`peak` \(=-?0.0\) must be positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            metrics.psnr(estimate, target)


def test_template_shape_of_a_gaussian_bump():
    time = (np.arange(100) + 0.5) * 0.002
    bump = -3 * np.exp(-0.5 * ((time - 0.081) / 0.01) ** 2)
    shape = metrics.template_shape(np.stack([0 * bump, bump]), bin_size=0.002)
    assert (shape.peak, shape.channel) == (pytest.approx(-3), 1)
    assert shape.time == pytest.approx(0.081)
    assert shape.width == pytest.approx(2 * np.sqrt(2 * np.log(2)) * 0.01, rel=0.01)


@pytest.mark.parametrize(
    ("template", "time", "width"),
    [
        ([4.0], 0.5, 1.0),
        ([0, 2.0, 0], 1.5, 1.0),
        ([4, 3, 1, 4.0], 0.5, 2.0),
        ([0.0, 0.0], 0.5, 0.0),
    ],
)
def test_template_shape_at_the_edges(template, time, width):
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


@pytest.mark.parametrize("layout", ["shared", "joint"])
@pytest.mark.parametrize("family", FAMILIES)
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
