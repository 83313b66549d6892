"""The same counts, dense and as a list of spikes: the same sums, and the same step of EM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from populations import sequences

from spikecdl.events.dense import DenseCounts
from spikecdl.events.em import updated, without_events
from spikecdl.events.listed import ListedCounts
from spikecdl.events.model import EventModel
from spikecdl.events.spike_list import list_spikes
from spikecdl.model.families import Poisson
from spikecdl.model.observations import Observations

STRETCH = np.ones(200, bool)
STRETCH[70:140] = False  # longer than a template


def both(shown):
    """Return counts of three windows in both layouts, and a model with uncertain templates."""
    rng, shown = np.random.default_rng(0), np.resize(shown, (3, 200))
    templates = sequences(rng, 6, 8.0, 0.7)[:, :, ::2]
    eta = np.full((3, 6, 200), np.log(0.05))
    for window, onset, kind in ((0, 20, 0), (0, 32, 1), (1, 100, 1), (2, 150, 0), (2, 153, 0)):
        eta[window, :, onset : onset + 25] += templates[kind]
    counts = rng.poisson(np.exp(eta))
    y = torch.from_numpy(counts)[:, None].float()
    mask = torch.from_numpy(np.broadcast_to(shown[:, None, None], y.shape).copy())
    level = torch.full((3, 1, 6, 1), float(np.log(0.06)))
    dense = DenseCounts(Observations(y * mask, mask, Poisson(), level, True).load())
    listed = ListedCounts(list_spikes(counts, shown))
    model = EventModel.of_templates(templates, np.full((1, 6), np.log(0.06)))
    variance = 0.1 * rng.random(templates.shape)
    return (
        dense,
        listed,
        replace(model, variance=variance, amplitudes=model.amplitudes * [[1], [1.1]]),
    )


@pytest.mark.parametrize(("overlap", "n_knots"), [(1, 0), (2, 0), (1, 4), (2, 4)])
@pytest.mark.parametrize("shown", [[True], [True, True, False, True], STRETCH], ids=len)
def test_layouts_give_the_same_sums_and_the_same_step(shown, overlap, n_knots):
    dense, listed, model = both(shown)
    model = replace(model, timing=np.random.default_rng(4).normal(size=(2, n_knots)))
    model = replace(model, overlap=overlap, distance=3 if overlap == 2 else 0)
    one, other = dense.expect(model), listed.expect(model)
    for name in ("evidence", "number", "starts", "free", "level_slope", "level_curvature"):
        np.testing.assert_allclose(
            getattr(other, name), getattr(one, name), atol=1e-3, err_msg=name
        )
    for name in ("spikes", "expected", "curvature"):
        np.testing.assert_allclose(
            getattr(other, name), getattr(one, name), atol=4e-3, err_msg=name
        )
    chance = np.concatenate([found for _, found, _ in listed.posterior(model)])
    whole = np.concatenate([found for _, found, _ in dense.posterior(model)])
    np.testing.assert_allclose(chance, whole, atol=1e-5)
    steps = [updated(counts, model, counts.expect(model)) for counts in (dense, listed)]
    for name in (
        "templates",
        "variance",
        "rates",
        "baseline",
        "smoothness",
        "shrinkage",
        "cost",
        "timing",
    ):
        found = [getattr(step, name) for step in steps]
        np.testing.assert_allclose(*found, rtol=1e-2, atol=1e-3, err_msg=name)


def test_layouts_have_the_same_rates_without_events():
    dense, listed, _ = both([True])
    found = [without_events(counts, 25) for counts in (dense, listed)]
    np.testing.assert_allclose(found[0].baseline, found[1].baseline, atol=1e-3)
    evidence = [c.expect(m).evidence for c, m in zip((dense, listed), found, strict=True)]
    np.testing.assert_allclose(*evidence, atol=1e-3)
