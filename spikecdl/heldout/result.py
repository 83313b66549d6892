"""`HeldOut`: counts that a model has not seen, what it expected of them, and its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from spikecdl import _validation, metrics, preparation, scoring, settings
from spikecdl.data import BinnedSpikes
from spikecdl.families import FAMILIES, Family
from spikecdl.results import store
from spikecdl.training import Observations

_LAYOUT = preparation.LAYOUTS["shared"]


class Model(Protocol):
    """What is scored: `DCEA`, its rivals, or an object of your own."""

    def predict(self, counts: Any, /) -> np.ndarray:
        """Return expected counts (trial, unit, bin)."""


@dataclass(frozen=True, eq=False, repr=False)
class HeldOut:
    r"""Counts, what was expected of them by a model that had not seen them, and its scores.

    With the deviance D of the model's expected counts, and D0 of the null model's,

    .. math:: \text{deviance explained} = 1 - \frac{D}{D_0}, \qquad
              \text{bits per spike} = \frac{D_0 - D}{2 \log 2 \, \sum y}

    both 0 for a model no better than the null model, a constant rate per unit.

    Parameters
    ----------
    counts : BinnedSpikes
        The counts that were scored.
    mean : ndarray, shape (trial, unit, bin)
        Expected counts under the model.
    null_mean : ndarray, shape (trial, unit, bin)
        Expected counts at the constant rate of each unit in the data that the model was given, with
        half a spike added.
    family : Family
        Observation model, with parameters of shapes that broadcast to the counts.

    Raises
    ------
    ValueError
        If shapes do not fit each other, or something expected is not finite.

    Examples
    --------
    >>> from spikecdl import Poisson
    >>> counts = BinnedSpikes.from_array(np.array([[0, 2, 0, 2]]))
    >>> found = HeldOut(counts, np.array([[[0.5, 1.5, 0.5, 1.5]]]), np.ones((1, 1, 4)), Poisson())
    >>> found
    HeldOut(1 trial, 1 unit, 4 bins: deviance explained 0.585, 0.585 bits per spike)
    """

    counts: BinnedSpikes
    mean: np.ndarray
    null_mean: np.ndarray
    family: Family

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        store(self, mean=self.mean, null_mean=self.null_mean)
        for name in ("mean", "null_mean"):
            array = getattr(self, name)
            if array.shape != self.counts.shape:
                raise ValueError(
                    f"`{name}` {array.shape} must have the shape of `counts` {self.counts.shape}"
                )
            if not np.isfinite(array[self.counts.mask]).all():
                raise ValueError(f"`{name}` must be finite wherever something was observed")

    def __repr__(self) -> str:
        """Describe in one line."""
        sizes = zip(self.counts.shape, ("trial", "unit", "bin"), strict=True)
        shape = ", ".join(f"{size} {name}{'s' * (size != 1)}" for size, name in sizes)
        return (
            f"HeldOut({shape}: deviance explained {self.deviance_explained:.3f}, "
            f"{self.bits_per_spike:.3f} bits per spike)"
        )

    @property
    def deviance_explained(self) -> float:
        """Part of the null model's deviance that the model explains; nan if there is none."""
        return float(self._explained(None))

    @property
    def deviance_explained_per_unit(self) -> np.ndarray:
        """The same for each unit (unit,)."""
        return self._explained((0, 2))

    @property
    def bits_per_spike(self) -> float:
        """Log likelihood gained over the null model, in bits for each spike.

        nan without spikes, and for real-valued signals.
        """
        return float(self._bits(None))

    @property
    def bits_per_spike_per_unit(self) -> np.ndarray:
        """The same for each unit (unit,)."""
        return self._bits((0, 2))

    def _explained(self, axis: tuple[int, ...] | None) -> Any:
        y, mask = self.counts.counts, self.counts.mask
        return metrics.deviance_explained(y, self.mean, self.null_mean, self.family, mask, axis)

    def _bits(self, axis: tuple[int, ...] | None) -> Any:
        y, mask = self.counts.counts, self.counts.mask
        left = metrics.deviance(y, self.mean, self.family, mask, axis)
        total = metrics.deviance(y, self.null_mean, self.family, mask, axis)
        spikes = np.where(self.counts.is_counts, y.sum(axis), 0)
        gain = (np.asarray(total) - left) / (2 * np.log(2))
        return np.divide(gain, spikes, out=np.full(gain.shape, np.nan), where=spikes > 0)


def rates(model: Model, seen: BinnedSpikes, family: str | Family) -> np.ndarray:
    """Return expected counts per recorded trial, and those at a constant rate.

    Returns
    -------
    ndarray, shape (2, trial, unit, bin)
        The model's, given ``seen``; the null model's, given the same.
    """
    mean = np.asarray(model.predict(seen), dtype=float)
    if mean.shape != seen.shape:
        raise ValueError(
            f"`model` expects counts of shape {mean.shape}; `predict` must return the shape of "
            f"what it is given {seen.shape}"
        )
    data = observed(seen, family)
    constant = scoring.null_rate(data, prior=0.5) * data.family.exposure(data.y)
    return np.stack([mean, _LAYOUT.squeeze(constant)]) / preparation.trials_everywhere(seen)


def held_out(counts: BinnedSpikes, rates: np.ndarray, family: str | Family) -> HeldOut:
    """Score counts with `rates` of shape (2, trial, unit, bin), or (2, 1, unit, bin) for all."""
    resolved = observed(counts, family).family
    resolved = resolved.map(lambda values: values.squeeze(_LAYOUT.axis))
    mean, null_mean = rates * counts.n_pooled
    return HeldOut(counts, mean, null_mean, resolved)


def observed(counts: BinnedSpikes, family: str | Family) -> Observations:
    """Check that the family can have these counts, and fill in what only they know of it."""
    chosen = _validation.member("family", family, FAMILIES, Family)
    return preparation.observe(counts, chosen, _LAYOUT, "learned", settings.device("cpu"))
