"""The whisker experiment on the recordings, and the choice of settings."""

from __future__ import annotations

import numpy as np
import pytest
from commands import run, succeeded

from spikecdl import BinnedSpikes, Binomial
from spikecdl.baselines import PSTH
from spikecdl.evaluation.heldout import HeldOut
from spikecdl.experiments import Options, whisker, whisker_trials
from spikecdl.experiments.whisker import chosen, with_leads


def test_a_folder_without_recordings_is_an_error(tmp_path):
    outcome = run("experiment", "whisker", "--quick", "--data", tmp_path, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "--data" in outcome.err
    assert "dir3_stim2.nwb" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def whisker_folder(shared_data):
    return shared_data / "whisker_thalamus"


@pytest.fixture(scope="module")
def few_settings():
    """Fewer settings to choose from, and fewer models of single trials."""
    few = {name: whisker_trials.METHODS[name] for name in ("alternating", whisker_trials.HISTORY)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whisker, "SMOOTHING", (0.0025, 0.01))
        patch.setattr(whisker, "SIZES", (8,))
        patch.setattr(whisker, "RIDGES", (0.03, 1.0))
        patch.setattr(whisker_trials, "METHODS", few)
        patch.setattr(whisker_trials, "PASTS", (0.05,))
        yield


@pytest.fixture(scope="module")
def result(whisker_folder, few_settings):
    return whisker.run(Options(quick=True, data=whisker_folder))


def test_dcea_is_better_than_the_psth_and_close_to_models_that_know_more(result):
    scores = result.table.pivot_table(
        index=["recording", "unit"], columns="method", values="deviance_explained"
    )
    assert (scores["constant rate"].abs() < 0.01).all()
    assert (scores["DCEA"] > scores["PSTH"]).all()
    for method in ("GLM, stimulus", "GLM, known onsets"):
        assert (scores["DCEA"] > scores[method] - 0.03).all()


def test_leads_are_differences_of_the_scores_with_errors_over_trials(result):
    table = result.table.set_index(["recording", "unit"])
    ours = table[table["method"] == "DCEA"]
    assert ours["lead"].isna().all()
    for method, rows in table[table["method"] != "DCEA"].groupby("method"):
        expected = ours["deviance_explained"] - rows["deviance_explained"]
        np.testing.assert_allclose(rows["lead"], expected, atol=1e-9, err_msg=method)
        assert rows["lead_se"].between(0, 0.1).all()


def test_the_error_of_a_lead_is_that_over_sets_of_trials():
    """Two constant rates; the spread of their difference over recordings of the same law."""
    draws = []
    for seed in range(200):
        spikes = np.random.default_rng(seed).random((30, 1, 200)) < np.linspace(0.1, 0.3, 200)
        counts = BinnedSpikes.from_array(spikes, 0.005)
        fits = [
            fit(counts, name, rate) for name, rate in (("DCEA", 0.2), ("other", np.full(200, 0.25)))
        ]
        draws.append(with_leads(fits)[["lead", "lead_se"]].to_numpy()[1])
    lead, error = np.transpose(draws)
    assert error.mean() == pytest.approx(lead.std(), rel=0.15)


def fit(counts, name, rate):
    expected = np.broadcast_to(rate, counts.shape)
    null = np.full(counts.shape, counts.counts.mean())
    scored = [
        HeldOut(each, expected[:1] * each.n_pooled, null[:1] * each.n_pooled, family)
        for each, family in ((counts.pool(), Binomial(30)), (counts, Binomial(1)))
    ]
    pooled, single = (each.deviances for each in scored)
    row = {"recording": "dir3_stim1", "unit": 0, "split": "all", "method": name}
    return whisker.Fit(row, single[0, :, 0], pooled[1, 0, 0], None, None)


def test_the_chosen_settings_are_those_that_predict_other_trials():
    rate = 0.1 + 0.08 * np.sin(np.arange(400) / 20)
    trials = BinnedSpikes.from_array(np.random.default_rng(0).random((20, 400)) < rate, 0.005)
    models = {width: PSTH(width) for width in (0.0, 0.02, 0.3)}
    assert chosen(models, trials)[0] == 0.02
    few = {width: PSTH(width) for width in (0.3,)}
    assert chosen(few, trials) == (0.3, few[0.3])


def test_dcea_finds_the_deflections_beyond_chance(result):
    rows = result.table[result.table["method"] == "DCEA"]
    assert (rows["hit_rate"] > rows["chance_hit_rate"] + 0.3).all()
    assert (rows["hit_p_value"] < 0.01).all()


def test_the_response_peaks_where_the_counts_do(result, whisker_folder):
    recording = next(whisker_trials.load(whisker_folder, ["dir3_stim2"]))
    fitted, _ = recording.split("of the file")
    cycles = fitted.pool().rate()[0, 0, 100:500].reshape(16, 25).mean(axis=0)
    row = result.table[(result.table["method"] == "DCEA") & (result.table["unit"] == 0)].iloc[0]
    assert row["peak_ms"] == 5 * (cycles.argmax() + 0.5)
    assert row["peak_hz"] == pytest.approx(cycles.max(), rel=0.1)


def test_every_method_is_in_the_table_and_in_the_findings(result):
    names = [method.name for method in whisker.METHODS]
    assert list(result.table["method"].unique()) == names
    assert set(result.figures) == {"scores", "templates", "intervals"}
    said = " ".join(result.findings)
    assert all(name in said for name in names)
    rows = result.table.set_index(["recording", "unit", "method"])["deviance_explained"]
    best = f"{rows.xs('DCEA', level='method').max():.3f}"
    assert best in said


@pytest.mark.usefixtures("few_settings")
def test_the_command_writes_table_figures_and_summary(whisker_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(whisker, "METHODS", whisker.METHODS[:2] + whisker.METHODS[3:6:2])
    out = tmp_path / "out"
    line = ("experiment", "whisker", "--quick", "--data", whisker_folder, "--out", out, "--json")
    found = succeeded(run(*line)).json
    written = sorted(file.name for file in out.iterdir())
    figures = ["intervals.png", "scores.png", "templates.png"]
    assert written == sorted([*figures, "single_trials.csv", "summary.json", "table.csv"])
    assert found["settings"]["bin_size"] == 0.005
    assert found["findings"]
