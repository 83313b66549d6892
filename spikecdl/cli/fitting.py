"""`spikecdl fit` and `spikecdl demo`."""

from __future__ import annotations

import json
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikecdl.cli import windows as choose
from spikecdl.cli.progress import epochs_shown, working
from spikecdl.cli.windows import Windows

if TYPE_CHECKING:
    from spikecdl.estimator import DCEA

Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]

CHECKPOINT = "checkpoint.safetensors"


def fit(
    file: choose.File,
    out: Out,
    length: Annotated[float, typer.Option(help="Length of the templates in seconds.")],
    templates: Annotated[int, typer.Option(help="Number of templates.")] = 1,
    family: Annotated[
        str, typer.Option(help="binomial, poisson, negative_binomial or gaussian.")
    ] = "poisson",
    bin: Annotated[float | None, typer.Option(help="Seconds per bin.")] = None,
    pool_trials: choose.Pool = False,
    align: choose.Align = None,
    window: choose.Window = None,
    units: choose.Units = None,
    trials: choose.Trials = None,
    table: choose.Table = "trials",
    weight: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            help="Penalty as a fraction of lambda_max. Default: from the height that scores of "
            "pure noise reach.",
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(help="shared: one waveform for all units; joint: units are its channels."),
    ] = "shared",
    penalty: Annotated[str, typer.Option(help="l1, or group_l1: units fire together.")] = "l1",
    sign: Annotated[
        str, typer.Option(help="Sign of codes: positive, negative, both.")
    ] = "positive",
    baseline: Annotated[
        str,
        typer.Option(help="learned; START:STOP, estimated there (s); or rates in Hz, by commas."),
    ] = "learned",
    gradient: Annotated[
        str, typer.Option(help="alternating, or unrolled: the source paper's training.")
    ] = "alternating",
    device: Device = "auto",
    seed: Seed = 0,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs at the most. Default: as training needs.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT's checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Learn templates from a recording; results go to the folder --out."""
    from spikecdl.estimator import DCEA
    from spikecdl.penalties import PENALTIES

    chosen = Windows(pool_trials, align, window, units, trials, table)
    if penalty not in PENALTIES:
        raise ValueError(f"`--penalty` (={penalty!r}) must be one of: {', '.join(PENALTIES)}")
    model = DCEA(
        templates,
        length,
        family,
        layout=layout,
        penalty=PENALTIES[penalty](sign=sign),
        penalty_weight=weight,
        baseline=_baseline(baseline),
        gradient=gradient,
        n_epochs=epochs,
        device=device,
        random_state=seed,
    )
    summary = fit_to_folder(file, model, chosen, bin, out, resume=resume, quiet=as_json)
    _show(summary, out, as_json)


def demo(
    out: Out = Path("spikecdl-demo"), seed: Seed = 0, device: Device = "auto", as_json: Json = False
) -> None:
    """Fit the recording that ships with the package, and compare with what made it."""
    from spikecdl.estimator import DCEA

    model = DCEA(3, 0.05, "binomial", device=device, random_state=seed)
    summary = fit_to_folder(_demo_file(), model, Windows(pool=True), 0.001, out, quiet=as_json)
    _show(summary, out, as_json)


def fit_to_folder(
    file: Path,
    model: DCEA,
    chosen: Windows,
    bin_size: float | None,
    out: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Read, count, fit and write everything; return the summary."""
    from spikecdl.cli.outputs import results_folder, write_results
    from spikecdl.io import read

    data = read(file)
    counts, single = chosen.count(data, bin_size)
    with results_folder(out):
        began = time.perf_counter()
        with epochs_shown(model, quiet) as on_epoch:
            model.fit(counts, checkpoint=out / CHECKPOINT, resume=resume, on_epoch=on_epoch)
        seconds = time.perf_counter() - began
        with working("scoring held-out bins, writing results", quiet):
            summary = write_results(out, model, data, single, counts, file, chosen, seconds)
        (out / CHECKPOINT).unlink(missing_ok=True)
    return summary


def _baseline(text: str) -> str | tuple[float, float] | list[float]:
    """Return the baseline that an option means."""
    if text == "learned":
        return text
    try:
        if ":" in text:
            start, stop = text.split(":")
            return float(start), float(stop)
        rates = [float(rate) for rate in text.split(",")]
    except ValueError:
        raise ValueError(
            f"`--baseline` (={text!r}) must be learned, START:STOP in seconds, or rates in Hz "
            "separated by commas"
        ) from None
    return rates if len(rates) > 1 else rates[0]  # type: ignore[return-value]


def _demo_file() -> Path:
    """Return the recording that ships with the package, installed or in a checkout."""
    shipped = Path(str(resources.files("spikecdl").joinpath("demo.nwb")))
    beside = Path(__file__).parents[2] / "datasets" / "demo.nwb"
    return shipped if shipped.exists() else beside


def _show(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    """Print the summary."""
    from spikecdl.cli.outputs import in_words

    print(json.dumps(summary, indent=2) if as_json else in_words(summary, out))
