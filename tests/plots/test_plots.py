"""Figures: what is drawn is what was given, on the axes that were given, with units."""

from __future__ import annotations

import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from decompositions import made_up
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import AxLine
from matplotlib.patches import StepPatch
from sklearn.exceptions import NotFittedError

import spikecdl
from spikecdl import plots
from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains, Truth
from spikecdl.estimator import NotConvergedWarning
from spikecdl.evaluation.goodness_of_fit import TimeRescaling, of_decomposition
from spikecdl.evaluation.metrics import rate_gain, template_error, template_table
from spikecdl.model.families import FAMILIES

MASK = np.ones((4, 2, 120), bool)
MASK[1, 0, :48] = False
MASK[:, 1, 36:60] = False
MASK[2] = False

NO_EVENTS = pd.DataFrame(columns=["trial", "unit", "template", "time", "amplitude"])

FIGURES = {
    "raster": lambda d: plots.raster(d.counts),
    "raster of all": lambda d: plots.raster(d.counts, None),
    "rate": plots.rate,
    "rate of counts": lambda d: plots.rate(d.counts),
    "rates": plots.rates_figure,
    "templates": plots.templates,
    "codes": plots.codes,
    "decomposition": plots.decomposition,
}
CASES = {
    "few": {},
    "one of each": {"trials": 1, "units": 1, "n_templates": 1},
    "many units": {"units": 50, "n_templates": 8},
    "many trials": {"trials": 200, "units": 1},
    "long": {"trials": 1, "bins": 6000, "bin_size": 0.01, "n_events": 40},
    "no events": {"n_events": 0},
    "masked": {"mask": MASK},
    "never observed": {"mask": np.arange(2)[:, None] > 0},
    "pooled": {"trials": 1, "n_pooled": 50},
    "two-sided": {"two_sided": True},
    "bins for seconds": {"bin_size": 1.0},
    "one bin": {"length": 1, "bins": 1, "n_events": 1},
    "long names": {"unit_ids": ("<b>$unit_1$ with a very long name</b>", "µ")},
}


def rescaled(parts: Decomposition) -> TimeRescaling:
    """Return its test in rescaled time."""
    found = of_decomposition(parts, parts.family)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model():
    counts = made_up("poisson", trials=6, units=2, bins=100, n_pooled=20).counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        return spikecdl.DCEA(2, 0.06, "poisson", n_epochs=2, random_state=0).fit(counts)


def axes_of(thing) -> list:
    if hasattr(thing, "axes") and hasattr(thing, "savefig"):
        return thing.axes
    return list(np.atleast_1d(np.asarray(thing, dtype=object)).ravel())


def title(ax) -> str:
    return ax.get_title(loc="left")


def line(ax, label):
    (found,) = [artist for artist in ax.lines if artist.get_label() == label]
    return found


def histogram(ax):
    (found,) = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
    return found.get_data()


def marks(ax) -> np.ndarray:
    """Segments of vertical lines: (mark, end, (x, y))."""
    segments = [
        s for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments()
    ]
    return np.array(segments).reshape(-1, 2, 2)


def shades(ax) -> list[tuple[float, float]]:
    """Start and stop of each stretch marked as unobserved."""
    boxes = [c for c in ax.collections if c.get_label() == "_unobserved"]
    paths = [path.vertices[:, 0] for box in boxes for path in box.get_paths()]
    return sorted((round(x.min(), 9), round(x.max(), 9)) for x in paths)


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("case", CASES)
def test_every_figure_of_every_case(case, figure):
    thing = FIGURES[figure](made_up(**CASES[case]))
    axes = axes_of(thing)
    drawing = axes[0].figure
    drawing.draw_without_rendering()  # as errors of text and layout come only then
    labels = {ax.get_xlabel() for ax in axes} - {""}
    unit = "bins" if case == "bins for seconds" else "ms" if figure == "templates" else "s"
    word = "time from onset" if figure == "templates" else "time"
    assert labels == {f"{word} ({unit})"}
    assert all(ax.get_ylabel() for ax in axes) or figure == "templates"
    assert axes[0].get_ylabel()


@pytest.mark.parametrize("case", CASES)
def test_goodness_of_fit_of_every_case(case):
    result = rescaled(made_up(**CASES[case]))
    for draw, label in ((plots.ks, "expected"), (plots.autocorrelation, "lag (intervals)")):
        axes = draw(result)
        axes[0].figure.draw_without_rendering()
        assert {ax.get_xlabel() for ax in axes} - {""} == {label}
        assert axes[0].get_ylabel()
        assert len(axes) == min(len(result.unit_ids), 9)
        assert ("first 9 of 50 units" == axes[0].figure.get_suptitle()) == (case == "many units")


@pytest.mark.parametrize("layout", ["shared", "joint"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_layout(family, layout):
    parts = made_up(family, layout, units=3, trials=5)
    for draw in (plots.rate, plots.templates, plots.codes, plots.decomposition):
        axes_of(draw(parts))[0].figure.draw_without_rendering()
    eta = {"gaussian": "signal", "binomial": "log odds"}.get(family, "log rate")
    assert plots.decomposition(parts)[-1].get_ylabel() == eta
    rate = "signal" if family == "gaussian" else "rate (Hz)"
    assert axes_of(plots.rate(parts))[-1].get_ylabel() == rate


def test_raster_has_a_mark_for_each_spike():
    counts = made_up(units=3, mask=np.tile(MASK[:, :1], (1, 3, 1))).counts
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


def test_templates_are_drawn_at_the_size_of_the_median_event():
    parts = made_up(n_templates=2)
    axes = plots.templates(parts)
    sizes = template_table(parts)["amplitude"]
    for k, ax in enumerate(axes):
        (curve,) = [artist for artist in ax.lines if len(artist.get_xdata()) == 12]
        np.testing.assert_allclose(curve.get_ydata(), sizes[k] * parts.templates[k, 0])
        np.testing.assert_allclose(curve.get_xdata(), 5 * (np.arange(12) + 0.5))
        assert ax.get_xlabel() == "time from onset (ms)"
        assert title(ax) == f"template {k} · 24 events"
    assert axes[0].get_ylabel() == "change of log odds"


def test_templates_of_a_model_have_unit_norm(model):
    axes = plots.templates(model)
    for k, ax in enumerate(axes):
        np.testing.assert_allclose(ax.lines[-1].get_ydata(), model.templates_[k, 0])
    assert axes[0].get_ylabel() == "template (unit norm)"


def test_ticks_on_the_right_are_factors_of_the_baseline_rate():
    parts = made_up(n_templates=1)
    (ax,) = plots.templates(parts)
    ax.figure.draw_without_rendering()
    (right,) = ax.child_axes
    ticks = right.get_yticks()
    labels = [text.get_text() for text in right.get_yticklabels()]
    gains = [1 / float(t[3:]) if t.startswith("×1/") else float(t[1:]) for t in labels]
    family = FAMILIES["binomial"]()
    p = np.median(parts.baseline) * 0.005
    np.testing.assert_allclose(rate_gain(ticks, p, family), gains, rtol=1e-3)
    assert len(gains) >= 2


@pytest.mark.parametrize("as_truth", [True, False])
def test_the_truth_lies_on_its_estimate(as_truth):
    """True templates come in another order, moved, and of another size."""
    bump = np.zeros((2, 1, 40))
    bump[0, 0, 12:28] = np.hanning(16)
    bump[1, 0, 12:28] = -np.gradient(np.hanning(16))
    parts = made_up(length=40, bins=200)
    parts = spikecdl.Decomposition(
        **{**vars(parts), "templates": bump / np.linalg.norm(bump, axis=(1, 2), keepdims=True)}
    )
    true = np.stack([np.roll(parts.templates[1], 5), np.roll(parts.templates[0], -3)])
    assert template_error(parts.templates, true).max < 1e-6
    truth = true * 7
    if as_truth:
        truth = Truth(true, NO_EVENTS, np.ones((4, 2)), 0.005, "binomial")
    for ax in plots.templates(parts, truth):
        estimate, drawn = [artist for artist in ax.lines if len(artist.get_xdata()) == 40]
        at = np.interp(estimate.get_xdata(), drawn.get_xdata(), drawn.get_ydata(), 0, 0)
        np.testing.assert_allclose(at, estimate.get_ydata(), atol=1e-9)
        assert to_rgb(drawn.get_color()) != to_rgb(estimate.get_color())
        assert "error 0.00 (dashed: truth)" in title(ax)


def test_an_estimate_upside_down_is_not_turned_to_please():
    parts = made_up(n_templates=1)
    (ax,) = plots.templates(parts, -parts.templates)
    assert "error 1.00" in title(ax)
    estimate, drawn = [artist for artist in ax.lines if len(artist.get_xdata()) == 12]
    assert np.sign(drawn.get_ydata()[6]) == -np.sign(estimate.get_ydata()[6])


def test_joint_templates_are_images_of_units_over_time():
    parts = made_up(layout="joint", units=5)
    grid = plots.templates(parts, parts.templates[::-1])
    assert grid.shape == (2, 2)
    sizes = template_table(parts)["amplitude"]
    for k in range(2):
        for ax in grid[:, k]:
            (mesh,) = ax.collections
            np.testing.assert_allclose(mesh.get_array(), sizes[k] * parts.templates[k])
            assert mesh.norm.vmin == -mesh.norm.vmax
        assert grid[1, k].get_xlabel() == "time from onset (ms)"
    by_peak = plots.templates(parts, sort_units=True)
    order = [int(text.get_text()) for text in by_peak[0].get_yticklabels()]
    peaks = np.abs(parts.templates[0]).argmax(axis=1)
    assert (np.diff(peaks[order]) >= 0).all()


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


def test_ks_plot_is_the_distribution_of_the_uniforms_with_its_band():
    result = rescaled(made_up("poisson", trials=30))
    for unit, ax in enumerate(plots.ks(result)):
        curve = line(ax, "data")
        values, n = np.sort(result.uniforms[unit]), result.n_intervals[unit]
        at = np.linspace(0.001, 0.999, 50)
        steps = curve.get_ydata()[np.searchsorted(curve.get_xdata(), at, side="right") - 1]
        np.testing.assert_allclose(steps, np.searchsorted(values, at) / n, atol=1.5e-3)
        levels = sorted(float(dashes.get_xy1()[1]) for dashes in ax.lines if is_band(dashes))
        np.testing.assert_allclose(levels, [-result.band[unit], result.band[unit]])
        place = "inside" if result.inside[unit] else "outside"
        assert ax.texts[0].get_text() == f"distance {result.distance[unit]:.3f}\n{place}"


def test_autocorrelation_is_drawn_at_each_lag_with_its_band():
    result = rescaled(made_up("poisson", trials=30))
    for unit, ax in enumerate(plots.autocorrelation(result)):
        points = next(artist for artist in ax.lines if len(artist.get_xdata()) == 20)
        np.testing.assert_allclose(points.get_ydata(), result.autocorrelation[unit])
        levels = sorted(float(dashes.get_xy1()[1]) for dashes in ax.lines if is_band(dashes))
        band = result.autocorrelation_band[unit]
        np.testing.assert_allclose(levels, [-band, band])


def is_band(artist) -> bool:
    return isinstance(artist, AxLine)


def test_units_that_cannot_be_tested_are_said():
    parts = made_up("poisson", mask=np.arange(2)[:, None] > 0)
    unseen = plots.ks(rescaled(parts))[0]
    assert [text.get_text() for text in unseen.texts] == ["not observed"]
    few = plots.autocorrelation(rescaled(parts), units=[0])[0]
    assert [text.get_text() for text in few.texts] == ["too few intervals"]


def test_training_curve_is_the_history(model):
    curve = plots.training_curve(model).lines[0]
    assert curve.get_xdata().tolist() == [record["epoch"] for record in model.history_]
    assert curve.get_ydata().tolist() == [record["loss"] for record in model.history_]


ON_AXES = {
    "raster": (1, lambda d, m, axes: plots.raster(d.counts, ax=axes)),
    "rate": (2, lambda d, m, axes: plots.rate(d, axes=axes)),
    "templates": (2, lambda d, m, axes: plots.templates(d, axes=axes)),
    "model templates": (2, lambda d, m, axes: plots.templates(m, axes=axes)),
    "codes": (2, lambda d, m, axes: plots.codes(d, axes=axes)),
    "decomposition": (3, lambda d, m, axes: plots.decomposition(d, axes=axes)),
    "training": (1, lambda d, m, axes: plots.training_curve(m, ax=axes)),
    "ks": (2, lambda d, m, axes: plots.ks(rescaled(d), axes=axes)),
    "autocorrelation": (2, lambda d, m, axes: plots.autocorrelation(rescaled(d), axes=axes)),
}


@pytest.mark.parametrize("name", ON_AXES)
def test_axes_in_axes_out(name, model):
    count, draw = ON_AXES[name]
    figure, axes = plt.subplots(count)
    drawn = axes_of(draw(made_up(), model, axes))
    assert all(a is b for a, b in zip(drawn, axes_of(axes), strict=True))
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match=f"`axes` must hold {count} axes, not 4"):
        draw(made_up(), model, plt.subplots(4)[1])


def test_the_callers_settings_stay_as_they_were():
    before = dict(mpl.rcParams)
    plots.rates_figure(made_up())
    assert dict(mpl.rcParams) == before


def test_wrong_types_are_refused():
    parts, array = made_up(), np.zeros((2, 3, 40))
    for draw in (plots.rate, plots.rates_figure, plots.templates):
        with pytest.raises(TypeError, match=r"`source` \(ndarray\) must be Decomposition or"):
            draw(array)
    for draw in (plots.codes, plots.decomposition):
        with pytest.raises(TypeError, match=r"`decomposition` \(BinnedSpikes\) must be Decompos"):
            draw(parts.counts)
    for draw in (plots.ks, plots.autocorrelation):
        with pytest.raises(TypeError, match=r"`rescaling` \(Decomposition\) must be TimeRescali"):
            draw(parts)
    with pytest.raises(TypeError, match=r"`spikes` \(ndarray\) must be .*from_array"):
        plots.raster(array)
    with pytest.raises(TypeError, match=r"`spikes` \(ndarray\) must be .* or None"):
        plots.rate(parts, spikes=array)
    with pytest.raises(NotFittedError):
        plots.templates(spikecdl.DCEA())
    with pytest.raises(NotFittedError):
        plots.training_curve(spikecdl.DCEA())


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda d: plots.raster(d.counts, 2), r"`unit` \(=2\) must be a position below 2"),
        (lambda d: plots.rate(d, 7), r"`unit` \(=7\)"),
        (lambda d: plots.rate(d, -1), r"`unit` \(=-1\)"),
        (lambda d: plots.decomposition(d, trial=4), r"`trial` \(=4\) must be a position below 4"),
        (lambda d: plots.decomposition(d, unit=2), r"`unit` \(=2\)"),
        (lambda d: plots.codes(d, units=[0, 9]), r"`units` \(=9\)"),
        (lambda d: plots.ks(rescaled(d), units=[2]), r"`units` \(=2\) must be a position below 2"),
        (lambda d: plots.raster(d.counts, align="cue"), "`align` and `window` need SpikeTrains"),
        (lambda d: plots.templates(d, np.ones((1, 2, 12))), "channels"),
        (
            lambda d: plots.raster(BinnedSpikes.from_array([[0.5, -1.0]])),
            "a real-valued signal has no spikes",
        ),
    ],
)
def test_wrong_values_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(made_up())


def test_a_truth_of_other_bins_is_refused():
    parts = made_up()
    truth = Truth(parts.templates, NO_EVENTS, np.ones((4, 2)), 0.001, "binomial")
    with pytest.raises(ValueError, match=r"`truth` has bins of 0.001 s and the model of 0.005 s"):
        plots.templates(parts, truth)
