"""The peri-stimulus time histogram: the mean over trials that repeat."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from spikecdl import _validation
from spikecdl.baselines._common import PerUnit, expected, exposure
from spikecdl.baselines.constant import ConstantRate, added_spikes, ratio
from spikecdl.data import BinnedSpikes


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
        if _validation.real("smoothing", self.smoothing, "seconds") < 0:
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
