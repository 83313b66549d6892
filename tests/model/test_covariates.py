"""Spike history and drift: columns, and Newton steps of their coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from spikecdl import History
from spikecdl.model.covariates import Covariates
from spikecdl.model.families import Poisson
from spikecdl.model.history import Drift


def covariates(units=3, trials=12, bins=80, drift=True, **more):
    """Covariates of random counts (trial, unit, 1, bin) in bins of 0.1 s."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((trials, units, 1, bins), 0.4), generator=generator)
    shape = (trials, units, 1, 1)
    return Covariates(
        counts=counts,
        unit=torch.arange(units)[:, None, None].expand(shape),
        start=10.0 * torch.arange(trials, dtype=torch.float64)[:, None, None, None].expand(shape),
        bin_size=0.1,
        basis=History(1.5, n_basis=4).basis(0.1),
        drift=Drift(40.0, 0.0, 10.0 * trials) if drift else None,
        **more,
    )


class TestHistory:
    def test_basis_is_fine_at_first_and_sums_to_a_constant(self):
        basis = History(0.2, n_basis=8).basis(0.001)
        assert basis.shape == (8, 200)
        torch.testing.assert_close(basis[:, 10:90].sum(0), torch.full((80,), 2.0))
        assert basis.argmax(1).tolist() == sorted(basis.argmax(1).tolist())
        assert basis[0, 5:].max() == 0
        assert (basis[-1] > 0.5).sum() > 50

    def test_few_lags_have_a_coefficient_each(self):
        assert torch.equal(History(0.03).basis(0.01), torch.eye(3))

    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            ({"seconds": 0.0}, r"`history` \(=0.0\) must be positive"),
            ({"seconds": 1.0, "n_basis": 0}, r"`n_basis` \(=0\) must be at least 1"),
            ({"seconds": 1.0, "sign": "up"}, r"`sign` \(='up'\) must be"),
        ],
    )
    def test_refuses(self, settings, problem):
        with pytest.raises(ValueError, match=problem):
            History(**settings)

    def test_must_reach_a_bin(self):
        with pytest.raises(ValueError, match=r"`history` \(=0.005\) must be at least one bin of"):
            History(0.005).basis(0.01)


def test_history_is_of_earlier_bins_of_the_window_alone():
    some = covariates(drift=False)
    coefficients = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    filters = (coefficients @ some.basis).numpy()
    counts = some.counts[:, :, 0].numpy()
    expected = np.array(
        [
            [np.convolve(row, f)[: len(row)] for row, f in zip(t, filters, strict=True)]
            for t in counts
        ]
    )
    offset = some.offset(coefficients)[:, :, 0]
    np.testing.assert_allclose(offset[..., 1:], expected[..., :-1], atol=1e-5)
    assert (offset[..., 0] == 0).all()


def test_rows_and_trials_keep_their_columns():
    some = covariates()
    coefficients = torch.randn(3, some.n_columns, generator=torch.Generator().manual_seed(1))
    offset = some.offset(coefficients)
    rows = some.map(lambda tensor: tensor.flatten(0, -3))
    torch.testing.assert_close(rows.offset(coefficients), offset.flatten(0, -3))
    chosen = torch.tensor([5, 2])
    taken = some.map(lambda tensor: tensor[chosen])
    torch.testing.assert_close(taken.offset(coefficients), offset[chosen])


def test_drift_is_centred_and_holds_its_ends():
    drift = Drift(10.0, 100.0, 160.0)
    times = torch.linspace(100.0, 160.0, 2001, dtype=torch.float64)
    columns = drift(times)
    assert len(columns) == drift.n_columns == 9
    torch.testing.assert_close(columns.sum(0), torch.zeros_like(times), atol=1e-9, rtol=0)
    assert columns.mean(1).abs().max() < 0.02
    ends = drift(torch.tensor([0.0, 100.0, 160.0, 500.0], dtype=torch.float64))
    torch.testing.assert_close(ends[:, 0], ends[:, 1])
    torch.testing.assert_close(ends[:, 2], ends[:, 3])


def newton(some, y, steps=30):
    """Fit coefficients and a level per unit by alternating steps."""
    family, coefficients = Poisson(), torch.zeros(y.shape[1], some.n_columns, dtype=torch.float64)
    level = torch.zeros(1, y.shape[1], 1, 1, dtype=torch.float64)
    for _ in range(steps):
        eta = level + some.offset(coefficients).double()
        level = level + (y.mean((0, 2, 3)) / eta.exp().mean((0, 2, 3))).log()[:, None, None]
        eta = level + some.offset(coefficients).double()
        now = (family.residual(y, eta), family.curvature(y, eta))
        coefficients = some.update(coefficients, *now)
    return coefficients, level


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize("largest", [np.inf, 0.0])
def test_steps_end_at_the_maximum_of_the_penalised_likelihood(common, largest):
    some = covariates(units=2, common=common, largest=largest)
    y = some.counts.double()
    coefficients, level = newton(some, y)
    n_history, n_units = len(some.basis), 2
    columns = torch.stack(
        [some.offset(row[None].expand(n_units, -1)).double() for row in torch.eye(some.n_columns)]
    )
    precision = some.precision.clone().repeat(n_units, 1)
    precision[:, :n_history] /= n_units if common else 1

    def unpack(vector):
        values = torch.tensor(vector).reshape(n_units, -1)
        beta = values[:, 1:]
        if common:
            shared = beta[:1, :n_history].expand(n_units, -1)
            beta = torch.cat([shared, beta[:, n_history:]], dim=1)
        return values[:, 0], beta

    def objective(vector):
        free = torch.tensor(vector, requires_grad=True)
        values = free.reshape(n_units, -1)
        beta = values[:, 1:]
        if common:
            shared = beta[:1, :n_history].expand(n_units, -1)
            beta = torch.cat([shared, beta[:, n_history:]], dim=1)
        eta = values[:, 0][:, None, None] + torch.einsum("ktucb,uk->tucb", columns, beta)
        cost = Poisson().cost(y, eta).sum() + (precision * beta.square()).sum() / 2
        cost.backward()
        return float(cost.detach()), free.grad.numpy()

    bounds = [(None, None), *[(None, largest)] * n_history]
    bounds += [(None, None)] * (1 + some.n_columns - len(bounds))
    start = np.zeros(n_units * (1 + some.n_columns))
    options = {"maxiter": 5000, "maxfun": 50000, "ftol": 1e-14, "gtol": 1e-8}
    found = minimize(objective, start, jac=True, bounds=bounds * n_units, options=options)
    _, beta = unpack(found.x)
    np.testing.assert_allclose(coefficients, beta, atol=2e-4)
    if common:
        assert torch.equal(coefficients[0, :n_history], coefficients[1, :n_history])
    assert (coefficients[:, :n_history] <= largest + 1e-5).all()


def test_a_silent_unit_has_no_filter():
    some = covariates(units=2)
    some.counts[:, 1] = 0
    y = some.counts.double()
    eta = torch.tensor([-1.0, -20.0], dtype=torch.float64)[:, None, None].expand_as(y)
    step = some.update(torch.zeros(2, some.n_columns), y - eta.exp(), eta.exp())
    assert torch.isfinite(step).all()
    assert step[1].abs().max() < 1e-3
