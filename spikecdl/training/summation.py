"""Counts with their events summed out: likelihood, and EM for baselines, rates and templates."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import numpy as np
import torch

from spikecdl.solvers.distributed import ALONE, Processes
from spikecdl.solvers.event_posterior import Drawn, Found, Prior, Sums, Windows, sum_events
from spikecdl.solvers.event_ratios import Templates
from spikecdl.solvers.losses import LOSSES, Loss, as_array
from spikecdl.training.base import Observations
from spikecdl.training.event_model import EventModel
from spikecdl.training.observations import earlier

_LARGEST_STEP = 0.5  # of a baseline
_NULL_STEPS = 12  # of Newton's method for constant rates
_SMALL_STEP = 1e-3  # of a baseline
_LEAST_STEPS = 6  # of EM
_SETTLED = 0.05  # nats that a step of EM gains at the end, or
_SETTLED_RELATIVE = 1e-4  # that fraction of the gain over no events


class Summation:
    """Windows of counts, and sums over all the events that they may hold.

    The predictor without events is the baseline of the model, for each unit; plus covariates with
    the coefficients of the model, if the data have any; plus the baseline of the data where it is
    not learned.

    Parameters
    ----------
    data : Observations
        With axes (trial, unit, channel, bin).
    processes : Processes
        That share the windows.
    """

    def __init__(self, data: Observations, processes: Processes = ALONE) -> None:
        self.processes = processes
        rows, losses = data.rows().to("cpu"), []
        for _, some in rows.parts():
            kind, a, b, shift = some.family.scalar_loss(some.y * some.mask)
            losses.append((as_array(a * some.mask), as_array(b * some.mask)))
        self.loss = Loss(LOSSES[kind], *map(np.concatenate, zip(*losses, strict=True)))
        self.scale, self.learn_baseline = data.family.eta_scale, data.learn_baseline
        self.unit = np.arange(len(rows.y)) % data.y.shape[1]
        self.covariates = rows.covariates if data.learn_baseline else None
        eta = as_array(rows.baseline)
        self.start = np.zeros((data.y.shape[1], data.y.shape[2]))
        if self.learn_baseline:
            eta = eta.mean(-1, keepdims=True)
            for unit in np.unique(self.unit):
                self.start[unit] = eta[self.unit == unit, :, 0].mean(0)
            eta = np.zeros_like(eta)
        self.offset, self.shift = eta - shift, shift
        self.onsets = None if rows.onsets is None else rows.onsets[:, 0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, channels and bins."""
        return self.loss.a.shape  # type: ignore[return-value]

    def spacing(self, enough: int) -> int:
        """Return the largest spacing of windows that leaves at least so many bins."""
        n_windows, _, n_bins = self.shape
        return max(1, n_windows * n_bins // enough)

    def take(self, windows: np.ndarray | slice) -> Summation:
        """Keep some windows."""
        some = copy(self)
        # contiguous, as functions are compiled for each layout
        parts = (np.ascontiguousarray(x[windows]) for x in (self.loss.a, self.loss.b))
        some.loss = Loss(self.loss.kind, *parts)
        some.offset, some.unit = self.offset[windows], self.unit[windows]
        some.onsets = None if self.onsets is None else self.onsets[windows]
        if self.covariates is not None:
            some.covariates = self.covariates.map(lambda rows: rows[windows])
        return some

    def tempered(self, power: float) -> Summation:
        """Return the same counts, whose likelihood is raised to a power."""
        some = copy(self)
        some.loss = Loss(self.loss.kind, power * self.loss.a, power * self.loss.b)
        return some

    def predictor(self, model: EventModel) -> np.ndarray:
        """Return the argument of the loss without events (window, channel, bin)."""
        z = model.baseline[self.unit][..., None] + self.offset
        if self.covariates is not None:
            z = z + self.covariates.offset(torch.from_numpy(model.coefficients)).numpy()
        return np.ascontiguousarray(np.broadcast_to(z, self.shape))

    def evidence(self, model: EventModel) -> np.ndarray:
        """Return the log likelihood of each window, events summed out, up to a constant."""
        return self.sum(model)[1].evidence

    def sum(
        self,
        model: EventModel,
        keep_posterior: bool = False,
        drawn: Drawn | None = None,
        uniform: np.ndarray | None = None,
        prior: Prior | None = None,
        only_draw: bool = False,
    ) -> tuple[Sums, Found]:
        """Sum over events; return the sums over windows, and what was found in each.

        See `sum_events` for ``uniform``, with which events are drawn anew; ``only_draw`` leaves out
        the sums; a ``prior`` of None is that of one chain.
        """
        n_onsets = self.shape[2] - model.length + 1
        n_kept = self.shape[0] if keep_posterior else 0
        derived = (0 if only_draw else self.shape[0], *self.shape[1:])
        found = Found(
            np.zeros(self.shape[0]),
            np.zeros(derived),
            np.zeros(derived),
            np.zeros((n_kept, *model.amplitudes.shape, n_onsets)),
            Drawn.nothing(0, self.shape) if drawn is None else drawn,
            np.zeros(self.shape[0]),
        )
        templates = Templates(np.ascontiguousarray(model.templates), model.amplitudes)
        where, per_bin = self.onsets_of(model.length), self.covariates is not None
        windows = Windows(self.loss, self.predictor(model), per_bin, where, self.processes)
        return sum_events(windows, templates, prior or model.prior(), found, uniform), found

    def onsets_of(self, length: int) -> np.ndarray | None:
        """Return where templates of some length may begin (window, onset); None: anywhere."""
        if self.onsets is None:
            return None
        return earlier(self.onsets, self.shape[2] - length + 1).contiguous().numpy()

    def without_events(self, length: int) -> EventModel:
        """Return the model of no templates, with the most likely constant rates."""
        none = EventModel.of_templates(np.zeros((0, self.shape[1], length)), self.start)
        none = self.with_coefficients(none, None)
        for _ in range(0 if self.covariates is None else _NULL_STEPS):
            found = self.sum(none)[1]
            none = self.with_new_coefficients(self.with_new_baseline(none, found), found)
        return self.fit_baseline(none)

    def with_new_coefficients(
        self, model: EventModel, found: Found, step: float = 1.0
    ) -> EventModel:
        """Take a Newton step of the coefficients of covariates, if there are any."""
        if self.covariates is None or model.coefficients is None:
            return model
        before = torch.from_numpy(model.coefficients)
        residual, curvature = torch.from_numpy(found.residual), torch.from_numpy(found.curvature)
        after = self.covariates.update(before, residual, curvature)
        return replace(model, coefficients=((1 - step) * before + step * after).numpy())

    def with_coefficients(self, model: EventModel, coefficients: np.ndarray | None) -> EventModel:
        """Return the model with coefficients of covariates (unit, column); None: zeros."""
        if coefficients is None and self.covariates is not None:
            n_units = int(self.covariates.unit.max()) + 1
            coefficients = np.zeros((n_units, self.covariates.n_columns))
        return model if coefficients is None else replace(model, coefficients=coefficients)

    def with_new_baseline(self, model: EventModel, found: Found, step: float = 1.0) -> EventModel:
        """Take a Newton step of the baselines of units."""
        if not self.learn_baseline:
            return model
        baseline = model.baseline.copy()
        for unit in range(len(baseline)):
            mine = self.unit == unit
            slope, curvature = (x[mine].sum((0, 2)) for x in (found.residual, found.curvature))
            change = slope / np.maximum(curvature, 1e-3 / self.scale**2)
            limit = _LARGEST_STEP * self.scale
            baseline[unit] += step * np.clip(change, -limit, limit)
        return replace(model, baseline=baseline)

    def fit_baseline(self, model: EventModel) -> EventModel:
        """Return the model with the baselines that are most likely, all else as it is."""
        for _ in range(_NULL_STEPS if self.learn_baseline else 0):
            new = self.with_new_baseline(model, self.sum(model)[1])
            change = np.abs(new.baseline - model.baseline).max(initial=0.0)
            model = new
            if change < _SMALL_STEP * self.scale:
                break
        return model

    def step(self, model: EventModel, learn_templates: bool = True) -> tuple[EventModel, float]:
        """Take a step of EM; return the model after it, and the objective before it."""
        sums, found = self.sum(model)
        value = float(found.evidence.sum()) + model.log_density(self.scale)
        new = model.updated(sums, self.scale, learn_templates)
        new = self.with_new_coefficients(new, found)
        return self.with_new_baseline(new, found), value

    def climb(
        self,
        model: EventModel,
        most_steps: int,
        learn_templates: bool = True,
        on_step: Callable[[EventModel, float], None] = lambda model, value: None,
    ) -> tuple[EventModel, float]:
        """Take steps of EM until they gain little; return the best model and its objective."""
        none = float(self.evidence(model.take([])).sum())
        best, highest = model, -np.inf
        for number in range(most_steps):
            new, value = self.step(model, learn_templates)
            gained = value - highest
            if gained > 0:
                best, highest = model, value
            on_step(model, value)
            enough = max(_SETTLED, _SETTLED_RELATIVE * abs(value - none))
            if number >= _LEAST_STEPS and gained < enough:
                break
            model = new
        return best, highest
