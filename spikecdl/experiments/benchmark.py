"""The paper's simulated groups of trials, the methods that learn from them, and their scores."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from scipy.special import expit, logit

from spikecdl.data import BinnedSpikes, Decomposition, Truth
from spikecdl.estimator import DCEA, NotConvergedWarning
from spikecdl.evaluation.metrics import deviance_explained, recovery, template_error
from spikecdl.experiments.result import median_and_range
from spikecdl.model.families import Binomial
from spikecdl.simulate import simulate
from spikecdl.training import Learned, Trainer, Unrolled

SHAPES = ("square", "vee", "cosine")
BIN_SIZE = 0.001  # seconds
TEMPLATE_LENGTH = 0.05  # seconds
PENALTY_WEIGHT = 0.1  # of lambda_max, for the gradient trainers; see docs/experiments.md
_ENCODERS = ("analysis", "synthesis")  # dictionaries of an untied encoder


@dataclass(frozen=True)
class Groups:
    """Groups of trials with the same events; the spikes of a group's trials are summed.

    Templates and trials are those of section 5 of the paper, which does not state the length of a
    window and the number and amplitudes of events; the defaults are a choice.

    Parameters
    ----------
    n_groups : int
    n_trials : int
        Trials of a group, which are the Bernoulli trials of a bin.
    baseline : float
        Baseline rate of a trial, in Hz.
    n_events : int
        Events of each template in a group.
    duration : float
        Length of a trial, in seconds.
    amplitude : (float, float)
        Range of the uniform amplitudes of events, for templates of unit norm.
    """

    n_groups: int = 1000
    n_trials: int = 30
    baseline: float = 8.0
    n_events: int = 3
    duration: float = 1.0
    amplitude: tuple[float, float] = (10.0, 20.0)

    def draw(self, seed: int) -> BinnedSpikes:
        """Return counts of one pooled trial, with groups as units, and their truth.

        The sum over a group's trials is drawn at once, as a binomial count in every bin.
        """
        counts = self._simulate(Binomial(self.n_trials), 1, self.baseline * self.n_trials, seed)
        made = truth(counts)
        return replace(
            counts,
            sub_bins=1,
            n_pooled=np.full_like(counts.n_pooled, self.n_trials),
            truth=replace(made, baseline=made.baseline / self.n_trials),
        )

    def single_trials(self, seed: int) -> BinnedSpikes:
        """Return counts (trial, group, bin) that are not pooled."""
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
    """Return the truth of simulated counts; ValueError if they hold none."""
    if counts.truth is None:
        raise ValueError("`counts` hold no truth; simulate them")
    return counts.truth


def probability(counts: BinnedSpikes) -> np.ndarray:
    """Return the true probability of a spike in each bin of a trial, (trial, unit, bin)."""
    made = truth(counts)
    eta = np.repeat(logit(made.baseline * made.bin_size)[..., None], counts.n_bins, axis=2)
    template, amplitude = made.events["template"], made.events["amplitude"].to_numpy()
    trial, unit = (made.events[name].to_numpy()[:, None] for name in ("trial", "unit"))
    onset = (made.events["time"] / made.bin_size).round().to_numpy(int)
    bins = onset[:, None] + np.arange(made.templates.shape[2])
    np.add.at(eta, (trial, unit, bins), amplitude[:, None] * made.templates[template, 0])
    return expit(eta)


@dataclass(frozen=True)
class Method:
    """A method that learns templates from groups.

    ``model`` takes the groups and a seed, and returns an estimator with ``fit(counts)`` and
    ``decompose(counts)``.
    """

    name: str
    model: Callable[[Groups, int], Any]
    traced: bool = True  # whether ``fit`` takes ``on_epoch``, as `DCEA.fit` does
    n_unrolled: int | None = None  # layers of its encoder, if it has any


def dcea(
    name: str, trainer: Trainer, penalty_weight: float | None = None, n_epochs: int | None = None
) -> Method:
    """Return a `DCEA` that is given the baseline, as the paper's is."""

    def model(groups: Groups, seed: int) -> DCEA:
        return DCEA(
            len(SHAPES),
            TEMPLATE_LENGTH,
            "binomial",
            baseline=groups.baseline,
            trainer=trainer,
            penalty_weight=penalty_weight,
            n_epochs=n_epochs,
            random_state=seed,
        )

    return Method(name, model)


def unrolled(n_unrolled: int, n_epochs: int, tied: bool = True) -> Method:
    """Return the paper's trainer, from a random initialization."""
    trainer = Unrolled(n_unrolled, tied=tied, init="random", batch_size=8, learning_rate=0.02)
    method = dcea("unrolled" if tied else "untied", trainer, PENALTY_WEIGHT, n_epochs)
    return replace(method, n_unrolled=n_unrolled)


@dataclass(eq=False)
class Run:
    """A fitted method: its row of the table, its errors after every epoch, and its templates.

    Templates (template, 1, bin) are in the order of the initial ones if the method is traced.
    """

    row: dict[str, Any]
    trace: list[dict[str, Any]]
    templates: np.ndarray


def run(method: Method, groups: Groups, seed: int) -> Run:
    """Draw groups, fit a method to them and score it; the seed is that of the data and the fit."""
    counts, model = groups.draw(seed), method.model(groups, seed)
    watch = _Watch(truth(counts).templates)
    with warnings.catch_warnings():  # the table has a column ``converged``
        warnings.simplefilter("ignore", NotConvergedWarning)
        began = time.perf_counter()
        model.fit(counts, on_epoch=watch) if method.traced else model.fit(counts)
        seconds = time.perf_counter() - began - watch.spent
    about = {
        "method": method.name,
        "n_unrolled": np.nan if method.n_unrolled is None else method.n_unrolled,
        "n_groups": groups.n_groups,
        "n_trials": groups.n_trials,
        "baseline": groups.baseline,
        "seed": seed,
    }
    trace = [{**about, **record} for record in watch.records]
    scores = {**measured(model.decompose(counts), seed), **watch.encoders}
    fitted = {"converged": model.converged_, "n_epochs": model.n_iter_, "seconds": seconds}
    templates = watch.templates if method.traced else model.templates_
    return Run({**about, **scores, **fitted}, trace, templates)


def described(rows: list[dict[str, Any]]) -> str:
    """Summarise the runs of one condition in a line."""
    first = rows[0]
    return (
        f"{first['method']}, {first['n_groups']} groups of {first['n_trials']} trials at "
        f"{first['baseline']:g} Hz: mean error "
        f"{median_and_range(row['error_mean'] for row in rows)}, "
        f"{median_and_range((row['seconds'] for row in rows), 1)} s"
    )


def measured(parts: Decomposition, seed: int) -> dict[str, Any]:
    """Score templates, events and rates against the truth of the decomposed counts.

    Parameters
    ----------
    parts : Decomposition
        Of simulated counts; rates in Hz.
    seed : int
        Seed of the new trials.

    Returns
    -------
    dict
        ``error_*`` of each template, their mean and maximum; ``hit_rate`` and
        ``false_alarm_rate`` of the events; ``rate_r2``, the part of the variance of the true rate
        that the fitted rate explains; ``deviance_explained_new``, of as many new trials of the
        same groups, over a constant rate; ``below_zero``, the part of bins with a negative rate.
    """
    counts = parts.counts
    found, true = recovery(parts), probability(counts)
    errors = found.templates.errors
    fitted = parts.rate * counts.bin_size
    new = np.random.default_rng(seed).binomial(counts.n_trials, true)
    least = 0.5 / counts.n_trials.sum(-1, keepdims=True)  # half a spike in all the group's trials
    null = counts.counts.sum(-1, keepdims=True) / counts.n_trials.sum(-1, keepdims=True)
    explained = deviance_explained(
        new,
        counts.n_trials * fitted.clip(least, 1 - least),
        counts.n_trials * null.clip(least, 1 - least),
        Binomial(int(counts.n_trials.max())),
    )
    return {
        **{f"error_{shape}": float(e) for shape, e in zip(SHAPES, errors, strict=True)},
        "error_mean": found.templates.mean,
        "error_max": found.templates.max,
        "hit_rate": found.events.hit_rate,
        "false_alarm_rate": found.events.false_alarm_rate,
        "rate_r2": float(1 - ((fitted - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()),
        "deviance_explained_new": explained,
        "below_zero": float((fitted < 0).mean()),
    }


def initial_templates(model: DCEA, counts: BinnedSpikes) -> np.ndarray:
    """Return the random templates (template, 1, bin) that a gradient trainer starts from.

    They do not depend on the counts: one epoch on one group with steps of size 0 leaves them.
    """
    from sklearn.base import clone

    states: list[Learned] = []
    trainer = replace(cast(Any, model.trainer), learning_rate=0.0)
    still = clone(model).set_params(trainer=trainer, n_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        still.fit(counts.select(units=[0]), on_epoch=states.append)
    return states[0].tensors["templates"].numpy()


@dataclass(eq=False)
class _Watch:
    """Record template errors after every epoch, and the time spent on that."""

    truth: np.ndarray
    records: list[dict[str, Any]] = field(default_factory=list)
    encoders: dict[str, float] = field(default_factory=dict)
    templates: np.ndarray = field(default_factory=lambda: np.empty(0))
    spent: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def __call__(self, state: Learned) -> None:
        now = time.perf_counter()
        self.templates = state.tensors["templates"].numpy()
        error = template_error(self.templates, self.truth)
        self.records.append(
            {
                "epoch": state.epoch,
                "seconds": now - self.began - self.spent,
                "loss": state.history[-1]["loss"],
                **{f"error_{s}": float(e) for s, e in zip(SHAPES, error.errors, strict=True)},
                "error_mean": error.mean,
            }
        )
        self.encoders = {
            f"error_{name}": template_error(state.tensors[name].numpy(), self.truth).mean
            for name in _ENCODERS
            if name in state.tensors
        }
        self.spent += time.perf_counter() - now
