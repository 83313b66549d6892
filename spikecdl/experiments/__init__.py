"""The paper's experiments, each with its comparison methods on the same data."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import NamedTuple

from spikecdl.experiments.result import Options, Result
from spikecdl.validation import one_of

__all__ = ["EXPERIMENTS", "Experiment", "Options", "Result", "run"]


class Experiment(NamedTuple):
    """What an experiment shows, and the module and ``function(options)`` that run it."""

    shows: str
    module: str
    function: str = "run"


EXPERIMENTS: Mapping[str, Experiment] = {
    "binomial": Experiment("three templates come back from binomial counts", "binomial"),
    "untied": Experiment("an untied encoder learns worse templates", "ablations", "untied"),
    "mismatch": Experiment("a Gaussian model learns worse templates", "ablations", "mismatch"),
    "whisker": Experiment("thalamic units under whisker deflection", "whisker"),
    "sea": Experiment("the shallow autoencoder of the theory, and what breaks it", "sea"),
}
"""Experiments by name."""


def run(name: str, options: Options | None = None) -> Result:
    """Run an experiment.

    Parameters
    ----------
    name : str
        One of `EXPERIMENTS`.
    options : Options, optional

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        If there is no such experiment, or its data are missing.
    """
    experiment = EXPERIMENTS[one_of("name", name, EXPERIMENTS)]
    module = importlib.import_module(f"{__name__}.{experiment.module}")
    return getattr(module, experiment.function)(options or Options())
