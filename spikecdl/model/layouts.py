"""Layouts of signals and codes in memory that make repeated convolutions fast."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from spikecdl import kernels

_BLOCK = 16  # bins per block; a template is padded with as many zeros, which are multiplied too


@dataclass(frozen=True)
class Layout:
    """Signals and codes as they are, with the operators from codes to signal and back."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]

    #: Number of axes that the layout adds to a tensor.
    more_axes = 0

    def signal(self, tensor: Tensor) -> Tensor:
        """Lay out a signal, or a tensor that is broadcast against one."""
        return tensor

    def codes(self, tensor: Tensor) -> Tensor:
        """Lay out codes, or a tensor that is broadcast against them."""
        return tensor

    def onsets(self, codes: Tensor) -> Tensor:
        """Undo `codes`."""
        return codes

    def bins(self, signal: Tensor) -> Tensor:
        """Undo `signal`."""
        return signal


class Cells(Layout):
    """Cells of as many pixels as the stride: products with templates become matrix products.

    Signals (..., channel, row, column) become (..., pixel and channel, cell row, cell column),
    padded with zeros, with pixels last in memory; codes keep their axes, with templates last in
    memory.  Scores are the matrix product of the templates and the pixels under each onset, which
    are gathered from the cells that a template covers.

    ``synthesis`` and ``analysis`` are templates (template, channel, row, column) of the operator
    and of its adjoint, ``signal_shape`` the rows and columns of an image.  ``thresholded`` says
    that all codes come from a threshold, and that all scores go into one: products and gradients
    then pass over codes of zero.
    """

    def __init__(
        self,
        synthesis: Tensor,
        analysis: Tensor,
        stride: tuple[int, ...],
        signal_shape: tuple[int, ...],
        thresholded: bool = False,
    ) -> None:
        super().__init__(self._forward, self._adjoint)
        self._shape, self._thresholded = signal_shape, thresholded
        self._grid = _Grid(stride, tuple(synthesis.shape[2:]), synthesis.shape[1])
        self._synthesis = self._grid.matrix(synthesis)
        self._analysis = self._synthesis if analysis is synthesis else self._grid.matrix(analysis)

    def signal(self, tensor: Tensor) -> Tensor:
        """Lay out a signal (..., channel, row, column), or a tensor with one number for all."""
        full = (self._grid.n_channels, *self._shape)
        if tensor.shape[-3:] == (1, 1, 1) != full:
            return tensor
        return self._grid.split(tensor.expand(*tensor.shape[:-3], *full))

    def codes(self, tensor: Tensor) -> Tensor:
        """Lay out codes (..., template, *onsets), or a tensor that is broadcast against them."""
        return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)

    def bins(self, signal: Tensor) -> Tensor:
        """Undo `signal`: return a signal (..., channel, row, column)."""
        rows, columns = self._shape
        return self._grid.join(signal)[..., :rows, :columns]

    def _forward(self, codes: Tensor) -> Tensor:
        rows = codes.movedim(-3, -1)
        multiply = synthesis if self._passes_over(codes) else torch.matmul
        patches = multiply(rows, self._synthesis)
        cells = _Scatter.apply(patches.flatten(0, -4), self._grid, codes.dtype)
        return cells.movedim(-1, -3).unflatten(0, codes.shape[:-3])

    def _adjoint(self, signal: Tensor) -> Tensor:
        cells = signal.movedim(-3, -1)
        if torch.is_autocast_enabled(signal.device.type):  # round before copying
            cells = cells.to(torch.get_autocast_dtype(signal.device.type))
        patches = _Gather.apply(cells.flatten(0, -4), self._grid)
        multiply = analysis if self._passes_over(signal) else torch.matmul
        codes = multiply(patches, self._analysis.mT).movedim(-1, -3)
        return codes.unflatten(0, signal.shape[:-3])

    def _passes_over(self, tensor: Tensor) -> bool:
        """Whether products pass over codes of zero: not on a GPU, or with half the bits."""
        on_cpu = tensor.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        return self._thresholded and on_cpu


class Blocks(Cells):
    """Blocks of bins as cells: a template may begin in each bin of a block.

    Signals (..., channel, bin) become (..., bin and channel, 1, block), padded with their last bin,
    and codes (..., template, bin, block), padded with zeros, with blocks first in memory; scores
    past the last onset are zero.

    ``synthesis`` and ``analysis`` are the templates (template, channel, bin) of the operator and of
    its adjoint.
    """

    more_axes = 1

    def __init__(self, synthesis: Tensor, analysis: Tensor, n_bins: int) -> None:
        self.n_templates, self.n_channels, length = synthesis.shape
        self.n_bins, self.n_onsets = n_bins, n_bins - length + 1
        self._n_blocks = -(-self.n_onsets // _BLOCK)
        delayed = _delayed(synthesis)
        reach = -(-delayed.shape[-1] // _BLOCK)
        super().__init__(
            delayed,
            delayed if analysis is synthesis else _delayed(analysis),
            (1, _BLOCK),
            (1, (self._n_blocks + reach - 1) * _BLOCK),
        )

    def signal(self, tensor: Tensor) -> Tensor:
        """Lay out a signal (..., channel, bin), or a tensor with one bin for all."""
        if tensor.shape[-1] == 1 < self.n_bins:
            return super().signal(tensor[..., None])
        missing = self._shape[-1] - self.n_bins
        last = tensor[..., -1:].expand(*tensor.shape[:-1], missing)
        return super().signal(torch.cat([tensor, last], dim=-1)[..., None, :])

    def codes(self, tensor: Tensor) -> Tensor:
        """Lay out codes (..., template, onset), or a tensor with one onset for all."""
        if tensor.shape[-1] == 1 < self.n_onsets:
            return tensor[..., None]
        padded = F.pad(tensor, (0, self._n_blocks * _BLOCK - self.n_onsets))
        return padded.unflatten(-1, (-1, _BLOCK)).movedim(-2, -3).contiguous().movedim(-3, -1)

    def onsets(self, codes: Tensor) -> Tensor:
        """Undo `codes`: return codes (..., template, onset)."""
        return codes.mT.flatten(-2)[..., : self.n_onsets]

    def bins(self, signal: Tensor) -> Tensor:
        """Undo `signal`: return a signal (..., channel, bin)."""
        return super().bins(signal)[..., 0, : self.n_bins]

    def _forward(self, codes: Tensor) -> Tensor:
        return super()._forward(codes.flatten(-3, -2)[..., None, :])

    def _adjoint(self, signal: Tensor) -> Tensor:
        codes = super()._adjoint(signal)[..., 0, :].unflatten(-2, (self.n_templates, _BLOCK))
        if self.n_onsets % _BLOCK:
            codes[..., self.n_onsets % _BLOCK :, -1] = 0
        return codes


def _delayed(templates: Tensor) -> Tensor:
    """Return templates that begin in each bin of a block, (template and bin, channel, 1, bin)."""
    delays = [F.pad(templates, (delay, _BLOCK - 1 - delay)) for delay in range(_BLOCK)]
    return torch.stack(delays, dim=1).flatten(0, 1)[:, :, None]


@dataclass(frozen=True)
class _Grid:
    """Pixels of cells under a template.

    A template of K pixels covers r = ceil(K / s) cells of s pixels: all pixels of the first r - 1,
    and the first K - (r - 1) s of the last.  Along both axes this makes four kinds of pixels, which
    are ordered so that those under a template are neighbours in each cell.
    """

    stride: tuple[int, ...]
    support: tuple[int, ...]
    n_channels: int

    @cached_property
    def reach(self) -> tuple[int, ...]:
        """Number of cells under a template, along each axis."""
        return tuple(-(-k // s) for k, s in zip(self.support, self.stride, strict=True))

    @cached_property
    def _rest(self) -> tuple[int, ...]:
        """Number of pixels of the last of them under the template."""
        return tuple(
            k - (r - 1) * s for k, r, s in zip(self.support, self.reach, self.stride, strict=True)
        )

    def _order(self, device: torch.device) -> Tensor:
        """Order of the pixels of a cell."""
        high, wide = self._rest
        index = torch.arange(math.prod(self.stride), device=device).view(self.stride)
        parts = (index[:high, wide:], index[:high, :wide], index[high:, :wide], index[high:, wide:])
        return torch.cat([part.flatten() for part in parts])

    @cached_property
    def under(self) -> tuple[tuple[int, int, slice], ...]:
        """Row and column of every cell under a template, and its pixels under it."""
        high, wide = self._rest
        beside, both, below = high * (self.stride[1] - wide), high * wide, self.stride[0] - high
        found = []
        for i, j in itertools.product(*map(range, self.reach)):
            bottom, right = i == self.reach[0] - 1, j == self.reach[1] - 1
            first = beside if right else 0
            last = beside + both + (0 if bottom else below * (wide if right else self.stride[1]))
            found.append((i, j, slice(first * self.n_channels, last * self.n_channels)))
        return tuple(found)

    def split(self, images: Tensor) -> Tensor:
        """Return (..., channel, row, column) as (..., pixel and channel, *cells)."""
        (high, wide), (rows, columns) = self.stride, images.shape[-2:]
        images = F.pad(images, (0, -columns % wide, 0, -rows % high))
        parts = images.unflatten(-1, (-1, wide)).unflatten(-3, (-1, high))
        pixels = parts.movedim((-4, -2, -3, -1), (-5, -4, -3, -2)).flatten(-3, -2)
        ordered = pixels.index_select(-2, self._order(images.device))
        return ordered.flatten(-2).movedim(-1, -3)

    def join(self, cells: Tensor) -> Tensor:
        """Undo `split`, apart from the padding."""
        ordered = cells.movedim(-3, -1).unflatten(-1, (-1, self.n_channels))
        pixels = ordered.index_select(-2, self._order(cells.device).argsort())
        parts = pixels.unflatten(-2, self.stride).movedim((-5, -4, -3, -2), (-4, -2, -3, -1))
        return parts.flatten(-4, -3).flatten(-2)

    def matrix(self, templates: Tensor) -> Tensor:
        """Return templates as (template, pixel), in the order of `gather`."""
        cells = self.split(templates)
        return torch.cat([cells[:, pixels, i, j] for i, j, pixels in self.under], dim=1)

    def gather(self, cells: Tensor) -> Tensor:
        """Copy (window, *cells, pixel) to (window, *onsets, pixel under a template)."""
        rows, columns = (n - r + 1 for n, r in zip(cells.shape[1:3], self.reach, strict=True))
        parts = [cells[:, i : i + rows, j : j + columns, p] for i, j, p in self.under]
        return torch.cat(parts, dim=-1)

    def scatter(self, patches: Tensor, dtype: torch.dtype) -> Tensor:
        """Add up (window, *onsets, pixel under a template), the transpose of `gather`."""
        n_windows, rows, columns, _ = patches.shape
        high, wide = (r - 1 for r in self.reach)
        n_pixels = math.prod(self.stride) * self.n_channels
        cells = patches.new_zeros(n_windows, rows + high, columns + wide, n_pixels, dtype=dtype)
        first = 0
        for i, j, pixels in self.under:
            last = first + pixels.stop - pixels.start
            cells[:, i : i + rows, j : j + columns, pixels] += patches[..., first:last]
            first = last
        return cells


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, grid: _Grid) -> Tensor:
        ctx.grid = grid
        return grid.gather(cells)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(gradient, ctx.grid, gradient.dtype), None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patches: Tensor, grid: _Grid, dtype: torch.dtype) -> Tensor:
        ctx.grid, ctx.dtype = grid, patches.dtype
        return grid.scatter(patches, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(gradient.to(ctx.dtype), ctx.grid), None, None


def synthesis(codes: Tensor, templates: Tensor) -> Tensor:
    """Return the product of codes (..., template) and templates (template, pixel).

    Codes must be results of a threshold.  Where they are zero, so is their gradient: the threshold
    would multiply it by zero.
    """
    return _on_rows(_Synthesis.apply, codes, templates)


def analysis(patches: Tensor, templates: Tensor) -> Tensor:
    """Return the product of patches (..., pixel) and templates (pixel, template), for a threshold.

    The gradient of the product is zero where the threshold is.
    """
    return _on_rows(_Analysis.apply, patches, templates)


def _on_rows(function: Callable[..., Tensor], left: Tensor, right: Tensor) -> Tensor:
    return function(left.flatten(0, -2), right).unflatten(0, left.shape[:-1])


class _Synthesis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes: Tensor, templates: Tensor) -> Tensor:
        ctx.save_for_backward(codes, templates)
        return _product(codes, templates)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, patches: Tensor) -> tuple[Tensor, Tensor]:
        codes, templates = ctx.saved_tensors
        of_templates = _product(codes.mT.contiguous(), patches)
        if not _few(codes):
            return patches @ templates.mT, of_templates
        of_codes = torch.zeros_like(codes)
        _kernel("fill_products", codes)(*map(_array, (codes, patches, templates, of_codes)))
        return of_codes, of_templates


class _Analysis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patches: Tensor, templates: Tensor) -> Tensor:
        ctx.save_for_backward(patches, templates)
        return patches @ templates

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scores: Tensor) -> tuple[Tensor, Tensor]:
        patches, templates = ctx.saved_tensors
        return _product(scores, templates.mT), _product(scores.mT.contiguous(), patches).mT


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of two matrices, of which the left one may be mostly zero."""
    if not _few(left):
        return left @ right
    product = right.new_zeros(len(left), right.shape[1])
    _kernel("add_rows", left)(*map(_array, (left, right, product)))
    return product


def _few(matrix: Tensor, share: float = 0.4) -> bool:
    """Whether so few numbers are not zero that passing over the others is faster."""
    return bool(np.count_nonzero(_array(matrix) != 0) < share * matrix.numel())


def _kernel(name: str, tensor: Tensor) -> Callable[..., Any]:
    """Return a function in C for the precision of a tensor."""
    return kernels.function(name if tensor.dtype == torch.float64 else f"{name}_float")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
