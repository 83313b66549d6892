"""Data drawn anew: counts from a fitted model, and templates from resampled windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spikecdl.events import em
from spikecdl.events.dense import DenseCounts
from spikecdl.events.model import EventModel
from spikecdl.events.posterior import EXACT
from spikecdl.events.prior import perturbed
from spikecdl.model.history import sample_in_time
from spikecdl.solvers import parallel
from spikecdl.solvers.events import Events
from spikecdl.training.base import Problem
from spikecdl.training.events import event_model

FEWEST = 8  # trials, or windows, that are resampled
_STEPS = 20  # of EM, in a resample, and for the prior of templates of other trainers


def drawn_counts(
    problem: Problem, tensors: Mapping[str, Tensor], levels: np.ndarray | None, seed: int
) -> tuple[np.ndarray, Events]:
    """Return counts (trial, unit, bin) like those of a problem, and their events.

    Windows of the events are numbered as in ``problem.data.rows()``; for ``levels`` see `evidence`.
    """
    data = problem.data
    model = event_model(problem, tensors, levels)[1].normalized()
    counts = DenseCounts(data.to("cpu"))
    if (covariates := counts.covariates) is not None:  # of which drift remains
        zeros = torch.zeros_like(covariates.counts)
        counts.covariates = replace(covariates, counts=zeros)
    events = drawn_events(model, counts, np.random.default_rng(seed))
    eta = torch.from_numpy(counts.predictor(model) + counts.shift)
    window, template, onset = events.window, events.template, events.onset
    for w, c, s, size in zip(window, template, onset, events.amplitude, strict=True):
        change = float(size) * model.templates[c]
        eta[w, :, s : s + model.length] += torch.from_numpy(change)
    shape = (len(data.y), -1, data.y.shape[-1])
    family = data.family.without_bursts().map(lambda x: x.expand(data.y.shape).reshape(shape))
    generator = torch.Generator().manual_seed(seed)
    if covariates is None:
        y = family.sample(eta.reshape(shape), generator)
    else:
        coefficients = torch.from_numpy(model.coefficients)
        effect = covariates.filters(coefficients)
        effect = coefficients[:, :0] if effect is None else effect
        bursts = coefficients[:, covariates.n_columns :]
        y = sample_in_time(family, eta.reshape(shape), effect, generator, bursts)
    y = torch.where(data.mask.reshape(y.shape), y, 0)
    return y.numpy(), events


def drawn_events(model: EventModel, counts: DenseCounts, rng: np.random.Generator) -> Events:
    """Draw events of each window from their prior, sorted by window, template and onset."""
    n_windows, _, n_bins = counts.shape
    n_onsets = n_bins - model.length + 1
    prior, allowed = model.prior(n_onsets), counts.onsets_of(model.length)
    start = np.exp(prior.log_start)[..., None]
    start = start * np.exp(prior.log_timing)[:, None] if prior.log_timing.size else start
    start = np.broadcast_to(
        start.reshape(model.amplitudes.size, -1), (start[..., 0].size, n_onsets)
    )
    idle_from = np.zeros((n_windows, prior.n_chains), int)
    last = np.full((n_windows, len(model)), -model.length)
    found = []
    for s in range(n_onsets):
        chance, draw = start[:, s].cumsum(), rng.random(idle_from.shape)
        begins = (idle_from <= s) & (draw < chance[-1])
        if allowed is not None:
            begins &= allowed[:, [s]]
        for w, chain in np.argwhere(begins):
            c, i = divmod(int(np.searchsorted(chance, draw[w, chain])), model.amplitudes.shape[1])
            if (s - last[w] >= prior.apart[:, c]).all():
                found.append((w, c, s, model.amplitudes[c, i]))
                idle_from[w, chain], last[w, c] = s + model.length, s
    table = torch.tensor(sorted(found), dtype=torch.float64).reshape(-1, 4)
    window, template, onset = table[:, :3].long().T
    return Events(window, template, onset, table[:, 3])


def windows_together(n_trials: int, n_units: int) -> int:
    """Return how many windows are drawn together: those of a trial, or one if trials are few.

    Raises ValueError if there are fewer than eight windows.
    """
    if n_trials >= FEWEST:
        return n_units
    if n_trials * n_units < FEWEST:
        raise ValueError(
            f"a bootstrap needs {FEWEST} trials or windows, not {n_trials * n_units}; give the "
            "single trials of pooled ones, or select more units"
        )
    return 1


def resampled_templates(
    problem: Problem,
    tensors: Mapping[str, Tensor],
    levels: np.ndarray | None,
    n_resamples: int,
    seed: int,
    draw: bool = True,
) -> Iterator[np.ndarray]:
    """Yield templates (template, channel, bin) fitted to windows drawn with replacement.

    The arguments up to ``levels`` are those of `evidence`.  If windows are not to be drawn, as they
    are of trials drawn before, the prior alone is.
    """
    counts, model = event_model(problem, tensors, levels)
    model = model.bounded(problem.bounded)
    if not model.variance.any():
        model = em.climb(counts, model, _STEPS)[0]
    model = replace(model, overlap=min(model.overlap, EXACT))
    n_units = 1 if problem.penalty.grouped else problem.data.y.shape[1]
    together = windows_together(len(problem.data.y), n_units) if draw else 1
    n_groups = counts.shape[0] // together

    def of_resample(number: int) -> np.ndarray:
        rng = np.random.default_rng((seed, number))
        drawn = rng.integers(n_groups, size=n_groups) if draw else np.arange(n_groups)
        windows = (drawn[:, None] * together + np.arange(together)).ravel()
        some, noise, found = counts.take(windows), perturbed(model, counts.scale, rng), model
        for _ in range(_STEPS):
            found = em.updated(some, found, some.expect(found), perturbation=noise)
        return found.templates

    return parallel.on_each(of_resample, range(n_resamples), torch.device("cpu"))
