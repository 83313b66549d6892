"""Laplace's approximation of an integral over coefficients, of which some may be at a bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_volume(
    curvature: Tensor, slope: Tensor, coefficients: Tensor, precision: Tensor, bound: float
) -> Tensor:
    r"""Return the log of the integral of likelihood times prior, over the likelihood at its mode.

    With a normal prior of precision P, half of it if there is a bound, and minus the second
    derivative H of the log likelihood, coefficients x away from their bound add

    .. math:: -\tfrac12 x^\top P x + \tfrac12 \log\det P - \tfrac12 \log\det (H + P)

    (MacKay, Neural Computation 4, 1992).  At the bound, the log posterior falls with slope g > 0,
    and the integral is that of :math:`\exp(-g x - (H + P) x^2 / 2)` over x > 0.

    Parameters
    ----------
    curvature : tensor, shape (..., coefficient, coefficient)
    slope, coefficients : tensors, shape (..., coefficient)
        First derivative of the log likelihood, and the mode.
    precision : tensor, shape (coefficient,)
    bound : float
        Of all coefficients, from below if it is 0 and they are above, or from above; infinite if
        there is none.

    Returns
    -------
    tensor, shape (...)

    Examples
    --------
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> log_volume(3 * torch.eye(1).double(), 0 * one, 0 * one, one, math.inf).round(decimals=3)
    tensor(-0.6930, dtype=torch.float64)
    """
    both = curvature + precision.diag()
    slope = (slope - precision * coefficients).abs()
    held = (coefficients - bound).abs() < 1e-6 if math.isfinite(bound) else slope < -1
    diagonal = both.diagonal(dim1=-2, dim2=-1)
    free = ~(held[..., :, None] | held[..., None, :])
    rest = torch.where(free, both, 0) + torch.diag_embed(held.to(both))
    scaled = slope / (2 * diagonal).sqrt()
    tail = (torch.special.erfcx(scaled) / 2 / diagonal.sqrt()).log()
    if math.isfinite(bound):  # a normal integral ends there, too
        inside = torch.special.log_ndtr((coefficients - bound).abs() * diagonal.sqrt())
        tail = torch.where(held, tail, inside)
    tail = torch.where(held | math.isfinite(bound), tail, 0)
    prior = precision.log() - precision * coefficients.square()
    halves = math.log(2) if math.isfinite(bound) else 0.0
    return (prior / 2 + halves + tail).sum(-1) - rest.logdet() / 2
