"""Checks that any operator and any penalty must pass; the tests of each call them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spikecdl.penalties import Penalty


def assert_adjoint(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    x_shape: Sequence[int],
    y_shape: Sequence[int],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Check <forward(x), y> = <x, adjoint(y)> and the shapes, on random x and y."""
    x = torch.randn(*x_shape, generator=generator, dtype=dtype)
    y = torch.randn(*y_shape, generator=generator, dtype=dtype)
    forward_x, adjoint_y = forward(x), adjoint(y)
    assert forward_x.shape == y.shape, f"forward gives {tuple(forward_x.shape)}, not {y_shape}"
    assert adjoint_y.shape == x.shape, f"adjoint gives {tuple(adjoint_y.shape)}, not {x_shape}"
    left, right = float((forward_x * y).sum()), float((x * adjoint_y).sum())
    # each inner product may be near zero by chance: compare with the size of its factors
    scale = float(forward_x.norm() * y.norm() + x.norm() * adjoint_y.norm())
    assert abs(left - right) <= 10 * torch.finfo(dtype).eps * scale, f"{left} is not {right}"


def assert_prox(penalty: Penalty, codes: Tensor, step: float) -> None:
    """Check ``penalty.prox`` against brute force and Moreau's identity.

    ``codes`` (float64, few numbers: each is searched for on its own) is taken as the point whose
    proximal point is asked for.  The penalty must be positively homogeneous, as sums of norms are.
    """
    point = penalty.prox(codes, step)
    assert point.shape == codes.shape
    assert torch.equal(penalty.project(point), point), "the proximal point has a forbidden sign"

    def objective(u: Tensor) -> float:
        if not torch.equal(penalty.project(u), u):
            return math.inf
        return float((u - codes).square().sum() / 2 + step * penalty(u))

    reach = float(codes.abs().max()) + 1
    for place in range(codes.numel()):

        def along(value: float, place: int = place) -> float:
            u = point.flatten().clone()
            u[place] = value
            return objective(u.reshape(point.shape))

        best = _golden_section(along, -reach, reach)
        there = float(point.flatten()[place])
        assert abs(best - there) < 1e-6 * reach, f"code {place}: {there}, best is {best}"

    # Moreau: codes - point lies in the polar set of the penalty, and touches it at point
    rest = codes - point
    assert math.isclose(
        float((rest * point).sum()), step * float(penalty(point)), rel_tol=1e-9, abs_tol=1e-9
    )
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(codes.shape, generator=generator).to(codes) for _ in range(100)]
    for direction in [rest, *directions]:
        allowed = penalty.project(direction)
        assert float((rest * allowed).sum()) <= step * float(penalty(allowed)) + 1e-9


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Minimise a convex function, infinite on one side at most, to about 1e-8 of the interval."""
    shrink = (math.sqrt(5) - 1) / 2
    a, b = high - shrink * (high - low), low + shrink * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(60):
        if at_a < at_b or (at_a == at_b == math.inf and function(low) < math.inf):
            high, b, at_b = b, a, at_a
            a = high - shrink * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + shrink * (high - low)
            at_b = function(b)
    middle = (low + high) / 2
    return min((middle, 0.0), key=function)
