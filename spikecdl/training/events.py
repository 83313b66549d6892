"""The event model of a fit: from observations to its counts, and from tensors to its events."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from spikecdl.events import em, posterior
from spikecdl.events.counts import Counts
from spikecdl.events.dense import DenseCounts
from spikecdl.events.listed import ListedCounts
from spikecdl.events.model import EventModel
from spikecdl.events.sampling import choose_overlap
from spikecdl.events.spike_list import Shown, list_spikes
from spikecdl.events.table import NEAR
from spikecdl.model.families import Family
from spikecdl.model.observations import Observations
from spikecdl.solvers.events import Events
from spikecdl.solvers.parallel import ALONE, Processes
from spikecdl.training.base import COVARIATES, Learned, Problem

_MOST_BINS = 120_000  # that rates of events are fitted to
_ENOUGH_BINS = 10_000  # that overlaps of given templates are compared in
_STEPS = 8  # of EM that fit rates of events to given templates
_MOST_PATTERNS = 1000  # of bins that were observed under an event, in a list of spikes


def counts_of(
    data: Observations, length: int, overlap: int | None = None, processes: Processes = ALONE
) -> Counts:
    """Return the counts of observations, in the layout in memory that costs least.

    A list of spikes takes units that are observed together, whose loss is exponential and whose
    baselines are constant, and events that may begin anywhere, two at a time; ``length`` is that of
    templates.
    """
    spikes = None
    if overlap is None or overlap <= posterior.EXACT:
        spikes = _listed(data, length)
    if spikes is None:
        return DenseCounts(data, processes)
    start = data.baseline[0, :, :, 0].double().cpu().numpy()
    number = spikes.counts()
    each = data.family.per_trial().log_base(torch.arange(number.shape[2], dtype=torch.float64))
    return ListedCounts(
        spikes._replace(processes=processes),
        data.learn_baseline,
        None if data.learn_baseline else start,
        number.sum(1) @ each.numpy(),
    )


def _listed(data: Observations, length: int):  # type: ignore[no-untyped-def]
    """Return the spikes of a population, or None if they cannot stand for the counts."""
    joint = data.y.shape[1] == 1 and data.y.shape[2] > 1
    constant = data.covariates is None and data.onsets is None and data.baseline.shape[-1] == 1
    if not joint or not constant:
        return None
    known = not data.learn_baseline and not bool((data.baseline == data.baseline[:1]).all())
    one = data.family.map(lambda values: values[:1, :1, :1, :1])
    if known or not has_exponential_loss(one):
        return None
    shown = _shown(data)
    if shown is None or len(Shown(shown).under(length)[0]) > _MOST_PATTERNS:
        return None
    return list_spikes(data.y[:, 0].cpu().numpy(), shown)


def has_exponential_loss(family: Family) -> bool:
    """Return whether events of a population can be summed under a family, from listed spikes."""
    if not (family.is_compiled and family.integer_valued and family.is_known):
        return False
    kind, _, exposure, shift, _ = family.scalar_loss(torch.ones(1, 1, 1, 1))
    return kind == "exponential" and not shift and bool((exposure == 1).all())


def _shown(data: Observations) -> np.ndarray | None:
    """Return in which bins units were observed (trial, bin); None if that differs among them."""
    units = data.mask[:, 0].transpose(0, 1)
    first = units[0]
    if units.stride()[0] and not all(bool((one == first).all()) for one in units):
        return None
    seen = first.cpu() if data.shown is None else first.cpu() & data.shown
    return seen.contiguous().numpy()


def completed(
    problem: Problem, tensors: dict[str, Tensor], events: Events, baseline: Tensor
) -> tuple[dict[str, Tensor], list[list[float]]]:
    """Return the tensors of a model and of its events, and baselines (unit, channel).

    ``events`` and ``baseline`` (trial, unit, channel, bin) are those of the observations.

    Templates are ordered by decreasing number of events, unless their signs or bounds differ.
    Families without compiled cost have no tensors of events, and no baselines.
    """
    levels: list[list[float]] = []
    if problem.data.family.is_compiled:
        if "event_rates" not in tensors:
            data, some = _some_trials(problem.data, events.to("cpu"))
            problem = replace(problem, data=data)
            tensors = tensors | event_rates(problem, tensors, some)
        begin = replace(problem, levels=baseline.double().mean((0, -1)).cpu().numpy())
        levels = event_model(begin, tensors)[1].baseline.tolist()
    used = events.template[events.amplitude != 0]
    count = torch.bincount(used, minlength=problem.n_templates)
    order = (count * (not problem.in_order)).argsort(descending=True, stable=True)
    return {name: x[order] if x.ndim else x for name, x in tensors.items()}, levels


def event_rates(
    problem: Problem, tensors: Mapping[str, Tensor], events: Events
) -> dict[str, Tensor]:
    """Return the tensors of events of given templates, fitted from those of their trainer on."""
    counts = counts_of(problem.data, problem.length)
    model = of_events(tensors["templates"], events, counts.start, known_coefficients(problem))
    model = em.climb(counts, model, _STEPS, learn_templates=False)[0]
    part = counts.part(_ENOUGH_BINS, problem.length)
    model = choose_overlap(part, model, np.random.default_rng(0), learn_templates=False)
    new = model.to_file()
    del new["templates"]
    return {name: x.float() if x.is_floating_point() else x for name, x in new.items()}


def of_events(
    templates: Tensor,
    events: Events,
    baseline: np.ndarray,
    coefficients: np.ndarray | None = None,
) -> EventModel:
    """Return the event model of templates of unit norm, given events of typical amplitude."""
    template, amplitude = events.template.numpy(), events.amplitude.numpy()
    signs = np.unique(np.sign(amplitude)) if len(events) else np.ones(1)
    size = np.abs(amplitude)
    typical = np.median(size) if len(events) else 1.0
    own = [size[template == c] for c in range(len(templates))]
    sizes = np.array([np.median(sizes) if sizes.size else typical for sizes in own])
    scaled = templates.double().cpu().numpy() * sizes[:, None, None]
    model = EventModel.of_templates(scaled, baseline)
    model = replace(model, coefficients=coefficients)
    amplitudes = np.concatenate([sign * model.amplitudes for sign in signs], axis=1)
    rates = np.repeat(model.rates, len(signs), axis=1) / len(signs)
    return replace(model, amplitudes=amplitudes, rates=rates, cost=np.zeros(len(model)))


def _some_trials(data: Observations, events: Events) -> tuple[Observations, Events]:
    """Return evenly spaced trials of at most `_MOST_BINS` bins, and their events."""
    every = max(1, math.ceil(data.y.numel() / _MOST_BINS))
    trial, unit = events.window // data.y.shape[1], events.window % data.y.shape[1]
    taken = events.take(trial % every == 0)
    window = (trial // every * data.y.shape[1] + unit)[trial % every == 0]
    return data.take(slice(None, None, every)), replace(taken, window=window)


def event_model(
    problem: Problem, tensors: Mapping[str, Tensor], levels: np.ndarray | None = None
) -> tuple[Counts, EventModel]:
    """Return counts, and the event model of tensors with their baselines.

    ``levels`` (unit, channel) are the baselines of units; None: fitted to these data.
    """
    data = problem.data
    if "event_rates" not in tensors:
        data.family.scalar_loss(data.y[:1])  # says what is missing
    length, overlap = tensors["templates"].shape[2], int(tensors["overlap"])
    counts = counts_of(data, length, overlap)
    begin = problem.levels if counts.learn_baseline else None
    known = next(x for x in (levels, begin, counts.start) if x is not None)
    model = EventModel.from_file(tensors, known, known_coefficients(problem))
    if int(tensors.get("n_onsets", 0)) != problem.code_shape[1]:
        model = model.with_timing(0)  # as times are others in these windows
    return counts, posterior.with_baseline(counts, model) if levels is None else model


def known_coefficients(known: Problem | Learned) -> np.ndarray | None:
    """Return the coefficients of covariates, if any."""
    found = known.unit_tensors.get(COVARIATES)
    return None if found is None else found.double().cpu().numpy()


def encoded(
    problem: Problem, tensors: Mapping[str, Tensor], width: int
) -> tuple[np.ndarray, Tensor]:
    """Return a table of probable events, see `event_table`, and the baseline of the data."""
    counts, model = event_model(problem, tensors)
    table, eta = posterior.event_table(counts, model.normalized(), width), problem.data.baseline
    if isinstance(counts, ListedCounts):
        level = torch.from_numpy(model.baseline)[..., None].expand(eta.shape)
    else:
        assert isinstance(counts, DenseCounts)
        level = torch.from_numpy(counts.predictor(model) + counts.shift)
        level = level[..., : eta.shape[-1]].reshape(eta.shape)
    return table, level.to(eta)


def evidence(
    problem: Problem, tensors: Mapping[str, Tensor], levels: np.ndarray | None
) -> np.ndarray:
    """Return the log likelihood (trial, unit) of the data, events summed out.

    ``levels`` (unit, channel) are the baselines of units; None: fitted to these data.

    Raises
    ------
    FloatingPointError
        If a log probability of counts is above zero, which cannot be.
    """
    data = problem.data
    counts, model = event_model(problem, tensors, levels)
    found = posterior.evidence(counts, model) + counts.constant
    if data.family.integer_valued and found.max(initial=0.0) > 1e-3 * (1 + np.abs(found).max()):
        raise FloatingPointError(
            f"the log probability of counts is {found.max():.6g}, above zero; please report this"
        )
    return found.reshape(len(data.y), -1)


def certainty(
    problem: Problem, tensors: Mapping[str, Tensor], codes: Tensor, baseline: Tensor
) -> Callable[[], tuple[np.ndarray, Callable[[], np.ndarray]]] | None:
    """Return what computes the fields of `Certainty` of the non-zero codes.

    None for families without compiled cost.
    """
    if "event_rates" not in tensors:
        return None
    known = replace(problem, data=replace(problem.data, baseline=baseline, learn_baseline=False))
    events = Events.from_codes(codes.flatten(0, 1).cpu())
    return partial(_certainty, known, dict(tensors), events)


def _certainty(
    problem: Problem, tensors: dict[str, Tensor], events: Events
) -> tuple[np.ndarray, Callable[[], np.ndarray]]:
    counts, model = event_model(replace(problem, unit_tensors={}), tensors)
    table = posterior.event_table(counts, model.normalized(), round(NEAR * model.length), events)
    return table, partial(_drawn_mean, problem.data, counts, model)


def _drawn_mean(data: Observations, counts: Counts, model: EventModel) -> np.ndarray:
    """Return expected counts (trial, unit, bin), given events drawn from their posterior."""
    rng, rows = np.random.default_rng(0), data.rows().to("cpu")
    mean = np.empty(rows.y.shape, np.float32)
    for part, _, signal in posterior.posterior(counts, model, rng):
        some = rows.take(part).load()
        eta = some.baseline + torch.from_numpy(signal).to(some.baseline)
        mean[part] = some.family.mean(eta).numpy()
    return mean.reshape(len(data.y), -1, data.y.shape[-1])
