"""The source's simulated data: groups of trials in which three templates recur."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spikecdl.data import BinnedSpikes
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
        counts = simulate(
            Binomial(self.n_trials),
            SHAPES,
            n_trials=1,
            n_units=self.n_groups,
            duration=self.duration,
            bin_size=BIN_SIZE,
            template_length=TEMPLATE_LENGTH,
            n_events=self.n_events,
            amplitude=self.amplitude,
            baseline=self.baseline * self.n_trials,
            random_state=seed,
        )
        assert counts.truth is not None
        return replace(
            counts,
            slots=1,
            n_pooled=np.full_like(counts.n_pooled, self.n_trials),
            truth=replace(counts.truth, baseline=counts.truth.baseline / self.n_trials),
        )


def probability(counts: BinnedSpikes) -> np.ndarray:
    """Return the true probability of a spike in each bin of a trial, (trial, unit, bin)."""
    import torch

    truth = counts.truth
    if truth is None:
        raise ValueError("`counts` must be simulated: they hold no truth")
    n_trials, n_units, n_bins = counts.shape
    codes = np.zeros(
        (n_trials, n_units, len(truth.templates), n_bins - truth.templates.shape[2] + 1)
    )
    events = truth.events
    place = (events["time"] / truth.bin_size).round().astype(int)
    np.add.at(
        codes, (events["trial"], events["unit"], events["template"], place), events["amplitude"]
    )
    dictionary = ConvDictionary(torch.tensor(truth.templates))
    signal = dictionary(torch.as_tensor(codes)).detach()[:, :, 0]
    level = torch.as_tensor(truth.baseline * truth.bin_size)[..., None]
    single = Binomial(1)
    return single.mean(single.link(level) + signal).numpy()
