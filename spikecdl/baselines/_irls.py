"""Iteratively reweighted least squares for any family."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spikecdl.families import Family

_HALVINGS = 30
_DEPENDENT = 1e-13  # smallest eigenvalue, relative to the largest, of covariates that differ


class Coefficients(NamedTuple):
    """What `fit` found: coefficients, and whether it settled."""

    values: np.ndarray
    converged: bool


def fit(
    family: Family,
    y: Tensor,
    design: np.ndarray,
    intercept: float,
    ridge: np.ndarray,
    tol: float,
    max_iter: int,
) -> Coefficients:
    r"""Minimise a cost with a ridge by Newton steps, which are least squares with new weights.

    .. math:: \min_b \; -\log p(y \mid Xb) + \tfrac12 \sum_j \rho_j b_j^2

    with the family's residual r and curvature w, a step solves
    :math:`(X^\top W X + R)\, d = X^\top r - R b`.  It is halved while the objective grows.  Where
    columns depend on each other, the step of least norm is taken.

    Parameters
    ----------
    family : Family
        With parameters of the shape of ``y``.
    y : tensor of double precision, shape (observation,)
    design : ndarray, shape (observation, coefficient)
        Its first column is of ones.
    intercept : float
        Coefficient of that column to start from; the others start from 0.
    ridge : ndarray, shape (coefficient,)
        :math:`\rho`.
    tol : float
        Gain that a step promises, relative to the cost, at which it is the last one.
    max_iter : int
    """
    b = np.zeros(design.shape[1])
    b[0] = intercept

    def objective(b: np.ndarray) -> float:
        cost = family.cost(y, torch.from_numpy(design @ b)).sum()
        return float(cost) + float(ridge @ b**2) / 2

    now = objective(b)
    for _ in range(max_iter):
        eta = torch.from_numpy(design @ b)
        slope = design.T @ family.residual(y, eta).numpy() - ridge * b
        weight = family.curvature(y, eta).numpy()
        step = _solve(design.T @ (weight[:, None] * design) + np.diag(ridge), slope)
        promise = float(slope @ step) / 2
        for _ in range(_HALVINGS):
            then = objective(b + step)
            if then <= now + 1e-12 * abs(now):
                break
            step /= 2
        b, now = b + step, then
        if promise <= tol * (1 + abs(now)):
            return Coefficients(b, True)
    return Coefficients(b, False)


def _solve(gram: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Solve a symmetric system, each coefficient in units of its own curvature."""
    unit = 1 / np.sqrt(np.diag(gram).clip(min=np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(gram * unit * unit[:, None])
    kept = values > _DEPENDENT * len(values) * max(values[-1], 0)
    along = vectors.T @ (unit * slope)
    return unit * (vectors @ np.divide(along, values, out=np.zeros_like(along), where=kept))
