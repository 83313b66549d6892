"""Coefficients of covariates, fitted on the likelihood with the events fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from spikecdl.model.covariates import Covariates
from spikecdl.model.history import PoissonWithBursts
from spikecdl.training.base import COVARIATES, Observations, Problem

Total = Callable[[Tensor], Tensor]


def _same(sums: Tensor) -> Tensor:
    """Return sums as they are, where there is one process."""
    return sums


def with_covariates(problem: Problem, most_steps: int = 15, tol: float = 0.01) -> Problem:
    """Return the problem with the offset of its covariates, if any, in the baseline.

    Coefficients are those of `Problem.unit_tensors`; before the fit, they are fitted without
    events, until no step of one is above ``tol``.
    """
    data, covariates = problem.data, problem.data.covariates
    if covariates is None:
        return problem
    coefficients = problem.unit_tensors.get(COVARIATES)
    if coefficients is None:
        coefficients = covariates.none().to(data.baseline)
        for _ in range(most_steps):
            before, data = coefficients, with_coefficients(problem.data, coefficients)
            coefficients = fitted(data, coefficients, data.baseline)
            if (coefficients - before).abs().max() < tol:
                break
    return replace(
        problem,
        data=with_coefficients(problem.data, coefficients),
        unit_tensors={**problem.unit_tensors, COVARIATES: coefficients},
    )


@torch.no_grad()
def with_coefficients(
    data: Observations, coefficients: Tensor, before: Tensor | None = None, total: Total = _same
) -> Observations:
    """Return the data with coefficients (unit, column) of their covariates.

    The offset goes into the baseline, in place of that of coefficients ``before``.  The constant
    level moves so that the mean rate without events stays: that of each window, or with drift,
    which is across windows, that of each unit.  ``total`` sums a tensor over processes.
    """
    rows = replace(data, family=data.family.without_bursts()).rows()
    covariates = _of(rows)
    eta = rows.baseline + covariates.offset(coefficients).to(rows.baseline)
    if before is not None:
        eta = eta - covariates.offset(before).to(eta)
    group, n_groups = covariates.unit, len(coefficients)
    if covariates.drift is None:
        n_groups, total = group.numel(), _same
        group = torch.arange(n_groups, device=group.device).reshape(group.shape)

    def of_mean(eta: Tensor) -> Tensor:
        sums = total(_sums(rows, eta, group, n_groups))
        mean, exposure = sums.unbind(1)
        level = rows.family.link_rate((mean / exposure.clamp(min=1)).to(eta))
        return torch.where(exposure > 0, level, 0)

    expected = of_mean(rows.baseline)
    for _ in range(10):  # one is enough where the mean is exponential in eta
        step = expected - of_mean(eta)
        eta = eta + step[group]
        if step.abs().max() < 1e-5:
            break
    return with_bursts(replace(data, baseline=eta.reshape(data.y.shape)), coefficients)


def with_bursts(data: Observations, coefficients: Tensor) -> Observations:
    """Return the data with what bursts add to the mean, if there are any."""
    excess = _of(data).excess(coefficients)
    return data if excess is None else replace(data, family=PoissonWithBursts(excess))


@torch.no_grad()
def fitted(data: Observations, coefficients: Tensor, eta: Tensor, total: Total = _same) -> Tensor:
    """Return the coefficients after a Newton step at the linear predictor, shape of ``data.y``.

    ``total`` sums a tensor over processes.
    """
    derivatives = []
    for part, some in data.parts():
        at = eta[part].to(some.y).expand_as(some.y)
        curvature = torch.where(some.mask, some.family.curvature(some.y, at), 0)
        derivatives.append(torch.stack([some.residual(at), curvature]))
    residual, curvature = torch.cat(derivatives, dim=1)
    return _of(data).update(coefficients, residual, curvature, total)


def _of(data: Observations) -> Covariates:
    """Return the covariates, which there are."""
    assert data.covariates is not None
    return data.covariates


def _sums(rows: Observations, eta: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Sum means and exposures over the observed bins of each group of rows, (group, 2)."""
    sums = torch.zeros(n_groups, 2, dtype=torch.float64, device=eta.device)
    for part, some in rows.parts():
        mean = some.family.mean(eta[part].expand_as(some.y))
        both = torch.stack([mean, some.family.exposure(some.y).to(mean)], dim=-1)
        both = torch.where(some.mask[..., None], both, 0).sum(-2, dtype=torch.float64)
        sums.index_add_(0, group[part].flatten(), both.flatten(0, -2))
    return sums
