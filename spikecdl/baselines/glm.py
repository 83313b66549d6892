"""Generalised linear models of a unit's counts: responses to a stimulus and to its own spikes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import pinvh
from scipy.signal import lfilter
from torch import Tensor

from spikecdl import validation
from spikecdl.baselines.psth import PerUnit
from spikecdl.data import BinnedSpikes
from spikecdl.evaluation.heldout import SHARED, observed
from spikecdl.model.families import Family
from spikecdl.model.history import raised_cosines
from spikecdl.training import Observations

SHAPES = ("raised_cosine", "log_cosine")


@dataclass(frozen=True)
class Basis:
    """Functions whose weighted sum is a response.

    Parameters
    ----------
    length : float
        Duration of the response in seconds, a whole number of bins.
    size : int, optional
        Number of functions, 2 or more; None: one per bin, so that any response is possible.
    shape : {"raised_cosine", "log_cosine"}
        Shape of the functions, unless there is one per bin: raised cosines, evenly spaced from the
        first to the last bin and four times as wide as their spacing; or the same in the logarithm
        of time, narrow at first, where a unit's response to its own spikes changes most (Pillow et
        al., J. Neurosci. 25, 2005, doi:10.1523/JNEUROSCI.3305-05.2005).

    Examples
    --------
    >>> Basis(0.02, size=3).functions(bin_size=0.005).round(2)
    array([[1.  , 0.5 , 0.  ],
           [0.75, 0.93, 0.25],
           [0.25, 0.93, 0.75],
           [0.  , 0.5 , 1.  ]])
    """

    length: float
    size: int | None = 8
    shape: str = "raised_cosine"

    def __post_init__(self) -> None:
        """Check what does not depend on bins."""
        validation.positive("length", self.length, "seconds")
        validation.one_of("shape", self.shape, SHAPES)
        if self.size is not None:
            validation.integer("size", self.size, minimum=2)

    def functions(self, bin_size: float) -> np.ndarray:
        """Return the functions, shape (bin, function).

        Raises ValueError if the length is not a whole number of bins, or too short for them.
        """
        n_bins = validation.whole_bins("length", self.length, bin_size)
        if self.size is None:
            return np.eye(n_bins)
        if self.size > n_bins:
            raise ValueError(
                f"`size` (={self.size}) must be at most the {n_bins} bins of `length` "
                f"(={self.length:g} s); use fewer functions or smaller bins"
            )
        bins = torch.arange(n_bins, dtype=torch.float64)
        time = bins.log1p() if self.shape == "log_cosine" else bins
        return raised_cosines(time, float(time[-1]), self.size).numpy().T


Stimulus = Callable[[BinnedSpikes], np.ndarray]


def onsets(times: Any) -> Stimulus:
    """Make a stimulus of onsets at the same times in each trial.

    The stimulus is the number of onsets in each bin of the counts for which it is called; it raises
    ValueError if one lies outside their windows.

    Parameters
    ----------
    times : array_like, shape (onset,)
        Finite, in seconds from the time to which trials are aligned.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array([[0, 1, 1, 0]], bin_size=0.5)
    >>> onsets([0.5, 1.5])(counts)
    array([[[[0., 1., 0., 1.]]]])
    """
    when = np.atleast_1d(np.asarray(times, dtype=float))
    if when.ndim != 1 or not np.isfinite(when).all():
        raise ValueError("`times` must be finite numbers of shape (onset,), in seconds")

    def stimulus(counts: BinnedSpikes) -> np.ndarray:
        bins = _bins(when - counts.t_start, counts)
        outside = (bins < 0) | (bins >= counts.n_bins)
        if outside.any():
            raise ValueError(
                f"`times` (={when[outside][0]:g} s among them) must lie in the windows of the "
                f"counts, from {counts.t_start:g} to {counts.t_start + counts.duration:g} s"
            )
        return np.bincount(bins, minlength=counts.n_bins).astype(float)[None, None, None]

    return stimulus


def true_onsets(counts: BinnedSpikes) -> np.ndarray:
    """Return the events of simulated counts as a stimulus, with one signal per template.

    The value at an onset is the amplitude of the event over the mean amplitude of its template.
    Raises ValueError if the counts were not simulated in the shared layout.

    Examples
    --------
    >>> from spikecdl.simulate import simulate
    >>> counts = simulate("poisson", ["vee"], n_trials=4, n_units=2, n_events=3, random_state=0)
    >>> true_onsets(counts).shape, int((true_onsets(counts) > 0).sum())
    ((1, 4, 2, 2000), 24)
    """
    truth = counts.truth
    if truth is None or truth.layout != "shared":
        raise ValueError(
            "`counts` hold no truth of the shared layout; simulate them, or give the times to "
            "`onsets`"
        )
    events = truth.events
    template, trial, unit = (events[name] for name in ("template", "trial", "unit"))
    typical = events.groupby("template")["amplitude"].mean()
    signal = np.zeros((len(truth.templates), *counts.shape))
    at = (template, trial, unit, _bins(events["time"], counts))
    np.add.at(signal, at, events["amplitude"] / template.map(typical))
    return signal


def _bins(seconds: Any, counts: BinnedSpikes) -> np.ndarray:
    """Return the bins of times from the start of the window, which may lie 1e-6 bin too early."""
    return np.floor(np.asarray(seconds) / counts.bin_size + 1e-6).astype(int)


def sampled(values: Any, counts: BinnedSpikes) -> np.ndarray:
    """Return a stimulus of counts, (signal, trial, unit, bin), from a `Stimulus` or (..., bin)."""
    if callable(values):
        signal = values(counts)
    else:
        signal = np.asarray(values, dtype=float)
        if not signal.ndim or not np.isfinite(signal).all():
            raise ValueError("`stimulus` must hold a finite number for each bin, or be a function")
        signal = signal.reshape((1,) * (4 - signal.ndim) + signal.shape)
    shape = (len(signal), *counts.shape)
    return validation.broadcast(
        "stimulus", signal, shape, "broadcast to (signal, trial, unit, bin) ="
    )


@dataclass(eq=False, repr=False)
class GLM(PerUnit):
    r"""Counts of a unit given a stimulus and its own past: a generalised linear model.

    .. math:: y_t \sim \mathrm{family}(\eta_t), \qquad \eta_t = \beta_0
              + \sum_i \sum_{k \ge 0} s_i[t - k]\, f_i[k] + \sum_{k \ge 1} y_{t-k}\, g[k]

    for each unit, over all trials.  The responses f, one for each signal of the stimulus, and g are
    weighted sums of the functions of a `Basis`; the weights minimise the negative log likelihood
    plus :math:`\rho / 2` times their sum of squares (the intercept is not penalised).

    With known `onsets` and ``Basis(length, size=None)``, f is the average response to a cycle; with
    `true_onsets` the GLM is given what `DCEA` has to find.

    Parameters
    ----------
    family : str or Family
        As for `DCEA`.
    stimulus : function or array_like, optional
        `onsets`, `true_onsets`, or another function of counts (see `Stimulus`);
        or a signal with a value per bin, of shape (bin,), (trial, unit, bin) or
        (signal, trial, unit, bin).
    response : Basis
        Of f, starting at the bin of the stimulus.
    history : Basis, optional
        Of g, starting at the next bin; None: no history.  Needs counts of single trials.  Bins
        whose past was not wholly observed, such as the first of a window, are left out of the fit;
        for a prediction the unobserved past counts as silent.
    ridge : float
        :math:`\rho`.

    Attributes
    ----------
    intercept_ : ndarray, shape (unit,)
        Linear predictor without stimulus and history, for the trials pooled in the fit.
    coef_ : ndarray, shape (unit, coefficient)
        Weights of the basis functions: those of each signal's response, then those of history.
    response_ : ndarray, shape (unit, signal, bin)
        f, in units of the linear predictor.
    history_response_ : ndarray, shape (unit, bin)
        g; has no bins without history.
    converged_ : bool

    References
    ----------
    Truccolo et al., J. Neurophysiol. 93, 2005, doi:10.1152/jn.00697.2004.

    Examples
    --------
    >>> from spikecdl.baselines import onsets
    >>> spikes = np.random.default_rng(0).random((50, 100)) < 0.1
    >>> spikes[:, 40:44] = True
    >>> counts = BinnedSpikes.from_array(spikes, bin_size=0.01)
    >>> model = GLM("binomial", stimulus=onsets([0.4]), response=Basis(0.06, size=None), ridge=1.0)
    >>> model.fit(counts).response_.round(1)
    array([[[ 4.4,  4.4,  4.4,  4.4,  0.2, -0.1]]])
    """

    family: str | Family = "binomial"
    _: KW_ONLY
    stimulus: Callable[[BinnedSpikes], np.ndarray] | Any = None
    response: Basis = Basis(length=0.1)
    history: Basis | None = None
    ridge: float = 0.0

    def _fit(self, counts: BinnedSpikes) -> None:
        validation.non_negative("ridge", self.ridge)
        data, covariates = observed(counts, self.family), self._covariates(counts)
        usable = counts.mask
        if self.history is not None:  # bins that follow as many observed bins as it needs
            length = len(self.history.functions(counts.bin_size))
            n_seen = lfilter(np.r_[0, np.ones(length)], 1, usable.astype(float))
            usable = usable & (n_seen > length - 0.5)
        if not usable.any((0, 2)).all():
            unit = counts.unit_ids[int(usable.any((0, 2)).argmin())]
            raise ValueError(f"unit {unit!r} has no observed bin whose past is known; leave it out")
        self._pooling = _pooling(counts, data)
        found = [self._fit_unit(u, usable[:, u], data, covariates) for u in range(counts.n_units)]
        weights = np.stack([coefficients for coefficients, _ in found])
        self.intercept_, self.coef_ = weights[:, 0], weights[:, 1:]
        functions, rest = self.response.functions(counts.bin_size), self.coef_
        self.history_response_ = np.zeros((counts.n_units, 0))
        if self.history is not None:
            own = self.history.functions(counts.bin_size)
            rest, past = np.split(rest, [-own.shape[1]], axis=1)
            self.history_response_ = past @ own.T
        size = functions.shape[1]
        self.response_ = rest.reshape(counts.n_units, rest.shape[1] // size, size) @ functions.T
        self.converged_ = all(converged for _, converged in found)
        if not self.converged_:
            warnings.warn("the fit did not converge in 100 steps; raise `ridge`", stacklevel=3)

    def _predict(self, counts: BinnedSpikes) -> np.ndarray:
        data, covariates = observed(counts, self.family), self._covariates(counts)
        eta = self.intercept_[:, None] + np.einsum("tubj,uj->tub", covariates, self.coef_)
        mean = SHARED.squeeze(data.family.mean(torch.from_numpy(SHARED.expand(eta))))
        return mean * (_pooling(counts, data) / self._pooling)[:, None]

    def _fit_unit(
        self, unit: int, usable: np.ndarray, data: Observations, covariates: np.ndarray
    ) -> tuple[np.ndarray, bool]:
        """Return the coefficients from the usable bins (trial, bin) of a unit, as `irls` does."""
        seen = torch.from_numpy(usable)
        family = data.family.map(lambda values: values[:, unit, 0][seen])
        y, rows = data.y[:, unit, 0][seen], covariates[:, unit][usable]
        design = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
        ridge = np.array([0.0] + [self.ridge] * rows.shape[1])
        return irls(family, y, design, float(data.baseline[:, unit].mean()), ridge)

    def _covariates(self, counts: BinnedSpikes) -> np.ndarray:
        """Return the covariates, (trial, unit, bin, coefficient)."""
        parts = [np.zeros((*counts.shape, 0))]
        if self.stimulus is not None:
            functions = self.response.functions(counts.bin_size)
            signals = sampled(self.stimulus, counts)
            parts += [_filtered(signal, functions) for signal in signals]
        if self.history is not None:
            if counts.n_pooled.max() > 1:
                raise ValueError(
                    f"`history` (={self.history!r}) needs counts of single trials, and these pool "
                    f"up to {counts.n_pooled.max()}; do not pool them, or leave history out"
                )
            later = np.pad(self.history.functions(counts.bin_size), [(1, 0), (0, 0)])
            parts.append(_filtered(counts.counts, later))
        return np.concatenate(parts, axis=-1)


def _filtered(signal: np.ndarray, functions: np.ndarray) -> np.ndarray:
    """Convolve a signal (..., bin) with causal functions (bin, function): (..., bin, function)."""
    filtered = [lfilter(function, 1, signal.astype(float)) for function in functions.T]
    return np.stack(filtered, axis=-1)


def _pooling(counts: BinnedSpikes, data: Observations) -> np.ndarray:
    """Return the number of pooled trials per trial of the family, for each unit.

    It is 1 for a family that counts Bernoulli trials, and ``n_pooled`` for others.
    """
    known = SHARED.squeeze(data.family.exposure(data.y))
    pooled = counts.n_pooled / known.clip(min=1)
    most = np.where(counts.mask, pooled, 0).max((0, 2))
    unequal = most > (1 + 1e-9) * np.where(counts.mask, pooled, np.inf).min((0, 2))
    if unequal.any():
        raise ValueError(
            f"`family` (={data.family.name}) has its own number of Bernoulli trials in some bins "
            f"of unit {counts.unit_ids[int(unequal.argmax())]!r}; give numbers that differ as "
            "`n_pooled` of the counts"
        )
    return most


def irls(
    family: Family, y: Tensor, design: np.ndarray, intercept: float, ridge: np.ndarray
) -> tuple[np.ndarray, bool]:
    r"""Minimise the cost with a ridge by iteratively reweighted least squares (Newton steps).

    .. math:: \min_b \; -\log p(y \mid Xb) + \tfrac12 \sum_j \rho_j b_j^2

    With the family's residual r and curvature w, a step d solves
    :math:`(X^\top W X + R)\, d = X^\top r - R b`.  It is halved while the objective grows.  For
    dependent columns, the step of least norm is taken, with each coefficient in units of its own
    curvature.  The fit ends, after at most 100 steps, when a step is expected to lower the
    objective by less than 1e-10 of it: Newton steps square the error.

    X, the ``design``, is (observation, coefficient) with a first column of ones, whose coefficient
    starts from ``intercept``, the others from 0; y is (observation,), in double precision, and the
    ``ridge`` :math:`\rho` (coefficient,).  Returns the coefficients, and whether they converged.
    """
    b = np.zeros(design.shape[1])
    b[0] = intercept

    def objective(b: np.ndarray) -> float:
        cost = family.cost(y, torch.from_numpy(design @ b)).sum()
        return float(cost) + float(ridge @ b**2) / 2

    now = objective(b)
    for _ in range(100):
        eta = torch.from_numpy(design @ b)
        gradient = design.T @ family.residual(y, eta).numpy() - ridge * b
        weight = family.curvature(y, eta).numpy()
        gram = design.T @ (weight[:, None] * design) + np.diag(ridge)
        unit = 1 / np.sqrt(np.diag(gram).clip(min=np.finfo(float).tiny))
        inverse = pinvh(gram * unit * unit[:, None], rtol=1e-13 * len(b))
        step = unit * (inverse @ (unit * gradient))
        expected = float(gradient @ step) / 2
        for _ in range(30):
            then = objective(b + step)
            if then <= now + 1e-12 * abs(now):
                break
            step /= 2
        b, now = b + step, then
        if expected <= 1e-10 * (1 + abs(now)):
            return b, True
    return b, False
