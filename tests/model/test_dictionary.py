"""ConvDictionary against its dense matrix: products, adjoint, gradients, norm."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from contracts import assert_adjoint, dense
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh
from tables import refused
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary

# shape of the templates, places, stride
CASES = [
    ((1, 1, 3), (7,), (1,)),
    ((3, 2, 5), (11,), (1,)),
    ((2, 3, 1), (6,), (1,)),
    ((2, 1, 4), (1,), (1,)),
    ((2, 2, 15), (3,), (1,)),
    ((2, 2, 16), (40,), (1,)),
    ((1, 2, 17), (16,), (1,)),
    ((2, 1, 33), (47,), (1,)),
    ((2, 1, 160), (9,), (1,)),
    ((2, 2, 5), (6,), (2,)),
    ((3, 1, 3), (4,), (3,)),
    ((2, 1, 2), (5,), (4,)),
    ((2, 1, 3, 4), (5, 6), (1, 1)),
    ((3, 2, 2, 5), (4, 3), (2, 3)),
    ((1, 1, 1, 3), (1, 4), (1, 2)),
    ((4, 1, 3, 3), (3, 3), (2, 2)),
]
METHODS = ["auto", "direct", "fft", "blocked", "cells"]
DTYPES = [torch.float32, torch.float64]
every_case = pytest.mark.parametrize(("shape", "places", "stride"), CASES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def methods(stride: tuple[int, ...]) -> list[str]:
    """Return the methods that suit a stride."""
    left_out = {"cells"} if len(stride) == 1 else set()
    return [m for m in METHODS if m not in left_out | ({"blocked"} if stride != (1,) else set())]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_same(value: Tensor, expected: Tensor) -> None:
    """Equal but for the rounding of sums."""
    assert value.shape == expected.shape
    eps = torch.finfo(value.dtype).eps
    scale = float(expected.detach().abs().max()) * math.sqrt(expected.numel())
    torch.testing.assert_close(value, expected.to(value.dtype), rtol=0, atol=20 * eps * scale)


@every_case
def test_every_method_is_the_dense_matrix_and_its_adjoint(shape, places, stride):
    exact = random(*shape)
    codes = random(3, shape[0], *places, seed=1)
    signal = random(3, shape[1], *ConvDictionary(exact, stride).signal_shape(places), seed=2)
    for method, dtype in itertools.product(methods(stride), DTYPES):
        # the dense matrix of the templates as they are rounded
        templates = exact.to(dtype)
        matrix = dense(templates.double(), places, stride)
        dictionary = ConvDictionary(templates, stride, method)
        forward, adjoint = dictionary(codes.to(dtype)), dictionary.adjoint(signal.to(dtype))
        assert forward.dtype == adjoint.dtype == dtype
        assert_same(forward, (codes.flatten(1) @ matrix.T).reshape(signal.shape))
        assert_same(adjoint, (signal.flatten(1) @ matrix).reshape(codes.shape))
        generator = torch.Generator().manual_seed(1)
        shapes = codes.shape, signal.shape
        assert_adjoint(dictionary, dictionary.adjoint, *shapes, generator, dtype)


@every_case
def test_gradients_are_those_of_the_dense_matrix(shape, places, stride):
    plain = random(*shape).requires_grad_()
    codes = random(2, shape[0], *places, seed=1).requires_grad_()
    bins = ConvDictionary(random(*shape), stride).signal_shape(places)
    signal = random(2, shape[1], *bins, seed=2).requires_grad_()

    def gradients(templates: Tensor, forward: Tensor, adjoint: Tensor) -> tuple[Tensor, ...]:
        loss = forward.square().sum() + adjoint.square().sum()
        return torch.autograd.grad(loss, (templates, codes, signal))

    matrix = dense(plain, places, stride)
    theirs = gradients(plain, codes.flatten(1) @ matrix.T, signal.flatten(1) @ matrix)
    for method in methods(stride):
        dictionary = ConvDictionary(random(*shape), stride, method)
        ours = gradients(dictionary.templates, dictionary(codes), dictionary.adjoint(signal))
        for value, expected in zip(ours, theirs, strict=True):
            assert_same(value, expected)


@settings(max_examples=60)
@given(
    n_templates=st.integers(1, 3),
    channels=st.integers(1, 3),
    length=st.integers(1, 40),
    places=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_methods_agree(n_templates, channels, length, places, seed):
    templates = random(n_templates, channels, length, seed=seed)
    codes = random(2, n_templates, places, seed=seed + 1)
    signal = random(2, channels, places + length - 1, seed=seed + 2)
    direct, *others = (ConvDictionary(templates, method=m) for m in ("direct", "fft", "blocked"))
    for other in others:
        assert_same(other(codes), direct(codes))
        assert_same(other.adjoint(signal), direct.adjoint(signal))


@pytest.mark.parametrize(("shape", "places", "stride"), [CASES[n] for n in (1, 8, 10, 13)])
def test_leading_axes_are_kept(shape, places, stride):
    dictionary = ConvDictionary(random(*shape), stride)
    bins = dictionary.signal_shape(places)
    assert dictionary.code_shape(bins) == places
    codes, signal = random(2, 3, shape[0], *places, seed=1), random(2, 3, shape[1], *bins, seed=2)
    forward, adjoint = dictionary(codes), dictionary.adjoint(signal)
    assert forward.shape == signal.shape
    assert adjoint.shape == codes.shape
    assert_same(dictionary(codes[1, 2]), forward[1, 2])
    assert_same(dictionary.adjoint(signal[1, 2]), adjoint[1, 2])
    assert dictionary(codes[:0]).shape == signal[:0].shape
    assert dictionary.adjoint(signal[:0]).shape == codes[:0].shape


class TestNormSquared:
    """The bound on the largest eigenvalue of H'H."""

    @each_dtype
    def test_never_below_the_largest_singular_value(self, dtype):
        for shape, places, stride in CASES:
            templates = random(*shape, dtype=dtype)
            dictionary = ConvDictionary(templates, stride)
            bound = dictionary.norm_squared(dictionary.signal_shape(places))
            assert bound.shape == ()
            assert bound.dtype == dtype
            exact = torch.linalg.matrix_norm(dense(templates.double(), places, stride), 2) ** 2
            assert bound >= exact * (1 - 20 * torch.finfo(dtype).eps), (shape, places, stride)

    @settings(max_examples=60)
    @given(
        shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9)),
        places=st.integers(1, 30),
        stride=st.integers(1, 4),
        seed=st.integers(0, 99),
    )
    def test_never_below_whatever_the_sizes(self, shape, places, stride, seed):
        templates = random(*shape, seed=seed)
        dictionary = ConvDictionary(templates, stride)
        bound = float(dictionary.norm_squared(dictionary.signal_shape((places,))).detach())
        exact = float(torch.linalg.matrix_norm(dense(templates, (places,), (stride,)), 2)) ** 2
        assert bound >= exact * (1 - 1e-12)

    @pytest.mark.parametrize(
        ("shape", "places", "stride"),
        [
            ((1, 1, 10), (600,), (1,)),
            ((2, 3, 6), (300,), (1,)),
            ((3, 2, 5), (200,), (3,)),
            ((1, 1, 4), (300,), (6,)),
            ((2, 1, 4, 3), (30, 30), (2, 1)),
        ],
    )
    def test_tight_for_long_signals(self, shape, places, stride):
        templates = random(*shape)
        dictionary = ConvDictionary(templates, stride)
        bound = float(dictionary.norm_squared(dictionary.signal_shape(places)).detach())
        matrix = dense(templates, places, stride)
        gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
        exact = float(eigsh(gram.numpy(), k=1, return_eigenvectors=False)[0])
        assert exact * (1 - 1e-12) <= bound
        tolerance = 1e-3 if len(places) == 1 else 1e-2  # 40 bins an axis are not many
        assert bound <= exact * (1 + tolerance)

    @pytest.mark.parametrize(
        ("shape", "places", "stride"),
        [
            ((1, 1, 3), (7,), 1),
            ((2, 2, 3), (6,), 1),
            ((3, 2, 3), (5,), 2),
            ((2, 1, 2, 3), (4, 3), 1),
        ],
    )
    def test_derivative(self, shape, places, stride):
        bins = ConvDictionary(random(*shape), stride).signal_shape(places)

        def bound(templates: Tensor) -> Tensor:
            dictionary = ConvDictionary(random(*shape), stride)
            return torch.func.functional_call(
                _Norm(dictionary), {"dictionary.templates": templates}, (bins,)
            )

        assert torch.autograd.gradcheck(bound, random(*shape, seed=5).requires_grad_())


class _Norm(torch.nn.Module):
    def __init__(self, dictionary: ConvDictionary) -> None:
        super().__init__()
        self.dictionary = dictionary

    def forward(self, bins: tuple[int, ...]) -> Tensor:
        return self.dictionary.norm_squared(bins)


@pytest.mark.parametrize("shape", [(3, 2, 5), (3, 1, 2, 4)])
@each_dtype
def test_normalize(shape, dtype):
    templates = random(*shape, dtype=dtype) * 1e-3
    templates[1] = 0
    direction = templates[0] / templates[0].norm()
    dictionary = ConvDictionary(templates)
    parameter = dictionary.templates
    assert dictionary.normalize_() is dictionary
    assert dictionary.templates is parameter
    assert parameter.requires_grad
    norms = parameter.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 0.0, 1.0], dtype=dtype))
    torch.testing.assert_close(parameter.detach()[0], direction)


def test_templates_are_the_only_parameter():
    dictionary = ConvDictionary(random(2, 1, 3))
    assert [name for name, _ in dictionary.named_parameters()] == ["templates"]
    assert dictionary.axes == 1
    assert dictionary.support == (3,)


REFUSED = [
    (lambda: ConvDictionary(random(2, 3)), ValueError, r"`templates` \(shape \(2, 3\)\) must"),
    (lambda: ConvDictionary(random(1, 1, 1, 1, 1)), ValueError, r"`templates` \(shape"),
    (lambda: ConvDictionary(random(0, 1, 3)), ValueError, r"`templates` .* none empty"),
    (lambda: ConvDictionary(random(1, 1, 0)), ValueError, r"`templates` .* none empty"),
    (lambda: ConvDictionary(torch.ones(1, 1, 3).int()), TypeError, r"`templates` .*int32"),
    (lambda: ConvDictionary(random(1, 1, 3), 0), ValueError, r"`stride` \(=0\)"),
    (lambda: ConvDictionary(random(1, 1, 3), 1.5), TypeError, r"`stride` \(=1.5\)"),
    (lambda: ConvDictionary(random(1, 1, 3), (1, 2)), ValueError, r"`stride` \(=\(1, 2\)\)"),
    (lambda: ConvDictionary(random(1, 1, 3), method="fast"), ValueError, r"`method` \(='fast'"),
    (lambda: ConvDictionary(random(1, 1, 3), 2, "blocked"), ValueError, r"use 'auto'"),
    (lambda: ConvDictionary(random(1, 1, 3, 3), 1, "blocked"), ValueError, r"use 'auto'"),
    (
        lambda: ConvDictionary(random(1, 1, 3)).adjoint(random(1, 2)),
        ValueError,
        r"`template_length` \(=3 bins\) is longer than the window \(2 bins\); use shorter",
    ),
    (
        lambda: ConvDictionary(random(1, 1, 3), 2).adjoint(random(1, 6)),
        ValueError,
        r"`stride` \(=2\) does not divide 6 - 3 bins",
    ),
    (
        lambda: ConvDictionary(random(2, 1, 3)).forward(random(5, 3, 6)),
        ValueError,
        r"`codes` \(shape \(5, 3, 6\)\) must have 2 entries on axis -2",
    ),
    (
        lambda: ConvDictionary(random(2, 3, 3)).adjoint(random(6)),
        ValueError,
        r"`signal` \(shape \(6,\)\) must have 3 entries on axis -2",
    ),
]


def test_what_does_not_fit_is_refused():
    for make, error, message in REFUSED:
        with refused(error, message, message):
            make()
