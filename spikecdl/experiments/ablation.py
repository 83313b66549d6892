"""What the ablations share: the source's trainer, whole and with something taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from spikecdl.experiments import benchmark
from spikecdl.experiments.benchmark import PENALTY_WEIGHT, Groups, Method, truth
from spikecdl.experiments.binomial import unrolled
from spikecdl.experiments.result import Options, Result, median_and_range

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Size:
    """How much is run: groups, seeds, layers of the encoder, and epochs."""

    n_groups: int = 100
    n_seeds: int = 10
    n_unrolled: int = 100
    n_epochs: int = 20


FULL = Size()
QUICK = Size(40, 3, 50, 20)


def run(
    ablated: Callable[[Size], Method],
    findings: Callable[[pd.DataFrame], list[str]],
    options: Options,
    size: Size | None = None,
) -> Result:
    """Fit the source's model, and the one without something, to the same data from the same start.

    Parameters
    ----------
    ablated : callable
        Given the size, returns the method that lacks something.
    findings : callable
        Says what a table shows.
    options : Options
    size : Size, optional
        In place of the full or the quick one.
    """
    import pandas as pd

    from spikecdl.experiments import figures as figures

    size = size or (QUICK if options.quick else FULL)
    groups = Groups(size.n_groups)
    seeds = range(options.random_state, options.random_state + size.n_seeds)
    whole = unrolled(size.n_unrolled, size.n_epochs)
    runs = []
    for method in (whole, ablated(size)):
        runs += [benchmark.run(method, groups, seed) for seed in seeds]
        options.say(benchmark.described([fitted.row for fitted in runs[-len(seeds) :]]))
    table = pd.DataFrame([fitted.row for fitted in runs])
    trace = pd.DataFrame([record for fitted in runs for record in fitted.trace])
    counts = groups.draw(seeds[0])
    begun = benchmark.start(whole.model(groups, seeds[0]), counts)
    firsts = {fitted.row["method"]: fitted.templates for fitted in runs[:: len(seeds)]}
    return Result(
        table=table,
        figures={
            "templates": figures.templates(
                firsts, dict.fromkeys(firsts, begun), truth(counts).templates
            ),
            "learning": figures.learning(trace, size.n_groups, size.n_unrolled),
            "losses": figures.pairs(
                table,
                {
                    "error_mean": "mean template error",
                    "rate_r2": "variance of the rate explained",
                    "deviance_explained_new": "deviance explained, new trials",
                },
            ),
        },
        settings={
            **asdict(size),
            "groups": asdict(groups),
            "penalty_weight": PENALTY_WEIGHT,
            "seeds": list(seeds),
        },
        findings=findings(table),
        more={"traces": trace},
    )


def compared(table: pd.DataFrame) -> list[str]:
    """Say which of two methods learned better, in how many seeds."""
    whole, ablated = table["method"].unique()
    by_seed = table.pivot(index="seed", columns="method")
    found = []
    for column, what, sign in (
        ("error_mean", "mean template error", 1),
        ("rate_r2", "part of the true rate's variance explained", -1),
        ("deviance_explained_new", "deviance of new trials explained", -1),
    ):
        values = by_seed[column]
        loses = sign * (values[ablated] - values[whole]) > 0
        found.append(
            f"{what.capitalize()}: {whole} {median_and_range(values[whole])}, {ablated} "
            f"{median_and_range(values[ablated])}; {ablated} is worse in {loses.sum()} of "
            f"{len(loses)} seeds{'' if loses.all() else ', so it does NOT always lose'}."
        )
    return found
