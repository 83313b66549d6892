"""First guesses of bin size, length, trainer and ingredients, and values that look wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikecdl import config, conversion
from spikecdl.config import Arguments, Settings
from spikecdl.data import BinnedSpikes, SpikeTrains, inputs
from spikecdl.data.binning import infer_clock_rate, on_clock
from spikecdl.data.times import intersection, interval_of, union
from spikecdl.model.families import FAMILIES, Family, Poisson
from spikecdl.model.history import Terms
from spikecdl.training import Choices, Chosen, Observations, Weight, has_exponential_loss
from spikecdl.validation import counted, listed, member, names_of

_STEP, _SLOW_STEP = 0.001, 0.01  # seconds; resolution of distances
_STEPS = 500  # farthest distances: 0.5 and 5 seconds
_SMOOTH = 5  # steps of the running mean
_PEAK = 25  # steps that a peak, or a pause between peaks, may last
_MOST_SPIKES, _MOST_NEIGHBOURS = 20_000, 2000  # of a unit, and of a spike, that are used
_ROUND_SIZES = np.array([1, 2, 5, 10, 20, 50, 100]) * 1e-3  # bin sizes, in seconds
_BINS, _FEWEST_BINS, _ROUND_BINS = 25, 20, 5  # per template: about, at least, in multiples of
_SIGNIFICANT = 4.0  # standard errors
_RARE, _OFTEN = 0.5, 6.0  # pairs at short distances, relative to those at most others
_SHORT, _BURST = 5, 12  # steps: not taken for a template; in which the excess of bursts halves
_FAR = np.arange(100, 250)  # steps: where an excess on a slower scale shows its slope

_FAR_BEYOND, _LONG_TRIAL = 10.0, 100.0  # times the session; times the median trial
_TINY = 1e-6  # seconds: no clock is finer
_SAME_TICK, _FAST = 10, 1000.0  # spikes of a unit in one tick; its rate in Hz
_FEW, _MANY = 60_000, 10_000_000  # bins of which marginal training takes seconds, and minutes

# What is tried where ingredients are chosen: seconds of history and of bursts, also where the unit
# of time is the bin; knots of drift, which are at least so many templates apart; steps of signals;
# and shapes.
_HISTORY, _BURSTS, _USUAL_BIN = 0.1, 0.025, 0.005
_KNOTS, _SLOW = (8, 24), 5.0
_SIGNALS = (1, 6)
_SHAPES = tuple(2.0**power for power in range(-5, 7))
_MOST_KNOTS, _FEWEST_WINDOWS = 120, 5  # of the rate of events in the window


def trainer(given: Any, model: Arguments, counts: BinnedSpikes) -> Any:
    """Return the trainer given or, for "auto", the name of that which suits; see `best_trainer`."""
    return best_trainer(model, counts)[0] if given == "auto" else given


def best_trainer(model: Arguments, counts: BinnedSpikes) -> tuple[str, str]:
    """Return the name of the trainer that suits a `DCEA` and counts, and why.

    Marginal for counts of up to 60,000 bins, for single trials of up to ten million bins, without
    history and drift in the joint layout, and for populations whose events are summed from a list
    of spikes.  Alternating for more bins, whose events take minutes to sum, for signals, and for a
    penalty of one's own.
    """
    if not counts.is_counts:
        return "alternating", "the data are signals"
    positive = getattr(model.penalty, "config", dict)() == {"name": "l1", "sign": "positive"}
    if model.penalty_weight is not None or not (model.penalty == "l1" or positive):
        return "alternating", "a penalty is given"
    family = member("family", model.family, FAMILIES, Family)
    single = counts.n_pooled.max() <= 1 and (family.fixed_trials or 1) == 1
    n_bins, given = (
        int(counts.mask.sum()),
        (model.history, model.drift, model.bursts, model.signals),
    )
    constant = all(value in (None, "auto") for value in given)
    joint = model.layout == "joint" and counts.n_units > 1
    population = joint and constant and model.baseline == "learned" and counts.onsets is None
    population = population and has_exponential_loss(family.typical())
    population = population and bool((counts.mask == counts.mask[:, :1]).all())
    minutes = (constant or not joint) and n_bins <= _MANY or population
    if n_bins <= _FEW or single and minutes:
        return "marginal", "events can be summed out in about a minute"
    return "alternating", f"marginal training would take minutes for {n_bins:,} bins"


def choices(
    settings: Settings, counts: BinnedSpikes, weight: Weight, length: int, *rest: Any
) -> Choices | None:
    """Return the ingredients among which a fit chooses by their evidence, if any.

    They are for single trials of a shared layout, and baselines that are learned.
    """
    of_counts = counts.is_counts and settings.family.integer_valued and settings.trainer.chooses
    single = of_counts and counts.n_pooled.max() <= 1
    apart = not settings.layout.is_joint or counts.n_units == 1
    if not (settings.auto and single and apart and isinstance(settings.baseline, str)):
        return None
    bin_size, (start, stop, in_time) = counts.bin_size, inputs.time_span(counts)
    seconds = _USUAL_BIN if bin_size == 1 else bin_size
    n_history, n_bursts = round(_HISTORY / seconds), round(_BURSTS / seconds)
    poisson = type(settings.family) is Poisson
    knots = [(stop - start) / number for number in _KNOTS]
    values: dict[str, Sequence[float]] = {
        "history": [bin_size * max(4, min(n_history, counts.n_bins - 1, 100))],
        "drift": [each for each in knots if each > _SLOW * length * bin_size],
        "bursts": [bin_size * max(1, min(n_bursts, 25))] if poisson else [],
        "dispersion": list(_SHAPES) if poisson else [],
        "timing": [min(_MOST_KNOTS, 2 + 4 * (counts.n_bins - length) // length)],
    }
    if ranges := inputs.signal_ranges(counts):
        values["signals"] = list(_SIGNALS)
    if counts.onsets is not None or len(counts.counts) < _FEWEST_WINDOWS:
        del values["timing"]
    values = {name: values[name] for name in settings.auto if values.get(name)}
    if settings.terms.bursts is not None:
        values.pop("dispersion", None)

    def data(chosen: Mapping[str, float]) -> Observations:
        names = chosen.keys() & {*Terms._fields}
        found = config.terms(chosen, (start, stop, in_time), ranges)
        terms = settings.terms._replace(**{name: getattr(found, name) for name in names})
        family = Chosen(dict(chosen), {}).family(settings.family)
        asked = replace(settings, terms=terms, family=family)
        return conversion.problem(asked, counts, weight, length, *rest).data

    return Choices(values, data)


@dataclass(frozen=True)
class Suggestion:
    """Bin size and template length to begin with, in seconds; made by `suggest`.

    Parameters
    ----------
    bin_size, length : float
        To begin with.
    other_length : float or None
        Length that suits a second time scale, if there is one.
    short : {"refractory", "bursts"} or None
        What sets the shortest distances between spikes, if it is not the rate: too few of them
        (refractory or regular spiking), or so many that they come from bursts.  A fit of single
        trials accounts for it.
    """

    bin_size: float
    length: float
    other_length: float | None = None
    short: str | None = None

    def in_bins(self, bin_size: float | None, length: float | None) -> Suggestion:
        """Return the suggestion with a bin size or a length of one's own, in whole bins."""
        size, long = self.bin_size if bin_size is None else bin_size, length or self.length
        n_bins = max(1, round(long / size))
        if length is None:
            return replace(self, bin_size=size, length=n_bins * size)
        return replace(self, bin_size=bin_size or long / max(n_bins, _FEWEST_BINS), length=long)


def suggest(spikes: SpikeTrains) -> Suggestion:
    """Suggest a template length and a bin size.

    Up to the length, pairs of spikes of a unit are clearly more or fewer than at a constant rate;
    it ends at the first distance at which a periodic rate repeats.  Distances up to half a second
    and up to five seconds are examined; the shortest ones, where refractoriness or bursts rule, are
    left aside.  The bin size is the round number nearest to a 25th of the length.  Time between
    trials does not count.

    Examples
    --------
    >>> spikes_of_event = np.random.default_rng(0).uniform(0, 0.1, (110, 10))
    >>> times = 0.9 * np.arange(110)[:, None] + spikes_of_event
    >>> found = suggest(SpikeTrains.from_arrays([np.sort(times.ravel())]))
    >>> found.bin_size, found.length, found.short
    (0.005, 0.1, None)
    """
    pairs, expected = _pairs(spikes, _STEP)
    short, extent = _short_distances(pairs, expected)
    score = _excess(pairs, expected)
    score[: max(extent, _SHORT)] = 0
    if short == "bursts":  # pairs of bursts come together, and scatter more than single ones
        score /= max(1.0, 1.5 * float(np.median(np.abs(score))))
    fast = _extent(score)
    lengths = [] if fast is None else [fast * _STEP]
    pairs, expected = _pairs(spikes, _SLOW_STEP)
    slow, longest = _extent(_excess(pairs, expected)), np.count_nonzero(expected) / 4
    if slow is not None and _STEPS * _STEP < slow * _SLOW_STEP <= longest * _SLOW_STEP:
        lengths = [*lengths * _is_apart(score), slow * _SLOW_STEP]
    bin_size, length = _round(lengths[0] if lengths else 0.1)
    return Suggestion(bin_size, length, _round(lengths[1])[1] if lengths[1:] else None, short)


def questions(spikes: SpikeTrains) -> list[str]:
    """Return what looks wrong in a recording, one sentence each, as after damage to its file.

    Asked are spikes, and ends of the recording, ten times as late as the session lasts (its trials,
    or 99 % of the spikes), or as far before 0; spikes between 0 and a microsecond, outside the
    observed intervals, ten in one tick of the clock, or off a clock that nine tenths of all are
    on; units above 1 kHz; and trials a hundred times as long as the median.

    Examples
    --------
    >>> questions(SpikeTrains.from_arrays([[1e-300, 0.5, 0.7]], observed=(0.0, 1.0)))
    ['1 spike between 0 and 1 microsecond (of unit 0)']
    """
    rate = spikes.clock_rate or infer_clock_rate(spikes.times, share=0.9)
    ends = np.empty(0)
    if spikes.trials is not None:
        ends = spikes.trials["stop_time"].dropna().to_numpy(dtype=float)
    known = ends if ends.size else np.abs(np.concatenate(spikes.times))
    session = float(np.quantile(known, 0.99)) if known.size else 0.0
    far, tick, more = _FAR_BEYOND * session, 1 / (rate or 1 / _TINY), _SAME_TICK - 1
    asked: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        f"far outside the session of {session:g} s": lambda t, _: np.abs(t) > far,
        "between 0 and 1 microsecond": lambda t, _: (t != 0) & (np.abs(t) < _TINY),
        "outside the observed intervals": lambda t, observed: interval_of(t, observed) < 0,
        f"with {more} more in the same tick of the clock": lambda t, _: t[more:] - t[:-more] < tick,
    }
    if rate is not None:
        asked[f"off the clock of {rate:g} Hz"] = lambda t, _: ~on_clock(t, rate)
    found = []
    trains = list(zip(spikes.unit_ids, spikes.times, spikes.observed, strict=True))
    for what, of in asked.items():
        number = {unit: int(of(times, observed).sum()) for unit, times, observed in trains}
        if units := [unit for unit in number if number[unit]]:
            of_units = f"of unit{'s' * (len(units) > 1)} {listed(units)}"
            found.append(f"{counted(sum(number.values()), 'spike')} {what} ({of_units})")
    for name, edge in (("begins", spikes.t_start), ("ends", spikes.t_stop)):
        if abs(edge) > far > 0:
            found.append(f"the recording {name} at {edge:g} s, the session ends at {session:g} s")
    rates = zip(spikes.unit_ids, spikes.rates, strict=True)
    if fast := [unit for unit, mean in rates if mean > _FAST]:
        found.append(f"units above {_FAST:g} Hz: {listed(fast)}")
    if spikes.trials is not None:
        lengths = (spikes.trials["stop_time"] - spikes.trials["start_time"]).dropna()
        long = lengths.index[lengths > _LONG_TRIAL * lengths.median()]
        if len(long):
            found.append(f"trials {_LONG_TRIAL:g} times as long as the median: {listed(long)}")
    return found


def _round(length: float) -> tuple[float, float]:
    """Return a round bin size, and the length in whole bins."""
    bin_size = float(_ROUND_SIZES[np.abs(np.log(_ROUND_SIZES * _BINS / length)).argmin()])
    n_bins = max(_FEWEST_BINS, _ROUND_BINS * round(length / bin_size / _ROUND_BINS))
    return bin_size, round(n_bins * bin_size, 6)


def _pairs(spikes: SpikeTrains, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of pairs at each distance, and that at constant rates."""
    lags = step * (np.arange(_STEPS) + 0.5)
    pairs, expected = np.zeros(_STEPS), np.zeros(_STEPS)
    for times, observed in zip(spikes.times, spikes.observed, strict=True):
        stop = times[_MOST_SPIKES] if times.size > _MOST_SPIKES else np.inf
        stretches = intersection(observed, np.minimum(_trials(spikes), stop))
        which = interval_of(times, stretches)
        inside = which >= 0
        durations = np.diff(stretches, axis=1)
        if inside.any():
            rate = inside.sum() / durations.sum()
            pairs += _distances(times[inside], which[inside], step)
            expected += rate**2 * step * np.maximum(durations - lags, 0).sum(axis=0)
    return pairs, expected


def _excess(pairs: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the excess of pairs at each distance, in standard errors; its median is 0."""
    pairs, expected = (np.convolve(part, np.ones(_SMOOTH), "same") for part in (pairs, expected))
    excess = (pairs - expected) / _error(expected)
    known = expected > 0
    if known.any():  # slow changes of rate, and pauses between events, move all distances alike
        excess -= np.median(excess[known])
    return np.where(known, excess, 0.0)


def _error(expected: np.ndarray) -> np.ndarray:
    """Return the standard error of numbers of pairs, and of 5 for those below 5."""
    return np.sqrt(np.maximum(expected, 5))


def _short_distances(pairs: np.ndarray, expected: np.ndarray) -> tuple[str | None, int]:
    """Return what rules the shortest distances, if not the rate, and the steps that it lasts."""
    known = expected > 0
    relative = np.divide(pairs, expected, out=np.zeros(_STEPS), where=known)
    level = float(np.median(relative[known])) if known.any() else 0.0
    relative = np.convolve(relative, np.ones(_SMOOTH) / _SMOOTH, "valid")
    found, usual = pairs[:_BURST].sum(), level * expected[:_BURST].sum()
    if abs(found - usual) < _SIGNIFICANT * _error(usual):
        return None, 0
    if relative[0] < _RARE * level:
        return "refractory", 2 * (int(np.argmax(relative > 0.8 * level)) + _SMOOTH // 2)
    peak = int(relative[:_BURST].argmax())
    height = relative[peak] - level
    if height < _OFTEN * level:
        return None, 0
    halved, gone = (
        peak + int(np.argmax(relative[peak:] - level < part * height)) for part in (0.5, 0.1)
    )
    return ("bursts", gone + _SMOOTH) if halved < _BURST else (None, 0)


def _is_apart(score: np.ndarray) -> bool:
    """Whether an excess at short distances stands out from the slope of one at longer ones."""
    slope = np.polynomial.Polynomial.fit(_FAR, score[_FAR], 1)
    rest = score[: _FAR[0]] - slope(np.arange(_FAR[0]))
    return bool(rest.max() > max(_SIGNIFICANT, score.max() / 4))


def _trials(spikes: SpikeTrains) -> np.ndarray:
    """Return the time that trials cover as sorted disjoint intervals; all time without trials."""
    if spikes.trials is None:
        return np.array([[-np.inf, np.inf]])
    spans = spikes.trials[["start_time", "stop_time"]].to_numpy(dtype=float)
    return union(spans[np.isfinite(spans).all(axis=1)])


def _distances(times: np.ndarray, stretch: np.ndarray, step: float) -> np.ndarray:
    """Count the pairs of sorted spikes within a stretch by their distance, in steps."""
    found = np.zeros(_STEPS)
    for apart in range(1, min(times.size, _MOST_NEIGHBOURS)):
        distance = ((times[apart:] - times[:-apart]) / step + 1e-6).astype(int)
        near = (distance < _STEPS) & (stretch[apart:] == stretch[:-apart])
        if not near.any():
            break
        found += np.bincount(distance[near], minlength=_STEPS)
    return found


def _extent(score: np.ndarray) -> int | None:
    """Return the steps to the last clear excess or the first side peak; None without any."""
    threshold = max(_SIGNIFICANT, np.abs(score).max() / 10)
    clear = np.flatnonzero(np.abs(score) > threshold)
    if not clear.size:
        return None
    repeats = _side_peak(score, threshold)
    if repeats is not None:
        return repeats + 1
    quiet = np.flatnonzero(np.diff(clear) > _PEAK)
    return int(clear[quiet[0]] if quiet.size else clear[-1]) + 1


def _side_peak(score: np.ndarray, threshold: float) -> int | None:
    """Return the step at which the excess, after a fall, is back at half its height or more.

    An excess that begins late is a side peak itself: there is one spike in each period.
    """
    begin = int(np.argmax(score > max(threshold, score.max() / 2)))
    if begin > _PEAK:
        return begin + int(score[begin : begin + _PEAK].argmax())
    low = score[begin:] < np.maximum.accumulate(score[begin:]) / 4
    fall = begin + int(np.argmax(low))
    rest = score[fall:]
    if fall == begin or rest.max() < max(threshold, score[:fall].max() / 2):
        return None
    first = int(np.argmax(rest > 0.8 * rest.max()))
    return fall + first + int(rest[first : first + _PEAK].argmax())


__dir__ = names_of(__name__)
