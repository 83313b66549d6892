"""The main claim: templates come back from random starts, seed after seed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from spikecdl import DCEA
from spikecdl.evaluation.metrics import recovery
from spikecdl.simulate import simulate

SEEDS = range(10)


def errors_and_seconds(seed: int) -> tuple[np.ndarray, float]:
    """Fit the paper's three templates: 100 groups of 30 binomial trials at 8 Hz and 1 ms."""
    counts = simulate(
        n_trials=30, n_units=100, n_events=4, same_events=True, random_state=seed
    ).pool()
    began = time.perf_counter()
    model = DCEA(3, 0.05, "binomial", random_state=seed).fit(counts)
    seconds = time.perf_counter() - began
    return recovery(model.decompose(counts)).templates.errors, seconds


@pytest.mark.slow
def test_templates_of_the_paper_come_back(capsys):
    rows = [(seed, *errors_and_seconds(seed)) for seed in SEEDS]
    with capsys.disabled():
        print("\nseed  square    vee  cosine  seconds")
        for seed, (square, vee, cosine), seconds in rows:
            print(f"{seed:4d}  {square:6.3f} {vee:6.3f}  {cosine:6.3f}  {seconds:7.1f}")
    good = sum((errors < 0.2).all() for _, errors, _ in rows)
    assert good >= 9, f"all three errors below 0.2 in {good} of {len(SEEDS)} seeds"


def recovery_of_a_drop(seed: int) -> list[float]:
    """Fit a drop to a twentieth of the rate and a swing, 20 trials pooled; errors, hits, false."""
    bins = np.arange(20) + 0.5
    counts = simulate(
        templates=np.stack([-(np.sin(np.pi * bins / 20) ** 2), np.sin(2 * np.pi * bins / 20)]),
        n_trials=20,
        n_units=60,
        bin_size=0.005,
        n_events=4,
        amplitude=9.0,
        baseline=10.0,
        same_events=True,
        random_state=seed,
    ).pool()
    found = recovery(DCEA(2, 0.1, "binomial", random_state=seed).fit(counts).decompose(counts))
    return [*found.templates.errors, found.events.hit_rate, found.events.false_alarm_rate]


@pytest.mark.slow
def test_strong_drops_of_the_rate_are_found():
    drop, swing, hits, false = np.median([recovery_of_a_drop(seed) for seed in range(7)], axis=0)
    assert drop < 0.12
    assert swing < 0.1
    assert hits > 0.7
    assert false < 0.12
