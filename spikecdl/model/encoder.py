"""The auto-encoder of DCEA: T proximal-gradient steps, unrolled into layers that learn.

The encoder gives codes, the dictionary decodes them, and the family is the likelihood.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikecdl import validation
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import Family
from spikecdl.model.layouts import Layout
from spikecdl.model.penalties import Penalty

MAX_HALVINGS = 100  # of a step: 2^-100 of it is still a number in single precision
PIECE = 300_000  # codes that pass all layers together: 1.2 MB, which stay in the cache
# Nodes and weights of the two-point Gauss rule for the weight 1 - s on [0, 1].
_NODES = ((4 - math.sqrt(6)) / 10, (4 + math.sqrt(6)) / 10)
_WEIGHTS = ((9 + math.sqrt(6)) / 36, (9 - math.sqrt(6)) / 36)


@dataclass(frozen=True)
class Windows:
    """Observations and parameters of windows, with axes (window, channel, *bins).

    Where the penalty groups units, a window is a trial: (window, unit, channel, *bins).

    The mask, if any, has the shape of ``y``; the baseline and the parameters of family and penalty
    are tensors that broadcast to ``y`` and to codes.
    """

    y: Tensor
    mask: Tensor | None
    baseline: Tensor
    family: Family
    penalty: Penalty

    @classmethod
    def of(
        cls,
        y: Tensor,
        family: Family,
        dictionary: ConvDictionary,
        penalty: Penalty,
        baseline: Tensor | float = 0.0,
        mask: Tensor | None = None,
    ) -> Windows:
        """Flatten any number of leading axes of every tensor into one."""
        batch = y.shape[: y.ndim + window_dims(dictionary, penalty)[0]]
        n_axes = y.ndim

        def rows(tensor: Tensor) -> Tensor:
            tensor = tensor.to(y.device, y.dtype if tensor.is_floating_point() else None)
            tensor = tensor.reshape(*(1,) * (n_axes - tensor.ndim), *tensor.shape)
            tail = tensor.shape[len(batch) :]
            return tensor.expand(*batch, *tail).reshape(-1, *tail)

        if not isinstance(penalty.weight, Tensor):
            penalty = penalty.with_weight(torch.as_tensor(penalty.weight, dtype=y.dtype))
        return cls(
            y=rows(y),
            mask=None if mask is None else rows(mask.expand_as(y)),
            baseline=rows(torch.as_tensor(baseline, dtype=y.dtype, device=y.device)),
            family=family.map(rows),
            penalty=penalty.map(rows),
        )

    def code_shape(self, dictionary: ConvDictionary) -> tuple[int, ...]:
        """Return the shape of the codes of all windows."""
        onsets = dictionary.code_shape(self.y.shape[-dictionary.axes :])
        return (*self.y.shape[: -1 - len(onsets)], len(dictionary.templates), *onsets)

    def residual(self, eta: Tensor) -> Tensor:
        """Return the family's residual, zero where nothing was observed."""
        residual = self.family.residual(self.y, eta)
        return residual if self.mask is None else residual * self.mask

    def curvature(self, eta: Tensor) -> Tensor:
        """Return the family's curvature, zero where nothing was observed."""
        curvature = self.family.curvature(self.y, eta)
        return curvature if self.mask is None else curvature * self.mask

    def take(self, index: Tensor | slice) -> Windows:
        """Keep some of the windows."""
        return self._map(lambda tensor: tensor[index], lambda tensor: tensor[index])

    def laid_out(self, layout: Layout) -> Windows:
        """Return the windows in another layout."""
        laid = self._map(layout.signal, layout.codes)
        penalty = replace(laid.penalty, axes=laid.penalty.axes + layout.more_axes)
        return replace(laid, penalty=penalty)

    def _map(
        self, of_signal: Callable[[Tensor], Tensor], of_codes: Callable[[Tensor], Tensor]
    ) -> Windows:
        return Windows(
            y=of_signal(self.y),
            mask=None if self.mask is None else of_signal(self.mask),
            baseline=of_signal(self.baseline),
            family=self.family.map(of_signal),
            penalty=self.penalty.map(of_codes),
        )


def window_dims(dictionary: ConvDictionary, penalty: Penalty) -> tuple[int, ...]:
    """Return the axes of one window: grouped units, channel or template, and bins or onsets."""
    return tuple(range(-1 - dictionary.axes - penalty.grouped, 0))


class Encoder(nn.Module, ABC):
    """Module that turns observations into codes.

    Parameters
    ----------
    family : Family
        Observation model.
    dictionary : ConvDictionary
        Synthesis.
    penalty : Penalty
        Sparsity of the codes.
    """

    def __init__(self, family: Family, dictionary: ConvDictionary, penalty: Penalty) -> None:
        super().__init__()
        self.family = family
        self.dictionary = dictionary
        self.penalty = penalty

    def forward(
        self,
        y: Tensor,
        baseline: Tensor | float = 0.0,
        mask: Tensor | None = None,
        family: Family | None = None,
        penalty: Penalty | None = None,
    ) -> Tensor:
        """Return the codes of observations, differentiable in the parameters and the baseline.

        Parameters
        ----------
        y : tensor, shape (..., channel, *bins)
            Observations.
        baseline : tensor or float
            Linear predictor without events, broadcastable to ``y``.
        mask : tensor of bool, optional
            False where nothing was observed; shape of ``y``.
        family, penalty : optional
            Replace the encoder's, for parameters and weights that differ between windows.

        Returns
        -------
        tensor, shape (..., template, *onsets)
        """
        return self._encode(y, baseline, mask, family or self.family, penalty or self.penalty)

    @abstractmethod
    def _encode(
        self, y: Tensor, baseline: Any, mask: Tensor | None, family: Family, penalty: Penalty
    ) -> Tensor:
        """Return the codes, with family and penalty given."""


class UnrolledEncoder(Encoder):
    r"""Codes by T layers of proximal gradient on the penalised negative log likelihood.

    .. math:: x \leftarrow \operatorname{prox}_{s\lambda}\bigl(z + s\,W_e^\top
              r(y, W_d z + \mu)\bigr)

    with r the family's residual, :math:`W_e = W_d = H` when tied (DCEA-C), and z the last codes
    (ISTA) or their extrapolation (FISTA).

    Parameters
    ----------
    family, dictionary, penalty
        See `Encoder`; the dictionary is :math:`W_d`, and also the analysis unless that is given.
    n_unrolled : int
        Layers, T.
    accelerated : bool
        FISTA if true, else ISTA.
    step : float, optional
        Step size s.  None: one over the Lipschitz constant (largest curvature times the squared
        norm of H) where the curvature is bounded, backtracking per window where it is not.
    analysis : ConvDictionary, optional
        Analysis :math:`W_e`, if untied (DCEA-UC).
    bias : tensor, shape (template, *1 per axis), optional
        Learned thresholds, in place of the weight of the penalty.
    stabilizer : float, optional
        Apply Elu with this alpha, the peak of an image, to the residual: it bounds Poisson steps
        and moves the fixed point.

    Raises
    ------
    ValueError
        If no step size can be derived (untied, and a family without bounded curvature).

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.  Beck and Teboulle, SIAM J.
    Imaging Sci. 2, 2009 (FISTA, backtracking).

    Examples
    --------
    >>> import torch
    >>> from spikecdl import ConvDictionary, L1, Poisson
    >>> dictionary = ConvDictionary(torch.tensor([[[0.6, 0.8]]]))
    >>> encoder = UnrolledEncoder(Poisson(), dictionary, L1(0.5), n_unrolled=30)
    >>> encoder(torch.tensor([[0.0, 0.0, 3.0, 4.0, 0.0]])).shape
    torch.Size([1, 4])
    """

    def __init__(
        self,
        family: Family,
        dictionary: ConvDictionary,
        penalty: Penalty,
        n_unrolled: int = 100,
        *,
        accelerated: bool = True,
        step: float | None = None,
        analysis: ConvDictionary | None = None,
        bias: Tensor | None = None,
        stabilizer: float | None = None,
    ) -> None:
        super().__init__(family, dictionary, penalty)
        self.analysis = dictionary if analysis is None else analysis
        self.n_unrolled = validation.integer("n_unrolled", n_unrolled)
        self.accelerated = accelerated
        self.step = None if step is None else validation.positive("step", step)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.stabilizer = (
            None if stabilizer is None else validation.positive("stabilizer", stabilizer)
        )
        unbounded = family.curvature_bound(torch.zeros(1)) is None and stabilizer is None
        if step is None and analysis is not None and unbounded:
            raise ValueError(
                f"`step` (=None) must be given for untied weights of {type(family).__name__}, "
                "whose curvature is not bounded; for instance step=0.1, or set `stabilizer`"
            )
        self.backtracking = step is None and unbounded

    def _encode(
        self, y: Tensor, baseline: Any, mask: Tensor | None, family: Family, penalty: Penalty
    ) -> Tensor:
        penalty = penalty if self.bias is None else penalty.with_weight(self.bias)
        windows = Windows.of(y, family, self.dictionary, penalty, baseline, mask)
        bins = y.shape[-self.dictionary.axes :]
        layout = self.dictionary.layout(bins, y.is_cuda, self.analysis)
        step = self._first_step(windows)
        shape = windows.code_shape(self.dictionary)[1:]
        count = len(windows.y) if y.is_cuda else max(1, PIECE // math.prod(shape))
        parts = [slice(first, first + count) for first in range(0, len(windows.y), count)]
        codes = [
            self._layers(windows.take(part), layout, step[part] if step.ndim else step)
            for part in parts or [slice(None)]
        ]
        return torch.cat(codes).reshape(*y.shape[: y.ndim + 1 - windows.y.ndim], *shape)

    def _layers(self, windows: Windows, layout: Layout, step: Tensor) -> Tensor:
        """Return the codes after all layers, from one step size or one per window."""
        codes = point = layout.codes(windows.y.new_zeros(windows.code_shape(self.dictionary)))
        step = layout.signal(step) if step.ndim else step
        windows = windows.laid_out(layout)
        eta, penalty = windows.baseline.expand_as(windows.y), windows.penalty
        momentum = 1.0
        for layer in range(self.n_unrolled):
            if layer:
                eta = layout.forward(point) + windows.baseline
            residual = windows.residual(eta)
            if self.stabilizer is not None:
                residual = F.elu(residual, alpha=self.stabilizer)
            score = layout.adjoint(residual)
            if self.backtracking:
                step = step * _halvings(windows, layout, point, score, step, eta)
            previous, codes = codes, penalty.prox(torch.addcmul(point, step, score), step)
            if self.accelerated:
                faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
                point = torch.lerp(previous, codes, 1 + (momentum - 1) / faster)
                momentum = faster
            else:
                point = codes
        return layout.onsets(codes)

    def _first_step(self, windows: Windows) -> Tensor:
        y, mask = windows.y, windows.mask
        if self.step is not None:
            return torch.as_tensor(self.step, dtype=y.dtype, device=y.device)
        if self.stabilizer is not None:
            bound: Tensor | None = self.stabilizer * y.clamp(min=1)
        else:
            bound = windows.family.curvature_bound(y)
        if bound is None:
            bound = windows.family.curvature(y, torch.zeros_like(y) + windows.baseline)
        bins = y.shape[-self.dictionary.axes :]
        norm = self.dictionary.norm_squared(bins)
        if self.analysis is not self.dictionary:
            norm = (norm * self.analysis.norm_squared(bins)).sqrt()
        bound = bound.expand_as(y) if mask is None else bound * mask
        largest = bound.amax(dim=tuple(range(1 - y.ndim, 0)), keepdim=True)
        return 1 / (largest.clamp(min=torch.finfo(y.dtype).eps) * norm)


@torch.no_grad()
def _halvings(
    windows: Windows, layout: Layout, point: Tensor, score: Tensor, step: Tensor, eta: Tensor
) -> Tensor:
    """Return the power of 1/2 per window that makes the step satisfy the descent condition."""
    factor, dims = torch.ones_like(step), tuple(range(1 - windows.y.ndim, 0))
    for _ in range(MAX_HALVINGS):
        trial = step * factor
        change = windows.penalty.prox(point + trial * score, trial) - point
        excess = bregman(windows.y, eta, layout.forward(change), windows.mask, windows.family)
        allowed = change.square() / (2 * trial)
        failed = excess.sum(dims, keepdim=True) > allowed.sum(dims, keepdim=True)
        if not failed.any():
            break
        factor = torch.where(failed, factor / 2, factor)
    return factor


def bregman(y: Tensor, eta: Tensor, change: Tensor, mask: Tensor | None, family: Family) -> Tensor:
    r"""Return the cost at ``eta + change`` minus its tangent at ``eta``, elementwise.

    .. math:: \int_0^1 (1 - s)\, c(\eta + s\delta)\, \delta^2\, ds \ge 0

    with c the curvature, by the two-point Gauss rule for the weight 1 - s (exact for cubic c): for
    small changes the difference of the two costs would lose all digits.
    """
    near, far = (family.curvature(y, eta + node * change) for node in _NODES)
    gain = (_WEIGHTS[0] * near + _WEIGHTS[1] * far) * change.square()
    exact = family.cost(y, eta + change) - family.cost(y, eta) + family.residual(y, eta) * change
    gain = torch.where(change.abs() < 1, gain, exact.clamp(min=0))
    return gain if mask is None else gain * mask


class UnrolledAutoencoder(nn.Module):
    r"""Encode observations to codes and decode codes to the linear predictor.

    .. math:: x_T = \mathrm{encoder}(y), \qquad \eta = H x_T + \mu

    Parameters
    ----------
    encoder : UnrolledEncoder or ImplicitEncoder
        T layers, tied (its dictionary is the decoder's) or untied, or their limit.
    dictionary : ConvDictionary, optional
        Decoder H; the encoder's own when not given (DCEA-C).

    Examples
    --------
    >>> import torch
    >>> from spikecdl import Binomial, ConvDictionary, L1, UnrolledEncoder
    >>> dictionary = ConvDictionary(torch.tensor([[[0.6, 0.8]]]))
    >>> encoder = UnrolledEncoder(Binomial(n_trials=10), dictionary, L1(0.1), n_unrolled=20)
    >>> codes, eta = UnrolledAutoencoder(encoder)(torch.tensor([[1.0, 8.0, 9.0, 1.0]]))
    >>> codes.shape, eta.shape
    (torch.Size([1, 3]), torch.Size([1, 4]))
    """

    def __init__(self, encoder: Encoder, dictionary: ConvDictionary | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.dictionary = encoder.dictionary if dictionary is None else dictionary

    @property
    def family(self) -> Family:
        """Observation model."""
        return self.encoder.family

    def forward(
        self,
        y: Tensor,
        baseline: Tensor | float = 0.0,
        mask: Tensor | None = None,
        family: Family | None = None,
        penalty: Penalty | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return codes (..., template, *onsets) and eta, the shape of ``y``."""
        codes = self.encoder(y, baseline, mask, family, penalty)
        return codes, self.dictionary(codes) + baseline

    def loss(
        self,
        y: Tensor,
        baseline: Tensor | float = 0.0,
        mask: Tensor | None = None,
        family: Family | None = None,
        penalty: Penalty | None = None,
    ) -> Tensor:
        """Mean cost (negative log likelihood up to a constant) of the observed bins.

        The loss of the paper has no penalty term: sparsity acts through the encoder only.
        """
        _, eta = self(y, baseline, mask, family, penalty)
        cost = (family or self.family).cost(y, eta)
        return cost.mean() if mask is None else torch.where(mask, cost, 0).sum() / mask.sum()
