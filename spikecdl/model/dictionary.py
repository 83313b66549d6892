"""The linear operator of the model: the sum of shifted templates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikecdl import validation
from spikecdl.model.layouts import Blocks, Cells, Layout

_METHODS = ("auto", "direct", "fft", "blocked", "cells")


class ConvDictionary(nn.Module):
    r"""Sum of shifted templates, and its adjoint.

    .. math:: (Hx)[n, t] = \sum_c \sum_\tau h_c[n, t - s\tau]\, x_c[\tau]

    Templates lie within the signal as a whole: with T bins, a template of K bins and stride s has
    (T - K) / s + 1 onsets.

    Parameters
    ----------
    templates : tensor, shape (template, channel, bin) or (template, channel, row, column)
        Becomes a parameter; it is not normalised.
    stride : int or sequence of int
        Signal bins between neighbouring onsets, per axis.
    method : {"auto", "direct", "fft", "blocked", "cells"}
        How products are computed; all give the same numbers.  ``blocked`` (1-D with stride 1)
        is a matrix product with the bins that events of a block of 16 onsets cover; ``cells`` (2-D)
        one with the patch under each onset.  ``auto`` chooses the fastest by size and device.

    Raises
    ------
    ValueError
        If the templates have the wrong number of axes, or the stride or method does not suit them.

    Examples
    --------
    >>> import torch
    >>> dictionary = ConvDictionary(torch.tensor([[[1.0, 2.0]]]))
    >>> dictionary(torch.tensor([[0.0, 1.0, 0.0]]))
    tensor([[0., 1., 2., 0.]], grad_fn=<ViewBackward0>)
    >>> dictionary.adjoint(torch.tensor([[0.0, 1.0, 2.0, 0.0]])).detach()
    tensor([[2., 5., 2.]])
    """

    def __init__(
        self, templates: Tensor, stride: int | Sequence[int] = 1, method: str = "auto"
    ) -> None:
        super().__init__()
        if templates.ndim not in (3, 4) or 0 in templates.shape:
            raise ValueError(
                f"`templates` (shape {tuple(templates.shape)}) must have the axes "
                "(template, channel, bin) or (template, channel, row, column), none empty"
            )
        if not templates.is_floating_point():
            raise TypeError(f"`templates` (of {templates.dtype}) must be real numbers")
        axes = templates.ndim - 2
        strides = tuple(stride) if isinstance(stride, Sequence) else (stride,) * axes
        if len(strides) != axes:
            raise ValueError(f"`stride` (={stride!r}) must be one number or one per axis ({axes})")
        self.stride = tuple(validation.integer("stride", s) for s in strides)
        self.method = validation.one_of("method", method, _METHODS)
        if method == "blocked" and self.stride != (1,):
            raise ValueError("`method` (='blocked') works in 1-D with stride 1; use 'auto'")
        if method == "cells" and axes != 2:
            raise ValueError("`method` (='cells') works in 2-D; use 'auto'")
        self.templates = nn.Parameter(templates)

    @property
    def axes(self) -> int:
        """Number of axes along which templates shift: 1 for time, 2 for images."""
        return self.templates.ndim - 2

    @property
    def plain(self) -> bool:
        """Whether this is convolution in time with stride 1."""
        return self.axes == 1 and self.stride == (1,)

    @property
    def support(self) -> tuple[int, ...]:
        """Size of a template along each axis, in bins."""
        return tuple(self.templates.shape[2:])

    def code_shape(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the number of onsets along each axis, given the numbers of bins of a signal."""
        sizes = []
        for size, length, stride in zip(signal_shape, self.support, self.stride, strict=True):
            if size < length:
                raise ValueError(
                    f"`template_length` (={length} bins) is longer than the window ({size} bins); "
                    "use shorter templates or longer windows"
                )
            if (size - length) % stride:
                raise ValueError(
                    f"`stride` (={stride}) does not divide {size} - {length} bins; pad the signal"
                )
            sizes.append((size - length) // stride + 1)
        return tuple(sizes)

    def signal_shape(self, code_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the number of bins along each axis, given the numbers of onsets of codes."""
        return tuple(
            (size - 1) * stride + length
            for size, length, stride in zip(code_shape, self.support, self.stride, strict=True)
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Add up shifted templates: (..., template, *onsets) to (..., channel, *bins)."""
        batch, flat = self._flatten(codes, self.templates.shape[0], "codes")
        bins = self.signal_shape(flat.shape[2:])
        layout = self._lay_out(self._method_for(flat), bins, self)
        signal = layout.bins(layout.forward(layout.codes(flat)))
        return signal.reshape(*batch, *signal.shape[1:])

    def adjoint(self, signal: Tensor) -> Tensor:
        """Correlate with every template: (..., channel, *bins) to (..., template, *onsets)."""
        batch, flat = self._flatten(signal, self.templates.shape[1], "signal")
        self.code_shape(flat.shape[2:])
        layout = self._lay_out(self._method_for(flat), flat.shape[2:], self)
        codes = layout.onsets(layout.adjoint(layout.signal(flat)))
        return codes.reshape(*batch, *codes.shape[1:])

    def norm_squared(self, signal_shape: Sequence[int]) -> Tensor:
        """Return a tight upper bound of the largest eigenvalue of H'H for signals of that size.

        The operator is part of a circular convolution, whose largest eigenvalue is the maximum over
        frequencies of the squared norm of the (template, channel) matrix of the FFT.  A stride adds
        channels (polyphase components).
        """
        onsets = self.code_shape(signal_shape)
        phases = _polyphase(self.templates, self.stride)
        sizes = [p + k - 1 for p, k in zip(onsets, phases.shape[2:], strict=True)]
        spectrum = torch.fft.rfftn(phases, s=sizes, dim=tuple(range(2, phases.ndim)))
        matrices = spectrum.flatten(2).movedim(-1, 0)  # (frequency, template, channel)
        if 1 in matrices.shape[1:]:
            return matrices.abs().square().sum(dim=(1, 2)).amax()
        if matrices.shape[1] > matrices.shape[2]:
            matrices = matrices.mT
        return torch.linalg.eigvalsh(matrices @ matrices.mH).amax()

    @torch.no_grad()
    def normalize_(self) -> ConvDictionary:
        """Scale every template to unit l2 norm, in place; templates of zeros stay so."""
        norms = self.templates.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        self.templates.div_(norms.reshape(-1, *(1,) * (self.templates.ndim - 1)))
        return self

    def layout(
        self, signal_shape: Sequence[int], is_cuda: bool, analysis: ConvDictionary | None = None
    ) -> Layout:
        """Return the layout in which iterations that end in a threshold are fastest.

        Parameters
        ----------
        signal_shape : sequence of int
            Bins of a window along each axis.
        is_cuda : bool
            Whether the tensors are on a GPU.
        analysis : ConvDictionary, optional
            Dictionary of the adjoint; None: this one.
        """
        analysis = self if analysis is None else analysis
        methods = {self._choose(is_cuda), analysis._choose(is_cuda)}
        if methods in ({"blocked"}, {"cells"}):
            return self._lay_out(methods.pop(), signal_shape, analysis, thresholded=True)
        return Layout(self, analysis.adjoint)

    def _lay_out(
        self, method: str, bins: Sequence[int], analysis: ConvDictionary, thresholded: bool = False
    ) -> Layout:
        if method == "blocked":
            return Blocks(self.templates, analysis.templates, bins[0])
        if method == "cells":
            stride = self.stride
            return Cells(self.templates, analysis.templates, stride, tuple(bins), thresholded)
        forward, adjoint = (_fft_forward, _fft_adjoint) if method == "fft" else _DIRECT[self.axes]
        return Layout(
            lambda codes: forward(codes, self.templates, stride=self.stride),
            lambda signal: adjoint(signal, analysis.templates, stride=analysis.stride),
        )

    def _method_for(self, flat: Tensor) -> str:
        return self._choose(flat.is_cuda) if flat.numel() else "direct"  # an FFT needs a window

    def _choose(self, is_cuda: bool) -> str:
        if self.method != "auto":
            return self.method
        length = math.prod(self.support)
        if is_cuda or (self.axes == 1 and (self.stride != (1,) or length < 4)):
            return "direct"
        if self.axes == 1:  # the cost of blocks grows with the template
            return "fft" if length >= 160 else "blocked"
        # more patches than four times the signal take longer to copy than to convolve with
        return "cells" if length <= 4 * math.prod(self.stride) else "direct"

    def _flatten(self, tensor: Tensor, channels: int, name: str) -> tuple[torch.Size, Tensor]:
        if tensor.ndim <= self.axes or tensor.shape[-self.axes - 1] != channels:
            raise ValueError(
                f"`{name}` (shape {tuple(tensor.shape)}) must have {channels} entries on axis "
                f"{-self.axes - 1}"
            )
        batch = tensor.shape[: -self.axes - 1]
        return batch, tensor.reshape(math.prod(batch), *tensor.shape[-self.axes - 1 :])


def _polyphase(templates: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Turn the phases of each strided axis into channels: (template, channel * phases, *onsets)."""
    for axis, step in enumerate(stride):
        length = templates.shape[2 + axis]
        pad = [0, 0] * (templates.ndim - 3 - axis) + [0, -length % step]
        padded = F.pad(templates, pad)
        split = padded.unflatten(2 + axis, (-1, step)).movedim(3 + axis, 2)
        templates = split.flatten(1, 2)
    return templates


#: Forward operator and adjoint, by the number of axes.
_DIRECT = {1: (F.conv_transpose1d, F.conv1d), 2: (F.conv_transpose2d, F.conv2d)}


def _fft_forward(codes: Tensor, templates: Tensor, stride: tuple[int, ...]) -> Tensor:
    pairs = zip(codes.shape[2:], stride, templates.shape[2:], strict=True)
    bins = [(n - 1) * step + length for n, step, length in pairs]
    spread = codes.new_zeros(*codes.shape[:2], *bins)
    spread[_onsets(bins, templates, stride)] = codes
    return _fft_product("wc...,cn...->wn...", spread, templates)


def _fft_adjoint(signal: Tensor, templates: Tensor, stride: tuple[int, ...]) -> Tensor:
    scores = _fft_product("wn...,cn...->wc...", signal, templates, torch.conj)
    return scores[_onsets(signal.shape[2:], templates, stride)]


def _fft_product(
    axes: str, tensor: Tensor, templates: Tensor, change: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Convolve circularly with templates, whose spectrum may be changed before."""
    sizes, dims = tensor.shape[2:], tuple(range(2, tensor.ndim))
    spectrum, by = (torch.fft.rfftn(x, s=sizes, dim=dims) for x in (tensor, templates))
    product = torch.einsum(axes, spectrum, by if change is None else change(by))
    return torch.fft.irfftn(product, s=sizes, dim=dims)


def _onsets(bins: Sequence[int], templates: Tensor, stride: tuple[int, ...]) -> tuple[Any, ...]:
    """Return the index of the bins at which templates may begin, in every window."""
    pairs = zip(bins, templates.shape[2:], stride, strict=True)
    return (..., *(slice(0, n - length + 1, step) for n, length, step in pairs))
