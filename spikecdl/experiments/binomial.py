"""The paper's first experiment: three templates from binomial counts, and its ablations.

In `run`, every method fits the same groups of trials with the same seeds.  Then trials, baselines
and, for the paper's own trainer, layers are varied.  In `untied` and `mismatch`, the paper's model
is compared with the same model without one of its parts, on the same data and initialization.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from spikecdl.baselines import BCOMP
from spikecdl.data import BinnedSpikes, Decomposition, Truth
from spikecdl.estimator import DCEA
from spikecdl.evaluation.heldout import Estimator
from spikecdl.evaluation.metrics import TemplateError, deviance_explained, recovery, template_error
from spikecdl.experiments import Options, Result, findings, fitted, median_and_range
from spikecdl.model.families import Binomial
from spikecdl.plots import raster, style
from spikecdl.simulate import simulate
from spikecdl.training import Alternating, Implicit, Learned, Trainer, Unrolled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHAPES = ("square", "vee", "cosine")
DEFAULT, PAPER = "alternating", "unrolled"


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

    @property
    def gradient(self) -> dict[str, float]:
        """Settings of `DCEA` for the gradient trainers."""
        return {"n_epochs": self.n_epochs, "penalty_weight": self.penalty_weight}


QUICK = Size(60, 40, 3, (10, 30), (5.0, 8.0), (25, 50), 50, 20)


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
        made = replace(truth(counts), baseline=truth(counts).baseline / pool)
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


class Method(NamedTuple):
    """A method that learns templates from groups."""

    name: str
    model: Callable[[Groups, int], Any]  # of groups and seed; has fit(counts), decompose(counts)
    n_unrolled: float = np.nan  # layers of its encoder; nan if it has none
    on_signal: bool = False  # fitted to `as_signal` of the counts


def dcea(name: str, trainer: Trainer, **settings: Any) -> Method:
    """Return a `DCEA` that is given the baseline, as the paper's is."""

    def model(groups: Groups, seed: int) -> DCEA:
        known = {"family": "binomial", "baseline": groups.baseline, **settings}
        known |= {"trainer": trainer, "random_state": seed}
        return DCEA(len(SHAPES), groups.template_length, **known)

    return Method(name, model, getattr(trainer, "n_unrolled", np.nan))


def unrolled(
    size: Size, layers: int = 0, name: str = PAPER, tied: bool = True, **settings: Any
) -> Method:
    """Return the paper's trainer, from a random initialization; 0 layers: as many as usual."""
    how: dict[str, Any] = {"init": "random", "batch_size": 8, "learning_rate": 0.02, "tied": tied}
    return dcea(name, Unrolled(layers or size.n_unrolled, **how), **{**size.gradient, **settings})


def methods(size: Size) -> list[Method]:
    """Return all methods, alternating training first."""

    def bcomp(groups: Groups, seed: int) -> BCOMP:
        hz, length = groups.baseline, groups.template_length
        return BCOMP(len(SHAPES), length, "binomial", baseline=hz, random_state=seed)

    implicit = Implicit(init="random", batch_size=8, learning_rate=0.02)
    return [
        dcea(DEFAULT, Alternating()),
        unrolled(size),
        dcea("implicit", implicit, **size.gradient),
        Method("BCOMP", bcomp),
    ]


def conditions(size: Size) -> list[tuple[Method, Groups]]:
    """Return each pair of method and groups once."""
    every, few, many = methods(size), Groups(size.few), Groups(size.many)
    varied = [replace(many, n_trials=n) for n in size.n_trials]
    varied += [replace(many, baseline=hz) for hz in size.baselines]
    wanted = [(method, few) for method in [*every, *(unrolled(size, n) for n in size.depths)]]
    wanted += [(every[0], groups) for groups in [many, *varied]]
    once = {(method.name, str(method.n_unrolled), groups): method for method, groups in wanted}
    return [(method, groups) for (_, _, groups), method in once.items()]


def run(options: Options, size: Size | None = None) -> Result:
    """Run the experiment; ``size`` replaces the full or the quick size."""
    size = size or (QUICK if options.quick else Size())
    found = compare(conditions(size), size, options)
    table, usual = found.table, Groups()
    mine = table[(table["method"] == DEFAULT) & (table["n_groups"] == table["n_groups"].max())]
    what = ("error_mean", "mean error")
    panels = [
        (mine[mine["baseline"] == usual.baseline], "n_trials", "trials of a group", *what),
        (mine[mine["n_trials"] == usual.n_trials], "baseline", "baseline (Hz)", *what),
        (table[table["method"] == PAPER], "n_unrolled", "layers of the paper's trainer", *what),
    ]
    figures = {"spikes": _spikes(options.random_state), "conditions": _by_seed(panels)}
    return replace(
        found,
        figures={**figures, **found.figures},
        settings={**asdict(size), **found.settings, "groups": asdict(Groups(size.many))},
        findings=findings("binomial", table, DEFAULT, SHAPES, usual),
    )


def untied(options: Options, size: Size | None = None) -> Result:
    """Compare tied weights with an encoder that has its own, trained without labels (DCEA-UC).

    Analysis, synthesis and decoder are three dictionaries, and thresholds are learned.  The
    decoder's dictionary is compared with the truth; errors of the encoder's are in the columns
    ``error_analysis`` and ``error_synthesis``.  ``size`` replaces the full or the quick size.
    """
    return _ablated(options, size, name="untied", tied=False)


def mismatch(options: Options, size: Size | None = None) -> Result:
    """Compare the binomial model with a Gaussian one of the same spikes, as `as_signal` gives them.

    Layers, penalty (as a fraction of lambda_max) and initialization are the same.  In the deviance
    of the Gaussian model, negative rates count as half a spike in all the trials of a group.
    """
    return _ablated(options, size, name="gaussian", family="gaussian", baseline=0.0)


def _ablated(options: Options, size: Size | None, **settings: Any) -> Result:
    """Fit the paper's model and one with other settings."""
    size = size or (QUICK if options.quick else Size())
    ablated = unrolled(size, **settings)._replace(on_signal="family" in settings)
    found = compare([(each, Groups(size.few)) for each in (unrolled(size), ablated)], size, options)
    measures = {
        "error_mean": "mean template error",
        "rate_r2": "variance of the true rate explained",
        "deviance_explained_new": "deviance of new trials explained",
    }
    panels = [(found.table, "method", "", *what) for what in measures.items()]
    kept = ("few", "n_seeds", "n_unrolled", "n_epochs", "penalty_weight")
    return replace(
        found,
        figures={**found.figures, "losses": _by_seed(panels)},
        settings={name: getattr(size, name) for name in kept} | found.settings,
        findings=findings("ablation", found.table, measures),
    )


def compare(conditions: Sequence[tuple[Method, Groups]], size: Size, options: Options) -> Result:
    """Run all conditions with the seeds of a size, and draw templates and learning.

    Templates are those of each method's first run, with the random initialization of those with
    layers.  The table has a row for each condition and seed, ``traces`` one for each epoch.
    """
    import pandas as pd

    seeds = range(options.random_state, options.random_state + size.n_seeds)
    rows: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    learned: dict[str, np.ndarray] = {}
    for method, groups in conditions:
        for seed in seeds:
            row, trace, found = score(method, groups, seed)
            learned.setdefault(method.name, found)
            rows.append(row)
            traces += trace
        now = rows[-len(seeds) :]
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
    figures = {"templates": templates(learned, initial, true), "learning": learning(trace, size)}
    settings = {"seeds": list(seeds), "groups": asdict(few)}
    return Result(pd.DataFrame(rows), figures, settings, findings=[], more={"traces": trace})


def score(method: Method, groups: Groups, seed: int) -> tuple[dict, list[dict], np.ndarray]:
    """Draw groups, fit a method to them and score it; the seed is that of the data and the fit.

    Returns the row of the table, the errors after every epoch, and templates (template, 1, bin).
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


def _fit(model: Estimator, counts: BinnedSpikes) -> list[tuple[float, Learned]]:
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
    _, state = _fit(model, replace(groups, n_groups=1).draw(seed))[0]
    return state.tensors["templates"].numpy()


@style.styled
def _spikes(seed: int) -> Figure:
    """Draw the trials of a group above their true rate."""
    counts = Groups(1).draw(seed, pooled=False)
    shape, size = (2, 1), (style.PAGE, 3.6)
    above, below = style.axes_array(None, shape, size, sharex=True, height_ratios=[1.5, 1])[:, 0]
    raster(counts, ax=above)
    above.set(title="spikes of a group's 30 trials", xlabel="")
    rate = probability(counts)[0, 0] / counts.bin_size
    below.plot(counts.times + counts.bin_size / 2, rate, color=style.INK, label="true rate")
    style.baseline(below, Groups.baseline)
    events = truth(counts).events.query("trial == 0")
    for number, name in enumerate(SHAPES):
        onsets = events["time"][events["template"] == number]
        look = {"color": style.colour(number), "label": name, "clip_on": False, "ms": 5}
        below.plot(onsets, 0 * onsets, "^", **look)
    style.legend_above(below)
    below.set(xlabel="time (s)", ylabel="rate (Hz)", ylim=(0, None))
    return above.figure


@style.styled
def _by_seed(panels: Sequence[tuple[pd.DataFrame, str, str, str, str]]) -> Figure:
    """Draw lines of seeds and the median, by table, column, its label, measure and its label."""
    axes = style.axes_array(None, (1, len(panels)), (style.PAGE, 2.4))[0]
    for ax, (rows, by, xlabel, measure, ylabel) in zip(axes, panels, strict=True):
        each = rows.pivot(index=by, columns="seed", values=measure)
        names = [name if isinstance(name, str) else f"{name:g}" for name in each.index]
        ax.plot(range(len(names)), each, "o-", color=style.PALETTE[0], lw=0.8, ms=3.5, alpha=0.5)
        ax.plot(range(len(names)), each.median(axis=1), color=style.INK, lw=2)
        ax.set_xticks(range(len(names)), labels=names)
        ax.margins(x=0.15)
        low, high = rows[measure].min(), rows[measure].max()
        ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(min(0, 1.1 * low), max(0.2, 1.1 * high)))
    return axes[0].figure


@style.styled
def templates(
    learned: Mapping[str, np.ndarray], initial: Mapping[str, np.ndarray], truth: np.ndarray
) -> Figure:
    """Draw a row for each method: initial, learned and true templates in the same panels.

    Templates (template, 1, bin) are given by method; ``initial`` may lack methods.
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
            ax.plot(bins, truth[number, 0], color=style.INK, lw=1.1, ls=style.DASHES, label="truth")
            ax.set_title(f"{SHAPES[number]} · error {error.errors[number]:.2f}")
            ax.set_xlim(0, truth.shape[2])
        row[0].set_ylabel(name)
    for ax in grid[-1]:
        ax.set_xlabel("time (ms)")
    return style.legend_outside(max(grid[:, 0], key=lambda ax: len(ax.lines)))


@style.styled
def learning(trace: pd.DataFrame, size: Size) -> Figure:
    """Draw the mean error of each method after every epoch, against epochs and against time.

    One line per seed, for few groups and the usual number of layers.
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
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].set(xlabel="seconds of training", xscale="log")
    style.legend_above(panels[1])
    return panels[0].figure
