"""`spikecdl experiment`: the source's experiments, with their rivals."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from spikecdl.cli.fitting import Json, Out, Seed
from spikecdl.experiments import EXPERIMENTS

_NAMES = "; ".join(f"{name}: {what}" for name, what in EXPERIMENTS.items())


def experiment(
    name: Annotated[str, typer.Argument(metavar="NAME", help=_NAMES)],
    out: Out,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version, under two minutes.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Recordings, for the experiments that need them."),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run one of the source's experiments, rivals beside it.

    --out receives table.csv, figures as PNG and summary.json.
    """
    from rich.console import Console

    from spikecdl import experiments
    from spikecdl.cli import outputs, summary

    console = Console(stderr=True, quiet=as_json)
    options = experiments.Options(
        quick, seed, data, lambda text: console.print(text, highlight=False, soft_wrap=True)
    )
    began = time.perf_counter()
    with outputs.results_folder(out, data or Path()) as unfinished:
        result = experiments.run(name, options)
        about = summary.of_experiment(name, options, time.perf_counter() - began)
        result.write(unfinished, about)
    found = {**about, "settings": dict(result.settings), "findings": list(result.findings)}
    summary.show(found, [*result.findings, f"results in {out}/"], as_json)
