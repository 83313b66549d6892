"""Events: the non-zero codes as a list, merged where they cluster, and their signal (1-D)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Events:
    """Sparse codes of a batch of windows, sorted by window, template and onset.

    Parameters
    ----------
    window, template, onset : tensor of int64, shape (event,)
        The onset is the bin in which the template begins.
    amplitude : tensor, shape (event,)

    Examples
    --------
    >>> import torch
    >>> codes = torch.tensor([[[0.0, 3.0, 1.0, 0.0, 0.0, 2.0]]])
    >>> Events.from_codes(codes).merge(separation=2).amplitude
    tensor([4., 2.])
    """

    window: Tensor
    template: Tensor
    onset: Tensor
    amplitude: Tensor

    @classmethod
    def from_codes(cls, codes: Tensor) -> Events:
        """List the non-zero entries of codes (window, template, onset)."""
        window, template, onset = codes.nonzero(as_tuple=True)
        return cls(window, template, onset, codes[window, template, onset])

    def __len__(self) -> int:
        return len(self.window)

    def to_codes(self, shape: Sequence[int]) -> Tensor:
        """Return dense codes (window, template, onset)."""
        codes = self.amplitude.new_zeros(tuple(shape))
        index = (self.window, self.template, self.onset)
        return codes.index_put_(index, self.amplitude, accumulate=True)

    def take(self, index: Tensor) -> Events:
        """Keep some of the events."""
        return Events(*(value[index] for value in vars(self).values()))

    @classmethod
    def joined(cls, parts: Sequence[Events]) -> Events:
        """List the events of several batches of windows, one batch after the other."""
        return cls(*map(torch.cat, zip(*(vars(part).values() for part in parts), strict=True)))

    def within(self, first: int, last: int) -> Events:
        """Return the events of the windows from ``first`` up to ``last``, numbered from 0."""
        edges = self.window.new_tensor([first, last])
        start, stop = torch.searchsorted(self.window.contiguous(), edges).tolist()
        return self.take(torch.arange(start, stop, device=edges.device)).later(-first)

    def later(self, n_windows: int) -> Events:
        """Return the events with ``n_windows`` added to the number of each window."""
        return replace(self, window=self.window + n_windows)

    def shifted(self, n_bins: Tensor | int) -> Events:
        """Return the events with ``n_bins`` added to each onset."""
        return replace(self, onset=self.onset + n_bins)

    def without(self, template: int) -> Events:
        """Return the events of the other templates, renumbered without a gap."""
        rest = self.take(self.template != template)
        return replace(rest, template=rest.template - (rest.template > template).long())

    def to(self, device: torch.device | str) -> Events:
        """Move to a device."""
        return Events(*(value.to(device) for value in vars(self).values()))

    def with_amplitude(self, amplitude: Tensor) -> Events:
        """Return the same events with other amplitudes."""
        return replace(self, amplitude=amplitude)

    def groups(self, units: int) -> Tensor:
        """Return the number of each event's group: one trial, template and onset.

        Each trial consists of ``units`` consecutive windows; with one unit, every event is a group.
        """
        return self._cell(self.window // units).unique(return_inverse=True)[1]

    def merge(self, separation: int, units: int = 1) -> Events:
        """Merge events of one window, template and sign whose onsets are close.

        The l1 solution spreads one event over neighbouring onsets.  The merged event has the sum of
        their amplitudes, and as onset their mean weighted by amplitude.

        Parameters
        ----------
        separation : int
            Largest distance between neighbouring onsets that are merged, in bins.
        units : int
            Consecutive windows that are the units of one trial.  Their events are merged as groups
            with one onset, the mean weighted by the amplitudes of all units; two groups have the
            same sign if their inner product is not negative.
        """
        if len(self) == 0:
            return self
        group, unit, size = self.groups(units), self.window % units, self.amplitude.abs()
        count = int(group.max()) + 1
        amplitude = self.amplitude.new_zeros(count, units)
        amplitude = amplitude.index_put((group, unit), self.amplitude, accumulate=True)
        one = self.take(_one_of_each(group, count))
        new = torch.ones(count, dtype=torch.bool, device=group.device)
        new[1:] = (
            ((one.window // units).diff() != 0)
            | (one.template.diff() != 0)
            | ((amplitude[1:] * amplitude[:-1]).sum(dim=1) < 0)
            | (one.onset.diff().abs() > separation)
        )
        cluster = (new.cumsum(0) - 1)[group]
        total, moment = (
            size.new_zeros(int(new.sum())).index_add(0, cluster, value)
            for value in (size, size * self.onset)
        )
        onset = (moment / total).round().long()[cluster]
        return replace(self, onset=onset)._summed()

    def moved_to(self, onsets: Tensor) -> Events:
        """Move events to the last onset before them where events may begin, (window, onset)."""
        places = torch.arange(onsets.shape[-1], device=onsets.device).expand_as(onsets)
        last = torch.where(onsets, places, 0).cummax(-1).values
        return replace(self, onset=last[self.window, self.onset])._summed()

    def strongest(self, gain: Tensor, most: int | None) -> Tensor:
        """Return whether each event is among the ``most`` of its window with the highest gain."""
        if most is None or len(self) == 0:
            return torch.ones_like(self.window, dtype=torch.bool)
        order = gain.argsort(descending=True, stable=True)
        order = order[self.window[order].argsort(stable=True)]
        places = torch.arange(len(self), device=order.device)
        first = torch.searchsorted(self.window[order].contiguous(), self.window[order].contiguous())
        return torch.empty_like(order).index_put((order,), places - first) < most

    def _summed(self) -> Events:
        """Add up events of one window, template and onset, and sort them."""
        cells, owner = self._cell(self.window).unique(return_inverse=True)
        total = self.amplitude.new_zeros(len(cells)).index_add(0, owner, self.amplitude)
        return self.take(_one_of_each(owner, len(cells))).with_amplitude(total)

    def _cell(self, window: Tensor) -> Tensor:
        """Return a number that sorts by window, template and onset."""
        if len(self) == 0:
            return window
        row = window * (self.template.max() + 1) + self.template
        return row * (self.onset.max() + 1) + self.onset

    def add_to(self, signal: Tensor, templates: Tensor) -> Tensor:
        """Return ``signal`` (window, channel, bin) with every event's template added."""
        index = self._bins(signal, templates.shape[-1])
        added = self.amplitude[:, None, None] * templates[self.template]
        return signal.reshape(-1).index_add(0, index, added.reshape(-1)).reshape(signal.shape)

    def patches(self, signal: Tensor, length: int) -> Tensor:
        """Return the part of a signal (window, channel, bin) under each event's template."""
        flat = signal.reshape(-1).index_select(0, self._bins(signal, length))
        return flat.reshape(len(self), signal.shape[1], length)

    def _bins(self, signal: Tensor, length: int) -> Tensor:
        """Number the bins under each event in a flattened signal: event by channel by bin."""
        _, channels, bins = signal.shape
        start = (self.window * channels)[:, None] * bins + self.onset[:, None]
        start = start + bins * torch.arange(channels, device=start.device)
        index = start[..., None] + torch.arange(length, device=start.device)
        return index.reshape(-1)


def _one_of_each(group: Tensor, count: int) -> Tensor:
    """Return the index of a member of each of the ``count`` groups."""
    member = torch.arange(len(group), device=group.device)
    return member.new_empty(count).index_put((group,), member)
