"""Sums over events, of which two may overlap, against the enumeration of all that can happen."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl.solvers.event_pairs import draw_events, sum_window, sum_windows
from spikecdl.solvers.spike_list import list_spikes, scores, spikes_under

N_BINS, N_TEMPLATES, LENGTH, LOG_IDLE = 9, 2, 3, -0.4
PATTERN = np.random.default_rng(0).integers(2, size=N_BINS, dtype=np.int32)


def enumerated(weight, crowding, with_pairs):
    """Return the log of the sum over all configurations, and the probability of every event."""
    n_onsets, found = N_BINS - LENGTH + 1, []

    def idle(first, last):
        return LOG_IDLE * max(0, min(last, n_onsets) - first)

    def go_on(t, log_weight, events):
        if t == N_BINS:
            found.append((log_weight, events))
            return
        go_on(t + 1, log_weight + idle(t, t + 1), events)
        for b in range(N_TEMPLATES if t < n_onsets else 0):
            alone = log_weight + weight[t, b]
            rest = idle(t + 1, t + LENGTH) if with_pairs else 0.0
            go_on(t + LENGTH, alone + rest, [*events, (t, b)])
            for s in range(t + 1, min(t + LENGTH, n_onsets) if with_pairs else 0):
                for c in range(N_TEMPLATES):
                    both = alone + idle(t + 1, s) + weight[s, c]
                    both -= crowding[PATTERN[t], b, c, s - t]
                    go_on(s + LENGTH, both, [*events, (t, b), (s, c)])

    go_on(0, 0.0, [])
    logs = np.array([log_weight for log_weight, _ in found])
    total, posterior = np.logaddexp.reduce(logs), np.zeros_like(weight)
    for log_weight, events in found:
        for event in events:
            posterior[event] += np.exp(log_weight - total)
    return total, posterior


@pytest.fixture
def window():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(N_BINS, N_TEMPLATES)) - 1
    return weight, 2 * rng.random((2, N_TEMPLATES, N_TEMPLATES, LENGTH))


@pytest.mark.parametrize("with_pairs", [False, True])
def test_sums_are_those_over_all_configurations(window, with_pairs):
    weight, crowding = window
    pairs = np.zeros((N_TEMPLATES, N_TEMPLATES, LENGTH if with_pairs else 0))
    posterior = np.empty_like(weight)
    evidence, _ = sum_window(weight, LOG_IDLE, crowding, PATTERN, posterior, pairs)
    total, expected = enumerated(weight, crowding, with_pairs)
    assert evidence == pytest.approx(total, rel=1e-10)
    np.testing.assert_allclose(posterior, expected, atol=1e-10)


def test_draws_have_the_probabilities_of_the_posterior(window):
    weight, crowding = window
    rng, total = np.random.default_rng(1), np.zeros_like(weight)
    for _ in range(4000):
        drawn = np.zeros(weight.shape, np.bool_)
        draw_events(weight, LOG_IDLE, crowding, PATTERN, rng.random(N_BINS), drawn)
        total += drawn
    np.testing.assert_allclose(total / 4000, enumerated(weight, crowding, True)[1], atol=0.03)


def test_windows_are_summed_apart(window):
    weight, crowding = window
    both = np.concatenate([weight, weight[::-1]])
    evidence, posterior, *_ = sum_windows(
        both, (2, N_BINS), LOG_IDLE, crowding, np.tile(PATTERN, 2), True
    )
    for number, part in enumerate((weight, weight[::-1])):
        total, expected = enumerated(part, crowding, True)
        assert evidence[number] == pytest.approx(total)
        bins = slice(number * N_BINS, (number + 1) * N_BINS)
        np.testing.assert_allclose(posterior[bins], expected, atol=1e-10)


def test_scores_and_sums_of_spikes_are_correlations():
    rng = np.random.default_rng(0)
    counts, templates = rng.poisson(0.1, (2, 5, 100)), rng.normal(size=(3, 5, 10))
    spikes = list_spikes(counts)
    assert spikes.totals().tolist() == counts.sum((0, 2)).tolist()
    found = scores(spikes, templates).reshape(2, 100, 3)[:, :91]
    patches = np.lib.stride_tricks.sliding_window_view(counts, 10, axis=2)
    np.testing.assert_allclose(found, np.einsum("nusk,cuk->nsc", patches, templates), atol=1e-12)
    weight = np.zeros((2, 100, 3))
    weight[:, :91] = rng.random((2, 91, 3)) * (rng.random((2, 91, 3)) < 0.1)
    expected = np.einsum("nusk,nsc->cuk", patches, weight[:, :91])
    np.testing.assert_allclose(spikes_under(spikes, weight.reshape(200, 3), 10), expected)


def test_stretches_are_windows_of_the_same_spikes():
    counts = np.random.default_rng(0).poisson(0.3, (1, 4, 60))
    some = list_spikes(counts).stretches(np.array([5, 40]), 10)
    again = list_spikes(np.stack([counts[0, :, 5:15], counts[0, :, 40:50]]))
    assert some.shape == again.shape
    assert some.first.tolist() == again.first.tolist()
    assert some.unit.tolist() == again.unit.tolist()
