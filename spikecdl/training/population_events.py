"""Populations as the marginal trainer and the estimator see them: fit, events, evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spikecdl.model.families import Family
from spikecdl.solvers.distributed import current_processes
from spikecdl.solvers.event_list import describe_events, list_events
from spikecdl.solvers.event_pairs import draw_events
from spikecdl.solvers.events import Events
from spikecdl.solvers.spike_list import Shown, SpikeList, list_spikes
from spikecdl.training.alternating import Epoch, alternate
from spikecdl.training.base import Learned, Observations, OnEpoch, Problem
from spikecdl.training.population import (
    RELATIVE_AMPLITUDES,
    PopulationModel,
    climb,
    crowding,
    fit_baseline,
    null_value,
    objective,
    sum_events,
)
from spikecdl.training.population_starts import search

_STEPS_PER_EPOCH = 5
_OF_STARTS = ("agreement", "gap", "other")  # see `search`
_LEAST_PROBABILITY = 0.5  # of an event that is listed
_MOST_PATTERNS = 1000  # of bins that were observed under an event


def spikes_of(data: Observations, length: int) -> SpikeList | None:
    """Return the spikes of a population whose events can be summed from a list of them.

    Those are counts in the joint layout, all units observed at the same times, of a family with an
    exponential loss, with baselines that are constant but for events, which may begin anywhere.
    None for others, and if what was observed under events of a ``length`` is seldom the same.
    """
    joint = data.y.shape[1] == 1 and data.y.shape[2] > 1
    constant = data.covariates is None and data.baseline.shape[-1] == 1
    constant = constant and data.onsets is None
    one = data.family.map(lambda values: values[:1, :1, :1, :1])
    if not (joint and constant and has_exponential_loss(one)):
        return None
    shown = _shown(data)
    if shown is None or len(Shown(shown).under(length)[0]) > _MOST_PATTERNS:
        return None
    return list_spikes(data.y[:, 0].cpu().numpy(), shown)


def has_exponential_loss(family: Family) -> bool:
    """Return whether events of a population can be summed under a family, from listed spikes."""
    if not (family.is_compiled and family.integer_valued and family.is_known):
        return False
    kind, _, exposure, shift = family.scalar_loss(torch.ones(1, 1, 1, 1))
    return kind == "exponential" and not shift and bool((exposure == 1).all())


def _shown(data: Observations) -> np.ndarray | None:
    """Return in which bins units were observed (trial, bin); None if that differs among them."""
    units = data.mask[:, 0].transpose(0, 1)
    first = units[0]
    if units.stride()[0] and not all(bool((one == first).all()) for one in units):
        return None
    seen = first.cpu() if data.shown is None else first.cpu() & data.shown
    return seen.contiguous().numpy()


def fit_population(
    problem: Problem,
    spikes: SpikeList,
    learned: Learned | None,
    on_epoch: OnEpoch,
) -> Learned:
    """Search on a bounded part of the recording, then climb on all of it.

    Templates that are kept from falling below zero are so from the climb on.
    Processes of torch.distributed share the sums over spikes, to the same bits as one process.
    """
    spikes = spikes._replace(processes=current_processes())
    n_observed = spikes.shape[0] * spikes.shape[1] * spikes.shape[2]
    null = null_value(spikes)
    if learned is None:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=problem.generator)))
        found = search(spikes, problem.n_templates, problem.length, rng, problem.steps)
        model = PopulationModel.from_tensors(found).bounded(problem.bounded)
        learned = _learned(model, {name: found[name] for name in _OF_STARTS})

    def epoch(before: Learned) -> Epoch:
        model = PopulationModel.from_tensors(before.state)
        model, value = climb(spikes, model, _STEPS_PER_EPOCH, with_pairs=True)
        sums = sum_events(spikes, model, with_pairs=True)
        evidence = objective(spikes, replace(model, cost=np.zeros(len(model))), sums)
        record = {
            "loss": -evidence / n_observed,
            "objective": -value - null,
            "n_events": round(float(sums.number.sum())),
            "agreement": float(before.state["agreement"]),
        }
        return _learned(model, {name: before.state[name] for name in _OF_STARTS}), record

    return alternate(epoch, learned, problem.n_epochs, -null, on_epoch)


def _learned(model: PopulationModel, starts: dict[str, Tensor]) -> Learned:
    norms = _norms(model)
    flat = np.full_like(model.templates, 1e-9 * model.templates[0].size ** -0.5)
    unit = np.where(norms[:, None, None] > 1e-9, model.templates, flat) / norms[:, None, None]
    tensors = {
        "templates": torch.from_numpy(unit),
        "template_variance": torch.from_numpy(model.variance / norms[:, None, None] ** 2),
        "event_amplitudes": torch.from_numpy(norms[:, None] * RELATIVE_AMPLITUDES),
        "event_rates": torch.from_numpy(model.rates),
        "smoothness": torch.from_numpy(model.smoothness),
        "overlap": torch.tensor(1),
        "distance": torch.tensor(0),
        "level": torch.tensor(1.0),
    }
    if float(starts["other"].square().sum((1, 2)).min()) > 0:  # compared in reports
        tensors |= {"other_start": starts["other"], "start_gap": starts["gap"]}
    return Learned(tensors, model.as_tensors() | starts)


def known_model(tensors: Mapping[str, Tensor], baseline: np.ndarray) -> PopulationModel | None:
    """Return the model that a fit of a population has stored; None if it was no such fit."""
    if "template_variance" not in tensors:
        return None
    names = ("templates", "template_variance", "event_amplitudes", "event_rates", "smoothness")
    stored = [tensors[name].double().cpu().numpy() for name in names]
    templates, variance, amplitudes, rates, smoothness = stored
    norms = np.median(amplitudes, axis=1)[:, None, None]
    model = PopulationModel.of_templates(templates * norms, baseline)
    return replace(
        model,
        variance=variance * norms**2,
        rates=rates,
        smoothness=smoothness,
        cost=np.zeros(len(model)),
    )


def population(
    data: Observations, tensors: Mapping[str, Tensor], levels: np.ndarray | None = None
) -> tuple[SpikeList, PopulationModel] | None:
    """Return spikes and model, baselines fitted unless ``levels`` (1, unit) are given, or known.

    None if the events of these data and tensors are not summed from a list of spikes.
    """
    if "template_variance" not in tensors:
        return None
    if (spikes := spikes_of(data, tensors["templates"].shape[2])) is None:
        return None
    if levels is None and not data.learn_baseline:
        levels = data.baseline[:1, 0, :, 0].double().cpu().numpy()
        if not bool((data.baseline == data.baseline[:1]).all()):
            return None
    model = known_model(tensors, np.zeros(spikes.shape[1]) if levels is None else levels[0])
    assert model is not None
    return spikes, fit_baseline(spikes, model) if levels is None else model


def event_table(
    spikes: SpikeList, model: PopulationModel, width: int, listed: Events | None = None
) -> np.ndarray:
    """Return events as a table (event, column) of `COLUMNS`: those listed, or the probable ones."""
    sums = sum_events(spikes, model, with_pairs=True)
    n_windows, _, n_bins = spikes.shape
    n_onsets = n_bins - model.length + 1
    amplitudes = _norms(model)[:, None] * RELATIVE_AMPLITUDES
    tables = []
    for window in range(n_windows):
        chance = np.zeros((1, *amplitudes.shape, n_onsets))
        for c, (at, by_amplitude) in enumerate(sums.possible):
            first, last = np.searchsorted(at, [window * n_bins, (window + 1) * n_bins])
            chance[0, c][:, at[first:last] - window * n_bins] = by_amplitude[first:last].T
        if listed is None:
            table = list_events(chance, amplitudes, width, _LEAST_PROBABILITY)
        else:
            mine = listed.within(window, window + 1)
            places = (x.numpy() for x in (mine.window, mine.template, mine.onset))
            table = describe_events(chance, amplitudes, width, *places)
        table[:, 0] += window
        tables.append(table)
    return np.concatenate(tables)


def evidence_per_window(spikes: SpikeList, model: PopulationModel, family: Family) -> np.ndarray:
    """Return the log likelihood (window,), with all constants, summed over events."""
    ratio = sum_events(spikes, model, with_pairs=True).evidence
    number = spikes.counts()
    count = torch.arange(number.shape[2], dtype=torch.float64)
    eta = torch.from_numpy(model.baseline)[:, None].expand(number.shape[1:])
    log_prob = family.log_prob(count.expand_as(eta), eta).numpy()
    return ratio + np.einsum("nuk,uk->n", number, log_prob)


def drawn_mean(spikes: SpikeList, model: PopulationModel) -> np.ndarray:
    """Return expected counts (window, unit, bin), given events drawn from their posterior."""
    n_windows, n_units, n_bins = spikes.shape
    sums, rng = sum_events(spikes, model, with_pairs=True), np.random.default_rng(0)
    eta = np.empty(spikes.shape, np.float32)  # as many numbers as counts
    eta[:] = model.baseline[:, None]
    between, pattern = crowding(model, spikes.shown.under(model.length)[0]), sums.pattern
    log_idle = float(np.log1p(-model.rates.sum()))
    for window in range(n_windows):
        drawn = np.zeros((n_bins, len(model)), np.bool_)
        bins = slice(window * n_bins, (window + 1) * n_bins)
        uniform = rng.random(n_bins)
        draw_events(sums.weight[bins], log_idle, between, pattern[bins], uniform, drawn)
        for c in range(len(model)):
            at = np.flatnonzero(drawn[:, c])
            chance = sums.shares(at + window * n_bins, c).cumsum(1)
            which = (rng.random((at.size, 1)) > chance[:, :-1]).sum(1)
            for s, amplitude in zip(at, RELATIVE_AMPLITUDES[which], strict=True):
                eta[window, :, s : s + model.length] += amplitude * model.templates[c]
    return np.exp(eta, out=eta)


def _norms(model: PopulationModel) -> np.ndarray:
    return np.maximum(np.linalg.norm(model.templates, axis=(1, 2)), 1e-9)
