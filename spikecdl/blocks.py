"""Convolution in time with blocks of bins as channels, a layout that iterations can keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 16  # bins per block


@dataclass(frozen=True)
class Layout:
    """How signals and codes of windows lie in memory, and the operators on them: as they come.

    Parameters
    ----------
    forward : callable
        From codes to the signal.
    adjoint : callable
        From a signal to codes.
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]

    #: Axes that a tensor has here beyond its own.
    more_axes = 0

    def signal(self, tensor: Tensor) -> Tensor:
        """Lay out a signal, or what is broadcast against one."""
        return tensor

    def codes(self, tensor: Tensor) -> Tensor:
        """Lay out codes, or what is broadcast against them."""
        return tensor

    def places(self, codes: Tensor) -> Tensor:
        """Return codes as they come."""
        return codes


class Blocks(Layout):
    """Blocks of 16 bins as channels: a long convolution of few channels is a short one of many.

    Signals (..., channel, bin) become (..., channel, 16, block), filled up with their last bin, and
    codes likewise, filled up with zeros; scores of places past the last one are zero.

    Parameters
    ----------
    synthesis, analysis : tensor, shape (template, channel, bin)
        Templates of the operator and of its adjoint.
    n_bins : int
        Of a window.
    """

    more_axes = 1

    def __init__(self, synthesis: Tensor, analysis: Tensor, n_bins: int) -> None:
        super().__init__(self._forward, self._adjoint)
        self.n_templates, self.n_channels, length = synthesis.shape
        self.n_bins, self.n_places = n_bins, n_bins - length + 1
        self._n_blocks = -(-self.n_places // _BLOCK)
        taps = _taps(synthesis).flip(-1)  # place block j, bin b reaches signal block j + m, bin q
        self._synthesis = taps.permute(1, 3, 0, 2, 4).flatten(2, 3).flatten(0, 1).contiguous()
        taps = taps.flip(-1) if analysis is synthesis else _taps(analysis)
        self._analysis = taps.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1).contiguous()
        self._reach = taps.shape[-1] - 1

    def signal(self, tensor: Tensor) -> Tensor:
        """Lay out a signal (..., channel, bin), or what has one bin for all."""
        if tensor.shape[-1] == 1 < self.n_bins:
            return tensor[..., None]
        missing = (self._n_blocks + self._reach) * _BLOCK - self.n_bins
        last = tensor[..., -1:].expand(*tensor.shape[:-1], missing)
        return _split(torch.cat([tensor, last], dim=-1))

    def codes(self, tensor: Tensor) -> Tensor:
        """Lay out codes (..., template, place), or what has one place for all."""
        if tensor.shape[-1] == 1 < self.n_places:
            return tensor[..., None]
        return _split(F.pad(tensor, (0, self._n_blocks * _BLOCK - self.n_places)))

    def places(self, codes: Tensor) -> Tensor:
        """Return codes (..., template, place)."""
        return codes.mT.flatten(-2)[..., : self.n_places]

    def bins(self, signal: Tensor) -> Tensor:
        """Return a signal (..., channel, bin)."""
        return signal.mT.flatten(-2)[..., : self.n_bins]

    def _forward(self, codes: Tensor) -> Tensor:
        flat = codes.reshape(-1, self.n_templates * _BLOCK, self._n_blocks)
        signal = F.conv1d(flat, self._synthesis, padding=self._reach)
        return signal.reshape(*codes.shape[:-3], self.n_channels, _BLOCK, signal.shape[-1])

    def _adjoint(self, signal: Tensor) -> Tensor:
        flat = signal.reshape(-1, self.n_channels * _BLOCK, signal.shape[-1])
        codes = F.conv1d(flat, self._analysis)
        codes = codes.reshape(*signal.shape[:-3], self.n_templates, _BLOCK, self._n_blocks)
        if self.n_places % _BLOCK:
            codes[..., self.n_places % _BLOCK :, -1] = 0
        return codes


def _split(tensor: Tensor) -> Tensor:
    """(..., bin) to (..., 16, block)."""
    return tensor.unflatten(-1, (-1, _BLOCK)).mT.contiguous()


def _taps(templates: Tensor) -> Tensor:
    """Taps between blocks: entry (c, n, out, in, m) = h[c, n, 16 m + in - out], zero outside."""
    length = templates.shape[-1]
    count = (length + _BLOCK - 2) // _BLOCK + 1
    bins = torch.arange(_BLOCK, device=templates.device)
    lags = torch.arange(count, device=templates.device) * _BLOCK
    index = lags + bins[None, :, None] - bins[:, None, None]
    padded = F.pad(templates, (0, 1))
    return padded[..., torch.where((index >= 0) & (index < length), index, length)]
