"""What a GPU would show, seen without one.

Tensors of torch's "meta" device have no values.  Whatever mixes them with tensors of the CPU, or
copies them there, or reads a value, would mix devices or wait for a GPU, and is an error here.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from fits import some_counts
from tables import pairwise
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spikecdl import L1, Binomial, Gaussian, GroupL1, NegativeBinomial, Poisson
from spikecdl.denoise.networks import MultiscaleAutoencoder, ResidualCNN
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import UnrolledAutoencoder, UnrolledEncoder
from spikecdl.solvers.sparse_coding import sparse_code

FAMILIES = [Gaussian(0.7), Binomial(9), Poisson(), NegativeBinomial(3.0)]


class OneDevice(TorchDispatchMode):
    """Refuse operations on two devices, and copies between them; a number may be on either."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        used, made = (
            {
                leaf.device.type
                for leaf in tree_leaves(some)
                if isinstance(leaf, Tensor) and leaf.ndim
            }
            for some in ((args, kwargs), found)
        )
        if len(used) > 1 or (used and made - used):
            raise RuntimeError(f"{func} uses {used} and makes {made}")
        return found


class Reads(TorchDispatchMode):
    """Count how often the values of tensors are read."""

    def __init__(self):
        super().__init__()
        self.number = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number[func] += 1
        return func(*args, **(kwargs or {}))


def on_meta(module: nn.Module) -> nn.Module:
    return module.to("meta")


def test_mixing_devices_is_noticed():
    far, near = torch.zeros(1, 1, 9, device="meta"), torch.zeros(1, 1, 3)
    far_too = near.to("meta")
    with OneDevice():
        nn.functional.conv1d(far, far_too)
        with pytest.raises(RuntimeError, match="uses"):
            nn.functional.conv1d(far, near)
        with pytest.raises(RuntimeError, match="item"):
            float(far.sum())
        with pytest.raises(NotImplementedError, match="Cannot copy"):
            far.cpu()


each_method = pytest.mark.parametrize("method", ["direct", "fft"])  # those that a GPU may use


@each_method
def test_dictionary(method):
    dictionary = on_meta(ConvDictionary(torch.randn(3, 2, 20), method=method))
    with OneDevice():
        codes = dictionary.adjoint(torch.zeros(4, 2, 300, device="meta"))
        assert dictionary(codes).shape == (4, 2, 300)


@each_method
def test_dictionary_of_images_with_a_stride(method):
    dictionary = on_meta(ConvDictionary(torch.randn(6, 1, 5, 5), stride=3, method=method))
    with OneDevice():
        codes = dictionary.adjoint(torch.zeros(2, 1, 35, 35, device="meta"))
        assert dictionary(codes).shape == (2, 1, 35, 35)


@pytest.mark.parametrize(
    ("family", "tied", "penalty"),
    pairwise(FAMILIES, [True, False], [L1(0.3), GroupL1(0.3)]),
    ids=lambda value: getattr(value, "name", None),
)
def test_a_training_step_of_the_autoencoder(family, tied, penalty):
    dictionary, analysis = (ConvDictionary(torch.randn(3, 1, 7), method="direct") for _ in range(2))
    encoder = UnrolledEncoder(
        *(family, dictionary, penalty, 4),
        step=0.05,
        analysis=None if tied else analysis,
        bias=None if tied else torch.zeros(3, 1),
    )
    model = on_meta(UnrolledAutoencoder(encoder))
    y, mask = torch.ones(5, 2, 1, 40, device="meta"), torch.ones(5, 2, 1, 40, device="meta").bool()
    with OneDevice():
        codes, eta = model(y, -1.0, mask)
        family.cost(y, eta).sum().backward()
    assert codes.device.type == "meta"
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())


@pytest.mark.parametrize("network", [MultiscaleAutoencoder, ResidualCNN])
def test_a_training_step_of_a_denoiser(network):
    model = on_meta(network())
    with OneDevice():
        estimate = model(
            torch.ones(2, 1, 32, 32, device="meta"), torch.ones(2, 1, 1, 1, device="meta")
        )
        estimate.square().sum().backward()
    assert all(p.grad is None or p.grad.is_meta for p in model.parameters())


def test_the_general_solver_reads_few_values():
    """One for each step that it tries; and every few iterations, which windows are done."""
    counts = torch.tensor(some_counts(trials=8).counts).float()
    y = counts.reshape(-1, 1, counts.shape[-1])
    dictionary = ConvDictionary(torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(0)))
    with Reads() as reads:
        found = sparse_code(y, Poisson(), dictionary, L1(0.5), -1.0, tol=1e-4, method="fista")
    read = reads.number[torch.ops.aten._local_scalar_dense.default]
    assert found.n_iter > 40
    assert read < 3 * found.n_iter
