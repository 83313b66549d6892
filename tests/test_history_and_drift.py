"""Spike history and drift beside events: what is learned, where it is kept, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from commands import run, succeeded
from fits import LENGTH, TRAINERS, WAVE, same_bits, some_counts

import spikecdl
from spikecdl import DCEA, BinnedSpikes, History
from spikecdl.baselines import GLM, Basis
from spikecdl.evaluation.goodness_of_fit import time_rescaling
from spikecdl.simulate import simulate

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
BIN = 0.002
FILTER = np.array([-3.0, -1.5, -0.6])  # log rate in the first bins after a spike
BIPHASIC = np.sin(2 * np.pi * (np.arange(100) + 0.5) / 100) / 50**0.5


def spikes(log_rate, history=(), seed=0):
    """Draw Poisson counts whose log rate per bin also depends on counts of earlier bins."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(log_rate.shape, dtype=int)
    for bin_ in range(log_rate.shape[-1]):
        past = [w * counts[..., bin_ - lag] for lag, w in enumerate(history, 1) if lag <= bin_]
        counts[..., bin_] = rng.poisson(np.exp(log_rate[..., bin_] + sum(past)))
    return counts


def recording(hz, history=(), *, events=False, drift=0.0, trials=40, units=2, bins=500, seed=0):
    """Counts (trial, unit, bin) that follow each other without a gap, and their log rate."""
    rng = np.random.default_rng(seed)
    log_rate = np.full((trials, units, bins), np.log(hz * BIN))
    time = np.arange(trials * bins).reshape(trials, 1, bins) / (trials * bins)
    log_rate += drift * np.sin(4 * np.pi * (time + 0.25 * np.arange(units)[:, None]))
    for trial, unit in np.ndindex(trials, units) if events else ():
        for onset in rng.permutation(bins // 250)[:1] * 250 + rng.integers(0, 150):
            log_rate[trial, unit, onset : onset + 100] += rng.uniform(12, 16) * BIPHASIC
    counts = spikes(log_rate, history, seed)
    starts = np.arange(trials) * bins * BIN
    return BinnedSpikes.from_array(counts, BIN, trial_starts=starts), log_rate


def fitted(counts, **settings):
    model = DCEA(1, 0.2, "poisson", trainer="alternating", random_state=0).set_params(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(counts)


def error(model):
    """Error of the template at the best shift."""
    correlation = np.correlate(model.templates_[0, 0], BIPHASIC, "full")
    return np.sqrt(max(0, 1 - correlation.max() ** 2))


class TestHistory:
    @pytest.mark.parametrize("common", [False, True])
    def test_is_found_without_events(self, common):
        counts, _ = recording(40.0, FILTER, trials=60)
        model = fitted(counts, history=History(0.04, common=common))
        expected = np.append(FILTER, np.zeros(17))
        np.testing.assert_allclose(model.history_lags_, BIN * np.arange(1, 21))
        found = model.history_filter_
        np.testing.assert_allclose(found[:, 1:], np.tile(expected[1:], (2, 1)), atol=0.35)
        assert (found[:, 0] < -2).all()
        assert (model.transform(counts) != 0).sum() <= 2
        assert same_bits(found[0], found[1]) == common

    def test_makes_refractory_spikes_pass_in_rescaled_time(self):
        counts, _ = recording(40.0, FILTER, trials=60)
        with_it = fitted(counts, history=0.02, penalty_weight=0.9)
        without = fitted(counts, penalty_weight=0.9)
        assert time_rescaling(with_it, counts).inside.all()
        assert (time_rescaling(without, counts).table()["p_value"] < 1e-3).all()

    def test_is_that_of_the_counts_drawn_for_comparison(self):
        counts, _ = recording(40.0, FILTER, trials=40)
        for model in (
            fitted(counts, history=0.02, penalty_weight=0.9),
            GLM(history=Basis(0.02, size=None), family="poisson").fit(counts),
        ):
            given = time_rescaling(model, counts)
            drawn = time_rescaling(model, counts, n_bootstrap=39)
            assert drawn.inside.all()
            np.testing.assert_array_less(drawn.band, 1.3 * given.band)

    @pytest.mark.slow
    def test_and_template_are_found_together(self):
        refractory, _ = recording(70.0, FILTER, events=True, trials=60)
        plain, _ = recording(40.0, events=True, trials=60)
        model = fitted(refractory, history=0.03)
        assert error(model) < error(fitted(plain)) + 0.08 < 0.5
        assert error(fitted(refractory)) > 0.4  # without history
        np.testing.assert_allclose(
            model.history_filter_[:, 1:3], np.tile(FILTER[1:], (2, 1)), atol=0.35
        )
        assert (model.history_filter_[:, 0] < -2).all()
        assert np.abs(model.history_filter_[:, 5:]).max() < 0.3

    def test_without_events_regular_spiking_has_none(self):
        rng = np.random.default_rng(0)
        times = np.cumsum(rng.gamma(4, 1 / 160, (60, 200)), axis=1) - 1.0
        counts = np.stack([np.histogram(row, np.arange(501) * BIN)[0] for row in times])
        counts = BinnedSpikes.from_array(counts[:, None], BIN)
        model = fitted(counts, history=0.1)
        assert (model.transform(counts) != 0).sum() <= 3
        assert model.history_filter_[0, 0] < -2
        assert (np.diff(model.history_filter_[0, ::10]) > -0.1).all()

    def test_both_signs_explain_bursts(self):
        counts, _ = recording(10.0, [0.0, 0.9, 0.9], trials=40)
        free = fitted(counts, history=History(0.03, sign="both"), penalty_weight=0.5)
        assert 0.5 < free.history_filter_[:, 1:3].mean() < 1.2
        none = fitted(counts, history=0.03, penalty_weight=0.9)
        assert none.history_filter_.max() <= 1e-5
        assert free.score(counts) > none.score(counts)

    def test_is_that_of_the_joint_layout_too(self):
        counts, _ = recording(40.0, FILTER, trials=30)
        shared = fitted(counts, history=0.02, penalty_weight=0.9)
        joint = fitted(counts, history=0.02, penalty_weight=0.9, layout="joint")
        np.testing.assert_allclose(joint.history_filter_, shared.history_filter_, atol=0.05)

    def test_of_channels_is_that_of_units_with_events_summed_out(self):
        counts, _ = recording(40.0, FILTER, trials=15)
        given = {"trainer": "marginal", "history": 0.02, "n_epochs": 2}
        shared, joint = fitted(counts, **given), fitted(counts, layout="joint", **given)
        assert joint.history_filter_.shape == (2, 10)
        np.testing.assert_allclose(joint.history_filter_, shared.history_filter_, atol=0.15)

    def test_of_a_unit_follows_the_unit(self):
        counts, _ = recording(40.0, FILTER, trials=10)
        model = fitted(counts, history=0.02, penalty_weight=0.9)
        swapped = model.predict(counts.select(units=[1, 0]))
        np.testing.assert_allclose(swapped[:, ::-1], model.predict(counts), rtol=1e-4)
        other = BinnedSpikes.from_array(counts.counts, BIN, unit_ids=("a", 1))
        with pytest.raises(
            ValueError, match="unit 'a' was not in the fit, which has learned the cov"
        ):
            model.predict(other)


class TestDrift:
    def test_is_found_across_windows(self):
        counts, log_rate = recording(20.0, drift=0.8, trials=40)
        model = fitted(counts, drift=8.0)
        rate = model.predict(counts)
        assert np.std(np.log(rate) - log_rate) < 0.25 * np.std(log_rate)
        assert (model.transform(counts) != 0).sum() <= 4
        assert model.score(counts) > 0.02

    def test_of_trials_left_out_is_known(self):
        counts, log_rate = recording(20.0, drift=0.8, trials=80)
        model = fitted(counts.select(trials=slice(None, None, 2)), drift=8.0, penalty_weight=0.9)
        rate = model.predict(counts.select(trials=slice(1, None, 2)))
        assert np.std(np.log(rate) - log_rate[1::2]) < 0.3 * np.std(log_rate)

    def test_goes_by_the_order_of_trials_without_their_starts(self):
        counts, _ = recording(20.0, drift=0.8, trials=30)
        array = BinnedSpikes.from_array(counts.counts, BIN)
        by_order, by_time = (fitted(c, drift=8.0, penalty_weight=0.9) for c in (array, counts))
        assert same_bits(by_order.predict(array), by_time.predict(counts))
        assert same_bits(by_order.predict(counts), by_time.predict(counts))
        with pytest.raises(ValueError, match="`drift` was fitted over the recording's time, which"):
            by_time.predict(array)


@pytest.mark.parametrize(
    ("trainer", "layout"),
    [*((trainer, "shared") for trainer in sorted(TRAINERS)), ("implicit", "joint")],
)
def test_every_trainer_takes_them(trainer, layout, tmp_path):
    counts = some_counts(layout=layout)
    model = DCEA(1, LENGTH, "poisson", trainer=TRAINERS[trainer], layout=layout, random_state=0)
    model.set_params(history=History(6, n_basis=3), drift=200.0, n_epochs=2).fit(counts)
    assert model.unit_tensors_["covariates"].shape[0] == 2
    wave = np.abs(
        np.correlate(model.templates_[0, 0], WAVE[0] / np.linalg.norm(WAVE), "full")
    ).max()
    assert wave > 0.5
    assert model.score(counts) > 0.2
    model.save(tmp_path)
    again = spikecdl.load(tmp_path)
    assert again.get_params()["history"] == History(6, n_basis=3)
    some = counts.select(trials=[4, 5])
    assert same_bits(again.predict(some), model.predict(some))
    assert same_bits(again.history_filter_, model.history_filter_)
    np.testing.assert_allclose(model.predict(some), model.predict(counts)[4:6], rtol=0.2)


@pytest.mark.parametrize("trainer", sorted(TRAINERS))
def test_a_fit_can_be_resumed(trainer, tmp_path):
    counts, file = some_counts(), tmp_path / "checkpoint"
    model = DCEA(1, LENGTH, "poisson", trainer=TRAINERS[trainer], history=5, drift=100.0)
    model.set_params(random_state=0, penalty_weight=0.2)
    model.set_params(n_epochs=1).fit(counts, checkpoint=file)
    model.set_params(n_epochs=3).fit(counts, checkpoint=file, resume=True)
    tensors = model.unit_tensors_["covariates"]
    whole = model.fit(counts)
    assert torch.equal(whole.unit_tensors_["covariates"], tensors)


@pytest.mark.parametrize("family", ["binomial", "negative_binomial"])
def test_other_families_take_them(family):
    counts, _ = recording(40.0, FILTER, bins=150)
    counts = BinnedSpikes.from_array(counts.counts.clip(max=1), BIN)
    model = fitted(counts, family=family, history=0.02, drift=10.0)
    assert (model.history_filter_[:, 0] < -1.5).all()


def test_a_given_baseline_is_the_mean_rate_without_events():
    counts, _ = recording(40.0, FILTER)
    model = fitted(counts, history=0.02, baseline=[30.0, 20.0], penalty_weight=0.9)
    np.testing.assert_allclose(model.baseline_, np.tile([30.0, 20.0], (40, 1)), rtol=1e-3)


@pytest.mark.parametrize("setting", [{"history": 0.1}, {"drift": 5.0}])
def test_pooled_counts_and_signals_are_refused(setting):
    counts, _ = recording(40.0, trials=4, bins=100)
    (name,) = setting
    with pytest.raises(
        ValueError, match=rf"`{name}` .* needs counts of single trials, but up to 4"
    ):
        DCEA(1, 0.1, "poisson", **setting).fit(counts.pool())
    with pytest.raises(ValueError, match=rf"`{name}` .* needs counts, not a real-valued signal"):
        DCEA(1, 0.1, "gaussian", bin_size=BIN, **setting).fit(counts.counts + 0.5)


def test_nonsense_is_refused():
    for setting, problem in [
        ({"history": 0.0}, r"`history` \(=0.0\) must be positive"),
        ({"history": 0.001}, r"`history` \(=0.001\) must be at least one bin of 0.002"),
        ({"history": "long"}, r"`history` \(='long'\) must be 'auto', None or a time"),
        ({"drift": -1.0}, r"`drift` \(=-1.0\) must be positive"),
    ]:
        counts, _ = recording(40.0, trials=2, bins=100)
        with pytest.raises((ValueError, TypeError), match=problem):
            DCEA(1, 0.1, "poisson", **setting).fit(counts)


@pytest.fixture(scope="module", name="model")
def model_and_counts():
    counts, _ = recording(40.0, FILTER, trials=20)
    return fitted(counts, history=0.02, n_epochs=1), counts


class TestResults:
    """The filter in the decomposition, in files and in the figure."""

    def test_decomposition_has_the_filter_of_its_units(self, model):
        model, counts = model
        parts = model.decompose(counts.select(units=[1]))
        np.testing.assert_allclose(parts.history_filter, model.history_filter_[1:], rtol=1e-5)
        assert fitted(counts, n_epochs=1).decompose(counts).history_filter is None

    def test_is_in_the_summary_and_in_nwb(self, model, tmp_path):
        import h5py

        from spikecdl.report.summary import lines, score_summary

        model, counts = model
        parts = model.decompose(counts)
        about = score_summary(model, parts, tmp_path)["history_filter"]
        assert about["lags"] == pytest.approx(model.history_lags_)
        assert about["log_rate_per_unit"]["1"] == pytest.approx(model.history_filter_[1])
        said = lines("score", score_summary(model, parts, tmp_path))
        assert any(line.startswith("a spike multiplies the rate by 0.0") for line in said)
        spikecdl.write_nwb(tmp_path / "results.nwb", counts, decomposition=parts)
        with h5py.File(tmp_path / "results.nwb") as file:
            table = file["processing/ecephys/history_filter"]
            np.testing.assert_allclose(table["log_rate"][:], model.history_filter_.T, rtol=1e-5)
            np.testing.assert_allclose(table["lag"][:], model.history_lags_)

    def test_is_drawn_as_a_factor_on_the_rate(self, model):
        model, counts = model
        for source in (model, model.decompose(counts)):
            ax = spikecdl.plots.history(source)
            curves = [line for line in ax.lines if line.get_label().startswith("unit")]
            np.testing.assert_allclose(
                curves[1].get_ydata(), np.exp(model.history_filter_[1]), rtol=1e-4
            )
            np.testing.assert_allclose(curves[1].get_xdata(), 1000 * model.history_lags_)
        with pytest.raises(ValueError, match="`source` has no history; fit a model with `history`"):
            spikecdl.plots.history(DCEA())


class TestSimulator:
    def test_spikes_follow_their_history(self):
        more = {"n_trials": 20, "n_units": 2, "baseline": 60.0, "n_events": 0, "random_state": 0}
        counts = simulate("poisson", ["vee"], history=[-30.0, -30.0, 0.0], **more)
        spikes = [np.flatnonzero(row) for row in counts.counts.reshape(-1, counts.n_bins)]
        assert min(np.diff(row).min() for row in spikes) == 3
        assert counts.truth.settings["history"] == [-30.0, -30.0]
        same = simulate("poisson", ["vee"], history=lambda lag: -30.0 * (lag < 0.0025), **more)
        assert (same.counts == counts.counts).all()

    def test_rates_drift(self):
        more = {"n_trials": 40, "n_units": 2, "baseline": 40.0, "n_events": 0, "random_state": 0}
        counts = simulate("poisson", ["vee"], drift=(0.8, 50.0), **more)
        rate = counts.counts.mean(2) / counts.bin_size
        phase = (counts.trial_starts[:, None] + 1.0) / 50 + np.array([0, 0.5])
        expected = 40 * np.exp(0.8 * np.sin(2 * np.pi * phase))
        assert np.abs(rate / expected - 1).mean() < 0.15
        assert counts.truth.settings["drift"] == [0.8, 50.0]

    def test_what_is_not_given_changes_nothing(self):
        plain = simulate("poisson", ["vee"], n_trials=2, random_state=0)
        assert "history" not in plain.truth.settings
        none = simulate("poisson", ["vee"], n_trials=2, history=[0.0], random_state=0)
        assert (none.counts == plain.counts).all()

    @pytest.mark.parametrize(
        ("setting", "problem"),
        [
            ({"history": [[1.0]]}, r"`history` \(shape \(1, 1\)\) must be finite log rates"),
            ({"history": [1.0], "family": "gaussian"}, "for a family of counts"),
            ({"drift": (1.0,)}, r"`drift` \(=\(1.0,\)\) must be \(amplitude, period\)"),
            ({"drift": (1.0, 0.0)}, r"`drift` \(=0.0\) must be positive"),
        ],
    )
    def test_nonsense_is_refused(self, setting, problem):
        with pytest.raises(ValueError, match=problem):
            simulate(**setting)


def test_command_line(tmp_path):
    file, out = tmp_path / "sim.nwb", tmp_path / "out"
    settings = "--family poisson --templates square --trials 6 --units 2 --duration 0.5 --bin 0.005"
    more = "--length 0.1 --events 1 --baseline 60 --history=-2,-1 --drift 0.3 5"
    succeeded(run("simulate", "--out", str(file), *settings.split(), *more.split()))
    assert spikecdl.read(file).truth.settings["history"] == [-2.0, -1.0]
    past = "--history 0.02 --history-sign both --history-common --drift 3"
    fit = f"--length 0.1 --bin 0.005 --epochs 2 {past}"
    done = succeeded(
        run("fit", str(file), "--out", str(out), *fit.split(), "--folds", "0", "--json")
    )
    about = done.json
    assert about["settings"]["history"]["sign"] == "both"
    assert about["settings"]["history"]["common"]
    assert about["settings"]["drift"] == 3.0
    assert about["history_filter"]["lags"] == [0.005, 0.01, 0.015, 0.02]
    assert "By which factor a spike changes" in (out / "report.html").read_text("utf-8")
    more = ["--pool-trials", "--folds", "0", "--overwrite"]
    failed = run("fit", str(file), "--out", str(out), *fit.split(), *more)
    assert failed.code == 2
    assert "needs counts of single trials, but up to 6 are pooled" in failed.err
