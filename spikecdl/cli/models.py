"""`spikecdl apply`, `evaluate` and `compare`: a fitted model meets other data, or the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikecdl.cli import windows as choose
from spikecdl.cli.fitting import Device, Json, Out
from spikecdl.cli.progress import working
from spikecdl.cli.windows import Windows

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
    from spikecdl.estimator import DCEA

Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="Folder that a fit wrote to, or its model.safetensors."),
]


def apply(
    model: Model,
    file: choose.File,
    out: Out,
    pool_trials: choose.Pool = False,
    align: choose.Align = None,
    window: choose.Window = None,
    units: choose.Units = None,
    trials: choose.Trials = None,
    table: choose.Table = "trials",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the events of a model's templates in another recording.

    --out receives summary.json, rates.png, codes.png and results.nwb. Bins are those of the model.
    """
    from spikecdl.cli import outputs, summary

    chosen = Windows(pool_trials, align, window, units, trials, table)
    if (out / "model.safetensors").exists():
        raise ValueError(
            f"`out` (={str(out)!r}) holds a fit, which would be replaced in part; choose another "
            "folder"
        )
    with outputs.results_folder(out, file) as unfinished, working("finding events", as_json):
        fitted, data, single, parts = _meet(model, file, chosen, device)
        about = summary.of_codes(fitted, parts, model, file, chosen)
        outputs.write_codes(unfinished, fitted, data, single, parts, about)
    lines = [*summary.codes_in_words(about), f"results in {out}/"]
    summary.show(about, lines, as_json)


def evaluate(
    model: Model,
    file: choose.File,
    pool_trials: choose.Pool = False,
    align: choose.Align = None,
    window: choose.Window = None,
    units: choose.Units = None,
    trials: choose.Trials = None,
    table: choose.Table = "trials",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say how much of a recording a model explains.

    In all bins, and in bins held out: those that the events were not found in. And whether spikes
    come at the model's rate, by the Kolmogorov-Smirnov test in rescaled time.
    """
    from spikecdl.cli import summary

    chosen = Windows(pool_trials, align, window, units, trials, table)
    with working("finding events, scoring bins held out", as_json):
        fitted, _, _, parts = _meet(model, file, chosen, device)
        about = summary.of_codes(fitted, parts, model, file, chosen)
    summary.show(about, summary.codes_in_words(about), as_json)


def compare(
    model: Model,
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="Simulated recording, which holds its truth.")
    ],
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Largest error of an event's time. Default: 3 bins."),
    ] = None,
    pool_trials: choose.Pool = False,
    units: choose.Units = None,
    trials: choose.Trials = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare a model with what made a simulated recording.

    Errors of its templates, whatever their order and shift, and how many events were found.
    """
    from spikecdl.cli import summary

    chosen = Windows(pool_trials, units=units, trials=trials)
    with working("finding events", as_json):
        _, _, _, parts = _meet(model, truth, chosen, device)
    if parts.counts.truth is None:
        raise ValueError(f"{truth} holds no truth; `spikecdl simulate` makes files that do")
    found = summary.of_recovery(parts, tolerance)
    about = {"model": str(model), "truth": str(truth), **found}
    summary.show(about, summary.recovery_in_words(found), as_json)


def _meet(
    path: Path, file: Path, chosen: Windows, device: str
) -> tuple[DCEA, SpikeTrains | BinnedSpikes, BinnedSpikes, Decomposition]:
    """Return a model, what a file holds, its counts of single trials, and their decomposition."""
    from spikecdl.data import SpikeTrains
    from spikecdl.estimator import load
    from spikecdl.io import read

    model = load(path).set_params(device=device)
    data = read(file)
    bin_size = model.bin_size_ if isinstance(data, SpikeTrains) else None
    counts, single = chosen.count(data, bin_size)
    return model, data, single, model.decompose(counts)
