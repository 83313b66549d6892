"""Products with matrices that are mostly zero, as codes are, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        _fill_scores(*map(_array, (codes, patches, templates, of_codes)))
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
    _add_rows(*map(_array, (left, right, product)))
    return product


def _few(matrix: Tensor, share: float = 0.4) -> bool:
    """Whether so few numbers are not zero that passing over the others is faster."""
    return bool(np.count_nonzero(_array(matrix) != 0) < share * matrix.numel())


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _add_rows(left, right, product):
    """Add to each row of the product weighted rows of ``right``, four at a time."""
    chosen = np.empty(left.shape[1], np.int64)
    for m in range(left.shape[0]):
        count = 0
        for n in range(left.shape[1]):
            chosen[count] = n
            count += left[m, n] != 0
        whole = count - count % 4
        for i in range(0, whole, 4):  # a view of each row would cost more than the sum
            n0, n1, n2, n3 = chosen[i], chosen[i + 1], chosen[i + 2], chosen[i + 3]
            w0, w1, w2, w3 = left[m, n0], left[m, n1], left[m, n2], left[m, n3]
            for k in range(product.shape[1]):
                two = w0 * right[n0, k] + w1 * right[n1, k]
                product[m, k] += two + (w2 * right[n2, k] + w3 * right[n3, k])
        for i in range(whole, count):
            n = chosen[i]
            w = left[m, n]
            for k in range(product.shape[1]):
                product[m, k] += w * right[n, k]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _fill_scores(codes, patches, templates, scores):
    """Fill in inner products of patches and templates where codes are not zero."""
    for m in range(codes.shape[0]):
        for n in range(codes.shape[1]):
            if codes[m, n] != 0:
                total = patches[m, 0] * templates[n, 0]
                for k in range(1, patches.shape[1]):
                    total += patches[m, k] * templates[n, k]
                scores[m, n] = total
