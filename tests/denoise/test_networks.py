"""The image networks: the auto-encoder is the published one, on any image, in tiles and shifts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spikecdl.denoise.networks import (
    Architecture,
    ImageAutoencoder,
    ImageNetwork,
    MultiscaleAutoencoder,
)
from spikecdl.denoise.training import initial_templates
from spikecdl.model.dictionary import ConvDictionary

SMALL = {"n_templates": 6, "length": 5, "stride": 3, "n_unrolled": 2}


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def photons(shape, seed=0, peak=4.0):
    generator = draw(seed)
    return torch.poisson(peak * torch.rand(shape, generator=generator), generator=generator)


def autoencoder(seed=0, double=False, **settings):
    """Return a network with weights that differ between its dictionaries."""
    architecture = Architecture(**{**SMALL, **settings})
    shape = (architecture.n_templates, 1, architecture.length, architecture.length)
    network = ImageAutoencoder(architecture, torch.zeros(shape))
    generator = draw(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) / 12)
    return network.double() if double else network


def multiscale(seed=0):
    network = MultiscaleAutoencoder((3, 4, 4, 5), 2, draw(seed))
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn(value.shape, generator=draw(seed + 1)) / 8)
    return network


@pytest.mark.parametrize("tied", [True, False])
def test_the_published_function(tied):
    """ISTA with one bias, Elu of the residual, and a decoder, as a loop of convolutions."""
    network = autoencoder(tied=tied, double=True, stabilizer=3.0, n_unrolled=4)
    y = photons((2, 1, 23, 17)).double()
    encoder = network.autoencoder.encoder
    synthesis, analysis = encoder.dictionary.templates, encoder.analysis.templates
    decoder = network.autoencoder.dictionary.templates
    assert (synthesis is analysis) == (synthesis is decoder) == tied
    codes = torch.zeros(2, 6, 7, 5, dtype=torch.float64)
    for _ in range(4):
        rate = F.conv_transpose2d(codes, synthesis, stride=3).exp()
        score = F.conv2d(F.elu(y - rate, alpha=3.0), analysis, stride=3)
        codes = torch.relu(codes + score - encoder.bias)
    expected = F.conv_transpose2d(codes, decoder, stride=3)
    torch.testing.assert_close(network.eta(y).double(), expected.float().double())
    peak = torch.full((2, 1, 1, 1), 4.0, dtype=torch.float64)
    torch.testing.assert_close(network(y, peak), expected.float().exp() / peak)


def test_all_shifts_by_brute_force():
    network, counts = autoencoder(), photons((10, 13))
    border = network.border
    logs = []
    for i, j in itertools.product(range(3), repeat=2):
        above, left = border + i, border + j
        below, right = (
            network.padded(size + 2 * border + 2) - size - first
            for size, first in ((10, above), (13, left))
        )
        canvas = np.pad(counts.numpy(), ((above, below), (left, right)), mode="reflect")
        eta = network.eta(torch.tensor(canvas)[None, None])[0, 0]
        logs.append(eta[above : above + 10, left : left + 13])
    found = network.denoise(counts, 1.0).log()
    torch.testing.assert_close(found, torch.stack(logs).mean(0).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 2), (30, 41)])
@pytest.mark.parametrize("network", [autoencoder(), multiscale()], ids=["strided", "multiscale"])
def test_images_of_any_size(network, shape):
    found = network.denoise(photons(shape), 4.0).detach()
    assert found.shape == shape
    assert bool((found > 0).all())
    assert bool(found.isfinite().all())


def test_tiles_give_the_whole():
    network, counts = autoencoder(), photons((70, 61))
    whole = network.denoise(counts, 4.0)
    for network.tile in (12, 40):
        torch.testing.assert_close(network.denoise(counts, 4.0), whole, rtol=1e-5, atol=1e-5)


def test_tiles_of_the_multiscale_network_give_the_whole():
    network, counts = multiscale(), photons((200, 104))
    with torch.no_grad():
        whole = network.denoise(counts, 4.0)
        network.tile = 96
        torch.testing.assert_close(network.denoise(counts, 4.0), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [autoencoder(n_unrolled=4), multiscale()],
    ids=["strided", "multiscale"],
)
def test_what_a_pixel_sees_is_within_the_halo(network):
    """By the gradient in double precision: zero outside the halo, and not zero within."""
    network, size = network.double(), network.padded(3 * network.halo)
    y = photons((1, 1, size, size)).double().requires_grad_()
    mean_count = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    made = network.eta(y) if hasattr(network, "eta") else network.rate(y, mean_count)
    middle = size // 2
    (seen,) = torch.autograd.grad(made[0, 0, middle, middle], y)
    rows = (seen[0, 0].abs().amax(1) > 0).nonzero().flatten() - middle
    assert rows.abs().max() <= network.halo
    assert rows.abs().max() > network.halo / 4
    network.float()


def test_tiles_with_an_operation_that_sees_three_pixels():
    network, image = ImageNetwork(), torch.rand(37, 52, generator=draw())
    network.halo = 3

    def blur(part):
        return F.avg_pool2d(part, 7, 1, 3, count_include_pad=False)

    for network.tile in (1, 8, 30, 100):
        found = network.on_tiles(blur, image)
        torch.testing.assert_close(found, blur(image[None, None])[0, 0])


def test_turned_images_give_turned_rates():
    network, counts = multiscale(), photons((24, 40))
    with torch.no_grad():
        expected = torch.rot90(network.denoise(counts, 4.0))
        found = network.denoise(torch.rot90(counts), 4.0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_shifts_in_training():
    """Inside its border it is the exponential of the mean of log rates at the shifts."""
    network = autoencoder()
    side = network.padded(15) + network.margin(4)
    assert side == 17 + 2
    y, peak = photons((2, 1, side, side)), torch.full((2, 1, 1, 1), 2.0)
    shifts = [(0, 0), (2, 1), (1, 2), (0, 2)]
    logs = torch.zeros(4, 2, 1, side, side)
    for eta, (i, j) in zip(logs, shifts, strict=True):
        eta[..., i : i + 17, j : j + 17] = network.eta(y[..., i : i + 17, j : j + 17]).detach()
    inner = (..., slice(4, -4), slice(4, -4))
    expected = logs.mean(0).exp() / 2
    torch.testing.assert_close(network(y, peak, shifts).detach()[inner], expected[inner])


def test_as_many_shifts_as_there_are():
    with pytest.raises(ValueError, match=r"`n_shifts` \(=10\) must be at most 9"):
        autoencoder().margin(10)
    with pytest.raises(ValueError, match=r"`n_shifts` \(=2\) must be at most 1"):
        multiscale().margin(2)


def random_images():
    return [torch.rand(20, 20, generator=draw(seed)) for seed in range(3)]


def test_initial_templates_are_a_pair_for_the_mean_and_parts_of_zero_mean():
    templates = initial_templates(random_images(), Architecture(**SMALL), 4.0, draw())
    assert templates.shape == (6, 1, 5, 5)
    bright, dark, *parts = templates[:, 0]
    assert bool((bright > 0).all())
    assert torch.equal(dark, -bright)
    for part in parts:  # the fade leaves a little of the mean
        assert abs(float(part.sum())) < 0.6 * float(part.abs().sum())


@pytest.mark.parametrize("peak", [1.0, 4.0])
def test_initial_steps_are_beyond_those_that_are_stable_if_all_act(peak):
    templates = initial_templates(random_images(), Architecture(**SMALL), peak, draw())
    pair, parts = (
        float(ConvDictionary(some, 3).norm_squared((50, 50)).detach()) * peak
        for some in (templates[:2], templates[2:])
    )
    assert pair == pytest.approx(1.2**2, rel=0.1)
    assert parts == pytest.approx(3.5**2, rel=0.1)


def test_templates_of_the_mean_act_from_the_first_layer():
    """The others wait behind thresholds for structure that flat counts do not have."""
    network = ImageAutoencoder(
        Architecture(), initial_templates(random_images(), Architecture(), 4.0, draw())
    )
    codes, _ = network.autoencoder(photons((1, 1, 39, 39)))
    active = (codes > 0).float().mean((0, 2, 3))
    assert bool((active[:2] == 1).all())
    assert float(active[2:].mean()) < 0.3


def test_initial_templates_of_flat_images_are_finite():
    templates = initial_templates([torch.ones(9, 9)], Architecture(**SMALL), 4.0, draw())
    assert bool(templates.isfinite().all())


def test_initial_templates_differ_in_sign_and_part():
    architecture = Architecture(**{**SMALL, "n_templates": 20})
    templates = initial_templates(random_images(), architecture, 4.0, draw()).flatten(1)
    cosines = F.normalize(templates, dim=1)
    cosines = cosines @ cosines.mT
    parts = cosines.fill_diagonal_(0)[2:, 2:]
    assert float(parts.abs().max()) < 0.999
    assert float(parts.min()) < -0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_templates": 0}, "`n_templates` (=0)"),
        ({"stride": 1.5}, "`stride` (=1.5)"),
        ({"stabilizer": -1.0}, "`stabilizer` (=-1.0)"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises((TypeError, ValueError)) as error:
        Architecture(**settings)
    assert message in str(error.value)
