"""Starts of EM for populations: from many stretches of a bounded part of the recording."""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from scipy.ndimage import convolve1d
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from spikecdl.solvers.spike_list import SpikeList, scores, spikes_under
from spikecdl.training.population import PopulationModel, climb, null_baseline, sum_events
from spikecdl.training.steps import Steps

N_STARTS = 3
_LEAST_GAIN = 20.0  # nats, that a template must add
_FEWEST_UNITS = 2  # of a template; one unit alone is no sequence
_MOST_BINS = 30_000  # that starts are found in
_BLOCK = 20  # template lengths of its pieces
_PADDING = 0.4  # bins learned beyond a template, as a fraction of its length
_STRETCHES = 48  # drawn, for each template, from
_CROWD = 3  # times as many
_AVERAGED = (3, 4, 6, 8, 12, 16, 24, 32)  # stretches, in the rounds of sharpening
_ADDED = 20.0  # stretches of the mean rate, added to those averaged
_NOISE = 2.0  # squared standard errors, below which a change is taken away
_OCCUPANCY = 0.15  # of the time by a template that is learned alone
_SHARPEST = 5  # candidates per template that are learned alone
_PROBABLE = 0.5  # events, near which no other template is sought
_SURPLUS = 3  # candidates per template that are learned together
_ALIKE = 0.5  # cosine of templates that are the same
_ALONE, _TOGETHER, _WITHOUT, _AFTER, _LAST = 3, 8, 2, 4, 20  # steps of EM


def unusual_part(spikes: SpikeList, length: int) -> SpikeList:
    """Return a bounded part of the spikes as windows, chosen where the population is most active.

    All of a short recording is returned.
    """
    n_windows, _, n_bins = spikes.shape
    size = min(n_bins, _BLOCK * length)
    if n_windows * n_bins <= max(_MOST_BINS, size):
        return spikes
    each = n_bins // size
    starts = np.arange(n_windows)[:, None] * n_bins + np.arange(each) * size
    active = _activity(spikes, length)
    highest = np.array([active[s : s + size - length + 1].max() for s in starts.ravel()])
    number = max(1, _MOST_BINS // size)
    chosen = np.sort(np.argsort(-highest, kind="stable")[:number])
    return spikes.stretches(starts.ravel()[chosen], size)


def build(
    spikes: SpikeList, n_templates: int, length: int, rng: np.random.Generator
) -> tuple[PopulationModel, float]:
    """Return templates learned from a start, and the objective.

    Stretches far from each other are sharpened, and the most distinct learned alone; then the same
    outside the events of the best, which would draw most stretches to them.  The best of all, more
    than asked, are learned together, and those of which the loss costs least are left out one by
    one.  They are learned longer than asked and cropped to the bins of most energy, which fixes
    their shift.
    """
    longer = min(length + round(_PADDING * length), spikes.shape[2])
    alone: list[tuple[PopulationModel, float]] = []
    taken = np.zeros(len(spikes.first) - 1, np.bool_)
    for _ in range(n_templates):
        found = _alone(spikes, longer, rng, taken)
        alone += found
        taken |= _near_events(spikes, found[0][0]) if found else False
    model, _ = climb(spikes, _best(alone, _SURPLUS * n_templates), _TOGETHER)
    model = _reduced(spikes, model, n_templates)
    extra = min(length // 2, (spikes.shape[2] - longer) // 2)  # for those that begin or end late
    model, _ = climb(spikes, model.padded(extra), _AFTER)
    return _learned(spikes, model.cropped(length)[0])


def _learned(spikes: SpikeList, model: PopulationModel) -> tuple[PopulationModel, float]:
    """Learn until little is gained; pairs of events take longer, and come last."""
    model, _ = climb(spikes, model, _LAST)
    return climb(spikes, model, _AFTER, with_pairs=True)


def _best(alone: list[tuple[PopulationModel, float]], most: int) -> PopulationModel:
    """Return the best models of one template as one model, those that are distinct."""
    ranked = [model for model, _ in sorted(alone, key=lambda each: -each[1])]
    chosen = _distinct(np.concatenate([model.templates for model in ranked]), most)
    return reduce(PopulationModel.joined, [ranked[c] for c in chosen])


def _alone(
    spikes: SpikeList, length: int, rng: np.random.Generator, taken: np.ndarray
) -> list[tuple[PopulationModel, float]]:
    """Return models of one template, the best first, from stretches where no bin is taken."""
    if taken[_activity(spikes, length) >= 0].all():
        return []
    first = _sharpened(spikes, _stretches(spikes, length, _STRETCHES, rng, taken), taken)
    first = first[np.argsort(-_skewness(spikes, first), kind="stable")]
    null, found = null_baseline(spikes), []
    for c in _distinct(first, _SHARPEST):
        model = PopulationModel.of_templates(first[c : c + 1], null, _OCCUPANCY)
        found.append(climb(spikes, model, _ALONE))
    return sorted(found, key=lambda each: -each[1])


def _near_events(spikes: SpikeList, model: PopulationModel) -> np.ndarray:
    """Return the bins (bin,) less than half a template from the onset of a probable event."""
    chance = sum_events(spikes, model, with_pairs=False).posterior.sum(1)
    width = model.length // 2
    near = np.convolve(chance, np.ones(2 * width + 1), mode="same")
    return near > _PROBABLE


def _reduced(spikes: SpikeList, model: PopulationModel, n_templates: int) -> PopulationModel:
    """Leave out templates one by one, each time that of which the loss costs least."""
    while len(model) > n_templates:
        rests = [np.delete(np.arange(len(model)), c) for c in range(len(model))]
        tried = [climb(spikes, model.take(rest), _WITHOUT) for rest in rests]
        model, _ = max(tried, key=lambda each: each[1])
        model, _ = climb(spikes, model, _AFTER)
    return model


def _combined(
    spikes: SpikeList, models: list[PopulationModel], n_templates: int
) -> tuple[PopulationModel, float]:
    """Return the best templates of several models, learned together, and the objective."""
    model = reduce(PopulationModel.joined, models)
    model = _reduced(spikes, model.take(_distinct(model.templates, len(model))), n_templates)
    return _learned(spikes, model)


def search(
    spikes: SpikeList,
    n_templates: int,
    length: int,
    rng: np.random.Generator,
    steps: Steps,
) -> dict[str, Tensor]:
    """Return the most likely model of several starts as tensors, with what the starts say of it.

    ``other`` are the templates of the second best start, and ``gap`` how much lower its objective
    is (nats); ``agreement`` is the mean similarity of its templates with those of the other starts:
    1 if all starts have learned the same.  A template of a single unit, or one that hardly raises
    the evidence less the cost of its prior, becomes zero and has no events.
    """
    part = unusual_part(spikes, length)
    found = []
    for number in range(N_STARTS):

        def start() -> dict[str, Tensor]:
            model, value = build(part, n_templates, length, rng)
            return model.as_tensors() | {"value": torch.tensor(value)}

        found.append(steps(f"start {number + 1} of {N_STARTS}", start, rng))
    found.sort(key=lambda each: -float(each["value"]))
    models = [PopulationModel.from_tensors(each) for each in found]
    values = [float(each["value"]) for each in found]
    similar = [_similarity(models[0].templates, each.templates) for each in models[1:]]
    best, value = models[0], values[0]
    combined, other = _combined(part, models, n_templates)
    if other > value and len(combined) == n_templates:
        best, value = combined, other
    model, second = (
        _filled(m, n_templates) for m in (_with_evidence(part, best, value), models[1])
    )
    more = {"agreement": float(np.mean(similar)), "gap": values[0] - values[1]}
    known = {name: torch.tensor(value) for name, value in more.items()}
    return model.as_tensors() | known | {"other": torch.from_numpy(second.templates)}


def _with_evidence(spikes: SpikeList, model: PopulationModel, value: float) -> PopulationModel:
    """Take the events of templates without which the objective is hardly lower."""
    for c in range(len(model)):
        without = model.without_events([c])
        _, other = climb(spikes, without, _WITHOUT, with_pairs=True)
        n_units = np.count_nonzero(np.abs(model.templates[c]).max(1))
        if value - other < _LEAST_GAIN or n_units < _FEWEST_UNITS:
            model, value = without, other
    return model


def _filled(model: PopulationModel, n_templates: int) -> PopulationModel:
    """Add templates of zeros without events, where fewer were found than asked for."""
    missing = np.arange(n_templates - len(model))
    return model.joined(model.take(0 * missing).without_events(missing)) if missing.size else model


def _distinct(templates: np.ndarray, most: int) -> list[int]:
    """Return the first of the templates that are not much like one before."""
    cosine, chosen = _cosines(templates, templates), [0]
    for c in range(1, len(templates)):
        if len(chosen) < most and (cosine[c, chosen] < _ALIKE).all():
            chosen.append(c)
    return chosen


def _similarity(templates: np.ndarray, others: np.ndarray) -> float:
    """Return the mean cosine of templates and the others most like them, one to one."""
    cosine = _cosines(templates, others)
    return float(cosine[linear_sum_assignment(-cosine)].mean())


def _cosines(templates: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of templates (template, other), at the best shift."""
    size = 2 * templates.shape[2]
    spectra = [np.fft.rfft(each, size, axis=2) for each in (templates, others)]
    products = np.einsum("auf,buf->abf", spectra[0], spectra[1].conj())
    norms = [np.linalg.norm(each, axis=(1, 2)) for each in (templates, others)]
    highest = np.fft.irfft(products, size, axis=2).max(2)
    return highest / np.maximum(np.outer(*norms), 1e-12)


def _activity(spikes: SpikeList, length: int) -> np.ndarray:
    """Return the number of spikes in a template that begins in each bin; minus infinity at ends."""
    n_windows, _, n_bins = spikes.shape
    total = np.append(spikes.first, np.full(length, spikes.first[-1]))
    active = (total[length : length + n_windows * n_bins] - spikes.first[:-1]).astype(float)
    active.reshape(n_windows, n_bins)[:, n_bins - length + 1 :] = -np.inf
    return active


def _stretches(
    spikes: SpikeList, length: int, number: int, rng: np.random.Generator, taken: np.ndarray
) -> np.ndarray:
    """Return stretches of much activity, far from each other by lagged correlation, as templates.

    None begins in a bin that is ``taken``.  They are drawn as the first centres of k-means++
    (Arthur and Vassilvitskii, SODA 2007).
    """
    active = np.where(taken, -np.inf, _activity(spikes, length))
    picked = _highest(active, length, _CROWD * number)
    cut, mean = spikes.stretches(np.array(picked), length), np.exp(null_baseline(spikes))[:, None]
    counts = np.zeros((len(picked), length, spikes.shape[1]))
    np.add.at(counts.reshape(-1, spikes.shape[1]), (_bins(cut), cut.unit), 1.0)
    smooth = convolve1d(counts.transpose(0, 2, 1), _kernel(length), axis=2, mode="constant")
    spectrum = np.fft.rfft((smooth - mean) / np.sqrt(mean), 2 * length, axis=2)
    norms = np.sqrt(np.square((smooth - mean) / np.sqrt(mean)).sum((1, 2)))
    chosen: list[int] = []
    distance = np.ones(len(picked))
    for _ in range(min(number, len(picked))):
        chance = np.square(np.maximum(distance, 1e-9))
        chance[chosen] = 0.0
        chosen.append(int(rng.choice(len(picked), p=chance / chance.sum())))
        products = np.fft.irfft((spectrum * spectrum[chosen[-1]].conj()).sum(1), axis=1).max(1)
        distance = np.minimum(distance, 1 - products / norms / norms[chosen[-1]])
    return np.log((smooth[chosen] + _ADDED * mean) / ((1 + _ADDED) * mean))


def _bins(spikes: SpikeList) -> np.ndarray:
    """Return the bin of each spike."""
    return np.repeat(np.arange(len(spikes.first) - 1), np.diff(spikes.first))


def _kernel(length: int) -> np.ndarray:
    kernel = np.hanning(max(length // 7, 3) + 2)[1:-1]
    return kernel / kernel.sum()


def _sharpened(spikes: SpikeList, templates: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Replace each template by the mean of the stretches most like it that are not ``taken``.

    A single stretch is mostly noise.  More and more stretches are averaged, so that few are wrong
    at any time; changes not much larger than their standard error are taken away, and all are
    small, so that silent bins do not outweigh coincident spikes.
    """
    length = templates.shape[2]
    closed = taken | np.isneginf(_activity(spikes, length))
    kernel, mean = _kernel(length), np.exp(null_baseline(spikes))[:, None]
    width = 1 / np.square(kernel).sum()
    for number in _AVERAGED:
        expected = mean * number
        score = scores(spikes, templates)
        picked = np.zeros_like(score)
        for c, each in enumerate(score.T):
            picked[_highest(np.where(closed, -np.inf, each), length, number), c] = 1.0
        found = convolve1d(spikes_under(spikes, picked, length), kernel, axis=2, mode="nearest")
        change = np.log((found + _ADDED * mean) / (expected + _ADDED * mean))
        excess = np.square(found - expected) * width / expected
        templates = change * np.maximum(0.0, 1 - _NOISE / np.maximum(excess, 1e-9))
    return templates


def _skewness(spikes: SpikeList, templates: np.ndarray) -> np.ndarray:
    """Return the skewness (template,) of scores: large where some stretches are much alike."""
    score = scores(spikes, templates)
    score = (score - score.mean(0)) / np.maximum(score.std(0), 1e-9)
    return (score * score * score).mean(0)


def _highest(value: np.ndarray, length: int, number: int) -> list[int]:
    """Return where values are highest, at least half a template apart; they are changed."""
    found: list[int] = []
    while len(found) < number and value[s := int(value.argmax())] > -np.inf:
        found.append(s)
        value[max(0, s - length // 2) : s + length // 2 + 1] = -np.inf
    return found
