"""Sequences in the HVC of a songbird: joint templates, seqNMF and PP-Seq.

Events of 75 neurons in 22 s of song, from calcium imaging (Mackevicius, Bahle et al., eLife 2019,
doi:10.7554/eLife.38471); the recording is not part of the project.  Scores are of blocks of bins of
single neurons that are hidden from the fit, so that only the other neurons predict them.  Each
method is started several times: scores are those of single starts, and of their mean prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import outside
from outside import Found
from scipy.stats import spearmanr
from timing import Row, Settings, Skip

from spikecdl import DCEA, Alternating, BinnedSpikes, Poisson
from spikecdl.baselines import PPSeq
from spikecdl.evaluation.metrics import deviance_explained, event_rates, template_error

FILE = Path(__file__).parents[3] / "shared" / "data" / "songbird_hvc" / "songbird_spikes.txt"
_RATE = 30.0  # frames per second
_LENGTH = 20  # bins of a sequence
_N_SEQUENCES = 2
_N_NEURONS, _N_BINS = 75, 667
_HIDDEN = 0.15  # share of blocks of `_LENGTH` bins
_N_STARTS, _N_CHOOSING = 5, 3  # random states; sets of bins that choose the smoothness
_SMOOTHNESS = (0.0, 0.03, 0.1, 0.2)  # of templates, as a fraction of their length
_PENALTIES = (0.0, 1e-4, 1e-3)
_PP_SEQ = {"spikes_per_event": 30.0, "event_rate": 2.0, "n_sweeps": 600}
_SHRINKAGE = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)  # toward the neuron's mean
_NEAR = 5.0  # bins


@dataclass(frozen=True)
class Fit:
    """Templates (template, neuron, bin), events, and expected events (neuron, bin)."""

    templates: np.ndarray
    template: np.ndarray
    onset: np.ndarray
    mean: np.ndarray


def sequences(settings: Settings) -> Iterator[Row]:
    """Scores of hidden bins, and the agreement of templates and seqNMF."""
    counts = _counts()
    n_masks, n_starts, n_sets = settings.seeds, _N_STARTS, _N_CHOOSING
    if settings.quick:
        n_masks, n_starts, n_sets = 1, 1, 1
    masks = [_mask(seed) for seed in range(n_masks)]
    smoothness = [_chosen_smoothness(counts, mask, n_sets) for mask in masks]
    methods = [_methods(counts, *each) for each in zip(masks, smoothness, strict=True)]
    for name in methods[0]:
        try:
            found = [[fits[name](seed) for seed in range(n_starts)] for fits in methods]
        except Skip as reason:
            yield Row(f"songbird, hidden bins, {name}", note=f"skipped: {reason}")
            continue
        pairs = list(zip(masks, found, strict=True))
        single = [_held_out(counts, mask, fit) for mask, fits in pairs for fit in fits]
        mean = [_held_out(counts, mask, _averaged(fits)) for mask, fits in pairs]
        note = f"{_text(mean)} by the mean of {n_starts} starts; {_NOTE}"
        column = {"package" if name.startswith("DCEA") else "yardstick": _text(single)}
        yield Row(f"songbird, hidden bins, {name}", note=note, **column)
    whole = _methods(counts, np.ones_like(counts, dtype=bool), smoothness[0])
    try:
        fits = {"seqNMF": whole[f"seqNMF, penalty {_PENALTIES[-1]:g}"](0)}
    except Skip:
        return
    for name in (name for name in whole if name.startswith("DCEA")):
        fits[name] = whole[name](0)
        agreement = _agreement(fits[name], fits["seqNMF"])
        yield Row(f"songbird, {name}, and seqNMF", note=agreement)
    if settings.figures is not None:
        _draw(counts, fits, settings.figures / "songbird.png")


_NOTE = "deviance explained, in brackets with the best shrinkage toward the mean; R^2"


def _methods(
    counts: np.ndarray, mask: np.ndarray, smoothness: float
) -> dict[str, Callable[[int], Fit]]:
    """Return ways to fit the bins of a mask, given a random state, by name."""
    smooth = Alternating(smoothness=smoothness)
    methods: dict[str, Callable[[int], Fit]] = {
        "DCEA, marginal": partial(_dcea, counts, "marginal", mask),
        "DCEA, alternating": partial(_dcea, counts, "alternating", mask),
        "DCEA, alternating, smooth": partial(_dcea, counts, smooth, mask),
        "PP-Seq": partial(_pp_seq, counts, mask),
    }
    for penalty in _PENALTIES:
        methods[f"seqNMF, penalty {penalty:g}"] = partial(_seqnmf, counts, penalty, mask)
    return methods


def _chosen_smoothness(counts: np.ndarray, mask: np.ndarray, n_sets: int) -> float:
    """Return the smoothness that predicts best some of the bins shown, hidden in turn."""
    total = np.zeros(len(_SMOOTHNESS))
    for number in range(n_sets):
        shown = mask & _mask(1000 + number)
        for i, smoothness in enumerate(_SMOOTHNESS):
            fit = _dcea(counts, Alternating(smoothness=smoothness), shown, 0)
            total[i] += _held_out(counts, shown, fit, of=mask)[0]
    return _SMOOTHNESS[int(total.argmax())]


def _averaged(fits: list[Fit]) -> Fit:
    """Return the first fit with the mean prediction of all."""
    return replace(fits[0], mean=np.mean([fit.mean for fit in fits], axis=0))


def _counts() -> np.ndarray:
    """Return events (neuron, bin), at most one per bin."""
    if not FILE.exists():
        raise Skip(f"no recording at {FILE}")
    neuron, seconds = np.loadtxt(FILE, unpack=True)
    counts = np.zeros((_N_NEURONS, _N_BINS), dtype=int)
    np.add.at(counts, (neuron.astype(int) - 1, np.floor(seconds * _RATE + 1e-6).astype(int)), 1)
    return counts


def _mask(seed: int) -> np.ndarray:
    """Return a mask of the bins that are shown."""
    n_blocks = -(-_N_BINS // _LENGTH)
    hidden = np.random.default_rng(seed).random((_N_NEURONS, n_blocks)) < _HIDDEN
    return ~np.repeat(hidden, _LENGTH, axis=1)[:, :_N_BINS]


def _shown(counts: np.ndarray, mask: np.ndarray) -> BinnedSpikes:
    return BinnedSpikes.from_array(counts[None], 1 / _RATE, mask=mask[None])


def _dcea(counts: np.ndarray, trainer: Any, mask: np.ndarray, seed: int) -> Fit:
    shown, length = _shown(counts, mask), _LENGTH / _RATE
    settings = {"layout": "joint", "trainer": trainer, "random_state": seed}
    parts = DCEA(_N_SEQUENCES, length, "binomial", **settings).fit(shown).decompose(shown)
    baseline = parts.baseline[0][:, None] / _RATE
    odds = baseline / (1 - baseline) * np.exp(parts.contributions[0].sum(axis=1))
    _, _, template, onset = np.nonzero(parts.codes)
    return Fit(parts.templates, template, onset, odds / (1 + odds))


def _pp_seq(counts: np.ndarray, mask: np.ndarray, seed: int) -> Fit:
    shown = _shown(counts, mask)
    model = PPSeq(_N_SEQUENCES, _LENGTH / _RATE, random_state=seed, **_PP_SEQ).fit(shown)
    onset = np.rint(model.events_["time"] * _RATE - _LENGTH / 2).to_numpy()
    template = model.events_["template"].to_numpy()
    return Fit(model.share_[..., None], template, onset, model.predict(shown)[0])


def _seqnmf(counts: np.ndarray, penalty: float, mask: np.ndarray, seed: int) -> Fit:
    found: Found = outside.seqnmf(counts, _N_SEQUENCES, _LENGTH, penalty, seed, mask)
    template, onset = outside.peaks(found.codes[0], _LENGTH // 2, share=0.2)
    return Fit(found.templates, template, onset, found.mean)


def _held_out(
    counts: np.ndarray, mask: np.ndarray, fit: Fit, of: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Return the deviance explained of hidden bins, that with the best shrinkage, and R^2.

    The bins are those that ``mask`` hides, of those that ``of`` shows.
    """
    hidden = ~mask if of is None else of & ~mask
    null = ((counts * mask).sum(1, keepdims=True) + 0.5) / (mask.sum(1, keepdims=True) + 1)
    explained = [
        deviance_explained(
            counts,
            np.maximum((1 - share) * fit.mean + share * null, 1e-9),
            null,
            Poisson(),
            mask=hidden,
        )
        for share in _SHRINKAGE
    ]
    left, total = ((counts - guess)[hidden] for guess in (fit.mean, null))
    return explained[0], max(explained), 1 - float((left**2).sum() / (total**2).sum())


def _text(scores: list[tuple[float, float, float]]) -> str:
    plain, shrunk, squares = np.mean(scores, axis=0)
    return f"{plain:.3f} ({shrunk:.3f}); {squares:.3f}"


def _agreement(ours: Fit, theirs: Fit) -> str:
    """Describe the agreement of the order of neurons strong in both, and of the events."""
    error = template_error(theirs.templates, np.expm1(np.maximum(_scaled(ours), 0)))
    said = []
    for c, other in enumerate(error.assignment):
        mine, his = ours.templates[c], theirs.templates[other]
        both = _strong(mine) & _strong(his)
        order = spearmanr(mine[both].argmax(axis=1), his[both].argmax(axis=1)).statistic
        times = ours.onset[ours.template == c]
        others = theirs.onset[theirs.template == other] - error.shifts[c]
        rates = event_rates({"time": others}, {"time": times}, _NEAR)
        said.append(
            f"sequence {c + 1}: rank correlation of latencies {order:.2f} ({both.sum()} neurons), "
            f"{rates.hits} of {len(times)} events near one of {len(others)}"
        )
    return "; ".join(said)


def _scaled(fit: Fit) -> np.ndarray:
    """Return templates scaled to a maximum of one log unit, so that they compare as rates."""
    return fit.templates / fit.templates.max(axis=(1, 2), keepdims=True)


def _strong(template: np.ndarray) -> np.ndarray:
    """Mark neurons with a peak above a third of the highest."""
    return template.max(axis=1) > template.max() / 3


def _draw(counts: np.ndarray, fits: Mapping[str, Fit], path: Path) -> None:
    """Draw the events, with neurons ordered by each method's sequences, and their onsets."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(fits), 1, figsize=(11, 3.4 * len(fits)), sharex=True, layout="constrained"
    )
    for ax, (name, fit) in zip(axes, fits.items(), strict=True):
        peaks = fit.templates.max(axis=2) / fit.templates.max(axis=(1, 2))[:, None]
        best = peaks.argmax(axis=0)
        latency = fit.templates[best, np.arange(_N_NEURONS)].argmax(axis=1)
        order = np.lexsort((latency, best))
        neuron, bin_ = np.nonzero(counts[order])
        ax.plot((bin_ + 0.5) / _RATE, neuron, "|", color="#222222", markersize=3)
        for template, colour in zip(range(_N_SEQUENCES), ("#0072B2", "#D55E00"), strict=False):
            for onset in fit.onset[fit.template == template]:
                span = np.array([onset, onset + _LENGTH]) / _RATE
                rows = np.flatnonzero(best[order] == template)
                ax.fill_between(span, rows[0], rows[-1], color=colour, alpha=0.25, linewidth=0)
        ax.set(ylabel="neuron", title=f"{name}: neurons by sequence and latency", xlim=(0, 22.2))
    axes[-1].set_xlabel("time (s)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
