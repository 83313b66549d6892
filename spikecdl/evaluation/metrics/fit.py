"""Fitted rates against counts, and denoised images against clean ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlogy

from spikecdl import validation

if TYPE_CHECKING:
    from spikecdl.model.families import Family


def deviance(
    y: ArrayLike,
    mean: ArrayLike,
    family: Family,
    mask: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> float | np.ndarray:
    """Twice the log likelihood lost against a model that expects every observation as it came.

    Parameters
    ----------
    y : array_like
        Observations, usually (trial, unit, bin).
    mean : array_like, broadcastable to ``y``
        Expected observations, in the unit of ``y``.
    family : Family
        Observation model; parameters that are tensors must broadcast to ``y``.
    mask : array_like of bool, broadcastable to ``y``, optional
        False where nothing was observed; those entries are ignored.
    axis : int or tuple of int, optional
        Axes to sum over, None for all: ``axis=(0, 2)`` gives one value per unit.

    Returns
    -------
    float or ndarray
        A float for ``axis=None``. Infinite where something happened that the model calls
        impossible.

    Raises
    ------
    ValueError
        If shapes do not broadcast, observed entries are not finite, or the family cannot have an
        expected observation.

    Examples
    --------
    >>> from spikecdl.model.families import Gaussian
    >>> deviance([1.0, 2.0], [1.0, 4.0], Gaussian(scale=2.0))
    1.0
    """
    values, (means,), observed = _observations(y, mask, mean=mean)
    lost = np.where(observed, _deviance(family, values, means), 0)
    impossible = np.isnan(lost)
    if impossible.any():
        raise ValueError(
            f"`mean` (={means[impossible][0]:g}) is outside what {type(family).__name__} can expect"
        )
    total = lost.sum(axis=axis)
    return float(total) if axis is None else total


def deviance_explained(
    y: ArrayLike,
    mean: ArrayLike,
    null_mean: ArrayLike,
    family: Family,
    mask: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> float | np.ndarray:
    """Part of the null model's deviance that a model explains: 1 - D(y, mean) / D(y, null_mean).

    1 is a model that predicts every observation, 0 one that is no better than the null model (most
    often a constant rate), negative one that is worse. Spiking noise keeps it far below 1 in small
    bins. For the Gaussian family it is the coefficient of determination.

    Parameters
    ----------
    y : array_like
        Observations, usually (trial, unit, bin).
    mean, null_mean : array_like, broadcastable to ``y``
        Expected observations under the model and under the null model, in the unit of ``y``.
    family : Family
        Observation model; parameters that are tensors must broadcast to ``y``.
    mask : array_like of bool, broadcastable to ``y``, optional
        False where nothing was observed; those entries are ignored.
    axis : int or tuple of int, optional
        Axes to sum over, None for all: ``axis=(0, 2)`` gives one value per unit.

    Returns
    -------
    float or ndarray
        A float for ``axis=None``. nan where the null model leaves nothing to explain (a silent
        unit, or nothing observed).

    Raises
    ------
    ValueError
        If shapes do not broadcast, or observed entries are not finite.

    References
    ----------
    Cameron and Windmeijer 1997, doi:10.1016/S0304-4076(96)01818-0.

    Examples
    --------
    >>> from spikecdl.model.families import Poisson
    >>> y = np.array([0, 1, 0, 4, 5, 2])
    >>> model = np.array([0.5, 0.5, 0.5, 4.0, 4.0, 2.5])
    >>> round(deviance_explained(y, model, y.mean(), Poisson()), 2)
    0.8
    """
    values, (means, null), observed = _observations(y, mask, mean=mean, null_mean=null_mean)
    left, total = (np.asarray(deviance(values, m, family, observed, axis)) for m in (means, null))
    with np.errstate(invalid="ignore", divide="ignore"):
        explained = np.where(total > 0, 1 - left / total, np.nan)
    return float(explained) if axis is None else explained


def bits_per_spike(
    y: ArrayLike,
    mean: ArrayLike,
    null_mean: ArrayLike,
    mask: ArrayLike | None = None,
    n_trials: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> float | np.ndarray:
    r"""Log likelihood gained over a null model, in bits for each spike.

    For binomial counts y out of M trials, with expected counts mu and mu_0,

    .. math:: \frac{1}{\log 2 \, \sum y}
        \sum \left[ y \log \frac{\mu}{\mu_0} + (M - y) \log \frac{M - \mu}{M - \mu_0} \right];

    for Poisson counts the second term is :math:`\mu_0 - \mu`.

    Parameters
    ----------
    y : array_like
        Counts, usually (trial, unit, bin).
    mean, null_mean : array_like, broadcastable to ``y``
        Expected counts under the model and under the null model.
    mask : array_like of bool, broadcastable to ``y``, optional
        False where nothing was observed; those entries are ignored.
    n_trials : array_like, broadcastable to ``y``, optional
        Bernoulli trials per bin of binomial counts. None: Poisson counts.
    axis : int or tuple of int, optional
        Axes to sum over, None for all: ``axis=(0, 2)`` gives one value per unit.

    Returns
    -------
    float or ndarray
        A float for ``axis=None``. nan where there is no spike; minus infinity where the model calls
        something impossible that happened.

    Raises
    ------
    ValueError
        If shapes do not broadcast, or observed entries are not finite.

    References
    ----------
    Pillow et al. 2008, doi:10.1038/nature07140.

    Examples
    --------
    >>> y = np.array([0, 0, 4, 4])
    >>> round(bits_per_spike(y, mean=[0, 0, 4, 4], null_mean=2.0), 3)
    1.0
    """
    values, (means, null), observed = _observations(y, mask, mean=mean, null_mean=null_mean)
    gain = _log_ratio(values, means, null)
    if n_trials is None:
        gain = gain + null - means
    else:
        total = np.where(observed, _broadcast("n_trials", n_trials, values), 0)
        gain = gain + _log_ratio(total - values, total - means, total - null)
    spikes = values.sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        bits = np.where(spikes > 0, gain.sum(axis=axis) / spikes / np.log(2), np.nan)
    return float(bits) if axis is None else bits


def psnr(estimate: ArrayLike, clean: ArrayLike, peak: float | None = None) -> float:
    r"""Peak signal-to-noise ratio in dB: :math:`10 \log_{10}(peak^2 / MSE)`.

    Parameters
    ----------
    estimate, clean : array_like, same shape
        Estimated and true image (or signal).
    peak : float, optional
        Largest possible value. None: the largest value of ``clean``, the custom in Poisson
        denoising.

    Returns
    -------
    float
        Infinite where both are equal.

    Raises
    ------
    ValueError
        If shapes differ, values are not finite, or the peak is not positive.

    Examples
    --------
    >>> round(psnr([[0.0, 9.0]], [[0.0, 10.0]]), 2)
    23.01
    """
    guess, target = np.asarray(estimate, dtype=float), np.asarray(clean, dtype=float)
    if guess.shape != target.shape or target.size == 0:
        raise ValueError(
            f"`estimate` (shape {guess.shape}) must have the shape of `clean` {target.shape}, "
            "and some values"
        )
    error = float(np.mean((guess - target) ** 2))
    if not np.isfinite(error):
        raise ValueError("`estimate` and `clean` must be finite")
    top = validation.positive("peak", float(target.max()) if peak is None else peak)
    return float(10 * np.log10(top**2 / error)) if error > 0 else float("inf")


def rate_gain(change: ArrayLike, mean: ArrayLike, family: Family) -> np.ndarray:
    """Turn a change of eta into the factor by which the expected count changes.

    It is the exponential of the change for a log link; for log odds it levels off where the
    probability nears 1.

    Parameters
    ----------
    change : array_like
        Change of the linear predictor.
    mean : array_like, broadcastable to ``change``
        Expected count before the change; a probability for `Binomial` without ``n_trials``.
    family : Family
        Observation model of counts.

    Returns
    -------
    ndarray
        Expected count over ``mean``; nan where the family cannot have that mean.

    Examples
    --------
    >>> from spikecdl.model.families import Binomial, Poisson
    >>> rate_gain([0.0, np.log(3)], 0.5, Poisson()).round(3)
    array([1., 3.])
    >>> rate_gain([0.0, np.log(3)], 0.5, Binomial()).round(3)
    array([1. , 1.5])
    """
    import torch

    before = torch.as_tensor(mean, dtype=torch.float64)
    family = family.resolve(torch.ones_like(before))
    eta = family.link(before) + torch.as_tensor(np.asarray(change), dtype=torch.float64)
    return (family.mean(eta) / before).numpy()


def _observations(
    y: ArrayLike, mask: ArrayLike | None, **expected: ArrayLike
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Observations, what was expected, and the mask, in one shape; 0 where nothing was observed."""
    values = np.asarray(y, dtype=float)
    observed = _broadcast("mask", True if mask is None else mask, values).astype(bool)
    arrays = []
    for name, array in (("y", values), *expected.items()):
        full = _broadcast(name, array, values)
        if not np.isfinite(full[observed]).all():
            raise ValueError(f"`{name}` must be finite wherever something was observed")
        arrays.append(np.where(observed, full, 0))
    return arrays[0], arrays[1:], observed


def _broadcast(name: str, array: ArrayLike, like: np.ndarray) -> np.ndarray:
    try:
        return np.broadcast_to(np.asarray(array, dtype=float), like.shape)
    except ValueError:
        raise ValueError(
            f"`{name}` (shape {np.shape(array)}) must broadcast to `y` (shape {like.shape})"
        ) from None


def _deviance(family: Family, y: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Deviance of each observation; 0 by definition where it equals its mean."""
    import torch

    eta = family.link(torch.as_tensor(mean, dtype=torch.float64))
    deviance = family.deviance(torch.as_tensor(y, dtype=torch.float64), eta).numpy()
    return np.where(y == mean, 0, deviance)


def _log_ratio(count: np.ndarray, mean: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Weighted log ratio ``count log(mean / null)``; 0 where the count is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count == 0, 0, xlogy(count, mean) - xlogy(count, null))
