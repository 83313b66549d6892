"""Counts and spikes with known templates, events and baselines, drawn from the model itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from spikecdl import validation
from spikecdl.data import LAYOUTS, BinnedSpikes, SpikeTrains, Truth
from spikecdl.data.truth import unit_norm
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import FAMILIES, Family
from spikecdl.model.history import sample_in_time

Rng = np.random.Generator

if TYPE_CHECKING:
    import pandas as pd


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
    history: ArrayLike | Callable[[np.ndarray], np.ndarray] | None = None,
    drift: tuple[float, float] | None = None,
    layout: str = "shared",
    random_state: int | None = None,
) -> BinnedSpikes:
    r"""Draw counts from the model.

    .. math:: y_t \sim \mathrm{family}(\eta_t), \qquad
              \eta_t = \mu + \sum_c (h_c * x_c)_t + \sum_{l \ge 1} f_l\, y_{t-l}
                       + d \sin(2 \pi (t / P + u / U))

    with the history filter f and the drift of unit u of U both zero unless they are given.

    Parameters
    ----------
    family : str or Family
        Observation model; "binomial" has one Bernoulli trial per bin and recorded trial.
    templates : sequence of str, or ndarray (template, channel, bin) or (template, bin)
        Names of `SHAPES`, or waveforms, which are scaled to unit norm.  In the joint layout there
        is one channel per unit, and named shapes are at a random latency in each.
    n_trials, n_units : int
        Recorded trials, and units.
    duration, template_length, bin_size : float
        Length of a trial and of named shapes, both a whole number of bins; in seconds.
    event_rate : float
        Events per second, of each template in each unit's window (in each trial, when joint).
        Their number is Poisson distributed, given that they fit.
    n_events : int, optional
        Exact number of events per template and window, instead of ``event_rate``.
    gap : float, optional
        Least time between onsets of a template in a window (s); default: the template's length.
    amplitude : float, (low, high) or frozen scipy.stats distribution
        Distribution of the codes' amplitudes; a pair is uniform.
    baseline : float or array_like, (unit,) or (trial, unit)
        Rate without events in Hz; for real-valued families the mean, in the signal's unit.
    same_events : bool
        Whether every trial of a unit has the same events, as under a repeated stimulus.
    history : array_like, shape (lag,), or callable, optional
        Change of eta, the log rate, by each spike 1, 2, ... bins ago; or a function of the lag in
        seconds that gives it.  There are no spikes before a trial.
    drift : (amplitude, period), optional
        Size d of a slow sine of eta, and its period P in seconds of the recording; units differ in
        phase.
    layout : {"shared", "joint"}
        One waveform for every unit's own events, or templates across units and events per trial.
    random_state : int, optional
        Seed.

    Returns
    -------
    BinnedSpikes
        With the templates, events and baselines in ``truth``, and ``history`` and ``drift`` in its
        settings.

    Examples
    --------
    >>> counts = simulate("poisson", ["vee"], n_trials=4, n_units=2, duration=1.0, random_state=0)
    >>> counts.shape, counts.truth.templates.shape
    ((4, 2, 1000), (1, 1, 50))
    """
    import pandas as pd

    model = validation.member("family", family, FAMILIES, Family)
    sub_bins, model = model.fixed_trials or 1, model.typical()
    validation.one_of("layout", layout, LAYOUTS)
    validation.integer("n_trials", n_trials)
    validation.integer("n_units", n_units)
    if random_state is not None:
        random_state = validation.integer("random_state", random_state, minimum=0)
    n_bins = validation.whole_bins("duration", duration, bin_size)
    rng = np.random.default_rng(random_state)
    joint = layout == "joint"
    waveforms = _templates(templates, n_units if joint else 1, template_length, bin_size, rng)
    length = waveforms.shape[2]
    if length > n_bins:
        raise ValueError(f"`duration` (={duration:g} s) is shorter than a template")
    gap_bins = length
    if gap is not None:
        gap_bins = math.ceil(validation.non_negative("gap", gap, "seconds") / bin_size - 1e-6)
    expected = validation.non_negative("event_rate", event_rate, "Hz") * duration
    shape = (1 if same_events else n_trials, 1 if joint else n_units, len(waveforms))
    events = random_events(shape, n_bins - length + 1, gap_bins, expected, n_events, rng)
    events["amplitude"] = _amplitudes(amplitude, len(events), rng)
    events["time"] = events["onset"] * bin_size
    if joint:
        events["unit"] = -1
    if same_events:
        copies = [events.assign(trial=trial) for trial in range(n_trials)]
        events = pd.concat(copies, ignore_index=True)
    why = "be a number, or (unit,), or"
    baselines = validation.broadcast(
        "baseline", np.asarray(baseline, float), (n_trials, n_units), why
    )
    settings = {
        **{"random_state": random_state, "same_events": same_events},
        **_slow_and_past(model, history, drift, bin_size * np.arange(1, n_bins)),
    }
    truth = Truth(waveforms, events, baselines.copy(), bin_size, model.name, layout, settings)
    starts = np.arange(n_trials) * (n_bins + round(0.5 / bin_size)) * bin_size  # 0.5 s apart
    values = _observations(model, truth, starts, n_bins, int(rng.integers(2**62)))
    counts = BinnedSpikes.from_array(
        values.astype(np.int64) if model.integer_valued else values,
        bin_size,
        sub_bins=sub_bins,
        trial_starts=starts,
        source="simulation",
        truth=truth,
    )
    return counts if model.integer_valued else replace(counts, counts=values)


def place_spikes(counts: BinnedSpikes, random_state: int | None = None) -> SpikeTrains:
    """Turn counts into spike times, each at a random clock tick of its bin.

    No two spikes of a unit share a tick.  Binning the result with the same bin size gives the same
    counts.

    Raises ValueError unless the values are counts of single trials, all observed, with known
    ``trial_starts``.

    Examples
    --------
    >>> counts = simulate("poisson", n_trials=3, n_units=2, n_events=1, random_state=0)
    >>> bool((place_spikes(counts).bin(0.001).counts == counts.counts).all())
    True
    """
    starts = counts.trial_starts
    if not counts.is_counts or (counts.n_pooled != 1).any() or np.isnan(starts).any():
        raise ValueError(
            "`counts` must be counts of single trials, all observed, with known starts; pooled "
            "counts and real-valued signals have no spike times"
        )
    rng = np.random.default_rng(random_state)
    ticks = max(32, int(2 * counts.counts.max()))  # per bin
    times = []
    for unit in range(counts.n_units):
        trial, bin_ = np.nonzero(counts.counts[:, unit])
        number = counts.counts[trial, unit, bin_]
        order = rng.random((len(number), ticks)).argsort(axis=1)
        rows, rank = np.nonzero(np.arange(ticks) < number[:, None])
        tick = bin_[rows] * ticks + order[rows, rank]
        times.append(np.sort(starts[trial[rows]] + tick * (counts.bin_size / ticks)))
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


def _templates(
    given: Sequence[str] | np.ndarray, channels: int, length: float, bin_size: float, rng: Rng
) -> np.ndarray:
    """Return templates (template, channel, bin) of unit norm."""
    if len(given) and all(isinstance(shape, str) for shape in given):
        n_bins = validation.whole_bins("template_length", length, bin_size)
        if channels == 1:
            return np.stack([waveform(shape, n_bins, rng)[None] for shape in given])
        return np.stack([sequence(shape, channels, n_bins, rng) for shape in given])
    waveforms = unit_norm("templates", given)
    if waveforms.shape[1] != channels:
        raise ValueError(
            f"`templates` {waveforms.shape} must be names of shapes, or an array (template, "
            f"channel, bin) with {validation.counted(channels, 'channel')}"
        )
    return waveforms


def random_events(
    shape: tuple[int, ...], n_onsets: int, gap: int, expected: float, n_events: int | None, rng: Rng
) -> pd.DataFrame:
    """Draw onsets, in bins, for every trial, unit and template of a ``shape``.

    All sets of onsets below ``n_onsets`` that keep the ``gap`` are equally likely.
    """
    import pandas as pd

    most = 1 + (n_onsets - 1) // max(gap, 1)
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
        free = n_onsets - max(gap - 1, 0) * (number - 1)
        onsets = np.sort(rng.choice(free, number, replace=False)) if number else np.zeros(0, int)
        onsets = onsets + max(gap - 1, 0) * np.arange(number)
        rows += [(trial, unit, template, int(onset)) for onset in onsets]
    return pd.DataFrame(rows, columns=["trial", "unit", "template", "onset"], dtype=int)


def _amplitudes(law: Any, size: int, rng: Rng) -> np.ndarray:
    """Draw amplitudes from a number, a pair, or a distribution of SciPy."""
    if hasattr(law, "rvs"):
        return np.asarray(law.rvs(size=size, random_state=rng), dtype=float)
    low, high = law if isinstance(law, tuple | list) and len(law) == 2 else (law, law)
    low, high = (validation.real("amplitude", edge) for edge in (low, high))
    if low > high:
        raise ValueError(f"`amplitude` (={law!r}) must be (low, high)")
    return rng.uniform(low, high, size)


def _slow_and_past(model: Family, history: Any, drift: Any, lags: np.ndarray) -> dict[str, Any]:
    """Return the settings of history and drift, those that are given, as plain numbers."""
    settings: dict[str, Any] = {}
    if history is not None:
        effect = np.asarray(history(lags) if callable(history) else history, dtype=float)
        if effect.ndim != 1 or not np.isfinite(effect).all() or not model.integer_valued:
            raise ValueError(
                f"`history` (shape {effect.shape}) must be finite log rates of shape (lag,), for a "
                "family of counts"
            )
        settings["history"] = np.trim_zeros(effect, "b").tolist()
    if drift is not None:
        if len(drift) != 2:
            raise ValueError(f"`drift` (={drift!r}) must be (amplitude, period)")
        amplitude, period = drift
        settings["drift"] = [
            validation.non_negative("drift", amplitude),
            validation.positive("drift", period, "seconds"),
        ]
    return settings


def _observations(
    model: Family, truth: Truth, starts: np.ndarray, n_bins: int, seed: int
) -> np.ndarray:
    """Draw values (trial, unit, bin) of a model with these templates, events and baselines."""
    n_trials, n_units = truth.baseline.shape
    n_templates, n_channels, length = truth.templates.shape
    codes = np.zeros((n_trials, n_units // n_channels, n_templates, n_bins - length + 1))
    events = truth.events
    onset = (events["time"] / truth.bin_size).round().astype(int)
    index = (events["trial"], events["unit"].clip(lower=0), events["template"], onset)
    np.add.at(codes, index, events["amplitude"])
    per_bin = torch.as_tensor(truth.baseline * (truth.bin_size if model.integer_valued else 1.0))
    mean = model.link_rate(per_bin / model.exposure(per_bin))
    if not torch.isfinite(mean).all():
        raise ValueError(
            "`baseline` must give rates above 0 and below one spike per sub-bin, in Hz; it runs "
            f"from {truth.baseline.min():g} to {truth.baseline.max():g} with bins of "
            f"{truth.bin_size:g} s"
        )
    dictionary = ConvDictionary(torch.tensor(truth.templates))
    signal = dictionary(torch.as_tensor(codes)).detach().reshape(n_trials, n_units, n_bins)
    generator = torch.Generator().manual_seed(seed)
    eta = signal + mean[..., None]
    if "drift" in truth.settings:
        amplitude, period = truth.settings["drift"]
        time = starts[:, None, None] + truth.bin_size * (np.arange(n_bins) + 0.5)
        phase = np.arange(n_units)[:, None] / n_units
        eta = eta + amplitude * torch.as_tensor(np.sin(2 * np.pi * (time / period + phase)))
    effect = torch.tensor(truth.settings.get("history", ()), dtype=eta.dtype)
    if not len(effect):
        return model.sample(eta, generator).numpy()
    return sample_in_time(model, eta, effect, generator).numpy()


def square(n_bins: int, rng: Rng) -> np.ndarray:
    """Return a step: up for the first half, down for the second."""
    return np.where(np.arange(n_bins) < n_bins / 2, 1.0, -1.0)


def vee(n_bins: int, rng: Rng) -> np.ndarray:
    """Return a straight fall and rise, from 1 to -1 and back."""
    return _mirrored(np.linspace(1.0, -1.0, (n_bins + 1) // 2), n_bins)


def cosine(n_bins: int, rng: Rng) -> np.ndarray:
    """Return one turn of a cosine (25 * 0.2565 radians, as in the paper) and its mirror image."""
    half = (n_bins + 1) // 2
    return _mirrored(np.cos(25 * 0.2565 / half * np.arange(half)), n_bins)


def _mirrored(half: np.ndarray, n_bins: int) -> np.ndarray:
    return np.concatenate([half, half[::-1][n_bins % 2 :]])


def smooth(n_bins: int, rng: Rng) -> np.ndarray:
    """Return a random sum of five slow sines that begins and ends at zero."""
    time = (np.arange(n_bins) + 0.5) / n_bins
    order = np.arange(1, 6)
    return np.sin(np.pi * np.outer(time, order)) @ (rng.normal(size=5) / order)


SHAPES: Mapping[str, Callable[[int, Rng], np.ndarray]] = {
    shape.__name__: shape for shape in (square, vee, cosine, smooth)
}
"""Shapes by name: functions of the number of bins and a NumPy random generator."""


def waveform(shape: str, n_bins: int, rng: Rng | None = None) -> np.ndarray:
    """Return a template of one channel and unit l2 norm.

    Parameters
    ----------
    shape : {"square", "vee", "cosine", "smooth"}
        The first three are those of Tolooshams et al., arXiv:1907.03211, section 5.
    n_bins : int
        Length, at least 2.
    rng : numpy.random.Generator, optional
        For random shapes.

    Examples
    --------
    >>> waveform("square", 4)
    array([ 0.5,  0.5, -0.5, -0.5])
    """
    validation.one_of("shape", shape, SHAPES)
    validation.integer("n_bins", n_bins, minimum=2)
    values = SHAPES[shape](n_bins, np.random.default_rng(0) if rng is None else rng)
    return values / np.linalg.norm(values)


def sequence(shape: str, n_units: int, n_bins: int, rng: Rng) -> np.ndarray:
    """Return a template across units, (unit, bin) of unit l2 norm.

    Every unit has the waveform, half as long as the template, at a random latency.

    Examples
    --------
    >>> sequence("vee", 3, 20, np.random.default_rng(0)).shape
    (3, 20)
    """
    half = waveform(shape, max(n_bins // 2, 2), rng)
    template = np.zeros((n_units, n_bins))
    for unit, latency in enumerate(rng.integers(0, n_bins - len(half) + 1, n_units)):
        template[unit, latency : latency + len(half)] = half
    return template / np.linalg.norm(template)


__dir__ = validation.names_of(__name__)
