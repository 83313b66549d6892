"""The paper's simulated groups of trials, the methods that learn from them, scores and figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, logit

from spikecdl.data import BinnedSpikes, Decomposition, Truth
from spikecdl.estimator import DCEA
from spikecdl.evaluation.metrics import TemplateError, deviance_explained, recovery, template_error
from spikecdl.experiments import Options, Result, fitted, median_and_range
from spikecdl.model.families import Binomial
from spikecdl.plots import style
from spikecdl.simulate import simulate
from spikecdl.training import Learned, Trainer, Unrolled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHAPES = ("square", "vee", "cosine")


@dataclass(frozen=True)
class Size:
    """How much is run; tuples are values that are varied."""

    many: int = 1000  # groups for alternating training
    few: int = 100  # groups for the comparison of all methods
    n_seeds: int = 10  # repetitions, each with its own data and initialization
    n_trials: tuple[int, ...] = (5, 10, 30, 50)  # of a group
    baselines: tuple[float, ...] = (2.0, 5.0, 8.0, 17.0)  # Hz
    depths: tuple[int, ...] = (25, 50, 100, 250)  # layers of the encoder
    n_unrolled: int = 100  # layers where they are not varied
    n_epochs: int = 20  # of the gradient trainers
    penalty_weight: float = 0.1  # of lambda_max, for these; see docs/experiments.md


@dataclass(frozen=True)
class Groups:
    """Groups of trials with the same events; the spikes of a group's trials are summed.

    Templates, trials and bins are those of section 5 of the paper, which does not state the length
    of a window and the number and amplitudes of events; the defaults are a choice.
    """

    n_groups: int = 1000
    n_trials: int = 30  # of a group, which are the Bernoulli trials of a bin
    baseline: float = 8.0  # of a trial, in Hz
    n_events: int = 3  # of each template in a group
    duration: float = 1.0  # of a trial, in seconds
    amplitude: tuple[float, float] = (10.0, 20.0)  # range, uniform, for templates of unit norm
    bin_size: float = 0.001  # seconds
    template_length: float = 0.05  # seconds

    def draw(self, seed: int, pooled: bool = True) -> BinnedSpikes:
        """Return counts of one pooled trial, or (trial, group, bin), with groups as units.

        The sum over a group's trials is drawn at once, as a binomial count in every bin.
        """
        pool = self.n_trials if pooled else 1
        counts = simulate(
            Binomial(pool),
            SHAPES,
            n_trials=self.n_trials // pool,
            n_units=self.n_groups,
            duration=self.duration,
            bin_size=self.bin_size,
            template_length=self.template_length,
            n_events=self.n_events,
            amplitude=self.amplitude,
            baseline=self.baseline * pool,
            same_events=True,
            random_state=seed,
        )
        if not pooled:
            return counts
        made = truth(counts)
        made = replace(made, baseline=made.baseline / pool)
        n_pooled = np.full_like(counts.n_pooled, pool)
        return replace(counts, sub_bins=1, n_pooled=n_pooled, truth=made)


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


def as_signal(counts: BinnedSpikes, baseline: float) -> BinnedSpikes:
    """Return the part of a group's trials with a spike, minus a baseline in Hz, as a signal."""
    part = counts.counts / counts.n_trials - baseline * counts.bin_size
    return replace(counts, counts=part, n_pooled=np.ones_like(counts.n_pooled))


@dataclass(frozen=True)
class Method:
    """A method that learns templates from groups."""

    name: str
    model: Callable[[Groups, int], Any]  # of groups and seed; has fit(counts), decompose(counts)
    n_unrolled: float = np.nan  # layers of its encoder; nan if it has none
    on_signal: bool = False  # fitted to `as_signal` of the counts


def dcea(name: str, trainer: Trainer, **settings: Any) -> Method:
    """Return a `DCEA` that is given the baseline, as the paper's is."""

    def model(groups: Groups, seed: int) -> DCEA:
        known = {"baseline": groups.baseline, "trainer": trainer, "random_state": seed}
        return DCEA(len(SHAPES), groups.template_length, "binomial", **{**known, **settings})

    return Method(name, model)


def unrolled(size: Size, n_unrolled: int | None = None, tied: bool = True) -> Method:
    """Return the paper's trainer, from a random initialization."""
    layers = n_unrolled or size.n_unrolled
    trainer = Unrolled(layers, tied=tied, init="random", batch_size=8, learning_rate=0.02)
    settings = {"penalty_weight": size.penalty_weight, "n_epochs": size.n_epochs}
    return replace(dcea("unrolled" if tied else "untied", trainer, **settings), n_unrolled=layers)


def compare(conditions: Sequence[tuple[Method, Groups]], size: Size, options: Options) -> Result:
    """Run all conditions with the seeds of a size, and draw templates and learning.

    The templates drawn are those of the first run of each method, with the random initialization of
    those with layers.  The table has a row for each condition and seed, ``traces`` the errors after
    every epoch.
    """
    import pandas as pd

    seeds = range(options.random_state, options.random_state + size.n_seeds)
    rows: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    learned: dict[str, np.ndarray] = {}
    for method, groups in conditions:
        now = []
        for seed in seeds:
            row, trace, found = score(method, groups, seed)
            learned.setdefault(method.name, found)
            now.append(row)
            traces += trace
        rows += now
        options.say(
            f"{method.name}, {groups.n_groups} groups of {groups.n_trials} trials at "
            f"{groups.baseline:g} Hz: mean error "
            f"{median_and_range(row['error_mean'] for row in now)}, "
            f"{median_and_range((row['seconds'] for row in now), 1)} s"
        )
    few, trace = Groups(size.few), pd.DataFrame(traces)
    start = initial_templates(unrolled(size), few, seeds[0])
    initial = {method.name: start for method, _ in conditions if method.n_unrolled > 0}
    true = truth(few.draw(seeds[0])).templates
    figures = {
        "templates": templates(learned, initial, true),
        "learning": learning(trace, size),
    }
    settings = {"seeds": list(seeds)}
    return Result(pd.DataFrame(rows), figures, settings, findings=[], more={"traces": trace})


def score(
    method: Method, groups: Groups, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]:
    """Draw groups, fit a method to them and score it; the seed is that of the data and the fit.

    Returns the row of the table, the errors after every epoch, and templates (template, 1, bin), in
    the order of the initial ones if there are epochs.
    """
    counts, model = groups.draw(seed), method.model(groups, seed)
    seen = as_signal(counts, groups.baseline) if method.on_signal else counts
    true, began = truth(counts).templates, time.perf_counter()
    states = _fit(model, seen)
    fit = {"converged": model.converged_, "n_epochs": model.n_iter_}
    fit["seconds"] = time.perf_counter() - began
    about = {"method": method.name, "n_unrolled": method.n_unrolled, "n_groups": groups.n_groups}
    about |= {"n_trials": groups.n_trials, "baseline": groups.baseline, "seed": seed}
    trace = []
    for seconds, state in states:
        record = {"epoch": state.epoch, "seconds": seconds, "loss": state.history[-1]["loss"]}
        errors = template_error(state.tensors["templates"].numpy(), true)
        trace.append({**about, **record, **_by_template(errors)})
    learned = {"templates": model.templates_}
    if states:
        learned = {name: tensor.numpy() for name, tensor in states[-1][1].tensors.items()}
    parts = model.decompose(seen)
    if method.on_signal:
        parts = replace(parts, counts=counts, rate=groups.baseline + parts.rate / counts.bin_size)
    names = [name for name in ("analysis", "synthesis") if name in learned]  # untied encoder
    encoders = {f"error_{name}": template_error(learned[name], true).mean for name in names}
    return {**about, **measured(parts, seed), **encoders, **fit}, trace, learned["templates"]


def _fit(model: Any, counts: BinnedSpikes) -> list[tuple[float, Learned]]:
    """Fit a model; return the seconds until the end of every epoch of a `DCEA`, and its state."""
    states: list[tuple[float, Learned]] = []
    began = time.perf_counter()
    watch = {"on_epoch": lambda state: states.append((time.perf_counter() - began, state))}
    fitted(model, counts, **(watch if isinstance(model, DCEA) else {}))
    return states


def _by_template(errors: TemplateError) -> dict[str, float]:
    each = {f"error_{s}": float(e) for s, e in zip(SHAPES, errors.errors, strict=True)}
    return {**each, "error_mean": errors.mean}


def measured(parts: Decomposition, seed: int) -> dict[str, Any]:
    """Score templates, events and rates against the truth of the decomposed counts.

    ``rate_r2`` is the part of the variance of the true rate that the fitted rate explains,
    ``deviance_explained_new`` that of the deviance of as many new trials of the same groups, drawn
    with ``seed``, over a constant rate, and ``below_zero`` the part of bins with a negative rate.
    """
    counts = parts.counts
    found, true = recovery(parts), probability(counts)
    rate = parts.rate * counts.bin_size
    new = np.random.default_rng(seed).binomial(counts.n_trials, true)
    least = 0.5 / counts.n_trials.sum(-1, keepdims=True)  # half a spike in all the group's trials
    null = counts.counts.sum(-1, keepdims=True) / counts.n_trials.sum(-1, keepdims=True)
    fit, flat = (counts.n_trials * each.clip(least, 1 - least) for each in (rate, null))
    family = Binomial(int(counts.n_trials.max()))
    return {
        **_by_template(found.templates),
        "error_max": found.templates.max,
        "hit_rate": found.events.hit_rate,
        "false_alarm_rate": found.events.false_alarm_rate,
        "rate_r2": float(1 - ((rate - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()),
        "deviance_explained_new": deviance_explained(new, fit, flat, family),
        "below_zero": float((rate < 0).mean()),
    }


def initial_templates(method: Method, groups: Groups, seed: int) -> np.ndarray:
    """Return the random templates (template, 1, bin) that a gradient trainer starts from.

    They do not depend on the counts: one epoch on one group with steps of size 0 leaves them.
    """
    model = method.model(groups, seed)
    model.set_params(trainer=replace(model.trainer, learning_rate=0.0), n_epochs=1)
    ((_, state),) = _fit(model, replace(groups, n_groups=1).draw(seed))
    return state.tensors["templates"].numpy()


@style.styled
def templates(
    learned: Mapping[str, np.ndarray], initial: Mapping[str, np.ndarray], truth: np.ndarray
) -> Figure:
    """Draw a row for each method: initial, learned and true templates in the same panels.

    Templates (template, 1, bin) are given by method; ``initial`` may lack methods, and is in the
    order of ``learned``.
    """
    shape = (len(learned), len(truth))
    size = (style.PAGE, 1.5 * shape[0] + 0.8)
    grid = style.axes_array(None, shape, size, sharex=True, sharey=True)
    bins = np.arange(truth.shape[2]) + 0.5
    for row, (name, found) in zip(grid, learned.items(), strict=True):
        error = template_error(found, truth)
        for number, ax in enumerate(row):
            partner, shift = error.assignment[number], error.shifts[number]
            ax.axhline(0, color=style.DATA, linewidth=0.8, zorder=1)
            if name in initial:
                start = initial[name][partner, 0]
                ax.plot(bins, start, color=style.DATA, lw=1, label="random initialization")
            line = {"color": style.colour(number), "lw": 2, "label": "learned, shifted"}
            ax.plot(bins + shift, found[partner, 0], **line)
            line = {"color": style.INK, "lw": 1.1, "ls": style.DASHES, "label": "truth"}
            ax.plot(bins, truth[number, 0], **line)
            ax.set_title(f"{SHAPES[number]} · error {error.errors[number]:.2f}")
            ax.set_xlim(0, truth.shape[2])
        row[0].set_ylabel(name)
    for ax in grid[-1]:
        ax.set_xlabel("time (ms)")
    # one legend for all panels, in the colours of the first template
    each = (ax.get_legend_handles_labels() for ax in grid[:, 0])
    handles, labels = max(each, key=lambda both: len(both[1]))
    grid[0, 0].figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return grid[0, 0].figure


@style.styled
def learning(trace: pd.DataFrame, size: Size) -> Figure:
    """Draw the mean error of each method after every epoch, against epochs and against time.

    One line per seed, for few groups.  Of the methods with layers, those with the usual number of
    them are drawn.
    """
    from matplotlib.ticker import MaxNLocator

    usual = trace["n_unrolled"].isin([size.n_unrolled, np.nan])
    rows = trace[(trace["n_groups"] == size.few) & usual]
    panels = style.axes_array(None, (1, 2), (style.PAGE, 2.7), sharey=True)[0]
    for ax, column in zip(panels, ("epoch", "seconds"), strict=True):
        for number, (name, runs) in enumerate(rows.groupby("method", sort=False)):
            line: dict[str, Any] = {"color": style.colour(number), "lw": 0.9, "alpha": 0.7}
            for repetition, (_, run) in enumerate(runs.groupby("seed")):
                line["label"] = "_" * repetition + str(name)  # one of them is in the legend
                ax.plot(run[column], run["error_mean"], "o-", ms=3, markevery=[-1], **line)
        ax.set(xlabel=column, ylim=(0, 1))
        ax.margins(x=0.02)
    panels[0].set_ylabel("mean template error")
    panels[1].set_xlabel("seconds of training")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].set_xscale("log")
    style.legend_above(panels[1])
    return panels[0].figure
