"""`DCEA`: the model as a scikit-learn estimator over counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from spikecdl import config, conversion, progress, suggestions, training, validation
from spikecdl.checkpoint import checkpointing, restored, write_model
from spikecdl.config import Settings
from spikecdl.data import BinnedSpikes, Decomposition, inputs
from spikecdl.evaluation import checks, deviance
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import FAMILIES, Family
from spikecdl.model.history import History
from spikecdl.model.penalties import Penalty
from spikecdl.solvers import parallel
from spikecdl.solvers.events import Events
from spikecdl.training import Learned, Problem, Trainer


class DCEA(training.LearnedAttributes, inputs.CodesAsTable, TransformerMixin, BaseEstimator):
    r"""Learn templates from counts: convolutional dictionary learning for exponential families.

    Counts of a window follow a family whose linear predictor is a baseline and a sparse sum of
    shifted templates,

    .. math:: y_t \sim \mathrm{family}(\eta_t), \qquad
              \eta = \mu + \sum_c h_c * x_c, \qquad \|h_c\|_2 = 1

    and codes x with few non-zero entries, each an event that begins in that bin.  In single trials
    the linear predictor may also depend on the unit's past spikes and drift slowly.

    Parameters
    ----------
    n_templates : int
        Number of templates.
    template_length : float
        Length of a template in the unit of ``bin_size``: seconds for `BinnedSpikes`, bins for
        plain arrays unless ``bin_size`` is given.  A whole number of bins.
    family : str or Family
        Observation model: "binomial", "poisson", "gaussian", "negative_binomial", or an object
        such as ``spikecdl.Binomial(n_trials=30)``.
    layout : {"shared", "joint"}
        Shared: one waveform for all units, a code per unit.  Joint: units are the channels of
        templates, a code per trial.
    penalty : str or Penalty
        "l1", "group_l1" (units that fire together), or such as ``spikecdl.L1(sign="both")``.
    penalty_weight : float, optional
        Weight as a fraction of lambda_max, above which all codes are zero.  None: the universal
        threshold, times the level (1 or lower) that predicts held-out bins best.
    baseline : "learned", (start, stop), or array_like
        Rate without events: learned with the codes per unit and window, estimated from the bins
        between two times of each window, or given in Hz, (unit,) or (trial, unit).
    history : "auto", float, History or None
        How far back in its window a unit's own spikes change its rate, in the unit of ``bin_size``;
        or such as ``spikecdl.History(0.1, common=True)``.  For single trials, as the next three.
    drift : "auto", float or None
        Time between knots of a smooth log rate of each unit through the recording (or the windows
        in turn, if ``trial_starts`` are not known), in the unit of ``bin_size``; above a template.
    bursts : "auto", float or None
        How long after a spike others of its burst follow, in the unit of ``bin_size``; see
        `Bursts`.  For marginal training of the Poisson family.
    signals : "auto", float or None
        Steps between the knots of smooth functions of each signal of the counts, by which the log
        rate of each unit changes (`BinnedSpikes.with_signals`); about 1: a line, 6: a curve.
    dispersion : "auto" or None
        Whether counts of the Poisson family may be more variable, as of a negative binomial.
    timing : "auto" or None
        Whether events may prefer a time in the window, as responses to a stimulus.  What is "auto"
        is used if it raises the evidence by ten nats: in marginal training, of single trials, in
        the shared layout, with learned baselines; else it is None.
    trainer : str or trainer
        "alternating", "marginal" (events summed out), "unrolled" (the paper's), "implicit" (its
        limit of many layers), an object such as ``spikecdl.Marginal(overlap=1)``, or "auto":
        marginal for counts, up to tens of thousands of bins of pooled trials; else alternating.
    n_epochs : int, optional
        Most epochs; None: the default of the trainer.
    bin_size : float
        Seconds per bin of plain arrays.
    device : {"auto", "cpu", "cuda"}
        Auto: a GPU if there is one.
    random_state : int, RandomState or None
        Seed; the same seed gives the same bits on one machine.
    verbose : bool, optional
        Show the progress of fits on standard error.  None: in notebooks, from two seconds on.

    Attributes
    ----------
    family_ : Family
        Observation model, with the estimated shape of a negative binomial.
    templates_ : ndarray, shape (template, channel, bin)
        Unit l2 norm; by decreasing number of events, or in the order of signs that differ.
    of_templates_ : dict
        ``original`` and ``speed`` of each template, after `at_speeds`.
    tensors_, unit_tensors_ : dict of tensor
        What the trainer has learned: ``templates`` and more, and rows for ``unit_ids_``.
    event_timing_ : ndarray, shape (template, onset)
        Rate of events in each bin of a window over its mean; 1 without ``timing``.
    history_filter_ : ndarray, shape (unit, lag)
        Change of eta, the log rate, ``history_lags_`` seconds after a spike; if ``history`` is set.
    signal_effects_ : dict of (values, ndarray of shape (unit, value))
        Change of eta at values of each signal, with ``signals``.
    baseline_ : ndarray, shape (trial, unit)
        Baseline rates of the training data, in Hz; means over bins where they vary.
    unit_rate_ : list of list, shape (unit, channel)
        Expected counts per bin and recorded trial without events, for `evidence`.
    penalty_weight_ : float or None
        Weight used, if any, as a fraction of lambda_max (median of windows and templates).
    history_ : list of dict
        One record per epoch: ``epoch``, from 1; ``loss``, the negative log likelihood per observed
        bin without constant terms (it may be negative); and what the trainer adds.
    converged_, n_iter_, bin_size_, n_bins_ : bool, int, float, int
        Whether training has settled, and its epochs; seconds per bin (1 for plain arrays), and bins
        of a template.
    trainer_ : str or Trainer
        ``trainer``, or the name of what "auto" has chosen.
    ingredients_ : dict
        By name, ``value`` of what was compared (None: not used), and ``nats`` that it gains.
    checks_ : list of dict
        What casts doubt on the fit: ``check``, ``passed``, what was ``found`` and a ``remedy``.
    windows_ : dict
        How windows were chosen, if `BinnedSpikes` say it; commands choose them likewise.
    unit_ids_, n_features_in_ : tuple, int
        Units of the training data; bins of a window, after fitting a (trial, bin) array.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.random.default_rng(0).poisson(0.2, size=(20, 200))
    >>> counts[:, 50:55] += 2
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> model.templates_.shape, model.transform(counts).shape
    ((1, 1, 10), (20, 1, 191))
    """

    def __init__(
        self,
        n_templates: int = 1,
        template_length: float = 10,
        family: config.FamilyName | Family = "poisson",
        *,
        layout: config.LayoutName = "shared",
        penalty: Literal["l1", "group_l1"] | Penalty = "l1",
        penalty_weight: float | None = None,
        baseline: Any = "learned",
        history: float | Literal["auto"] | History | None = "auto",
        drift: float | Literal["auto"] | None = "auto",
        bursts: float | Literal["auto"] | None = "auto",
        signals: float | Literal["auto"] | None = "auto",
        dispersion: Literal["auto"] | None = "auto",
        timing: Literal["auto"] | None = "auto",
        trainer: config.TrainerName | Trainer = "auto",
        n_epochs: int | None = None,
        bin_size: float = 1.0,
        device: config.DeviceName = "auto",
        random_state: Any = None,
        verbose: bool | None = None,
    ) -> None:
        self.n_templates = n_templates
        self.template_length = template_length
        self.family = family
        self.layout = layout
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.baseline = baseline
        self.history = history
        self.drift = drift
        self.bursts = bursts
        self.signals = signals
        self.dispersion = dispersion
        self.timing = timing
        self.trainer = trainer
        self.n_epochs = n_epochs
        self.bin_size = bin_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[Learned], None] | None = None,
        calibrate: bool = False,
    ) -> DCEA:
        """Learn templates.

        Processes of a torch.distributed group, each given all the counts, share the windows; the
        result is the same in all, and the first one writes the checkpoint.

        Parameters
        ----------
        X : BinnedSpikes, array (trial, unit, bin) or array (trial, bin)
            Counts; or those of several recordings, a list or a mapping by name: see `concatenate`.
        checkpoint : path, optional
            File for the state of training, written after epochs and steps of the initialization.
        resume : bool
            Go on from that file if it exists; the result is that of an uninterrupted fit.
            ``n_epochs`` may be raised; all else must be the same.
        on_epoch : callable, optional
            Called with the state of training after every epoch.
        calibrate : bool
            Whether to fit counts drawn from the model, too, and compare how many events are false
            with what their probabilities say: one more of ``checks_``.

        Raises
        ------
        ValueError
            If an argument or a count is out of range, the template is longer than the window, or
            a checkpoint is damaged, of another fit, or in use by another process.
        FloatingPointError
            If the loss stops being finite.
        """
        if resume and checkpoint is None:
            raise ValueError("`resume` (=True) needs `checkpoint`, the file to go on from")
        counts = self._counts(X, reset=True)
        self.ingredients_: dict[str, dict[str, float | None]] = {}
        self._time_span = inputs.time_span(counts)
        self._signal_ranges = inputs.signal_ranges(counts)
        self.family_ = validation.member("family", self.family, FAMILIES, Family)
        self.trainer_ = suggestions.trainer(self.trainer, self, counts)
        settings = self._settings()
        length = conversion.checked_length(self.template_length, settings, counts)
        rest = (counts, settings.weight, length, config.generator(self.random_state))
        given, trainer = conversion.problem(settings, *rest), settings.trainer
        display = progress.of_fit(self.epochs_at_most, self.verbose)
        writing = checkpointing(checkpoint, self.get_params(deep=False), given, resume)
        with display as show, writing as (learned, write):
            if not self.family_.is_known:
                self.family_ = training.family_of_first_fit(given, self.family_)
                given = replace(conversion.problem(self._settings(), *rest), steps=given.steps)
            given = replace(given, choices=suggestions.choices(settings, *rest))
            problem = training.with_covariates(given)

            def after_epoch(state: Learned) -> None:
                write(state)
                for listener in filter(None, (show, on_epoch)):
                    listener(state)

            with parallel.for_size(problem.size):
                learned = trainer.fit(problem, learned, after_epoch)
            learned.unit_tensors = {**problem.unit_tensors, **learned.unit_tensors}
            training.announce(training.AFTER)
            chosen = training.Chosen.from_tensors(learned.state)
            self.ingredients_, self.family_ = chosen.table(), chosen.family(self.family_)
            if chosen.values:
                given = conversion.problem(self._settings(), *rest)
            found = self._keep(counts, given, learned)
        learned.warn_if_unsettled(found, "penalty_weight" if self.penalty_weight_ else None)
        self.checks_ = checks.check(self, counts, calibrate)
        checks.warn(self.checks_)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the codes of counts.

        Returns
        -------
        ndarray, shape (trial, template, onset)
            Amplitudes by onset, of which there are ``n_bins_ - 1`` fewer than bins; (trial, unit,
            template, onset) for several units in the shared layout; a table after ``set_output``.
        """
        problem = self._fitted_problem(self._counts(X))
        codes = problem.codes(self._encode(problem)[0]).cpu().numpy()
        if self._gives_table:
            return codes.reshape(len(codes), -1)
        return codes[:, 0] if codes.shape[1] == 1 else codes

    def predict(self, X: Any) -> np.ndarray:
        """Return expected counts like X; in unobserved bins for as many trials as in others."""
        counts = self._counts(X)
        problem = self._fitted_problem(counts)
        found = (self._dictionary(), *self._encode(problem))
        shape = counts.shape if inputs.are_binned(X) else np.shape(X)
        return problem.mean(*found).cpu().numpy().reshape(shape)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the deviance explained in bins hidden from the codes.

        Every fourth bin is hidden in turn; codes, baseline and the null model, a constant rate per
        unit with half a spike added, come from the others.  1 is perfect, 0 no better than it, nan
        if nothing is to explain.  Too high on counts that were fitted; see `spikecdl.heldout`.
        """
        return float(deviance.fraction_explained(*self.hidden_deviances(X).sum((1, 2))))

    def hidden_deviances(self, X: Any) -> np.ndarray:
        """Return the deviances (2, trial, unit) of the model and the null model; see `score`."""
        counts = self._counts(X)
        whole, found = self._fitted_problem(counts).data, np.zeros(())
        for hidden in conversion.hidden_in_turn(counts.n_bins):
            seen = self._fitted_problem(conversion.hide(counts, hidden))
            coded = (self._dictionary(), *self._encode(seen))
            found = found + deviance.of_hidden_bins(whole, hidden, seen, coded)
        return found

    def evidence(self, X: Any, per_unit: bool = False) -> np.ndarray:
        """Return the log likelihood of each trial (trial,), summed over all events it may hold.

        In nats, with all constants; (trial, unit) ``per_unit``, (trial, 1) in the joint layout.
        Parameters come from the fit (rates of other units from the counts), and no codes are used;
        a lower bound where events overlap (`Marginal`).  ValueError without a compiled cost.
        """
        found = training.evidence(*self._event_model(X))
        return found if per_unit else found.sum(1)

    def resampled_templates(
        self, X: Any, n_resamples: int, seed: int, draw: bool = True
    ) -> Iterator[np.ndarray]:
        """Yield templates (template, channel, bin) fitted to resampled X; see `spikecdl.bands`."""
        return training.resampled_templates(*self._event_model(X), n_resamples, seed, draw)

    def simulate(self, X: Any, random_state: int = 0) -> BinnedSpikes:
        """Draw counts like X from the model, with baselines as in X, and their ``truth``."""
        counts = self._counts(X)
        y, events = training.drawn_counts(*self._event_model(X), random_state)
        return conversion.drawn(counts, y, self.templates_, events, self._settings())

    def decompose(self, X: Any) -> Decomposition:
        """Return the codes, the rates, and the contribution of each template to them."""
        counts = self._counts(X)
        problem = self._fitted_problem(counts)
        events, baseline = self._encode(problem)
        codes = problem.codes(events)
        found = (self._dictionary().templates.detach(), codes, baseline, problem.history_filter())
        certainty = training.certainty(problem, self.tensors_, codes, baseline)
        known: dict[str, Any] = {"certainty": certainty, "of_templates": self.of_templates_}
        return deviance.decompose(counts, self._settings().layout, problem.data, *found, **known)

    def save(self, path: str | Path) -> None:
        """Write the model (but no `RandomState`) as ``.safetensors`` and ``.json``; see `load`.

        ``path`` is the common stem of the files, or an existing folder (the stem is ``model``).

        Raises
        ------
        TypeError
            If an argument cannot be saved, such as a penalty that is not registered.
        """
        check_is_fitted(self, "tensors_")
        fitted = {name: getattr(self, name) for name in config.FITTED if hasattr(self, name)}
        learned = Learned(self.tensors_, unit_tensors=self.unit_tensors_)
        arguments = self.get_params(deep=False)
        write_model(path, learned, *map(config.describe, (arguments, fitted)))

    @property
    def epochs_at_most(self) -> int:
        """Largest number of epochs, ``n_epochs`` or the trainer's default."""
        return self._settings().n_epochs

    def _settings(self) -> Settings:
        """Return the arguments, checked, and what a fit has made of them."""
        known = {"family": getattr(self, "family_", self.family)}
        if self.trainer == "auto":
            known["trainer"] = self.trainer_
        span = getattr(self, "_time_span", (0.0, 0.0, False)), getattr(self, "_signal_ranges", {})
        given, chosen = self.get_params(deep=False), getattr(self, "ingredients_", {})
        return Settings.of(config.with_ingredients(given, chosen) | known, *span)

    def _counts(self, X: Any, reset: bool = False) -> BinnedSpikes:
        """Return checked counts, which must match the fit unless ``reset``."""
        if not inputs.are_binned(X):
            X = inputs.checked_array(X, self, reset)
        counts = inputs.as_counts(X, self.bin_size, self.layout)
        if reset:
            return counts
        check_is_fitted(self, "tensors_")
        units = self.unit_ids_ if self.layout == "joint" else None
        pooled = self.windows_.get("pool_trials", False)
        inputs.check_like_fit(counts, self.bin_size_, self.n_bins_, units, pooled)
        return counts

    def _fitted_problem(self, counts: BinnedSpikes) -> Problem:
        """Return the problem of coding counts with the learned templates."""
        fixed = self._absolute_weight
        weight = training.UniversalThreshold() if fixed is None else training.Fixed(fixed)
        settings, rest = self._settings(), (counts, weight, self.n_bins_, torch.Generator())
        problem = self._with_units(conversion.problem(settings, *rest), counts)
        known = (self.unit_ids_, self.unit_rate_)
        levels = conversion.known_levels(counts, settings.layout, problem.data, *known)
        return replace(problem, levels=levels)

    def _event_model(self, X: Any) -> tuple[Problem, dict[str, Tensor], np.ndarray | None]:
        """Return the arguments of `training.evidence`."""
        problem = self._fitted_problem(self._counts(X))
        return problem, self.tensors_, problem.levels

    def _with_units(self, problem: Problem, counts: BinnedSpikes) -> Problem:
        """Return the problem with what the fit has learned of its units."""
        rows = inputs.unit_rows(counts, self.unit_ids_, tuple(self.unit_tensors_))
        units = {n: t[rows].to(problem.data.baseline.device) for n, t in self.unit_tensors_.items()}
        return training.with_covariates(replace(problem, unit_tensors=units))

    def _keep(self, counts: BinnedSpikes, problem: Problem, learned: Learned) -> bool:
        """Set the fitted attributes, with templates by decreasing number of events, if any."""
        self.tensors_ = tensors = learned.model(problem.n_templates)
        self.unit_ids_, self.unit_tensors_ = counts.unit_ids, learned.of_units(counts.n_units)
        problem, settings = self._with_units(problem, counts), self._settings()
        self._absolute_weight: float | None = None
        events, baseline = self._encode(problem)
        self.tensors_, eta = training.completed(problem, tensors, events, baseline)
        about = (counts, settings.layout, problem.data)
        self.unit_rate_ = conversion.rates_of_levels(*about, eta)
        self.baseline_ = conversion.baseline_rates(*about, baseline)
        uses, level = settings.trainer.uses_penalty, float(self.tensors_.get("level", 1.0))
        used = problem.weight_used(self._dictionary(), level) if uses else (None, None)
        self.penalty_weight_: float | None = used[0]
        self._absolute_weight = used[1] if isinstance(problem.weight, training.Fraction) else None
        self.n_bins_, self.bin_size_, self.n_iter_ = problem.length, counts.bin_size, learned.epoch
        self.converged_, self.history_ = learned.converged, learned.history
        self.windows_ = inputs.windows_of(counts)
        self._n_onsets = counts.n_bins - problem.length + 1
        return bool((events.amplitude != 0).any())

    def _dictionary(self) -> ConvDictionary:
        return ConvDictionary(self.tensors_["templates"].float().to(config.device(self.device)))

    def _encode(self, problem: Problem) -> tuple[Events, Tensor]:
        """Return events, with windows numbered as in ``data.rows()``, and baseline."""
        return self._settings().trainer.coded(problem, self.tensors_)


def load(path: str | Path) -> DCEA:
    """Read a model that `DCEA.save` wrote; its codes are the same to the last bit.

    ``path`` is its folder, the common stem, or either of the two files.

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    ValueError
        If the file is damaged, or not of a model, or its parts contradict each other.
    """
    return restored(path, DCEA)
