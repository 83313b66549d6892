"""Linear systems in the amplitudes of events that are present, compiled."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecdl.solvers.events import Events
from spikecdl.solvers.l1 import banded_gram, overlap
from spikecdl.solvers.quadratic import solve_banded
from spikecdl.solvers.threads import in_parallel

_RIDGE = 1e-9  # added to the diagonal, relative to it


def solve_events(templates: Tensor, curvature: Tensor, events: Events, right: Tensor) -> Tensor:
    r"""Solve for amplitudes the Newton system of events at fixed places.

    .. math:: H_S^\top \operatorname{diag}(w) H_S\, q = b

    Windows are independent, and among events in the order of time the matrix is banded: Cholesky,
    window by window.  In a window without curvature under some event, q is zero.

    Parameters
    ----------
    templates : tensor, shape (template, channel, bin)
        On the CPU, as are all.
    curvature : tensor, shape (window, channel, bin)
        w, zero where nothing was observed.
    events : Events
        S, sorted by window.
    right : tensor, shape (event,)
        b.

    Returns
    -------
    tensor, shape (event,)
    """
    order = (events.window * curvature.shape[-1] + events.place).argsort(stable=True)
    listed = events.take(order)
    first = np.searchsorted(listed.window.numpy(), np.arange(len(curvature) + 1))
    which, place = listed.template.numpy(), listed.place.numpy()
    waves, bend = (_array(tensor) for tensor in (templates, curvature))
    solution = _array(right[order])

    def work(part: slice) -> None:
        _solve_windows(part.start, part.stop, waves, bend, first, which, place, solution)

    in_parallel(work, len(bend), bend.size)
    return torch.empty_like(right).index_copy(0, order, torch.from_numpy(solution).to(right))


def _array(tensor: Tensor) -> np.ndarray:
    """Return a copy in double precision."""
    return np.array(tensor.numpy(), dtype=np.float64, order="C")


@njit(cache=True, error_model="numpy", nogil=True)
def _solve_windows(begin, end, templates, curvature, first, which, place, right):
    """Solve some windows; ``right`` is changed in place."""
    for i in range(begin, end):
        mine = slice(first[i], first[i + 1])
        starts = place[mine]
        gram = np.empty((starts.size, overlap(starts, templates.shape[2])))
        banded_gram(templates, curvature[i], which[mine], starts, gram)
        gram[:, 0] *= 1 + _RIDGE
        if not solve_banded(gram, np.arange(starts.size), right[mine]):
            right[mine] = 0.0
