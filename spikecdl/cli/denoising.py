"""`spikecdl denoise`: denoise images of few photons, train networks, and compare methods."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spikecdl.cli import outputs
from spikecdl.cli.options import (
    Device,
    Format,
    Json,
    Overwrite,
    Picture,
    Seed,
    argument,
    flag,
    numbers,
    option,
)
from spikecdl.progress import shown

_SEVERAL = ("--peaks", "--methods")


class _Commands(TyperGroup):
    """`denoise FILE` is `denoise image FILE`, and several values may follow some options."""

    default = "image"  # errors look it up, too

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        joined: list[str] = []
        several = False  # whether words belong to the last argument
        for word in args:
            if several and not word.startswith("--"):
                joined[-1] = f"{joined[-1]} {word}".strip()
            else:
                several = word in _SEVERAL
                joined += [word, ""] if several else [word]
        return super().parse_args(ctx, joined or ["--help"])


app = typer.Typer(
    name="denoise",
    cls=_Commands,
    help="Denoise images of few photons per pixel.\n\nUse it as `spikecdl denoise FILE --out FILE` "
    "or with one of the commands below.",
    rich_markup_mode=None,
)

Images = Annotated[Path, argument("IMAGES", "Folder of clean images.")]
Precision = Annotated[str, option("NAME", "single, or bfloat16: faster on some processors.")]


@app.command()
def image(
    file: Annotated[Path, argument("FILE", "Counts of photons: .png, .tif or .npy.")],
    out: Annotated[Path, option("FILE", "Receives expected counts: .png, .tif or .npy.")],
    peak: Annotated[
        float | None, option("COUNTS", "Largest expected count. Default: estimated.")
    ] = None,
    model: Annotated[
        str, option("NAME", "blind, for any peak; uc or c, of the paper; ca, to compare with.")
    ] = "blind",
    weights: Annotated[
        Path | None, option("FILE", "Weights from `denoise train`, instead of --model.")
    ] = None,
    precision: Precision = "single",
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Denoise a frame, or each frame of a stack.

    TIFF and npy receive expected counts; PNG is for viewing, with its largest value white.
    """
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from spikecdl.denoise import PoissonDenoiser, estimate_peak, images, pretrained
    from spikecdl.denoise.frames import checked
    from spikecdl.validation import counted, one_of

    one_of("model", model, pretrained.MODELS)
    frames = checked("counts", images.read_images(file), whole=True)
    images.check_target(out, len(frames), file)
    outputs.new_file(out, overwrite)
    used = max(map(estimate_peak, frames)) if peak is None else peak
    path = weights if weights is not None else pretrained.find(model, used)
    denoiser = PoissonDenoiser.read(path, peak=peak, precision=precision, device=device)
    console, began = Console(stderr=True), time.perf_counter()
    shown = track(frames, "denoising", console=console, disable=as_json or not console.is_terminal)
    rates = np.stack([denoiser.predict(frame) for frame in shown])
    seconds = (time.perf_counter() - began) / len(frames)
    images.write_images(out, rates[0] if len(rates) == 1 else rates)
    found = {"frames": len(frames), "shape": list(frames.shape[1:]), "peak": used}
    found |= {"peak_estimated": peak is None, "weights": path.name}
    found |= {"seconds_per_frame": round(seconds, 3), "out": str(out)}
    lines = [
        f"{counted(len(frames), 'frame')} of {frames.shape[1]} x {frames.shape[2]} "
        f"pixels, peak {used:.3g} counts ({'estimated' if peak is None else 'given'}), "
        f"{seconds:.2f} s per frame, by {path.stem}",
        f"expected counts in {out}",
    ]
    outputs.show(found, lines, as_json)


@app.command()
def train(
    folder: Images,
    out: Annotated[Path, option("FOLDER", "Receives weights; created if it is missing.")],
    model: Annotated[str, option("NAME", "uc, c, ca or blind.")] = "uc",
    peak: Annotated[
        float | None, option("COUNTS", "Largest expected count. Default: 4; for blind, 0.5 to 8.")
    ] = None,
    epochs: Annotated[
        int, option("NUMBER", "Passes over the images, in random crops.", min=1)
    ] = 20,
    batch: Annotated[int, option("NUMBER", "Crops per step.", min=1)] = 4,
    shifts: Annotated[int, option("NUMBER", "Shifts of the grid to average (uc, c).", min=1)] = 1,
    crop: Annotated[int, option("PIXELS", "Side of a crop.", min=1)] = 128,
    zoom: Annotated[float, option("FACTOR", "Enlarge half of the crops by up to this.")] = 1.0,
    rate: Annotated[float | None, option("NUMBER", "Learning rate. Default: the model's.")] = None,
    loss: Annotated[str, option("NAME", "mse, or log: mean log of each crop's error.")] = "mse",
    start: Annotated[Path | None, option("FILE", "Weights at which training starts.")] = None,
    leave_out: Annotated[int, option("NUMBER", "Last images, for validation.", min=0)] = 0,
    precision: Precision = "bfloat16",
    seed: Seed = 0,
    device: Device = "auto",
    resume: Annotated[bool, flag("--resume", "Continue a training that was killed.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a network on clean images.

    Counts are drawn anew for every crop. --out receives MODEL-PEAK.safetensors, and its origin as
    .json.
    """
    from spikecdl.denoise import PoissonDenoiser, images, pretrained
    from spikecdl.files import remove_leftovers

    clean = list(images.read_folder(folder).values())
    if leave_out >= len(clean):
        raise ValueError(f"`leave_out` (={leave_out}) must be below the {len(clean)} images")
    kept = clean[: len(clean) - leave_out]
    settings: dict[str, Any] = {"n_epochs": epochs, "batch": batch, "n_shifts": shifts}
    settings |= {"crop": crop, "zoom": zoom, "learning_rate": rate, "loss": loss}
    settings |= {"precision": precision, "device": device, "random_state": seed}
    denoiser = PoissonDenoiser(peak, model, **settings)
    checkpoint, peaks = out / f"{model}.checkpoint", pretrained.peaks_of(model, peak)
    path = outputs.new_file(out / pretrained.file_name(model, peaks), overwrite)
    with outputs.claimed(out):
        remove_leftovers(checkpoint)
        began = time.perf_counter()
        with shown("training", as_json) as progress:

            def on_epoch(done: int, loss: float) -> None:
                text = f"epoch {done} of {epochs}, {-10 * math.log10(loss):.2f} dB in training"
                progress(text, done, epochs)

            denoiser.fit(kept, start=start, checkpoint=checkpoint, resume=resume, on_epoch=on_epoch)
        seconds = time.perf_counter() - began
        found = _validated(denoiser, clean[len(kept) :], seed)
        about = {"images": str(folder), "n_images": len(kept), "seconds": round(seconds)}
        about |= {"validation_psnr": found, **_origin(denoiser, start)}
        denoiser.save(path, about)
        checkpoint.unlink()
    lines = [
        f"{denoiser.network_.n_parameters:,} parameters, {epochs} epochs of {len(kept)} images in "
        f"{seconds:.0f} s; weights in {path}",
        *(f"validation at peak {peak}: {value:.2f} dB" for peak, value in found.items()),
    ]
    outputs.show(about, lines, as_json)


def _validated(denoiser: Any, clean: list[Any], seed: int) -> dict[str, float]:
    """Return the mean PSNR of clean images that were left out, by peak."""
    from spikecdl.denoise.benchmark import drawn
    from spikecdl.evaluation.metrics import psnr

    found = {}
    for peak in denoiser.peaks_ if clean else ():
        pairs = [drawn(image, peak, (seed, number)) for number, image in enumerate(clean)]
        values = [psnr(denoiser.predict(counts) / peak, image) for image, counts in pairs]
        found[f"{peak:g}"] = sum(values) / len(values)
    return found


def _origin(denoiser: Any, start: Path | None) -> dict[str, Any]:
    """Return how a denoiser was trained, and the origin of the weights that it started from."""
    from spikecdl.report.summary import versions

    before = None if start is None else start.with_suffix(".json")
    return {
        "command": outputs.command_line(),
        "training": denoiser.get_params(),
        "psnr_of_epochs": [round(-10 * math.log10(loss), 3) for loss in denoiser.losses_],
        "versions": versions(),
        "start": json.loads(before.read_text()) if before and before.exists() else None,
    }


@app.command()
def benchmark(
    folder: Images,
    out: Annotated[Path | None, option("FOLDER", "Receives a table, figure and summary.")] = None,
    peaks: Annotated[str, option("COUNTS...", "Largest expected counts.")] = "1 2 4",
    methods: Annotated[
        str, option("NAMES...", "Of noisy, vst-tv, vst-nlm, spda, ca, dcea-c, dcea-uc, blind.")
    ] = "noisy vst-tv dcea-c dcea-uc blind",
    draws: Annotated[int, option("NUMBER", "Draws of counts for each image.", min=1)] = 5,
    weights: Annotated[
        Path | None, option("FOLDER", "Weights from `denoise train`, before those of the package.")
    ] = None,
    precision: Precision = "single",
    seed: Seed = 0,
    device: Device = "auto",
    format: Format = Picture.PNG,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare methods on clean images with drawn counts.

    Several peaks or methods follow their option: --peaks 1 2 4 --methods dcea-uc vst-tv. Prints
    PSNR and SSIM of each image, and their means with standard errors over draws.
    """
    from rich.console import Console

    from spikecdl.denoise import benchmark as bench
    from spikecdl.denoise import images
    from spikecdl.files import write_json
    from spikecdl.plots import save
    from spikecdl.report.summary import versions

    at = numbers("peaks", peaks, "--peaks 1 2 4")
    console = Console(stderr=True, quiet=as_json)
    clean = images.read_folder(folder)
    test = bench.Benchmark(clean, at, methods.split(), draws, weights, seed, precision, device)
    began = time.perf_counter()
    table = test.run(lambda text: console.print(text, highlight=False, soft_wrap=True))
    results = bench.summary(table).astype(object)
    about = {
        "command": outputs.command_line(),
        **{"images": sorted(clean), "n_draws": draws, "seed": seed},
        "results": results.where(results.notna(), None).to_dict("records"),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began),
    }
    if out is not None:
        with outputs.results_folder(out, [folder], overwrite) as unfinished:
            table.to_csv(unfinished / "table.csv", index=False)
            save(bench.comparison(test), unfinished / f"figure.{format.value}")
            write_json(unfinished / "summary.json", about)
    outputs.show(about, [*bench.images_in_words(table), "", *bench.in_words(table)], as_json)
