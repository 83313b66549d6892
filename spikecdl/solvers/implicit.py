"""The encoder in the limit of infinitely many layers: the solution and its derivative."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import Encoder, Windows, window_dims
from spikecdl.model.families import Family
from spikecdl.model.penalties import L1, Penalty
from spikecdl.solvers.events import Events
from spikecdl.solvers.sparse_coding import sparse_code


class ImplicitEncoder(Encoder):
    r"""Codes that solve the penalised problem, with the derivative of the solution.

    The codes :math:`x^*` of `sparse_code` are zero but on a support S, where the score equals the
    slope of the penalty.  By the implicit function theorem, with the support and its signs fixed,

    .. math:: H_S^\top r(y, H x^* + \mu) = \nabla \pi(x^*_S)
              \quad\Rightarrow\quad
              \mathrm{d}x^*_S = B^{-1}\, \mathrm{d}_{H,\mu}\bigl(H_S^\top r(y, Hx^* + \mu)\bigr),
              \qquad B = H_S^\top W H_S + \nabla^2 \pi(x^*_S)

    with r the family's residual, W its curvature, :math:`\pi` the penalty, whose weight is taken as
    constant, and :math:`\mathrm{d}_{H,\mu}` the change with fixed codes.  It is the limit of
    back-propagation through the layers of an `UnrolledEncoder` as their number grows, at the cost
    of one linear system in the codes that are not zero; memory does not grow with the iterations.
    Where a code is about to appear or vanish, the solution has no derivative, and that of the
    present support is returned.

    On the CPU in one dimension, the system of each window is banded and is factored; on a GPU, for
    images, strides and penalties that group units, it is solved by conjugate gradients.

    Parameters
    ----------
    family, dictionary, penalty
        See `Encoder`; the weight of the penalty must be positive.
    tol : float
        Largest violation of the optimality conditions, relative to the weight.  The error of the
        derivative is of its order.
    max_iter : int
        Iterations of `sparse_code` at the most; codes that need more come with a warning.

    References
    ----------
    Bertrand, Klopfenstein, Blondel, Vaiter, Gramfort and Salmon, ICML 2020, arXiv:2002.08943.
    Tolooshams and Ba, TMLR 2022, arXiv:2106.00058 (the limit of unrolled layers).

    Examples
    --------
    >>> import torch
    >>> from spikecdl import ConvDictionary, Gaussian, L1
    >>> dictionary = ConvDictionary(torch.tensor([[[0.6, 0.8]]]))
    >>> baseline = torch.zeros(1, requires_grad=True)
    >>> codes = ImplicitEncoder(Gaussian(), dictionary, L1(1.0))(
    ...     torch.tensor([[[0.0, 3.0, 4.0]]]), baseline
    ... )
    >>> codes.sum().backward()
    >>> codes.detach().round(decimals=2), baseline.grad.round(decimals=2)
    (tensor([[[0., 4.]]]), tensor([-1.4000]))
    """

    def __init__(
        self,
        family: Family,
        dictionary: ConvDictionary,
        penalty: Penalty,
        *,
        tol: float = 1e-3,
        max_iter: int = 3000,
    ) -> None:
        super().__init__(family, dictionary, penalty)
        self.tol = validation.positive("tol", tol)
        self.max_iter = validation.integer("max_iter", max_iter)

    def _encode(
        self, y: Tensor, baseline: Any, mask: Tensor | None, family: Family, penalty: Penalty
    ) -> Tensor:
        parts = (y, family, self.dictionary, penalty, baseline, mask)
        solved = sparse_code(*parts, tol=self.tol, max_iter=self.max_iter)
        if not solved.converged:
            warnings.warn(
                f"codes were not solved to `tol` (={self.tol:g}) in `max_iter` (={self.max_iter}) "
                "iterations, so gradients are inaccurate; raise either",
                stacklevel=2,
            )
        if not torch.is_grad_enabled():
            return solved.codes
        windows = Windows(y, mask, torch.zeros_like(y) + baseline, family, penalty)
        if type(penalty) is L1 and y.device.type == "cpu" and self.dictionary.plain:
            return self._on_events(solved.codes, windows)
        return self._on_tensors(solved.codes, windows)

    def _on_events(self, codes: Tensor, windows: Windows) -> Tensor:
        """Attach the derivative to codes in time, as a list of events."""
        from spikecdl.solvers.amplitudes import solve_events

        y = windows.y
        dense = codes.reshape(-1, *codes.shape[-2:])
        events, rows = Events.from_codes(dense), (len(dense), *y.shape[-2:])
        templates = self.dictionary.templates
        eta = events.add_to(windows.baseline.reshape(rows), templates).reshape(y.shape)
        residual = windows.residual(eta).reshape(rows)
        curvature = windows.curvature(eta.detach()).reshape(rows)
        patches = events.patches(residual, templates.shape[-1])
        score = (templates[events.template] * patches).sum(dim=(1, 2))

        def solve(right: Tensor) -> Tensor:
            return solve_events(templates.detach(), curvature, events, right)

        amplitude = _Solution.apply(events.amplitude, score, solve)
        return events.with_amplitude(amplitude).to_codes(dense.shape).reshape(codes.shape)

    def _on_tensors(self, codes: Tensor, windows: Windows) -> Tensor:
        """Attach the derivative to codes of any kind."""
        dictionary, penalty = self.dictionary, windows.penalty
        eta = dictionary(codes) + windows.baseline
        score, curvature = (
            dictionary.adjoint(windows.residual(eta)),
            windows.curvature(eta.detach()),
        )
        known = ConvDictionary(dictionary.templates.detach(), dictionary.stride, dictionary.method)
        present = codes != 0

        def times(direction: Tensor) -> Tensor:
            image = known.adjoint(curvature * known(direction))
            return present * (image + penalty.curvature(codes, direction))

        def solve(right: Tensor) -> Tensor:
            return _conjugate_gradients(times, present * right, window_dims(known, penalty))

        return _Solution.apply(codes, score, solve)


class _Solution(torch.autograd.Function):
    """Identity on codes whose derivative is that of their score, through a linear system."""

    @staticmethod
    def forward(
        ctx: Any, codes: Tensor, score: Tensor, solve: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.solve = solve
        return codes.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.solve(gradient), None


def _conjugate_gradients(
    times: Callable[[Tensor], Tensor], right: Tensor, dims: tuple[int, ...], n_steps: int = 500
) -> Tensor:
    """Solve positive systems, one per window, whose axes are ``dims``.

    Until each residual is below the 3/4 power of the precision, relative to the right-hand side
    (Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49, 1952).
    """

    def square(tensor: Tensor) -> Tensor:
        return tensor.square().sum(dim=dims, keepdim=True)

    solution, residual, direction = torch.zeros_like(right), right, right
    size = square(right)
    goal = size * torch.finfo(right.dtype).eps ** 1.5
    for _ in range(n_steps):
        if (size <= goal).all():
            break
        image = times(direction)
        curvature = (direction * image).sum(dim=dims, keepdim=True)
        step = torch.where((curvature > 0) & (size > goal), size / curvature, 0)
        solution, residual = solution + step * direction, residual - step * image
        before, size = size, square(residual)
        direction = residual + torch.where(before > 0, size / before, 0) * direction
    return solution
