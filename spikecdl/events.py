"""Events: the non-zero codes as a list, merged where they cluster, and their signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Events:
    """Sparse codes of a batch of windows, sorted by window, template and place (1-D).

    Parameters
    ----------
    window, template, place : tensor of int64, shape (event,)
        Where each event stands; ``place`` is the bin in which its template begins.
    amplitude : tensor, shape (event,)
        Its code.

    Examples
    --------
    >>> import torch
    >>> codes = torch.tensor([[[0.0, 3.0, 1.0, 0.0, 0.0, 2.0]]])
    >>> Events.from_codes(codes).merge(separation=2).amplitude
    tensor([4., 2.])
    """

    window: Tensor
    template: Tensor
    place: Tensor
    amplitude: Tensor

    @classmethod
    def from_codes(cls, codes: Tensor) -> Events:
        """List the non-zero entries of codes (window, template, place)."""
        window, template, place = codes.nonzero(as_tuple=True)
        return cls(window, template, place, codes[window, template, place])

    def __len__(self) -> int:
        return len(self.window)

    def to_codes(self, shape: Sequence[int]) -> Tensor:
        """Return dense codes (window, template, place)."""
        codes = self.amplitude.new_zeros(tuple(shape))
        index = (self.window, self.template, self.place)
        return codes.index_put(index, self.amplitude, accumulate=True)

    def take(self, index: Tensor) -> Events:
        """Keep some of the events."""
        return Events(*(value[index] for value in vars(self).values()))

    def to(self, device: torch.device | str) -> Events:
        """Move to a device."""
        return Events(*(value.to(device) for value in vars(self).values()))

    def with_amplitude(self, amplitude: Tensor) -> Events:
        """Return the same events with other amplitudes."""
        return replace(self, amplitude=amplitude)

    def shift(self, bins: Tensor, n_places: int) -> Events:
        """Move the events of each template by that many bins, as far as the window allows."""
        place = (self.place + bins[self.template]).clamp(0, n_places - 1)
        return replace(self, place=place).merge(separation=0)

    def merge(self, separation: int) -> Events:
        """Join events of one window, template and sign that lie at most that many bins apart.

        The l1 solution spreads one event over neighbouring places; the joint event has the sum of
        their amplitudes and stands at the mean place weighted by them.
        """
        if len(self) == 0:
            return self
        new = torch.ones(len(self), dtype=torch.bool, device=self.window.device)
        new[1:] = (
            (self.window.diff() != 0)
            | (self.template.diff() != 0)
            | (self.amplitude.sign().diff() != 0)
            | (self.place.diff().abs() > separation)
        )
        group = new.cumsum(0) - 1
        count = int(group[-1]) + 1
        total = self.amplitude.new_zeros(count).index_add(0, group, self.amplitude)
        moment = self.amplitude.new_zeros(count).index_add(0, group, self.amplitude * self.place)
        place = (moment / total).round().long()
        return Events(self.window[new], self.template[new], place, total)

    def add_to(self, signal: Tensor, templates: Tensor) -> Tensor:
        """Return ``signal`` (window, channel, bin) with every event's template added."""
        index = self._bins(signal, templates.shape[-1])
        waves = self.amplitude[:, None, None] * templates[self.template]
        return signal.reshape(-1).index_add(0, index, waves.reshape(-1)).reshape(signal.shape)

    def patches(self, signal: Tensor, length: int) -> Tensor:
        """Return the part of a signal (window, channel, bin) under each event's template."""
        flat = signal.reshape(-1).index_select(0, self._bins(signal, length))
        return flat.reshape(len(self), signal.shape[1], length)

    def _bins(self, signal: Tensor, length: int) -> Tensor:
        """Number the bins under each event in a flattened signal: event by channel by bin."""
        _, channels, bins = signal.shape
        start = (self.window * channels)[:, None] * bins + self.place[:, None]
        start = start + bins * torch.arange(channels, device=start.device)
        index = start[..., None] + torch.arange(length, device=start.device)
        return index.reshape(-1)
