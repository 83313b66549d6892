"""Every figure: of data of every kind, on new axes and on those that are given."""

from __future__ import annotations

import io
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from decompositions import made_up
from drawings import axes_of, fitted, rescaled
from sklearn.exceptions import NotFittedError
from tables import refused

import spikecdl
from spikecdl import plots
from spikecdl.data import BinnedSpikes
from spikecdl.model.families import FAMILIES

MASK = np.ones((4, 2, 120), bool)
MASK[1, 0, :48] = False
MASK[:, 1, 36:60] = False
MASK[2] = False


FIGURES = {
    "raster": lambda d: plots.raster(d.counts),
    "raster of all": lambda d: plots.raster(d.counts, None),
    "rate": plots.rate,
    "rate of counts": lambda d: plots.rate(d.counts),
    "rates": plots.rates_figure,
    "templates": plots.templates,
    "codes": plots.codes,
    "decomposition": plots.decomposition,
    "events": plots.event_raster,
    "event figure": plots.event_figure,
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
    "odd names": {"unit_ids": ("<b>$unit_1$ with a very long name</b>", r"$\µ$")},
}


# what does not depend on codes is drawn once with them, what draws `rate` again with few cases
LEFT_OUT = {
    "raster": {"one of each", "no events", "two-sided", "long"},
    "raster of all": {"one of each", "no events", "two-sided", "long", "never observed", "pooled"},
    "rate of counts": {"few", "no events", "two-sided", "many trials", "never observed"},
    "rate": {"one of each", "many units", "many trials", "two-sided", "bins for seconds", "pooled"},
    "event figure": {"one bin", "many trials", "two-sided", "pooled", "masked", "one of each"},
    "templates": {"masked", "never observed", "pooled", "many trials", "long"},
}


@pytest.mark.parametrize("case", CASES)
def test_every_figure_of_every_case(case):
    parts = made_up(**CASES[case])
    for figure in [name for name in FIGURES if case not in LEFT_OUT.get(name, ())]:
        axes = axes_of(FIGURES[figure](parts))
        axes[0].figure.draw_without_rendering()  # as errors of text and layout come only then
        labels = {ax.get_xlabel() for ax in axes} - {""}
        unit = "bins" if case == "bins for seconds" else "ms" if figure == "templates" else "s"
        onsets = figure in ("templates", "events", "event figure")
        assert labels == {f"time from onset ({unit})" if onsets else f"time ({unit})"}, figure
        assert all(ax.get_ylabel() for ax in axes) or onsets, figure
        assert axes[0].get_ylabel() or case == "no events", figure
        plt.close("all")


@pytest.mark.parametrize("case", CASES)
def test_goodness_of_fit_of_every_case(case):
    result = rescaled(made_up(**CASES[case]))
    for draw, label in ((plots.ks, "expected"), (plots.autocorrelation, "lag (intervals)")):
        axes = draw(result)
        axes[0].figure.draw_without_rendering()
        assert {ax.get_xlabel() for ax in axes} - {""} == {label}
        assert axes[0].get_ylabel() or case == "no events"
        assert len(axes) == min(len(result.unit_ids), 9)
        assert ("first 9 of 50 units" == axes[0].figure.get_suptitle()) == (case == "many units")


@pytest.mark.parametrize(
    ("family", "layout"),
    [*((family, "shared") for family in FAMILIES), ("poisson", "joint"), ("gaussian", "joint")],
)
def test_every_family_and_layout(family, layout):
    parts = made_up(family, layout, units=3, trials=5)
    drawn = [axes_of(draw(parts)) for draw in (plots.rate, plots.templates, plots.codes)]
    drawn.append(axes_of(plots.decomposition(parts)))
    for axes in drawn:
        axes[0].figure.draw_without_rendering()
    eta = {"gaussian": "signal", "binomial": "log odds"}.get(family, "log rate")
    assert drawn[-1][-1].get_ylabel() == eta
    assert drawn[0][-1].get_ylabel() == ("signal" if family == "gaussian" else "rate (Hz)")


def joint(decomposition):
    return made_up(layout="joint")


def fitted_model(decomposition):
    return fitted()[0]


def counts_of(decomposition):
    return decomposition.counts


def with_history(decomposition):
    filters = np.full((decomposition.counts.n_units, 3), -1.0)
    object.__setattr__(decomposition, "history_filter", filters)
    return decomposition


def same(decomposition):
    return decomposition


ON_AXES = {
    "raster": (1, plots.raster, counts_of),
    "rate": (2, plots.rate, same),
    "templates": (2, plots.templates, same),
    "model templates": (2, plots.templates, fitted_model),
    "codes": (2, plots.codes, same),
    "decomposition": (3, plots.decomposition, same),
    "training": (1, plots.training_curve, fitted_model),
    "history": (1, plots.history, with_history),
    "ks": (2, plots.ks, rescaled),
    "autocorrelation": (2, plots.autocorrelation, rescaled),
    "events": (2, plots.event_raster, same),
    "population": (1, plots.population_raster, joint),
}


@pytest.mark.parametrize("name", ON_AXES)
def test_axes_in_axes_out(name):
    count, draw, source = ON_AXES[name]
    given = source(made_up())
    figure, axes = plt.subplots(count)
    for word in ("ax", "axes"):
        drawn = axes_of(draw(given, **{word: axes}))
        assert all(a is b for a, b in zip(drawn, axes_of(axes), strict=True))
        assert plt.get_fignums() == [figure.number]
        with pytest.raises(TypeError, match=rf"`{word}` \(Figure\) must be matplotlib Axes"):
            draw(given, **{word: figure})
    with pytest.raises(ValueError, match=rf"`axes` must hold {count} axes, not 4; make them with"):
        draw(given, ax=plt.subplots(4)[1])
    with pytest.raises(ValueError, match="`ax` and `axes` are both given; give one of them"):
        draw(given, ax=axes, axes=axes)


def test_one_of_two_axes_is_for_the_rate_alone():
    for draw in (plots.rate, plots.event_raster):
        (only,) = draw(made_up(), ax=plt.subplots()[1])
        assert only.get_ylabel() == "rate (Hz)"


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
    with pytest.raises(TypeError, match=r"`spikes` \(ndarray\) must be SpikeTrains or"):
        plots.rate(parts, spikes=array)
    with pytest.raises(NotFittedError):
        plots.templates(spikecdl.DCEA())
    with pytest.raises(NotFittedError):
        plots.training_curve(spikecdl.DCEA())


def test_wrong_values_are_refused():
    for draw, message in [
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
    ]:
        with refused(ValueError, message, draw):
            draw(made_up())


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_saved_figure_has_text_that_can_be_edited_and_always_the_same_bytes(kind, tmp_path):
    drawn = plots.codes(made_up(unit_ids=("first unit", "second")))
    files = [tmp_path / f"{number}.{kind}" for number in range(2)]
    for file in files:
        plots.save(drawn, file)
    plots.save(drawn[0], buffer := io.BytesIO(), format=kind)
    one, two = (file.read_bytes() for file in files)
    assert one == two == buffer.getvalue()
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[kind]
    assert one.startswith(start)
    if kind == "svg":
        assert re.search(rb"<text[^>]*>unit first unit", one)
    if kind == "pdf":
        assert b"/Type3" not in one.replace(b" ", b"")  # letters as drawings
        assert b"/TrueType" in one or b"/CIDFontType2" in one


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match=r"`drawn` \(str\) must be Figure or Axes"):
        plots.save("figure", tmp_path / "a.png")
    with pytest.raises(ValueError, match="'xyz' is not supported"):
        plots.save(plots.raster(made_up().counts), tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())


def test_figures_fit_one_or_two_columns_of_a_journal():
    parts, many = made_up(), made_up("poisson", "joint", units=12, n_templates=6, n_pooled=9)
    for draw in FIGURES.values():
        for source in (parts, many):
            assert axes_of(draw(source))[0].figure.get_figwidth() in (3.5, 5.5, 7.2)
