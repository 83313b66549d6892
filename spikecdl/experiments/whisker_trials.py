"""Single trials of thalamic units under whisker deflection: events at known onsets, likelihood.

Every trial is a window with its own events.  Models are fitted to the single trials of some trials
of a stimulus and judged on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import ArrayLike

from spikecdl import datasets
from spikecdl.baselines import BCOMP, GLM, Basis, ConstantRate, onsets
from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
from spikecdl.estimator import DCEA
from spikecdl.evaluation import deviance, heldout
from spikecdl.evaluation.crossvalidation import divide, ratio
from spikecdl.experiments import fitted

if TYPE_CHECKING:
    import pandas as pd

RECORDINGS = tuple(f"dir{d}_stim{s}" for d in (3, 16) for s in (1, 2, 3))
ONSETS = 0.5 + 0.125 * np.arange(16)  # of the deflections, in seconds

#: Rules by name that mark the trials to fit; the others are the test trials.
SPLITS: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "of the file": lambda trials: trials["split"] == "train",
    "first 30": lambda trials: trials.index.to_series().rank() <= 30,  # those of the paper
}


@dataclass(frozen=True)
class Recording:
    """Spikes under one stimulus, and that stimulus in the bins of a trial, shape (signal, bin)."""

    name: str
    spikes: SpikeTrains
    stimulus: np.ndarray
    bin_size: ClassVar = 0.005  # seconds: 25 bins between deflections
    tolerance: ClassVar = 0.01  # seconds, of a hit: two bins, so that chance is a sixth of the time

    def split(self, rule: str) -> tuple[BinnedSpikes, BinnedSpikes]:
        """Return the counts of the trials to fit and of the test trials."""
        assert self.spikes.trials is not None
        chosen, ids = SPLITS[rule](self.spikes.trials), self.spikes.trials.index
        parts = (list(ids[rows]) for rows in (chosen, ~chosen))
        trials, test = (self.spikes.bin(self.bin_size, trials=part) for part in parts)
        return trials, test


def load(folder: Path | None, names: Sequence[str] = RECORDINGS) -> Iterator[Recording]:
    """Yield recordings: NWB files of a folder, or (if None) the published files, downloaded."""
    for name in names:
        if folder is not None and not (folder / f"{name}.nwb").exists():
            raise ValueError(
                f"`data` (={str(folder)!r}) must be a folder that holds {name}.nwb; leave `data` "
                "out to download the recordings"
            )
        spikes = datasets.fetch_whisker([name], folder)[name]
        displacement = datasets.whisker_displacement(name, folder)[0]  # the same in all trials
        binned = displacement.reshape(-1, round(1000 * Recording.bin_size)).mean(axis=1)
        yield Recording(name, spikes, np.stack([binned, np.gradient(binned)]))


def after_onsets(values: np.ndarray, parts: Decomposition) -> np.ndarray:
    """Return values (bin,) averaged over deflections, for as many bins as a template has."""
    first = np.rint((ONSETS - parts.counts.t_start) / parts.counts.bin_size).astype(int)
    return values[first[:, None] + np.arange(parts.templates.shape[-1])].mean(axis=0)


def onset_hits(
    times: Sequence[ArrayLike],
    onsets: ArrayLike,
    duration: float,
    bin_size: float,
    generator: np.random.Generator,
    tolerance: float = Recording.tolerance,
) -> dict[str, float]:
    """Compare the events of each template with known onsets, all in seconds.

    The onset of a template is a convention, so all events of a template are shifted by the lag, a
    whole number of bins, that hits the most onsets.  Chance is that of 500 sets of as many events
    at random times, which the generator draws, each set with its best lags.

    ``times`` has an array for each template; ``onsets`` are more than twice the tolerance apart.
    Returns the fraction of the onsets with an event within the tolerance, the same by chance, the
    fraction of the events that hit no onset (nan without events), and that of the random sets, and
    the events, that hit as many onsets or more.
    """
    known = np.asarray(onsets, dtype=float)
    n_lags = int(np.diff(known).min() / 2 / bin_size)
    lags = bin_size * np.arange(-n_lags, n_lags + 1)
    found = [np.asarray(one, dtype=float) for one in times]
    n_events = sum(map(len, found))
    n_hit, n_near = _hits(found, known, lags, tolerance)
    random = ([generator.uniform(0, duration, len(one)) for one in found] for _ in range(500))
    drawn = np.array([_hits(one, known, lags, tolerance)[0] for one in random])
    return {
        "hit_rate": n_hit / len(known),
        "chance_hit_rate": float(drawn.mean() / len(known)),
        "false_alarm_rate": 1 - n_near / n_events if n_events else float("nan"),
        "hit_p_value": float((1 + (drawn >= n_hit).sum()) / (1 + len(drawn))),
    }


def _hits(
    times: Sequence[np.ndarray], onsets: np.ndarray, lags: np.ndarray, tolerance: float
) -> tuple[int, int]:
    """Return the number of onsets hit, and that of events near an onset, with the best lags.

    Among lags that hit as many onsets, the best one has the most events near an onset.
    """
    hit, n_near = np.zeros(len(onsets), dtype=bool), 0
    between = (onsets[1:] + onsets[:-1]) / 2
    for one in times:
        shifted = one - lags[:, None]  # (lag, event)
        nearest = np.searchsorted(between, shifted)
        close = np.abs(shifted - onsets[nearest]) <= tolerance + 1e-9  # seconds, for rounding
        hits = np.zeros((len(lags), len(onsets)), dtype=bool)
        hits[np.nonzero(close)[0], nearest[close]] = True
        near = close.sum(axis=1)
        best = int(np.lexsort((near, hits.sum(axis=1)))[-1])
        hit |= hits[best]
        n_near += int(near[best])
    return int(hit.sum()), n_near


LENGTH = 0.075  # shorter than the period of the stimulus: events leave gaps
FAMILY: Final = "binomial"
PASTS = (0.05, 0.1, 0.2)  # seconds, of the GLMs' responses to a unit's own spikes


def _dcea(**settings: Any) -> Callable[[int], list]:
    return lambda seed: [DCEA(1, LENGTH, FAMILY, random_state=seed, **settings)]


def _glms(**settings: Any) -> Callable[[int], list]:
    return lambda _: [
        GLM(FAMILY, history=Basis(past, 8, "log_cosine"), ridge=ridge, **settings)
        for past in PASTS
        for ridge in (0.1, 1.0, 10.0)
    ]


HISTORY = "GLM, history"
METHODS: Mapping[str, Callable[[int], list]] = {
    "alternating": _dcea(trainer="alternating"),
    "marginal": _dcea(trainer="marginal"),
    "marginal, history": _dcea(trainer="marginal", history=0.05),
    "BCOMP": lambda seed: [BCOMP(1, LENGTH, FAMILY, random_state=seed)],
    HISTORY: _glms(),
    "GLM, history and known onsets": _glms(stimulus=onsets(ONSETS), response=Basis(0.125, 12)),
}
"""Functions of a seed that make a model by name, or several, of which `chosen` takes one."""


def judge(recording: Recording, split: str, seed: int) -> Iterator[dict[str, Any]]:
    """Fit each method to each unit, and yield the rows of the test trials, see `compared`."""
    trials, test = recording.split(split)
    for index, unit in enumerate(trials.unit_ids):
        seen, unseen = trials.select(units=[index]), test.select(units=[index])
        constant = log_likelihood(unseen, ConstantRate().fit(seen).predict(unseen))
        gains, events = {}, {}
        for name, make in METHODS.items():
            model = fitted(chosen(make(seed), seen), seen)
            events[name] = hits(model, unseen, seed) if hasattr(model, "decompose") else {}
            likelihood = held_out(model, unseen)
            gains[name] = None if likelihood is None else likelihood - constant
        for row in compared(gains, events, unseen.counts.sum(axis=(1, 2))):
            yield {"recording": recording.name, "unit": unit, **row}


def compared(
    gains: Mapping[str, np.ndarray | None], events: Mapping[str, dict], spikes: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield a row for each method, with the scores of its events, if it has any.

    ``bits_per_spike`` is the gain in log likelihood of test trials over a constant rate, and
    ``lead`` the difference to the GLM with history; both with standard errors over trials.  Gains,
    in nats, and spikes are (trial,); None for a method without a likelihood.
    """
    bits = spikes * np.log(2)
    for method, gain in gains.items():
        row = {"method": method, **events[method]}
        if gain is not None:
            row["bits_per_spike"], row["bits_per_spike_se"] = ratio(gain, bits)
            row["lead"], row["lead_se"] = ratio(gain - gains[HISTORY], bits)
        yield row


def chosen(models: list, trials: BinnedSpikes) -> Any:
    """Return the model that gives trials it is not fitted to the highest likelihood.

    Each of five parts of the trials is left out in turn.
    """
    if len(models) == 1:
        return models[0]
    folds = divide(trials, FAMILY, 5).folds

    def likelihood(model: heldout.Estimator) -> float:
        each = ((fitted(model, fold.seen), fold.unseen) for fold in folds)
        return sum(log_likelihood(unseen, model.predict(unseen)).sum() for model, unseen in each)

    return max(models, key=likelihood)


def held_out(model: heldout.Model, counts: BinnedSpikes) -> np.ndarray | None:
    """Return the log likelihood of each trial, (trial,), without codes of these trials.

    It is the evidence of a `DCEA`, whose events are summed out, and the likelihood of a model that
    predicts each bin from the past.  None for a model that has neither.
    """
    if hasattr(model, "evidence"):
        return model.evidence(counts)
    return None if hasattr(model, "decompose") else log_likelihood(counts, model.predict(counts))


def log_likelihood(counts: BinnedSpikes, mean: np.ndarray) -> np.ndarray:
    """Return the log likelihood of each trial, (trial,), for expected counts (trial, unit, bin)."""
    data = heldout.observed(counts, FAMILY)
    eta = data.family.link(torch.from_numpy(heldout.SHARED.expand(mean)))
    return deviance.log_likelihood(data, eta).sum((1, 2))


def hits(model: DCEA, counts: BinnedSpikes, seed: int) -> dict[str, float]:
    """Compare the events in trials with the deflections, with one lag for a template."""
    events = model.decompose(counts).events()
    trial = events["trial"].map({name: k for k, name in enumerate(counts.trial_ids)})
    time = (events["time"] + counts.duration * trial).to_numpy()
    known = (ONSETS + counts.duration * np.arange(len(counts))[:, None]).ravel()
    generator = np.random.default_rng(seed)
    length = counts.duration * len(counts)
    found = onset_hits([time], known, length, counts.bin_size, generator)
    scores = {"n_events": len(events) / len(counts), **found}
    if "probability" in events:
        scores["own_false"] = 1 - float(events["probability"].mean())
    return scores
