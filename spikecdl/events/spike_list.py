"""Spikes as a list, and what templates and events make of them, one visit per spike.

Most bins of single units are empty.  With a constant baseline the log-likelihood ratio of an event
of template h and amplitude a that begins in bin s is

.. math:: a \\sum_{(n, t):\\, s \\le t < s + L} h_{n, t - s}
          - \\sum_n e^{\\mu_n} \\sum_k (e^{a h_{n,k}} - 1)

where the first sum is over spikes: unit n, bin t.  Each spike adds the row of its unit, reversed,
to the onsets of the events that would cover it.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from spikecdl import kernels
from spikecdl.solvers.parallel import ALONE, Processes, in_parts

N_PARTS = 16  # sums run over as many parts on any machine, so that they round alike
_PIECE = 2**16  # bins whose spikes are listed at a time; numbers of 16 bits sort fastest

_add_scores = kernels.function("add_spike_scores")
_add_weights = kernels.function("add_spike_weights")


class Shown:
    """Bins in which all units were observed, ``bins`` (window, bin); in the others none was."""

    def __init__(self, bins: np.ndarray) -> None:
        self.bins, self.number = bins, int(bins.sum())
        self._under: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def under(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which bins of an event are shown, and when it is which of them.

        The distinct patterns (pattern, bin) of so many bins, and the number (onset,) of the pattern
        under an event that begins in each bin, through all windows.
        """
        if self.number == self.bins.size:
            return np.ones((1, length), bool), np.zeros(self.bins.size, np.int32)
        if length not in self._under:
            n_onsets = self.bins.shape[1] - length + 1
            digits = np.random.default_rng(0).integers(2**63, size=length, dtype=np.uint64)
            code = np.zeros((len(self.bins), n_onsets), np.uint64)  # differs by pattern
            for k, digit in enumerate(digits):
                code += digit * self.bins[:, k : k + n_onsets]
            _, where, which = np.unique(code, return_index=True, return_inverse=True)
            window, onset = np.unravel_index(where, code.shape)
            number = np.zeros(self.bins.shape, np.int32)
            number[:, :n_onsets] = which.reshape(code.shape)
            patterns = self.bins[window[:, None], onset[:, None] + np.arange(length)]
            self._under[length] = patterns, number.ravel()
        return self._under[length]


class SpikeList(NamedTuple):
    """Units of spikes in order of their bins; windows follow each other.

    ``unit`` (spike,) of the spikes in bin t are those from ``first[t]`` up to ``first[t + 1]``; a
    count of 2 is two spikes.  ``shape`` are windows, units and bins of a window.  There are no
    spikes in bins that are not ``shown``.  ``processes`` share sums over the spikes, and all have
    the same.
    """

    first: np.ndarray
    unit: np.ndarray
    shape: tuple[int, int, int]
    shown: Shown
    processes: Processes = ALONE

    def counts(self) -> np.ndarray:
        """Return how many bins hold 0, 1, ... spikes (window, unit, count)."""
        n_windows, n_units, n_bins = self.shape
        window = np.repeat(np.arange(n_windows), np.diff(self.first[::n_bins]))
        bin_ = np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))
        new = np.flatnonzero(np.diff(self.unit, prepend=-1) | np.diff(bin_, prepend=-1))
        number = np.diff(np.append(new, len(self.unit)))
        most = int(number.max(initial=0)) + 1
        cell = (window[new] * n_units + self.unit[new]) * most + number
        found = np.bincount(cell, minlength=n_windows * n_units * most)
        found = found.reshape(n_windows, n_units, most)
        found[..., 0] = self.shown.bins.sum(1)[:, None] - found.sum(2)
        return found

    def totals(self) -> np.ndarray:
        """Return the number of spikes (window, unit)."""
        n_windows, n_units, n_bins = self.shape
        window = np.repeat(np.arange(n_windows), np.diff(self.first[::n_bins]))
        number = np.bincount(window * n_units + self.unit, minlength=n_windows * n_units)
        return number.reshape(n_windows, n_units)

    def stretches(self, starts: np.ndarray, n_bins: int) -> SpikeList:
        """Return stretches of so many bins as windows, given the first bin of each."""
        counts = np.diff(self.first)
        bins = (starts[:, None] + np.arange(n_bins)).ravel()
        first = np.concatenate([[0], np.cumsum(counts[bins])])
        spans = [self.unit[self.first[s] : self.first[s + n_bins]] for s in starts]
        shown = Shown(self.shown.bins.ravel()[bins].reshape(len(starts), n_bins))
        return SpikeList(first, np.concatenate(spans), (len(starts), self.shape[1], n_bins), shown)


def list_spikes(counts: np.ndarray, shown: np.ndarray | None = None) -> SpikeList:
    """List the spikes of counts (window, unit, bin) in the bins ``shown`` (window, bin)."""
    shown = np.ones((len(counts), counts.shape[2]), bool) if shown is None else shown
    n_bins = counts.shape[2]
    number = np.zeros((len(counts), n_bins), np.int64)  # of spikes in each bin
    units = [np.zeros(0, np.int32)]
    for i, begin in itertools.product(range(len(counts)), range(0, n_bins, _PIECE)):
        bins = slice(begin, begin + _PIECE)
        part, seen = counts[i, :, bins], shown[i, bins]
        unit, bin_ = np.divmod(np.flatnonzero((part != 0) & seen), len(seen))
        each = part[unit, bin_].astype(np.int64)
        unit, bin_ = np.repeat(unit, each), np.repeat(bin_, each)
        units.append(unit[bin_.astype(np.uint16).argsort(kind="stable")].astype(np.int32))
        number[i, bins] = np.bincount(bin_, minlength=len(seen))
    first = np.append(0, number.cumsum())
    return SpikeList(first, np.concatenate(units), counts.shape, Shown(shown))


def scores(spikes: SpikeList, templates: np.ndarray) -> np.ndarray:
    """Return the sum over spikes (onset, template) of the templates (template, unit, bin).

    Onsets are numbered through all windows; those of events that would not end in their window
    mean nothing.
    """
    n_bins = len(spikes.first) - 1
    rows = np.ascontiguousarray(templates[:, :, ::-1].transpose(1, 2, 0))
    found = np.zeros((n_bins, len(templates)))
    edges = np.arange(N_PARTS + 1) * n_bins // N_PARTS

    def work(p: int) -> None:
        _add_scores(spikes.first, spikes.unit, rows, edges[p], edges[p + 1], found)

    in_parts(work, spikes.processes.share(N_PARTS), len(spikes.unit) * templates[:, 0].size)
    spikes.processes.fill(found)
    return found


def spikes_under(spikes: SpikeList, weight: np.ndarray, length: int) -> np.ndarray:
    """Return the sums over spikes (template, unit, bin) of ``weight`` (onset, template).

    Each spike adds the weight of the onset that is so many bins before it.
    """
    n_bins, n_templates = weight.shape
    shape = (N_PARTS, spikes.shape[1], length, n_templates)
    rows, edges = np.zeros(shape), np.arange(N_PARTS + 1) * n_bins // N_PARTS

    def work(p: int) -> None:
        _add_weights(spikes.first, spikes.unit, weight, edges[p], edges[p + 1], rows[p])

    in_parts(work, spikes.processes.share(N_PARTS), len(spikes.unit) * n_templates * length)
    spikes.processes.fill(rows)
    return np.ascontiguousarray(rows.sum(0)[:, ::-1].transpose(2, 0, 1))
