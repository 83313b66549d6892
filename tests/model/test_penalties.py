"""Penalties against brute force and Moreau's identity; whatever is in the registry is tested."""

from __future__ import annotations

import math

import pytest
import torch
from contracts import assert_prox
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import refused
from torch import Tensor

from spikecdl.model.penalties import L1, PENALTIES, GroupL1

NAMES = sorted(PENALTIES)
SIGNS = ["positive", "negative", "both", ("both", "positive"), ["negative", "both"]]
SHAPES = {1: (3, 2, 4), 2: (2, 2, 2, 3)}  # (unit, template, *places)

each_penalty = pytest.mark.parametrize("name", NAMES)
each_sign = pytest.mark.parametrize("sign", SIGNS, ids=str)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@each_penalty
@each_sign
def test_prox_is_the_minimum_in_2d(name, sign):
    penalty = PENALTIES[name](weight=0.7, sign=sign, axes=2)
    assert_prox(penalty, 2 * random(*SHAPES[2]), 0.8)


@each_penalty
@settings(max_examples=20)
@given(
    values=st.lists(st.floats(-5, 5).map(lambda v: round(v, 3)), min_size=6, max_size=6),
    weight=st.floats(0, 3),
    step=st.floats(0.01, 3),
    sign=st.sampled_from(SIGNS),
)
def test_prox_is_the_minimum_whatever_the_codes(name, values, weight, step, sign):
    codes = torch.tensor(values, dtype=torch.float64).reshape(3, 2, 1)
    assert_prox(PENALTIES[name](weight=weight, sign=sign), codes, step)


@each_penalty
@pytest.mark.parametrize("axes", SHAPES)
def test_curvature_is_the_second_derivative(name, axes):
    """By autograd, at codes some of which are zero and stay so."""
    codes = random(*SHAPES[axes])
    present = codes.abs() > 0.3
    codes, direction = codes * present, random(*SHAPES[axes], seed=1) * present
    penalty = PENALTIES[name](weight=0.7, axes=axes)

    def slope(codes: Tensor) -> Tensor:
        return torch.autograd.grad(penalty(codes), codes, create_graph=True)[0]

    _, expected = torch.autograd.functional.jvp(slope, codes, direction)
    torch.testing.assert_close(penalty.curvature(codes, direction) * present, expected * present)


@each_penalty
@settings(max_examples=50)
@given(seed=st.integers(0, 999), step=st.floats(0.01, 3), sign=st.sampled_from(SIGNS))
def test_prox_is_nonexpansive(name, seed, step, sign):
    penalty = PENALTIES[name](weight=0.5, sign=sign)
    a, b = random(3, 2, 4, seed=seed), random(3, 2, 4, seed=seed + 1)
    moved = (penalty.prox(a, step) - penalty.prox(b, step)).norm()
    assert moved <= (a - b).norm() * (1 + 1e-12)


@each_penalty
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_precision_is_kept(name, dtype):
    penalty = PENALTIES[name](weight=0.5, sign="both")
    codes = random(3, 2, 4)
    point = penalty.prox(codes.to(dtype), 0.4)
    assert point.dtype == penalty(codes.to(dtype)).dtype == dtype
    torch.testing.assert_close(point.double(), penalty.prox(codes, 0.4), rtol=1e-5, atol=1e-6)


@each_penalty
def test_signs_are_by_template(name):
    codes = random(2, 3, 5)
    penalty = PENALTIES[name](weight=0.0, sign=("positive", "negative", "both"))
    up, down, free = penalty.prox(codes, 1.0).unbind(dim=1)
    torch.testing.assert_close(up, codes[:, 0].clamp(min=0))
    torch.testing.assert_close(down, codes[:, 1].clamp(max=0))
    torch.testing.assert_close(free, codes[:, 2])
    torch.testing.assert_close(penalty.project(codes), penalty.prox(codes, 1.0))


@each_penalty
@each_sign
def test_lambda_max_is_where_codes_vanish(name, sign):
    """With no codes, the point whose proximal point is asked for is the score."""
    for axes, shape in SHAPES.items():
        score = random(*shape, seed=3)
        penalty = PENALTIES[name](sign=sign, axes=axes)
        largest = float(penalty.lambda_max(score))
        assert (penalty.with_weight(largest * (1 + 1e-9)).prox(score, 1.0) == 0).all()
        assert (penalty.with_weight(largest * (1 - 1e-9)).prox(score, 1.0) != 0).any()


@each_penalty
def test_lambda_max_is_zero_where_no_sign_is_allowed(name):
    assert PENALTIES[name](sign="positive").lambda_max(-random(2, 2, 3).abs()) < 1e-12


@each_penalty
def test_a_weight_per_window(name):
    weight = torch.tensor([0.2, 0.8, 1.5], dtype=torch.float64).reshape(3, 1, 1, 1)
    codes = random(3, 2, 2, 4)
    penalty = PENALTIES[name](weight=weight, sign="both")
    alone = [PENALTIES[name](weight=float(w), sign="both") for w in weight]
    points = torch.stack([p.prox(c, 0.7) for p, c in zip(alone, codes, strict=True)])
    torch.testing.assert_close(penalty.prox(codes, 0.7), points)
    total = sum(p(c) for p, c in zip(alone, codes, strict=True))
    torch.testing.assert_close(penalty(codes), total)
    middle = penalty.map(lambda tensor: tensor[1:2])
    torch.testing.assert_close(middle.prox(codes[1:2], 0.7), points[1:2])


@each_penalty
def test_a_step_per_window(name):
    step = torch.tensor([0.1, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    codes = random(2, 3, 2, 4)
    penalty = PENALTIES[name](weight=0.6)
    alone = torch.stack([penalty.prox(c, float(s)) for c, s in zip(codes, step, strict=True)])
    torch.testing.assert_close(penalty.prox(codes, step), alone)


@each_penalty
def test_changing_the_weight_keeps_the_rest(name):
    penalty = PENALTIES[name](weight=1.0, sign="both", axes=2)
    heavier = penalty.with_weight(3.0)
    assert (type(heavier), heavier.weight, heavier.sign, heavier.axes) == (
        PENALTIES[name], 3.0, "both", 2,
    )  # fmt: skip
    assert penalty.map(lambda tensor: tensor[:1]) is penalty


@each_penalty
def test_derivatives(name):
    codes = random(3, 2, 4, seed=8).requires_grad_()
    for sign in SIGNS:
        penalty = PENALTIES[name](weight=0.4, sign=sign)
        assert torch.autograd.gradcheck(lambda x, by=penalty: by.prox(x, 0.5), codes)
        assert torch.autograd.gradcheck(penalty, codes)


@each_penalty
def test_derivatives_are_finite_where_all_codes_are_zero(name):
    penalty = PENALTIES[name](weight=0.4, sign="both")
    codes = torch.zeros(3, 2, 4, dtype=torch.float64, requires_grad=True)
    for value in (penalty(codes), penalty.prox(codes, 0.5).sum()):
        (slope,) = torch.autograd.grad(value, codes)
        assert torch.isfinite(slope).all()
        assert value.abs() < 1e-100


def test_group_l1_keeps_or_drops_units_together():
    codes = torch.tensor([[[3.0, 0.3]], [[4.0, 0.4]], [[0.0, 0.0]]])  # norms 5 and 0.5
    point = GroupL1(weight=1.0).prox(codes, 1.0)
    torch.testing.assert_close(point, torch.tensor([[[2.4, 0.0]], [[3.2, 0.0]], [[0.0, 0.0]]]))
    torch.testing.assert_close(GroupL1(weight=2.0)(codes), torch.tensor(11.0))
    assert GroupL1().grouped
    assert not L1().grouped


def test_group_l1_of_one_unit_is_l1():
    codes = random(1, 2, 6)
    for sign in ("positive", "both"):
        one, group = L1(0.3, sign), GroupL1(0.3, sign)
        torch.testing.assert_close(group.prox(codes, 0.5), one.prox(codes, 0.5))
        torch.testing.assert_close(group(codes), one(codes))


@pytest.mark.parametrize(("name", "units"), [("l1", 1), ("group_l1", 4), ("group_l1", 20)])
def test_null_weight_is_about_what_noise_reaches(name, units):
    """The largest of 1000 scores of pure noise, in 200 draws."""
    penalty = PENALTIES[name](sign="both")
    spread = torch.full((units, 2, 1), 0.7, dtype=torch.float64)
    weight = float(penalty.universal_threshold(spread, 1000).max())
    reached = [float(penalty.lambda_max(0.7 * random(units, 2, 500, seed=s))) for s in range(200)]
    assert 0.75 * weight < sum(reached) / len(reached) < weight
    assert max(reached) < 1.5 * weight


BAD = [
    ({"weight": -0.1}, ValueError, r"`weight` \(=-0.1\) must not be negative"),
    ({"weight": math.nan}, ValueError, r"`weight` \(=nan\) must be finite"),
    ({"weight": "1"}, TypeError, r"`weight` \(='1'\) must be a number"),
    ({"sign": "up"}, ValueError, r"`sign` \(='up'\) must be one of: both, negative, positive"),
    ({"sign": ("both", "up")}, ValueError, r"`sign` \(='up'\) must be one of"),
    ({"sign": None}, TypeError, r"`sign` \(=None\)"),
]


@each_penalty
def test_bad_arguments_are_refused(name):
    for arguments, error, message in BAD:
        with refused(error, message, arguments):
            PENALTIES[name](**arguments)


@each_penalty
def test_as_many_signs_as_templates(name):
    with pytest.raises(ValueError, match=r"`sign` .* must be one or one per template \(3\)"):
        PENALTIES[name](sign=("both", "positive")).prox(random(2, 3, 4), 1.0)
