"""The shallow autoencoder, and the experiment that follows its columns to the truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from commands import run

from spikecdl.experiments import sea
from spikecdl.experiments.sea import ShallowAutoencoder
from spikecdl.model.families import Binomial, Gaussian

SMALL = sea.Size(n_steps=40, samples_per_column=50, n_seeds=1)


def some_model(family, baseline: float) -> tuple[ShallowAutoencoder, torch.Tensor]:
    """Return random columns and observations of a random linear predictor, in double precision."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn((8, 12), generator=generator, dtype=torch.float64)
    eta = baseline + torch.randn((50, 8), generator=generator, dtype=torch.float64)
    columns /= columns.norm(dim=0)
    return ShallowAutoencoder(columns, family, 0.3, baseline), family.sample(eta, generator)


def test_encoder_of_the_theory():
    """ReLU_b of W^T (y - f^-1(0)), in the unit of codes: four times the residual of a trial."""
    model, y = some_model(Binomial(30), 0.0)
    score = 4 / 30 * (y - 15) @ model.columns
    expected = torch.where(score > 0.3, score - 0.3, 0)
    torch.testing.assert_close(model.encode(y), expected)
    assert 0 < (expected > 0).double().mean() < 1


def test_encoder_inverts_orthogonal_columns():
    generator = torch.Generator().manual_seed(1)
    columns, _ = torch.linalg.qr(torch.randn((6, 4), generator=generator))
    codes = torch.tensor([[0.0, 1.5, 0.0, 2.0]])
    model = ShallowAutoencoder(columns, Gaussian(2.0), bias=0.0, baseline=-1.0)
    torch.testing.assert_close(model.encode(codes @ columns.T - 1), codes, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.decode(codes), codes @ columns.T - 1)


def test_step_goes_down_and_keeps_the_norm():
    model, y = some_model(Binomial(30), 0.0)
    after = model.after_step(y, 1e-3)
    assert after.loss(y) < model.loss(y)
    torch.testing.assert_close(after.columns.norm(dim=0), torch.ones(12, dtype=torch.float64))


@pytest.mark.parametrize(
    "condition",
    [sea.Condition(), sea.Condition(alike=0.7), sea.Condition(start=0.8, toward_another=True)],
)
def test_dictionary_and_start_are_as_asked(condition):
    generator = torch.Generator().manual_seed(0)
    truth = sea.dictionary(condition, generator)
    start = sea.displaced(truth, condition, generator)
    assert truth.shape == (100, 150)
    for columns in (truth, start):
        torch.testing.assert_close(columns.norm(dim=0), torch.ones(150))
    torch.testing.assert_close((start - truth).norm(dim=0), torch.full((150,), condition.start))
    pairs = (truth[:, ::2] * truth[:, 1::2]).sum(dim=0)
    assert abs(float(pairs.mean()) - condition.alike) < 0.05
    overlap = (start * truth.roll(1, dims=1)).sum(dim=0).mean()
    assert (overlap > 0.5) == condition.toward_another


def test_codes_are_sparse_and_bounded():
    codes = sea.codes(200, sea.Condition(dimension=20), torch.Generator().manual_seed(0))
    assert ((codes != 0).sum(dim=1) == 4).all()
    used = codes[codes != 0]
    assert used.min() >= 1
    assert used.max() <= 2
    assert (codes != 0).any(dim=0).all()


def test_fit_finds_the_line_that_made_the_distances():
    distances = 0.004 + 0.5 * 0.8 ** np.arange(60)
    fit = sea.fitted_contraction(distances)
    assert fit["rate"] == pytest.approx(0.8, abs=0.002)
    assert fit["excess"] == pytest.approx(0.5, rel=0.02)
    assert fit["neighbourhood"] == pytest.approx(0.004, rel=0.01)
    assert fit["r_squared"] > 0.9999
    assert fit["n_fitted"] == np.flatnonzero(distances <= 2 * fit["neighbourhood"])[0]


def test_nothing_is_fitted_where_nothing_contracts():
    fit = sea.fitted_contraction(np.linspace(1, 0.9, 40))
    assert math.isnan(fit["rate"])
    assert math.isnan(fit["r_squared"])
    assert fit["n_fitted"] == 0


def test_distance_contracts_linearly():
    fit = sea.fitted_contraction(follow(sea.Condition(n_active=2))["median"].to_numpy())
    assert (1 - sea.Condition.gain) ** 2 - 0.02 < fit["rate"] < 0.83
    assert fit["r_squared"] > 0.98
    assert fit["neighbourhood"] < 0.01


@pytest.mark.parametrize(
    "condition",
    [
        sea.Condition(start=1.3),
        sea.Condition(start=0.8, toward_another=True),
        sea.Condition(common=0.1),
        sea.Condition(n_trials=10),
        sea.Condition(probability=0.008, n_trials=100),
    ],
)
def test_it_does_not_contract_without_an_assumption(condition):
    distances = sea.follow(condition, replace(SMALL, n_steps=20), seed=0)["median"]
    assert distances.iloc[-1] > 0.9 * distances.iloc[0]


def test_same_seed_same_distances():
    condition = sea.Condition(dimension=30)
    pd.testing.assert_frame_equal(follow(condition), follow(condition))
    assert not follow(condition).equals(sea.follow(condition, SMALL, seed=1))


def test_command_writes_table_figures_and_findings(tmp_path, monkeypatch):
    few = {"dimension": {str(n): sea.Condition(dimension=n) for n in (20, 40)}}
    far = {"start": {"1.3 away": sea.Condition(dimension=20, start=1.3)}}
    monkeypatch.setattr(sea, "CLAIM", few)
    monkeypatch.setattr(sea, "BREAKS", far)
    run("experiment", "sea", "--quick", "--seed", "3", "--out", str(tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert len(table) == 3 * 41
    assert set(table.seed) == {3}
    starts = table[table.step == 0]
    np.testing.assert_allclose(starts["median"], starts.start**2, rtol=1e-4)
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {
        "contraction.png",
        "breaks.png",
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert "1.3 away" in " ".join(summary["findings"])
    assert summary["settings"]["seeds"] == [3]


def follow(condition: sea.Condition) -> pd.DataFrame:
    return sea.follow(condition, SMALL, seed=0)
