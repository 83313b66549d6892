"""What the tests of the mathematics share: contracts, a dense twin of the operator, problems."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import FAMILIES, Family
from spikecdl.model.penalties import L1, Penalty

N_TRIALS = 12


def example(name: str) -> Family:
    """Family of that name in the registry, with every parameter known."""
    return FAMILIES[name]().resolve(torch.tensor(N_TRIALS)).typical()


def support(family: Family, dtype: torch.dtype = torch.float64) -> Tensor:
    """Some observations of a family: both ends of its support, or its least and some large ones."""
    y = torch.tensor([-50.0, -1, 0, 1, 2, 5, N_TRIALS - 1, N_TRIALS, 50, 1000], dtype=dtype)
    return y[~family.invalid(y)[0]]


def dense(templates: Tensor, places: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Matrix of `ConvDictionary`: every template pasted at every place, one column each."""
    support = templates.shape[2:]
    bins = [(p - 1) * s + k for p, s, k in zip(places, stride, support, strict=True)]
    columns = []
    for template in templates:
        for place in itertools.product(*map(range, places)):
            signal = templates.new_zeros(templates.shape[1], *bins)
            corner = [p * s for p, s in zip(place, stride, strict=True)]
            window = [slice(c, c + k) for c, k in zip(corner, support, strict=True)]
            signal[(slice(None), *window)] = template
            columns.append(signal.flatten())
    return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class Problem:
    """Small windows drawn from a model, and the penalised objective of their codes."""

    family: Family
    dictionary: ConvDictionary
    penalty: Penalty
    y: Tensor
    baseline: Tensor

    def objective(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Penalised negative log likelihood of every window, shape (window,)."""
        cost = self.family.cost(self.y, self.dictionary(codes) + self.baseline)
        cost = cost if mask is None else torch.where(mask, cost, 0)
        penalties = torch.stack([self.penalty(window) for window in codes])
        return cost.flatten(1).sum(1) + penalties

    def score(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Derivative of the log likelihood with respect to the codes, by the dense matrix."""
        places = codes.shape[-self.dictionary.axes :]
        matrix = dense(self.dictionary.templates.detach(), places, self.dictionary.stride)
        eta = (codes.flatten(-1 - len(places)) @ matrix.T).reshape(self.y.shape) + self.baseline
        residual = self.family.residual(self.y, eta)
        residual = residual if mask is None else torch.where(mask, residual, 0)
        return (residual.flatten(-1 - len(places)) @ matrix).reshape(codes.shape)


def problem(
    name: str,
    axes: int = 1,
    sign: str = "positive",
    *,
    seed: int = 0,
    windows: int = 3,
    fraction: float = 0.2,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Windows of a family with known codes; the weight is that fraction of lambda_max."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    family = example(name)
    support, places, stride = {1: ((5,), (18,), 1), 2: ((3, 2), (4, 5), (2, 1))}[axes]
    dictionary = ConvDictionary(normal(2, 2, *support), stride).normalize_()
    with torch.no_grad():
        dictionary.templates *= scale
        codes = normal(windows, 2, *places)
        codes = torch.where(codes.abs() > 1.2, 2 * codes, 0)
        codes = L1(sign=sign, axes=axes).project(codes)
        baseline = 0.3 * normal(windows, 2, *(1,) * axes)
        y = family.sample(dictionary(codes) + baseline, generator)
        score = dictionary.adjoint(family.residual(y, baseline))
    penalty = L1(sign=sign, axes=axes)
    penalty = penalty.with_weight(fraction * float(penalty.lambda_max(score)))
    return Problem(family, dictionary, penalty, y, baseline)


def in_single_precision(task: Problem) -> Problem:
    dictionary = ConvDictionary(task.dictionary.templates.detach().float())
    return replace(task, dictionary=dictionary, y=task.y.float(), baseline=task.baseline.float())


def hard_start(name: str, baseline: float, dtype: torch.dtype) -> Problem:
    """A loud and a silent window, to be coded from a baseline that may be far off."""
    family = example(name)
    y = torch.zeros(2, 1, 20, dtype=dtype)
    y[0] = support(family).max()
    y[0, 0, 4:7] = 0
    templates = torch.tensor([[[0.6, 0.8]], [[0.8, -0.6]]], dtype=dtype)
    offset = torch.full((2, 1, 1), baseline, dtype=dtype)
    return Problem(family, ConvDictionary(templates), L1(0.5, sign="both"), y, offset)


@torch.no_grad()
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


@torch.no_grad()
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
