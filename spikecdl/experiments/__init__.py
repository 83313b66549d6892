"""The source's experiments, each with its rivals on the same data.

An experiment is a module with a function ``run(options) -> Result``.
"""

from __future__ import annotations

import importlib

from spikecdl.experiments.result import Options, Result
from spikecdl.validation import one_of

__all__ = ["EXPERIMENTS", "Options", "Result", "run"]

EXPERIMENTS: dict[str, str] = {
    "binomial": "the source's three templates come back from random starts",
    "untied": "encoder weights of their own, trained without labels, lose",
    "mismatch": "spikes taken for a signal with Gaussian noise lose",
    "whisker": "thalamic units under whisker deflection, DCEA beside its rivals",
    "sea": "the shallow auto-encoder of the theory contracts to the truth, and what breaks it",
}
"""Experiments by name, with what each shows."""


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
    module = importlib.import_module(f"{__name__}.{one_of('name', name, EXPERIMENTS)}")
    return module.run(options or Options())
