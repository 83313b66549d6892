"""SOAP takes the steps of its formula, and needs few of them where scales differ."""

from __future__ import annotations

import pytest
import torch

from spikecdl.denoise.optimizer import SOAP


def run(optimizer, parameter, target, curvature, n_steps):
    """Minimise a quadratic whose curvature differs by direction, from gradients with noise."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(n_steps):
        optimizer.zero_grad()
        noise = 0.01 * torch.randn(len(curvature), generator=draw)
        error = (parameter - target).flatten(1)
        (0.5 * ((error @ curvature) * error).sum() + (error @ noise).sum()).backward()
        optimizer.step()
    return float((parameter - target).detach().norm())


def test_curvature_that_no_scale_per_pixel_mends():
    draw = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=draw)).Q
    curvature = turn @ torch.diag(torch.logspace(-3, 0, 16)) @ turn.mT
    target = torch.randn(6, 1, 4, 4, generator=draw)
    errors = {}
    for kind in (SOAP, torch.optim.Adam):
        parameter = torch.zeros(6, 1, 4, 4, requires_grad=True)
        errors[kind] = run(kind([parameter], lr=0.02), parameter, target, curvature, 300)
    assert errors[SOAP] < errors[torch.optim.Adam] / 1.5


def test_vectors_have_the_steps_of_adam():
    """With its moments, from the second step on."""
    found = []
    for kind in (SOAP, lambda p, lr: torch.optim.Adam(p, lr, betas=(0.95, 0.95))):
        parameter = torch.tensor([3.0, -2.0], requires_grad=True)
        optimizer = kind([parameter], lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            (parameter.square() * torch.tensor([1.0, 100.0])).sum().backward()
            optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "turned"])
def test_steps_turn_with_the_problem(turned):
    """Pixels that are mixed by a rotation give the mixed steps: the pixel basis is not special."""
    draw = torch.Generator().manual_seed(2)
    gradients = torch.randn(30, 3, 1, 2, 2, generator=draw)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=draw)).Q if turned else torch.eye(4)
    plain, mixed = (torch.zeros(3, 1, 2, 2, requires_grad=True) for _ in range(2))
    optimizers = SOAP([plain], lr=0.01), SOAP([mixed], lr=0.01)
    for trainer in gradients:
        plain.grad = trainer.clone()
        mixed.grad = (trainer.flatten(1) @ turn).view_as(trainer)
        for optimizer in optimizers:
            optimizer.step()
    assert plain.abs().max() > 0.05
    expected = (plain.detach().flatten(1) @ turn).view_as(plain)
    torch.testing.assert_close(mixed.detach(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-4, 1e-6, 1e-18])
def test_gradients_of_one_rank_and_small(scale):
    """Most eigenvalues of their moments are equal: eigenvectors in single precision may fail."""
    rows, pixels = torch.ones(64, 1), torch.ones(567)
    rows[::2], pixels[::9] = 0, 0
    templates = torch.zeros(64, 63, 3, 3, requires_grad=True)
    templates.grad = (scale * rows * pixels).view_as(templates)
    optimizer = SOAP([templates], lr=0.1)
    optimizer.step()
    optimizer.step()
    assert torch.isfinite(templates).all()
    assert (templates.flatten(1)[1::2, 1] < 0).all()
