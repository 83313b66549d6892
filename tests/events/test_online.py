"""Events while they happen: the filter is what the posterior is when later bins are unobserved."""

from __future__ import annotations

import numpy as np
import pytest
from populations import LENGTH, population
from tables import refused

from spikecdl import DCEA, BinnedSpikes, Marginal, Online
from spikecdl.events import posterior
from spikecdl.training.events import event_model

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")


@pytest.fixture(scope="module")
def fitted() -> tuple[DCEA, np.ndarray]:
    counts = population(n_units=40, duration=60.0, n_events=20)
    trainer = Marginal(overlap=1)
    model = DCEA(2, 0.5, "poisson", layout="joint", trainer=trainer, random_state=0).fit(counts)
    return model, np.asarray(counts.counts[0])


def known_until(model: DCEA, counts: np.ndarray, last: int) -> np.ndarray:
    """Probabilities (template, onset) if no bin after the last is observed."""
    shape = (1, len(counts), last + LENGTH)
    padded, mask = np.zeros(shape, int), np.zeros(shape, bool)
    padded[0, :, : last + 1], mask[..., : last + 1] = counts[:, : last + 1], True
    problem, tensors, _ = model._event_model(BinnedSpikes.from_array(padded, 0.01, mask=mask))
    levels = np.log(model.unit_rate_).reshape(1, -1)
    (_, chance, _), *_ = posterior.posterior(*event_model(problem, tensors, levels))
    return chance[0].sum(1)


def test_it_is_exact(fitted):
    model, counts = fitted
    online, seen = Online(model, 0.01, recent=3), 0.0
    for last in range(600):
        now = online.step(counts[:, last])
        if last % 37 == 0:
            chance = known_until(model, counts, last)
            begun = chance[:, max(0, last - LENGTH + 1) : last + 1]
            assert now.under_way == pytest.approx(begun.sum(1), abs=1e-12)
            assert now.began == pytest.approx(
                chance[:, max(0, last - 2) : last + 1].sum(1), abs=1e-12
            )
            age = np.arange(begun.shape[1])[::-1]
            assert now.since * now.under_way == pytest.approx(begun @ age, abs=1e-9)
            seen = max(seen, float(now.under_way.max()))
    assert seen > 0.5


def test_state_is_saved_restored_and_forgotten(fitted):
    model, counts = fitted
    online, other = Online(model), Online(model)
    first = [online.step(counts[:, t]) for t in range(200)]
    state = online.state
    later = [online.step(counts[:, t]).under_way for t in range(200, 300)]
    other.restore(state)
    assert other.n_bins == 200
    assert np.array_equal(later, [other.step(counts[:, t]).under_way for t in range(200, 300)])
    other.reset()
    assert np.array_equal(other.step(counts[:, 0]).under_way, first[0].under_way)


def test_rates_ahead_are_those_of_events_under_way(fitted):
    model, counts = fitted
    online = Online(model)
    rest = online.ahead(3)
    assert rest == pytest.approx(np.repeat(np.reshape(model.unit_rate_, (-1, 1)) / 0.01, 3, axis=1))
    gained = []
    for t in range(2000):
        now = online.step(counts[:, t])
        if now.under_way.max() > 0.99 and now.since[now.under_way.argmax()] < 15:
            ahead, coming = online.ahead(20) * 0.01, counts[:, t + 1 : t + 21]
            alone = rest[:, :1] * 0.01
            gained.append((coming * np.log(ahead / alone) - ahead + alone).sum())
    assert len(gained) > 20
    assert np.mean(gained) > 1.0  # nats above a constant rate


def test_what_cannot_be_filtered_is_refused(fitted):
    model, counts = fitted
    with refused(ValueError, "must be that of the fit, 0.01", "bin size"):
        Online(model, 0.02)
    with refused(ValueError, r"`counts` \(3,\) must have shape \(40,\)", "units"):
        Online(model).step(counts[:3, 0])
    with refused(ValueError, "must not be below zero", "negative"):
        Online(model).step(-np.ones(40))
    with refused(ValueError, "is not fitted", "not fitted"):
        Online(DCEA())
    shared = DCEA(1, 10, "poisson", n_epochs=1).fit(counts[None, :2, :200])
    with refused(ValueError, "layout='joint'", "shared"):
        Online(shared)
