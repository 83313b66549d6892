"""Sums over all events of a window, against a list of all that may happen in it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from enumeration import LENGTH, N_BINS, RATES, TEMPLATES, enumerate_events, model_of, too_near

from spikecdl import BinnedSpikes, conversion
from spikecdl.events.dense import DenseCounts
from spikecdl.events.model import EventModel
from spikecdl.events.sampling import anneal
from spikecdl.events.windows import Drawn, _sum_windows
from spikecdl.model.families import Binomial, Gaussian, NegativeBinomial, Poisson
from spikecdl.model.observations import Observations

FAMILIES = [Poisson(), Binomial(n_trials=4), NegativeBinomial(shape=2.0), Gaussian(scale=0.7)]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def dense(family, y, mask, eta0, onsets=None, learn=False):
    """Return one window of counts whose predictor without events is known."""
    shape = (1, 1, 1, N_BINS)
    onsets = None if onsets is None else torch.from_numpy(onsets).reshape(1, 1, 1, -1)
    data = Observations(
        y.reshape(shape).double(),
        (mask > 0).reshape(shape),
        family,
        torch.from_numpy(np.broadcast_to(eta0, shape).copy()),
        learn,
        onsets=onsets,
    )
    return DenseCounts(data)


@pytest.mark.parametrize(("overlap", "distance"), [(1, 0), (2, 0), (2, 2), (2, LENGTH)])
@pytest.mark.parametrize("varying", ["constant", "mask", "baseline"])
@each_family
def test_sums_are_those_over_all_that_may_happen(family, varying, overlap, distance):
    generator = torch.Generator().manual_seed(1)
    eta0 = np.full(N_BINS, -0.4)
    if varying == "baseline":
        eta0 = eta0 + 0.3 * np.sin(np.arange(N_BINS))
    y = family.sample(torch.from_numpy(eta0), generator)
    mask = torch.ones(N_BINS, dtype=torch.float64)
    if varying == "mask":
        mask[[2, 6]] = 0
    model = model_of(overlap, distance)
    counts = dense(family, y, mask, eta0)
    sums, found = counts.sum(model, keep_posterior=True)
    truth = enumerate_events(family, y, mask, eta0, model)

    gain = found.evidence - counts.expect(model.take([])).evidence
    np.testing.assert_allclose(gain, truth.evidence, atol=1e-6)
    np.testing.assert_allclose(found.posterior[0], truth.posterior, atol=1e-6)
    np.testing.assert_allclose(sums.number, truth.posterior.sum(-1), atol=1e-6)
    np.testing.assert_allclose(sums.free, truth.free, rtol=1e-6)
    slope = sums.spikes - sums.expected
    np.testing.assert_allclose(slope[:, 0], truth.first, atol=2e-4)
    np.testing.assert_allclose(sums.second[:, 0], truth.second, atol=2e-4)
    np.testing.assert_allclose(found.residual[0, 0].sum(), truth.residual.sum(), atol=2e-4)
    np.testing.assert_allclose(found.curvature[0, 0].sum(), truth.curvature.sum(), atol=2e-4)
    if varying == "baseline":
        np.testing.assert_allclose(found.residual[0, 0], truth.residual, atol=2e-4)
        np.testing.assert_allclose(found.curvature[0, 0], truth.curvature, atol=2e-4)
