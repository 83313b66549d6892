"""Rescaled intervals and the training curve: the numbers drawn are those that were found."""

from __future__ import annotations

import numpy as np
from decompositions import made_up
from drawings import fitted, line, rescaled
from matplotlib.lines import AxLine

from spikecdl import plots


def is_band(artist) -> bool:
    return isinstance(artist, AxLine)


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
        verdict = "inside" if result.inside[unit] else "outside"
        assert ax.texts[0].get_text() == f"distance {result.distance[unit]:.3f}\n{verdict}"


def test_autocorrelation_is_drawn_at_each_lag_with_its_band():
    result = rescaled(made_up("poisson", trials=30))
    for unit, ax in enumerate(plots.autocorrelation(result)):
        points = next(artist for artist in ax.lines if len(artist.get_xdata()) == 20)
        np.testing.assert_allclose(points.get_ydata(), result.autocorrelation[unit])
        levels = sorted(float(dashes.get_xy1()[1]) for dashes in ax.lines if is_band(dashes))
        band = result.autocorrelation_band[unit]
        np.testing.assert_allclose(levels, [-band, band])


def test_units_that_cannot_be_tested_are_said():
    parts = made_up("poisson", mask=np.arange(2)[:, None] > 0)
    unseen = plots.ks(rescaled(parts))[0]
    assert [text.get_text() for text in unseen.texts] == ["not observed"]
    few = plots.autocorrelation(rescaled(parts), units=[0])[0]
    assert [text.get_text() for text in few.texts] == ["too few intervals"]


def test_training_curve_is_the_history():
    model, _ = fitted()
    curve = plots.training_curve(model).lines[0]
    assert curve.get_xdata().tolist() == [record["epoch"] for record in model.history_]
    assert curve.get_ydata().tolist() == [record["loss"] for record in model.history_]
