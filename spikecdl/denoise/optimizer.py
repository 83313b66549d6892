"""SOAP: Adam in the eigenvectors of the gradient's second moments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_BETAS = (0.95, 0.95)  # decay per step of the first and second moments of the gradient
_EPS = 1e-8
_REFRESH = 10  # steps between updates of the eigenvectors


class SOAP(torch.optim.Optimizer):
    r"""Adam, for matrices in the eigenvectors of the gradient's moments on either side.

    Of a matrix with gradient G, :math:`L = \mathrm{E}\,GG^\top` and
    :math:`R = \mathrm{E}\,G^\top G` have eigenvectors :math:`Q_L, Q_R`; the step is Adam's for
    :math:`Q_L^\top G Q_R`, turned back.  Templates of images need it: their gradient is large along
    smooth patterns and small along fine ones, which no scale per pixel can mend.  All else has the
    steps of Adam.  The first step only takes the moments.

    Parameters
    ----------
    params : iterable of tensor
        Templates (template, channel, row, column) are matrices (template, pixel).
    lr : float
        Learning rate.

    References
    ----------
    Vyas et al. 2025, SOAP: improving and stabilizing Shampoo using Adam, ICLR, arXiv:2409.11321.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 2e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _move(parameter, self.state[parameter], group["lr"])


def _move(parameter: Tensor, state: dict[str, Any], learning_rate: float) -> None:
    assert parameter.grad is not None
    templates = parameter.ndim == 4 and parameter.shape[-1] > 1
    gradient = parameter.grad.flatten(1) if templates else parameter.grad
    if not state:
        state |= _moments(gradient) if templates else {}
        state |= {name: torch.zeros_like(gradient) for name in ("first", "second")}
        state["step"] = torch.tensor(0.0)
        if templates:
            return
    state["step"] += 1
    turned, first = _turned(gradient, state), state["first"].lerp_(gradient, 1 - _BETAS[0])
    state["second"].lerp_(turned.square(), 1 - _BETAS[1])
    scale = (state["second"] / (1 - _BETAS[1] ** state["step"])).sqrt_().add_(_EPS)
    change = _turned(first, state) / (1 - _BETAS[0] ** state["step"]) / scale
    if templates:
        change = state["left"] @ change @ state["right"].mT
        _follow(gradient, state)
    parameter.sub_(learning_rate * change.view_as(parameter))


def _moments(gradient: Tensor) -> dict[str, Tensor]:
    """Return the second moments on either side, and their eigenvectors."""
    rows, columns = gradient @ gradient.mT, gradient.mT @ gradient
    left, right = _eigenvectors(rows), _eigenvectors(columns)
    return {"rows": rows, "columns": columns, "left": left, "right": right}


def _eigenvectors(moments: Tensor) -> Tensor:
    """Return eigenvectors in columns; near 1 and in double precision it converges for all ranks."""
    largest = moments.abs().amax().clamp(min=torch.finfo(moments.dtype).tiny)
    vectors = torch.linalg.eigh((moments / largest).double()).eigenvectors
    # contiguous, as they are when read from a file: products then have the same bits
    return vectors.to(moments.dtype).contiguous()


def _turned(matrix: Tensor, state: dict[str, Any]) -> Tensor:
    return state["left"].mT @ matrix @ state["right"] if "left" in state else matrix


def _follow(gradient: Tensor, state: dict[str, Any]) -> None:
    """Move the second moments, and now and then their eigenvectors by a step of power iteration."""
    state["rows"].lerp_(gradient @ gradient.mT, 1 - _BETAS[1])
    state["columns"].lerp_(gradient.mT @ gradient, 1 - _BETAS[1])
    if state["step"] % _REFRESH == 0:
        for vectors, moments in (("left", "rows"), ("right", "columns")):
            state[vectors] = torch.linalg.qr(state[moments] @ state[vectors]).Q.contiguous()
