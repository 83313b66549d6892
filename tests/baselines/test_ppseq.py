"""PP-Seq on data of its own model, and its sampler against sums over all assignments."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

from spikecdl import BinnedSpikes
from spikecdl.baselines import PPSeq
from spikecdl.baselines.ppseq import _draw_owners, _Sequences
from spikecdl.evaluation.metrics import deviance_explained
from spikecdl.model.families import Poisson

BIN, N_UNITS = 0.01, 30


def recording(random_state: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw counts (unit, bin) of a minute and the times of events, one every two seconds."""
    rng = np.random.default_rng(random_state)
    counts = rng.poisson(BIN, (N_UNITS, 6000))
    share, offset = rng.dirichlet(np.full(N_UNITS, 0.5)), rng.uniform(-0.2, 0.2, N_UNITS)
    events = np.arange(1, 59, 2) + rng.uniform(0, 1, 29)
    for when in events:
        unit = rng.choice(N_UNITS, rng.poisson(30), p=share)
        time = when + offset[unit] + rng.normal(0, 0.02, unit.size)
        np.add.at(counts, (unit, (time / BIN).astype(int)), 1)
    return counts, events


def test_events_of_its_own_model_are_found():
    counts, events = recording()
    model = PPSeq(1, 0.5, n_sweeps=400).fit(BinnedSpikes.from_array(counts[None], BIN))
    late = model.events_["time"].to_numpy()[:, None] - events
    late -= np.median(late[np.abs(late) < 0.3])  # a shift of all events is a convention
    assert (np.abs(late) < 0.05).any(0).mean() > 0.9
    assert (np.abs(late) < 0.05).any(1).mean() > 0.9


def test_hidden_bins_are_predicted_from_the_other_units():
    counts, _ = recording()
    mask = np.repeat(np.random.default_rng(1).random((N_UNITS, 60)) > 0.2, 100, axis=1)
    seen = BinnedSpikes.from_array(np.where(mask, counts, 0)[None], BIN, mask=mask[None])
    mean = PPSeq(1, 0.5, n_sweeps=400).fit(seen).predict(seen)[0]
    null = (counts * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True)
    assert deviance_explained(counts, mean, null, Poisson(), mask=~mask) > 0.1
    assert mean[~mask].sum() == pytest.approx(counts[~mask].sum(), rel=0.15)


def test_assignments_have_their_posterior_probabilities():
    time, unit = np.array([0.0, 0.03, 0.2]), np.array([0, 1, 0])
    shares, offsets = np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([[0.0, 0.05], [0.1, 0.0]])
    variance, weight, background = np.full((2, 2), 0.004), np.array([0.6, 0.4]), np.array([0.5, 1])
    shape, rate, per_time, grid = 2.0, 0.5, 3.0, np.linspace(-2, 2, 4001)

    def log_joint(owner: tuple[int, ...]) -> float:
        total = 0.0
        for event in set(owner):
            of = [i for i in range(3) if owner[i] == event]
            if event < 0:
                total += np.log(background[unit[of]]).sum()
                continue
            late = time[of, None] - grid - offsets[:, unit[of], None]
            density = norm.pdf(late, scale=np.sqrt(0.004)) * shares[:, unit[of], None]
            size = gammaln(shape + len(of)) - gammaln(shape) + shape * np.log(rate)
            total += np.log(per_time) + size - (shape + len(of)) * np.log(1 + rate)
            total += np.log((weight @ density.prod(1)).sum() * (grid[1] - grid[0]))
        return total

    def partition(owner: np.ndarray) -> tuple[int, ...]:
        names = {-1: -1}
        return tuple(names.setdefault(k, len(names) - 1) for k in map(int, owner))

    states = sorted({partition(np.array(o)) for o in product(range(-1, 3), repeat=3)})
    logs = np.array([log_joint(state) for state in states])
    expected = np.exp(logs - logsumexp(logs))
    owner, found, rng = np.full(3, -1), Counter(), np.random.default_rng(0)
    sequences = _Sequences(shares, offsets, variance, weight, background)
    for _ in range(30_000):
        draws, prior = (rng.permutation(3), rng.random(3)), (shape, rate, per_time, 1.0)
        _draw_owners((time, unit, owner), draws, sequences, prior)
        owner = np.array(partition(owner))
        found[partition(owner)] += 1
    measured = np.array([found[state] for state in states]) / 30_000
    np.testing.assert_allclose(measured, expected, atol=0.015)


@pytest.mark.parametrize(
    ("counts", "settings", "said"),
    [
        (np.ones((2, 3, 9), int), {}, "single trial"),
        (np.ones((1, 3, 9)) / 2, {}, "single trial"),
        (np.ones((1, 3, 9), int), {"event_rate": 0.0}, "event_rate"),
    ],
)
def test_what_is_refused(counts, settings, said):
    with pytest.raises(ValueError, match=said):
        PPSeq(1, 0.05, **settings).fit(BinnedSpikes.from_array(counts, BIN))
