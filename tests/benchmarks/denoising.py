"""The Poisson denoiser of images: its encoder on every shift of the stride's grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import workloads
from machine import peaks
from timing import Row, Settings, duel, interleaved
from torch import Tensor
from yardstick import encode_images

from spikecdl import L1, ConvDictionary, Poisson, UnrolledEncoder

_STRIDE, _PEAK, _LAYERS, _BIAS = 7, 4.0, 15, 0.02


def denoiser(settings: Settings) -> Iterator[Row]:
    """Time all layers, in single precision and with numbers of 16 bits."""
    y, filters = _problem(*workloads.w4(size=48 if settings.quick else 256))
    bias = torch.full((len(filters), 1, 1), _BIAS)
    contenders = {
        "yardstick": partial(encode_images, y, filters, bias, _STRIDE, _PEAK, _LAYERS),
        "single precision": _package(y, filters, bias),
        "bfloat16": _package(*(tensor.bfloat16() for tensor in (y, filters, bias))),
    }
    expected, codes, coarse = (call() for call in contenders.values())
    torch.testing.assert_close(codes, expected, rtol=1e-3, atol=1e-3 * float(expected.max()))
    error = float((coarse.float() - expected).norm() / expected.norm())
    seconds = interleaved(contenders, settings.repeats, warm=False)
    flops = 4 * _LAYERS * codes.numel() * filters[0].numel()
    n_bytes = _LAYERS * (2 * codes.nbytes + y.nbytes)
    fastest = float(np.median(seconds["single precision"]))
    limits = peaks(settings).bound(flops, n_bytes, fastest)
    for name, note in (("single precision", limits), ("bfloat16", f"codes differ by {error:.1%}")):
        yield duel(f"encoder of the denoiser, {name}, W4", seconds, note=note, by=name)


def _package(y: Tensor, filters: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    """Return the package's encoder at work."""
    encoder = UnrolledEncoder(
        Poisson(),
        ConvDictionary(filters, _STRIDE),
        L1(axes=2),
        _LAYERS,
        accelerated=False,
        step=1.0,
        bias=bias,
        stabilizer=_PEAK,
    )
    return torch.no_grad()(partial(encoder, y))


def _problem(counts: np.ndarray, filters: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the image at every shift (shift, 1, row, column), and filters for steps of 1."""
    size, length = len(counts), filters.shape[-1]
    padded = size + _STRIDE - 1 + (length - size - _STRIDE + 1) % _STRIDE
    image = torch.tensor(counts, dtype=torch.float32)[None, None]
    shifts = range(_STRIDE)
    margins = [(j, padded - size - j, i, padded - size - i) for i in shifts for j in shifts]
    y = torch.cat([F.pad(image, margin, mode="reflect") for margin in margins])
    weights = torch.tensor(filters, dtype=torch.float32)
    norm = ConvDictionary(weights, _STRIDE).norm_squared(y.shape[-2:]).detach()
    return y, weights / (_PEAK * norm).sqrt()
