"""The experiments on simulated groups run end to end, and their findings agree with tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from commands import run as command
from commands import succeeded
from scipy.special import expit, logit

from spikecdl import BinnedSpikes, experiments
from spikecdl.experiments import Options, Result, binomial, median_and_range
from spikecdl.experiments.binomial import Groups, probability, truth

TINY = binomial.Size(4, 3, 2, (10, 30), (8.0, 17.0), (4, 6), 6, 2)
TINY_ABLATION = binomial.Size(few=4, n_seeds=2, n_unrolled=4, n_epochs=2)
MEASURES = {
    *("error_square", "error_vee", "error_cosine", "error_mean", "error_max", "hit_rate"),
    *("false_alarm_rate", "rate_r2", "deviance_explained_new", "seconds", "n_epochs"),
}


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return {
        "binomial": binomial.run(Options(), TINY),
        "untied": binomial.untied(Options(), TINY_ABLATION),
        "mismatch": binomial.mismatch(Options(), TINY_ABLATION),
    }


NAMES = ("binomial", "untied", "mismatch")


def test_every_experiment_is_there():
    assert set(NAMES) <= set(experiments.EXPERIMENTS)
    with pytest.raises(ValueError, match="`name` .*'nothing'"):
        experiments.run("nothing")


# ----- the data


def test_a_group_is_the_sum_of_its_trials_in_law():
    groups = Groups(n_groups=40, n_trials=20, baseline=30.0)
    pooled, single = groups.draw(3), groups.draw(3, pooled=False)
    assert pooled.n_trials.min() == pooled.n_trials.max() == 20
    assert len(single) == 20
    assert truth(pooled).baseline[0, 0] == truth(single).baseline[0, 0] == 30.0
    expected = 20 * probability(pooled)
    spread = np.sqrt((expected * (1 - expected / 20)).sum())
    assert abs(pooled.counts.sum() - expected.sum()) < 5 * spread
    assert abs(single.counts.sum() - 20 * probability(single)[0].sum()) < 5 * spread


def test_true_probabilities_are_those_of_the_events_one_by_one():
    counts = Groups(n_groups=3, baseline=20.0).draw(1)
    made = truth(counts)
    eta = np.full(counts.shape, logit(20.0 * counts.bin_size))
    for event in made.events.itertuples():
        first = round(event.time / counts.bin_size)
        template = made.templates[event.template, 0]
        eta[event.trial, event.unit, first : first + len(template)] += event.amplitude * template
    np.testing.assert_allclose(probability(counts), expit(eta), rtol=1e-9)


def test_counts_without_truth_are_refused():
    with pytest.raises(ValueError, match="hold no truth"):
        truth(BinnedSpikes.from_array([[0, 1, 0]]))


# ----- what is measured


def test_a_model_that_knows_everything_explains_everything():
    counts = Groups(n_groups=4).draw(0)
    parts = binomial.methods(TINY)[0].model(Groups(4), 0).fit(counts).decompose(counts)
    known = replace(
        parts,
        templates=truth(counts).templates,
        rate=probability(counts) / counts.bin_size,
    )
    found = binomial.measured(known, 0)
    assert found["rate_r2"] == pytest.approx(1)
    assert found["error_max"] == pytest.approx(0, abs=1e-6)
    fitted = binomial.measured(parts, 0)
    assert found["deviance_explained_new"] > fitted["deviance_explained_new"]


def test_initial_templates_are_those_that_training_changes():
    method, groups = binomial.unrolled(binomial.Size(n_unrolled=4, n_epochs=1)), Groups(4)
    initial = binomial.initial_templates(method, groups, 5)
    after = binomial.score(method, groups, 5)[2]
    assert initial.shape == after.shape == (3, 1, 50)
    for n in range(3):  # one step of Adam moves it a little; other templates are far away
        assert (initial[n] * after[n]).sum() > 0.95
        assert abs((initial[n] * after[n - 1]).sum()) < 0.6
    other = binomial.initial_templates(method, groups, 6)
    assert not np.allclose(initial, other)


def test_a_gaussian_model_sees_parts_of_trials_minus_the_baseline():
    counts = Groups(4).draw(0)
    signal = binomial.as_signal(counts, 8.0)
    assert not signal.is_counts
    np.testing.assert_allclose(30 * (signal.counts + 0.008), counts.counts, atol=1e-9)


# ----- what comes out


@pytest.mark.parametrize("name", NAMES)
def test_table_has_a_row_for_each_condition_and_seed(results, name):
    table = results[name].table
    assert set(table) >= MEASURES | {"method", "n_groups", "n_trials", "baseline", "seed"}
    condition = ["method", "n_unrolled", "n_groups", "n_trials", "baseline"]
    each = table.groupby(condition, dropna=False)["seed"].agg(list)
    assert all(seeds == [0, 1] for seeds in each)
    errors = table[[column for column in table if column.startswith("error")]]
    assert errors.min().min() >= 0
    assert errors.max().max() <= 1
    mean = table[["error_square", "error_vee", "error_cosine"]].mean(axis=1)
    np.testing.assert_allclose(table["error_mean"], mean)


def test_binomial_varies_trials_baselines_and_layers(results):
    table = results["binomial"].table
    assert set(table["n_trials"]) == {10, 30}
    assert set(table["baseline"]) == {8.0, 17.0}
    assert set(table["n_unrolled"].dropna()) == {4, 6}
    assert set(table["method"]) == {method.name for method in binomial.methods(TINY)}


@pytest.mark.parametrize("name", NAMES)
def test_traces_end_where_the_table_is(results, name):
    trace, table = results[name].more["traces"], results[name].table
    table = table[table["method"] != "BCOMP"]  # which has no epochs of the same kind
    keys = ["method", "n_unrolled", "n_groups", "n_trials", "baseline", "seed"]
    last = trace.groupby(keys, dropna=False, as_index=False).last()
    both = table.merge(last, on=keys, suffixes=("", "_last"))
    assert len(both) == len(table)
    np.testing.assert_allclose(both["error_mean"], both["error_mean_last"], atol=1e-6)


@pytest.mark.parametrize("name", ["untied", "mismatch"])
def test_findings_of_an_ablation_agree_with_its_table(results, name):
    result = results[name]
    whole, ablated = result.table["method"].unique()
    errors = {m: rows["error_mean"] for m, rows in result.table.groupby("method")}
    first = result.findings[0]
    assert median_and_range(errors[whole]) in first
    assert median_and_range(errors[ablated]) in first
    worse = int((errors[ablated].to_numpy() > errors[whole].to_numpy()).sum())
    assert f"worse in {worse} of 2 seeds" in first
    assert ("NOT" in first) == (worse < 2)


def test_findings_of_binomial_agree_with_its_table(results):
    result = results["binomial"]
    table = result.table
    usual = table.query("method == 'alternating' and n_trials == 30 and baseline == 8.0")
    most = usual[usual["n_groups"] == 4]
    for shape in ("square", "vee", "cosine"):
        assert f"{shape} {median_and_range(most[f'error_{shape}'])}" in result.findings[0]
    few = median_and_range(table.query("method == 'implicit'")["error_mean"])
    assert any(re.match("Implicit, 3 groups", s) and few in s for s in result.findings)


def test_the_same_seed_gives_the_same_numbers():
    again = [binomial.Size(few=3, n_seeds=n_seeds, n_unrolled=3, n_epochs=1) for n_seeds in (1, 2)]
    first, second = (binomial.untied(Options(random_state=7), size).table for size in again)
    second = second[second["seed"] == 7].reset_index(drop=True)
    assert list(first["seed"]) == [7, 7]
    pd.testing.assert_frame_equal(
        first.drop(columns="seconds"), second.drop(columns="seconds"), check_exact=True
    )


def test_results_are_written(results, tmp_path):
    result = results["binomial"]
    returned = result.write(tmp_path, {"experiment": "binomial"})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["experiment"] == returned["experiment"] == "binomial"
    assert summary["findings"] == list(result.findings)
    assert summary["settings"]["seeds"] == [0, 1]
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(result.table)
    assert {p.stem for p in tmp_path.glob("*.png")} == set(result.figures) >= {"templates"}
    assert (tmp_path / "traces.csv").exists()


def test_the_command_writes_and_reports(monkeypatch, tmp_path):
    small = binomial.Size(few=4, n_seeds=1, n_unrolled=4, n_epochs=1)
    monkeypatch.setattr(binomial, "QUICK", small)
    out = tmp_path / "out"
    line = ["experiment", "untied", "--quick", "--out", out, "--seed", 3, "--json"]
    found = succeeded(command(*line)).json
    assert found["experiment"] == "untied"
    assert found["seed"] == 3
    assert found["settings"]["seeds"] == [3]
    assert json.loads((out / "summary.json").read_text())["findings"] == found["findings"]
    outcome = command("experiment", "nothing", "--out", tmp_path / "other")
    assert outcome.code == 2
    assert "untied" in outcome.err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quick_versions_run_from_the_command_line(name, tmp_path):
    found = succeeded(command("experiment", name, "--quick", "--out", tmp_path, "--json")).json
    assert found["quick"]
    table = pd.read_csv(tmp_path / "table.csv")
    if name == "binomial":
        default = table.query("method == 'alternating' and n_trials == 30 and baseline == 8.0")
        assert default["error_mean"].max() < 0.3
    else:  # the model that lacks something loses, whatever the seed
        errors = table.pivot(index="seed", columns="method", values="error_mean")
        whole, ablated = table["method"].unique()
        assert (errors[ablated] > errors[whole]).all()
