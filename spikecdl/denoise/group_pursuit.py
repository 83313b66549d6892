"""Sparse codes of patches in groups that share their templates, and the step of the templates.

A patch y (its pixels in a row) is Poisson of mean exp(base + codes @ templates); ``base`` is the
log of its own mean.  All steps are Newton's, shortened so that no log rate moves by more than 1:
then the Poisson likelihood cannot fall, for it is self-concordant in the generalised sense (Bach,
Electron. J. Stat. 4, 2010, doi:10.1214/09-EJS521), and no search along the line is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spikecdl.model.families import Poisson

FAMILY = Poisson()
PRECISION = 1e-3  # of the prior of codes; keeps those finite that dark patches would not
_DAMPING = 1e-5  # of curvatures, for templates that are nearly the same
_RIDGE = 1.0  # curvature added to that of pixels of templates, which holds back rare ones


@dataclass(frozen=True)
class GroupCodes:
    """Codes of groups of patches.

    Parameters
    ----------
    support : tensor, shape (group, active)
        Templates of each group; -1 for none.
    codes : tensor, shape (group, member, active)
        Their amplitudes; 0 for none.
    mean : tensor, shape (group, member, pixel)
    """

    support: Tensor
    codes: Tensor
    mean: Tensor


def base_of(y: Tensor) -> Tensor:
    """Return the log of each patch's mean (..., 1), with half a count added to each patch."""
    return FAMILY.link((y.sum(-1, keepdim=True) + 0.5) / y.shape[-1])


def refit(
    y: Tensor,
    base: Tensor,
    templates: Tensor,
    codes: Tensor,
    n_steps: int = 4,
    tolerance: float = 1e-2,
) -> tuple[Tensor, Tensor]:
    """Fit codes of patches on given templates by Newton steps.

    Parameters
    ----------
    y : tensor, shape (group, member, pixel)
    base : tensor, shape (group, member, 1)
    templates : tensor, shape (group, active, pixel)
    codes : tensor, shape (group, member, active)
        To start from.
    n_steps : int
        At the most.
    tolerance : float
        Squared Newton decrement of all patches at which to stop.

    Returns
    -------
    codes, mean : tensor
        ``mean`` in the shape of ``y``.
    """
    n_active = templates.shape[1]
    row, column = torch.triu_indices(n_active, n_active)
    products = (templates[:, row] * templates[:, column]).mT
    diagonal = torch.arange(n_active)
    eta = base + codes @ templates
    for _ in range(n_steps):
        mean = FAMILY.mean(eta)  # which is the curvature, too
        gradient = (y - mean) @ templates.mT - PRECISION * codes
        upper = mean @ products
        hessian = upper.new_empty(*codes.shape, n_active)
        hessian[..., row, column] = upper
        hessian[..., column, row] = upper
        hessian[..., diagonal, diagonal] *= 1 + _DAMPING
        hessian[..., diagonal, diagonal] += PRECISION
        step = torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(hessian))[..., 0]
        change = step @ templates
        longest = change.abs().amax(-1, keepdim=True).clamp(min=1)
        codes, eta = codes + step / longest, eta + change / longest
        if (gradient * step).sum(-1).max() < tolerance:
            break
    return codes, FAMILY.mean(eta)


def pursue(
    y: Tensor,
    templates: Tensor,
    least: int,
    most: int | None = None,
    reference: Tensor | None = None,
) -> GroupCodes:
    """Choose templates for groups of patches one by one, the best first, and fit the codes.

    The first template is in every group.  The next is that of the largest sum over the group's
    patches of score tests, squared slope over curvature.  Groups get ``least`` templates, and go
    on to ``most`` as long as each brings the means nearer to the ``reference``.

    Parameters
    ----------
    y : tensor, shape (group, member, pixel)
    templates : tensor, shape (template, pixel)
    least, most : int
        Templates of a group; ``most`` (None: ``least``) is only for those with a reference.
    reference : tensor, shape (group, member, pixel), optional
        An earlier estimate of the means.
    """
    n_groups, n_members, _ = y.shape
    most = least if most is None or reference is None else most
    kept = GroupCodes(
        torch.full((n_groups, most), -1), y.new_zeros(n_groups, n_members, most), y.clone()
    )
    error = torch.full((n_groups,), torch.inf, dtype=y.dtype)
    going = torch.arange(n_groups)
    support, codes, base = torch.zeros(n_groups, 1).long(), y.new_zeros(*y.shape[:2], 1), base_of(y)
    for size in range(1, most + 1):
        codes, mean = refit(y[going], base[going], templates[support], codes)
        if reference is not None:
            now = (mean - reference[going]).square().sum((1, 2))
            better = (now < error[going]) | (size <= least)
            going, support, codes, mean = (a[better] for a in (going, support, codes, mean))
            error[going] = now[better]
        kept.support[going, :size], kept.mean[going] = support, mean
        kept.codes[going, :, :size] = codes
        if size == most or not len(going):
            break
        slope = (y[going] - mean) @ templates.T
        gain = (slope.square() / (mean @ templates.T.square() + PRECISION)).sum(1)
        best = gain.scatter(1, support, -1.0).argmax(1, keepdim=True)
        support = torch.cat([support, best], 1)
        codes = torch.cat([codes, codes.new_zeros(*codes.shape[:2], 1)], 2)
    return kept


def learn(y: Tensor, templates: Tensor, found: GroupCodes) -> Tensor:
    """Return templates after a step of each in turn, with supports fixed.

    A template takes a Newton step in each pixel, then its amplitudes are scaled as its norm goes
    back to one.  The first template stays.

    Parameters
    ----------
    y : tensor, shape (group, member, pixel)
    templates : tensor, shape (template, pixel)
    found : GroupCodes
    """
    rows, templates = y.flatten(0, 1), templates.clone()
    n_none = len(templates)  # one more column, for codes of no template
    support = found.support.where(found.support >= 0, n_none)[:, None].expand(found.codes.shape)
    codes = y.new_zeros(len(rows), n_none + 1)
    codes.scatter_(1, support.flatten(0, 1), found.codes.flatten(0, 1))
    codes = codes[:, :-1].T.contiguous()
    eta = base_of(rows) + codes.T @ templates
    for template, amplitude in zip(templates[1:], codes[1:], strict=True):
        users = amplitude.nonzero()[:, 0]
        if not len(users):
            continue
        size, now = amplitude[users], eta[users]
        mean = FAMILY.mean(now)
        step = size @ (rows[users] - mean) / (size.square() @ mean + _RIDGE)
        step /= (step.abs() * size.abs().max()).clamp(min=1)
        eta[users] = now + size[:, None] * step
        template += step
        norm = template.norm()
        template /= norm
        amplitude *= norm
    return templates
