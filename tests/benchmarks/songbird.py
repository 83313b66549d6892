"""Sequences in the HVC of a songbird: joint templates and seqNMF.

Events of 75 neurons in 22 s of song, from calcium imaging (Mackevicius, Bahle et al., eLife 2019,
doi:10.7554/eLife.38471); the recording is not part of the project.  Scores are of blocks of bins of
single neurons that are hidden from the fit, so that only the other neurons predict them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import outside
from outside import Found
from scipy.stats import spearmanr
from timing import Row, Settings, Skip

from spikecdl import DCEA, BinnedSpikes, Poisson
from spikecdl.evaluation.metrics import deviance_explained, event_rates, template_error

FILE = Path(__file__).parents[3] / "shared" / "data" / "songbird_hvc" / "songbird_spikes.txt"
_METHODS = tuple(product(("poisson", "binomial"), ("alternating", "marginal")))
_RATE = 30.0  # frames per second
_LENGTH = 20  # bins of a sequence
_N_SEQUENCES = 2
_N_NEURONS, _N_BINS = 75, 667
_HIDDEN = 0.15  # share of blocks of `_LENGTH` bins
_PENALTIES = (0.0, 1e-4, 1e-3)
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
    n_masks = 1 if settings.quick else settings.seeds
    masks = [_mask(seed) for seed in range(n_masks)]
    for method in _METHODS:
        scores = [_held_out(counts, mask, _dcea(counts, method, mask)) for mask in masks]
        name = f"songbird, hidden bins, DCEA, {', '.join(method)}"
        yield Row(name, package=_text(scores), note=_NOTE)
    try:
        scores = [_best_seqnmf(counts, mask) for mask in masks]
        fits = {"seqNMF": _seqnmf(counts, _PENALTIES[-1], 0)}
    except Skip as reason:
        yield Row("songbird, seqNMF", note=f"skipped: {reason}")
        return
    note = f"{_NOTE}; best of {len(_PENALTIES)} penalties by these bins"
    yield Row("songbird, hidden bins, seqNMF", yardstick=_text(scores), note=note)
    for method in _METHODS:
        ours, name = _dcea(counts, method, np.ones_like(counts, dtype=bool)), ", ".join(method)
        agreement = _agreement(ours, fits["seqNMF"])
        yield Row(f"songbird, DCEA, {name}, and seqNMF", note=agreement)
        fits[f"DCEA, {name}"] = ours
    if settings.figures is not None:
        _draw(counts, fits, settings.figures / "songbird.png")


_NOTE = "deviance explained, in brackets with the best shrinkage toward the mean; R^2"


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


def _dcea(counts: np.ndarray, method: tuple[str, str], mask: np.ndarray) -> Fit:
    family, trainer = method
    shown = BinnedSpikes.from_array(counts[None], 1 / _RATE, mask=mask[None])
    length, settings = _LENGTH / _RATE, {"layout": "joint", "trainer": trainer, "random_state": 0}
    parts = DCEA(_N_SEQUENCES, length, family, **settings).fit(shown).decompose(shown)
    rise = np.exp(parts.contributions[0].sum(axis=1))  # of the rate, or of the odds
    baseline = parts.baseline[0][:, None] / _RATE
    odds = baseline / (1 - baseline) * rise
    _, _, template, onset = np.nonzero(parts.codes)
    mean = baseline * rise if family == "poisson" else odds / (1 + odds)
    return Fit(parts.templates, template, onset, mean)


def _seqnmf(counts: np.ndarray, penalty: float, seed: int, mask: np.ndarray | None = None) -> Fit:
    found: Found = outside.seqnmf(counts, _N_SEQUENCES, _LENGTH, penalty, seed, mask)
    template, onset = outside.peaks(found.codes[0], _LENGTH // 2, share=0.2)
    return Fit(found.templates, template, onset, found.mean)


def _best_seqnmf(counts: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    return max(
        (_held_out(counts, mask, _seqnmf(counts, penalty, 0, mask)) for penalty in _PENALTIES),
        key=lambda score: score[1],
    )


def _held_out(counts: np.ndarray, mask: np.ndarray, fit: Fit) -> tuple[float, float, float]:
    """Return the deviance explained of hidden bins, that with the best shrinkage, and R^2."""
    null = ((counts * mask).sum(1, keepdims=True) + 0.5) / (mask.sum(1, keepdims=True) + 1)
    explained = [
        deviance_explained(
            counts,
            np.maximum((1 - share) * fit.mean + share * null, 1e-9),
            null,
            Poisson(),
            mask=~mask,
        )
        for share in _SHRINKAGE
    ]
    left, total = ((counts - guess)[~mask] for guess in (fit.mean, null))
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
