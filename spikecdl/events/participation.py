"""Which units take part in the events of joint templates, when, and how strongly.

A row is normal a posteriori, with precision P + H: that of its prior, see `spikecdl.events.prior`,
and what the counts say of each bin, H, which is diagonal and follows from the variances.  Whether a
unit takes part has the odds

.. math:: \\frac{\\pi}{1 - \\pi} e^{\\Delta},

where the gain is the evidence of its row over that without it, in nats, and the fraction of units
that do is the most likely one.  A row that the fit has set to zero has no part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import solveh_banded
from scipy.special import expit, logit
from scipy.stats import norm

from spikecdl.data.results import q_values
from spikecdl.events.model import EventModel
from spikecdl.events.prior import second_differences


def participation(
    model: EventModel, template: int, level: float, is_log: bool, rng: np.random.Generator
) -> dict[str, Any]:
    """Return columns about the rows of a template: times in bins, changes of the predictor.

    Intervals hold with a probability of ``level``.  The predictor ``is_log`` if it is that of a
    rate, of which then the largest change is meant.
    """

    def largest(change: np.ndarray) -> np.ndarray:
        return np.abs(np.expm1(change) if is_log else change).argmax(1)

    rates = model.rates[template]
    size = rates @ model.amplitudes[template] / rates.sum()  # of the mean event
    rows, variance = size * model.templates[template], size**2 * model.variance[template]
    here = np.arange(len(rows))
    peak = largest(rows)
    edges = np.full((len(rows), 2), np.nan)
    tails = np.array([0.5 - level / 2, 0.5 + level / 2])
    known = variance.min(1) > 0
    for row in np.flatnonzero(known):
        prior = (model.shrinkage[template, row] / size**2, model.smoothness[template])
        covariance = _covariance(variance[row], *prior)
        drawn = rng.multivariate_normal(rows[row], covariance, 400, method="eigh")
        edges[row] = np.quantile(largest(drawn), tails, method="nearest")
    change, error = rows[here, peak], np.sqrt(variance[here, peak])
    probability = _probability(model.gain[template], known)
    return {
        "time": np.where(known, peak, np.nan),
        "time_lower": edges[:, 0],
        "time_upper": edges[:, 1],
        "change": change,
        "change_lower": change + norm.ppf(tails[0]) * error,
        "change_upper": change + norm.ppf(tails[1]) * error,
        "gain": model.gain[template],
        "probability": probability,
        "q_value": q_values(probability),
    }


def _covariance(
    variance: np.ndarray, shrinkage: float, smoothness: float, steps: int = 20
) -> np.ndarray:
    """Return the covariance of a row with these variances: the precision of counts is diagonal."""
    bands = shrinkage * smoothness * second_differences(len(variance))
    bands[0] += shrinkage
    known, unit = np.zeros(len(variance)), np.eye(len(variance))
    for _ in range(steps):
        covariance = solveh_banded(np.vstack([bands[:1] + known, bands[1:]]), unit, lower=True)
        known = np.maximum(known + 1 / variance - 1 / np.diag(covariance), 0.0)
    return (covariance + covariance.T) / 2


def _probability(gain: np.ndarray, known: np.ndarray, steps: int = 100) -> np.ndarray:
    """Return the probability that each row is not zero, with the most likely fraction that are.

    That of rows that are zero in the model, as no precision of their prior makes them likely, is 0.
    """
    fraction, least = 0.5, 1 / (2 * len(gain))
    for _ in range(steps):
        probability = np.where(known, expit(gain + logit(fraction)), 0.0)
        fraction = float(np.clip(probability.mean(), least, 1 - least))
    return probability
