"""Sparse coding: the encoder's objective solved to a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spikecdl import _validation
from spikecdl.dictionary import ConvDictionary
from spikecdl.encoder import MAX_HALVINGS, bregman, window_dims
from spikecdl.families import Family
from spikecdl.penalties import Penalty

_CHECK_EVERY = 8
_KEEP_ABOVE = 0.75  # windows are dropped from the batch once fewer than this share is unfinished


@dataclass(frozen=True)
class SparseCode:
    """Codes and how well they solve the problem.

    Parameters
    ----------
    codes : tensor, shape (..., template, *places)
    violation : tensor, shape (...)
        Largest violation of the optimality conditions per window, relative to the penalty weight:
        the certificate.
    n_iter : int
        Iterations taken by the slowest window.
    converged : bool
        Whether every window's violation is at most the tolerance.
    """

    codes: Tensor
    violation: Tensor
    n_iter: int
    converged: bool


@dataclass
class _Windows:
    """What is to be solved, with one leading window axis, and the codes so far."""

    y: Tensor
    mask: Tensor | None
    baseline: Tensor
    family: Family
    penalty: Penalty
    codes: Tensor


@dataclass
class _State(_Windows):
    """Windows still being solved by FISTA, and where each of them stands."""

    eta: Tensor
    step: Tensor
    point: Tensor
    point_eta: Tensor
    momentum: Tensor

    def take(self, index: Tensor) -> _State:
        """Keep some of the windows."""

        def rows(tensor: Tensor) -> Tensor:
            return tensor[index]

        def taken(value: Any) -> Any:
            if torch.is_tensor(value):
                return rows(value)
            return None if value is None else value.map(rows)

        return _State(**{name: taken(value) for name, value in vars(self).items()})


@torch.no_grad()
def sparse_code(
    y: Tensor,
    family: Family,
    dictionary: ConvDictionary,
    penalty: Penalty,
    baseline: Tensor | float = 0.0,
    mask: Tensor | None = None,
    *,
    tol: float = 1e-3,
    max_iter: int = 3000,
    start: Tensor | None = None,
    method: str = "auto",
) -> SparseCode:
    r"""Minimise penalised negative log likelihood over the codes, window by window.

    .. math:: \min_x \; -\log p(y \mid Hx + \mu) + \lambda\,\mathrm{penalty}(x)

    Two methods reach the same certificate.  ``working_set``: events enter where the score is above
    the weight, Newton steps on those present, window by window in compiled code (CPU, 1-D, stride
    1, positive weights that are the same for all units and places); an event has one amplitude, or
    where the penalty couples units one for each.  ``fista``: FISTA with backtracking and restart
    per window, as tensors on any device; finished windows leave the batch.

    Parameters
    ----------
    y : tensor, shape (window, channel, *bins) or (trial, unit, channel, *bins)
        Observations.
    family, dictionary, penalty
        The model; see `UnrolledEncoder`.
    baseline : tensor or float
        Linear predictor without events, broadcastable to ``y``.
    mask : tensor of bool, optional
        False where nothing was observed; shape of ``y``.
    tol : float
        Largest violation of the optimality conditions that is accepted, relative to the weight.
    max_iter : int
        Iterations at the most.
    start : tensor, optional
        Codes to start from, shape of the result.
    method : {"auto", "working_set", "fista"}
        Auto: the working set wherever it applies.

    Returns
    -------
    SparseCode

    Examples
    --------
    >>> import torch
    >>> from spikecdl import ConvDictionary, Gaussian, L1
    >>> dictionary = ConvDictionary(torch.tensor([[[0.6, 0.8]]]))
    >>> solved = sparse_code(torch.tensor([[[0.0, 3.0, 4.0]]]), Gaussian(), dictionary, L1(1.0))
    >>> solved.codes.round(decimals=2), solved.converged
    (tensor([[[0., 4.]]]), True)
    """
    _validation.positive("tol", tol)
    _validation.integer("max_iter", max_iter, minimum=0)
    _validation.one_of("method", method, ("auto", "working_set", "fista"))
    dims = window_dims(dictionary, penalty)
    batch = y.shape[: y.ndim + dims[0]]
    windows = _lay_out(y, family, dictionary, penalty, baseline, mask, start, dims)
    fits = _fits(windows, dictionary)
    if method == "working_set" and not fits:
        raise ValueError(
            '`method` (="working_set") is for one axis of time without stride, on the CPU, and '
            'positive weights that are the same for all units and places; use "fista"'
        )
    if fits and method != "fista":
        codes, violation, n_iter = _compiled(windows, dictionary, tol, max_iter)
    else:
        codes, violation, n_iter = _fista(windows, dictionary, dims, tol, max_iter)
    converged = bool((violation <= tol).all())
    return SparseCode(
        codes.reshape(*batch, *codes.shape[1:]), violation.reshape(batch), n_iter, converged
    )


def _fits(windows: _Windows, dictionary: ConvDictionary) -> bool:
    """Whether the compiled solvers apply."""
    weight = torch.as_tensor(windows.penalty.weight)  # (window, [unit,] template, *places)
    shared = weight.numel() == len(weight) * weight.shape[-1 - dictionary.axes]
    on_cpu = windows.y.device.type == "cpu"
    return on_cpu and dictionary.plain and shared and bool((weight > 0).all())


def _compiled(
    windows: _Windows, dictionary: ConvDictionary, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, int]:
    """Solve every window on its own, in compiled code."""
    from spikecdl import _group_set, _working_set

    solver = _group_set if windows.penalty.coupled else _working_set
    loss = windows.family.scalar_loss(windows.y)
    seen = torch.ones_like(windows.y) if windows.mask is None else windows.mask
    signs = torch.ones(len(dictionary.templates), 1)
    return _working_set.solve(
        solver.solve_windows,
        loss._replace(a=loss.a * seen, b=loss.b * seen),
        windows.baseline.expand_as(windows.y) - loss.shift,
        dictionary.templates.detach(),
        torch.as_tensor(windows.penalty.weight).flatten(1).expand(-1, len(signs)),
        windows.penalty.project(signs)[:, 0] > 0,
        windows.penalty.project(-signs)[:, 0] < 0,
        windows.codes,
        tol,
        max_iter,
    )


def _fista(
    windows: _Windows, dictionary: ConvDictionary, dims: tuple[int, ...], tol: float, max_iter: int
) -> tuple[Tensor, Tensor, int]:
    """Solve all windows together; those that are finished leave."""
    state = _start(windows, dictionary, dims)
    codes = torch.empty_like(state.codes)
    violation = state.y.new_zeros(len(codes))
    left = torch.arange(len(codes), device=state.y.device)
    n_iter = 0
    while True:
        if n_iter % _CHECK_EVERY == 0 or n_iter == max_iter:
            error = _violation(state, dictionary, dims)
            done = (error <= tol) | (n_iter == max_iter)
            codes[left[done]], violation[left[done]] = state.codes[done], error[done]
            if done.all():
                return codes, violation, n_iter
            if done.float().mean() > 1 - _KEEP_ABOVE:
                left, state = left[~done], state.take(~done)
        _iterate(state, dictionary, dims)
        n_iter += 1


def _lay_out(
    y: Tensor,
    family: Family,
    dictionary: ConvDictionary,
    penalty: Penalty,
    baseline: Tensor | float,
    mask: Tensor | None,
    start: Tensor | None,
    dims: tuple[int, ...],
) -> _Windows:
    """Lay every tensor out with one leading window axis."""
    batch = y.shape[: y.ndim + dims[0]]

    def rows(tensor: Tensor) -> Tensor:
        tensor = tensor.to(y.device, y.dtype if tensor.is_floating_point() else None)
        missing = len(batch) - dims[0] - tensor.ndim
        tensor = tensor.reshape(*(1,) * missing, *tensor.shape)
        tail = tensor.shape[len(batch) :]
        return tensor.expand(*batch, *tail).reshape(-1, *tail)

    places = dictionary.code_shape(y.shape[-dictionary.axes :])
    signal = rows(y)
    offset = rows(torch.as_tensor(baseline, dtype=y.dtype, device=y.device))
    if start is None:
        size = (*signal.shape[: -dictionary.axes - 1], len(dictionary.templates), *places)
        codes = signal.new_zeros(size)
    else:
        codes = penalty.project(rows(start))
    if not isinstance(penalty.weight, Tensor):
        penalty = penalty.with_weight(torch.as_tensor(penalty.weight, dtype=y.dtype))
    return _Windows(
        y=signal,
        mask=None if mask is None else rows(mask.expand_as(y)),
        baseline=offset,
        family=family.map(rows),
        penalty=penalty.map(rows),
        codes=codes,
    )


def _start(windows: _Windows, dictionary: ConvDictionary, dims: tuple[int, ...]) -> _State:
    """Choose the first step sizes, from the curvature where the codes begin."""
    y, codes = windows.y, windows.codes
    eta = dictionary(codes) + windows.baseline
    curvature = windows.family.curvature(y, eta)
    curvature = curvature if windows.mask is None else curvature * windows.mask
    largest = curvature.amax(dim=dims, keepdim=True).clamp(min=torch.finfo(y.dtype).eps)
    step = 1 / (largest * dictionary.norm_squared(y.shape[-dictionary.axes :]))
    return _State(
        **vars(windows),
        eta=eta,
        step=step,
        point=codes,
        point_eta=eta,
        momentum=torch.ones_like(step),
    )


def _score(state: _State, eta: Tensor, dictionary: ConvDictionary) -> Tensor:
    residual = state.family.residual(state.y, eta)
    return dictionary.adjoint(residual if state.mask is None else residual * state.mask)


def _violation(state: _State, dictionary: ConvDictionary, dims: tuple[int, ...]) -> Tensor:
    """Largest move of a short proximal step at the codes, per unit of step and weight."""
    score = _score(state, state.eta, dictionary)
    moved = state.penalty.prox(state.codes + state.step * score, state.step) - state.codes
    scaled = moved.abs() / (state.step * state.penalty.weight).clamp(
        min=torch.finfo(moved.dtype).tiny
    )
    return scaled.amax(dim=dims)


def _iterate(state: _State, dictionary: ConvDictionary, dims: tuple[int, ...]) -> None:
    """One FISTA step for every window, with its own step size and restart."""
    score = _score(state, state.point_eta, dictionary)
    for _ in range(MAX_HALVINGS):
        codes = state.penalty.prox(state.point + state.step * score, state.step)
        eta = dictionary(codes) + state.baseline
        excess = bregman(state.y, state.point_eta, eta - state.point_eta, state.mask, state.family)
        allowed = (codes - state.point).square() / (2 * state.step)
        failed = excess.sum(dims, keepdim=True) > allowed.sum(dims, keepdim=True) * (1 + 1e-4)
        if not failed.any():
            break
        state.step = torch.where(failed, state.step / 2, state.step)
    change = codes - state.codes
    uphill = ((state.point - codes) * change).sum(dims, keepdim=True) > 0
    momentum = torch.where(uphill, 1.0, state.momentum)
    faster = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
    push = torch.where(uphill, 0.0, (momentum - 1) / faster)
    state.point = codes + push * change
    state.point_eta = eta + push * (eta - state.eta)
    state.codes, state.eta, state.momentum = codes, eta, faster
