"""Windows as encoders take them: observations and parameters with one leading axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import Family
from spikecdl.model.layouts import Layout
from spikecdl.model.penalties import Penalty


@dataclass(frozen=True)
class Windows:
    """Observations and parameters of windows, with axes (window, channel, *bins).

    Where the penalty groups units, a window is a trial: (window, unit, channel, *bins).

    Parameters
    ----------
    y : tensor
        Observations.
    mask : tensor of bool, shape of ``y``, or None
        False where nothing was observed.
    baseline : tensor
        Linear predictor without events, broadcastable to ``y``.
    family, penalty
        Their parameters are tensors broadcastable to ``y`` and to codes.
    """

    y: Tensor
    mask: Tensor | None
    baseline: Tensor
    family: Family
    penalty: Penalty

    @classmethod
    def of(
        cls,
        y: Tensor,
        family: Family,
        dictionary: ConvDictionary,
        penalty: Penalty,
        baseline: Tensor | float = 0.0,
        mask: Tensor | None = None,
    ) -> Windows:
        """Flatten any number of leading axes of every tensor into one."""
        batch = y.shape[: y.ndim + window_dims(dictionary, penalty)[0]]
        n_axes = y.ndim

        def rows(tensor: Tensor) -> Tensor:
            tensor = tensor.to(y.device, y.dtype if tensor.is_floating_point() else None)
            tensor = tensor.reshape(*(1,) * (n_axes - tensor.ndim), *tensor.shape)
            tail = tensor.shape[len(batch) :]
            return tensor.expand(*batch, *tail).reshape(-1, *tail)

        if not isinstance(penalty.weight, Tensor):
            penalty = penalty.with_weight(torch.as_tensor(penalty.weight, dtype=y.dtype))
        return cls(
            y=rows(y),
            mask=None if mask is None else rows(mask.expand_as(y)),
            baseline=rows(torch.as_tensor(baseline, dtype=y.dtype, device=y.device)),
            family=family.map(rows),
            penalty=penalty.map(rows),
        )

    def code_shape(self, dictionary: ConvDictionary) -> tuple[int, ...]:
        """Return the shape of the codes of all windows."""
        places = dictionary.code_shape(self.y.shape[-dictionary.axes :])
        return (*self.y.shape[: -1 - len(places)], len(dictionary.templates), *places)

    def take(self, index: Tensor | slice) -> Windows:
        """Keep some of the windows."""
        return self._map(lambda tensor: tensor[index], lambda tensor: tensor[index])

    def laid_out(self, layout: Layout) -> Windows:
        """Return the windows in another layout."""
        laid = self._map(layout.signal, layout.codes)
        penalty = replace(laid.penalty, axes=laid.penalty.axes + layout.more_axes)
        return replace(laid, penalty=penalty)

    def _map(
        self, of_signal: Callable[[Tensor], Tensor], of_codes: Callable[[Tensor], Tensor]
    ) -> Windows:
        return Windows(
            y=of_signal(self.y),
            mask=None if self.mask is None else of_signal(self.mask),
            baseline=of_signal(self.baseline),
            family=self.family.map(of_signal),
            penalty=self.penalty.map(of_codes),
        )


def window_dims(dictionary: ConvDictionary, penalty: Penalty) -> tuple[int, ...]:
    """Return the axes of one window: grouped units, channel or template, and bins or onsets."""
    return tuple(range(-1 - dictionary.axes - penalty.grouped, 0))
