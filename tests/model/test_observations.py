"""Parts of observations: evenly spaced trials, or stretches of all units."""

from __future__ import annotations

import pytest
import torch

from spikecdl.model.covariates import Covariates
from spikecdl.model.families import Binomial, Poisson
from spikecdl.model.history import Drift
from spikecdl.model.observations import Observations


def observations(trials, units, bins, **more):
    """Counts (trial, unit, 1, bin), each another number, from a drifting rate."""
    y = torch.arange(trials * units * bins).reshape(trials, units, 1, bins)
    return Observations(y, y >= 0, Poisson(), torch.zeros(trials, units, 1, 1), True, **more)


def test_many_trials_are_taken_whole_at_even_distances():
    part = observations(10, 3, 40).part(500, length=5)
    assert torch.equal(part.y, observations(10, 3, 40).y[::2])


@pytest.mark.parametrize(("trials", "n_parts"), [(1, 8), (2, 8)])
def test_long_trials_are_cut_into_stretches_of_all_units(trials, n_parts):
    whole = observations(trials, 4, 6400)
    part = whole.part(4 * 8 * 100, length=5)  # of a hundred bins
    assert part.y.shape == (n_parts, 4, 1, 100)
    steps = part.y.diff(dim=-1)
    assert (steps == 1).all()
    assert (part.y[:, 1:] - part.y[:, :-1] == 6400).all()
    trial, first = part.y[:, 0, 0, 0] // (4 * 6400), part.y[:, 0, 0, 0] % 6400
    assert torch.equal(trial.unique(), torch.arange(trials))
    assert (first.reshape(trials, -1).diff() == 6400 * trials // n_parts).all()


def test_stretches_are_long_for_templates_and_no_longer_than_trials():
    assert observations(1, 50, 3000).part(1000, length=10).y.shape == (1, 50, 1, 200)
    assert observations(1, 50, 150).part(1000, length=20).y.shape == (1, 50, 1, 150)


def test_stretches_bring_all_that_belongs_to_their_bins():
    whole, rate = observations(1, 2, 900), torch.linspace(0, 1, 900)
    mask = whole.y % 7 > 0
    trials = torch.arange(1800).reshape(1, 2, 1, 900) + 1
    onsets = (torch.arange(899) % 3 == 0).expand(1, 2, 1, 899)
    shown = torch.arange(900) % 11 > 0
    whole = Observations(
        whole.y, mask, Binomial(trials), rate.expand(1, 2, 1, 900), False, shown, onsets=onsets
    )
    part = whole.part(400, length=2)
    for k, stretch in enumerate(part.y):
        at = slice(int(stretch.min()), int(stretch.min()) + part.y.shape[-1])
        assert torch.equal(part.mask[k], (mask[0] & shown)[..., at])
        assert torch.equal(part.family.n_trials[k], trials[0, ..., at])
        assert torch.equal(part.baseline[k, 0, 0], rate[at])
        assert torch.equal(part.onsets[k], onsets[0, ..., at.start : at.stop - 1])
    assert part.shown is None
    assert len(part.y) > 1


def test_drift_goes_on_from_stretch_to_stretch():
    y = torch.poisson(torch.ones(1, 3, 1, 4000))
    unit, start = torch.arange(3)[None, :, None, None], torch.full((1, 3, 1, 1), 7.0)
    drift = Drift(10.0, 7.0, 47.0)
    covariates = Covariates(y, unit, start, 0.01, torch.zeros(0, 1), drift)
    whole = Observations(y, y >= 0, Poisson(), torch.zeros(1, 3, 1, 1), True, covariates=covariates)
    part = whole.part(1500, length=3)
    coefficients = torch.randn(3, covariates.n_columns, dtype=torch.float64)
    offset = covariates.offset(coefficients)[0]
    found = part.covariates.offset(coefficients)
    assert found.shape == (9, 3, 1, 60)
    for k, each in enumerate(found):
        at = 60 * 8 * k
        torch.testing.assert_close(each, offset[..., at : at + 60])
