"""Refinement on a fixed support: templates, amplitudes and baseline without the l1 bias."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from spikecdl.events import Events
from spikecdl.penalties import Penalty
from spikecdl.training.observations import Observations


@dataclass(frozen=True)
class Refined:
    """Templates (unit norm), events and baseline after refinement, their cost and penalty."""

    templates: Tensor
    events: Events
    baseline: Tensor
    cost: float
    penalty: float = 0.0


def refine(
    data: Observations,
    templates: Tensor,
    events: Events,
    penalty: Penalty,
    baseline: Tensor,
    *,
    learn_templates: bool = True,
    learn_amplitudes: bool = True,
    max_iter: int = 15,
    smoothness: float = 0.0,
) -> Refined:
    r"""Minimise the cost over templates, amplitudes and baseline with the events' places fixed.

    .. math:: \min_{h, a, \mu} -\log p\Bigl(y \mid \mu + \sum_e a_e\, h_{c(e)}(\cdot - t_e)\Bigr)
              + \tfrac{1}{2} \|\mu - \mu_0\|^2 + \tfrac{\rho}{2} \sum_c \|\nabla h_c\|^2

    with :math:`\mu_0` the baseline the observations came with (a prior of one log unit, which
    keeps windows without spikes finite), by L-BFGS with bounds that keep the sign of amplitudes
    (Byrd et al., SIAM J. Sci. Comput. 16, 1995), in double precision.

    Parameters
    ----------
    data : Observations
    templates : tensor, shape (template, channel, bin)
    events : Events
        Of the windows in the order of ``data.rows()``.
    penalty : Penalty
        Only its signs are used.
    baseline : tensor
        Start of the baseline, shape of ``data.baseline``; kept where it is not to be learned.
    learn_templates, learn_amplitudes : bool
        What to fit.  Templates without amplitudes are kept at unit norm on the way, so that the
        codes mean what they meant.
    max_iter : int
        L-BFGS iterations.
    smoothness : float
        Weight :math:`\rho` of squared first differences (zero outside the template).
    """
    rows = data.rows().to(torch.float64)
    amplitude = events.amplitude.double()
    # one unit of each variable should move eta about equally
    scale = float(amplitude.abs().mean()) if len(events) else 1.0
    scale *= (templates.shape[1] * templates.shape[2]) ** 0.5
    parts = [
        (templates.double(), 1.0, learn_templates),
        (amplitude, scale, learn_amplitudes),
        (baseline.double().reshape_as(rows.baseline), 1.0, data.learn_baseline),
    ]
    start = torch.cat(
        [(value / unit).reshape(-1) for value, unit, free in parts if free] or [torch.zeros(0)]
    )
    on_sphere = learn_templates and not learn_amplitudes
    objective = partial(_objective, rows, events, parts, smoothness, on_sphere)
    found = minimize(
        objective,
        start.cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=_bounds(events, penalty, parts),
        options={"maxiter": max_iter, "maxcor": 15, "ftol": 1e-10},
    )
    templates, amplitude, baseline = _unpack(found.x, parts)
    norms = templates.flatten(1).norm(dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    if not on_sphere:
        amplitude = amplitude * norms[events.template]
    return Refined(
        templates / norms[:, None, None],
        events.with_amplitude(amplitude),
        baseline.reshape_as(data.baseline),
        float(found.fun),
    )


_Parts = list[tuple[Tensor, float, bool]]


def _unpack(values: np.ndarray, parts: _Parts) -> list[Tensor]:
    """Cut the vector of free variables into templates, amplitudes and baseline."""
    tensors, start = [], 0
    for value, unit, is_free in parts:
        if is_free:
            flat = torch.from_numpy(values[start : start + value.numel()]).to(value.device)
            value = unit * flat.reshape(value.shape)
            start += value.numel()
        tensors.append(value)
    return tensors


def _objective(
    rows: Observations,
    events: Events,
    parts: _Parts,
    smoothness: float,
    on_sphere: bool,
    values: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Cost and its gradient with respect to the scaled free variables."""
    templates, amplitude, baseline = _unpack(values, parts)
    norms = templates.flatten(1).norm(dim=1)[:, None, None] if on_sphere else 1.0
    templates = templates / norms
    current = events.with_amplitude(amplitude)
    eta = current.add_to(baseline.expand_as(rows.y), templates)
    residual = rows.residual(eta)
    patches = current.patches(residual, templates.shape[-1])
    slopes = F.pad(templates, (1, 1)).diff(dim=-1)
    drift = baseline - rows.baseline
    cost = rows.cost(eta) + smoothness / 2 * slopes.square().sum() + drift.square().sum() / 2
    by_template = torch.zeros_like(templates).index_add(
        0, events.template, -amplitude[:, None, None] * patches
    )
    by_template -= smoothness * slopes.diff(dim=-1)
    if on_sphere:
        along = (by_template * templates).sum(dim=(1, 2), keepdim=True)
        by_template = (by_template - along * templates) / norms
    gradients = [
        by_template,
        -(templates[events.template] * patches).sum(dim=(1, 2)),
        drift - residual.sum(dim=-1, keepdim=True),
    ]
    flat = [
        (gradient * unit).reshape(-1)
        for gradient, (_, unit, free) in zip(gradients, parts, strict=True)
        if free
    ]
    return float(cost), torch.cat(flat or [torch.zeros(0)]).cpu().numpy()


def _bounds(
    events: Events, penalty: Penalty, parts: _Parts
) -> list[tuple[float | None, float | None]]:
    """Amplitudes keep to the signs that the penalty allows; all else is free."""
    (templates, _, free_templates), (_, _, free_amplitudes), (baseline, _, free_baseline) = parts
    ones = torch.ones(len(templates), 1)
    up = (penalty.project(ones) > 0)[events.template.cpu(), 0].tolist()
    down = (penalty.project(-ones) < 0)[events.template.cpu(), 0].tolist()
    signs = [(None if d else 0.0, None if u else 0.0) for u, d in zip(up, down, strict=True)]
    return (
        [(None, None)] * (templates.numel() * free_templates)
        + signs * free_amplitudes
        + [(None, None)] * (baseline.numel() * free_baseline)
    )
