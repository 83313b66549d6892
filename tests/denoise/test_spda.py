"""SPDA: its steps against SciPy and brute force, and images that it has to denoise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter
from scipy.optimize import minimize
from sklearn.base import clone
from tables import refused

from spikecdl.denoise import SPDA
from spikecdl.denoise.spda import (
    GroupCodes,
    initial_templates,
    log_mean,
    mean_of_patches,
    patch_pixels,
    pursue,
    refit,
    similar_groups,
    updated_templates,
)

SMALL = SPDA(8, 64, group_size=20, random_state=0)


def draw(mean: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.poisson(mean, generator=torch.Generator().manual_seed(seed))


def scene(peak: float, shape: tuple[int, int] = (64, 52)) -> np.ndarray:
    """A bright disc and a bar on a dark slope, with the given largest rate."""
    row, column = np.mgrid[: shape[0], : shape[1]]
    image = 0.15 + 0.1 * row / shape[0]
    image[(row - 25) ** 2 + (column - 20) ** 2 < 190] = 1.0
    image[(abs(row + column - 80) < 5)] = 0.6
    return peak * image


def mean_squared_error(rate: np.ndarray, clean: np.ndarray) -> float:
    return float(((rate - clean) ** 2).mean())


def cost(y: torch.Tensor, eta: torch.Tensor) -> float:
    """Negative log likelihood, up to a constant."""
    return float((eta.exp() - y * eta).sum())


@pytest.mark.parametrize("level", [0.02, 1.0, 300.0])
def test_refitted_codes_are_those_of_scipy(level):
    templates = initial_templates(6, 30)[[0, 3, 12, 25]].expand(2, 4, 36)
    truth = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    y = draw(level * (truth @ templates).exp())
    y[1, 2] = 0
    baselines = log_mean(y)
    codes, mean = refit(y, baselines, templates, torch.zeros_like(truth), 100, 1e-20)
    torch.testing.assert_close(mean, (baselines + codes @ templates).exp())
    for group, member in np.ndindex(2, 3):
        shapes, own = templates[group].numpy(), y[group, member].numpy()
        baseline = float(baselines[group, member])

        def objective(values, shapes=shapes, own=own, baseline=baseline):
            eta = baseline + values @ shapes
            gradient = shapes @ (np.exp(eta) - own) + 1e-3 * values
            return (np.exp(eta) - own * eta).sum() + 1e-3 * (values**2).sum() / 2, gradient

        options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10}
        found = minimize(objective, np.zeros(4), jac=True, method="L-BFGS-B", options=options)
        np.testing.assert_allclose(codes[group, member], found.x, rtol=1e-3, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.floats(-4, 6), st.integers(0, 10_000))
def test_no_newton_step_makes_the_fit_worse(log_level, seed):
    generator = torch.Generator().manual_seed(seed)
    templates = torch.randn(1, 5, 20, generator=generator, dtype=torch.float64)
    y = draw(torch.full((1, 4, 20), np.exp(log_level), dtype=torch.float64), seed)
    baseline, codes = (
        log_mean(y),
        2 * torch.randn(1, 4, 5, generator=generator, dtype=torch.float64),
    )

    def objective(codes):
        return cost(y, baseline + codes @ templates) + 1e-3 * float(codes.square().sum()) / 2

    for _ in range(5):
        after, _ = refit(y, baseline, templates, codes, n_steps=1)
        assert objective(after) <= objective(codes) * (1 + 1e-12) + 1e-9
        codes = after


def test_a_pursuit_finds_the_templates_that_patches_are_made_of():
    templates = initial_templates(10, 100)
    supports = [[0, 4, 40], [0, 61, 9], [0, 17, 92]]
    codes = 6.0 * torch.randn(3, 30, 2, generator=torch.Generator().manual_seed(0)).double()
    eta = 1 + torch.stack([c @ templates[s[1:]] for c, s in zip(codes, supports, strict=True)])
    found = pursue(draw(eta.exp()), templates, least=3)
    assert [set(support) for support in found.support.tolist()] == [set(s) for s in supports]
    assert float((found.mean.log() - eta).abs().mean()) < 0.15


def test_a_support_grows_while_that_brings_the_estimate_nearer_to_the_one_before():
    templates = initial_templates(8, 64)
    codes = 4.0 * torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0)).double()
    clean = (1 + codes @ templates[[3, 20, 50]]).exp()
    y = draw(clean)
    grown = pursue(y, templates, 1, 10, clean)
    sizes = (grown.support >= 0).sum(1)
    assert ((sizes >= 4) & (sizes < 10)).all()
    errors = [(pursue(y, templates, k).mean - clean).square().sum((1, 2)) for k in range(1, 11)]
    for group, size in enumerate(sizes.tolist()):
        error = [float(e[group]) for e in errors]
        assert all(a > b for a, b in zip(error[: size - 1], error[1:size], strict=True))
        assert error[size] >= error[size - 1]
    assert ((pursue(y, templates, 6, 10, torch.ones_like(y)).support >= 0).sum(1) == 6).all()


def test_learning_raises_the_likelihood_and_finds_a_template():
    templates = initial_templates(8, 64)
    truth = torch.randn(64, generator=torch.Generator().manual_seed(3)).double()
    truth = (truth - truth.mean()) / (truth - truth.mean()).norm()
    codes = 5.0 * torch.randn(1, 300, 1, generator=torch.Generator().manual_seed(4)).double()
    y = draw((0.5 + codes * truth).exp())
    before = templates.clone()
    likelihoods = []
    for _ in range(12):
        found = pursue(y, templates, 2)
        likelihoods.append(-cost(y, found.mean.log()))
        templates = updated_templates(y, templates, found)
    assert likelihoods[-1] > likelihoods[0]
    assert float((templates @ truth).abs().max()) > 0.95
    assert float((before @ truth).abs().max()) < 0.6
    torch.testing.assert_close(templates.norm(dim=1), torch.ones(64, dtype=torch.float64))
    unused = [c for c in range(64) if c not in found.support]
    assert torch.equal(templates[0], before[0])
    assert len(unused) > 50
    torch.testing.assert_close(updated_templates(y, templates, found)[unused], templates[unused])


def test_templates_without_users_stay():
    templates = initial_templates(4, 16)
    y = torch.ones(2, 3, 16, dtype=torch.float64)
    none = GroupCodes(torch.full((2, 2), -1), torch.zeros(2, 3, 2, dtype=torch.float64), y)
    assert torch.equal(updated_templates(y, templates, none), templates)


@given(st.integers(5, 30), st.integers(5, 30), st.integers(1, 5), st.integers(1, 5))
def test_patches_cover_the_image_and_average_back_to_it(rows, columns, size, stride):
    pixels = patch_pixels((rows, columns), size, min(size, stride))
    image = torch.arange(rows * columns, dtype=torch.float32)
    mean = mean_of_patches([(image[pixels], pixels)], rows * columns)
    torch.testing.assert_close(mean, image)
    assert len(pixels.unique(dim=0)) == len(pixels)
    corner = image.reshape(rows, columns)[-size:, -size:].flatten()
    torch.testing.assert_close(image[pixels[-1]], corner)


def test_groups_hold_similar_patches_and_leave_none_out():
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(8, 30, generator=generator)
    kind = torch.randint(8, (500,), generator=generator)
    groups = similar_groups(centres[kind] + torch.randn(500, 30, generator=generator), 16)
    assert set(groups.flatten().tolist()) == set(range(500))
    assert 11 <= groups.shape[1] <= 23
    commonest = kind[groups].mode(1).values
    assert float((kind[groups] == commonest[:, None]).float().mean()) > 0.7


@pytest.mark.parametrize(("size", "number"), [(20, 400), (8, 64), (5, 3), (4, 400), (1, 1)])
def test_initial_templates_have_unit_norm_and_begin_with_a_constant(size, number):
    templates = initial_templates(size, number)
    assert templates.shape == (number, size**2)
    assert torch.allclose(templates[0], torch.full((size**2,), 1 / size, dtype=torch.float64))
    norms = templates.norm(dim=1)
    assert torch.allclose(norms[norms > 0], torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize(("peak", "at_most"), [(1.0, 0.97), (2.0, 0.8), (4.0, 0.65)])
def test_it_beats_the_best_box_filter(peak, at_most):
    clean = scene(peak)
    counts = np.random.default_rng(0).poisson(clean)
    boxes = [
        mean_squared_error(uniform_filter(counts.astype(float), k), clean) for k in range(1, 9)
    ]
    rate = SPDA(12, 144, group_size=20, random_state=0).predict(counts)
    assert mean_squared_error(rate, clean) < at_most * min(boxes)


def test_a_constant_image_stays_constant():
    counts = np.random.default_rng(0).poisson(2.0, (60, 60))
    rate = SPDA(20, 100, stride=2, random_state=0).predict(counts)
    assert abs(rate.mean() - 2) < 3 * np.sqrt(2 / 3600)
    assert rate.std() < 0.15 * np.sqrt(2)


def test_binning_keeps_shape_and_mean_and_helps_where_photons_are_few():
    clean = np.tile(0.05 + 0.1 * np.sin(np.arange(70) / 12) ** 2, (61, 1))
    counts = np.random.default_rng(0).poisson(clean)
    error = mean_squared_error(SMALL.predict(counts), clean)
    for binning in (2, 3):
        rate = clone(SMALL).set_params(binning=binning).predict(counts)
        assert rate.shape == clean.shape
        assert rate.mean() == pytest.approx(counts.mean(), rel=0.05)
        assert mean_squared_error(rate, clean) < error


def test_a_slope_survives_binning_without_a_shift():
    clean = np.tile(np.linspace(1000, 3000, 60), (60, 1))
    rate = SPDA(8, 64, n_active=6, binning=3, random_state=0).predict(np.round(clean))
    inner = (slice(6, -6), slice(6, -6))
    assert abs(rate - clean)[inner].max() < 12


def test_dark_and_bright_images_give_finite_rates():
    dark = SMALL.predict(np.zeros((12, 30), dtype=int))
    assert dark.shape == (12, 30)
    assert 0 < dark.min() <= dark.max() < 0.02
    counts = np.zeros((20, 20), dtype=int)
    counts[4, 7] = 1_000_000
    rate = SMALL.predict(counts)
    assert np.isfinite(rate).all()
    assert (rate >= 0).all()
    bright = np.random.default_rng(0).poisson(scene(1e5))
    assert mean_squared_error(SMALL.predict(bright), scene(1e5)) < 1e5**2 / 100


def test_same_seed_same_bits_and_the_counts_are_left_alone():
    counts = np.random.default_rng(0).poisson(scene(2.0)[:30])
    before = counts.copy()
    first, second = SMALL.predict(counts), clone(SMALL).predict(counts)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(counts, before)
    np.testing.assert_array_equal(first, SMALL.predict(counts.tolist()))


def test_settings_out_of_range_are_refused():
    for setting, message in [
        ({"patch_size": 0}, "`patch_size` .* must be at least 1"),
        ({"n_templates": 2}, "`n_templates` .* must be at least 3"),
        ({"max_active": 2}, "`max_active` .* must be at least 3"),
        ({"n_rounds": 0}, "`n_rounds` .* must be at least 1"),
        ({"n_steps": -1}, "`n_steps` .* must be at least 0"),
        ({"stride": 9}, r"`stride` \(=9\) must be at most `patch_size` \(=8\)"),
        ({"binning": 0}, "`binning` .* must be at least 1"),
        ({"binning": 3}, "`counts` .* must have at least 24 rows and columns"),
    ]:
        with refused(ValueError, message, setting):
            clone(SMALL).set_params(**setting).predict(np.ones((10, 10)))
