"""Sparse coding: the encoder's objective solved to a certificate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import MAX_HALVINGS, Windows, bregman, window_dims
from spikecdl.model.families import Family
from spikecdl.model.layouts import Layout
from spikecdl.model.penalties import L1, GroupL1, Penalty


@dataclass(frozen=True)
class SparseCode:
    """Codes and how well they solve the problem.

    Parameters
    ----------
    codes : tensor, shape (..., template, *onsets)
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
class _State:
    """Windows still being solved by FISTA, and where each of them stands."""

    windows: Windows
    codes: Tensor
    eta: Tensor
    step: Tensor
    point: Tensor
    point_eta: Tensor
    momentum: Tensor

    def take(self, index: Tensor) -> _State:
        """Keep some of the windows."""
        windows, *others = vars(self).values()
        return _State(windows.take(index), *(values[index] for values in others))


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
    onsets: Tensor | None = None,
    method: str = "auto",
) -> SparseCode:
    r"""Minimise penalised negative log likelihood over the codes, window by window.

    .. math:: \min_x \; -\log p(y \mid Hx + \mu) + \lambda\,\mathrm{penalty}(x)

    Two methods reach the same certificate.  ``working_set``: events enter where the score is above
    the weight, Newton steps on those present, window by window in compiled code (CPU, 1-D, stride
    1, positive weights that are the same for all units and onsets); an event has one amplitude, or
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
    onsets : tensor of bool, shape (window, *onsets) or (trial, unit, *onsets), optional
        Where codes may differ from zero; the same for units that the penalty couples.
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
    validation.positive("tol", tol)
    validation.integer("max_iter", max_iter, minimum=0)
    validation.one_of("method", method, ("auto", "working_set", "fista"))
    batch = y.shape[: y.ndim + window_dims(dictionary, penalty)[0]]
    windows = Windows.of(y, family, dictionary, penalty, baseline, mask)
    shape = windows.code_shape(dictionary)
    codes = windows.y.new_zeros(shape)
    if start is not None:
        codes = windows.penalty.project(start.to(codes).reshape(shape))
    allowed = None
    if onsets is not None:
        axes = dictionary.axes
        allowed = onsets.reshape(*codes.shape[: -1 - axes], *codes.shape[-axes:])
        codes = codes * allowed.unsqueeze(-1 - axes)
    fits = _fits(windows, dictionary)
    if method == "working_set" and not fits:
        raise ValueError(
            '`method` (="working_set") is for L1 and GroupL1, families with `scalar_loss`, one '
            "axis of time without stride, the CPU, and positive weights that are the same for all "
            'units and onsets; use "fista"'
        )
    if fits and method != "fista":
        from spikecdl.solvers import working_set

        if allowed is not None:
            allowed = allowed.reshape(len(codes), -1, codes.shape[-1])[:, 0]
        given = (windows, dictionary, codes, allowed)
        codes, violation, n_iter = working_set.solve(*given, tol, max_iter)
    else:
        if allowed is not None:  # elsewhere the weight is infinite
            weight = torch.as_tensor(windows.penalty.weight).to(codes)
            weight = weight.where(allowed.unsqueeze(-1 - dictionary.axes), torch.inf)
            windows = replace(windows, penalty=windows.penalty.with_weight(weight))
        codes, violation, n_iter = _fista(windows, codes, dictionary, tol, max_iter)
    converged = bool((violation <= tol).all())
    return SparseCode(
        codes.reshape(*batch, *codes.shape[1:]), violation.reshape(batch), n_iter, converged
    )


def _fits(windows: Windows, dictionary: ConvDictionary) -> bool:
    """Whether a compiled solver applies: to the penalty itself, not to classes derived from it."""
    if type(windows.penalty) not in (L1, GroupL1) or not windows.family.is_compiled:
        return False
    weight = torch.as_tensor(windows.penalty.weight)  # (window, [unit,] template, *onsets)
    shared = weight.numel() == len(weight) * weight.shape[-1 - dictionary.axes]
    on_cpu = windows.y.device.type == "cpu"
    return on_cpu and dictionary.plain and shared and bool((weight > 0).all())


def _fista(
    windows: Windows, codes: Tensor, dictionary: ConvDictionary, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, int]:
    """Solve all windows together; they are checked every 8 steps.

    The first step sizes follow from the curvature where the codes begin.  Windows that are finished
    leave once they are more than a quarter.
    """
    bins = windows.y.shape[-dictionary.axes :]
    layout = dictionary.layout(bins, windows.y.is_cuda)
    windows, codes = windows.laid_out(layout), layout.codes(codes)
    y = windows.y
    eta = layout.forward(codes) + windows.baseline
    largest = windows.curvature(eta).amax(dim=_dims(y), keepdim=True)
    largest = largest.clamp(min=torch.finfo(y.dtype).eps)
    step = 1 / (largest * dictionary.norm_squared(bins))
    state = _State(windows, codes, eta, step, codes, eta, torch.ones_like(step))
    codes, violation = torch.empty_like(codes), y.new_zeros(len(codes))
    left = torch.arange(len(codes), device=y.device)
    n_iter = 0
    while True:
        if n_iter % 8 == 0 or n_iter == max_iter:
            error = _violation(state, layout)
            done = (error <= tol) | (n_iter == max_iter)
            codes[left[done]], violation[left[done]] = state.codes[done], error[done]
            if done.all():
                return layout.onsets(codes), violation, n_iter
            if done.float().mean() > 0.25:
                left, state = left[~done], state.take(~done)
        _iterate(state, layout)
        n_iter += 1


def _dims(tensor: Tensor) -> tuple[int, ...]:
    """All axes but that of windows."""
    return tuple(range(1, tensor.ndim))


def _violation(state: _State, layout: Layout) -> Tensor:
    """Largest move of a short proximal step at the codes, per unit of step and weight."""
    score, penalty = layout.adjoint(state.windows.residual(state.eta)), state.windows.penalty
    moved = penalty.prox(state.codes + state.step * score, state.step) - state.codes
    scaled = moved.abs() / (state.step * penalty.weight).clamp(min=torch.finfo(moved.dtype).tiny)
    return scaled.amax(dim=_dims(scaled))


def _iterate(state: _State, layout: Layout) -> None:
    """One FISTA step for every window, with its own step size and restart."""
    windows = state.windows
    score, dims = layout.adjoint(windows.residual(state.point_eta)), _dims(state.codes)
    for _ in range(MAX_HALVINGS):
        codes = windows.penalty.prox(torch.addcmul(state.point, state.step, score), state.step)
        eta = layout.forward(codes) + windows.baseline
        change = eta - state.point_eta
        excess = bregman(windows.y, state.point_eta, change, windows.mask, windows.family)
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
