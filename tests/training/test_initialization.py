"""Templates to start from, and fewer of them from more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spikecdl import L1, GroupL1, Poisson
from spikecdl.solvers.events import Events
from spikecdl.training import Observations, Problem, UniversalThreshold
from spikecdl.training.dictionary_update import Round
from spikecdl.training.initialization import (
    Initialization,
    as_good,
    by_cluster,
    initial_templates,
)
from spikecdl.training.pruning import merged, prune
from spikecdl.training.steps import Steps

LENGTH = 20


def waves():
    """A dip and two cycles, of unit norm."""
    t = torch.linspace(0, 1, LENGTH)
    window = torch.hann_window(LENGTH, periodic=False)
    both = torch.stack([window, window * torch.sin(4 * torch.pi * t)])[:, None]
    return both / both.flatten(1).norm(dim=1)[:, None, None]


def problem(seed=0):
    """Poisson counts of 20 windows with 3 events of each wave."""
    draw = torch.Generator().manual_seed(seed)
    window = torch.arange(20).repeat_interleave(6)
    template = torch.arange(2).repeat(60)
    place = (torch.arange(6) * 40 + torch.randint(0, 20, (20, 6), generator=draw)).reshape(-1)
    events = Events(window, template, place, 5 + torch.rand(120, generator=draw))
    baseline = torch.full((20, 1, 1), -0.5)
    eta = events.add_to(baseline.expand(20, 1, 260), waves())
    y = Poisson().sample(eta, draw)
    return Observations(y, y == y, Poisson(), baseline, True)


def in_pairs(data):
    """Take each two windows for the units of a trial."""

    def paired(tensor):
        return tensor.unflatten(0, (-1, 2))

    return replace(data, y=paired(data.y), mask=paired(data.mask), baseline=paired(data.baseline))


def likeness(found):
    """Largest correlation over shifts of each found template with each wave."""
    pad = found.shape[-1]
    return torch.nn.functional.conv1d(found.float(), waves(), padding=pad).amax(-1)


def test_starts_are_stretches_like_what_is_in_the_data():
    data = problem()
    eta = data.baseline.expand_as(data.y)
    found = initial_templates(data, eta, 6, LENGTH + 8, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(6))
    assert (likeness(found).amax(0) > 0.7).all()


def test_starts_of_silence_are_flat():
    y = torch.zeros(2, 3, 50)
    data = Observations(y, y == y, Poisson(), torch.full((2, 3, 1), -2.0), True)
    eta = data.baseline.expand_as(y)
    found = initial_templates(data, eta, 2, 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(2))


def test_candidates_do_not_see_the_hidden_bins(monkeypatch):
    def first_start(data):
        starts = []

        def record(step, templates, baseline, *rest):
            starts.append((step.data.baseline, templates, baseline))
            return prune(step, templates, baseline, *rest)

        monkeypatch.setattr("spikecdl.training.initialization.prune", record)
        alone = replace(data, y=data.y[:, None], mask=data.mask[:, None])
        alone = replace(alone, baseline=data.baseline[:, None])
        draw = torch.Generator().manual_seed(2)
        weight = UniversalThreshold()
        whole = Problem(alone, 2, LENGTH, L1(), weight, 1, draw)
        step = Round(alone, L1(), weight, True, 2, 0.0, 300)
        Initialization(whole, step, 1.0, 4, 0.1, 120_000)()
        return starts[0]

    data = problem()
    data = replace(data, baseline=data.mean_baseline())
    hidden = (torch.arange(20)[:, None, None] + torch.arange(260)) % 4 == 0
    other = replace(data, y=torch.where(hidden, data.y + 3, data.y))
    other = replace(other, baseline=other.mean_baseline())
    for one, same in zip(first_start(data), first_start(other), strict=True):
        torch.testing.assert_close(one, same)


@pytest.mark.parametrize(("n_windows", "n_bins"), [(60, 200), (2, 6000)])
def test_costs_under_one_event_count_once(n_windows, n_bins):
    draw, good = torch.Generator().manual_seed(0), []
    for _ in range(300):
        events = torch.randn(n_windows, n_bins // LENGTH, generator=draw, dtype=torch.float64)
        cost = events.repeat_interleave(
            LENGTH, dim=1
        )  # of an equal candidate, the same in all bins
        good.append(as_good(by_cluster(cost, LENGTH), by_cluster(0 * cost, LENGTH)))
    assert sum(good) >= 0.95 * len(good)  # 97.7 % are below two standard errors


def test_a_single_short_window_is_one_cluster():
    cost = torch.ones(1, 30, dtype=torch.float64)
    assert by_cluster(cost, LENGTH).tolist() == [30.0]
    assert not as_good(by_cluster(cost, LENGTH), by_cluster(0 * cost, LENGTH))


def test_pruning_leaves_the_templates_that_made_the_data():
    data = problem()
    noise = torch.randn(5, 1, LENGTH, generator=torch.Generator().manual_seed(3))
    noise[3] = 0.9 * waves()[0] + 0.1 * noise[3]  # one twice, the other worse
    noise[4] = 0.6 * waves()[1].roll(3, -1) + 0.2 * noise[4]
    more = torch.cat([noise[:3], waves()[:1], noise[3:]])
    more = more / more.flatten(1).norm(dim=1)[:, None, None]
    step = Round(data, L1(), UniversalThreshold(0.6), True, 2, 0.0, 300)
    templates, baseline = prune(step, more, data.baseline, 2, lambda templates: templates, Steps())
    assert templates.shape == (2, 1, LENGTH)
    assert baseline.shape == data.baseline.shape
    alike = likeness(templates)
    assert (alike.amax(1) > 0.9).all()
    assert sorted(alike.argmax(1).tolist()) == [0, 1]


def test_parts_are_solved_as_the_whole(monkeypatch):
    data = problem()
    for penalty, observed in ((L1(), data), (GroupL1(), in_pairs(data))):
        step = Round(observed, penalty, UniversalThreshold(), True, 2, 0.0, 300)
        whole = step.codes(waves(), observed.baseline, 1e-3)
        monkeypatch.setattr("spikecdl.model.observations.PART", 3 * 2 * 260)
        parts = step.codes(waves(), observed.baseline, 1e-3)
        again = step.solve(waves(), observed.baseline, whole.penalty, 1e-3, whole.events)
        monkeypatch.undo()
        assert len(whole.events) > 50
        for other in (parts, again):
            assert torch.equal(other.events.window, whole.events.window)
            assert torch.equal(other.events.onset, whole.events.onset)
            torch.testing.assert_close(other.events.amplitude, whole.events.amplitude)
            assert other.value == pytest.approx(whole.value, rel=1e-5)


def test_pruning_to_as_many_takes_none_away():
    data = problem()
    step = Round(data, L1(), UniversalThreshold(), True, 2, 0.0, 300)
    templates, _ = prune(step, waves(), data.baseline, 2, lambda templates: templates, Steps())
    assert (likeness(templates).diagonal() > 0.95).all()


def coupled_events(share, lag):
    """40 windows with an event of the first template; in a share of them, the second at a lag."""
    windows = torch.arange(40)
    with_second = windows[: round(share * 40)]
    onset = 20 + 3 * windows % 17
    second = onset[with_second] + lag + with_second % 2  # lags differ by a bin
    return Events(
        torch.cat([windows, with_second, windows]),
        torch.cat([0 * windows, 0 * with_second + 1, 0 * windows + 1]),
        torch.cat([onset, second, onset + 100 + windows]),
        torch.cat([torch.full((40,), 4.0), torch.full((len(second),), 2.0), torch.ones(40)]),
    )


@pytest.mark.parametrize("lag", [-4, 0, 3])
def test_a_template_that_mostly_comes_with_another_takes_it_up(lag):
    templates = waves()
    both = merged(templates, coupled_events(0.8, lag))
    padded = torch.nn.functional.pad(templates[1], (10, 10))
    moved = [padded[:, 10 - late : 10 - late + LENGTH] for late in (lag, lag + 1)]
    assert any(torch.allclose(both[0], templates[0] + 0.5 * late) for late in moved)
    assert torch.equal(both[1], templates[1])


def test_templates_that_come_on_their_own_are_not_merged():
    assert merged(waves(), coupled_events(0.3, 3)) is None
    assert merged(waves()[:1], coupled_events(0.0, 3).take(torch.arange(40))) is None
    assert merged(waves(), coupled_events(0.0, 3).take(torch.zeros(0, dtype=torch.int64))) is None
