"""Benchmark of the Poisson denoiser: its forward pass on every shift of the stride's grid."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import workloads
from machine import peak_memory, peaks
from timing import Row, Settings, compared, interleaved
from torch import Tensor
from yardstick import encode_images

from spikecdl.denoise.denoiser import MODELS
from spikecdl.denoise.networks import Architecture, ImageAutoencoder, ImageNetwork
from spikecdl.model.dictionary import ConvDictionary

_ARCHITECTURE = Architecture(tied=True, stabilizer=4.0)
_PEAK, _BIAS = 4.0, 0.02
_SIZE, _QUICK = 256, 48


def denoiser(settings: Settings) -> Iterator[Row]:
    """Measure time and memory of all 49 shifts, in single precision and bfloat16."""
    counts, network = _problem(_QUICK if settings.quick else _SIZE)
    calls = {
        "yardstick": partial(_plainly, counts, network),
        "single precision": partial(_package, counts, network, False),
        "bfloat16": partial(_package, counts, network, True),
    }
    expected, exact, coarse = (call() for call in calls.values())
    torch.testing.assert_close(exact, expected, rtol=1e-3, atol=1e-3)
    error = float((coarse - expected).norm() / expected.norm())
    seconds = interleaved(calls, settings.repeats, warm=False)
    n_places = (network.padded(len(counts) + 16) - 4) // 7
    flops = 49 * 31 * 2 * n_places**2 * 169 * 121
    limits = peaks(settings).bound(flops, 0, float(np.median(seconds["single precision"])))
    for name, note in (("single precision", limits), ("bfloat16", f"rates differ by {error:.1%}")):
        yield compared(f"denoiser, {name}, W4", seconds, note=note, by=name)
    used = {name: _memory(name, settings.quick) for name in ("yardstick", "package")}
    yield Row(
        "memory of the denoiser beyond that of a small image, W4",
        *(f"{value:.0f} MB" for value in used.values()),
        f"{used['yardstick'] / used['package']:.1f}x",
    )
    blind = MODELS["blind"].build([], _PEAK, torch.Generator().manual_seed(0))
    many = {"yardstick": calls["yardstick"], "blind": partial(_package, counts, blind, False)}
    both = interleaved(many, settings.repeats, warm=False)
    yield compared("multiscale denoiser, single precision, W4", both, by="blind")


@torch.no_grad()
def _package(counts: Tensor, network: ImageNetwork, coarse: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=coarse):
        return network.denoise(counts, _PEAK)


@torch.no_grad()
def _plainly(counts: Tensor, network: ImageAutoencoder) -> Tensor:
    """Return what `denoise` returns, by convolutions of all shifts at once."""
    encoder, stride = network.autoencoder.encoder, _ARCHITECTURE.stride
    filters, bias, border, size = encoder.dictionary.templates, encoder.bias, 5, len(counts)
    padded = network.padded(size + 2 * border + stride - 1)
    starts = [(border + i, border + j) for i in range(stride) for j in range(stride)]
    margins = [(j, padded - size - j, i, padded - size - i) for i, j in starts]
    y = torch.cat([F.pad(counts[None, None], margin, mode="reflect") for margin in margins])
    codes = encode_images(y, filters, bias, stride, _PEAK, _ARCHITECTURE.n_unrolled)
    eta = F.conv_transpose2d(codes, filters, stride=stride)[:, 0]
    logs = [each[i : i + size, j : j + size] for each, (i, j) in zip(eta, starts, strict=True)]
    return torch.stack(logs).mean(0).exp() / _PEAK


def _problem(size: int) -> tuple[Tensor, ImageAutoencoder]:
    """Return counts (row, column), and a network of random filters scaled for steps of 1."""
    counts, filters = workloads.w4(size=size)
    templates = torch.tensor(filters, dtype=torch.float32)
    norm = ConvDictionary(templates, 7).norm_squared((263, 263)).detach()
    network = ImageAutoencoder(_ARCHITECTURE, templates / (_PEAK * norm).sqrt())
    with torch.no_grad():
        network.autoencoder.encoder.bias.fill_(_BIAS)
    return torch.tensor(counts, dtype=torch.float32), network


def _memory(name: str, quick: bool) -> float:
    """Return the additional peak memory in MB of an image over that of a small image."""
    command = [sys.executable, __file__, name]
    sizes = (24, _QUICK if quick else _SIZE)
    used = [
        float(subprocess.run([*command, str(size)], capture_output=True, check=True).stdout)
        for size in sizes
    ]
    return max(used[1] - used[0], 1.0)


if __name__ == "__main__":
    chosen = _plainly if sys.argv[1] == "yardstick" else partial(_package, coarse=False)
    chosen(*_problem(int(sys.argv[2])))
    print(peak_memory())
