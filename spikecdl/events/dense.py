"""Counts in memory as they are, of any family with a compiled cost, with covariates or without."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import convolve1d
from torch import Tensor

from spikecdl.events.counts import Expectation
from spikecdl.events.model import EventModel, relative
from spikecdl.events.windows import CountLoss, Drawn, Found, Sums, Templates, Windows, sum_events
from spikecdl.model.observations import Observations, earlier
from spikecdl.solvers.amplitudes import LOSSES, QUADRATIC, as_array
from spikecdl.solvers.parallel import ALONE, Processes

_PART = 2**22  # probabilities of events in memory at once
_CROWD = 10  # stretches among which each start is drawn
_DAMPING = 1.5  # of the changes in a stretch, most of which are noise
_LEAST_FACTOR = 0.067  # of the rate in a stretch


class DenseCounts:
    """Windows of counts, and sums over all the events that they may hold; see `Counts`.

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
        self._data: Observations | None = data
        rows, losses, constant = data.rows().to("cpu"), [], []
        for _, some in rows.parts():
            kind, a, b, shift, excess = some.family.scalar_loss(some.y * some.mask)
            more = a[..., :0] if excess is None else excess * some.mask
            losses.append([as_array(x) for x in (a * some.mask, b * some.mask, more)])
            constant.append(_constant(some, CountLoss(LOSSES[kind], *losses[-1]), shift))
        self.loss = CountLoss(LOSSES[kind], *map(np.concatenate, zip(*losses, strict=True)))
        self.constant = np.concatenate(constant)
        self.scale, self.learn_baseline = data.family.eta_scale, data.learn_baseline
        self.integer_valued = data.family.integer_valued
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
        """Windows, rows and bins."""
        return self.loss.a.shape  # type: ignore[return-value]

    def take(self, windows: np.ndarray | slice) -> DenseCounts:
        """Keep some windows."""
        some = copy(self)
        some._data = None  # a part is one of all windows
        # contiguous, as functions in C take them
        parts = (np.ascontiguousarray(x[windows]) for x in self.loss[1:])
        some.loss = CountLoss(self.loss.kind, *parts)
        some.constant = self.constant[windows]
        some.offset, some.unit = self.offset[windows], self.unit[windows]
        some.onsets = None if self.onsets is None else self.onsets[windows]
        if self.covariates is not None:
            some.covariates = self.covariates.map(lambda rows: rows[windows])
        return some

    def part(self, n_bins: int, length: int) -> DenseCounts:
        """Return windows of evenly spaced trials, or stretches of all units; see `Counts`."""
        assert self._data is not None
        return DenseCounts(self._data.part(n_bins, length), self.processes)

    def tempered(self, power: float) -> DenseCounts:
        """Return the same counts, whose likelihood is raised to a power."""
        some = copy(self)
        some.loss = self.loss._replace(a=power * self.loss.a, b=power * self.loss.b)
        return some

    def predictor(self, model: EventModel) -> np.ndarray:
        """Return the argument of the loss without events (window, row, bin)."""
        z = model.baseline[self.unit][..., None] + self.offset
        if self.covariates is not None:
            z = z + self.covariates.offset(self._coefficients(model)).numpy()
        return np.ascontiguousarray(np.broadcast_to(z, self.shape))

    def loss_of(self, model: EventModel) -> CountLoss:
        """Return the loss, with what bursts of the model add to the mean."""
        if self.covariates is None:
            return self.loss
        excess = self.covariates.excess(self._coefficients(model))
        return self.loss if excess is None else self.loss._replace(excess=as_array(excess))

    def _coefficients(self, model: EventModel) -> Tensor:
        """Return the coefficients of covariates, which there are."""
        assert self.covariates is not None
        known = model.coefficients
        return self.covariates.none() if known is None else torch.from_numpy(known)

    def sum(
        self,
        model: EventModel,
        keep_posterior: bool = False,
        drawn: Drawn | None = None,
        uniform: np.ndarray | None = None,
        only_draw: bool = False,
    ) -> tuple[Sums, Found]:
        """Sum over events; return the sums over windows, and what was found in each.

        See `sum_events` for ``uniform``, with which events are drawn; ``only_draw`` leaves out the
        sums where events are sampled.
        """
        n_onsets = self.shape[2] - model.length + 1
        n_filled = self.shape[0] if keep_posterior else 0
        derived = (0 if only_draw else self.shape[0], *self.shape[1:])
        found = Found(
            np.zeros(self.shape[0]),
            np.zeros(derived),
            np.zeros(derived),
            np.zeros((n_filled, *model.amplitudes.shape, n_onsets)),
            Drawn.nothing(0, self.shape) if drawn is None else drawn,
            np.zeros(self.shape[0]),
        )
        of_model = (model.templates, model.amplitudes, model.moves())
        templates = Templates(*map(np.ascontiguousarray, of_model))
        loss, z, where = self.loss_of(model), self.predictor(model), self.onsets_of(model.length)
        where = np.ones((len(z), 0), bool) if where is None else where
        per_bin = self.covariates is not None or bool(np.ptp(self.offset, axis=-1).any())
        per_bin = per_bin or loss.excess.size > 0
        pattern = np.empty((0, n_onsets), np.int64)
        if model.overlap == 2 and len(model) and (uniform is None or len(uniform) == 1):
            pattern = self._patterns(z, n_onsets, per_bin)
        none = relative(np.zeros((0, model.length, *2 * (model.amplitudes.size,))))
        of_events = (templates, model.prior(n_onsets), where, pattern, none)
        windows = Windows(loss, z, *of_events, per_bin)
        return sum_events(windows, found, uniform, self.processes), found

    def _patterns(self, z: np.ndarray, n_onsets: int, per_bin: bool) -> np.ndarray:
        """Return numbers (window, onset) of onsets of a unit from which on counts alone differ.

        They are not compared if rates vary.
        """
        if per_bin:
            return np.arange(len(z) * n_onsets).reshape(len(z), n_onsets)
        logistic = self.loss.kind == LOSSES["logistic"]
        exposure = self.loss.b + self.loss.a if logistic else self.loss.b
        change = (exposure != exposure[..., :1]).any((1, 2))
        unit = np.broadcast_to(self.unit[:, None, None].astype(float), (len(z), 1, self.shape[2]))
        of_bin = _hash(np.concatenate([exposure, z, unit], axis=1).swapaxes(1, 2))
        code = np.repeat(of_bin[:, :1], n_onsets, axis=1)
        bins = sliding_window_view(of_bin[change], self.shape[2] - n_onsets + 1, axis=1)
        code[change] = _hash(bins)
        return np.unique(code, return_inverse=True)[1].reshape(code.shape)

    def expect(self, model: EventModel) -> Expectation:
        """Sum over the events of all windows, of which at most two overlap."""
        return self.expectation(*self.sum(model))

    def expectation(self, sums: Sums, found: Found) -> Expectation:
        """Return sums and what was found in windows in the words of all counts."""
        levels = np.zeros((2, *self.start.shape))
        for level, derivative in zip(levels, (found.residual, found.curvature), strict=True):
            np.add.at(level, self.unit, derivative.sum(2))
        by_bin = None if self.covariates is None else (found.residual, found.curvature)
        of_events = (found.evidence, sums.number, sums.starts, float(sums.free[0]))
        by_template = (sums.spikes, sums.expected, sums.second)
        return Expectation(*of_events, *by_template, levels[0], levels[1], by_bin)

    def posterior(
        self, model: EventModel, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """Yield windows with the probabilities of their events; see `Counts`."""
        for part in self.pieces(model):
            some, drawn, uniform = self.take(part), None, None
            if rng is not None:
                drawn = Drawn.nothing(model.overlap, some.shape)
                uniform = rng.random((1, some.shape[0], some.shape[2] + 1))
            found = some.sum(model, True, drawn, uniform)[1]
            yield part, found.posterior, None if drawn is None else drawn.signal.sum(0)

    def pieces(self, model: EventModel) -> Iterator[slice]:
        """Yield windows whose probabilities of events are in memory at once."""
        n_windows, _, n_bins = self.shape
        each = max(1, _PART // max(1, model.amplitudes.size * n_bins))
        for first in range(0, n_windows, each):
            yield slice(first, min(first + each, n_windows))

    def onsets_of(self, length: int) -> np.ndarray | None:
        """Return where templates of some length may begin (window, onset); None: anywhere."""
        if self.onsets is None:
            return None
        return earlier(self.onsets, self.shape[2] - length + 1).contiguous().numpy()

    def covariates_of(self, model: EventModel, found: Expectation, step: float) -> EventModel:
        """Take a Newton step of the coefficients of covariates, if there are any."""
        if self.covariates is None:
            return model
        assert found.by_bin is not None
        residual, curvature = map(torch.from_numpy, found.by_bin)
        before = self._coefficients(model)
        after = self.covariates.update(before, residual, curvature)
        return replace(model, coefficients=((1 - step) * before + step * after).numpy())

    def log_volume(self, model: EventModel, found: Expectation) -> float:
        """Return what the evidence loses as coefficients of covariates are not known."""
        if self.covariates is None:
            return 0.0
        assert found.by_bin is not None
        derivatives = map(torch.from_numpy, found.by_bin)
        return self.covariates.log_volume(self._coefficients(model), *derivatives)

    def stretches(
        self, null: EventModel, number: int, rng: np.random.Generator, taken: np.ndarray
    ) -> np.ndarray:
        """Draw smoothed stretches of much energy as templates; see `Counts`."""
        length = null.length
        energy, change = self._smoothed(null)
        onsets = self.onsets_of(length)
        closed = taken if onsets is None else taken | ~onsets
        picked = _draw(energy, length, number, closed, rng)
        shape = (len(picked), self.shape[1], length)
        return np.reshape([change[w, :, s : s + length] for w, s in picked], shape)

    def mean_response(self, null: EventModel) -> tuple[np.ndarray, int]:
        """Return the stretch of most energy of the mean over windows, as a template, and its onset.

        For windows of which events prefer a time; ``null`` is the model without templates.
        """
        energy, change = self._smoothed(null, mean=True)
        total = np.pad(energy[0].sum(0).cumsum(), (1, 0))
        onset = int((total[null.length :] - total[: -null.length]).argmax())
        return change[:, :, onset : onset + null.length], onset

    def _smoothed(self, null: EventModel, mean: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return energy and change of the predictor (window, row, bin), of the mean of windows
        if asked for, that are not of a model without templates.
        """
        found = self.sum(null)[1]
        kernel = np.hanning(max(null.length // 8, 1) + 2)[1:-1]
        each = [convolve1d(x, kernel / kernel.sum()) for x in (found.residual, found.curvature)]
        slope, weight = (x.mean(0, keepdims=True) for x in each) if mean else each
        # the variance of a smoothed residual is the smoothed curvature over the width of the kernel
        energy = np.square(slope) / np.maximum(weight, 1e-12)
        change = slope / np.maximum((1.0 if mean else _DAMPING) * weight, 1e-12)
        if self.loss.kind != QUADRATIC:
            change = np.log1p(np.maximum(change, _LEAST_FACTOR - 1))
        return energy, change


def _constant(data: Observations, loss: CountLoss, shift: float) -> np.ndarray:
    """Return by how much the log likelihood (window,) of counts differs from minus their loss."""
    eta = torch.full_like(data.y, shift, dtype=torch.float64)
    some = data.to(torch.float64)
    of_family = torch.where(some.mask, some.family.without_bursts().log_prob(some.y, eta), 0)
    a, b = loss.a, loss.b
    at_zero = (lambda: b * a**2 / 2, lambda: (a + b) * np.log(2.0), lambda: b)  # as `LOSSES`
    return of_family.sum((1, 2)).numpy() + at_zero[loss.kind]().sum((1, 2))


def _hash(values: np.ndarray) -> np.ndarray:
    """Return whole numbers that are the same where all values along the last axis are."""
    rng, total = np.random.default_rng(0), np.zeros(values.shape[:-1], np.uint64)
    for k in range(values.shape[-1]):
        factor = rng.integers(2**63, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        bits = values[..., k].view(np.uint64)
        total += (bits ^ (bits >> np.uint64(32))) * factor
    return total


def _draw(
    energy: np.ndarray, length: int, number: int, closed: np.ndarray, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw windows and first bins of stretches, those of much energy more often."""
    total = np.pad(energy.sum(1), ((0, 0), (1, 0))).cumsum(-1)
    total = np.where(closed, 0.0, total[:, length:] - total[:, :-length])
    order = np.argsort(-total, axis=None, kind="stable")[: 4 * _CROWD * number]
    order = order[total.ravel()[order] > 0]
    if not len(order):
        return []
    chance = np.exp(-np.arange(len(order)) / (_CROWD * number))
    number = min(number, len(order))
    rank = rng.choice(len(order), number, replace=False, p=chance / chance.sum())
    window, first = np.unravel_index(order[rank], total.shape)
    return list(zip(window.tolist(), first.tolist(), strict=True))
