"""The residual network: its size, what a pixel sees, and that it can learn."""

from __future__ import annotations

import pytest
import torch

from spikecdl.denoise import ResidualCNN


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(n_layers: int = 20, n_maps: int = 64, seed: int = 0) -> ResidualCNN:
    return ResidualCNN(n_layers, n_maps, generator=generator(seed))


def counts(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.poisson(torch.full(shape, 2.0), generator=generator(seed))


PEAK = torch.full((1, 1, 1, 1), 4.0)


def test_the_source_has_so_many_parameters():
    assert sum(values.numel() for values in network().parameters()) == 655_544


def test_the_formula_in_the_docstring():
    net, y = network(3, 4), counts(2, 1, 9, 7)
    peak = torch.tensor([2.0, 5.0])[:, None, None, None]
    maps = estimate = y / peak
    for i, layer in enumerate(net.layers):
        maps = torch.nn.functional.conv2d(maps, layer.weight, layer.bias, padding=1)
        estimate = estimate + maps[:, :1]
        maps = maps[:, 1:].clamp(min=0)
        assert maps.shape[1] == (3 if i < 2 else 0)
    torch.testing.assert_close(net(y, peak), estimate)


@torch.no_grad()
def test_the_first_estimate_is_about_the_counts():
    y = counts(1, 1, 32, 32)
    assert (network()(y, PEAK) - y / PEAK).square().mean().sqrt() < 0.1


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [1, 3, 20])
def test_halo(n_layers):
    net = network(n_layers, 8).double()
    assert net.halo == n_layers
    for values in net.parameters():
        values.abs_()  # nothing cancels, and no map is silent
    size = 2 * n_layers + 5
    middle = size // 2
    y = counts(1, 1, size, size).double()
    before = net(y, PEAK)[0, 0, middle, middle]
    seen = torch.zeros(size, dtype=torch.bool)
    for row in range(size):
        changed = y.clone()
        changed[..., row, middle] += 1
        seen[row] = net(changed, PEAK)[0, 0, middle, middle] != before
    expected = (torch.arange(size) - middle).abs() <= net.halo
    assert torch.equal(seen, expected)


@torch.no_grad()
def test_what_moves_in_the_counts_moves_in_the_result():
    net, y = network(5, 8), counts(1, 1, 40, 40)
    moved = net(y.roll((3, -2), (2, 3)), PEAK).roll((-3, 2), (2, 3))
    inside = (..., slice(9, -9), slice(9, -9))
    torch.testing.assert_close(moved[inside], net(y, PEAK)[inside])


@torch.no_grad()
def test_images_do_not_mix():
    net, y = network(4, 8), counts(3, 1, 12, 12)
    peaks = torch.tensor([1.0, 2.0, 4.0])[:, None, None, None]
    alone = [net(y[i : i + 1], peaks[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(net(y, peaks), torch.cat(alone))


@torch.no_grad()
def test_only_counts_relative_to_the_peak_matter():
    net, y = network(4, 8), counts(1, 1, 12, 12)
    torch.testing.assert_close(net(2 * y, 2 * PEAK), net(y, PEAK))


def test_gradients_reach_all_parameters():
    net = network()
    net(counts(1, 1, 24, 24), PEAK).square().mean().backward()
    for name, values in net.named_parameters():
        assert values.grad is not None, name
        assert values.grad.isfinite().all(), name
        assert values.grad.abs().sum() > 0, name


def test_gradients_are_those_of_finite_differences():
    net, y = network(3, 3).double(), counts(1, 1, 5, 4).double().requires_grad_()
    with torch.no_grad():
        for layer in net.layers:
            layer.weight[:1] *= 100
    assert torch.autograd.gradcheck(lambda y, *_: net(y, PEAK.double()), (y, *net.parameters()))


def test_bfloat16():
    net, y = network(), counts(1, 1, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(y, PEAK)
    assert rough.dtype == torch.float32  # corrections add up in single precision
    exact = net(y, PEAK)
    assert 0 < (rough - exact).abs().max() < 0.02
    rough.square().mean().backward()
    assert all(values.grad.dtype == torch.float32 for values in net.parameters())


def test_random_numbers_are_the_generators():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, same, other = network(seed=3), network(seed=3), network(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    for first, second, third in zip(
        one.parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(first, second)
        assert first.ndim == 1 or not torch.equal(first, third)


def test_maps_keep_their_scale():
    net = network()
    scales = []
    for layer in net.layers[:-1]:
        layer.register_forward_hook(lambda *args: scales.append(args[2][:, 1:].detach().std()))
    net(counts(1, 1, 64, 64), PEAK)
    assert 0.2 < scales[-1] / scales[0] < 5


def test_it_learns():
    net = network(5, 16)
    clean = torch.linspace(0, 1, 24).expand(16, 1, 24, 24)
    y = torch.poisson(PEAK * clean, generator=generator())
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (net(y, PEAK) - clean).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5


def test_channels_last_gives_the_same():
    net, y = network(4, 8), counts(2, 1, 12, 12)
    expected = net(y, PEAK)
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(y, PEAK), expected)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((0, 64), ValueError, "`n_layers` (=0) must be at least 1"),
        ((20, 1), ValueError, "`n_maps` (=1) must be at least 2"),
        ((20, 6.5), TypeError, "`n_maps` (=6.5) must be an integer"),
    ],
)
def test_bad_sizes(arguments, kind, message):
    with pytest.raises(kind) as caught:
        ResidualCNN(*arguments)
    assert str(caught.value) == message
