"""What events gain: against the likelihood without them, and group by group."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from scipy.optimize import minimize_scalar

from spikecdl import L1, Binomial, Family, Gaussian, GroupL1, NegativeBinomial, Poisson
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.solvers.events import Events
from spikecdl.training import Observations, UniversalThreshold
from spikecdl.training.gains import event_gains

TRIALS, UNITS, BINS = 2, 3, 60


def some_data() -> tuple[Observations, torch.Tensor]:
    """Noise of unit spread in every unit, and two templates."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(TRIALS, UNITS, 1, BINS, generator=generator, dtype=torch.float64)
    baseline = torch.zeros(TRIALS, UNITS, 1, 1, dtype=torch.float64)
    mask = torch.ones_like(y, dtype=torch.bool)
    data = Observations(y, mask, Gaussian(scale=1.0), baseline, False)
    templates = torch.randn(2, 1, 6, generator=generator, dtype=torch.float64)
    return data, templates / templates.flatten(1).norm(dim=1)[:, None, None]


def some_events() -> Events:
    """In the first trial units 0 and 2 together, in the second one unit alone."""
    codes = torch.zeros(TRIALS * UNITS, 2, BINS - 5, dtype=torch.float64)
    codes[0, 0, 10], codes[2, 0, 10], codes[4, 1, 30] = 3.0, -4.0, 2.0
    return Events.from_codes(codes)


FAMILIES = [Gaussian(0.7), Binomial(9), Poisson(), NegativeBinomial(3.0)]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def drawn(family: Family) -> tuple[Observations, torch.Tensor, Events]:
    """Counts of windows with two channels, some bins unobserved, and events that overlap."""
    draw = torch.Generator().manual_seed(1)
    templates = torch.randn(2, 2, 7, generator=draw, dtype=torch.float64)
    templates /= templates.flatten(1).norm(dim=1)[:, None, None]
    window, template = torch.tensor([0, 0, 0, 0, 2]), torch.tensor([0, 0, 1, 1, 0])
    onset = torch.tensor([3, 8, 4, 40, 53])
    events = Events(window, template, onset, 2 + torch.rand(5, generator=draw).double())
    baseline = torch.full((3, 2, 1), -1.0, dtype=torch.float64)
    y = family.sample(events.add_to(baseline.expand(3, 2, 60), templates), draw)
    mask = torch.rand(3, 2, 60, generator=draw) > 0.1
    return Observations(y, mask, family, baseline, False), templates, events


@each_family
def test_an_event_gains_what_is_lost_without_it(family):
    data, templates, events = drawn(family)
    given = (data, templates, events, data.baseline, L1(0.5))
    gains, in_place = event_gains(*given), event_gains(*given, alone=True)

    def cost(kept: Events) -> float:
        return float(data.cost(kept.add_to(data.baseline.expand_as(data.y), templates)))

    for number in range(len(events)):
        others = events.take(torch.arange(len(events)) != number)
        own = float(gains.gain[number] * gains.threshold[number])
        assert own == pytest.approx(cost(others) - cost(events))
        one = torch.arange(len(events)) == number
        under = (events.onset - events.onset[number]).abs() < templates.shape[-1]
        same = (events.window == events.window[number]) & (events.template == events.template[one])
        rest = events.take(~(under & same))

        placed = events.take(one)

        def lost(size: float, rest: Events = rest, placed: Events = placed) -> float:
            here = placed.with_amplitude(torch.tensor([size], dtype=torch.float64))
            return cost(Events.joined([rest, here])) - cost(rest)

        best = minimize_scalar(lost, bounds=(0, 30), method="bounded", options={"xatol": 1e-8})
        alone_of = float(in_place.gain[number] * in_place.threshold[number])
        assert alone_of == pytest.approx(-best.fun, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("change", [1 / 30, 20.0])
def test_large_changes_of_rate(change):
    length, spikes = 10, 11.25 if change < 1 else 0.1172
    y = torch.full((1, 1, 30), spikes / length, dtype=torch.float64)
    y[..., 10:20] *= change
    baseline = torch.full((1, 1, 1), math.log(spikes / length), dtype=torch.float64)
    template = torch.full((1, 1, length), length**-0.5, dtype=torch.float64)
    size = torch.tensor([math.log(change) * length**0.5], dtype=torch.float64)
    zero = torch.tensor([0])
    event = Events(zero, zero, zero + 10, size)
    data = Observations(y, y == y, Poisson(), baseline, False)
    given = (data, template, event, baseline, L1(1.0, sign="both"))
    gains = event_gains(*given)
    expected = spikes * (change * math.log(change) - change + 1)
    assert expected == pytest.approx(9.6 if change < 1 else 4.8, rel=1e-2)
    torch.testing.assert_close((gains.gain * gains.threshold).item(), expected)
    torch.testing.assert_close(event_gains(*given, alone=True).gain, gains.gain)


def test_the_threshold_is_the_gain_of_a_score_at_the_weight():
    data, templates = some_data()
    rows = data.rows()
    penalty = UniversalThreshold()(L1(sign="both"), ConvDictionary(templates), rows, rows.baseline)
    gains = event_gains(rows, templates, some_events(), rows.baseline, penalty)
    price = math.log(2 * (BINS - 5))
    torch.testing.assert_close(gains.threshold, torch.full((3,), price, dtype=torch.float64))


def test_groups_gain_together_at_one_price():
    data, templates = some_data()
    penalty = UniversalThreshold(0.5)(
        GroupL1(sign="both"), ConvDictionary(templates), data, data.baseline
    )
    height = math.sqrt(UNITS) + math.sqrt(2 * math.log(2 * (BINS - 5)))
    price = 0.25 * height**2 / 2
    shares = torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64)
    rows = data.rows()
    for alone in (False, True):
        found = event_gains(data, templates, some_events(), data.baseline, penalty, alone=alone)
        torch.testing.assert_close(found.threshold, price * shares)
        given = (rows, templates, some_events(), rows.baseline, L1(1.0))
        single = event_gains(*given, alone=alone)
        nats = single.gain * single.threshold
        together = torch.stack([nats[0] + nats[1], nats[0] + nats[1], nats[2]])
        torch.testing.assert_close(found.gain * price, together)


def test_a_group_of_one_unit_is_an_event():
    data, templates = some_data()
    events = some_events()
    rows = data.rows()
    single = Observations(
        rows.y[:, None], rows.mask[:, None], rows.family, rows.baseline[:, None], False
    )
    one = event_gains(rows, templates, events, rows.baseline, L1(2.0))
    group = event_gains(single, templates, events, single.baseline, GroupL1(2.0))
    for ours, theirs in zip(group, one, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_events():
    data, templates = some_data()
    none = some_events().take(torch.zeros(3, dtype=torch.bool))
    for penalty, alone in product((L1(1.0), GroupL1(1.0)), (False, True)):
        gains = event_gains(data, templates, none, data.baseline, penalty, alone=alone)
        assert len(gains.gain) == len(gains.threshold) == 0
