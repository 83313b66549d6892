"""Rates that depend on signals: found, chosen by the evidence, saved, refused where they lack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from commands import run, succeeded, without_figures

import spikecdl
from spikecdl import DCEA, BinnedSpikes, read_nwb_signal
from spikecdl.evaluation.null_model import NullModel
from spikecdl.model.history import Smooth

BIN, LENGTH = 0.02, 0.2
GAINS = np.array([2.0, 0.0, -2.0])  # of the log rate, from the lowest speed to the highest


def recording(seed=0, gains=GAINS, n_bins=6000, events=True):
    """Counts of one long window, and a slow signal from 0 to 1 on which their rates depend."""
    rng = np.random.default_rng(seed)
    slow = np.convolve(rng.standard_normal(n_bins + 200), np.hanning(200), "valid")[:n_bins]
    speed = (slow - slow.min()) / np.ptp(slow)
    eta = np.log(0.15) + gains[:, None] * (speed - speed.mean())
    if events:
        bump = 2 * np.hanning(12)[1:-1]
        for each in eta:
            for onset in rng.choice(np.arange(20, n_bins - 40, 25), n_bins // 100, replace=False):
                each[onset : onset + 10] += bump
    y = rng.poisson(np.exp(eta))[None]
    return BinnedSpikes.from_array(y, BIN, trial_starts=[5.0]), speed


@pytest.fixture(scope="module")
def known():
    """Counts with their signal, and a model that chose by itself."""
    counts, speed = recording()
    counts = counts.with_signals({"speed": (5.0 + BIN * (np.arange(6000) + 0.5), speed)})
    return counts, DCEA(1, LENGTH, bin_size=BIN, random_state=0).fit(counts)


def test_is_chosen_by_the_evidence_and_found(known):
    counts, model = known
    assert model.ingredients_["signals"]["value"]
    assert model.ingredients_["signals"]["nats"] > 50
    assert not any(model.ingredients_[n]["value"] for n in ("history", "drift", "dispersion"))
    values, effect = model.signal_effects_["speed"]
    slope = np.polynomial.polynomial.polyfit(values, effect.T, 1)[1]
    np.testing.assert_allclose(slope, GAINS, atol=0.6)


def test_explains_counts_that_were_not_fitted(known):
    _, model = known
    other, speed = recording(seed=1)
    other = other.with_signals({"speed": speed[None]})
    without = DCEA(1, LENGTH, bin_size=BIN, signals=None, random_state=0).fit(known[0])
    assert model.evidence(other).sum() > without.evidence(other).sum() + 50


def test_one_that_says_nothing_is_not_chosen():
    counts, _ = recording(seed=2, gains=np.zeros(3))
    noise = recording(seed=3)[1]
    model = DCEA(1, LENGTH, bin_size=BIN, random_state=0)
    model.fit(counts.with_signals({"noise": noise[None]}))
    assert model.ingredients_["signals"]["value"] is None
    assert model.signal_effects_ == {}


@pytest.mark.filterwarnings("ignore::spikecdl.training.NotConvergedWarning")  # no event is there
def test_a_curve_needs_more_steps_than_a_line():
    rng = np.random.default_rng(0)
    x = rng.permutation(np.linspace(-1, 1, 8000))[None]
    y = rng.poisson(0.3 * np.exp(2 * np.cos(5 * x)))[:, None]
    counts = BinnedSpikes.from_array(y).with_signals({"x": x})
    values, effect = DCEA(1, 10, signals=6, random_state=0).fit(counts).signal_effects_["x"]
    expected = 2 * np.cos(5 * values)
    np.testing.assert_allclose(effect[0] - effect[0].mean(), expected - expected.mean(), atol=0.3)


def test_unknown_values_change_nothing(known):
    counts, model = known
    speed = counts.signals["speed"].copy()
    speed[:, :1000] = np.nan
    mean = model.predict(counts.with_signals({"speed": speed}))
    assert np.isfinite(mean).all()
    np.testing.assert_allclose(mean[..., 1100:], model.predict(counts)[..., 1100:], rtol=0.1)
    columns = Smooth(0.2, 0.0, 1.0)(torch.tensor([np.nan, 0.5]))
    assert (columns[:, 0] == 0).all()
    assert (columns[:, 1] != 0).any()


def test_is_saved_and_read(known, tmp_path):
    counts, model = known
    model.save(tmp_path)
    again = spikecdl.load(tmp_path)
    np.testing.assert_array_equal(again.predict(counts), model.predict(counts))
    np.testing.assert_array_equal(*(m.signal_effects_["speed"][1] for m in (again, model)))


@pytest.mark.filterwarnings("ignore::spikecdl.training.NotConvergedWarning")
@pytest.mark.parametrize("trainer", ["alternating", "unrolled"])
def test_other_trainers_take_them(trainer):
    counts, speed = recording(n_bins=1500)
    model = DCEA(1, LENGTH, bin_size=BIN, signals=1, trainer=trainer, n_epochs=5, random_state=0)
    model.fit(counts.with_signals({"speed": speed[None]}))
    values, effect = model.signal_effects_["speed"]
    slope = np.polynomial.polynomial.polyfit(values, effect.T, 1)[1]
    assert slope[0] > 0.8
    assert slope[2] < -0.8


def test_the_null_model_has_them(known):
    counts, model = known
    null, plain = NullModel.like(model).fit(counts), NullModel("poisson").fit(counts)
    assert null.evidence(counts).sum() > plain.evidence(counts).sum() + 50


def test_counts_are_drawn_with_them(known):
    counts, model = known
    drawn = model.simulate(counts, random_state=1)
    fast = counts.signals["speed"][0] > np.median(counts.signals["speed"])
    ratio = [drawn.counts[0, u, fast].mean() / drawn.counts[0, u, ~fast].mean() for u in range(3)]
    assert ratio[0] > 1.3
    assert ratio[2] < 1 / 1.3


def test_refuses_counts_without_them(known):
    counts, model = known
    plain = recording()[0]
    with pytest.raises(ValueError, match=r"signals \(speed\) that the counts lack"):
        model.predict(plain)
    with pytest.raises(ValueError, match=r"`signals` \(=6\) needs counts with signals"):
        DCEA(1, LENGTH, bin_size=BIN, signals=6).fit(plain)
    with pytest.raises(ValueError, match=r"`signals` \(=6\) needs counts with signals"):
        DCEA(1, LENGTH, bin_size=BIN, signals=6).fit(
            counts.with_signals({"speed": np.ones((1, 6000))})
        )
    with pytest.raises(
        ValueError, match=r"`signals` \(='speed'\) must be 'auto', None or a number"
    ):
        DCEA(1, LENGTH, bin_size=BIN, signals="speed").fit(counts)
    with pytest.raises(ValueError, match=r"`signals` \(=-1\) must be positive"):
        DCEA(1, LENGTH, bin_size=BIN, signals=-1).fit(counts)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """An NWB file with the spikes of a recording, its speed with a rate, and a position in 2-D."""
    from pynwb import NWBHDF5IO, TimeSeries

    counts, speed = recording()
    made, path = tmp_path_factory.mktemp("signals"), "whole.nwb"
    rng = np.random.default_rng(0)
    spikes = [
        np.sort(np.repeat(BIN * np.arange(6000), y) + BIN * rng.uniform(0, 1, y.sum()))
        for y in counts.counts[0]
    ]
    trains = spikecdl.SpikeTrains.from_arrays(spikes, observed=(0.0, 120.0))
    spikecdl.write_nwb(made / "spikes.nwb", trains)
    with NWBHDF5IO(str(made / "spikes.nwb"), "r") as source:
        file = source.read()
        file.set_modified()
        about = {"unit": "m", "starting_time": 0.5 * BIN, "rate": 1 / BIN}
        file.add_acquisition(TimeSeries(name="speed", data=speed, **about))
        times = BIN * np.arange(6000)
        place = TimeSeries(
            name="place",
            data=np.stack([speed, -speed], 1),
            unit="m",
            timestamps=times,
            conversion=2.0,
        )
        file.add_acquisition(place)
        with NWBHDF5IO(str(made / path), "w") as target:
            target.export(src_io=source, nwbfile=file)
    return made / path, speed


def test_of_a_file(session):
    path, speed = session
    ((name, (times, values)),) = read_nwb_signal(path, "speed").items()
    assert name == "speed"
    np.testing.assert_allclose(times, BIN * (np.arange(6000) + 0.5))
    np.testing.assert_allclose(values, speed)
    both = read_nwb_signal(path, "acquisition/place")
    assert list(both) == ["place 0", "place 1"]
    np.testing.assert_allclose(both["place 1"][1], -2 * speed)
    with pytest.raises(
        ValueError, match=r"`name` \(='heading'\) must be that of one time series: acq"
    ):
        read_nwb_signal(path, "heading")


def test_command_line(session, tmp_path):
    path, _ = session
    options = ["--bin", BIN, "--length", LENGTH, "--folds", 0, "--json"]
    with without_figures():
        line = ["fit", path, *options, "--signals", "speed", "--out", tmp_path / "fit"]
        found = succeeded(run(*line)).json
    assert found["ingredients"]["signals"]["names"] == ["speed"]
    assert found["settings"]["signals"] == "speed"
    again = succeeded(run("evaluate", tmp_path / "fit", path, "--json")).json  # as in the fit
    assert again["deviance_explained"] == pytest.approx(found["deviance_explained"])
    text = succeeded(run("evaluate", tmp_path / "fit", path)).out
    assert "--signals speed" in text
    pooled = run("fit", path, *options, "--signals", "speed", "--pool-trials", "--out", tmp_path)
    assert "`--signals` (='speed') needs single trials; do not pool them" in pooled.err
