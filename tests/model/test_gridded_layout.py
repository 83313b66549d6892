"""Products and layers on the cells of the stride's grid give what convolutions give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecdl import L1, Binomial, ConvDictionary, Gaussian, Poisson, UnrolledEncoder
from spikecdl.model.layouts import Cells

DOUBLE = torch.float64
TRIALS = torch.randint(5, 9, (2, 2, 13, 16), generator=torch.Generator().manual_seed(9)).to(DOUBLE)


def templates(seed=0, shape=(3, 2, 5, 4)):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=DOUBLE) / 5


def size(axis):
    """Length of a template, stride and number of places along an axis."""
    return st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 4))


@settings(max_examples=40, deadline=None)
@given(axes=st.tuples(size(0), size(1)), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_there_and_back(axes, channels, seed):
    (lengths, strides, places), draw = zip(*axes, strict=True), torch.Generator().manual_seed(seed)
    waves = torch.randn(2, channels, *lengths, generator=draw, dtype=DOUBLE)
    dictionary = ConvDictionary(waves, strides, "direct")
    codes = torch.randn(3, 2, *places, generator=draw, dtype=DOUBLE)
    signal = dictionary(codes).detach()
    cells = Cells(waves, waves, strides, tuple(signal.shape[2:]))
    torch.testing.assert_close(cells.bins(cells.signal(signal)), signal)
    torch.testing.assert_close(cells.onsets(cells.codes(codes)), codes)
    torch.testing.assert_close(cells.bins(cells.forward(cells.codes(codes))), signal)
    scores = cells.adjoint(cells.signal(signal))
    torch.testing.assert_close(scores, dictionary.adjoint(signal).detach())


def test_only_what_suits_has_the_layout():
    small, large = ConvDictionary(templates(), 3), ConvDictionary(templates(), 1)
    assert isinstance(small.layout((14, 13), False), Cells)
    assert not isinstance(small.layout((14, 13), True), Cells)  # a GPU has quick convolutions
    assert not isinstance(large.layout((14, 13), False), Cells)
    assert not isinstance(small.layout((14, 13), False, large), Cells)


@pytest.mark.parametrize("family", [Gaussian(), Poisson(), Binomial(TRIALS)], ids=str)
@pytest.mark.parametrize("signs", ["both", ("positive", "negative", "both")], ids=["one", "each"])
def test_layers_and_their_gradients(family, signs):
    """With steps that are sought, masks, weights of templates, and parameters of pixels."""
    draw = torch.Generator().manual_seed(1)
    y = family.sample(0.5 * torch.randn(TRIALS.shape, generator=draw, dtype=DOUBLE), draw)
    mask = torch.rand(y.shape, generator=draw) > 0.1
    baseline = torch.tensor([-0.2, 0.1], dtype=DOUBLE)[:, None, None]
    weight = torch.tensor([0.02, 0.03, 0.04], dtype=DOUBLE)[:, None, None]
    found = []
    for method in ("direct", "cells"):
        dictionary = ConvDictionary(templates(), (2, 3), method)
        encoder = UnrolledEncoder(family, dictionary, L1(weight, signs, axes=2), 6)
        codes = encoder(y, baseline, mask)
        family.cost(y, dictionary(codes) + baseline)[mask].sum().backward()
        found.append((codes.detach(), dictionary.templates.grad))
    for expected, other in zip(*found, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(other, expected, rtol=1e-9, atol=1e-9)


def test_gradients_of_gradients():
    codes = torch.randn(2, 3, 2, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    cells = Cells(templates(), templates(1), (3, 2), (8, 8))

    def there_and_back(codes):
        return cells.adjoint(cells.forward(codes).square())

    assert torch.autograd.gradgradcheck(there_and_back, codes.requires_grad_())


def test_products_of_half_the_bits():
    """Sums are in single precision: the error is that of one rounding."""
    signal = torch.rand(1, 1, 60, 60, generator=torch.Generator().manual_seed(3))
    dictionary = ConvDictionary(templates(shape=(4, 1, 11, 11)).float(), 7, "cells")
    exact = dictionary.adjoint(signal).detach()
    with torch.autocast("cpu", torch.bfloat16):
        coarse = dictionary.adjoint(signal)
        assert dictionary(exact).dtype == torch.float32
    assert coarse.dtype == torch.bfloat16
    error = (coarse.float() - exact).norm() / exact.norm()
    assert 1e-4 < error < 2**-7
