"""Events of a decomposition as tables."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from decompositions import made_up
from recordings import make_counts, make_decomposition

from spikecdl import DCEA
from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.data.results import response_onsets, shift_to_response
from spikecdl.io import to_pynapple


def test_intervals_are_in_the_time_of_the_recording():
    parts = make_decomposition(make_counts())  # windows begin at 0.5, 2 and 4.25 s, 30 ms before 0
    table = parts.intervals()
    np.testing.assert_allclose(table["time"], [-0.02, 0.0])
    np.testing.assert_allclose(table["start_time"], [0.51, 4.28])
    np.testing.assert_allclose(table["stop_time"], [0.55, 4.32])
    assert list(table.columns[:2]) == ["start_time", "stop_time"]
    assert list(table.columns[2:]) == list(parts.events().columns)


def test_intervals_are_windows_of_the_recording_they_come_from():
    parts = make_decomposition(make_counts())
    spikes = SpikeTrains.from_arrays([[0.515, 4.3]], intervals={"events": parts.intervals()})
    counts = spikes.bin(0.01, table="events")
    np.testing.assert_array_equal(counts.counts[:, 0], [[1, 0, 0, 0], [0, 0, 1, 0]])


def test_events_go_to_pynapple():
    """As times of each template with amplitudes, since events may overlap."""
    pytest.importorskip("pynapple")
    parts = make_decomposition(make_counts())
    table = parts.intervals()
    group = to_pynapple(pd.concat([table, table.assign(start_time=table["start_time"] + 0.01)]))
    assert list(group) == [0, 1]
    np.testing.assert_allclose(group[1].t, [4.28, 4.29])
    np.testing.assert_allclose(group[1].d, [7.5, 7.5])
    with pytest.raises(ValueError, match="pass `Decomposition.intervals"):
        to_pynapple(parts.events())


def test_events_of_pooled_trials_have_no_time_in_the_recording():
    with pytest.raises(ValueError, match="trials are pooled, .* use `events`"):
        made_up().intervals()


BUMP = np.array([0.0] * 10 + [0.3, 0.7, 1.0, 0.7, 0.3] + [0.0] * 9)


def test_the_response_begins_where_the_template_rises():
    for template, fraction, onset in [
        (BUMP, 0.2, 10),
        (BUMP, 0.5, 11),
        (-BUMP, 0.2, 10),
        (np.roll(BUMP, -10), 0.2, 0),
        (np.roll(BUMP, -9), 0.2, 1),
        (BUMP + 0.1 * (-1.0) ** np.arange(24), 0.2, 10),  # noise below the fraction
        (BUMP + 0.1 * (-1.0) ** np.arange(24), 0.05, 0),  # and above it
        (BUMP - 0.8 * np.roll(BUMP, -5), 0.2, 5),  # a dip before the peak is part of the response
        (BUMP + 0.4 * np.roll(BUMP, 6), 0.2, 10),  # a second response is no other onset
    ]:
        assert response_onsets(template[None, None], fraction) == [onset]
        two_units = np.stack([template, 0.1 * template])[None]
        assert response_onsets(two_units, fraction) == [onset]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, np.nan])
def test_a_fraction_lies_between_zero_and_one(fraction):
    with pytest.raises(ValueError, match="`fraction`"):
        response_onsets(BUMP[None, None], fraction)


def test_events_say_when_the_response_begins_and_peaks():
    parts = made_up(n_templates=1)
    events = parts.events()
    size = abs(parts.templates[0, 0])
    expected = {
        "response_time": response_onsets(parts.templates)[0],
        "peak_time": size.argmax(),
    }
    for name, bins in expected.items():
        np.testing.assert_allclose(events[name] - events["time"], 0.005 * bins)


@pytest.mark.parametrize("trainer", ["alternating", "marginal"])
def test_templates_shift_to_their_response_with_their_events(trainer):
    rng = np.random.default_rng(0)
    values = rng.poisson(0.3, (30, 200))
    onsets = 40 + rng.integers(0, 100, 30)
    for row, onset in zip(values, onsets, strict=True):
        row[onset : onset + 6] += rng.poisson([6, 7, 7, 5, 4, 2])
    model = DCEA(1, 32, trainer=trainer, random_state=0).fit(values)
    if trainer == "marginal":  # whose template may begin with its response
        model.tensors_["templates"] = model.tensors_["templates"].roll(4, 2)
    shifted = shift_to_response(model, 0.5)
    lag = response_onsets(model.templates_, 0.5)[0]
    assert lag > 0
    moved = shifted.templates_[0, 0]
    assert np.linalg.norm(moved) == pytest.approx(1)
    assert not moved[-lag:].any()
    before = model.templates_[0, 0, lag:]
    np.testing.assert_allclose(moved[:-lag], before / np.linalg.norm(before), rtol=1e-5)
    assert response_onsets(shifted.templates_, 0.5) == [0]
    found = shifted.decompose(BinnedSpikes.from_array(values)).events()
    largest = found.sort_values("amplitude").groupby("trial").last()
    errors = largest["time"].to_numpy() - onsets[largest.index.to_numpy()]
    assert np.median(abs(errors)) <= 1
    assert model.templates_[0, 0] == pytest.approx(model.tensors_["templates"][0, 0].numpy())


def waveforms(tensors: dict, name: str = "templates", power: int = 1) -> torch.Tensor:
    """Return what an event of typical amplitude adds to the predictor, or its variance."""
    sizes = tensors["event_amplitudes"].median(1).values[:, None, None]
    return tensors[name] * sizes**power


def test_events_of_shifted_templates_are_as_large_as_before():
    rng = np.random.default_rng(0)
    templates = torch.tensor(rng.normal(size=(2, 3, 12)))
    templates[0, :, :3] *= 0.1  # lost when templates are shifted
    templates /= templates.norm(dim=(1, 2), keepdim=True)
    tensors = {
        "templates": templates,
        "template_variance": torch.tensor(rng.gamma(2.0, 0.1, templates.shape)),
        "event_amplitudes": torch.tensor([[3.0, 5.0, 7.0], [-9.0, -8.0, -7.0]]),
    }
    model = SimpleNamespace(tensors_=tensors, templates_=templates.numpy())
    moved = shift_to_response(model, 0.3).tensors_
    lags = response_onsets(model.templates_, 0.3)
    assert lags[0] > 0
    for name, power in (("templates", 1), ("template_variance", 2)):
        before, after = (waveforms(each, name, power) for each in (tensors, moved))
        for lag, one, other in zip(lags, before, after, strict=True):
            torch.testing.assert_close(other[:, : 12 - lag], one[:, lag:])


def test_all_tensors_of_the_shape_of_templates_shift_together():
    templates = torch.zeros(3, 1, 10)  # the third has no events
    templates[0, 0, 4:6], templates[1, 0, 0] = 0.5**0.5, 1.0
    tensors = {"templates": templates, "analysis": 3 * templates, "rates": torch.ones(3, 4)}
    model = SimpleNamespace(tensors_=tensors, templates_=templates.numpy())
    moved = shift_to_response(model, 0.5).tensors_
    assert moved["templates"][0, 0].nonzero().ravel().tolist() == [0, 1]
    torch.testing.assert_close(moved["templates"].norm(dim=(1, 2)), torch.tensor([1.0, 1, 0]))
    torch.testing.assert_close(moved["analysis"], 3 * moved["templates"])
    assert moved["rates"] is tensors["rates"]
    assert templates[0, 0, 4] > 0


def test_notebooks_show_the_events():
    parts = made_up()
    text = parts._repr_html_()
    assert text.startswith("<p>Decomposition(")
    assert "amplitude" in text
