"""What events gain: against the likelihood of a quadratic family, and group by group."""

from __future__ import annotations

import math

import torch

from spikecdl import L1, GroupL1
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import Gaussian
from spikecdl.solvers.events import Events
from spikecdl.training import Observations, UniversalThreshold
from spikecdl.training.dictionary_update import event_gains

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


def test_events_on_their_own():
    data, templates = some_data()
    rows = data.rows()
    penalty = UniversalThreshold()(L1(sign="both"), ConvDictionary(templates), rows, rows.baseline)
    gains = event_gains(rows, templates, some_events(), rows.baseline, penalty)
    price = math.log(2 * (BINS - 5))
    torch.testing.assert_close(gains.threshold, torch.full((3,), price, dtype=torch.float64))
    half_squares = torch.tensor([4.5, 8.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(gains.own * gains.threshold, half_squares)
    torch.testing.assert_close(gains.alone, gains.own)  # none overlaps with another


def test_groups_gain_together_at_one_price():
    data, templates = some_data()
    penalty = UniversalThreshold(0.5)(
        GroupL1(sign="both"), ConvDictionary(templates), data, data.baseline
    )
    gains = event_gains(data, templates, some_events(), data.baseline, penalty)
    height = math.sqrt(UNITS) + math.sqrt(2 * math.log(2 * (BINS - 5)))
    price = 0.25 * height**2 / 2
    shares = torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(gains.threshold, price * shares)
    together = torch.tensor([12.5, 12.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(gains.own * price, together)
    torch.testing.assert_close(gains.alone, gains.own)


def test_a_group_of_one_unit_is_an_event():
    data, templates = some_data()
    events = some_events()
    rows = data.rows()
    single = Observations(
        rows.y[:, None], rows.mask[:, None], rows.family, rows.baseline[:, None], False
    )
    one = event_gains(rows, templates, events, rows.baseline, L1(2.0))
    group = event_gains(single, templates, events, single.baseline, GroupL1(2.0))
    for ours, theirs in zip(vars(group).values(), vars(one).values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_events():
    data, templates = some_data()
    none = some_events().take(torch.zeros(3, dtype=torch.bool))
    for penalty in (L1(1.0), GroupL1(1.0)):
        gains = event_gains(data, templates, none, data.baseline, penalty)
        assert len(gains.own) == len(gains.alone) == len(gains.threshold) == 0
