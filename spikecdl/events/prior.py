"""The prior of templates: smooth rows that are shrunk, whose strengths are estimated.

A row h of a template, one channel's, is normal with precision

.. math:: P = \\alpha (I + \\tau D^\\top D),

where D takes second differences.  MacKay's fixed point maximises the evidence: with the posterior
covariance S, the precision of a row of L bins becomes

.. math:: \\alpha \\leftarrow \\alpha \\frac{L - \\mathrm{tr}(S P)}{h^\\top P h},

parameters that the data determine, over their size.  Rows of channels that take no part end at zero
(Neural Computation 4, 1992).
All matrices are banded: a row costs as many operations as it has bins.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from spikecdl import kernels
from spikecdl.events.counts import Expectation
from spikecdl.events.model import EventModel

_ROUGHEST, _SMOOTHEST = 0.03, 1e5  # smoothness
_ROW_COST = 1.0  # nats that a row must gain beyond what its prior costs, to be other than zero

update_rows = kernels.function("update_rows")
_fill_roughness = kernels.function("fill_roughness")


class Rows(NamedTuple):
    """Posterior means and variances of rows (row, bin), and precisions of their prior (row,)."""

    mean: np.ndarray
    variance: np.ndarray
    precision: np.ndarray


class RowData(NamedTuple):
    """What counts say of rows (row, bin): ``spikes``, what is ``expected`` and its ``curvature``,
    at rows of some ``mean`` and ``variance``; whether it is ``linear`` in a row, as for signals.
    """

    spikes: np.ndarray
    expected: np.ndarray
    curvature: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    linear: bool


class RowPrior(NamedTuple):
    """Squared second differences, see `second_differences`, and their weight tau; the least value
    of a bin; whether precisions are estimated; and the length of steps, 1 for whole ones.
    """

    bends: np.ndarray
    tau: float
    floor: float = -np.inf
    learn: bool = True
    step: float = 1.0


def updated_templates(
    model: EventModel,
    found: Expectation,
    scale: float,
    linear: bool,
    step: float = 1.0,
    perturbation: np.ndarray | None = None,
) -> EventModel:
    """Return the model after Newton steps of its templates, and of the strengths of their prior.

    Rows that gain less than they cost become zero, but for the best of each template.  A
    ``perturbation``, see `perturbed`, is added to the slope, and the prior stays.  What is expected
    is ``linear`` in the templates, or exponential.
    """
    bends, learn = second_differences(model.length), perturbation is None
    contiguous = np.ascontiguousarray
    templates = contiguous(model.templates / scale)
    variance = contiguous(model.variance / scale**2)
    shrinkage, smoothness = model.shrinkage * scale**2, model.smoothness.copy()
    spikes, expected = contiguous(found.spikes * scale), contiguous(found.expected * scale)
    curvature = contiguous(np.maximum(found.curvature * scale**2, 0.0))
    cost, gains = model.cost.copy(), model.gain.copy()
    for c in np.flatnonzero(model.has_events):
        rows, of_rows = templates[c], np.empty((templates.shape[1], 3))
        floor = 0.0 if model.nonnegative[c] else -np.inf
        prior = RowPrior(bends, float(smoothness[c]), floor, learn, step)
        more = spikes[c] if perturbation is None else spikes[c] + perturbation[c]
        data = RowData(more, expected[c], curvature[c], rows.copy(), variance[c].copy(), linear)
        update_rows(Rows(rows, variance[c], shrinkage[c]), data, prior, of_rows)
        gains[c] = gain = of_rows[:, 2] + of_rows[:, 0] - _ROW_COST
        none = (gain < 0) & (gain < gain.max())
        rows[none] = variance[c, none] = 0.0
        cost[c] = (_ROW_COST - of_rows[~none, 0]).sum()
        if learn:
            total = len(rows) * roughness(bends, smoothness[c])
            factor = total / max(of_rows[:, 1].sum(), 1e-9) / smoothness[c]
            smoothness[c] = np.clip(smoothness[c] * np.sqrt(factor), _ROUGHEST, _SMOOTHEST)
    return replace(
        model,
        templates=templates * scale,
        variance=variance * scale**2,
        shrinkage=shrinkage / scale**2,
        smoothness=smoothness,
        cost=cost,
        gain=gains if learn else model.gain,
    )


def perturbed(model: EventModel, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a perturbation of the slope of the log prior (template, row, bin).

    With normal data of a fixed prior, templates fitted to such a prior and to noise drawn anew have
    the covariance of the posterior, which accounts for the bias of smoothing, too (Bardsley et al.,
    SIAM J. Sci. Comput. 36, 2014).
    """
    bends = np.diff(np.eye(model.length), n=2, axis=0)
    shape = model.templates.shape
    rough = rng.normal(size=(*shape[:2], len(bends))) @ bends
    rough *= np.sqrt(model.smoothness)[:, None, None]
    precision = model.shrinkage[..., None] * scale**2
    return (rough + rng.normal(size=shape)) * np.sqrt(precision)


def second_differences(length: int) -> np.ndarray:
    """Return the three upper diagonals (3, bin) of the squared second differences."""
    bends = np.diff(np.eye(length), n=2, axis=0) if length > 2 else np.zeros((1, length))
    matrix = bends.T @ bends
    return np.stack([np.pad(np.diag(matrix, k), (0, min(k, length))) for k in range(3)])


def roughness(bends: np.ndarray, tau: float) -> float:
    """Return tau times the trace of D'D over I + tau D'D."""
    found = np.empty(1)
    _fill_roughness(bends, tau, found)
    return float(found[0])
