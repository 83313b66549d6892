"""Convolutional orthogonal matching pursuit: events one by one, the best first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from spikecdl import config, conversion, kernels, validation
from spikecdl.baselines.psth import binned
from spikecdl.data import BinnedSpikes, Decomposition, inputs
from spikecdl.data.truth import unit_norm
from spikecdl.evaluation.deviance import decompose
from spikecdl.evaluation.heldout import SHARED, observed
from spikecdl.model.families import Family
from spikecdl.model.penalties import L1, Penalty
from spikecdl.solvers import parallel
from spikecdl.solvers.amplitudes import LOSSES, Baselines, Loss, Prior, as_array
from spikecdl.solvers.events import Events
from spikecdl.training import Learned, Observations
from spikecdl.training.alternating import Epoch, alternate, null_cost
from spikecdl.training.dictionary_update import DictionaryUpdate, Updater, allowed_signs
from spikecdl.training.initialization import crop, initial_templates


@dataclass(frozen=True)
class Rule:
    """How events are chosen, and when there are enough."""

    penalty: Penalty  # of which only the signs are used
    standardise: bool  # compare scores in units of their standard errors, not as they are
    n_events: int  # of a window, at the most
    min_gain: Tensor  # (window,), in nats; an event with less is not taken and ends the pursuit
    precision: float  # one over the variance of a normal prior of amplitudes


@dataclass(eq=False, repr=False)
class BCOMP(TransformerMixin, BaseEstimator):
    r"""Learn templates by orthogonal matching pursuit: the greedy, l0 alternative to `DCEA`.

    Events of a window are found one at a time.  With residual r and curvature w of the family at
    the current linear predictor, the next event is where

    .. math:: \langle h_c(\cdot - t), r\rangle \qquad\text{or}\qquad
              \langle h_c(\cdot - t), r\rangle \,/\, \langle h_c^2(\cdot - t), w\rangle^{1/2}

    is largest ("inner_product", as in the paper, or "score_test").  Newton steps then refit the
    amplitudes of all events, and the baseline if it is learned.  The pursuit of a window stops
    after ``n_events`` events, or when an event lowers the deviance by less than ``min_gain``.
    Templates are then updated with the onsets fixed, by the dictionary update of `DCEA`, in which
    amplitudes and baselines follow, and the two steps alternate.

    Parameters
    ----------
    n_templates, template_length, family, baseline
        As for `DCEA`, in the shared layout; ``template_length`` is in seconds.
    n_events : int, optional
        Maximum number of events in a window, over all templates.
    min_gain : float, optional
        Smallest decrease of the deviance by an event.  None: 0 if ``n_events`` is given, otherwise
        the penalty per event of the extended Bayesian information criterion,
        :math:`\log n + 2 \log N` for n observed bins and N pairs of template and onset.
    criterion : {"inner_product", "score_test"}
    sign : {"positive", "negative", "both"} or sequence of those
        Of amplitudes, for all templates or for each.
    templates : array_like, shape (template, bin) or (template, 1, bin), optional
        Initial templates; None: stretches of the data that a constant rate explains worst.
    n_initializations : int
        Fits from different stretches, of which the best is kept.  With several templates most
        greedy fits end in a poor minimum.
    n_epochs : int
        Maximum number of epochs.
    random_state : int, RandomState or None
        Seed of the initializations.

    Attributes
    ----------
    templates_ : ndarray, shape (template, 1, bin)
        Unit l2 norm, by decreasing number of events.
    baseline_ : ndarray, shape (trial, unit)
        Baseline rates of the training data, in Hz.
    history_ : list of dict
        One record per epoch of the best fit: ``epoch``, ``loss`` (negative log likelihood per
        observed bin up to a constant), ``objective`` (over all bins, plus half of ``min_gain`` per
        event), ``n_events`` and ``seconds``.
    converged_ : bool
    n_iter_, n_bins_ : int
        Epochs; bins of a template.
    bin_size_ : float
    unit_ids_ : tuple

    References
    ----------
    Pati, Rezaiifar and Krishnaprasad, Asilomar 1993, doi:10.1109/ACSSC.1993.342465; Lozano,
    Swirszcz and Abe, AISTATS 2011 (other losses); Chen and Chen, Biometrika 95, 2008,
    doi:10.1093/biomet/asn034 (the criterion).

    Examples
    --------
    >>> from spikecdl.simulate import simulate
    >>> counts = simulate("binomial", ["square"], n_units=3, baseline=20.0, n_events=3,
    ...                   same_events=True, random_state=0).pool()
    >>> model = BCOMP(1, 0.05, "binomial", random_state=0).fit(counts)
    >>> from spikecdl.evaluation.metrics import recovery
    >>> recovery(model.decompose(counts)).events.hit_rate
    1.0
    """

    n_templates: int = 1
    template_length: float = 10
    family: str | Family = "binomial"
    _: KW_ONLY
    n_events: int | None = None
    min_gain: float | None = None
    criterion: str = "inner_product"
    sign: str | Any = "positive"
    baseline: Any = "learned"
    templates: Any = None
    n_initializations: int = 10
    n_epochs: int = 20
    random_state: Any = None

    def fit(self, counts: BinnedSpikes, y: Any = None) -> BCOMP:
        """Learn templates; ``y`` is ignored.

        Raises ValueError if an argument or a count is out of range, or the template is longer than
        the window.
        """
        counts = binned(counts)
        validation.integer("n_templates", self.n_templates)
        validation.integer("n_epochs", self.n_epochs)
        length = config.template_bins(self.template_length, counts.bin_size, counts.n_bins)
        data = observed(counts, self.family, self.baseline)
        rows, rule = data.rows(), self._rule(data, length)
        with parallel.for_size(rows.y.numel() * self.n_templates):
            fits = [
                self._alternate(rows, rule, initial)
                for initial in self._initializations(rows, rule, length)
            ]
        best = min(fits, key=lambda fit: fit.history[-1]["objective"])
        self.bin_size_, self.n_bins_, self.unit_ids_ = counts.bin_size, length, counts.unit_ids
        self.history_, self.n_iter_, self.converged_ = best.history, best.epoch, best.converged
        self.templates_ = best.tensors["templates"].numpy()
        events, baseline = self._pursue(data)
        number = torch.bincount(events.template, minlength=self.n_templates)
        if not rule.penalty.signs_differ:
            self.templates_ = self.templates_[number.argsort(descending=True, stable=True).numpy()]
        self.baseline_ = conversion.baseline_rates(counts, SHARED, data, baseline)
        best.warn_if_unsettled(len(events) > 0, "min_gain")
        return self

    def transform(self, counts: BinnedSpikes) -> np.ndarray:
        """Return codes (trial, template, onset), as from `DCEA.transform`.

        Those of several units are (trial, unit, template, onset).
        """
        codes = self._codes(*self._found(counts)[:2]).numpy()
        return codes[:, 0] if codes.shape[1] == 1 else codes

    def predict(self, counts: BinnedSpikes) -> np.ndarray:
        """Return expected counts (trial, unit, bin), given events and baseline of these counts."""
        data, events, baseline = self._found(counts)
        without = baseline.expand_as(data.y).flatten(0, 1)
        eta = events.add_to(without, torch.from_numpy(self.templates_)).reshape_as(data.y)
        return SHARED.squeeze(data.family.mean(eta))

    def decompose(self, counts: BinnedSpikes) -> Decomposition:
        """Return rates, codes and contributions of counts, with a table from ``events()``."""
        data, events, baseline = self._found(counts)
        templates, codes = torch.from_numpy(self.templates_), self._codes(data, events)
        return decompose(counts, SHARED, data, templates, codes, baseline)

    def _found(self, counts: BinnedSpikes) -> tuple[Observations, Events, Tensor]:
        """Check counts against the fit; return observations, their events and baseline."""
        check_is_fitted(self)
        inputs.check_like_fit(binned(counts), self.bin_size_, self.n_bins_, None)
        data = observed(counts, self.family, self.baseline)
        return data, *self._pursue(data)

    def _pursue(self, data: Observations) -> tuple[Events, Tensor]:
        """Return events, and the refitted baseline in the shape of the data's."""
        templates = torch.from_numpy(self.templates_)
        events, baseline = pursue(data.rows(), templates, self._rule(data, self.n_bins_))
        return events, baseline.reshape_as(data.baseline)

    def _codes(self, data: Observations, events: Events) -> Tensor:
        """Return dense codes (trial, unit, template, onset)."""
        trials, units, _, bins = data.y.shape
        shape = (self.n_templates, bins - self.n_bins_ + 1)
        return events.to_codes((trials * units, *shape)).reshape(trials, units, *shape)

    def _rule(self, data: Observations, length: int) -> Rule:
        """Return the rule that selects events in these data."""
        n_bins, n_templates = data.y.shape[-1], self.n_templates
        validation.one_of("criterion", self.criterion, ("inner_product", "score_test"))
        if self.min_gain is not None or self.n_events is not None:
            least = validation.non_negative("min_gain", self.min_gain or 0.0)
            gain = torch.full((data.mask[..., 0, 0].numel(),), least)
        else:
            observed_bins = data.mask.sum(-1).flatten().clamp(min=1)
            gain = observed_bins.log() + 2 * math.log(n_templates * (n_bins - length + 1))
        n_events = n_bins if self.n_events is None else self.n_events
        return Rule(
            penalty=L1(sign=self.sign),
            standardise=self.criterion == "score_test",
            n_events=validation.integer("n_events", n_events),
            min_gain=gain.double() / 2,
            precision=1e-4 / data.family.eta_scale**2,  # amplitudes stay finite in silent bins
        )

    def _initializations(self, rows: Observations, rule: Rule, length: int) -> Iterator[Tensor]:
        """Yield initial templates.

        Stretches of the data are 40 % longer than the template at first, because its onset in them
        is unknown, and are cropped to the bins of most energy after three epochs.
        """
        if self.templates is not None:
            given = unit_norm("templates", self.templates)
            validation.shaped("templates", given, (self.n_templates, 1, length))
            yield torch.from_numpy(given)
            return
        generator = config.generator(self.random_state)
        extra = min(round(0.4 * length), rows.y.shape[-1] - length)
        for _ in range(validation.integer("n_initializations", self.n_initializations)):
            eta = rows.baseline.expand_as(rows.y)
            templates = initial_templates(rows, eta, self.n_templates, length + extra, generator)
            for _ in range(3):
                templates = _epoch(rows, rule, templates).templates
            yield crop(templates, length)

    def _alternate(self, rows: Observations, rule: Rule, templates: Tensor) -> Learned:
        """Alternate between finding events and updating templates."""

        def epoch(before: Learned) -> Epoch:
            found = _epoch(rows, rule, before.tensors["templates"])
            record = {
                "loss": found.cost / int(rows.mask.sum()),
                "objective": found.cost + float(rule.min_gain[found.events.window].sum()),
                "n_events": len(found.events),
            }
            return replace(before, tensors={"templates": found.templates}), record

        return alternate(epoch, Learned({"templates": templates}), self.n_epochs, null_cost(rows))


def _epoch(rows: Observations, rule: Rule, templates: Tensor) -> DictionaryUpdate:
    """Find events, and update templates with the onsets fixed."""
    events, baseline = pursue(rows, templates, rule)
    return Updater(rows, rule.penalty)(templates, events, baseline)


# The pursuit: single windows, one event at a time, the best first


class _Task(NamedTuple):
    """Windows, and how events are chosen; see `Rule`."""

    loss: Loss
    templates: np.ndarray
    prior: Prior
    baselines: Baselines
    standardise: bool
    min_gain: np.ndarray


class _Pursued(NamedTuple):
    """Events of each window (window, event), in order of time, and their number (window,)."""

    which: np.ndarray
    onset: np.ndarray
    amplitude: np.ndarray
    number: np.ndarray


_pursue_windows = kernels.function("pursue_windows")


def pursue(rows: Observations, templates: Tensor, rule: Rule) -> tuple[Events, Tensor]:
    """Find the events of every window, with templates (template, channel, bin).

    ``rows`` are on the CPU, with one window axis.  Returns events, sorted and without those whose
    amplitude is zero, and baselines (window, channel, 1), refitted if they are to be learned.
    """
    scalar = rows.family.scalar_loss(rows.y)
    loss = Loss(LOSSES[scalar.kind], *(as_array(v * rows.mask) for v in (scalar.a, scalar.b)))
    level = as_array(rows.baseline)[..., 0] - scalar.shift
    none = np.zeros((*level.shape, 1))
    baselines = Baselines(level, np.ones_like(level), level.copy(), rows.level_precision, none)
    shape = (len(level), min(rule.n_events, loss.a.shape[-1]))
    found = _Pursued(
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape),
        np.zeros(len(level), np.int64),
    )
    shapes = as_array(templates)
    up, down = (sign.numpy() for sign in allowed_signs(rule.penalty, len(shapes)))
    prior = Prior(np.full(len(shapes), rule.precision), up, down)
    task = _Task(loss, shapes, prior, baselines, rule.standardise, as_array(rule.min_gain))

    def work(part: slice) -> None:
        _pursue_windows(part.start, part.stop, task, found)

    parallel.in_parallel(work, len(level), loss.a.size * len(shapes) * parallel.COSTLY)
    window, rank = np.nonzero(np.arange(shape[1]) < found.number[:, None])
    which, onset, amplitude = (values[window, rank] for values in found[:3])
    order = np.lexsort((onset, which, window))
    order = order[amplitude[order] != 0]
    events = (torch.from_numpy(v[order]) for v in (window, which, onset, amplitude))
    return Events(*events), torch.from_numpy(level[..., None] + scalar.shift)
