"""`spikecdl denoise`: photon-limited images, and the training and comparison of what denoises."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spikecdl.cli.fitting import Device, Json, Seed

_DEFAULT = "image"
_SEVERAL = ("--peaks", "--methods")

Images = Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of clean images.")]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="single, or bfloat16: quicker where the processor has such products."
    ),
]


class _DefaultGroup(TyperGroup):
    """Commands, of which one need not be named: `denoise FILE` is `denoise image FILE`.

    Several values may follow an option of `_SEVERAL`.
    """

    default = _DEFAULT

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, _gathered(args) or ["--help"])


def _gathered(args: list[str]) -> list[str]:
    """Join the values that follow an option of several into one argument."""
    joined: list[str] = []
    several = False
    for word in args:
        if several and not word.startswith("--"):
            joined[-1] = f"{joined[-1]} {word}".strip()
            continue
        joined.append(word)
        several = word in _SEVERAL
        if several:
            joined.append("")
    return joined


app = typer.Typer(
    name="denoise",
    cls=_DefaultGroup,
    help="Denoise images of few photons per pixel.\n\nUse it as `spikecdl denoise FILE --out FILE` "
    "or with one of the commands below.",
    rich_markup_mode=None,
)


@app.command(_DEFAULT)
def image(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Counts of photons: .png, .tif or .npy.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Receives expected counts: .png, .tif or .npy.")
    ],
    peak: Annotated[
        float | None,
        typer.Option(metavar="COUNTS", help="Largest expected count. Default: estimated."),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="blind, for any peak; uc or c, of the source; ca.")
    ] = "blind",
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights that `denoise train` wrote; --model is theirs."),
    ] = None,
    precision: Precision = "single",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Denoise a frame, or each frame of a stack.

    FILE holds counts of photons: whole numbers. TIFF and npy receive expected counts; PNG, which is
    to be looked at, has its largest value white.
    """
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from spikecdl import validation
    from spikecdl.cli import summary
    from spikecdl.denoise import PoissonDenoiser, estimate_peak, images, models
    from spikecdl.denoise.frames import checked_counts

    validation.one_of("model", model, models.MODELS)
    frames = checked_counts(images.read_images(file), stacks=True)
    images.check_target(out, len(frames), file)
    used = max(map(estimate_peak, frames)) if peak is None else peak
    path = weights if weights is not None else models.find(model, used)
    denoiser = PoissonDenoiser.read(path, peak=peak, precision=precision, device=device)
    began = time.perf_counter()
    console = Console(stderr=True)
    quiet = as_json or not console.is_terminal
    shown = track(frames, "denoising", console=console, disable=quiet)
    rates = np.stack([denoiser.predict(frame) for frame in shown])
    seconds = (time.perf_counter() - began) / len(frames)
    images.write_images(out, rates[0] if len(rates) == 1 else rates)
    found = {
        "frames": len(frames),
        "shape": list(frames.shape[1:]),
        "peak": used,
        "peak_estimated": peak is None,
        "weights": path.name,
        "seconds_per_frame": round(seconds, 3),
        "out": str(out),
    }
    said = "estimated" if peak is None else "given"
    lines = [
        f"{summary.counted(len(frames), 'frame')} of {frames.shape[1]} x {frames.shape[2]} pixels, "
        f"peak {used:.3g} counts ({said}), {seconds:.2f} s per frame, by {path.stem}",
        f"expected counts in {out}",
    ]
    summary.show(found, lines, as_json)


@app.command()
def train(
    folder: Images,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Receives weights; made if it is not there.")
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="uc, c, ca or blind.")] = "uc",
    peak: Annotated[
        float | None,
        typer.Option(metavar="COUNTS", help="Largest expected count. Default: 4; blind: .5 to 8."),
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(
            metavar="NUMBER", min=1, help="An epoch has as many crops as would cover the images."
        ),
    ] = 20,
    batch: Annotated[int, typer.Option(metavar="NUMBER", min=1, help="Crops per step.")] = 4,
    shifts: Annotated[
        int,
        typer.Option(
            metavar="NUMBER", min=1, help="Shifts of the grid whose mean is trained (uc and c)."
        ),
    ] = 1,
    crop: Annotated[int, typer.Option(metavar="PIXELS", min=1, help="Side of a crop.")] = 128,
    zoom: Annotated[
        float,
        typer.Option(metavar="FACTOR", help="Half of the crops are enlarged by up to this much."),
    ] = 1.0,
    rate: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="Learning rate. Default: the model's.")
    ] = None,
    loss: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="mse, or log: the mean logarithm of each crop's squared error."
        ),
    ] = "mse",
    start: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights to start from.")
    ] = None,
    leave_out: Annotated[
        int, typer.Option(metavar="NUMBER", min=0, help="Last images, for validation.")
    ] = 0,
    precision: Precision = "bfloat16",
    seed: Seed = 0,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint of a killed training.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a network on clean images.

    Counts are drawn anew for every crop. --out receives MODEL-PEAK.safetensors, and where it is
    from as .json.
    """
    from spikecdl.cli import summary
    from spikecdl.denoise import PoissonDenoiser, images, models

    clean = images.read_folder(folder)
    if leave_out >= len(clean):
        raise ValueError(f"`leave_out` (={leave_out}) must be below the {len(clean)} images")
    kept = clean[: len(clean) - leave_out]
    denoiser = PoissonDenoiser(
        peak,
        model,
        n_epochs=epochs,
        batch=batch,
        n_shifts=shifts,
        crop=crop,
        zoom=zoom,
        learning_rate=rate,
        loss=loss,
        precision=precision,
        device=device,
        random_state=seed,
    )
    checkpoint = out / f"{model}.checkpoint"
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with _epochs_shown(epochs, as_json) as on_epoch:
        denoiser.fit(kept, start=start, checkpoint=checkpoint, resume=resume, on_epoch=on_epoch)
    seconds = time.perf_counter() - began
    found = _validated(denoiser, clean[len(kept) :], seed)
    about = summary.of_training(folder, len(kept), denoiser, start, found, seconds)
    path = out / models.file_name(model, denoiser.peaks_)
    denoiser.save(path, about)
    checkpoint.unlink()
    lines = [
        f"{denoiser.n_parameters_:,} parameters, {epochs} epochs of {len(kept)} images in "
        f"{seconds:.0f} s; weights in {path}",
        *(f"validation at peak {peak}: {value:.2f} dB" for peak, value in found.items()),
    ]
    summary.show(about, lines, as_json)


@app.command()
def benchmark(
    folder: Images,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Receives table.csv, figure.png and summary.json."),
    ] = None,
    peaks: Annotated[
        str, typer.Option(metavar="COUNTS...", help="Largest expected counts.")
    ] = "1 2 4",
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAMES...",
            help="Of noisy, vst-tv, vst-nlm, spda, ca, dcea-c, dcea-uc, blind.",
        ),
    ] = "noisy vst-tv dcea-c dcea-uc blind",
    draws: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Draws of counts for each image.")
    ] = 5,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Weights that `denoise train` wrote; others are the package's."
        ),
    ] = None,
    precision: Precision = "single",
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare methods on clean images with drawn counts.

    Several peaks or methods follow their option: --peaks 1 2 4 --methods dcea-uc vst-tv. Prints
    PSNR and SSIM of each image, and their means with standard errors over draws.
    """
    from rich.console import Console

    from spikecdl.cli import outputs, summary
    from spikecdl.denoise import benchmark as bench
    from spikecdl.denoise import images

    console = Console(stderr=True, quiet=as_json)
    clean = images.read_named(folder)
    test = bench.Benchmark(
        clean,
        [_number("peaks", word) for word in peaks.split()],
        methods.split(),
        draws,
        weights,
        seed,
        precision,
        device,
    )
    began = time.perf_counter()
    table = test.run(lambda text: console.print(text, highlight=False, soft_wrap=True))
    about = summary.of_benchmark(test, table, time.perf_counter() - began)
    if out is not None:
        with outputs.results_folder(out, folder) as unfinished:
            bench.write(unfinished, test, table, about)
    summary.show(about, [*bench.images_in_words(table), "", *bench.in_words(table)], as_json)


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"`{name}` (={word!r}) must be numbers of counts") from None


def _validated(denoiser: Any, clean: list[Any], seed: int) -> dict[str, float]:
    """Return the mean PSNR of clean images that were left out, by peak."""
    from spikecdl.denoise.benchmark import drawn, psnr

    found = {}
    for peak in denoiser.peaks_ if clean else ():
        pairs = [drawn(image, peak, (seed, number)) for number, image in enumerate(clean)]
        values = [psnr(image, denoiser.predict(counts) / peak) for image, counts in pairs]
        found[f"{peak:g}"] = sum(values) / len(values)
    return found


@contextmanager
def _epochs_shown(epochs: int, quiet: bool) -> Iterator[Callable[[int, float], None]]:
    """Show a bar of epochs, or a line for each; yields what to call after each."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("training", total=epochs)

        def on_epoch(done: int, loss: float) -> None:
            text = f"epoch {done}: {-10 * math.log10(loss):.2f} dB in training"
            progress.update(task, description=text, completed=done)
            if not quiet and not console.is_terminal:
                console.print(text, highlight=False)

        yield on_epoch
