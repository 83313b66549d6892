"""Factors of two events that overlap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikecdl import kernels


class Factors(NamedTuple):
    """Factors of two events that overlap, as logarithms (pattern, lag, event, event).

    ``largest`` (pattern, lag) are the largest logarithms, and ``linear`` the factors relative to
    these.
    """

    log: np.ndarray
    largest: np.ndarray
    linear: np.ndarray


def relative(log: np.ndarray) -> Factors:
    """Return logarithms of factors together with their largest ones, and relative to these."""
    factors = Factors(log, np.empty(log.shape[:2]), np.empty_like(log))
    kernels.function("fill_relative")(factors)
    return factors
