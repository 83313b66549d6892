"""`spikecdl fit` and `spikecdl demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikecdl.cli import windows as choose
from spikecdl.cli.progress import epochs_shown, working
from spikecdl.cli.windows import Windows

if TYPE_CHECKING:
    from spikecdl.estimator import DCEA

Out = Annotated[
    Path, typer.Option(metavar="FOLDER", help="Folder for the results; made if it is not there.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto (a GPU if any), cpu or cuda.")]
Seed = Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Same seed, same result.")]

CHECKPOINT = "checkpoint.safetensors"


def fit(
    file: choose.File,
    out: Out,
    length: Annotated[
        float, typer.Option(metavar="SECONDS", help="Length of the templates: whole bins.")
    ],
    bin: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Size of bins. Needed, unless the file holds bins already."
        ),
    ] = None,
    templates: Annotated[int, typer.Option(metavar="NUMBER", help="How many templates.")] = 1,
    family: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="binomial, poisson, negative_binomial or gaussian; parameters after a colon, as "
            "gaussian:scale=2.5, negative_binomial:shape=3.",
        ),
    ] = "poisson",
    pool_trials: choose.Pool = False,
    align: choose.Align = None,
    window: choose.Window = None,
    units: choose.Units = None,
    trials: choose.Trials = None,
    table: choose.Table = "trials",
    layout: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="shared: one waveform for all units, a code per unit; joint: units are channels "
            "of the templates, a code per trial.",
        ),
    ] = "shared",
    weight: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            metavar="FRACTION",
            help="Penalty as a fraction of lambda_max, above which there are no events. Default: "
            "from the height that scores of pure noise reach.",
        ),
    ] = None,
    penalty: Annotated[
        str, typer.Option(metavar="NAME", help="l1, or group_l1: units fire together.")
    ] = "l1",
    sign: Annotated[
        str, typer.Option(metavar="NAME", help="Sign of codes: positive, negative or both.")
    ] = "positive",
    baseline: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="learned; or START:STOP, estimated between these times of each window; or a rate "
            "in Hz; or one for each unit, as 8,5.5,12.",
        ),
    ] = "learned",
    trainer: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Training: alternating; unrolled, that of the source paper; or implicit, its "
            "limit of infinitely many layers.",
        ),
    ] = "alternating",
    epochs: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Epochs at the most. Default: as training needs."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the checkpoint that a killed fit left in --out."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn templates from a recording; write everything to --out.

    --out receives the model, summary.json, figures, results.nwb and report.html. Times are in
    seconds. `spikecdl inspect FILE` shows what there is to choose from.
    """
    from spikecdl.estimator import DCEA
    from spikecdl.model.families import from_text
    from spikecdl.model.penalties import PENALTIES
    from spikecdl.validation import one_of

    model = DCEA(
        templates,
        length,
        from_text(family) if ":" in family else family,
        layout=layout,
        penalty=PENALTIES[one_of("penalty", penalty, PENALTIES)](sign=sign),
        penalty_weight=weight,
        baseline=_baseline(baseline),
        trainer=trainer,
        n_epochs=epochs,
        device=device,
        random_state=seed,
    )
    chosen = Windows(pool_trials, align, window, units, trials, table)
    _fit_to_folder(file, model, chosen, bin, out, resume=resume, as_json=as_json)


def demo(
    out: Out = Path("spikecdl-demo"), seed: Seed = 0, device: Device = "auto", as_json: Json = False
) -> None:
    """Fit the recording that comes with spikecdl; check the result.

    The recording is simulated: what was found is compared with what made it.
    """
    from spikecdl import datasets
    from spikecdl.estimator import DCEA

    model = DCEA(3, 0.05, "binomial", device=device, random_state=seed)
    _fit_to_folder(datasets.demo(), model, Windows(pool=True), 0.001, out, as_json=as_json)


def _fit_to_folder(
    file: Path,
    model: DCEA,
    chosen: Windows,
    bin_size: float | None,
    out: Path,
    *,
    resume: bool = False,
    as_json: bool = False,
) -> None:
    """Read, count, fit, write everything and print the summary.

    Of the processes that torchrun starts, the first one does all but the fit, which all share.
    """
    from spikecdl.io import read
    from spikecdl.training.distributed import joined

    with joined() as ranks:
        if ranks.rank > 0:
            counts, _ = chosen.count(read(file), bin_size)
            model.fit(counts, checkpoint=out / CHECKPOINT, resume=resume)
        else:
            _fit_and_write(file, model, chosen, bin_size, out, resume, as_json)


def _fit_and_write(
    file: Path,
    model: DCEA,
    chosen: Windows,
    bin_size: float | None,
    out: Path,
    resume: bool,
    as_json: bool,
) -> None:
    from spikecdl.cli import outputs, summary
    from spikecdl.io import read

    with outputs.results_folder(out, file) as unfinished:
        data = read(file)
        counts, single = chosen.count(data, bin_size)
        began = time.perf_counter()
        with epochs_shown(model, as_json) as on_epoch:
            model.fit(counts, checkpoint=out / CHECKPOINT, resume=resume, on_epoch=on_epoch)
        seconds = time.perf_counter() - began
        with working("scoring bins held out, writing results", as_json):
            parts = model.decompose(counts)
            about = summary.of_fit(model, parts, file, chosen, seconds)
            outputs.write_fit(unfinished, model, data, single, parts, about)
    (out / CHECKPOINT).unlink(missing_ok=True)
    lines = [*summary.fit_in_words(about), f"results in {out}/ (start with report.html)"]
    summary.show(about, lines, as_json)


def _baseline(text: str) -> str | float | tuple[float, float] | list[float]:
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
            f"`baseline` (={text!r}) must be learned, START:STOP in seconds, or rates in Hz "
            "separated by commas"
        ) from None
    return rates if len(rates) > 1 else rates[0]
