"""Found events, templates and images against a known truth."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import refused

from spikecdl.data import BinnedSpikes, Decomposition, Truth
from spikecdl.evaluation import metrics
from spikecdl.evaluation.metrics import mismatch, recovery
from spikecdl.model.families import Poisson

TEMPLATES = np.array([[1.0, 2, 3, 0], [3.0, -1, 0, 2], [0.0, 1, -3, 1]])[:, None]
TEMPLATES /= np.linalg.norm(TEMPLATES, axis=(1, 2), keepdims=True)
EVENTS = ((0, 0, 0, 3), (0, 1, 1, 7), (1, 0, 1, 2), (1, 1, 0, 11), (1, 1, 0, 2))  # trial, ..., bin


def made(
    *,
    templates: np.ndarray = TEMPLATES[:2],
    events: tuple = EVENTS,
    amplitude: float = 5.0,
    layout: str = "shared",
    truth: np.ndarray = TEMPLATES[:2],
    bin_size: float = 0.01,
) -> Decomposition:
    """Two trials of two units, 20 bins from -0.05 s on; the true events are always `EVENTS`."""
    true = [(t, -1 if layout == "joint" else u, k, b * bin_size, 1.0) for t, u, k, b in EVENTS]
    columns = ["trial", "unit", "template", "time", "amplitude"]
    table = pd.DataFrame(true, columns=columns)
    if layout == "joint":
        truth, templates = (
            np.concatenate([h, h[:, :, ::-1]], axis=1) / 2**0.5 for h in (truth, templates)
        )
    counts = BinnedSpikes.from_array(
        np.ones((2, 2, 20), dtype=int),
        bin_size,
        t_start=-0.05,
        unit_ids=("a", "b"),
        trial_ids=(7, 9),
        truth=Truth(truth, table, np.ones((2, 2)), bin_size, "poisson", layout),
    )
    rows = 1 if layout == "joint" else 2
    codes = np.zeros((2, rows, len(templates), 17))
    for trial, unit, template, bin_ in events:
        codes[trial, 0 if layout == "joint" else unit, template, bin_] = amplitude
    return Decomposition(
        counts=counts,
        templates=templates,
        codes=codes,
        rate=np.ones((2, 2, 20)),
        baseline=np.ones((2, 2)),
        contributions=np.zeros((2, 2, len(templates), 20)),
        family=Poisson(),
        layout=layout,
        deviance_explained=0.5,
        deviance_explained_per_unit=np.array([0.5, 0.5]),
    )


@pytest.mark.parametrize("layout", ["shared", "joint"])
def test_the_truth_itself_is_perfect(layout):
    found = recovery(made(layout=layout))
    assert found.templates.max < 1e-6
    assert (found.events.hits, found.events.misses, found.events.false_alarms) == (5, 0, 0)
    assert found.tolerance == pytest.approx(0.03)


def test_order_of_templates_does_not_matter():
    swapped = tuple((t, u, 1 - k, b) for t, u, k, b in EVENTS)
    found = recovery(made(templates=TEMPLATES[[1, 0]], events=swapped))
    assert found.templates.assignment.tolist() == [1, 0]
    assert found.events.hit_rate == 1


@pytest.mark.parametrize("moved", [-1, 1])
def test_a_shifted_template_moves_its_events_back(moved):
    """A template that begins a bin late in its window is the truth, a bin earlier in time."""
    room = np.zeros((2, 1, 1))
    late = np.concatenate([room, TEMPLATES[:2]] if moved > 0 else [TEMPLATES[:2], room], axis=2)
    early = tuple((t, u, k, b - max(moved, 0)) for t, u, k, b in EVENTS)
    parts = made(events=early)
    codes = parts.codes[..., :16]
    parts = replace(parts, templates=late, codes=codes)
    found = recovery(parts, tolerance=0.0)
    assert found.templates.max < 1e-6
    assert found.events.hits == 5


@pytest.mark.parametrize(("off", "hits"), [(2, 5), (3, 5), (4, 0)])
def test_tolerance_is_three_bins(off, hits):
    late = tuple((t, u, k, b + off) for t, u, k, b in EVENTS)
    assert recovery(made(events=late)).events.hits == hits


@pytest.mark.parametrize("wrong", ["trial", "unit", "template"])
def test_an_event_elsewhere_is_no_hit(wrong):
    column = ["trial", "unit", "template"].index(wrong)
    moved = list(EVENTS[0])
    moved[column] = 1 - moved[column]
    found = recovery(made(events=(tuple(moved), *EVENTS[1:])))
    assert (found.events.hits, found.events.misses, found.events.false_alarms) == (4, 1, 1)


def test_a_template_too_many_has_only_false_alarms():
    extra = (*EVENTS, (0, 0, 2, 3))
    found = recovery(made(templates=TEMPLATES, events=extra))
    assert found.templates.max < 1e-6
    assert (found.events.hits, found.events.false_alarms) == (5, 1)


def test_a_template_that_was_not_found_has_error_one():
    found = recovery(made(templates=TEMPLATES[:1], events=tuple(e for e in EVENTS if e[2] == 0)))
    assert found.templates.errors == pytest.approx([0, 1], abs=1e-6)
    assert (found.events.hits, found.events.misses) == (3, 2)


def test_no_events_at_all():
    found = recovery(made(events=()))
    assert found.events.hit_rate == 0
    assert np.isnan(found.events.false_alarm_rate)


def test_signs_are_a_convention_only_of_codes_of_both_signs():
    assert recovery(made(templates=-TEMPLATES[:2], amplitude=-5.0)).templates.max < 1e-6
    assert recovery(made(templates=-TEMPLATES[:2])).templates.max > 0.5


def test_what_cannot_be_compared():
    parts = made()
    assert mismatch(parts) is None
    coarse = replace(parts.counts, truth=replace(parts.counts.truth, bin_size=0.02))
    cases = {
        "counts without a truth; use simulated": replace(parts.counts, truth=None),
        "bins of 0.01 s, the truth 0.02 s; fit with": coarse,
        "'shared', the truth 'joint'; fit with": made(layout="joint").counts,
    }
    for words, counts in cases.items():
        other = replace(parts, counts=counts)
        assert mismatch(other)
        with pytest.raises(ValueError, match=re.escape(words)):
            recovery(other)


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


def test_event_rates_refuses():
    for found, true, tolerance, message in [
        ({"time": [0.0]}, {"time": [0.0]}, -1, "`tolerance` .* must not be negative, in seconds"),
        ({"trial": [0]}, {"time": [0.0]}, 1, "`found` must have a column 'time'"),
        ({"time": [0.0]}, {"time": [np.nan]}, 1, "`true` must have finite times"),
        ({"time": [0.0], "unit": [0]}, {"time": [0.0]}, 1, "both tables need the same"),
        (
            {"time": [0.0, 1.0], "unit": [0]},
            {"time": [0.0], "unit": [0]},
            1,
            "as many rows in 'unit'",
        ),
    ]:
        with refused(ValueError, message, found):
            metrics.event_rates(found, true, tolerance)


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
