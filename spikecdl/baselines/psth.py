"""Models of each unit's rate that ignore what single trials show: constant rate, PSTH."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar

import numpy as np
from scipy.ndimage import gaussian_filter1d
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from spikecdl import conversion, validation
from spikecdl.data import BinnedSpikes, inputs

Self = TypeVar("Self", bound="PerUnit")


def binned(counts: Any) -> BinnedSpikes:
    """Return the counts, or raise if they are not `BinnedSpikes`."""
    if not isinstance(counts, BinnedSpikes):
        raise TypeError(
            f"`counts` (a {type(counts).__name__}) must be BinnedSpikes; make them from an array "
            "with spikecdl.BinnedSpikes.from_array"
        )
    return counts


class PerUnit(BaseEstimator, ABC):
    """Base of models with parameters for each unit, the same in every trial."""

    unit_ids_: tuple[int | str, ...]
    bin_size_: float

    def fit(self: Self, counts: BinnedSpikes) -> Self:
        """Fit the model; ValueError if a setting is out of range or does not fit the counts."""
        counts = binned(counts)
        self._fit(counts)
        self.unit_ids_, self.bin_size_ = counts.unit_ids, counts.bin_size
        return self

    def predict(self, counts: BinnedSpikes) -> np.ndarray:
        """Return expected counts (trial, unit, bin) for the trials pooled in each bin.

        Raises ValueError if units, bins or windows are not those of the fit.
        """
        check_is_fitted(self)
        counts = binned(counts)
        if counts.unit_ids != self.unit_ids_:
            raise ValueError(
                f"the counts have the units {counts.unit_ids}, the fit {self.unit_ids_}; select "
                "the units of the fit, in their order"
            )
        inputs.check_like_fit(counts, self.bin_size_, 1, None)
        return self._predict(counts)

    @abstractmethod
    def _fit(self, counts: BinnedSpikes) -> None:
        """Set the fitted attributes."""

    @abstractmethod
    def _predict(self, counts: BinnedSpikes) -> np.ndarray:
        """Return expected counts for counts like those of the fit."""


@dataclass(eq=False, repr=False)
class ConstantRate(PerUnit):
    r"""One rate for each unit, in all its trials and bins.

    For n spikes in N bins of d seconds, where a bin of M pooled trials counts M times,

    .. math:: \hat\rho = \frac{n + a}{(N + 2a)\, d}

    with the ``prior`` a.  With a = 1/2 the rate of a silent unit stays above zero (Krichevsky and
    Trofimov, IEEE Trans. Inf. Theory 27, 1981, doi:10.1109/TIT.1981.1056331).  For a real-valued
    signal it is the mean, without a prior.

    Parameters
    ----------
    prior : float
        Spikes added, in twice as many bins; 0: the maximum-likelihood rate.

    Attributes
    ----------
    rate_ : ndarray, shape (unit,)
        In Hz per recorded trial (in the unit of a real-valued signal); nan for an unobserved unit
        without a prior.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array([[0, 1, 1, 0], [0, 2, 0, 0]], bin_size=0.5)
    >>> model = ConstantRate(prior=0.0).fit(counts)
    >>> model.rate_, model.predict(counts.pool())
    (array([1.]), array([[[1., 1., 1., 1.]]]))
    """

    prior: float = 0.5

    def _fit(self, counts: BinnedSpikes) -> None:
        added = _added_spikes(self.prior, counts)
        total = counts.counts.sum((0, 2)) + added
        exposed = (counts.n_pooled * _seconds(counts)).sum((0, 2)) + 2 * added * counts.bin_size
        self.rate_ = _ratio(total, exposed)

    def _predict(self, counts: BinnedSpikes) -> np.ndarray:
        return _expected(self.rate_[:, None], counts)


@dataclass(eq=False, repr=False)
class PSTH(PerUnit):
    r"""Rate of each bin, averaged over trials that are aligned to a repeated event.

    .. math:: \hat\rho_t = \frac{\sum_s k_{t-s}\, n_s + a}{\sum_s k_{t-s}\, e_s + a / \bar\rho}

    with the counts n and exposures e (observed seconds times pooled trials) summed over trials, a
    Gaussian window k of sum 1, and a spikes added at the unit's mean rate :math:`\bar\rho`, so that
    no rate is zero.  A real-valued signal has no prior.

    Parameters
    ----------
    smoothing : float
        Standard deviation of the window, in seconds; 0: none.
    prior : float
        Spikes added to each bin.

    Attributes
    ----------
    rate_ : ndarray, shape (unit, bin)
        In Hz per recorded trial (in the unit of a real-valued signal); nan in unobserved bins
        without a prior.

    References
    ----------
    Gerstein and Kiang, Biophysical Journal 1, 1960, doi:10.1016/S0006-3495(60)86872-5.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array([[0, 1, 1, 0], [0, 2, 0, 0]], bin_size=0.5)
    >>> PSTH(prior=0.0).fit(counts).rate_
    array([[0., 3., 1., 0.]])
    """

    smoothing: float = 0.0
    _: KW_ONLY
    prior: float = 0.5

    def _fit(self, counts: BinnedSpikes) -> None:
        added = _added_spikes(self.prior, counts)
        bins = validation.non_negative("smoothing", self.smoothing, "seconds") / counts.bin_size
        exposed = (counts.n_pooled * _seconds(counts)).sum(0)
        both = np.stack([counts.counts.sum(0), exposed])
        if bins:
            both = gaussian_filter1d(both, bins, axis=-1, mode="constant")
        total, exposed = both
        if added:
            mean = ConstantRate().fit(counts).rate_
            total, exposed = total + added, exposed + added / mean[:, None]
        self.t_start_, self.rate_ = counts.t_start, _ratio(total, exposed)

    def _predict(self, counts: BinnedSpikes) -> np.ndarray:
        n_bins = self.rate_.shape[-1]
        shift = abs(counts.t_start - self.t_start_)
        if counts.n_bins != n_bins or shift > 1e-6 * counts.bin_size:
            raise ValueError(
                f"the counts have {counts.n_bins} bins from {counts.t_start:g} s, the fit {n_bins} "
                f"from {self.t_start_:g} s; use the windows of the fit"
            )
        return _expected(self.rate_, counts)


def _added_spikes(prior: float, counts: BinnedSpikes) -> float:
    """Return the prior in spikes, 0 for a real-valued signal; ValueError if it is negative."""
    return validation.non_negative("prior", prior, "spikes") * counts.is_counts


def _seconds(counts: BinnedSpikes) -> float:
    """Return the seconds of a bin; 1 for a real-valued signal."""
    return counts.bin_size if counts.is_counts else 1.0


def _expected(rate: np.ndarray, counts: BinnedSpikes) -> np.ndarray:
    """Return expected counts at a rate, including those of unobserved bins."""
    return rate * conversion.trials_everywhere(counts) * _seconds(counts)


def _ratio(total: np.ndarray, exposed: np.ndarray) -> np.ndarray:
    """Return the quotient; nan without exposure."""
    return np.divide(total, exposed, out=np.full(total.shape, np.nan), where=exposed > 0)
