"""Sparse coding of single windows on the CPU: a working set of events and Newton steps.

A window is solved in rounds.  Events enter where the score is highest above the penalty weight.
Events that overlap form runs, and each run that violates its optimality conditions takes proximal
Newton steps (Lee, Sun and Saunders, SIAM J. Optim. 24, 2014) in the bins that it covers.  Scores
are renewed where the residual has changed, so a round costs as much as what changes in it, and
windows may be long.

One code serves both penalties.  For l1, a window has codes (template, onset) and an event has one
amplitude.  For l2 norms over units (Yuan and Lin, J. R. Stat. Soc. B 68, 2006), it has codes (unit,
template, onset) and an event has an amplitude for each unit.  The certificate of an event with
scores s and amplitudes a, relative to its weight w:

- at a = 0: by how much the norm of s, of allowed sign, exceeds w;
- else: the norm of s - w a / |a|, with s of allowed sign where the amplitude of a unit is zero.

Both bound from above how fast each code moves under a short proximal gradient step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spikecdl import kernels
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import Windows
from spikecdl.solvers.amplitudes import LOSSES, Loss, as_array
from spikecdl.solvers.parallel import COSTLY, in_parallel


class _Penalties(NamedTuple):
    """Weights (window, template), allowed signs of templates, and whether units are grouped."""

    weight: np.ndarray
    up: np.ndarray
    down: np.ndarray
    grouped: bool


class _Solutions(NamedTuple):
    """Codes (window, unit, template, onset), where they may differ from zero, and certificates."""

    codes: np.ndarray
    onsets: np.ndarray
    violation: np.ndarray
    rounds: np.ndarray


def solve(
    windows: Windows,
    dictionary: ConvDictionary,
    start: Tensor,
    onsets: Tensor | None,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Tensor, int]:
    """Solve windows, divided among threads.

    Parameters
    ----------
    windows : Windows
        With a family that has a scalar loss and a positive weight for each window and template.
    dictionary : ConvDictionary
        Of templates (template, channel, bin).
    start : tensor, shape (window, [unit,] template, onset)
        Codes to start from; without the unit axis, the penalty is the l1 norm.
    onsets : tensor of bool, shape (window, onset), optional
        Where codes may differ from zero; None: everywhere.
    tol : float
        Violation of the optimality conditions that is accepted, relative to the weight.
    max_iter : int
        Largest number of rounds.

    Returns
    -------
    codes, violation of each window, rounds of the slowest window
    """
    y, penalty = windows.y, windows.penalty
    loss, seen = windows.family.scalar_loss(y), 1 if windows.mask is None else windows.mask
    shape = (len(start), -1, y.shape[-1])
    offset = windows.baseline.expand_as(y) - loss.shift
    a, b, eta = (as_array(t.reshape(shape)) for t in (loss.a * seen, loss.b * seen, offset))
    templates = as_array(dictionary.templates.detach())
    weights = as_array(torch.as_tensor(penalty.weight).flatten(1).expand(-1, len(templates)))
    signs = torch.ones(len(templates), 1)
    up = (penalty.project(signs)[:, 0] > 0).numpy()
    down = (penalty.project(-signs)[:, 0] < 0).numpy()
    grouped = start.ndim == 4
    found = _Solutions(
        as_array(start if grouped else start[:, None]),
        np.ones((len(a), 0), bool) if onsets is None else onsets.contiguous().numpy(),
        np.zeros(len(a)),
        np.zeros(len(a), dtype=np.int64),
    )
    solve_windows = kernels.function("solve_windows")

    def work(part: slice) -> None:
        solve_windows(
            Loss(LOSSES[loss.kind], a[part], b[part]),
            eta[part],
            templates,
            _Penalties(weights[part], up, down, grouped),
            tol,
            max_iter,
            _Solutions(*(values[part] for values in found)),
        )

    in_parallel(work, len(a), a.size * len(templates) * COSTLY)
    solution = torch.from_numpy(found.codes).to(start.dtype).reshape(start.shape)
    certificate = torch.from_numpy(found.violation).to(start.dtype)
    return solution, certificate, int(found.rounds.max(initial=0))
