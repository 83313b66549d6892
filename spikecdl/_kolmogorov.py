"""Law of the Kolmogorov-Smirnov distance of n values: scipy's exact one, quick where n is large.

Above `_FEW` values the limit law is taken with Vrbik's correction: with z = sqrt(n) times the
distance, of z + 1 / (6 sqrt(n)) + (z - 1) / (4 n). Probabilities are right to 2e-4 there.

References
----------
Vrbik 2018, Small-sample corrections to Kolmogorov-Smirnov test statistic, Pioneer J. Theor. Appl.
Stat. 15, 15-23.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.stats import kstwo, kstwobign

_FEW = 100


def distance(values: np.ndarray) -> float:
    """Largest distance of the distribution of values from the uniform one; nan without values."""
    number = len(values)
    if not number:
        return math.nan
    ordered, steps = np.sort(values), np.arange(number + 1) / number
    return float(max((ordered - steps[:-1]).max(), (steps[1:] - ordered).max()))


def exceeded_by(distance: float, number: int) -> float:
    """Probability that uniform values, so many, have that distance or a larger one."""
    if number <= _FEW:
        return float(kstwo.sf(distance, max(number, 1)))  # nan stays nan
    z = math.sqrt(number) * distance
    return float(kstwobign.sf(z + 1 / (6 * math.sqrt(number)) + (z - 1) / (4 * number)))


@lru_cache(maxsize=1 << 16)
def limit(level: float, number: int) -> float:
    """Distance that uniform values, so many, exceed with that probability; nan of none."""
    if number <= _FEW:
        return float(kstwo.isf(level, number)) if number else math.nan
    z = float(kstwobign.isf(level)) - 1 / (6 * math.sqrt(number)) + 1 / (4 * number)
    return z / (1 + 1 / (4 * number)) / math.sqrt(number)
