"""Sums over the events of windows of counts: exact, or drawn where three or more overlap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikecdl import kernels
from spikecdl.events.model import ChainPrior, Factors
from spikecdl.solvers.parallel import ALONE, Processes, in_parts

_MOST_FACTORS = 2**22  # of pairs of events in memory at once that windows share
N_PARTS = 8  # sums run over as many parts on any machine, so that they round alike

_sum_windows = kernels.function("sum_windows")
_sample_windows = kernels.function("sample_windows")
_fill_shared_factors = kernels.function("fill_shared_factors")
_add_shared_pairs = kernels.function("add_shared_pairs")


class CountLoss(NamedTuple):
    """A scalar loss, as `Loss`, and what bursts add to the mean (window, row, bin).

    The latter has no bins if there are no bursts.
    """

    kind: int
    a: np.ndarray
    b: np.ndarray
    excess: np.ndarray


class Templates(NamedTuple):
    """Templates (template, row, bin), the amplitudes (template, amplitude) of their events, and
    ``moves`` (template, amplitude, row, bin), the logarithms of the expected factors of rates.
    """

    taps: np.ndarray
    amplitudes: np.ndarray
    moves: np.ndarray


class Sums(NamedTuple):
    """Sums over windows, and over chains.

    The expected number of events (template, amplitude), and (template, onset) if their prior has a
    timing, that of bins in which a chain was idle and none began (1,), and derivatives by
    templates, see `Derivatives`, or those at the events drawn.
    """

    number: np.ndarray
    starts: np.ndarray
    free: np.ndarray
    spikes: np.ndarray
    expected: np.ndarray
    second: np.ndarray


class Drawn(NamedTuple):
    """Events that were drawn; no chains if there are none.

    ``signal`` (chain, window, row, bin) is what they add to the predictor; ``kind`` (chain, window,
    bin) is -1, or where an event begins its template times the number of amplitudes plus its
    amplitude.
    """

    signal: np.ndarray
    kind: np.ndarray

    @classmethod
    def nothing(cls, n_chains: int, shape: tuple[int, int, int]) -> Drawn:
        """Return chains without events, of windows with a shape (window, row, bin)."""
        kind = np.full((n_chains, shape[0], shape[2]), -1, np.int32)
        return cls(np.zeros((n_chains, *shape)), kind)


class Found(NamedTuple):
    """What is found in each window.

    ``evidence`` (window,) is the log likelihood, up to a constant, summed over events, or if they
    are drawn over those of the last chain; ``residual`` and ``curvature`` (window, row, bin) are
    the expected derivatives of the log likelihood by the predictor, or have no windows if events
    are only to be drawn, which leaves out the sums, too; ``posterior`` (window, template,
    amplitude, onset) is the probability of each event, summed over chains, or has no windows if it
    is not asked for; ``drawn`` are the events drawn; ``likelihood`` (window,) is the log likelihood
    given these events.
    """

    evidence: np.ndarray
    residual: np.ndarray
    curvature: np.ndarray
    posterior: np.ndarray
    drawn: Drawn
    likelihood: np.ndarray


class Windows(NamedTuple):
    """Windows of counts, and the model of their events.

    ``z`` (window, row, bin) is the predictor without events.  Where it is constant, the derivatives
    of all bins of a window are in its first, unless ``per_bin``.  Events begin where ``onsets``
    (window, onset) are True, or anywhere if there are no onsets.  Onsets with the same ``pattern``
    (window, onset) differ in the counts from there on alone; there are no windows if no pairs are
    summed.  ``factors`` are those of pairs of each pattern, none if windows have their own.
    """

    loss: CountLoss
    z: np.ndarray
    model: Templates
    prior: ChainPrior
    onsets: np.ndarray
    pattern: np.ndarray
    factors: Factors
    per_bin: bool


def sum_events(
    windows: Windows,
    found: Found,
    uniform: np.ndarray | None = None,
    processes: Processes = ALONE,
) -> Sums:
    """Sum over the events of all windows; fill in ``found`` and return the sums.

    The ``processes`` share the windows, and all have the same in the end.  Windows in which nothing
    was observed are left out: what is found there is 0.  The sum is exact
    for one chain or two; ``uniform`` (1, window, bin + 1), random numbers, then let the events of
    ``found``, which has as many chains, be drawn.  With a row for each chain they make a sweep of
    blocked Gibbs sampling: the events of each chain are drawn given those of the others, whose
    signals are in ``found`` (Jensen, Kong and Kjaerulff, Int. J. Human-Computer Studies 42, 1995).
    """
    z, model, n_kinds = windows.z, windows.model, windows.model.amplitudes.size
    by_template = np.zeros((3, N_PARTS, *model.taps.shape))
    number = np.zeros((N_PARTS, *model.amplitudes.shape))
    starts = np.zeros((N_PARTS, *windows.prior.log_timing.shape))
    free = np.zeros((N_PARTS, 1))
    edges = np.arange(N_PARTS + 1) * len(z) // N_PARTS
    draws = np.empty((0, len(z), z.shape[2] + 1)) if uniform is None else uniform
    shared = _shared_patterns(windows)
    shape = (len(shared), model.taps.shape[2], n_kinds, n_kinds)
    factors = Factors(np.zeros(shape), np.zeros(shape[:2]), np.zeros(shape))
    windows = windows._replace(factors=factors)
    _fill_shared_factors(windows, shared)
    overlaps = np.zeros((N_PARTS, *shape))
    same = {"task": windows, "found": found, "uniform": draws}
    of_all = [kernels.packed("sum_windows", word, value) for word, value in same.items()]

    def work(p: int) -> None:
        sums = Sums(number[p], starts[p], free[p], *by_template[:, p])
        first, end = edges[p : p + 2]
        if first < end and len(draws) < 2:
            _sum_windows(first, end, *of_all, sums, overlaps[p])
        elif first < end:
            _sample_windows(first, end, *of_all, sums)

    mine = processes.share(N_PARTS)
    in_parts(work, mine, z.size * n_kinds * max(1, len(draws)))
    of_windows = (found.evidence, found.residual, found.curvature, found.posterior)
    of_windows = (*of_windows, found.likelihood, *found.drawn.signal, *found.drawn.kind)
    for values in of_windows:
        values[: edges[mine.start]] = values[edges[mine.stop] :] = 0
    processes.fill(*of_windows, number, starts, free, by_template, overlaps)
    sums = Sums(number.sum(0), starts.sum(0), free.sum(0), *by_template.sum(1))
    _add_shared_pairs(windows, shared, overlaps.sum(0), found, sums)
    return sums


def _shared_patterns(windows: Windows) -> np.ndarray:
    """Return the first window and onset (pattern, 2) of each pattern that windows share.

    There are none where derivatives are those of bins, and if there were too many.
    """
    model, pattern, first = windows.model, windows.pattern, np.empty(0, np.int64)
    length, n_kinds = model.taps.shape[2], model.amplitudes.size
    if not windows.per_bin and (pattern.max(initial=-1) + 1) * length * n_kinds**2 < _MOST_FACTORS:
        first = np.unique(pattern, return_index=True)[1]
    return np.stack(np.divmod(first, pattern.shape[1]), 1)
