"""What the counts say of their events: probabilities, moments, a draw, and the evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from spikecdl.solvers.event_list import describe_events, list_events
from spikecdl.solvers.event_posterior import Drawn
from spikecdl.solvers.events import Events
from spikecdl.training.base import COVARIATES, Learned, Observations, Problem
from spikecdl.training.event_model import EventModel
from spikecdl.training.overlap import (
    average_runs,
    choose_overlap,
    sampled_baseline,
    sampled_evidence,
)
from spikecdl.training.population_events import (
    drawn_mean,
    event_table,
    evidence_per_window,
    population,
)
from spikecdl.training.summation import Summation

_PART = 2**22  # probabilities of events in memory at once
_LEAST_PROBABILITY = 0.5  # of an event that is listed
_NEAR = 0.125  # of the template's length, within which an event is the same event
_MOST_BINS = 120_000  # that rates of events are fitted to
_SWEEPS = (3, 5)  # that say whether given templates overlap
_STEPS = 8  # of EM that fit rates of events to given templates


def posterior(
    counts: Summation, model: EventModel, width: int, listed: Events | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a table of events, and the signal of events drawn from their posterior.

    Parameters
    ----------
    counts : Summation
    model : EventModel
    width : int
        The probability of an event is that it begins at most so many bins from its onset.
    listed : Events, optional
        The events of the table; None: those of probability 1/2 or more.

    Returns
    -------
    table : ndarray (event, column)
        With the columns `COLUMNS`, times in bins.
    signal : ndarray (window, channel, bin)
        What the events that were drawn add to the predictor.
    """
    rng, tables, signals = np.random.default_rng(0), [], []
    for part in _parts(counts, model):
        some = counts.take(part)
        chance, signal = _probabilities(some, model, rng)
        if listed is None:
            table = list_events(chance, model.amplitudes, width, _LEAST_PROBABILITY)
        else:
            mine = listed.within(part.start, part.stop)
            places = (x.numpy() for x in (mine.window, mine.template, mine.onset))
            table = describe_events(chance, model.amplitudes, width, *places)
        table[:, 0] += part.start
        tables.append(table)
        signals.append(signal)
    return np.concatenate(tables), np.concatenate(signals)


def _parts(counts: Summation, model: EventModel) -> Iterator[slice]:
    """Yield windows whose probabilities of events are in memory at once."""
    n_windows, _, n_bins = counts.shape
    each = max(1, _PART // max(1, model.amplitudes.size * n_bins))
    for first in range(0, n_windows, each):
        yield slice(first, min(first + each, n_windows))


def _probabilities(
    counts: Summation, model: EventModel, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (window, template, amplitude, onset), and the signal of a draw."""
    if model.n_chains > 1:
        return average_runs(counts, model, rng)
    drawn = Drawn.nothing(1, counts.shape)
    uniform = rng.random((1, counts.shape[0], counts.shape[2]))
    return counts.sum(model, True, drawn, uniform)[1].posterior, drawn.signal[0]


def with_baseline(counts: Summation, model: EventModel) -> EventModel:
    """Return the model with the baselines that are most likely, all else as it is."""
    model = counts.fit_baseline(model)
    if model.n_chains == 1 or not counts.learn_baseline:
        return model
    return sampled_baseline(counts, model, np.random.default_rng(0))  # where that is too high


def with_amplitudes(templates: np.ndarray, events: Events, baseline: np.ndarray) -> EventModel:
    """Return the event model of templates of unit norm, given events of typical amplitude."""
    template, amplitude = events.template.numpy(), events.amplitude.numpy()
    signs = np.unique(np.sign(amplitude)) if len(events) else np.ones(1)
    size = np.abs(amplitude)
    typical = np.median(size) if len(events) else 1.0
    own = [size[template == c] for c in range(len(templates))]
    sizes = np.array([np.median(sizes) if sizes.size else typical for sizes in own])
    model = EventModel.of_templates(templates * sizes[:, None, None], baseline)
    amplitudes = np.concatenate([sign * model.amplitudes for sign in signs], axis=1)
    rates = np.repeat(model.rates, len(signs), axis=1) / len(signs)
    return replace(model, amplitudes=amplitudes, rates=rates)


def completed(
    problem: Problem, tensors: dict[str, Tensor], events: Events
) -> tuple[dict[str, Tensor], list[list[float]]]:
    """Return the tensors of a model and of its events, and baselines (unit, channel).

    Templates are ordered by decreasing number of events, unless their signs or bounds differ.
    Families without compiled cost have no tensors of events, and no baselines.
    """
    levels: list[list[float]] = []
    if problem.data.family.is_compiled:
        more, levels = event_rates(problem, tensors, events)
        tensors = tensors | more
    used = events.template[events.amplitude != 0]
    count = torch.bincount(used, minlength=problem.n_templates)
    order = (count * (not problem.in_order)).argsort(descending=True, stable=True)
    return {name: x[order] if x.ndim else x for name, x in tensors.items()}, levels


def event_rates(
    problem: Problem, tensors: Mapping[str, Tensor], events: Events
) -> tuple[dict[str, Tensor], list[list[float]]]:
    """Fit the rates of events, and the baselines of units (unit, channel), to given templates.

    Returns the tensors of the event model that ``tensors`` lacks, and the baselines.  Rates are
    fitted from those of the trainer's events on.
    """
    if (known := population(problem.data, tensors)) is not None:
        return {}, [known[1].baseline.tolist()]
    data, events = _some_trials(problem.data, events.to("cpu"))
    counts = Summation(data)
    if "event_rates" in tensors:
        model = with_baseline(counts, of_problem(counts, problem, tensors))
        return {}, model.baseline.tolist()
    templates = tensors["templates"].double().cpu().numpy()
    begun = with_amplitudes(templates, events, counts.start)
    begun = counts.with_coefficients(begun, known_coefficients(problem))
    model = counts.climb(begun, _STEPS, learn_templates=False)[0].normalized()
    model = choose_overlap(counts, model, events, np.random.default_rng(0), _SWEEPS, False)
    new = to_tensors(model)
    del new["templates"], new["smoothness"]
    new = {name: x.float() if x.is_floating_point() else x for name, x in new.items()}
    return new, with_baseline(counts, model).baseline.tolist()


def _some_trials(data: Observations, events: Events) -> tuple[Observations, Events]:
    """Return evenly spaced trials of at most `_MOST_BINS` bins, and their events."""
    every = max(1, math.ceil(data.y.numel() / _MOST_BINS))
    trial, unit = events.window // data.y.shape[1], events.window % data.y.shape[1]
    kept = events.take(trial % every == 0)
    window = (trial // every * data.y.shape[1] + unit)[trial % every == 0]
    return data.take(slice(None, None, every)), replace(kept, window=window)


def of_problem(counts: Summation, problem: Problem, tensors: Mapping[str, Tensor]) -> EventModel:
    """Return the event model of stored templates of unit norm, with the problem's coefficients."""
    model = to_model(tensors, counts.start).normalized()
    return counts.with_coefficients(model, known_coefficients(problem))


def known_coefficients(known: Problem | Learned) -> np.ndarray | None:
    """Return the coefficients of covariates, if any."""
    found = known.unit_tensors.get(COVARIATES)
    return None if found is None else found.double().cpu().numpy()


def evidence(
    problem: Problem,
    tensors: Mapping[str, Tensor],
    levels: np.ndarray | None,
) -> np.ndarray:
    """Return the log likelihood (trial, unit) of the data, events summed out.

    ``levels`` (unit, channel) are the baselines of units; None: fitted to these data.
    """
    data = problem.data
    if "event_rates" not in tensors:
        data.family.scalar_loss(data.y[:1])  # says what is missing
    if (known := population(data, tensors, levels)) is not None:
        return evidence_per_window(*known, data.family.per_trial())[:, None]
    counts = Summation(data)
    model = of_problem(counts, problem, tensors)
    model = with_baseline(counts, model) if levels is None else replace(model, baseline=levels)
    gain = _evidence(counts, model) - counts.evidence(model.take([]))
    eta = torch.from_numpy(counts.predictor(model) + counts.shift)
    return (gain + _log_prob(data, eta)).reshape(len(data.y), -1)


def _evidence(counts: Summation, model: EventModel) -> np.ndarray:
    """Return the log likelihood (window,) up to a constant; a lower bound where events overlap."""
    if model.n_chains == 1:
        return counts.evidence(model)
    rng, parts = np.random.default_rng(0), _parts(counts, model)
    return np.concatenate([sampled_evidence(counts.take(part), model, rng) for part in parts])


def _log_prob(data: Observations, eta: Tensor) -> np.ndarray:
    """Return the log likelihood (window,) of a linear predictor (window, channel, bin)."""
    found = [
        torch.where(some.mask, some.family.log_prob(some.y.double(), eta[part]), 0).sum((1, 2))
        for part, some in data.rows().to("cpu").parts()
    ]
    return torch.cat(found).numpy()


def certainty(
    problem: Problem, tensors: Mapping[str, Tensor], codes: Tensor, baseline: Tensor
) -> Callable[[], tuple[np.ndarray, Callable[[], np.ndarray]]] | None:
    """Return what computes the fields of `Certainty` of the non-zero codes.

    None for families without compiled cost.
    """
    if "event_rates" not in tensors:
        return None
    data = replace(problem.data, baseline=baseline, learn_baseline=False)
    events = Events.from_codes(codes.flatten(0, 1).cpu())
    return partial(_certainty, data, dict(tensors), events)


def _certainty(
    data: Observations, tensors: dict[str, Tensor], events: Events
) -> tuple[np.ndarray, Callable[[], np.ndarray]]:
    if (known := population(data, tensors)) is not None:
        width = round(_NEAR * known[1].length)
        return event_table(*known, width, events), partial(drawn_mean, *known)
    counts = Summation(data)
    model = to_model(tensors, counts.start).normalized()
    table, signal = posterior(counts, model, round(_NEAR * model.length), events)
    eta = torch.from_numpy(counts.predictor(model) + counts.shift + signal)
    for part, some in data.rows().to("cpu").parts():
        eta[part] = some.family.mean(eta[part])
    drawn = eta.numpy().reshape(len(data.y), -1, data.y.shape[-1])
    return table, lambda: drawn


def to_model(tensors: Mapping[str, Tensor], baseline: np.ndarray) -> EventModel:
    """Return the event model that `to_tensors` has stored."""
    names = ("templates", "event_amplitudes", "event_rates")
    templates, amplitudes, rates = (tensors[name].double().cpu().numpy() for name in names)
    model = EventModel.of_templates(templates, baseline)
    overlap, distance = int(tensors["overlap"]), int(tensors.get("distance", 0))
    model = replace(model, n_chains=overlap, distance=distance)
    if "smoothness" in tensors:
        model = replace(model, smoothness=tensors["smoothness"].double().cpu().numpy())
    sizes = np.median(np.abs(amplitudes), axis=1)
    templates = templates * sizes[:, None, None]
    return replace(model, templates=templates, amplitudes=amplitudes / sizes[:, None], rates=rates)


def to_tensors(model: EventModel) -> dict[str, Tensor]:
    """Return the parameters of templates as tensors, templates of unit norm."""
    unit = model.normalized()
    return {
        "templates": torch.from_numpy(unit.templates),
        "event_amplitudes": torch.from_numpy(unit.amplitudes),
        "event_rates": torch.from_numpy(unit.rates),
        "smoothness": torch.from_numpy(unit.smoothness),
        "overlap": torch.tensor(unit.n_chains),
        "distance": torch.tensor(unit.distance),
    }
