"""Experiments of the paper and on harder data, with comparison methods on the same data."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikecdl.files import write_json
from spikecdl.validation import one_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from spikecdl.data import BinnedSpikes

__all__ = ["EXPERIMENTS", "Experiment", "Options", "Result", "run"]


class Experiment(NamedTuple):
    """What an experiment shows, and the module and ``function(options)`` that run it."""

    shows: str
    module: str
    function: str = "run"


EXPERIMENTS: Mapping[str, Experiment] = {
    "binomial": Experiment("three templates come back from binomial counts", "binomial"),
    "untied": Experiment("an untied encoder learns worse templates", "binomial", "untied"),
    "mismatch": Experiment("a Gaussian model learns worse templates", "binomial", "mismatch"),
    "whisker": Experiment("thalamic units under whisker deflection", "whisker"),
    "events": Experiment("events in data that are harder than the paper's", "event_recovery"),
    "places": Experiment("passes along a track, from the spikes of place cells", "places"),
    "sea": Experiment("the shallow autoencoder of the theory, and what breaks it", "sea"),
}
"""Experiments by name."""


@dataclass(frozen=True)
class Options:
    """How to run an experiment.

    Parameters
    ----------
    quick : bool
        Run a small version, under two minutes on two cores, that shows the same things.
    random_state : int
        Seed of the first repetition; each further repetition adds one.
    data : Path, optional
        Folder of recordings, for experiments on recordings.
    say : callable
        Receives progress messages, one line each.
    """

    quick: bool = False
    random_state: int = 0
    data: Path | None = None
    say: Callable[[str], None] = field(default=lambda message: None, repr=False)


@dataclass(frozen=True, eq=False)
class Result:
    """Tables, figures and findings of an experiment.

    Parameters
    ----------
    table : DataFrame
        One row per measured condition.
    figures : mapping of str to Figure
        Figures by file stem.
    settings : dict
        What was run, as plain values, including the seeds.
    findings : list of str
        What the table shows, in sentences with numbers.
    more : mapping of str to DataFrame
        Further tables by file stem.
    """

    table: pd.DataFrame
    figures: Mapping[str, Figure]
    settings: dict[str, Any]
    findings: list[str]
    more: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def write(self, folder: Path, about: Mapping[str, Any], format: str = "png") -> dict[str, Any]:
        """Write tables, figures and ``summary.json``, of settings, findings and ``about``."""
        from spikecdl.plots import save

        for name, table in {"table": self.table, **self.more}.items():
            table.to_csv(folder / f"{name}.csv", index=False)
        for name, figure in self.figures.items():
            save(figure, folder / f"{name}.{format}")
        summary = {**about, "settings": self.settings, "findings": self.findings}
        write_json(folder / "summary.json", summary)
        return summary


def run(name: str, options: Options | None = None) -> Result:
    """Run one of `EXPERIMENTS`; ValueError for an unknown name or if its data are missing."""
    experiment = EXPERIMENTS[one_of("name", name, EXPERIMENTS)]
    module = importlib.import_module(f"{__name__}.{experiment.module}")
    return getattr(module, experiment.function)(options or Options())


def fitted(estimator: Any, counts: BinnedSpikes, **watch: Any) -> Any:
    """Return an estimator after its fit, which does not warn: tables say if it converged."""
    from spikecdl.training import FitWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return estimator.fit(counts, **watch)


def median_and_range(values: Iterable[float], digits: int = 2) -> str:
    """Format the median of values, followed by their range in brackets: 0.20 (0.10 to 0.30)."""
    array = np.array(list(values), dtype=float)
    middle, low, high = np.median(array), array.min(), array.max()
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def findings(experiment: str, *tables: Any) -> list[str]:
    """Return sentences about tables: the lines of a macro of ``findings.txt.j2``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__name__, ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["spread"] = median_and_range
    environment.filters["percents"] = lambda rates: f"{median_and_range(100 * rates, 0)} %"
    text = getattr(environment.get_template("findings.txt.j2").module, experiment)(*tables)
    return [line for line in text.split("\n") if line]
