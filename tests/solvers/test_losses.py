"""Compiled losses against the families whose formulas they repeat."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from contracts import example, support

from spikecdl import kernels
from spikecdl.model.families import FAMILIES
from spikecdl.solvers.amplitudes import LOSSES, Loss, as_array

fill_state, value = kernels.function("fill_state"), kernels.function("loss_value")

each_family = pytest.mark.parametrize("name", sorted(FAMILIES))
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}


class State(NamedTuple):
    """Linear predictor, minus the derivative of the loss and its curvature, shape (row, bin)."""

    eta: np.ndarray
    residual: np.ndarray
    curvature: np.ndarray


def compiled(name: str, y: torch.Tensor, eta: torch.Tensor) -> tuple[Loss, State]:
    loss = example(name).scalar_loss(y)
    z = as_array(eta) - loss.shift
    kernel = Loss(LOSSES[loss.kind], as_array(loss.a), as_array(loss.b))
    state = State(z, np.empty_like(z), np.empty_like(z))
    fill_state(kernel, state)
    return kernel, state


def values(loss: Loss, eta: np.ndarray) -> np.ndarray:
    """The loss of each bin on its own."""
    cells = [np.s_[i : i + 1, j : j + 1] for i, j in np.ndindex(eta.shape)]
    each = [value(Loss(loss.kind, loss.a[cell], loss.b[cell]), eta[cell]) for cell in cells]
    return np.reshape(each, eta.shape)


@each_family
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_kernels_are_the_family(name, dtype):
    """Over the whole support and linear predictors of both signs, small and large."""
    family, tol = example(name), TOLERANCE[dtype]
    y = support(family, dtype)[:, None].expand(-1, 61).contiguous()
    eta = torch.linspace(-60, 60, 61, dtype=dtype).expand_as(y).contiguous()
    kernel, state = compiled(name, y, eta)
    y, eta = y.double(), eta.double()
    curvature = family.curvature(y, eta)
    for ours, expected in (
        (state.residual, family.residual(y, eta)),
        (state.curvature, curvature),
    ):
        error = (torch.from_numpy(ours) - expected).abs()
        assert (error <= tol * (expected.abs() + curvature) + 1e-13 * (1 + y.abs())).all()
    cost, ours = family.cost(y, eta).numpy(), values(kernel, state.eta)
    zero = ours[:, 30:31] - cost[:, 30:31]  # a constant of the observation is left out
    np.testing.assert_allclose(ours - zero, cost, rtol=tol, atol=tol * float(1 + y.abs().max()))
    assert value(kernel, state.eta) == pytest.approx(ours.sum())


@each_family
def test_nothing_observed_costs_nothing(name):
    y, eta = support(example(name))[:, None], torch.ones(1, 1, dtype=torch.float64)
    kernel, state = compiled(name, y, eta.expand_as(y))
    hidden = Loss(kernel.kind, 0 * kernel.a, 0 * kernel.b)
    fill_state(hidden, state)
    assert value(hidden, state.eta) == 0
    assert (state.residual == 0).all()
    assert (state.curvature == 0).all()
