"""Recordings and a fit that the tests of several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import FIT, SIMULATE, Outcome, run, succeeded, without_figures, write_only_summary

from spikecdl.cli import outputs


@pytest.fixture(scope="session")
def sims(tmp_path_factory) -> dict[str, Path]:
    """Recordings that `simulate` made."""
    folder = tmp_path_factory.mktemp("sims")
    options = {
        "pooled": ["--same-events"],
        "poisson": ["--family", "poisson", "--amplitude", 4, 6],
        "gaussian": ["--family", "gaussian", "--amplitude", 3, 5, "--baseline", 1],
        "joint": ["--family", "poisson", "--layout", "joint", "--amplitude", 6, 8],
    }
    for name, more in options.items():
        succeeded(run(*SIMULATE, *more, "--out", folder / f"{name}.nwb"))
    return {name: folder / f"{name}.nwb" for name in options}


@pytest.fixture(scope="session")
def fitted(sims, tmp_path_factory) -> tuple[Path, Outcome]:
    """Folder of a fit of pooled trials, and what the command said."""
    out = tmp_path_factory.mktemp("fit") / "some" / "where"
    command = ["fit", sims["pooled"], "--family", "binomial", "--pool-trials", *FIT, "--out", out]
    return out, succeeded(run(*command))


@pytest.fixture
def only_summary(monkeypatch) -> None:
    monkeypatch.setattr(outputs, "write_results", write_only_summary)


@pytest.fixture
def no_figures():
    with without_figures():
        yield
