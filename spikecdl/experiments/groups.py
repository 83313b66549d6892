"""The source's simulated data: groups of trials in which three templates recur."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spikecdl.data import BinnedSpikes, Truth
from spikecdl.dictionary import ConvDictionary
from spikecdl.families import Binomial
from spikecdl.simulate import simulate

SHAPES = ("square", "vee", "cosine")
BIN_SIZE = 0.001  # seconds
TEMPLATE_LENGTH = 0.05  # seconds


@dataclass(frozen=True)
class Groups:
    """Groups of trials with the same events; the spikes of a group's trials are summed.

    Templates and trials are those of the source, section 5; what it does not state (length of a
    window, number and amplitudes of events) is chosen here.

    Parameters
    ----------
    n_groups : int
    n_trials : int
        Trials of a group: Bernoulli trials of a bin.
    baseline : float
        Rate without events of a trial, in Hz.
    n_events : int
        Events of each template in a group.
    duration : float
        Length of a trial, in seconds.
    amplitude : (float, float)
        Amplitudes of events are uniform between them, for templates of unit norm.
    """

    n_groups: int = 1000
    n_trials: int = 30
    baseline: float = 8.0
    n_events: int = 3
    duration: float = 1.0
    amplitude: tuple[float, float] = (10.0, 20.0)

    def draw(self, seed: int) -> BinnedSpikes:
        """Return counts of one pooled trial, groups as its units, with their truth.

        The sum of a group's trials is drawn at once: a binomial count in every bin.
        """
        counts = self._simulate(Binomial(self.n_trials), 1, self.baseline * self.n_trials, seed)
        made = truth(counts)
        return replace(
            counts,
            slots=1,
            n_pooled=np.full_like(counts.n_pooled, self.n_trials),
            truth=replace(made, baseline=made.baseline / self.n_trials),
        )

    def single_trials(self, seed: int) -> BinnedSpikes:
        """Return counts in which the trials are apart, (trial, group, bin)."""
        return self._simulate(Binomial(1), self.n_trials, self.baseline, seed)

    def _simulate(
        self, family: Binomial, n_trials: int, baseline: float, seed: int
    ) -> BinnedSpikes:
        return simulate(
            family,
            SHAPES,
            n_trials=n_trials,
            n_units=self.n_groups,
            duration=self.duration,
            bin_size=BIN_SIZE,
            template_length=TEMPLATE_LENGTH,
            n_events=self.n_events,
            amplitude=self.amplitude,
            baseline=baseline,
            same_events=True,
            random_state=seed,
        )


def truth(counts: BinnedSpikes) -> Truth:
    """Return the truth of simulated counts, which is there."""
    if counts.truth is None:
        raise ValueError("`counts` must be simulated: they hold no truth")
    return counts.truth


def probability(counts: BinnedSpikes) -> np.ndarray:
    """Return the true probability of a spike in each bin of a trial, (trial, unit, bin)."""
    import torch

    made, (n_trials, n_units, n_bins) = truth(counts), counts.shape
    n_places = n_bins - made.templates.shape[2] + 1
    codes = np.zeros((n_trials, n_units, len(made.templates), n_places))
    place = (made.events["time"] / made.bin_size).round().astype(int)
    at = (made.events["trial"], made.events["unit"], made.events["template"], place)
    np.add.at(codes, at, made.events["amplitude"])
    signal = ConvDictionary(torch.tensor(made.templates))(torch.as_tensor(codes))
    level = torch.as_tensor(made.baseline * made.bin_size)[..., None]
    single = Binomial(1)
    return single.mean(single.link(level) + signal.detach()[:, :, 0]).numpy()
