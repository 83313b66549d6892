"""Shapes of templates against the paper's words and the fewest assumptions about the others."""

from __future__ import annotations

import numpy as np
import pytest
from tables import refused

from spikecdl.simulate import SHAPES, sequence, waveform

each_shape = pytest.mark.parametrize("shape", sorted(SHAPES))

SQUARE = [1.0] * 25 + [-1.0] * 25
FALL = np.linspace(1, -1, 25)
TURN = np.cos(0.2565 * np.arange(25))
PAPER = {
    "square": np.array(SQUARE),
    "vee": np.concatenate([FALL, FALL[::-1]]),
    "cosine": np.concatenate([TURN, TURN[::-1]]),
}


@pytest.mark.parametrize("shape", PAPER)
def test_shapes_are_those_of_the_paper(shape):
    expected = PAPER[shape] / np.linalg.norm(PAPER[shape])
    np.testing.assert_allclose(waveform(shape, 50), expected, atol=1e-12)


def test_shapes_of_the_paper_are_nearly_orthogonal_where_they_lie():
    templates = np.stack([waveform(shape, 50) for shape in PAPER])
    coherence = np.abs(templates @ templates.T - np.eye(3))
    assert coherence.max() <= 0.05


def test_largest_coherence_over_shifts_is_the_known_one():
    templates = [waveform(shape, 50) for shape in PAPER]
    largest = max(
        np.abs(np.correlate(one, other, "full")).max()
        for i, one in enumerate(templates)
        for other in templates[:i]
    )
    assert largest == pytest.approx(0.649, abs=0.001)


@each_shape
def test_unit_norm_at_any_length(shape):
    for n_bins in [2, 3, 7, 50, 51]:
        template = waveform(shape, n_bins)
        assert template.shape == (n_bins,)
        assert np.linalg.norm(template) == pytest.approx(1)


@pytest.mark.parametrize("shape", ["vee", "cosine"])
def test_mirrored(shape):
    for n_bins in [20, 21]:
        np.testing.assert_allclose(waveform(shape, n_bins), waveform(shape, n_bins)[::-1])


def test_smooth_is_random_smooth_and_begins_and_ends_low():
    one, other = (waveform("smooth", 100, np.random.default_rng(seed)) for seed in (0, 1))
    assert abs(one @ other) < 0.95
    for template in (one, other):
        assert np.abs(np.diff(template)).max() < 0.1
        assert max(abs(template[0]), abs(template[-1])) < 0.3 * np.abs(template).max()
    np.testing.assert_array_equal(one, waveform("smooth", 100, np.random.default_rng(0)))


@each_shape
def test_sequences_are_the_waveform_at_some_latency_of_each_unit(shape):
    template = sequence(shape, 5, 40, np.random.default_rng(3))
    assert template.shape == (5, 40)
    assert np.linalg.norm(template) == pytest.approx(1)
    first = [row[np.flatnonzero(row)[0] :][:5] for row in template]
    for row in first[1:]:
        np.testing.assert_allclose(row, first[0], atol=1e-12)
    assert len({int(np.flatnonzero(row)[0]) for row in template}) > 1


def test_errors():
    for arguments, error, words in [
        (("triangle", 10), ValueError, "`shape`.*square"),
        (("square", 1), ValueError, "`n_bins`.*at least 2"),
        (("square", 2.5), TypeError, "`n_bins`.*integer"),
    ]:
        with refused(error, words, arguments):
            waveform(*arguments)
