"""A constant rate: what is known of a unit that does nothing."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from spikecdl import validation
from spikecdl.baselines.base import PerUnit, expected, exposure
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
    if validation.real("prior", prior) < 0:
        raise ValueError(f"`prior` (={prior!r}) must not be negative, in spikes")
    return float(prior)


def ratio(total: np.ndarray, exposed: np.ndarray) -> np.ndarray:
    """Return a quotient; nan where nothing was observed."""
    return np.divide(total, exposed, out=np.full(total.shape, np.nan), where=exposed > 0)


class PSTH(PerUnit):
    r"""Rate of each bin, over all trials: what a unit does at a time of a trial.

    .. math:: \hat\rho_t = \frac{\sum_s k_{t-s}\, n_s + a}{\sum_s k_{t-s}\, e_s + a / \bar\rho}

    where over trials n is the sum of counts and e that of exposures (seconds times pooled trials,
    0 where not observed), k a Gaussian window of sum 1, and a spikes are added at the unit's mean
    rate :math:`\bar\rho`, so that no spike is impossible.  A real-valued signal has no prior.

    Parameters
    ----------
    smoothing : float
        Standard deviation of the window, in seconds; 0: none.
    prior : float
        Spikes added to each bin.

    Attributes
    ----------
    rate_ : ndarray, shape (unit, bin)
        In Hz per recorded trial (in the unit of a real-valued signal); nan where nothing was
        observed, without a prior.

    References
    ----------
    Gerstein and Kiang, Biophysical Journal 1, 1960, doi:10.1016/S0006-3495(60)86872-5.

    Examples
    --------
    >>> from spikecdl import BinnedSpikes
    >>> counts = BinnedSpikes.from_array([[0, 1, 1, 0], [0, 2, 0, 0]], bin_size=0.5)
    >>> PSTH(prior=0.0).fit(counts).rate_
    array([[0., 3., 1., 0.]])
    """

    def __init__(self, smoothing: float = 0.0, *, prior: float = 0.5) -> None:
        self.smoothing = smoothing
        self.prior = prior

    def fit(self, counts: BinnedSpikes) -> PSTH:
        """Average over trials.

        Parameters
        ----------
        counts : BinnedSpikes
            Windows that are aligned to what repeats.

        Raises
        ------
        ValueError
            If smoothing or prior is negative.
        TypeError
            If the counts are not `BinnedSpikes`.
        """
        added = added_spikes(self.prior)
        if validation.real("smoothing", self.smoothing, "seconds") < 0:
            raise ValueError(f"`smoothing` (={self.smoothing!r}) must not be negative, in seconds")
        counts = self._begin(counts)
        self.t_start_ = counts.t_start
        total, exposed = counts.counts.sum(0).astype(float), exposure(counts).sum(0)
        if self.smoothing:
            bins = self.smoothing / counts.bin_size
            total, exposed = (
                gaussian_filter1d(value, bins, axis=-1, mode="constant")
                for value in (total, exposed)
            )
        if added and counts.is_counts:
            mean = ConstantRate().fit(counts).rate_
            total, exposed = total + added, exposed + added / mean[:, None]
        self.rate_ = ratio(total, exposed)
        return self

    def predict(self, counts: BinnedSpikes) -> np.ndarray:
        """Return expected counts (trial, unit, bin) for the trials pooled in each bin.

        Raises
        ------
        ValueError
            If units, bins or windows are not those of the fit.
        """
        counts = self._known(counts)
        n_bins = self.rate_.shape[-1]
        shift = abs(counts.t_start - self.t_start_)
        if counts.n_bins != n_bins or shift > 1e-6 * counts.bin_size:
            raise ValueError(
                f"the counts have {counts.n_bins} bins from {counts.t_start:g} s, the fit {n_bins} "
                f"from {self.t_start_:g} s; use the windows of the fit"
            )
        return expected(self.rate_, counts)
