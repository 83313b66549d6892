"""`spikecdl denoise`: denoise images of few photons, train networks, and compare methods."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spikecdl.cli import options, outputs
from spikecdl.cli.options import argument, option
from spikecdl.progress import shown


class _Commands(TyperGroup):
    """`denoise FILE` is `denoise image FILE`."""

    default = "image"  # errors look it up, too

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, args or ["--help"])


app = typer.Typer(
    name="denoise",
    cls=_Commands,
    help="Denoise images of few photons per pixel.\n\nUse it as `spikecdl denoise FILE --out FILE` "
    "or with one of the commands below.",
    rich_markup_mode=None,
)

Images = Annotated[Path, argument("IMAGES", "Folder of clean images.")]


@dataclass(frozen=True, kw_only=True)
class Precision(options.Device):
    """How a network runs.

    Parameters
    ----------
    precision : NAME
        single, or bfloat16: faster on some processors.
    """

    precision: str = "single"


@dataclass(frozen=True, kw_only=True)
class Network(Precision):
    """The network of `denoise image`.

    Parameters
    ----------
    peak : COUNTS
        Largest expected count. Default: estimated.
    model : NAME
        blind, for any peak; uc or c, of the paper; ca, to compare with.
    weights : FILE
        Weights from `denoise train`, instead of --model.
    """

    peak: float | None = None
    model: str = "blind"
    weights: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Frames(outputs.Written):
    """What `denoise image` prints and writes.

    Output
    ------
    out : FILE
        Receives expected counts: .png, .tif or .npy.
    """


def image(
    file: Annotated[Path, argument("FILE", "Counts of photons: .png, .tif or .npy.")],
    network: Network,
    output: Frames,
) -> None:
    """Denoise a frame, or each frame of a stack.

    TIFF and npy receive expected counts; PNG is for viewing, with its largest value white.
    """
    import numpy as np

    from spikecdl.denoise import PoissonDenoiser, estimate_peak, images
    from spikecdl.denoise.denoiser import find
    from spikecdl.validation import counted

    out, peak = output.out, network.peak
    frames = images.checked("counts", images.read_images(file), whole=True)
    images.check_target(out, len(frames), file)
    output.check_new(out)
    used = max(map(estimate_peak, frames)) if peak is None else peak
    path = network.weights or find(network.model, used)
    denoiser = PoissonDenoiser.read(
        path, peak=peak, precision=network.precision, device=network.device
    )
    began, rates = time.perf_counter(), []
    with shown("denoising", output.as_json) as progress:
        for done, frame in enumerate(frames):
            progress(f"frame {done + 1} of {len(frames)}", done, len(frames))
            rates.append(denoiser.predict(frame))
    seconds = (time.perf_counter() - began) / len(frames)
    images.write_images(out, rates[0] if len(rates) == 1 else np.stack(rates))
    found = {"frames": len(frames), "shape": list(frames.shape[1:]), "weights": path.name}
    found |= {"peak": used, "peak_estimated": peak is None}
    found |= {"seconds_per_frame": round(seconds, 3), "out": str(out)}
    lines = [
        f"{counted(len(frames), 'frame')} of {frames.shape[1]} x {frames.shape[2]} "
        f"pixels, peak {used:.3g} counts ({'estimated' if peak is None else 'given'}), "
        f"{seconds:.2f} s per frame, by {path.stem}",
        f"expected counts in {out}",
    ]
    output.show(found, lines)


@dataclass(frozen=True, kw_only=True)
class Training(options.Seed, Precision):
    """The arguments of `PoissonDenoiser`.

    Parameters
    ----------
    model : NAME
        uc, c, ca or blind.
    peak : COUNTS
        Largest expected count. Default: 4; for blind, 0.5 to 8.
    n_epochs : NUMBER
        Passes over the images, in random crops.
    batch : NUMBER
        Crops per step.
    n_shifts : NUMBER
        Shifts of the grid to average (uc, c).
    crop : PIXELS
        Side of a crop.
    zoom : FACTOR
        Enlarge half of the crops by up to this.
    learning_rate : NUMBER
        Learning rate. Default: the model's.
    loss : NAME
        mse, or log: mean log of each crop's error.
    """

    model: str = "uc"
    peak: float | None = None
    n_epochs: int = option(20, "--epochs", min=1)
    batch: int = option(4, min=1)
    n_shifts: int = option(1, "--shifts", min=1)
    crop: int = option(128, min=1)
    zoom: float = 1.0
    learning_rate: float | None = option(None, "--rate")
    loss: str = "mse"
    precision: str = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class Run(outputs.Written):
    """How `denoise train` runs, and what it prints and writes.

    Parameters
    ----------
    start : FILE
        Weights at which training starts.
    leave_out : NUMBER
        Last images, for validation.
    resume
        Continue a training that was killed.

    Output
    ------
    out : FOLDER
        Receives weights; created if it is missing.
    """

    start: Path | None = None
    leave_out: int = option(0, min=0)
    resume: bool = False


def train(folder: Images, settings: Training, run: Run) -> None:
    """Train a network on clean images.

    Counts are drawn anew for every crop. --out receives MODEL-PEAK.safetensors, and its origin as
    .json.
    """
    from spikecdl.denoise import PoissonDenoiser, images
    from spikecdl.denoise.denoiser import file_name, peaks_of
    from spikecdl.files import remove_leftovers

    clean = list(images.read_folder(folder).values())
    if run.leave_out >= len(clean):
        raise ValueError(f"`leave_out` (={run.leave_out}) must be below the {len(clean)} images")
    kept = clean[: len(clean) - run.leave_out]
    out, epochs = run.out, settings.n_epochs
    denoiser = PoissonDenoiser(**vars(settings))
    checkpoint = out / f"{settings.model}.checkpoint"
    peaks = peaks_of(settings.model, settings.peak)
    path = out / file_name(settings.model, peaks)
    run.check_new(path)
    with outputs.claimed(out):
        remove_leftovers(checkpoint)
        began = time.perf_counter()
        with shown("training", run.as_json) as progress:

            def on_epoch(done: int, loss: float) -> None:
                text = f"epoch {done} of {epochs}, {-10 * math.log10(loss):.2f} dB in training"
                progress(text, done, epochs)

            how: dict[str, Any] = {"start": run.start, "resume": run.resume}
            denoiser.fit(kept, checkpoint=checkpoint, on_epoch=on_epoch, **how)
        seconds = time.perf_counter() - began
        found = _validated(denoiser, clean[len(kept) :], settings.random_state)
        about = {"images": str(folder), "n_images": len(kept), "seconds": round(seconds)}
        about |= {"validation_psnr": found, **_origin(denoiser, run.start)}
        denoiser.save(path, about)
        checkpoint.unlink()
    lines = [
        f"{denoiser.network_.n_parameters:,} parameters, {epochs} epochs of {len(kept)} images in "
        f"{seconds:.0f} s; weights in {path}",
        *(f"validation at peak {peak}: {value:.2f} dB" for peak, value in found.items()),
    ]
    run.show(about, lines)


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
    before = None if start is None else start.with_suffix(".json")
    return {
        **outputs.provenance(),
        "training": denoiser.get_params(),
        "psnr_of_epochs": [round(-10 * math.log10(loss), 3) for loss in denoiser.losses_],
        "start": json.loads(before.read_text()) if before and before.exists() else None,
    }


@dataclass(frozen=True, kw_only=True)
class Comparison(options.Seed, Precision):
    """The arguments of the benchmark, but for the images.

    Parameters
    ----------
    peaks : COUNTS ...
        Largest expected counts.
    methods : NAME ...
        Of noisy, vst-tv, vst-nlm, spda, ca, dcea-c, dcea-uc, blind.
    n_draws : NUMBER
        Draws of counts for each image.
    weights : FOLDER
        Weights from `denoise train`, before those of the package.
    """

    peaks: str = "1 2 4"
    methods: str = "noisy vst-tv dcea-c dcea-uc blind"
    n_draws: int = option(5, "--draws", min=1)
    weights: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Table(outputs.Results):
    """What `denoise benchmark` prints and writes.

    Output
    ------
    out : FOLDER
        Receives a table, figure and summary.
    """

    out: Path | None = None  # type: ignore[assignment]


def benchmark(folder: Images, settings: Comparison, results: Table) -> None:
    """Compare methods on clean images with drawn counts.

    Several peaks or methods follow their option: --peaks 1 2 4 --methods dcea-uc vst-tv. Prints
    PSNR and SSIM of each image, and their means with standard errors over draws.
    """
    from spikecdl.denoise import benchmark as bench
    from spikecdl.denoise import images
    from spikecdl.files import write_json
    from spikecdl.plots import save

    lists = {"peaks": options.numbers("peaks", settings.peaks, "--peaks 1 2 4")}
    lists["methods"] = settings.methods.replace(",", " ").split()
    clean = images.read_folder(folder)
    test = bench.Benchmark(clean, **vars(settings) | lists)
    began = time.perf_counter()
    table = test.run(results.say)
    means = bench.summary(table).astype(object)
    about = {
        **outputs.provenance(),
        "images": sorted(clean),
        "n_draws": settings.n_draws,
        "seed": settings.random_state,
        "results": means.where(means.notna(), None).to_dict("records"),
        "seconds": round(time.perf_counter() - began),
    }
    if results.out is not None:
        with results.folder(folder) as unfinished:
            table.to_csv(unfinished / "table.csv", index=False)
            save(bench.comparison(test), unfinished / f"figure.{results.format.value}")
            write_json(unfinished / "summary.json", about)
    results.show(about, [*bench.images_in_words(table), "", *bench.in_words(table)])


options.add(app, image, train, benchmark)
