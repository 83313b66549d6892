"""Codes and one window: stems, onsets and what each template adds."""

from __future__ import annotations

import os

import numpy as np
import pytest
from decompositions import made_up
from drawings import histogram, line, marks, title
from recordings import make_counts, make_decomposition

from spikecdl import plots


@pytest.mark.parametrize("two_sided", [False, True])
def test_codes_are_stems_at_their_onsets(two_sided):
    parts = made_up(two_sided=two_sided)
    for unit, ax in enumerate(plots.codes(parts)):
        drawn = marks(ax)
        values = parts.codes[:, unit]
        number, trial, at = np.nonzero(values.swapaxes(0, 1))
        np.testing.assert_allclose(drawn[:, 0, 0], at * 0.005)
        heights = drawn[:, 0, 1] - drawn[:, 1, 1]  # rows count downwards
        size = (0.42 if two_sided else 0.84) / np.abs(values).max()
        np.testing.assert_allclose(heights, size * values[trial, number, at])
        assert title(ax) == f"unit {unit} · tallest stem {np.abs(values).max():.3g}"
        assert (np.abs(drawn[:, :, 1] - trial[:, None]) <= 0.42 + 1e-9).all()


def test_improbable_events_are_pale():
    parts = made_up(trials=2, units=1)
    n_events = np.count_nonzero(parts.codes)
    table = np.ones((n_events, 7))
    table[:, 3] = np.linspace(0, 1, n_events)
    object.__setattr__(parts, "certainty", lambda: (table, None))
    ax = plots.codes(parts)[0]
    drawn = np.concatenate([lines.get_colors() for lines in ax.collections])[:, 3]
    assert drawn.min() == pytest.approx(0.15)
    assert drawn.max() == pytest.approx(1)
    assert len(np.unique(drawn.round(6))) == n_events


def test_codes_of_one_trial_have_their_amplitude_on_the_axis():
    parts = made_up(trials=1)
    ax = plots.codes(parts, units=[1])[0]
    number, at = np.nonzero(parts.codes[0, 1])
    np.testing.assert_allclose(marks(ax)[:, 1, 1], parts.codes[0, 1, number, at])
    assert ax.get_ylabel() == "amplitude"
    empty = plots.codes(made_up(trials=1, n_events=0))[0]
    assert "no events" in [text.get_text() for text in empty.texts]


def test_decomposition_draws_the_parts_of_one_window():
    parts = made_up(n_pooled=20)
    top, *rest = plots.decomposition(parts, trial=2, unit=1)
    np.testing.assert_allclose(line(top, "fit").get_ydata(), parts.rate[2, 1])
    np.testing.assert_allclose(
        histogram(top)[0], parts.counts.counts[2, 1] / (20 * 0.005), rtol=1e-6
    )
    for k, ax in enumerate(rest):
        curves = {len(artist.get_xdata()): artist for artist in ax.lines}
        np.testing.assert_allclose(curves[120].get_ydata(), parts.contributions[2, 1, k])
        onsets = np.flatnonzero(parts.codes[2, 1, k])
        np.testing.assert_allclose(curves[len(onsets)].get_xdata(), onsets * 0.005)
        assert ax.get_ylim() == rest[0].get_ylim()


def test_decomposition_marks_single_spikes():
    parts = made_up()
    top = plots.decomposition(parts, 1, 0)[0]
    (spikes,) = [c for c in top.collections if c.get_label() == "spikes"]
    at = np.flatnonzero(parts.counts.counts[1, 0])
    np.testing.assert_allclose(spikes.get_offsets()[:, 0], (at + 0.5) * 0.005)


def test_a_panel_without_events_draws_no_warning():
    """Matplotlib gave up its layout for an empty line that is not clipped."""
    counts = make_counts(masked=False).pool()
    parts = make_decomposition(counts)
    codes = np.zeros_like(parts.codes)
    codes[0, 0, 0, 1] = 1.0
    object.__setattr__(parts, "codes", codes)
    plots.codes(parts)[0].figure.savefig(os.devnull, format="png")
