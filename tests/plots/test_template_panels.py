"""Templates: drawn at the size of their events, with the truth on top of its estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from decompositions import made_up
from drawings import NO_EVENTS, fitted, title
from matplotlib.colors import to_rgb

import spikecdl
from spikecdl import plots
from spikecdl.data import Truth
from spikecdl.evaluation.bands import Bands
from spikecdl.evaluation.metrics import rate_gain, template_error, template_table
from spikecdl.evaluation.template_metrics import gain_of
from spikecdl.model.families import FAMILIES
from spikecdl.training import NotConvergedWarning


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


def test_templates_of_a_model_have_unit_norm():
    model, _ = fitted()
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
    parts = replace(parts, templates=bump / np.linalg.norm(bump, axis=(1, 2), keepdims=True))
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
    parts = made_up(layout="joint", units=9)
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


@pytest.mark.parametrize("family", ["poisson", "binomial", "gaussian"])
def test_joint_templates_of_few_units_are_curves_of_their_rates(family):
    parts = made_up(family, "joint", units=3)
    grid = plots.templates(parts, parts.templates, bands=bands_of(parts, 0.01))
    assert grid.shape == (3, 2)
    sizes = template_table(parts)["amplitude"]
    for unit, k in np.ndindex(3, 2):
        change = sizes[k] * parts.templates[k, unit]
        gain = gain_of(parts, unit)
        level = np.median(parts.baseline[:, unit])
        expected = change if gain is None else level * gain(change)
        curve, truth = [artist for artist in grid[unit, k].lines if len(artist.get_xdata()) == 12]
        np.testing.assert_allclose(curve.get_ydata(), expected)
        np.testing.assert_allclose(truth.get_ydata(), expected)
        low, high = grid[unit, k].get_ylim()
        assert low <= expected.min()
        assert expected.max() <= high
        *_, band = [mesh.get_paths()[0].vertices[:, 1] for mesh in grid[unit, k].collections]
        assert (band.min(), band.max()) != (expected.min(), expected.max())
        assert band.min() <= expected.min()
        assert band.max() >= expected.max()
    label = "change of signal" if family == "gaussian" else "rate (Hz)"
    assert grid[0, 0].figure.get_supylabel() == label
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["unit 0", "unit 1", "unit 2"]
    assert plots.templates(parts, image=True).shape == (2,)
    order = [ax.get_ylabel() for ax in plots.templates(parts, sort_units=True)[:, 0]]
    peaks = np.abs(parts.templates[0]).argmax(axis=1)
    assert (np.diff(peaks[[int(name[-1]) for name in order]]) >= 0).all()


def test_joint_templates_of_a_model_are_curves_of_unit_norm():
    parts = made_up("poisson", "joint", n_pooled=20, bins=60)
    model = spikecdl.DCEA(1, 0.06, layout="joint", trainer="alternating", n_epochs=1)
    with pytest.warns(NotConvergedWarning):
        model.fit(parts.counts)
    grid = plots.templates(model)
    for unit in range(2):
        curve = grid[unit, 0].lines[-1]
        np.testing.assert_allclose(curve.get_ydata(), model.templates_[0, unit])
    assert grid[0, 0].figure.get_supylabel() == "template (unit norm)"


def test_a_truth_of_other_bins_is_refused():
    parts = made_up()
    truth = Truth(parts.templates, NO_EVENTS, np.ones((4, 2)), 0.001, "binomial")
    with pytest.raises(ValueError, match=r"`truth` has bins of 0.001 s and the model of 0.005 s"):
        plots.templates(parts, truth)


def bands_of(parts, error=0.1):
    templates = parts.templates
    critical, free = np.full(len(templates), 3.0), len(templates) * (False,)
    return Bands(templates, np.full(templates.shape, error), critical, 0.95, 20, free)


def test_bands_lie_around_curves_at_the_size_of_the_events():
    parts = made_up()
    found, sizes = bands_of(parts), template_table(parts)["amplitude"]
    for k, ax in enumerate(plots.templates(parts, bands=found)):
        simultaneous, pointwise = [mesh.get_paths()[0].vertices for mesh in ax.collections]
        for drawn, low, high in (
            (simultaneous, found.simultaneous_lower, found.simultaneous_upper),
            (pointwise, found.lower, found.upper),
        ):
            assert drawn[:, 1].min() == pytest.approx(sizes[k] * low[k].min())
            assert drawn[:, 1].max() == pytest.approx(sizes[k] * high[k].max())


def test_images_are_blank_where_the_band_holds_zero():
    parts = made_up(layout="joint", units=9)
    found = bands_of(parts, 0.05)
    for k, ax in enumerate(plots.templates(parts, bands=found)):
        shown = ax.collections[0].get_array()
        clear = (found.lower[k] > 0) | (found.upper[k] < 0)
        assert (np.asarray(shown != 0) == clear).all()
        assert clear.any()


def test_bands_of_other_templates_are_refused():
    with pytest.raises(ValueError, match="`bands` .* must have shape .*, as `templates`"):
        plots.templates(made_up(), bands=bands_of(made_up(length=10)))
