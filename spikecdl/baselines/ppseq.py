"""Sequences as a Neyman-Scott process: PP-Seq (Williams et al., NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np

from spikecdl import kernels, validation
from spikecdl.baselines.psth import PerUnit
from spikecdl.data import BinnedSpikes


class _Sequences(NamedTuple):
    """Parameters (sequence, unit), weights (sequence,), and background (unit,) in Hz."""

    share: np.ndarray
    offset: np.ndarray
    variance: np.ndarray
    weight: np.ndarray
    background: np.ndarray


class _Spikes(NamedTuple):
    """Time, unit and event of each spike; -1 is the background."""

    time: np.ndarray
    unit: np.ndarray
    owner: np.ndarray


class _Prior(NamedTuple):
    """Shape and rate of the gamma prior of amplitudes, events in a second, and the seconds from
    its first spike within which a spike may be of an event.
    """

    shape: float
    rate: float
    per_time: float
    reach: float


class _EventSums(NamedTuple):
    """See `_draw_owners`."""

    total: np.ndarray
    posterior: np.ndarray
    number: np.ndarray
    origin: np.ndarray


_draw = kernels.function("draw_owners")


@dataclass(eq=False, repr=False)
class PPSeq(PerUnit):
    r"""Sequences as a Neyman-Scott process: events cause spikes, in a background of other spikes.

    An event of sequence r at time :math:`\tau` causes a Poisson number of spikes with mean
    :math:`A \sim \mathrm{Gamma}(\alpha, \beta)`.  A spike is of unit n with probability
    :math:`a_{rn}`, at a time from :math:`\mathcal{N}(\tau + b_{rn}, c_{rn})`.  Collapsed Gibbs
    sampling assigns each spike, given the other spikes :math:`X_k` of events, to

    .. math:: \text{event } k \propto (\alpha + |X_k|)\, p(n, t \mid X_k), \quad
              \text{background} \propto (1 + \beta)\, \lambda_n, \quad
              \text{new event} \propto \alpha \psi \Big(\frac{\beta}{1 + \beta}\Big)^{\alpha}
              \sum_r \pi_r a_{rn}

    for rate :math:`\psi` of events and weights :math:`\pi` of sequences.  Parameters are drawn from
    their conjugate posteriors after each sweep.  The prior variance of amplitudes is 100 times
    their mean at first, and lowered to it in 70 % of the sweeps (annealing).  Spikes in bins that
    were not observed are drawn from the model.

    Parameters
    ----------
    n_templates : int
        Number of sequences.
    template_length : float
        Seconds that a sequence lasts; its tenth is the prior of the standard deviation of times.
    spikes_per_event : float
        Expected spikes of an event, in all units.
    event_rate : float
        Expected events of all sequences in a second.
    n_sweeps : int
        Sweeps over all spikes.  Predictions are means over the last fifth.
    random_state : int
        Seed.

    Attributes
    ----------
    events_ : DataFrame
        Events of the last sweep: ``template``, ``time`` (s) and ``n_spikes``.
    share_, offset_, width_ : ndarray, shape (template, unit)
        Of the last sweep: shares of spikes, and mean and standard deviation of their time relative
        to an event (s).

    Raises
    ------
    ValueError
        When fitted, if a number is not positive, or counts are not spikes of a single trial.

    References
    ----------
    Williams, Degleris, Wang and Linderman, NeurIPS 2020, arXiv:2010.04875.

    Examples
    --------
    >>> rate = np.full((8, 2000), 0.01)
    >>> for unit in range(8):
    ...     rate[unit, 100 + 3 * unit :: 200] = 3.0
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(rate)[None], 0.01)
    >>> model = PPSeq(1, 0.3, spikes_per_event=24, n_sweeps=300).fit(counts)
    >>> len(model.events_), model.predict(counts).shape
    (10, (1, 8, 2000))
    """

    n_templates: int = 1
    template_length: float = 0.5
    _: KW_ONLY
    spikes_per_event: float = 30.0
    event_rate: float = 0.5
    n_sweeps: int = 2000
    random_state: int = 0

    def _fit(self, counts: BinnedSpikes) -> None:
        import pandas as pd

        shape = (validation.integer("n_templates", self.n_templates), counts.n_units)
        length = validation.positive("template_length", self.template_length, "seconds")
        validation.integer("n_sweeps", self.n_sweeps)
        for name in ("spikes_per_event", "event_rate"):
            validation.positive(name, getattr(self, name))
        rng = np.random.default_rng(self.random_state)
        first = _Sequences(
            rng.dirichlet(np.full(shape[1], 10.0), shape[0]),
            rng.normal(0, length / 20, shape),
            np.full(shape, (length / 4) ** 2),
            np.full(shape[0], 1 / shape[0]),
            (counts.counts.sum((0, 2)) + 0.5) / (counts.mask.sum((0, 2)) + 1) / counts.bin_size,
        )
        self._sequences, (kind, time, number), _ = self._sample(counts, first, learn=True)
        table = {"template": kind, "time": time + counts.t_start, "n_spikes": number.astype(int)}
        self.events_ = pd.DataFrame(table).sort_values("time", ignore_index=True)
        self.share_, self.offset_, variance, *_ = self._sequences
        self.width_ = np.sqrt(variance)

    def _predict(self, counts: BinnedSpikes) -> np.ndarray:
        return self._sample(counts, self._sequences, learn=False)[2][None]

    def _sample(self, counts: BinnedSpikes, s: _Sequences, learn: bool) -> tuple:
        """Draw events, and parameters if they are learned; return these and expected counts."""
        if not counts.is_counts or len(counts) > 1 or counts.n_pooled.max() > 1:
            raise ValueError("`counts` must be spikes of a single trial, not pooled or a signal")
        rng, bin_size = np.random.default_rng(self.random_state), counts.bin_size
        width, span = self.template_length / 10, bin_size * counts.n_bins
        hidden, y = ~counts.mask[0], np.where(counts.mask[0], counts.counts[0], 0)
        unit, at = (np.repeat(x, y[y > 0].astype(int)) for x in np.nonzero(y))
        time = (at + rng.random(at.size)) * bin_size
        spikes: tuple[np.ndarray, ...] = (time, unit, np.full(at.size, -1))
        rate, n_averaged = np.zeros(y.shape), max(1, round(0.2 * self.n_sweeps))
        for sweep in range(self.n_sweeps):
            heat = 100.0 ** max(0.0, 1 - sweep / (0.7 * self.n_sweeps))  # as in the docstring
            shape, cold = self.spikes_per_event / heat, 1 / heat
            draws = rng.permutation(spikes[0].size), rng.random(spikes[0].size)
            prior = shape, cold, self.event_rate, 20 * width
            events = _draw_events(_draw_owners(spikes, draws, s, prior), spikes, rng)
            if learn:
                s = _draw_sequences(spikes, events, s, width, span, rng)
            kind, time, number = events
            if self.n_sweeps - sweep <= n_averaged:
                mean = (shape + number) / (1 + cold)
                rate += _expected(s, (kind, time, mean), bin_size, y.shape[1]) / n_averaged
            mean = rng.gamma(shape + number) / (1 + cold)
            drawn = _hidden_spikes(s, (kind, time, mean), bin_size, hidden, rng)
            spikes = tuple(np.append(a[: at.size], b) for a, b in zip(spikes, drawn, strict=True))
        return s, events, rate


def _hidden_spikes(s, events, bin_size, hidden, rng):
    """Draw time, unit and event of the spikes in hidden bins (unit, bin)."""
    (kind, when, mean), (unit, at) = events, np.nonzero(hidden)
    idle = rng.poisson(s.background[unit] * bin_size)
    owner = np.repeat(np.arange(len(kind)), rng.poisson(mean))
    below = s.share.cumsum(1)[kind[owner], :-1] < rng.random((owner.size, 1))
    of = kind[owner], below.sum(1)
    time = when[owner] + s.offset[of] + rng.normal(size=owner.size) * np.sqrt(s.variance[of])
    bins = np.floor(time / bin_size).astype(int)
    kept = (bins >= 0) & (bins < hidden.shape[1])
    kept[kept] = hidden[of[1][kept], bins[kept]]
    unit, at = np.repeat(unit, idle), np.repeat(at, idle)
    parts = ((at + 0.5) * bin_size, unit, np.full(at.size, -1)), (time, of[1], owner)
    return [np.append(a, b[kept]) for a, b in zip(*parts, strict=True)]


def _expected(s, events, bin_size, n_bins):
    """Return expected counts (unit, bin), given sequence, time and mean number of events."""
    rate = np.repeat(s.background[:, None] * bin_size, n_bins, axis=1)
    for kind, when, mean in zip(*events, strict=True):
        offset, variance, share = (x[kind, :, None] for x in s[1:3] + s[:1])
        far = np.abs(offset).max() + np.sqrt(50 * variance.max())  # as in `_density`
        ends = np.clip([(when - far) / bin_size, (when + far) / bin_size], 0, n_bins)
        bins = np.arange(*ends.astype(int))
        late = (bins + 0.5) * bin_size - when - offset
        normal = np.exp(-0.5 * late**2 / variance) / np.sqrt(2 * np.pi * variance)
        rate[:, bins] += mean * bin_size * share * normal
    return rate


def _draw_events(sums, spikes, rng):
    """Draw sequence and time of the events, return these and their spikes, and number them anew."""
    total, posterior, number, origin = sums
    alive, owner = np.flatnonzero(number), spikes[2]
    owner[owner >= 0] = np.searchsorted(alive, owner[owner >= 0])
    kind = (posterior[alive].cumsum(1)[:, :-1] < rng.random((alive.size, 1))).sum(1)
    precision, moment = total[alive, kind, 1], total[alive, kind, 2]
    late = moment / precision + rng.normal(size=alive.size) / np.sqrt(precision)
    return kind, origin[alive] + late, number[alive]


def _draw_sequences(spikes, events, s, width, span, rng):
    """Draw the parameters from their posterior, given spikes and events.

    Priors weigh 0.1 spikes for an offset, 4 for a width and 0.3 for the share of a unit.
    """
    (time, unit, owner), (kind, when, _), shape = spikes, events, s.share.shape
    caused = owner >= 0
    late, which = time[caused] - when[owner[caused]], kind[owner[caused]] * shape[1] + unit[caused]
    sums = (np.bincount(which, late**power, s.share.size).reshape(shape) for power in range(3))
    count, total, square = sums
    mean = total / (count + 0.1)
    scale = 4.0 * width**2 + square - mean**2 * (count + 0.1)
    variance = scale / rng.chisquare(4.0 + count)
    offset = rng.normal(mean, np.sqrt(variance / (count + 0.1)))
    share = rng.gamma(0.3 + count) + 1e-12  # above zero, as its logarithm is taken
    weight = rng.gamma(1.0 + np.bincount(kind, minlength=shape[0]))
    background = rng.gamma(1.0 + np.bincount(unit[~caused], minlength=shape[1])) / span
    return _Sequences(
        share / share.sum(1, keepdims=True), offset, variance, weight / weight.sum(), background
    )


def _draw_owners(spikes, draws, s, prior):
    """Draw the event of each spike, or the background (-1), given those of all others.

    Returns sums over the spikes of events (event, sequence, sum), the posterior of their sequence,
    their number of spikes (event,), and an origin (event,) from which times are measured.
    """
    owner, n_sequences = spikes[2], len(s.weight)
    room = owner.max(initial=-1) + 501  # at most 500 new events in a sweep
    shapes = (room, n_sequences, 4), (room, n_sequences), (room,), (room,)
    sums = _EventSums(*map(np.zeros, shapes))
    _draw(_Spikes(*spikes), *draws, s, _Prior(*prior), sums)
    return sums
