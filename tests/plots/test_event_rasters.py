"""Rasters around events: the rows are those of the counts, the curves those of the fit."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from decompositions import made_up
from drawings import histogram, line, marks, shades, title

from spikecdl import plots
from spikecdl.data import BinnedSpikes


def rows_of(parts, template, unit, before=6, after=18):
    """Counts around each event of a template, the largest event first; nan outside the trial."""
    padded = np.pad(
        parts.counts.counts[:, unit].astype(float),
        ((0, 0), (before, after)),
        constant_values=np.nan,
    )
    codes = parts.codes[:, 0 if parts.layout == "joint" else unit, template]
    trial, onset = np.nonzero(codes)
    order = np.argsort(-np.abs(codes[trial, onset]), kind="stable")
    pairs = zip(trial[order], onset[order], strict=True)
    return np.array([padded[t, o : o + before + after] for t, o in pairs])


@pytest.mark.parametrize("layout", ["shared", "joint"])
def test_a_row_for_each_event_with_the_largest_on_top(layout):
    parts = made_up("poisson", layout, trials=5, bins=100)
    above, _ = plots.event_raster(parts, 1, 1)
    expected = rows_of(parts, 1, 1)
    row, at = np.nonzero(np.nan_to_num(expected))
    drawn = marks(above)
    np.testing.assert_allclose(drawn[:, :, 1].mean(axis=1), row)
    np.testing.assert_allclose(drawn[:, 0, 0], (at + 0.5 - 6) * 0.005)
    outside = np.isnan(expected)
    assert len(shades(above)) == np.count_nonzero(outside[:, 0]) + np.count_nonzero(outside[:, -1])
    assert title(above) == f"unit 1 · template 1 · {len(expected)} events"


def test_the_rate_around_events_is_that_of_counts_and_of_the_fit():
    parts = made_up(trials=6, n_pooled=50)  # many spikes in each bin: none are averaged
    below = plots.event_raster(parts, 0, 1)[1]
    rows = rows_of(parts, 0, 1)
    np.testing.assert_allclose(histogram(below)[0], np.nanmean(rows, axis=0) / (50 * 0.005))
    trial, onset = np.nonzero(parts.codes[:, 1, 0])
    rate = np.pad(parts.rate[:, 1], ((0, 0), (6, 18)), constant_values=np.nan)
    windows = [rate[t, o : o + 24] for t, o in zip(trial, onset, strict=True)]
    fit = line(below, "fit")
    np.testing.assert_allclose(fit.get_ydata(), np.nanmean(windows, axis=0))
    np.testing.assert_allclose(fit.get_xdata(), (np.arange(24) - 5.5) * 0.005)


def test_rows_may_be_sorted_by_time_or_probability_and_aligned_to_the_peak():
    parts = made_up("poisson", trials=1, units=1, n_templates=1)
    codes = np.zeros_like(parts.codes)
    codes[0, 0, 0, [20, 40, 60]] = [1.0, 3.0, 2.0]
    object.__setattr__(parts, "codes", codes)
    table = np.ones((3, 7))
    table[:, 3] = [0.5, 0.2, 0.9]
    certain = made_up("poisson", trials=1, units=1, n_templates=1)
    object.__setattr__(certain, "codes", codes)
    object.__setattr__(certain, "certainty", lambda: (table, None))
    spikes = np.zeros(parts.counts.shape, int)
    spikes[0, 0, [20, 40, 41, 60, 61, 62]] = 1  # as many as the place of the event
    for each in (parts, certain):
        object.__setattr__(each, "counts", BinnedSpikes.from_array(spikes, 0.005))

    def n_spikes(source, **how):
        above = plots.event_raster(source, window=(0.0, 0.015), **how)[0]
        return np.bincount(marks(above)[:, :, 1].mean(axis=1).round().astype(int)).tolist()

    assert n_spikes(parts) == [2, 3, 1]
    assert n_spikes(parts, sort="time") == [1, 2, 3]
    assert n_spikes(certain, sort="probability") == [3, 1, 2]
    peak = round((parts.events()["peak_time"] - parts.events()["time"])[0] / 0.005)
    above = plots.event_raster(parts, align="peak", sort="time")[0]
    assert marks(above)[0, 0, 0] == pytest.approx((0.5 - peak) * 0.005)
    assert above.figure.axes[1].get_xlabel() == "time from peak (s)"
    rise = round((parts.events()["response_time"] - parts.events()["time"])[0] / 0.005)
    above = plots.event_raster(parts, align="response", sort="time")[0]
    assert marks(above)[0, 0, 0] == pytest.approx((0.5 - rise) * 0.005)
    assert above.figure.axes[1].get_xlabel() == "time from response (s)"
    with pytest.raises(ValueError, match="`sort` .*needs probabilities.*'amplitude' or 'time'"):
        plots.event_raster(parts, sort="probability")
    with pytest.raises(ValueError, match="`align` .*'valley'.*onset"):
        plots.event_raster(parts, align="valley")
    with pytest.raises(ValueError, match="`window` .* must be at least a bin"):
        plots.event_raster(parts, window=(0.1, 0.1))


def test_pooled_events_have_a_row_for_each_trial():
    counts = made_up("poisson", trials=3, n_templates=1).counts
    pooled = made_up("poisson", trials=1, n_templates=1, n_events=2)
    object.__setattr__(pooled, "counts", counts.pool())
    above, below = plots.event_raster(pooled, spikes=counts)
    trial = np.arange(3)
    onsets = np.flatnonzero(pooled.codes[0, 0, 0])
    onsets = onsets[np.argsort(-pooled.codes[0, 0, 0, onsets])]
    padded = np.pad(counts.counts[:, 0], ((0, 0), (6, 18)))
    expected = np.concatenate([padded[trial, o : o + 24] for o in onsets])
    assert len(marks(above)) == np.count_nonzero(expected)
    assert above.get_ylabel() == "event, trial"
    assert plots.event_raster(pooled, ax=plt.subplots()[1]).shape == (1,)


def test_many_events_are_thinned_and_the_axis_says_so():
    parts = made_up("poisson", trials=600, units=1, n_templates=1, n_events=2)
    above = plots.event_raster(parts)[0]
    assert above.get_ylabel() == "event (1 of 3)"
    assert above.get_ylim() == (399.5, -0.5)


def test_no_events_no_rows():
    above, below = plots.event_raster(made_up(n_events=0))
    assert [ax.texts[0].get_text() for ax in (above, below)] == ["no events"] * 2
    plots.event_figure(made_up(n_events=0)).draw_without_rendering()


def test_the_figure_shows_the_units_that_have_the_events():
    parts = made_up("poisson", units=5, n_templates=4)
    codes = parts.codes.copy()
    codes[:, :2] = 0
    object.__setattr__(parts, "codes", codes)
    figure = plots.event_figure(parts)
    titles = [title(ax).split(" · ")[0] for ax in figure.axes if title(ax)]
    assert set(titles) == {"unit 2", "unit 3", "unit 4"}
    assert figure.get_suptitle() == "3 of 4 templates · 3 of 5 units"
    joint = plots.event_figure(made_up("poisson", "joint", units=2, n_templates=1))
    assert len(joint.axes) == 4


def test_the_figure_of_single_trials_says_why_data_exceed_the_fit():
    for n_pooled, said in ((1, True), (20, False)):
        parts = made_up(n_pooled=n_pooled)
        assert not plots.event_figure(parts).legends[0].get_title().get_text()
        table = np.ones((np.count_nonzero(parts.codes), 7))
        object.__setattr__(parts, "certainty", lambda table=table: (table, None))
        figure = plots.event_figure(parts)
        title = figure.legends[0].get_title()
        assert ("exceed the fit" in title.get_text()) == said
        figure.draw_without_rendering()
        assert figure.legends[0].get_window_extent().x0 >= 0


@pytest.mark.parametrize(("n_templates", "length"), [(1, 20), (1, 25), (3, 20), (3, 12)])
def test_times_below_a_narrow_panel_do_not_touch(n_templates, length):
    figure = plots.event_figure(made_up(units=1, n_templates=n_templates, length=length))
    figure.draw_without_rendering()
    for panel in figure.axes[-n_templates:]:
        first, last = panel.get_xlim()
        labels = [x for x in panel.get_xticklabels() if first <= x.get_position()[0] <= last]
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) > 1
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.fixture
def population():
    """Three units, of which template 1 is largest in the first and template 0 in the others."""
    parts = made_up("poisson", "joint", units=3, trials=2, length=12)
    templates = np.zeros((2, 3, 12))
    templates[1, 0, 4], templates[0, 1, 7], templates[0, 2, 2] = 1.0, 1.0, 0.9
    object.__setattr__(parts, "templates", templates)
    codes = np.zeros_like(parts.codes)
    codes[1, 0, 0, [30, 70]], codes[1, 0, 1, 50] = 2.0, 2.0
    object.__setattr__(parts, "codes", codes)
    return parts


def test_a_population_is_sorted_by_template_and_time_of_peak(population):
    ax = plots.population_raster(population, 1)
    counts = population.counts.counts[1, [2, 1, 0]]
    row, at = np.nonzero(counts)
    drawn = marks(ax)[: len(row)]  # then the bars beside the units
    np.testing.assert_allclose(drawn[:, :, 1].mean(axis=1), row)
    np.testing.assert_allclose(drawn[:, 0, 0], (at + 0.5) * 0.005)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["2", "1", "0"]
    curves = [curve.get_xdata() for curve in ax.lines if len(curve.get_xdata())]
    onsets = np.array([30, 70]) * 0.005
    np.testing.assert_allclose(curves[0], onsets)
    np.testing.assert_allclose(curves[1], onsets[0] + np.array([2.5, 7.5]) * 0.005)
    np.testing.assert_allclose(curves[3], [50 * 0.005])
    with pytest.raises(ValueError, match="must be of the joint layout"):
        plots.population_raster(made_up())


@pytest.fixture
def long():
    """One trial of 300 templates, with three of its five events at the end."""
    parts = made_up("poisson", trials=1, units=2, bins=3600, n_templates=1, n_events=0)
    codes = np.zeros_like(parts.codes)
    codes[0, 1, 0, [10, 1500, 3300, 3400, 3500]] = 4.0
    object.__setattr__(parts, "codes", codes)
    return parts


def test_a_long_window_is_drawn_where_most_events_are(long):
    figure = plots.rates_figure(long)
    ax = figure.axes[3]
    start, stop = ax.get_xlim()
    assert stop - start == pytest.approx(20 * 12 * 0.005)
    assert start <= 3300 * 0.005
    assert (3512) * 0.005 <= stop + 1e-9
    assert figure.get_suptitle() == "the 1.2 s of 18 s with most events"
    first = round(start / 0.005)
    at = np.flatnonzero(long.counts.counts[0, 1, first : first + 240])
    np.testing.assert_allclose(marks(figure.axes[1])[:, 0, 0], start + (at + 0.5) * 0.005)
    fit = line(ax, "fit").get_ydata()
    means = long.rate[0, 1, first : first + 240].reshape(len(fit), -1).mean(axis=1)
    np.testing.assert_allclose(fit, means)


def test_the_stretch_may_be_given(long):
    for window, shown in (((1.0, 2.0), (1.0, 2.0)), ((-np.inf, np.inf), (0.0, 18.0))):
        figure = plots.rates_figure(long, long.counts, window=window)
        assert figure.axes[-1].get_xlim() == pytest.approx(shown)
        assert figure.get_suptitle() == ""
    for window in ((20.0, 30.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match=r"`window` .* must hold bins, .* from 0 to 18 s"):
            plots.rates_figure(long, window=window)
