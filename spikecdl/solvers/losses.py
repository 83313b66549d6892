"""The scalar losses of `spikecdl.model.families.ScalarLoss`, as functions in C take them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from spikecdl import kernels

LOSSES = {"quadratic": 0, "logistic": 1, "exponential": 2}
QUADRATIC = LOSSES["quadratic"]

fill_state = kernels.function("fill_state")
value = kernels.function("loss_value")


class Loss(NamedTuple):
    """A scalar loss and its coefficients a and b, shape (row, bin), both zero where unobserved."""

    kind: int
    a: np.ndarray
    b: np.ndarray


class State(NamedTuple):
    """Linear predictor, minus the derivative of the loss and its curvature, shape (row, bin)."""

    eta: np.ndarray
    residual: np.ndarray
    curvature: np.ndarray


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a copy in double precision."""
    return np.array(tensor.numpy(), dtype=np.float64, order="C")
