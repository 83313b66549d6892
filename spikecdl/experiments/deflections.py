"""Recordings of thalamic units under whisker deflection, and events against known onsets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from spikecdl import datasets
from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains, hdf5
from spikecdl.io import read_nwb

if TYPE_CHECKING:
    import pandas as pd

RECORDINGS = tuple(f"dir{d}_stim{s}" for d in (3, 16) for s in (1, 2, 3))
BIN_SIZE = 0.005  # seconds
ONSETS = 0.5 + 0.125 * np.arange(16)  # of the deflections, in seconds
TOLERANCE = 0.01  # seconds
_SAMPLE = 1e-3  # seconds, of the displacement
_DISPLACEMENT = "stimulus/presentation/whisker_displacement/data"
_N_FIRST = 30  # trials that the follow-up paper fits, of 50
_RANDOM_DRAWS = 500  # sets of events at random times

#: Rules by name that mark the trials to fit; the others are the test trials.
SPLITS: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "of the file": lambda trials: trials["split"] == "train",
    "first 30": lambda trials: trials.index.to_series().rank() <= _N_FIRST,
}


def split_counts(spikes: SpikeTrains, split: str) -> tuple[BinnedSpikes, BinnedSpikes]:
    """Return the counts of the trials to fit and of the test trials."""
    assert spikes.trials is not None
    chosen, ids = SPLITS[split](spikes.trials), spikes.trials.index
    fitted, test = (spikes.bin(BIN_SIZE, trials=list(ids[c])) for c in (chosen, ~chosen))
    return fitted, test


@dataclass(frozen=True)
class Recording:
    """Spikes under one stimulus, and that stimulus in the bins of a trial, shape (signal, bin)."""

    name: str
    spikes: SpikeTrains
    stimulus: np.ndarray


def load(folder: Path | None, names: Sequence[str] = RECORDINGS) -> Iterator[Recording]:
    """Yield recordings: NWB files of a folder, or (if None) the published files, downloaded."""
    for name in names:
        if folder is None:
            spikes = datasets.fetch_whisker([name])[name]
            displacement = datasets.whisker_displacement(name)[0]  # the same in all trials
        else:
            path = folder / f"{name}.nwb"
            if not path.exists():
                raise ValueError(
                    f"`data` (={str(folder)!r}) must be a folder that holds {path.name}; leave "
                    "`data` out to download the recordings"
                )
            spikes = read_nwb(path)
            with hdf5.opened(path, "NWB", [_DISPLACEMENT]) as file:
                trials = file[_DISPLACEMENT]
                displacement = trials[: round(3 / _SAMPLE)]
        binned = displacement.reshape(-1, round(BIN_SIZE / _SAMPLE)).mean(axis=1)
        yield Recording(name, spikes, np.stack([binned, np.gradient(binned)]))


def after_onsets(values: np.ndarray, parts: Decomposition) -> np.ndarray:
    """Return values (bin,) averaged over deflections, for as many bins as a template has."""
    first = np.rint((ONSETS - parts.counts.t_start) / BIN_SIZE).astype(int)
    return values[first[:, None] + np.arange(parts.templates.shape[-1])].mean(axis=0)


@dataclass(frozen=True)
class OnsetHits:
    """Agreement of events with known onsets; made by `onset_hits`.

    Chance is that of as many events at random times, each set with its best lags.
    """

    hit_rate: float  # fraction of the onsets with an event within the tolerance
    false_alarm_rate: float  # fraction of the events that hit no onset; nan without events
    lags: tuple[float, ...]  # subtracted from the times of each template's events, in seconds
    chance_hit_rate: float
    p_value: float  # fraction of random sets, and the events, that hit as many onsets or more


def onset_hits(
    times: Sequence[ArrayLike],
    onsets: ArrayLike,
    tolerance: float,
    duration: float,
    bin_size: float,
    generator: np.random.Generator,
) -> OnsetHits:
    """Compare the events of each template with known onsets, all in seconds.

    The onset of a template is a convention, so all events of a template are shifted by the lag, a
    whole number of bins, that hits the most onsets.  The generator draws the random times.

    ``times`` has an array for each template; ``onsets`` are more than twice the tolerance apart.
    """
    known = np.asarray(onsets, dtype=float)
    n_lags = int(np.diff(known).min() / 2 / bin_size)
    lags = bin_size * np.arange(-n_lags, n_lags + 1)
    found = [np.asarray(one, dtype=float) for one in times]
    n_events = sum(map(len, found))
    n_hit, n_near, chosen = _hits(found, known, lags, tolerance)
    drawn = np.empty(_RANDOM_DRAWS)
    for draw in range(_RANDOM_DRAWS):
        random = [generator.uniform(0, duration, len(one)) for one in found]
        drawn[draw], _, _ = _hits(random, known, lags, tolerance)
    return OnsetHits(
        hit_rate=n_hit / len(known),
        false_alarm_rate=1 - n_near / n_events if n_events else float("nan"),
        lags=chosen,
        chance_hit_rate=float(drawn.mean() / len(known)),
        p_value=float((1 + (drawn >= n_hit).sum()) / (1 + _RANDOM_DRAWS)),
    )


def _hits(
    times: Sequence[np.ndarray], onsets: np.ndarray, lags: np.ndarray, tolerance: float
) -> tuple[int, int, tuple[float, ...]]:
    """Return the number of onsets hit, that of events near an onset, and each template's best lag.

    Among lags that hit as many onsets, the best one has the most events near an onset.
    """
    hit, n_near, chosen = np.zeros(len(onsets), dtype=bool), 0, []
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
        chosen.append(float(lags[best]))
    return int(hit.sum()), n_near, tuple(chosen)
