"""A constant rate: what is known of a unit that does nothing."""

from __future__ import annotations

import numpy as np

from spikecdl import _validation
from spikecdl.baselines._common import PerUnit, expected, exposure
from spikecdl.data import BinnedSpikes


class ConstantRate(PerUnit):
    r"""One rate for each unit, in all its trials and bins.

    Of n spikes in N bins (a bin of M pooled trials counts M times) of d seconds,

    .. math:: \hat\rho = \frac{n + a}{(N + 2a)\, d}

    with a the ``prior``.  One half keeps the rate of a unit that was not seen to fire above zero
    (Krichevsky and Trofimov, IEEE Trans. Inf. Theory 27, 1981, doi:10.1109/TIT.1981.1056331).  A
    real-valued signal has its mean, without a prior.

    Parameters
    ----------
    prior : float
        Spikes added, in twice as many bins; 0: the maximum-likelihood rate.

    Attributes
    ----------
    rate_ : ndarray, shape (unit,)
        In Hz per recorded trial (in the unit of a real-valued signal); nan for a unit that was not
        observed, without a prior.

    Examples
    --------
    >>> from spikecdl import BinnedSpikes
    >>> counts = BinnedSpikes.from_array([[0, 1, 1, 0], [0, 2, 0, 0]], bin_size=0.5)
    >>> model = ConstantRate(prior=0.0).fit(counts)
    >>> model.rate_, model.predict(counts.pool())
    (array([1.]), array([[[1., 1., 1., 1.]]]))
    """

    def __init__(self, prior: float = 0.5) -> None:
        self.prior = prior

    def fit(self, counts: BinnedSpikes) -> ConstantRate:
        """Take the rate of each unit over all trials.

        Parameters
        ----------
        counts : BinnedSpikes

        Raises
        ------
        ValueError
            If the prior is negative.
        TypeError
            If the counts are not `BinnedSpikes`.
        """
        added = added_spikes(self.prior)
        counts = self._begin(counts)
        if not counts.is_counts:
            added = 0.0
        total = counts.counts.sum((0, 2)) + added
        exposed = exposure(counts).sum((0, 2)) + 2 * added * counts.bin_size
        self.rate_ = ratio(total, exposed)
        return self

    def predict(self, counts: BinnedSpikes) -> np.ndarray:
        """Return expected counts (trial, unit, bin) for the trials pooled in each bin.

        Raises
        ------
        ValueError
            If units or bins are not those of the fit.
        """
        return expected(self.rate_[:, None], self._known(counts))


def added_spikes(prior: float) -> float:
    """Return a number of spikes, or raise if it is negative."""
    if _validation.real("prior", prior) < 0:
        raise ValueError(f"`prior` (={prior!r}) must not be negative, in spikes")
    return float(prior)


def ratio(total: np.ndarray, exposed: np.ndarray) -> np.ndarray:
    """Return a quotient; nan where nothing was observed."""
    return np.divide(total, exposed, out=np.full(total.shape, np.nan), where=exposed > 0)
