"""From counts to observations: the one place where NumPy becomes torch, and back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecdl import config, training, validation
from spikecdl.config import Layout, Settings
from spikecdl.data import BinnedSpikes, Truth, inputs
from spikecdl.data.truth import EVENT_COLUMNS
from spikecdl.model.covariates import Covariates
from spikecdl.model.families import Family, Poisson
from spikecdl.model.history import NO_TERMS, Terms
from spikecdl.solvers.events import Events
from spikecdl.training import Observations, Problem, Trainer, Weight


def rates_of_levels(
    counts: BinnedSpikes, layout: Layout, data: Observations, levels: Any
) -> list[list[float]]:
    """Return expected counts per bin and recorded trial at baselines (unit, channel)."""
    if not len(levels):
        return []
    eta = torch.as_tensor(np.asarray(levels))[..., None]
    _, family, trials = _per_bin(counts, layout, data)
    return (family.mean(eta) / trials)[..., 0].tolist()


def known_levels(
    counts: BinnedSpikes, layout: Layout, data: Observations, known: Sequence[Any], rates: Any
) -> np.ndarray | None:
    """Return the baselines (unit, channel) for other counts, from `rates_of_levels` of a fit.

    None if the baseline is not learned, or units were not in the fit.
    """
    if not data.learn_baseline or not (layout.is_joint or set(counts.unit_ids) <= set(known)):
        return None
    rows = [0] if layout.is_joint else [known.index(unit) for unit in counts.unit_ids]
    y, family, trials = _per_bin(counts, layout, data)
    mean = torch.as_tensor(np.asarray(rates)[rows])[..., None] * trials
    return family.link_rate(mean / family.exposure(y))[..., 0].numpy()


def _per_bin(
    counts: BinnedSpikes, layout: Layout, data: Observations
) -> tuple[Tensor, Family, Tensor]:
    """Return counts, family and recorded trials (unit, channel, 1) of one bin of each unit.

    The others have the same trials and exposure per trial, as `_check_pooling` has made sure.
    """
    trials = torch.from_numpy(layout.expand(trials_everywhere(counts))[0, ..., :1].astype(float))
    one = data.take(slice(1)).between(slice(1)).to("cpu").to(torch.float64).load()
    family = one.family.without_bursts().map(lambda values: values[0, ..., :1])
    return one.y[0, ..., :1], family, trials


def hide(counts: BinnedSpikes, bins: np.ndarray) -> BinnedSpikes:
    """Return counts with the bins where ``bins`` (bin,) is True marked as not observed.

    Their spikes stay in ``past``, so that the history of later bins is as it was.  What is the
    same for all units takes the memory of one.
    """

    def hidden(values: np.ndarray) -> np.ndarray:
        one = values[:, :1] if values.strides[1] == 0 else values
        return np.broadcast_to(np.where(bins, values.dtype.type(0), one), counts.shape)

    mask, n_pooled = hidden(counts.mask), hidden(counts.n_pooled)
    past = counts.counts if counts.past is None else counts.past
    return replace(counts, counts=hidden(counts.counts), mask=mask, n_pooled=n_pooled, past=past)


def hidden_in_turn(n_bins: int, n_folds: int = 4) -> Iterator[np.ndarray]:
    """Yield the bins (bin,) to hide in each fold: every ``n_folds``-th; each is hidden once."""
    for fold in range(min(n_folds, n_bins)):
        yield np.arange(n_bins) % n_folds == fold


def trials_everywhere(counts: BinnedSpikes, each: int = 1) -> np.ndarray:
    """Return ``each * n_pooled``; bins not observed have the largest ``n_pooled`` of their unit.

    If no bin pools trials, the array is a broadcast view of one number.
    """
    most = counts.n_pooled.max((0, 2), keepdims=True).clip(min=1)
    if most.max() == 1:
        return np.broadcast_to(each, counts.shape)
    return np.multiply(np.where(counts.mask, counts.n_pooled, most), each, dtype=np.int32)


def with_sub_bins(counts: BinnedSpikes, family: Family) -> BinnedSpikes:
    """Return counts with ``sub_bins`` set to the Bernoulli trials that the family fixes, if any."""
    per_trial, rest = divmod(family.fixed_trials or 0, max(int(counts.n_pooled.max()), 1))
    return counts if rest or not per_trial else replace(counts, sub_bins=per_trial)


def observe(
    counts: BinnedSpikes,
    family: Family,
    layout: Layout,
    baseline: Any,
    device: torch.device,
    terms: Terms = NO_TERMS,
) -> Observations:
    """Turn counts into the observations that trainers take, and refuse those that do not fit.

    Observations that fit in one part are loaded; others stay in memory or in a file as they are.
    A family without ``n_trials`` takes them from the counts; what else it lacks is estimated around
    the baseline.  That is the baseline of `DCEA`: "learned", (start, stop) in seconds, or rates.
    ``terms`` are what rates depend on.  With drift, the initial baseline of a unit is the same
    in all trials.
    """

    def tensor(values: np.ndarray) -> Tensor:
        return _as_tensor(layout.expand(values))

    def per_bin(n_trials: Tensor) -> Tensor:
        why = "broadcast to the counts (trial, unit, bin) ="
        values = n_trials.cpu().numpy()
        return tensor(validation.broadcast("n_trials", values, counts.shape, why))

    y, family = tensor(counts.counts), family.map(per_bin)
    family = family.resolve(tensor(trials_everywhere(counts, counts.sub_bins)))
    none, learn = torch.zeros(*y.shape[:-1], 1, device=device), isinstance(baseline, str)
    data = Observations(y, tensor(counts.mask), family, none, learn)
    data = data.load() if data.is_one_part else data
    data = replace(data, covariates=_covariates(counts, layout, data, terms))
    _check_support(counts, layout, data)
    _check_pooling(counts, layout, data)
    if learn:
        validation.one_of("baseline", baseline, ("learned",))
        eta = data.mean_baseline()
    elif isinstance(baseline, tuple):
        eta = replace(data, shown=_within(counts, baseline)).mean_baseline()
    else:
        eta = _given_baseline(counts, layout, data, baseline)
    if not torch.isfinite(eta).all():
        raise ValueError(
            f"`baseline` (={baseline!r}) must give expected counts that the family can have: above "
            "0, and below the Bernoulli trials of a bin"
        )
    data = replace(data, baseline=eta)
    if family.is_known:
        return data
    mean = family.mean(eta).flatten(0, -3).expand(-1, -1, y.shape[-1])
    return replace(data, family=data.estimated_family(family, mean))


def near_times(
    data: Observations, counts: BinnedSpikes, length: int, trainer: Trainer
) -> Observations:
    """Return the observations with the onsets of events that the counts allow, if not any.

    Raises ValueError if there are none, or if the trainer does not keep to them.
    """
    if counts.onsets is None:
        return data
    if not trainer.takes_onsets:
        raise ValueError(
            f"`trainer` (={trainer.name!r}) lets events begin anywhere, but these counts allow "
            "some onsets only (`BinnedSpikes.near`); use trainer='alternating' or 'marginal'"
        )
    known = torch.from_numpy(counts.onsets[:, : counts.n_bins - length + 1].copy())
    if not known.any():
        raise ValueError(
            f"no template of {length} bins that begins where events may ends in its window; use "
            "longer windows or shorter templates"
        )
    return replace(data, onsets=known[:, None, None].expand(-1, data.y.shape[1], -1, -1))


def problem(
    settings: Settings,
    counts: BinnedSpikes,
    weight: Weight,
    length: int,
    generator: torch.Generator,
) -> Problem:
    """Return the problem that a `DCEA` poses for counts, with templates of ``length`` bins."""
    trainer, device = settings.trainer, config.device(settings.device)
    bursts = settings.terms.bursts
    if bursts is not None and not trainer.chooses:
        raise ValueError(
            f"`bursts` (={bursts.seconds:g}) needs trainer='marginal', not "
            f"{trainer.name!r}; leave it out"
        )
    about = (settings.family, settings.layout, settings.baseline, device, settings.terms)
    data = observe(counts, *about)
    return Problem(
        data=near_times(data, counts, length, trainer),
        n_templates=settings.n_templates,
        length=length,
        penalty=settings.penalty,
        weight=weight,
        n_epochs=settings.n_epochs,
        generator=generator,
        steps=training.Steps(generator),
        nonnegative=trainer.bounded(settings.n_templates),
    )


def checked_length(length: float, settings: Settings, counts: BinnedSpikes) -> int:
    """Return the length of a template in bins.

    Raises ValueError if it is longer than a window, if more templates, a longer history or a
    faster drift are asked for than counts can tell of, or if a signal has artifacts.
    """
    bins, unit = config.template_bins(length, counts.bin_size, counts.n_bins), "unit of `bin_size`"
    if settings.n_templates * bins > counts.counts.size:
        raise ValueError(
            f"`n_templates` (={settings.n_templates}) of {bins} bins have more values than there "
            f"are counts ({counts.counts.size}); learn fewer, or give more counts"
        )
    for name in ("history", "bursts"):
        term = getattr(settings.terms, name)
        if term is not None and term.seconds > counts.duration:
            raise ValueError(
                f"`{name}` (={term.seconds:g}) is longer than the window ({counts.duration:g}); it "
                f"is in the {unit}"
            )
    drift = settings.terms.drift
    if drift is not None and drift.step < bins * counts.bin_size:
        raise ValueError(
            f"`drift` (={drift.step:g}) is faster than a template is long "
            f"({bins * counts.bin_size:g}); it is in the {unit}"
        )
    inputs.check_artifacts(counts)
    return bins


def drawn(
    counts: BinnedSpikes, y: np.ndarray, templates: np.ndarray, events: Events, settings: Settings
) -> BinnedSpikes:
    """Return counts that were drawn like others, with their events as truth."""
    import pandas as pd

    layout, n_units = settings.layout, counts.n_units
    window, template = events.window.numpy(), events.template.numpy()
    trial, unit = (window, -1) if layout.is_joint else np.divmod(window, n_units)
    times = events.onset.numpy() * counts.bin_size
    values = (trial, unit, template, times, events.amplitude.numpy())
    table = pd.DataFrame(dict(zip(EVENT_COLUMNS, values, strict=True)))
    baseline = np.broadcast_to(np.nanmean(counts.rate(), axis=(0, 2)), (len(counts), n_units))
    about = (counts.bin_size, settings.family.name, layout.name)
    truth = Truth(templates, table, baseline, *about)
    return replace(counts, counts=y.astype(counts.counts.dtype), truth=truth, past=None)


def _covariates(
    counts: BinnedSpikes, layout: Layout, data: Observations, terms: Terms
) -> Covariates | None:
    """Return the covariates of counts, if any; they are for counts of single trials."""
    history, drift, bursts, signals = terms
    for name, term in zip(terms._fields, terms, strict=True):
        asked = f"`{name}` (={validation.shown(term)}) needs" if term else ""
        if asked and not (data.family.integer_valued and counts.is_counts):
            raise ValueError(f"{asked} counts, not a real-valued signal; leave it out")
        if asked and (most := counts.n_pooled.max()) > 1:
            raise ValueError(
                f"{asked} counts of single trials, but up to {most} are pooled; do not pool "
                "trials, or leave it out"
            )
    if bursts is not None and type(data.family) is not Poisson:
        raise ValueError(
            f"`bursts` (={bursts.seconds:g}) needs family='poisson', not {data.family.name!r}; "
            "leave it out"
        )
    if terms == NO_TERMS:
        return None
    if missing := signals.keys() - (counts.signals or {}).keys():
        raise ValueError(
            f"rates depend on signals ({', '.join(sorted(missing))}) that the counts lack; add "
            "them with `with_signals`, or leave them out of the fit (signals=None)"
        )

    past = data.y
    if counts.past is not None:
        past = _as_tensor(layout.expand(counts.past)).to(data.y)

    def rows(values: np.ndarray) -> Tensor:
        spread = np.broadcast_to(values, counts.shape[:2])[..., None]
        return _as_tensor(layout.expand(np.ascontiguousarray(spread))).to(data.baseline.device)

    def in_bins(values: np.ndarray) -> Tensor:
        spread = np.broadcast_to(values.astype(np.float32)[:, None], counts.shape)
        return _as_tensor(layout.expand(spread)).to(data.baseline.device)

    basis = torch.zeros(0, 1) if history is None else history.basis(counts.bin_size)
    return Covariates(
        counts=past,
        unit=rows(np.arange(counts.n_units)),
        start=rows(inputs.starts(counts, drift is not None and drift.in_time)[:, None]),
        bin_size=counts.bin_size,
        basis=basis.to(data.baseline.device),
        drift=drift,
        largest=0.0 if history is not None and history.sign == "negative" else np.inf,
        common=history is not None and history.common,
        n_bursts=0 if bursts is None else bursts.n_lags(counts.bin_size),
        signals=tuple((f, in_bins((counts.signals or {})[n])) for n, f in signals.items()),
    )


def rates(counts: BinnedSpikes, mean: np.ndarray, family: Family) -> np.ndarray:
    """Return expected counts (trial, unit, bin) as rates in Hz per recorded trial.

    Signals of real values keep their unit.  nan where nothing was observed.
    """
    exposure = counts.n_pooled * _count_per_rate(counts, family)
    return mean / np.where(counts.mask, exposure, np.nan)


def baseline_rates(
    counts: BinnedSpikes, layout: Layout, data: Observations, baseline: Tensor
) -> np.ndarray:
    """Return baselines as rates (trial, unit), averaged over observed bins; 0 if there are none."""
    n_pooled, per_trial = layout.rows(counts.n_pooled), _count_per_rate(counts, data.family)

    def terms(some: Observations, part: slice, bins: slice) -> Tensor:
        mean = some.family.without_bursts().mean(some.baseline.expand_as(some.y))
        exposure = torch.from_numpy(n_pooled[part][..., bins] * per_trial).to(mean)
        return torch.stack([mean / exposure, torch.ones_like(mean)])

    rate, number = replace(data, baseline=baseline).sum_bins(terms)
    return (rate / number.clip(min=1)).reshape(counts.shape[:2])


def _as_tensor(values: np.ndarray) -> Tensor:
    """Return a tensor that shares the memory of an array if possible, else a copy."""
    if not any(values.strides):  # a view of one number
        return torch.tensor(values.flat[0]).expand(values.shape)
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    with warnings.catch_warnings():  # torch has no read-only tensors
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)


def _given_baseline(
    counts: BinnedSpikes, layout: Layout, data: Observations, baseline: Any
) -> Tensor:
    """Linear predictor of given rates per recorded trial, (unit,) or (trial, unit)."""
    why = "be 'learned', a (start, stop) pair, or rates of shape (unit,) or (trial, unit) ="
    given = np.asarray(baseline, dtype=float)
    rate = layout.rows(validation.broadcast("baseline", given, counts.shape[:2], why)[..., None])
    rows, n_pooled = data.rows(), layout.rows(counts.n_pooled)
    per_trial, most = _count_per_rate(counts, data.family), []
    for part, some in rows.parts():
        exposure = some.family.exposure(some.y).cpu().numpy().clip(min=1)
        most.append((rate[part] * (n_pooled[part] * per_trial) / exposure).max(-1, keepdims=True))
    of_exposure = torch.as_tensor(np.concatenate(most)).to(data.baseline)
    return data.family.link_rate(of_exposure.reshape_as(data.baseline))


def _within(counts: BinnedSpikes, window: tuple[float, float]) -> Tensor:
    """Mark the bins inside a window of time; every unit must be observed in one of them."""
    if len(window) != 2:
        raise ValueError(
            f"`baseline` (={window!r}) must be a (start, stop) pair in seconds; pass rates as a "
            "list or an array"
        )
    start, stop = (validation.real("baseline", edge, "seconds") for edge in window)
    edges = counts.times
    slack = 1e-6 * counts.bin_size
    inside = (edges >= start - slack) & (edges + counts.bin_size <= stop + slack)
    if not inside.any():
        raise ValueError(
            f"`baseline` (={window!r}) contains no whole bin of the windows, which last from "
            f"{edges[0]:g} to {edges[-1] + counts.bin_size:g} s"
        )
    seen = np.any([mask[:, inside].any(-1) for mask in counts.mask], axis=0)
    unseen = counts.mask.any((0, 2)) & ~seen
    if unseen.any():
        unit = counts.unit_ids[int(unseen.argmax())]
        raise ValueError(
            f"`baseline` (={window!r}) contains no observed bin of unit {unit!r}; choose another "
            "window or other units"
        )
    return torch.from_numpy(inside)


def _count_per_rate(counts: BinnedSpikes, family: Family) -> float:
    """Return the factor from a rate to an expected count per bin and recorded trial."""
    return counts.bin_size if family.integer_valued else 1.0


def _check_support(counts: BinnedSpikes, layout: Layout, data: Observations) -> None:
    """Refuse observed counts outside the support of the family; name the first."""
    stored, exact = layout.rows(counts.counts), 2**24  # counts above round in single precision
    for part, bins, some in data.rows().pieces():
        wrong = (some.family.invalid(some.y)[0] & some.mask).cpu().numpy()
        if data.family.integer_valued:
            wrong |= stored[part][..., bins] > exact
        if not wrong.any():
            continue
        window, channel, at = (int(i[0]) for i in np.nonzero(wrong))
        bin_ = bins.start + at
        row = (part.start + window) * wrong.shape[1] + channel
        trial, unit = divmod(row, counts.n_units)
        value = counts.counts[trial, unit, bin_]
        which = (
            f"count {value} of unit {counts.unit_ids[unit]!r}, trial {counts.trial_ids[trial]!r}, "
            f"bin {bin_}"
        )
        if data.family.integer_valued and value > exact:
            raise ValueError(f"{which} is above {exact}, the largest exact in single precision")
        family = some.family.map(lambda values: values[window, channel, at])  # noqa: B023
        _, support = family.invalid(some.y[window, channel, at])
        remedy = "use smaller bins, another family, or spikecdl.Binomial(n_trials=...)"
        if value < 0:
            remedy = "use the Gaussian family for a real-valued signal"
        kind = type(data.family).__name__
        raise ValueError(f"{which} is outside the support of {kind}: {support}; {remedy}")


def _check_pooling(counts: BinnedSpikes, layout: Layout, data: Observations) -> None:
    """Refuse a varying number of pooled trials if the family does not account for it."""
    if counts.n_pooled.max() <= 1:
        return
    pooled, one = np.where(counts.mask, counts.n_pooled, np.nan), data.load()
    each = layout.squeeze(one.family.exposure(one.y)) / pooled  # nan where not observed
    pooled_least, least = (np.fmin.reduce(values, (0, 2)) for values in (pooled, each))
    pooled_most, most = (np.fmax.reduce(values, (0, 2)) for values in (pooled, each))
    varies = (pooled_most > pooled_least) & (most > (1 + 1e-6) * least)
    if varies.any():
        unit = int(varies.argmax())
        raise ValueError(
            f"the bins of unit {counts.unit_ids[unit]!r} pool from {pooled_least[unit]:g} to "
            f"{pooled_most[unit]:g} trials, which {type(data.family).__name__} would take for "
            "changes of its rate; use family='binomial', which counts trials, or do not pool"
        )
