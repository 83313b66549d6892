"""The encoder of DCEA: T proximal-gradient steps, unrolled into layers that learn."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikecdl import _validation
from spikecdl.dictionary import ConvDictionary
from spikecdl.families import Family
from spikecdl.penalties import Penalty

MAX_HALVINGS = 100
_NODES = ((4 - math.sqrt(6)) / 10, (4 + math.sqrt(6)) / 10)
_WEIGHTS = ((9 + math.sqrt(6)) / 36, (9 - math.sqrt(6)) / 36)


class UnrolledEncoder(nn.Module):
    r"""Codes by T layers of proximal gradient on the penalised negative log likelihood.

    .. math:: x \leftarrow \operatorname{prox}_{s\lambda}\bigl(z + s\,W_e^\top
              r(y, W_d z + \mu)\bigr)

    with r the family's residual, :math:`W_e = W_d = H` when tied (DCEA-C), and z the last codes
    (ISTA) or their extrapolation (FISTA).

    Parameters
    ----------
    family : Family
        Observation model.
    dictionary : ConvDictionary
        Synthesis :math:`W_d`; also the analysis unless that is given.
    penalty : Penalty
        Sparsity of the codes.
    n_unrolled : int
        Layers, T.
    accelerated : bool
        FISTA if true, else ISTA.
    step : float, optional
        Step size s.  None: one over the Lipschitz constant (largest curvature times the squared
        norm of H) where the curvature is bounded, backtracking per window where it is not.
    analysis : ConvDictionary, optional
        A dictionary :math:`W_e` of its own (DCEA-UC).
    bias : tensor, shape (template, *1 per axis), optional
        Thresholds that are learned; they replace the weight of the penalty.
    stabilizer : float, optional
        Peak: the residual goes through Elu with this alpha, which keeps Poisson steps bounded and
        moves the fixed point (for images).

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
        super().__init__()
        self.family = family
        self.dictionary = dictionary
        self.analysis = dictionary if analysis is None else analysis
        self.penalty = penalty
        self.n_unrolled = _validation.integer("n_unrolled", n_unrolled)
        self.accelerated = accelerated
        self.step = None if step is None else _validation.positive("step", step)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.stabilizer = (
            None if stabilizer is None else _validation.positive("stabilizer", stabilizer)
        )
        unbounded = family.curvature_bound(torch.zeros(1)) is None and stabilizer is None
        if step is None and analysis is not None and unbounded:
            raise ValueError(
                f"`step` (=None) must be given for untied weights of {type(family).__name__}, "
                "whose curvature is not bounded; for instance step=0.1, or set `stabilizer`"
            )
        self.backtracking = step is None and unbounded

    def forward(
        self,
        y: Tensor,
        baseline: Tensor | float = 0.0,
        mask: Tensor | None = None,
        family: Family | None = None,
    ) -> Tensor:
        """Return the codes of observations.

        Parameters
        ----------
        y : tensor, shape (..., channel, *bins)
            Observations.
        baseline : tensor or float
            Linear predictor without events, broadcastable to ``y``.
        mask : tensor of bool, optional
            False where nothing was observed; shape of ``y``.
        family : Family, optional
            Replaces the encoder's, for parameters that differ by window.

        Returns
        -------
        tensor, shape (..., template, *places)
        """
        family = self.family if family is None else family
        step = self._first_step(y, baseline, mask, family)
        shape = self.dictionary.code_shape(y.shape[-self.dictionary.axes :])
        codes = y.new_zeros(*y.shape[: -len(shape) - 1], self.dictionary.templates.shape[0], *shape)
        point, momentum = codes, 1.0
        for _ in range(self.n_unrolled):
            eta = self.dictionary(point) + baseline
            score = self.analysis.adjoint(self._residual(y, eta, mask, family))
            if self.backtracking:
                with torch.no_grad():
                    halvings = self._halvings(y, baseline, mask, family, point, score, step, eta)
                step = step * halvings
            previous, codes = codes, self._prox(point + step * score, step)
            if self.accelerated:
                faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
                point = codes + (momentum - 1) / faster * (codes - previous)
                momentum = faster
            else:
                point = codes
        return codes

    def _prox(self, codes: Tensor, step: Tensor | float) -> Tensor:
        penalty = self.penalty if self.bias is None else self.penalty.with_weight(self.bias)
        return penalty.prox(codes, step)

    def _residual(self, y: Tensor, eta: Tensor, mask: Tensor | None, family: Family) -> Tensor:
        residual = family.residual(y, eta)
        if self.stabilizer is not None:
            residual = F.elu(residual, alpha=self.stabilizer)
        return residual if mask is None else residual * mask

    def _first_step(
        self, y: Tensor, baseline: Tensor | float, mask: Tensor | None, family: Family
    ) -> Tensor:
        if self.step is not None:
            return torch.as_tensor(self.step, dtype=y.dtype, device=y.device)
        if self.stabilizer is not None:
            bound: Tensor | None = self.stabilizer * y.clamp(min=1)
        else:
            bound = family.curvature_bound(y)
        if bound is None:
            bound = family.curvature(y, torch.zeros_like(y) + baseline)
        norm = self._norm_squared(y.shape[-self.dictionary.axes :])
        bound = bound.expand_as(y) if mask is None else bound * mask
        largest = self._over_window(bound, torch.amax).clamp(min=torch.finfo(y.dtype).eps)
        return 1 / (largest * norm)

    def _norm_squared(self, signal_shape: torch.Size) -> Tensor:
        norm = self.dictionary.norm_squared(signal_shape)
        if self.analysis is self.dictionary:
            return norm
        return (norm * self.analysis.norm_squared(signal_shape)).sqrt()

    def _over_window(self, values: Tensor, reduce) -> Tensor:  # type: ignore[no-untyped-def]
        """Reduce over the axes of one window, kept as ones so that the result broadcasts."""
        return reduce(values, dim=window_dims(self.dictionary, self.penalty), keepdim=True)

    def _halvings(
        self,
        y: Tensor,
        baseline: Tensor | float,
        mask: Tensor | None,
        family: Family,
        point: Tensor,
        score: Tensor,
        step: Tensor,
        eta: Tensor,
    ) -> Tensor:
        """Return the power of one half per window that makes the step a majoriser there."""
        factor = torch.ones_like(step)
        for _ in range(MAX_HALVINGS):
            trial = step * factor
            change = self._prox(point + trial * score, trial) - point
            excess = bregman(y, eta, self.dictionary(change), mask, family)
            allowed = change.square() / (2 * trial)
            failed = self._over_window(excess, torch.sum) > self._over_window(allowed, torch.sum)
            if not failed.any():
                break
            factor = torch.where(failed, factor / 2, factor)
        return factor


def window_dims(dictionary: ConvDictionary, penalty: Penalty) -> tuple[int, ...]:
    """Axes that belong to one window: channel or template, places, and coupled units."""
    return tuple(range(-1 - dictionary.axes - penalty.coupled, 0))


def bregman(y: Tensor, eta: Tensor, change: Tensor, mask: Tensor | None, family: Family) -> Tensor:
    r"""Elementwise cost at ``eta + change`` less its tangent at ``eta``: never negative.

    .. math:: \int_0^1 (1 - s)\, c(\eta + s\delta)\, \delta^2\, ds

    with c the curvature, by the two-point Gauss rule of the weight 1 - s (exact for cubic c).  The
    difference of the two costs would lose all digits to rounding for small changes.
    """
    near, far = (family.curvature(y, eta + node * change) for node in _NODES)
    gain = (_WEIGHTS[0] * near + _WEIGHTS[1] * far) * change.square()
    exact = family.cost(y, eta + change) - family.cost(y, eta) + family.residual(y, eta) * change
    gain = torch.where(change.abs() < 1, gain, exact.clamp(min=0))
    return gain if mask is None else gain * mask
