"""Found templates and events against a truth, on decompositions made by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spikecdl.data import BinnedSpikes, Decomposition, Truth
from spikecdl.evaluation.metrics.truth import comparable, recovery
from spikecdl.model.families import Poisson

WAVES = np.array([[1.0, 2, 3, 0], [3.0, -1, 0, 2], [0.0, 1, -3, 1]])[:, None]
WAVES /= np.linalg.norm(WAVES, axis=(1, 2), keepdims=True)
EVENTS = ((0, 0, 0, 3), (0, 1, 1, 7), (1, 0, 1, 2), (1, 1, 0, 11), (1, 1, 0, 2))  # trial, ..., bin


def made(
    *,
    waves: np.ndarray = WAVES[:2],
    events: tuple = EVENTS,
    amplitude: float = 5.0,
    layout: str = "shared",
    truth: np.ndarray = WAVES[:2],
    bin_size: float = 0.01,
) -> Decomposition:
    """Two trials of two units, 20 bins from -0.05 s on; the true events are always `EVENTS`."""
    true = [(t, -1 if layout == "joint" else u, k, b * bin_size, 1.0) for t, u, k, b in EVENTS]
    columns = ["trial", "unit", "template", "time", "amplitude"]
    table = pd.DataFrame(true, columns=columns)
    if layout == "joint":
        truth, waves = (np.concatenate([w, w[:, :, ::-1]], axis=1) / 2**0.5 for w in (truth, waves))
    counts = BinnedSpikes.from_array(
        np.ones((2, 2, 20), dtype=int),
        bin_size,
        t_start=-0.05,
        unit_ids=("a", "b"),
        trial_ids=(7, 9),
        truth=Truth(truth, table, np.ones((2, 2)), bin_size, "poisson", layout),
    )
    rows = 1 if layout == "joint" else 2
    codes = np.zeros((2, rows, len(waves), 17))
    for trial, unit, template, bin_ in events:
        codes[trial, 0 if layout == "joint" else unit, template, bin_] = amplitude
    return Decomposition(
        counts=counts,
        templates=waves,
        codes=codes,
        rate=np.ones((2, 2, 20)),
        baseline=np.ones((2, 2)),
        contributions=np.zeros((2, 2, len(waves), 20)),
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
    found = recovery(made(waves=WAVES[[1, 0]], events=swapped))
    assert found.templates.assignment.tolist() == [1, 0]
    assert found.events.hit_rate == 1


@pytest.mark.parametrize("moved", [-1, 1])
def test_a_shifted_template_moves_its_events_back(moved):
    """A template that begins a bin late in its window is the truth, a bin earlier in time."""
    room = np.zeros((2, 1, 1))
    late = np.concatenate([room, WAVES[:2]] if moved > 0 else [WAVES[:2], room], axis=2)
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
    place = ["trial", "unit", "template"].index(wrong)
    moved = list(EVENTS[0])
    moved[place] = 1 - moved[place]
    found = recovery(made(events=(tuple(moved), *EVENTS[1:])))
    assert (found.events.hits, found.events.misses, found.events.false_alarms) == (4, 1, 1)


def test_a_template_too_many_has_only_false_alarms():
    extra = (*EVENTS, (0, 0, 2, 3))
    found = recovery(made(waves=WAVES, events=extra))
    assert found.templates.max < 1e-6
    assert (found.events.hits, found.events.false_alarms) == (5, 1)


def test_a_template_that_was_not_found_has_error_one():
    found = recovery(made(waves=WAVES[:1], events=tuple(e for e in EVENTS if e[2] == 0)))
    assert found.templates.errors == pytest.approx([0, 1], abs=1e-6)
    assert (found.events.hits, found.events.misses) == (3, 2)


def test_no_events_at_all():
    found = recovery(made(events=()))
    assert found.events.hit_rate == 0
    assert np.isnan(found.events.false_alarm_rate)


def test_signs_are_a_convention_only_of_codes_of_both_signs():
    assert recovery(made(waves=-WAVES[:2], amplitude=-5.0)).templates.max < 1e-6
    assert recovery(made(waves=-WAVES[:2])).templates.max > 0.5


def test_what_cannot_be_compared():
    parts = made()
    assert comparable(parts)
    coarse = replace(parts.counts, truth=replace(parts.counts.truth, bin_size=0.02))
    cases = {
        "counts without a truth; simulate": replace(parts.counts, truth=None),
        "bins of 0.01 s, the truth 0.02 s; fit with": coarse,
        "'shared', the truth 'joint'; fit with": made(layout="joint").counts,
    }
    for words, counts in cases.items():
        other = replace(parts, counts=counts)
        assert not comparable(other)
        with pytest.raises(ValueError, match=re.escape(words)):
            recovery(other)
