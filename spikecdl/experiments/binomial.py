"""The paper's first experiment: three templates from binomial counts and a random initialization.

Every method fits the same groups of trials with the same seeds.  Then trials, baselines and, for
the paper's own trainer, layers are varied.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from spikecdl.baselines import BCOMP
from spikecdl.experiments import benchmark, figures
from spikecdl.experiments.benchmark import (
    PENALTY_WEIGHT,
    SHAPES,
    TEMPLATE_LENGTH,
    Groups,
    Method,
    dcea,
    truth,
    unrolled,
)
from spikecdl.experiments.result import Options, Result, median_and_range
from spikecdl.training import Alternating, Implicit

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

DEFAULT, PAPER = "alternating", "unrolled"


@dataclass(frozen=True)
class Size:
    """How much is run; tuples are values that are varied."""

    many: int = 1000  # groups for the default fit
    few: int = 100  # groups for the comparison of all methods
    n_seeds: int = 10  # repetitions, each with its own data and initialization
    n_trials: tuple[int, ...] = (5, 10, 30, 50)  # of a group
    baselines: tuple[float, ...] = (2.0, 5.0, 8.0, 17.0)  # Hz
    depths: tuple[int, ...] = (25, 50, 100, 250)  # layers of the encoder
    n_unrolled: int = 100  # layers where they are not varied
    n_epochs: int = 20  # of the gradient trainers


FULL = Size()
QUICK = Size(60, 40, 3, (10, 30), (5.0, 8.0), (25, 50), 50, 20)


def methods(size: Size) -> list[Method]:
    """Return all methods, the default fit first."""

    def bcomp(groups: Groups, seed: int) -> BCOMP:
        hz = groups.baseline
        return BCOMP(len(SHAPES), TEMPLATE_LENGTH, "binomial", baseline=hz, random_state=seed)

    implicit = Implicit(init="random", batch_size=8, learning_rate=0.02)
    return [
        dcea(DEFAULT, Alternating()),
        unrolled(size.n_unrolled, size.n_epochs),
        dcea("implicit", implicit, PENALTY_WEIGHT, size.n_epochs),
        Method("BCOMP", bcomp, traced=False),
    ]


def conditions(size: Size) -> list[tuple[Method, Groups]]:
    """Return each pair of method and groups once."""
    every, few, many = methods(size), Groups(size.few), Groups(size.many)
    varied = [replace(many, n_trials=n) for n in size.n_trials]
    varied += [replace(many, baseline=hz) for hz in size.baselines]
    depths = [unrolled(layers, size.n_epochs) for layers in size.depths]
    wanted = [(method, few) for method in [*every, *depths]]
    wanted += [(every[0], groups) for groups in [many, *varied]]
    once = {(method.name, method.n_unrolled, groups): method for method, groups in wanted}
    return [(method, groups) for (_, _, groups), method in once.items()]


def run(options: Options, size: Size | None = None) -> Result:
    """Run the experiment.

    Parameters
    ----------
    options : Options
    size : Size, optional
        Replaces the full or the quick size.

    Returns
    -------
    Result
        A row of the table for each condition and seed; the errors after every epoch in ``traces``.
    """
    import pandas as pd

    size = size or (QUICK if options.quick else FULL)
    seeds = range(options.random_state, options.random_state + size.n_seeds)
    rows, traces = [], []
    learned: dict[str, np.ndarray] = {}
    for method, groups in conditions(size):
        for seed in seeds:
            fitted = benchmark.run(method, groups, seed)
            rows.append(fitted.row)
            traces += fitted.trace
            if (groups, seed) == (Groups(size.few), seeds[0]):
                learned.setdefault(method.name, fitted.templates)
        options.say(benchmark.described(rows[-len(seeds) :]))
    table, trace = pd.DataFrame(rows), pd.DataFrame(traces)
    return Result(
        table=table,
        figures=_figures(table, trace, learned, size, seeds[0]),
        settings={
            **asdict(size),
            "groups": asdict(Groups(size.many)),
            "penalty_weight_of_gradient_steps": PENALTY_WEIGHT,
            "seeds": list(seeds),
        },
        findings=findings(table),
        more={"traces": trace},
    )


def findings(table: pd.DataFrame) -> list[str]:
    """Describe the table, as medians and ranges over the seeds."""
    usual = table[(table["n_trials"] == Groups.n_trials) & (table["baseline"] == Groups.baseline)]
    default = usual[usual["method"] == DEFAULT]
    most = default[default["n_groups"] == default["n_groups"].max()]
    errors = ", ".join(f"{shape} {median_and_range(most[f'error_{shape}'])}" for shape in SHAPES)
    found = [
        f"The default fit of {most['n_groups'].iloc[0]} groups has template errors of {errors}; it "
        f"finds {_percent(most['hit_rate'])} of the events, and of those it finds "
        f"{_percent(most['false_alarm_rate'])} are false; {median_and_range(most['seconds'], 1)} s."
    ]
    few = usual[usual["n_groups"] == usual["n_groups"].min()]
    for (name, layers), runs in few.groupby(["method", "n_unrolled"], dropna=False, sort=False):
        through = f" through {layers:.0f} layers" if layers == layers else ""
        found.append(
            f"{name[0].upper()}{name[1:]}{through}, {runs['n_groups'].iloc[0]} groups: mean error "
            f"{median_and_range(runs['error_mean'])}, largest {median_and_range(runs['error_max'])}"
            f"; hits {_percent(runs['hit_rate'])}, false {_percent(runs['false_alarm_rate'])}; "
            f"{median_and_range(runs['seconds'], 1)} s."
        )
    varied = table[(table["method"] == DEFAULT) & (table["n_groups"] == table["n_groups"].max())]
    for column, fixed, what in (
        ("n_trials", varied["baseline"] == Groups.baseline, "trials of a group"),
        ("baseline", varied["n_trials"] == Groups.n_trials, "Hz of baseline"),
    ):
        each = [
            f"{median_and_range(runs['error_mean'])} at {value:g}"
            for value, runs in varied[fixed].groupby(column)
        ]
        found.append(f"Mean error of the default fit against {what}: {', '.join(each)}.")
    return found


def _percent(rates: pd.Series) -> str:
    return f"{median_and_range(100 * rates, 0)} %"


def _figures(
    table: pd.DataFrame,
    trace: pd.DataFrame,
    learned: dict[str, np.ndarray],
    size: Size,
    seed: int,
) -> dict[str, Figure]:
    few = Groups(size.few)
    counts, paper = few.draw(seed), unrolled(size.n_unrolled, size.n_epochs)
    initial = benchmark.initial_templates(paper.model(few, seed), counts)
    return {
        "spikes": figures.spikes(seed),
        "templates": figures.templates(learned, {PAPER: initial}, truth(counts).templates),
        "learning": figures.learning(trace, size.few, size.n_unrolled),
        "conditions": figures.conditions(table, DEFAULT, PAPER),
    }
