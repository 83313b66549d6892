"""Single trials of thalamic units: deflections found, and likelihood of trials never seen.

Every trial is a window with its own events.  Models are fitted to the single trials of some trials
of a stimulus and judged on the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spikecdl.baselines import BCOMP, GLM, Basis, onsets
from spikecdl.data import BinnedSpikes
from spikecdl.estimator import DCEA
from spikecdl.evaluation import heldout
from spikecdl.evaluation.crossvalidation import divide, ratio
from spikecdl.experiments.deflections import (
    ONSETS,
    TOLERANCE,
    Recording,
    onset_hits,
    split_counts,
)
from spikecdl.training import NotConvergedWarning

if TYPE_CHECKING:
    import pandas as pd

LENGTH, FAMILY = 0.075, "binomial"  # shorter than the period of the stimulus: events leave gaps
PASTS = (0.05, 0.1, 0.2)  # seconds, of the GLMs' responses to a unit's own spikes
_N_FOLDS = 5


def _dcea(**settings: Any) -> Callable[[int], list]:
    return lambda seed: [DCEA(1, LENGTH, FAMILY, random_state=seed, **settings)]


def _glms(**settings: Any) -> Callable[[int], list]:
    def make(_: int) -> list[GLM]:
        return [
            GLM(FAMILY, history=Basis(past, 8, "log_cosine"), ridge=ridge, **settings)
            for past in PASTS
            for ridge in (0.1, 1.0, 10.0)
        ]

    return make


HISTORY = "GLM, history"
METHODS: Mapping[str, Callable[[int], list]] = {
    "alternating": _dcea(trainer="alternating"),
    "marginal": _dcea(trainer="marginal"),
    "marginal, history": _dcea(trainer="marginal", history=0.05),
    "BCOMP": lambda seed: [BCOMP(1, LENGTH, FAMILY, random_state=seed)],
    HISTORY: _glms(),
    "GLM, history and known onsets": _glms(stimulus=onsets(ONSETS), response=Basis(0.125, 12)),
}
"""Functions of a seed that make a model by name, or several, of which `chosen` takes one."""


@dataclass(frozen=True)
class Judged:
    """A method's account of the test trials of a unit: gains in log likelihood, and its events."""

    recording: str
    unit: int | str
    method: str
    gain: np.ndarray | None  # (trial,) nats over a constant rate; None without a likelihood
    spikes: np.ndarray  # (trial,)
    events: dict[str, float]  # scores of the events; empty for a method without events


def judge(recording: Recording, split: str, seed: int) -> Iterator[Judged]:
    """Fit each method to each unit, and judge it on the test trials."""
    fitted, test = split_counts(recording.spikes, split)
    for index, unit in enumerate(fitted.unit_ids):
        seen, unseen = fitted.select(units=[index]), test.select(units=[index])
        rate = seen.counts.sum() + 0.5, seen.mask.sum() + 1.0
        null = np.where(unseen.mask, rate[0] / rate[1], 0.0)
        constant = log_likelihood(unseen, null)
        for name, make in METHODS.items():
            with warnings.catch_warnings():  # a fit without events has no hits in the table
                warnings.simplefilter("ignore", NotConvergedWarning)
                model = chosen(make(seed), seen).fit(seen)
            events = hits(model, unseen, seed) if hasattr(model, "decompose") else {}
            likelihood = held_out(model, unseen)
            gain = None if likelihood is None else likelihood - constant
            spikes = unseen.counts.sum(axis=(1, 2))
            yield Judged(recording.name, unit, name, gain, spikes, events)


def chosen(models: list, trials: BinnedSpikes) -> Any:
    """Return the model that gives trials it is not fitted to the highest likelihood.

    Each of five parts of the trials is left out in turn.
    """
    if len(models) == 1:
        return models[0]
    folds = divide(trials, FAMILY, _N_FOLDS).folds

    def likelihood(model: Any) -> float:
        predicted = [(fold.unseen, model.fit(fold.seen).predict(fold.unseen)) for fold in folds]
        return sum(log_likelihood(*each).sum() for each in predicted)

    return max(models, key=likelihood)


def held_out(model: Any, counts: BinnedSpikes) -> np.ndarray | None:
    """Return the log likelihood of each trial, (trial,), without codes of these trials.

    It is the evidence of a `DCEA`, whose events are summed out, and the likelihood of a model that
    predicts each bin from the past.  None for a model that has neither.
    """
    if hasattr(model, "evidence"):
        return model.evidence(counts)
    return None if hasattr(model, "decompose") else log_likelihood(counts, model.predict(counts))


def log_likelihood(counts: BinnedSpikes, mean: np.ndarray) -> np.ndarray:
    """Return the log likelihood of each trial, (trial,), for expected counts (trial, unit, bin)."""
    data = heldout.observed(counts, FAMILY)
    expected = torch.from_numpy(heldout.SHARED.expand(mean))
    terms = data.family.log_prob(data.y, data.family.link(expected))
    return torch.where(data.mask, terms, 0).flatten(1).sum(1).numpy()


def hits(model: Any, counts: BinnedSpikes, seed: int) -> dict[str, float]:
    """Compare the events in trials with the deflections, with one lag for a template."""
    events = model.decompose(counts).events()
    trial = events["trial"].map({name: k for k, name in enumerate(counts.trial_ids)})
    time = (events["time"] + counts.duration * trial).to_numpy()
    known = (ONSETS + counts.duration * np.arange(len(counts))[:, None]).ravel()
    generator = np.random.default_rng(seed)
    length = counts.duration * len(counts)
    found = onset_hits([time], known, TOLERANCE, length, counts.bin_size, generator)
    scores = {
        "n_events": len(events) / len(counts),
        "hit_rate": found.hit_rate,
        "chance_hit_rate": found.chance_hit_rate,
        "false_alarm_rate": found.false_alarm_rate,
    }
    if "probability" in events:
        scores["own_false"] = 1 - float(events["probability"].mean())
    return scores


def table(judged: list[Judged]) -> pd.DataFrame:
    """Return a row for each method and unit.

    ``bits_per_spike`` is the gain in log likelihood of test trials over a constant rate, and
    ``lead`` the difference to the GLM with history; both with standard errors over trials.
    """
    import pandas as pd

    reference = {(one.recording, one.unit): one.gain for one in judged if one.method == HISTORY}
    rows = []
    for one in judged:
        row = {"recording": one.recording, "unit": one.unit, "method": one.method, **one.events}
        if one.gain is not None:
            bits = one.spikes * np.log(2)
            lead = one.gain - reference[one.recording, one.unit]
            row["bits_per_spike"], row["bits_per_spike_se"] = ratio(one.gain, bits)
            row["lead"], row["lead_se"] = ratio(lead, bits)
        rows.append(row)
    return pd.DataFrame(rows)


def findings(table: pd.DataFrame) -> Iterator[str]:
    """Describe the table, as medians over units and stimuli."""
    for method, rows in table.groupby("method", sort=False):
        said = []
        if rows["hit_rate"].notna().any():
            median = rows[["hit_rate", "chance_hit_rate", "false_alarm_rate"]].median()
            said.append(
                f"{median['hit_rate']:.0%} of the deflections hit (chance "
                f"{median['chance_hit_rate']:.0%}), {median['false_alarm_rate']:.0%} of its events "
                "false"
            )
        if rows["lead"].notna().any():
            ahead, clear = int((rows["lead"] > 0).sum()), 2 * rows["lead_se"]
            said.append(
                f"{rows['bits_per_spike'].median():.3f} bits per spike in trials never seen"
                + f", more than the GLM with history on {ahead} of {len(rows)} (by more than two "
                f"standard errors on {int((rows['lead'] > clear).sum())}, less by as much on "
                f"{int((rows['lead'] < -clear).sum())})" * (method != HISTORY)
            )
        yield f"single trials, {method}: {'; '.join(said)}"
