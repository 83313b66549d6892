"""Iterations in the layout of blocks give what they give as things come."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import pairwise

from spikecdl import (
    L1,
    Binomial,
    ConvDictionary,
    Gaussian,
    GroupL1,
    NegativeBinomial,
    Poisson,
    UnrolledEncoder,
    sparse_code,
)
from spikecdl.model.layouts import Blocks, Layout

DOUBLE = torch.float64
TRIALS = torch.randint(5, 9, (3, 2, 2, 83), generator=torch.Generator().manual_seed(9)).to(DOUBLE)
FAMILIES = [
    Gaussian(),
    Binomial(TRIALS),  # a number for every bin
    Poisson(),
    NegativeBinomial(3.0),
]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def templates(length=19, seed=0):
    draw = torch.Generator().manual_seed(seed)
    waves = torch.randn(3, 2, length, generator=draw, dtype=DOUBLE)
    return waves / waves.flatten(1).norm(dim=1)[:, None, None]


def observed(family):
    """Three trials of two units with two channels and 83 bins."""
    draw = torch.Generator().manual_seed(1)
    eta = 0.5 * torch.randn(3, 2, 2, 83, generator=draw, dtype=DOUBLE)
    return family.sample(eta, draw), torch.rand(eta.shape, generator=draw) > 0.1


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40)),
    places=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_there_and_back(sizes, places, seed):
    draw = torch.Generator().manual_seed(seed)
    waves = torch.randn(sizes, generator=draw, dtype=DOUBLE)
    dictionary = ConvDictionary(waves, method="direct")
    blocks = Blocks(waves, waves, places + sizes[2] - 1)
    codes = torch.randn(2, sizes[0], places, generator=draw, dtype=DOUBLE)
    signal = dictionary(codes).detach()
    torch.testing.assert_close(blocks.onsets(blocks.codes(codes)), codes)
    torch.testing.assert_close(blocks.bins(blocks.signal(signal)), signal)
    torch.testing.assert_close(blocks.bins(blocks.forward(blocks.codes(codes))), signal)
    scores = blocks.adjoint(blocks.signal(signal))
    torch.testing.assert_close(blocks.onsets(scores), dictionary.adjoint(signal).detach())
    assert int((scores != 0).sum()) <= codes.numel()  # none past the last place


def test_only_what_suits_has_the_layout():
    assert isinstance(ConvDictionary(templates()).layout((83,), False), Blocks)
    assert not isinstance(ConvDictionary(templates()).layout((83,), True), Blocks)
    assert type(ConvDictionary(templates(3)).layout((83,), False)) is Layout
    other = ConvDictionary(templates(seed=1), method="direct")
    assert type(ConvDictionary(templates()).layout((83,), False, other)) is Layout


@pytest.mark.parametrize(
    ("family", "penalty", "accelerated"),
    pairwise(FAMILIES, [L1(0.3, sign="both"), GroupL1(0.3)], [True, False]),
    ids=lambda value: getattr(value, "name", None),
)
def test_layers_and_their_gradients(family, penalty, accelerated):
    """Backtracking with Poisson, masks, weights of templates, parameters of bins."""
    y, mask = observed(family)
    penalty = penalty.with_weight(torch.tensor([0.2, 0.3, 0.4], dtype=DOUBLE)[:, None])
    baseline = torch.full((3, 2, 2, 1), -0.2, dtype=DOUBLE)
    found = []
    for method in ("direct", "blocked"):
        dictionary = ConvDictionary(templates(), method=method)
        encoder = UnrolledEncoder(family, dictionary, penalty, 9, accelerated=accelerated)
        codes = encoder(y, baseline, mask)
        family.cost(y, dictionary(codes) + baseline)[mask].sum().backward()
        found.append((codes.detach(), dictionary.templates.grad))
    for expected, other in zip(*found, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(other, expected, rtol=1e-9, atol=1e-9)


def test_untied_layers_with_biases_and_a_stabilizer():
    y, _ = observed(Poisson())
    found = []
    for method in ("direct", "blocked"):
        synthesis, analysis = (ConvDictionary(templates(seed=s), method=method) for s in (0, 1))
        bias = torch.tensor([0.02, 0.03, 0.01], dtype=DOUBLE)[:, None]
        encoder = UnrolledEncoder(
            Poisson(), synthesis, L1(), 7, step=0.1, analysis=analysis, bias=bias, stabilizer=2.0
        )
        codes = encoder(y)
        codes.square().sum().backward()
        found.append((codes.detach(), *(p.grad for p in encoder.parameters())))
    assert len(found[0]) == 4
    for expected, other in zip(*found, strict=True):
        torch.testing.assert_close(other, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", [Poisson(), Gaussian()], ids=["poisson", "gaussian"])
def test_pieces_are_solved_as_the_whole(family, monkeypatch):
    y, mask = observed(family)
    encoder = UnrolledEncoder(family, ConvDictionary(templates()), L1(0.3), 12)
    whole = encoder(y, 0.1, mask)
    monkeypatch.setattr("spikecdl.model.encoder.PIECE", 2 * 3 * 65)
    torch.testing.assert_close(encoder(y, 0.1, mask), whole, rtol=1e-12, atol=1e-12)


@each_family
def test_fista_to_a_certificate(family):
    y, mask = observed(family)
    start = torch.rand(3, 2, 3, 65, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    parts = [
        sparse_code(
            y,
            family,
            ConvDictionary(templates(), method=method),
            L1(0.4),
            -0.2,
            mask,
            tol=1e-7,
            max_iter=20_000,
            start=start,
            method="fista",
        )
        for method in ("direct", "blocked")
    ]
    assert all(part.converged for part in parts)
    torch.testing.assert_close(parts[1].codes, parts[0].codes, rtol=1e-5, atol=1e-6)
