"""Counts and spikes with known templates, events and baselines, drawn from the model itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spikecdl import validation
from spikecdl.data import BinnedSpikes, SpikeTrains, Truth
from spikecdl.data.results import EVENT_COLUMNS, LAYOUTS
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import FAMILIES, Family

if TYPE_CHECKING:
    import pandas as pd

_PAUSE = 0.5  # seconds between the windows of a simulated recording
_SLACK = 1e-6  # relative error of a time that is a whole number of bins
_TICKS = 32  # clock ticks per bin, at the least


def simulate(
    family: str | Family = "binomial",
    templates: Sequence[str] | np.ndarray = ("square", "vee", "cosine"),
    *,
    n_trials: int = 30,
    n_units: int = 10,
    duration: float = 2.0,
    bin_size: float = 0.001,
    template_length: float = 0.05,
    event_rate: float = 2.0,
    n_events: int | None = None,
    gap: float | None = None,
    amplitude: Any = (10.0, 20.0),
    baseline: Any = 8.0,
    same_events: bool = False,
    layout: str = "shared",
    random_state: int | None = None,
) -> BinnedSpikes:
    r"""Draw counts from the model.

    .. math:: y \sim \mathrm{family}(\eta), \qquad \eta = \mu + \sum_c h_c * x_c

    Parameters
    ----------
    family : str or Family
        Observation model; a binomial's ``n_trials`` per bin and recorded trial is 1 unless given
        as ``Binomial(n_trials)``.
    templates : sequence of str, or ndarray (template, channel, bin) or (template, bin)
        Names of shapes (see `spikecdl.simulate.SHAPES`), or waveforms, which are scaled to unit
        norm.  The joint layout has one channel per unit: named shapes stand at random latencies.
    n_trials, n_units : int
        Recorded trials, and units.
    duration : float
        Length of a trial in seconds, a whole number of bins.
    bin_size : float
        Seconds.
    template_length : float
        Seconds, a whole number of bins; of named shapes.
    event_rate : float
        Events per second, of each template in each unit's window (in each trial, when joint).
        Their number is Poisson distributed, given that they fit.
    n_events : int, optional
        Exactly so many events per template and window instead.
    gap : float, optional
        Least time between onsets of the same template in a window, in seconds; default: the
        template's length.
    amplitude : float, (low, high) or frozen scipy.stats distribution
        Law of the codes' amplitudes; a pair is uniform.
    baseline : float or array_like, (unit,) or (trial, unit)
        Rate without events in Hz; for real-valued families the mean, in the signal's unit.
    same_events : bool
        Whether every trial of a unit has the same events, as under a repeated stimulus; such
        trials can be pooled.
    layout : {"shared", "joint"}
        One waveform for every unit's own events, or templates across units and events per trial.
    random_state : int, optional
        Seed.

    Returns
    -------
    BinnedSpikes
        With the templates, events and baselines in ``truth``.

    Raises
    ------
    ValueError
        If an argument is out of range, events do not fit in the windows, or an expected count is
        too large to be drawn.

    Examples
    --------
    >>> counts = simulate("poisson", ["vee"], n_trials=4, n_units=2, duration=1.0, random_state=0)
    >>> counts.shape, counts.truth.templates.shape
    ((4, 2, 1000), (1, 1, 50))
    """
    model = validation.member("family", family, FAMILIES, Family)
    sub_bins, model = model.fixed_trials or 1, model.resolve(torch.tensor(1))
    validation.one_of("layout", layout, LAYOUTS)
    for name, number in (("n_trials", n_trials), ("n_units", n_units)):
        validation.integer(name, number)
    if random_state is not None:
        random_state = validation.integer("random_state", random_state, minimum=0)
    n_bins = _whole("duration", duration, bin_size)
    rng = np.random.default_rng(random_state)
    channels = n_units if layout == "joint" else 1
    waves = _templates(templates, channels, template_length, bin_size, rng)
    if waves.shape[2] > n_bins:
        raise ValueError(f"`duration` (={duration:g} s) is shorter than a template")
    events = _events(
        (1 if same_events else n_trials, 1 if layout == "joint" else n_units, len(waves)),
        n_bins - waves.shape[2] + 1,
        waves.shape[2] if gap is None else _gap_bins(gap, bin_size),
        _at_least_0("event_rate", event_rate, "Hz") * duration,
        n_events,
        rng,
    )
    events["amplitude"] = _amplitudes(amplitude, len(events), rng)
    levels = _levels(baseline, n_trials, n_units)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    if same_events:
        events = _repeat(events, n_trials)
    eta = _eta(model, waves, events, levels, bin_size, n_bins, layout)
    y = model.sample(eta, generator).numpy()
    events["time"] = events.pop("place") * bin_size
    truth = Truth(
        templates=waves,
        events=events.assign(unit=-1 if layout == "joint" else events["unit"])[list(EVENT_COLUMNS)],
        baseline=levels,
        bin_size=bin_size,
        family=model.name,
        layout=layout,
        settings={"random_state": random_state, "same_events": same_events},
    )
    spacing = n_bins + round(_PAUSE / bin_size)
    counts = BinnedSpikes.from_array(
        y.astype(np.int64) if model.integer_valued else y,
        bin_size,
        sub_bins=sub_bins,
        trial_starts=np.arange(n_trials) * spacing * bin_size,
        source="simulation",
        truth=truth,
    )
    return counts if model.integer_valued else replace(counts, counts=y)


def place_spikes(counts: BinnedSpikes, random_state: int | None = None) -> SpikeTrains:
    """Turn counts into spike times: every spike at its own tick of its bin.

    Binning the result with the same bin size gives the counts back exactly.

    Parameters
    ----------
    counts : BinnedSpikes
        Of a count family, all observed, with ``trial_starts``.
    random_state : int, optional
        Seed of the places within bins.

    Raises
    ------
    ValueError
        If the counts are real-valued, pooled, or not observed everywhere.

    Examples
    --------
    >>> counts = simulate("poisson", n_trials=3, n_units=2, n_events=1, random_state=0)
    >>> bool((place_spikes(counts).bin(0.001).counts == counts.counts).all())
    True
    """
    if not counts.is_counts or (counts.n_pooled != 1).any() or np.isnan(counts.trial_starts).any():
        raise ValueError(
            "`counts` must be counts of single trials, all observed, with known starts; pooled "
            "counts and real-valued signals have no spike times"
        )
    rng = np.random.default_rng(random_state)
    ticks = max(_TICKS, int(2 * counts.counts.max()))
    times = [
        np.sort(_times(counts.counts[:, unit], counts, ticks, rng))
        for unit in range(counts.n_units)
    ]
    starts = counts.trial_starts
    stops = starts + counts.duration
    return SpikeTrains.from_arrays(
        times,
        counts.unit_ids,
        observed=(float(starts[0]), float(stops[-1])),
        trials={"start_time": starts, "stop_time": stops},
        clock_rate=ticks / counts.bin_size,
        truth=counts.truth,
        source=counts.source,
    )


def _times(
    counts: np.ndarray, of: BinnedSpikes, ticks: int, rng: np.random.Generator
) -> np.ndarray:
    """Times of one unit's spikes from its counts (trial, bin): distinct ticks of each bin."""
    trial, bin_ = np.nonzero(counts)
    number = counts[trial, bin_]
    order = rng.random((len(number), ticks)).argsort(axis=1)
    rows, rank = np.nonzero(np.arange(ticks) < number[:, None])
    tick = bin_[rows] * ticks + order[rows, rank]
    return of.trial_starts[trial[rows]] + tick * (of.bin_size / ticks)


def _whole(name: str, seconds: float, bin_size: float) -> int:
    """Return a time as a number of bins, which must be whole."""
    ratio = validation.positive(name, seconds, "seconds") / validation.positive(
        "bin_size", bin_size, "seconds"
    )
    if round(ratio) < 1 or abs(ratio - round(ratio)) > _SLACK * ratio:
        raise ValueError(
            f"`{name}` (={seconds!r}) must be a whole number of bins of {bin_size:g} s"
        )
    return round(ratio)


def _templates(
    given: Sequence[str] | np.ndarray,
    channels: int,
    length: float,
    bin_size: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return templates (template, channel, bin) of unit norm."""
    if len(given) and all(isinstance(shape, str) for shape in given):
        n_bins = _whole("template_length", length, bin_size)
        made = [
            waveform(shape, n_bins, rng)[None]
            if channels == 1
            else sequence(shape, channels, n_bins, rng)
            for shape in given
        ]
        return np.stack(made)
    waves = np.asarray(given, dtype=float)
    waves = waves[:, None] if waves.ndim == 2 else waves
    if waves.ndim != 3 or waves.shape[1] != channels or not len(waves):
        raise ValueError(
            f"`templates` {waves.shape} must be names of shapes, or an array (template, channel, "
            f"bin) with {channels} channel{'s' * (channels != 1)}"
        )
    norms = np.linalg.norm(waves, axis=(1, 2), keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ValueError("`templates` must be finite, and none of them zero")
    return waves / norms


def _gap_bins(gap: float, bin_size: float) -> int:
    """Return a time as the number of bins that it takes."""
    return math.ceil(_at_least_0("gap", gap, "seconds") / bin_size - _SLACK)


def _at_least_0(name: str, value: float, unit: str) -> float:
    number = validation.real(name, value, unit)
    if number < 0:
        raise ValueError(f"`{name}` (={value!r}) must not be negative, in {unit}")
    return number


def _events(
    shape: tuple[int, int, int],
    n_places: int,
    gap: int,
    expected: float,
    n_events: int | None,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Draw onsets for every trial, unit and template: all sets that keep the gap are as likely."""
    import pandas as pd

    most = 1 + (n_places - 1) // max(gap, 1)
    if n_events is not None:
        expected = float(validation.integer("n_events", n_events, minimum=0))
    if expected > most:
        raise ValueError(
            f"{expected:g} events of a template do not fit in a window with `gap` {gap} bins (at "
            f"most {most}); lower `event_rate`, `n_events` or `gap`"
        )
    rows = []
    for trial, unit, template in np.ndindex(*shape):
        number = n_events
        while number is None or number > most:
            number = int(rng.poisson(expected))
        free = n_places - max(gap - 1, 0) * (number - 1)
        onsets = np.sort(rng.choice(free, number, replace=False)) if number else np.zeros(0, int)
        onsets = onsets + max(gap - 1, 0) * np.arange(number)
        rows += [(trial, unit, template, int(place)) for place in onsets]
    return pd.DataFrame(rows, columns=["trial", "unit", "template", "place"], dtype=int)


def _amplitudes(law: Any, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw amplitudes from a number, a pair, or a distribution of SciPy."""
    if hasattr(law, "rvs"):
        return np.asarray(law.rvs(size=size, random_state=rng), dtype=float)
    low, high = law if isinstance(law, tuple | list) and len(law) == 2 else (law, law)
    low, high = (validation.real("amplitude", edge) for edge in (low, high))
    if low > high:
        raise ValueError(f"`amplitude` (={law!r}) must be (low, high)")
    return rng.uniform(low, high, size)


def _levels(baseline: Any, n_trials: int, n_units: int) -> np.ndarray:
    """Return baselines per trial and unit."""
    try:
        return np.array(np.broadcast_to(np.asarray(baseline, dtype=float), (n_trials, n_units)))
    except ValueError:
        raise ValueError(
            f"`baseline` (={baseline!r}) must be a number, or of shape (unit,) or (trial, unit) "
            f"= {(n_trials, n_units)}"
        ) from None


def _repeat(events: pd.DataFrame, n_trials: int) -> pd.DataFrame:
    """Give every trial the events of the first."""
    import pandas as pd

    copies = [events.assign(trial=trial) for trial in range(n_trials)]
    return pd.concat(copies, ignore_index=True)


def _eta(
    model: Family,
    waves: np.ndarray,
    events: pd.DataFrame,
    levels: np.ndarray,
    bin_size: float,
    n_bins: int,
    layout: str,
) -> torch.Tensor:
    """Linear predictor (trial, unit, bin), from the same dictionary as the model's."""
    n_trials, n_units = levels.shape
    rows = 1 if layout == "joint" else n_units
    codes = np.zeros((n_trials, rows, len(waves), n_bins - waves.shape[2] + 1))
    index = tuple(events[name] for name in ("trial", "unit", "template", "place"))
    np.add.at(codes, index, events["amplitude"])
    per_bin = torch.as_tensor(levels * (bin_size if model.integer_valued else 1.0))
    mean = model.link_rate(per_bin / model.exposure(per_bin))
    if not torch.isfinite(mean).all():
        raise ValueError(
            f"`baseline` must give rates above 0 and below one spike per slot, in Hz; it runs from "
            f"{levels.min():g} to {levels.max():g} with bins of {bin_size:g} s"
        )
    signal = ConvDictionary(torch.as_tensor(waves))(torch.as_tensor(codes)).detach()
    return signal.reshape(n_trials, n_units, n_bins) + mean[..., None]


_TURN = 25 * 0.2565  # radians that half of the source's cosine template runs through


def square(n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return a step: up for the first half, down for the second."""
    return np.where(np.arange(n_bins) < n_bins / 2, 1.0, -1.0)


def vee(n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return a straight fall and rise, from 1 to -1 and back."""
    return _mirrored(np.linspace(1.0, -1.0, (n_bins + 1) // 2), n_bins)


def cosine(n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return one turn of a cosine and its mirror image."""
    half = (n_bins + 1) // 2
    return _mirrored(np.cos(_TURN / half * np.arange(half)), n_bins)


def smooth(n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random sum of five slow sines that begins and ends at zero."""
    time = (np.arange(n_bins) + 0.5) / n_bins
    order = np.arange(1, 6)
    return np.sin(np.pi * np.outer(time, order)) @ (rng.normal(size=5) / order)


#: Shapes by name: functions of the number of bins and a NumPy random generator.
SHAPES: Mapping[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "square": square,
    "vee": vee,
    "cosine": cosine,
    "smooth": smooth,
}


def waveform(shape: str, n_bins: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return a template of one channel and unit l2 norm.

    Parameters
    ----------
    shape : {"square", "vee", "cosine", "smooth"}
        The first three are those of Tolooshams et al., arXiv:1907.03211, section 5.
    n_bins : int
        Length.
    rng : numpy.random.Generator, optional
        For random shapes.

    Raises
    ------
    ValueError
        If there is no such shape, or fewer than two bins.

    Examples
    --------
    >>> waveform("square", 4)
    array([ 0.5,  0.5, -0.5, -0.5])
    """
    validation.one_of("shape", shape, SHAPES)
    validation.integer("n_bins", n_bins, minimum=2)
    values = SHAPES[shape](n_bins, np.random.default_rng(0) if rng is None else rng)
    return values / np.linalg.norm(values)


def sequence(shape: str, n_units: int, n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return a template across units, (unit, bin) of unit l2 norm.

    Every unit has the waveform, half as long as the template, at a random latency.

    Examples
    --------
    >>> sequence("vee", 3, 20, np.random.default_rng(0)).shape
    (3, 20)
    """
    brief = waveform(shape, max(n_bins // 2, 2), rng)
    template = np.zeros((n_units, n_bins))
    for unit, latency in enumerate(rng.integers(0, n_bins - len(brief) + 1, n_units)):
        template[unit, latency : latency + len(brief)] = brief
    return template / np.linalg.norm(template)


def _mirrored(half: np.ndarray, n_bins: int) -> np.ndarray:
    return np.concatenate([half, half[::-1][n_bins % 2 :]])
