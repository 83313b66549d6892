"""Simulators: counts follow the model they say they follow, and the truth is the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tables import refused

from spikecdl import BinnedSpikes, Binomial, Gaussian, NegativeBinomial, read_nwb, write_nwb
from spikecdl.model.families import FAMILIES
from spikecdl.simulate import place_spikes, simulate, waveform

each_family = pytest.mark.parametrize("family", sorted(FAMILIES))
COUNT_FAMILIES = sorted(name for name, kind in FAMILIES.items() if kind.integer_valued)
each_count_family = pytest.mark.parametrize("family", COUNT_FAMILIES)
SMALL = {"n_trials": 4, "n_units": 2, "duration": 0.5, "bin_size": 0.005, "n_events": 2}


def small(family="poisson", templates=("square",), **arguments) -> BinnedSpikes:
    """Simulate a little; events are of 50 ms, baselines of 20 Hz."""
    return simulate(
        family, templates, **{"baseline": 20.0, "random_state": 0, **SMALL, **arguments}
    )


def eta_of(counts: BinnedSpikes) -> np.ndarray:
    """Linear predictor (trial, unit, bin) from the truth alone, by adding templates one by one."""
    truth = counts.truth
    eta = np.zeros(counts.shape)
    for event in truth.events.itertuples():
        start = round(event.time / truth.bin_size)
        template = event.amplitude * truth.templates[event.template]
        units = slice(None) if event.unit == -1 else slice(event.unit, event.unit + 1)
        eta[event.trial, units, start : start + template.shape[1]] += template
    real = truth.family == "gaussian"
    rate = truth.baseline * (1 if real else counts.bin_size / counts.sub_bins)
    link = {
        "gaussian": lambda m: m,
        "binomial": lambda m: np.log(m / (1 - m)),
        "poisson": np.log,
        "negative_binomial": np.log,
    }
    return eta + link[truth.family](rate)[..., None]


class TestCounts:
    """Moments of counts against SciPy's distributions at the true predictor."""

    @pytest.mark.parametrize(
        ("family", "law"),
        [
            ("binomial", lambda eta: stats.binom(1, 1 / (1 + np.exp(-eta)))),
            (Binomial(n_trials=5), lambda eta: stats.binom(5, 1 / (1 + np.exp(-eta)))),
            ("poisson", lambda eta: stats.poisson(np.exp(eta))),
            (Gaussian(scale=2.0), lambda eta: stats.norm(eta, 2.0)),
            (
                NegativeBinomial(shape=3.0),
                lambda eta: stats.nbinom(3.0, 3.0 / (3.0 + np.exp(eta))),
            ),
        ],
        ids=["binomial", "binomial of 5", "poisson", "gaussian", "negative binomial"],
    )
    @pytest.mark.parametrize("layout", ["shared", "joint"])
    def test_mean_and_variance(self, family, law, layout):
        counts = small(
            family, n_trials=400, same_events=True, layout=layout, n_events=3, amplitude=(2, 4)
        )
        eta = eta_of(counts)
        np.testing.assert_allclose(eta, np.broadcast_to(eta[:1], eta.shape), atol=1e-12)
        mean, variance = law(eta[0]).stats("mv")
        error = (counts.counts.mean(axis=0) - mean) / np.sqrt(variance / 400)
        assert abs(error.mean()) < 4 / error.size**0.5
        assert 0.6 < error.var() < 1.5
        assert (counts.counts.var(axis=0) / variance).mean() == pytest.approx(1, abs=0.1)

    @each_family
    def test_kind_of_numbers(self, family):
        counts = small(family)
        assert counts.is_counts == FAMILIES[family].integer_valued
        assert counts.sub_bins == 1
        assert small(Binomial(n_trials=7)).sub_bins == 7
        assert counts.truth.family == family

    @each_family
    def test_seeds(self, family):
        one, same, other = (small(family, random_state=seed) for seed in (5, 5, 6))
        assert np.array_equal(one.counts, same.counts)
        assert one.truth.events.equals(same.truth.events)
        assert not np.array_equal(one.counts, other.counts)

    def test_global_state_is_left_alone(self):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        small()
        assert torch.equal(torch.get_rng_state(), before)

    def test_pooled_trials_of_the_same_events(self):
        counts = small("binomial", n_trials=30, same_events=True)
        pooled = counts.pool()
        events = counts.truth.events
        assert len(events) == 30 * len(pooled.truth.events)
        first = events[events["trial"] == 0].drop(columns="trial").reset_index(drop=True)
        for trial in range(1, 30):
            again = events[events["trial"] == trial].drop(columns="trial").reset_index(drop=True)
            assert again.equals(first)
        assert pooled.n_trials.max() == 30


class TestEvents:
    """Where events are, how many, how strong."""

    @settings(max_examples=20)
    @given(gap=st.integers(0, 20), n_events=st.integers(0, 4), seed=st.integers(0, 2**32 - 1))
    def test_number_and_gap(self, gap, n_events, seed):
        counts = small(
            gap=gap * 0.005, n_events=n_events, templates=("square", "vee"), random_state=seed
        )
        table = counts.truth.events
        groups = table.groupby(["trial", "unit", "template"])["time"]
        assert len(table) == 4 * 2 * 2 * n_events
        for _, times in groups:
            assert len(times) == n_events
            onset = np.sort(times.to_numpy() / 0.005)
            np.testing.assert_allclose(onset, onset.round(), atol=1e-6)
            assert onset[0] >= 0
            assert onset[-1] <= 100 - 10 + 1e-6
            assert (np.diff(onset) >= max(gap, 1) - 1e-6).all()

    def test_gap_is_a_template_unless_given(self):
        onset = small(n_events=5).truth.events.groupby(["trial", "unit"])["time"]
        assert onset.apply(lambda times: np.diff(np.sort(times)).min()).min() > 0.05 - 1e-9
        close = small(n_events=5, gap=0.0).truth.events.groupby(["trial", "unit"])["time"]
        assert close.apply(lambda times: np.diff(np.sort(times)).min()).min() < 0.05

    def test_number_is_poisson_without_crowding(self):
        counts = small(
            n_trials=400, n_events=None, event_rate=3.0, gap=0.0, duration=1.0, amplitude=0.1
        )
        number = counts.truth.events.groupby(["trial", "unit"]).size()
        number = np.concatenate([number.to_numpy(), np.zeros(800 - len(number))])
        assert number.mean() == pytest.approx(3.0, abs=4 * (3 / 800) ** 0.5)
        assert number.var() == pytest.approx(3.0, rel=0.25)

    def test_no_events(self):
        counts = small(event_rate=0.0, n_events=None)
        assert len(counts.truth.events) == 0
        assert len(small(n_events=0).truth.events) == 0

    def test_every_onset_is_as_likely(self):
        """One event, no gap to keep: uniform over all onsets, including the last."""
        counts = small(n_trials=1500, n_units=1, n_events=1, duration=0.1, amplitude=0.1)
        onset = (counts.truth.events["time"] / 0.005).round().astype(int)
        number = np.bincount(onset, minlength=11)
        assert len(number) == 11
        assert stats.chisquare(number).pvalue > 1e-3

    @pytest.mark.parametrize(
        ("law", "frozen"),
        [
            ((3.0, 5.0), stats.uniform(3.0, 2.0)),
            (stats.norm(4.0, 0.5), stats.norm(4.0, 0.5)),
            (stats.gamma(3.0), stats.gamma(3.0)),
        ],
    )
    def test_amplitudes_follow_their_law(self, law, frozen):
        drawn = small(amplitude=law, n_trials=100).truth.events["amplitude"]
        assert stats.kstest(drawn, frozen.cdf).pvalue > 1e-3

    def test_one_amplitude(self):
        assert (small(amplitude=4).truth.events["amplitude"] == 4).all()

    def test_sequences_across_units(self):
        counts = small(layout="joint", n_units=6, templates=("square", "vee"))
        truth = counts.truth
        assert truth.templates.shape == (2, 6, 10)
        assert (truth.events["unit"] == -1).all()
        assert len(truth.events) == 4 * 2 * 2
        assert truth.layout == "joint"

    def test_templates_of_the_user(self):
        waveforms = np.random.default_rng(0).normal(size=(2, 12))
        truth = small(templates=waveforms).truth
        expected = waveforms / np.linalg.norm(waveforms, axis=1, keepdims=True)
        np.testing.assert_allclose(truth.templates[:, 0], expected)
        named = small(templates=["vee"], template_length=0.1).truth
        np.testing.assert_allclose(named.templates[0, 0], waveform("vee", 20))
        joint = np.random.default_rng(0).normal(size=(1, 2, 12))
        assert small(templates=joint, layout="joint").truth.templates.shape == (1, 2, 12)

    def test_baselines(self):
        rates = np.array([[5.0, 50.0]] * 4)
        for given_ in ([5.0, 50.0], rates):
            np.testing.assert_array_equal(small(baseline=given_).truth.baseline, rates)


class TestPlacedSpikes:
    """Spikes at their own ticks, which bin to the same counts."""

    @each_count_family
    @pytest.mark.parametrize("bin_size", [0.001, 0.005, 0.0007])
    def test_bin_to_the_same_counts(self, family, bin_size):
        model = Binomial(n_trials=9) if family == "binomial" else family
        counts = small(
            model, bin_size=bin_size, duration=300 * bin_size, template_length=10 * bin_size,
            baseline=1.0 / bin_size,
        )  # fmt: skip
        spikes = place_spikes(counts, random_state=1)
        again = spikes.bin(bin_size, window=(0.0, 300 * bin_size))
        assert np.array_equal(again.counts, counts.counts)
        assert again.mask.all()
        assert again.truth.events.shape == counts.truth.events.shape
        np.testing.assert_allclose(again.truth.events["time"], counts.truth.events["time"])

    def test_no_two_spikes_at_once(self):
        spikes = place_spikes(small(baseline=2000.0))
        assert all((np.diff(times) > 0).all() for times in spikes.times)

    def test_ticks_within_bins_are_uniform(self):
        counts = small("binomial", n_trials=100, n_events=0, baseline=100.0)
        spikes = place_spikes(counts, random_state=0)
        tick = np.round(np.concatenate(spikes.times) / 0.005 * 32).astype(int) % 32
        assert stats.chisquare(np.bincount(tick, minlength=32)).pvalue > 1e-3

    @pytest.mark.parametrize("what", ["pooled", "masked", "signal", "no starts"])
    def test_counts_without_times(self, what):
        counts = small()
        wrong = {
            "pooled": counts.pool(),
            "masked": BinnedSpikes.from_array(
                counts.counts, 0.005, mask=np.arange(100) < 0 * counts.counts + 50
            ),
            "signal": small("gaussian"),
            "no starts": replace(counts, trial_starts=np.full(4, np.nan)),
        }[what]
        with pytest.raises(ValueError, match="`counts` must be counts of single trials"):
            place_spikes(wrong)

    @pytest.mark.parametrize(("family", "layout"), [("binomial", "shared"), ("poisson", "joint")])
    def test_truth_survives_the_file(self, family, layout, tmp_path):
        counts = small(family, layout=layout)
        write_nwb(tmp_path / "simulated.nwb", place_spikes(counts))
        read = read_nwb(tmp_path / "simulated.nwb")
        again = read.bin(0.005, window=(0.0, 0.5))
        assert np.array_equal(again.counts, counts.counts)
        truth, expected = again.truth, counts.truth
        np.testing.assert_allclose(truth.templates, expected.templates)
        np.testing.assert_allclose(truth.baseline, expected.baseline)
        for column in expected.events:
            np.testing.assert_allclose(truth.events[column], expected.events[column], atol=1e-9)
        assert (truth.family, truth.layout) == (family, layout)
        assert truth.settings["random_state"] == 0


def test_errors():
    for arguments, error, words in [
        ({"family": "weibull"}, ValueError, "`family`"),
        ({"templates": ("triangle",)}, ValueError, "`shape`.*triangle"),
        ({"templates": ()}, ValueError, "`templates`"),
        ({"templates": np.zeros((1, 10))}, ValueError, "`templates`.*must be finite.*zero"),
        ({"templates": np.full((1, 10), np.nan)}, ValueError, "`templates`.*must be finite"),
        ({"templates": np.ones((1, 3, 10))}, ValueError, "`templates`.*1 channel"),
        ({"templates": np.ones((1, 101))}, ValueError, "`duration`.*shorter than a template"),
        ({"n_trials": 0}, ValueError, "`n_trials`"),
        ({"n_units": 1.5}, TypeError, "`n_units`"),
        ({"duration": 0.0}, ValueError, "`duration`.*positive"),
        ({"duration": 0.5001}, ValueError, "`duration`.*whole number of bins"),
        ({"bin_size": -1.0}, ValueError, "`bin_size`.*positive"),
        ({"template_length": 0.0512}, ValueError, "`template_length`.*whole number of bins"),
        ({"event_rate": -1.0}, ValueError, "`event_rate`.*negative"),
        ({"event_rate": 1000.0, "n_events": None}, ValueError, "do not fit"),
        ({"n_events": 50}, ValueError, "50 events.*do not fit.*at most 10"),
        ({"n_events": -1}, ValueError, "`n_events`"),
        ({"gap": -0.1}, ValueError, "`gap`.*negative"),
        ({"gap": "long"}, TypeError, "`gap`"),
        ({"amplitude": (5.0, 3.0)}, ValueError, "`amplitude`.*low, high"),
        ({"amplitude": "loud"}, TypeError, "`amplitude`"),
        ({"amplitude": np.inf}, ValueError, "`amplitude`.*finite"),
        ({"amplitude": 500.0}, ValueError, "expected count"),
        ({"baseline": 0.0}, ValueError, "`baseline`.*above 0"),
        ({"baseline": [1.0, 2.0, 3.0]}, ValueError, "`baseline`.*unit"),
        ({"family": "binomial", "baseline": 300.0}, ValueError, "`baseline`.*spike per sub-bin"),
        ({"layout": "both"}, ValueError, "`layout`"),
        ({"random_state": -1}, ValueError, "`random_state`"),
        ({"random_state": "seed"}, TypeError, "`random_state`"),
    ]:
        with refused(error, words, arguments):
            small(**arguments)
