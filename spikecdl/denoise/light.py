"""Images of more or less light than a network was trained for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from spikecdl.denoise.canvas import mirrored

_MUCH = 2.0  # times the light that a network knows


class UnusualLightWarning(UserWarning):
    """An image has much more or less light than a network was trained for."""


def in_known_light(
    rate: Callable[[Tensor, float], Tensor], counts: Tensor, peak: float, known: Sequence[float]
) -> Tensor:
    """Return expected counts by a network that is shown about as much light as it knows.

    Brighter counts are scaled down to the largest peak, and expected counts up: less noisy than
    the network takes them for, they come out smoother than they need be.  Counts of half the
    smallest peak or less are summed over squares of pixels, and expected counts interpolated.

    Parameters
    ----------
    rate : callable
        From counts (row, column) and their peak to expected counts.
    counts : tensor, shape (row, column)
    peak : float
        Largest expected count.
    known : sequence of float
        Peaks of training.

    Warns
    -----
    UnusualLightWarning
        If the peak is more than twice the largest known, or pixels are summed.
    """
    if peak > max(known):
        if peak > _MUCH * max(known):
            warnings.warn(
                f"`peak` (={peak:.3g}) is above {max(known):g} counts, the most that these weights "
                "were trained for: the result is smoother than it need be; baselines.VST may do "
                "better there",
                UnusualLightWarning,
                stacklevel=2,
            )
        scale = max(known) / peak
        return rate(counts * scale, max(known)) / scale
    side = math.ceil(math.sqrt(min(known) / _MUCH / peak))
    if side <= 1:
        return rate(counts, peak)
    warnings.warn(
        f"`peak` (={peak:.3g}) is below {min(known):g} counts, the least that these weights were "
        f"trained for: counts are summed over squares of {side} x {side} pixels",
        UnusualLightWarning,
        stacklevel=2,
    )
    rows, columns = (-(-size // side) * side for size in counts.shape)
    whole = mirrored(counts, (0, 0), (rows, columns))
    summed = F.avg_pool2d(whole[None], side)[0] * side**2
    found = rate(summed, peak * side**2) / side**2
    fine = F.interpolate(found[None, None], scale_factor=side, mode="bilinear")[0, 0]
    return fine[: counts.shape[0], : counts.shape[1]]
