"""Products that pass over zeros give what other products give, with gradients for a threshold."""

from __future__ import annotations

import pytest
import torch

from spikecdl.model import layouts


def thresholded(share, seed=0):
    """Patches, templates and thresholds by which about a share of the codes is above zero."""
    draw = torch.Generator().manual_seed(seed)
    patches, templates = (
        torch.randn(size, 13, generator=draw, dtype=torch.float64) for size in (40, 9)
    )
    scores = patches @ templates.T
    return patches, templates, scores.quantile(1 - share) if share else scores.max()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7])
def test_products_and_gradients(share):
    patches, templates, threshold = thresholded(share)
    found = []
    for analysis, synthesis in (
        (layouts.analysis, layouts.synthesis),
        (torch.matmul, torch.matmul),
    ):
        given = [values.clone().requires_grad_() for values in (patches, templates)]
        codes = torch.relu(analysis(given[0], given[1].T) - threshold)
        signal = synthesis(codes, given[1])
        signal.pow(3).sum().backward()
        found.append((codes, signal, *(values.grad for values in given)))
    assert (found[0][0] > 0).double().mean() == pytest.approx(share, abs=0.01)
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


def test_any_number_of_axes():
    patches, templates, _ = thresholded(0.1)
    codes = layouts.analysis(patches.view(2, 4, 5, 13), templates.T)
    torch.testing.assert_close(codes.view(40, 9), patches @ templates.T)
    signal = layouts.synthesis(torch.relu(codes), templates)
    assert signal.shape == (2, 4, 5, 13)


def test_second_derivatives_are_refused():
    patches, templates, _ = thresholded(0.1)
    templates.requires_grad_()
    total = layouts.analysis(patches, templates.T).pow(3).sum()
    (gradient,) = torch.autograd.grad(total, templates, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
