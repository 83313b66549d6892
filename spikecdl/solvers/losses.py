"""The scalar losses of `spikecdl.model.families.ScalarLoss`, as functions in C take them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

LOSSES = {"quadratic": 0, "logistic": 1, "exponential": 2}
QUADRATIC = LOSSES["quadratic"]


class Loss(NamedTuple):
    """A scalar loss and its coefficients a and b, (window, row, bin), zero where unobserved."""

    kind: int
    a: np.ndarray
    b: np.ndarray


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a copy in double precision."""
    return np.array(tensor.numpy(), dtype=np.float64, order="C")
