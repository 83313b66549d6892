"""Histograms and fitted rates: the numbers drawn are those of the counts and of the fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from decompositions import made_up
from drawings import histogram, line, marks, shades, title

from spikecdl import plots
from spikecdl.data import BinnedSpikes, SpikeTrains

MASK = np.ones((4, 2, 120), bool)
MASK[1, 0, :48] = False
MASK[:, 1, 36:60] = False
MASK[2] = False


def test_rate_is_that_of_the_counts_and_of_the_fit():
    parts = made_up(trials=6, n_pooled=50)  # many spikes in each bin: none are merged
    ax = plots.rate(parts, unit=1)[-1]
    values, edges, _ = histogram(ax)
    np.testing.assert_allclose(edges, np.arange(121) * 0.005)
    np.testing.assert_allclose(values, parts.counts.counts[:, 1].sum(axis=0) / (6 * 50 * 0.005))
    fit = line(ax, "fit")
    np.testing.assert_allclose(fit.get_xdata(), (np.arange(120) + 0.5) * 0.005)
    np.testing.assert_allclose(fit.get_ydata(), parts.rate[:, 1].mean(axis=0))
    assert line(ax, "baseline").get_ydata()[0] == pytest.approx(parts.baseline[:, 1].mean())


def test_few_spikes_are_drawn_in_wider_bins_and_the_legend_says_so():
    parts = made_up(trials=4)
    ax = plots.rate(parts)[-1]
    values, edges, _ = histogram(ax)
    assert np.diff(edges) == pytest.approx(0.015)  # a quarter of 12 bins
    sums = parts.counts.counts[:, 0].sum(axis=0).reshape(-1, 3).sum(axis=1)
    np.testing.assert_allclose(values, sums / (4 * 0.015))
    means = parts.rate[:, 0].mean(axis=0).reshape(-1, 3).mean(axis=1)
    np.testing.assert_allclose(line(ax, "fit").get_ydata(), means)
    assert "data (15 ms bins)" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_unobserved_time_is_a_gap_and_grey():
    parts = made_up(mask=MASK, trials=4, n_pooled=50)
    raster_free = plots.rate(parts, unit=1)[-1]
    gap = np.zeros(120, bool)
    gap[36:60] = True
    np.testing.assert_array_equal(np.isnan(histogram(raster_free)[0]), gap)
    np.testing.assert_array_equal(np.isnan(line(raster_free, "fit").get_ydata()), gap)
    assert shades(raster_free) == [(0.18, 0.3)]

    first = plots.rate(parts, unit=0)[-1]  # some trial was always observed
    seen = MASK[:, 0]
    expected = (parts.counts.counts[:, 0].sum(axis=0)) / (seen.sum(axis=0) * 50 * 0.005)
    np.testing.assert_allclose(histogram(first)[0], expected)
    assert shades(first) == []

    assert shades(plots.raster(parts.counts, 0)) == [(0.0, 0.24), (0.0, 0.6)]
    for ax in plots.decomposition(parts, trial=1, unit=0):
        assert shades(ax) == [(0.0, 0.24)]
    assert np.isnan(line(plots.decomposition(parts, 1, 0)[0], "fit").get_ydata()[:48]).all()
    assert shades(plots.codes(parts)[0]) == [(0.0, 0.24), (0.0, 0.6)]


def test_rasters_of_pooled_counts_come_from_before_pooling():
    rng = np.random.default_rng(5)
    times = np.sort(rng.choice(5000, 400, replace=False)) * 0.002 + 0.0005
    edges = np.arange(10.0)
    trials = pd.DataFrame({"start_time": edges, "stop_time": edges + 1.0})
    spikes = SpikeTrains.from_arrays({"a": times}, trials=trials)
    counts = spikes.bin(0.01)
    assert len(plots.rate(counts.pool())) == 1
    raster, _ = plots.rate(counts.pool(), spikes=counts)
    assert len(marks(raster)) == np.count_nonzero(counts.counts)
    fine, _ = plots.rate(counts, spikes=spikes)
    np.testing.assert_allclose(np.sort(marks(fine)[:, 0, 0]), np.sort(times % 1), atol=6e-4)
    with pytest.raises(ValueError, match="BinnedSpikes from before pooling"):
        plots.rate(counts.pool(), spikes=spikes)
    other = SpikeTrains.from_arrays({"z": times})
    with pytest.raises(ValueError, match="no unit 'a'; it has \\['z'\\]"):
        plots.rate(counts, spikes=other)


def test_rates_figure_says_which_units_it_leaves_out():
    parts = made_up(units=12, n_pooled=50)
    figure = plots.rates_figure(parts, max_units=4)
    assert [title(ax) for ax in figure.axes] == [f"unit {k}" for k in range(4)]
    assert figure.get_suptitle() == "first 4 of 12 units"
    assert plots.rates_figure(made_up()).get_suptitle() == ""


def test_raster_has_a_mark_for_each_spike():
    mask = np.ones((4, 3, 120), bool)
    mask[1, :, :48], mask[2] = False, False
    counts = made_up(units=3, mask=mask).counts
    for unit in range(3):
        drawn = marks(plots.raster(counts, unit))
        trial, at = np.nonzero(counts.counts[:, unit])
        np.testing.assert_allclose(drawn[:, :, 0], np.tile((at + 0.5)[:, None] * 0.005, 2))
        np.testing.assert_allclose(drawn[:, :, 1].mean(axis=1), trial)
    every = marks(plots.raster(counts, None))
    assert len(every) == counts.counts.sum()
    assert np.bincount(every[:, :, 1].mean(axis=1).astype(int) // 4).tolist() == (
        counts.counts.sum(axis=(0, 2)).tolist()
    )


def test_raster_of_spike_trains_is_aligned_to_the_millisecond():
    trials = {"start_time": [0.0, 1.0], "stop_time": [1.0, 2.0], "cue": [0.2, 1.5]}
    spikes = SpikeTrains.from_arrays({"a": [0.25, 0.5], "b": [1.2504, 1.9]}, trials=trials)
    np.testing.assert_allclose(
        marks(plots.raster(spikes, 1))[:, 0], [[0.2505, 0.58], [0.9005, 0.58]]
    )
    ax = plots.raster(spikes, 0, align="cue", window=(0.0, 0.4))
    np.testing.assert_allclose(marks(ax)[:, 0], [[0.0505, -0.42], [0.3005, -0.42]])
    assert ax.get_xlim() == (0.0, 0.4)


def test_raster_of_an_hour_is_not_drawn_by_milliseconds():
    spikes = SpikeTrains.from_arrays([np.arange(1.0, 3600.0, 7.0)], observed=(0.0, 3600.0))
    ax = plots.raster(spikes)
    np.testing.assert_allclose(marks(ax)[:, 0, 0], np.arange(1.0, 3600.0, 7.0), atol=0.08)


def test_fewer_units_are_drawn_where_each_takes_the_width_of_the_page():
    for n_bins, words in ((500, "first 9 of 12 units"), (1500, "first 4 of 12 units")):
        counts = BinnedSpikes.from_array(np.ones((1, 12, n_bins), int), bin_size=0.01)
        assert plots.rates_figure(counts).get_suptitle() == words
