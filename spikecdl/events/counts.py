"""What the event model asks of counts, however they are laid out in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from spikecdl.events.model import EventModel


class Expectation(NamedTuple):
    """Sums over all events that the counts may hold, weighted by their probability.

    Parameters
    ----------
    evidence : ndarray, shape (window,)
        Log likelihood, but for `Counts.constant`.
    number : ndarray, shape (template, amplitude)
        Expected events.
    starts : ndarray, shape (template, onset)
        The same by onset, or no onsets if the model has no timing.
    free : float
        Expected bins in which a chain was idle, and no event began.
    spikes, expected, curvature : ndarray, shape (template, row, bin)
        The derivative of the expected log likelihood by the templates is the first, which does not
        depend on them, less the second; and minus its second derivative.
    level_slope, level_curvature : ndarray, shape (unit, row)
        The same by the baselines.
    by_bin : tuple of ndarray (window, row, bin), optional
        Both by the predictor of each bin, where it has covariates.
    """

    evidence: np.ndarray
    number: np.ndarray
    starts: np.ndarray
    free: float
    spikes: np.ndarray
    expected: np.ndarray
    curvature: np.ndarray
    level_slope: np.ndarray
    level_curvature: np.ndarray
    by_bin: tuple[np.ndarray, np.ndarray] | None = None


class Counts(Protocol):
    """Windows of counts.  The two implementations differ in cost alone.

    ``scale`` is the typical change of the predictor, `Family.eta_scale`; ``learn_baseline`` says
    whether levels are to be fitted, from ``start`` (unit, row) on; ``integer_valued`` whether these
    are counts, and no signal.  ``unit`` (window,) is the number of the unit of each window, and
    ``constant`` (window,) what the log likelihoods of `Expectation` lack.
    """

    scale: float
    learn_baseline: bool
    integer_valued: bool
    start: np.ndarray
    unit: np.ndarray
    constant: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, rows and bins."""

    def expect(self, model: EventModel) -> Expectation:
        """Sum over the events of all windows."""

    def posterior(
        self, model: EventModel, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """Yield windows, the probabilities (window, template, amplitude, onset) of their events,
        and with a generator the signal (window, row, bin) of events drawn from the posterior.
        """

    def take(self, windows: np.ndarray) -> Counts:
        """Keep some windows."""

    def part(self, n_bins: int, length: int) -> Counts:
        """Return about so many bins, in which to search for templates of a ``length``."""

    def stretches(
        self, null: EventModel, number: int, rng: np.random.Generator, taken: np.ndarray
    ) -> np.ndarray:
        """Draw first templates (template, row, bin) from stretches that rates explain least.

        ``null`` is the model without templates; none begins where onsets (window, onset) are
        ``taken``.
        """

    def covariates_of(self, model: EventModel, found: Expectation, step: float) -> EventModel:
        """Return the model after a step of the coefficients of covariates, if there are any."""
