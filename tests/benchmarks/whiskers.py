"""Fits of whisker recordings, which are not part of the project, from the command line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from timing import Row, Settings, Skip, duration, interleaved
from typer.testing import CliRunner

from spikecdl.cli import app

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "whisker_thalamus"
_OPTIONS = "--family binomial --templates 1 --length 0.125 --bin 0.005".split()


def commands(settings: Settings) -> Iterator[Row]:
    """Time `spikecdl fit`, with figures and report, on the slowest recording."""
    files = sorted(FOLDER.glob("*.nwb"))[: 2 if settings.quick else None]
    if not files:
        raise Skip(f"no recordings in {FOLDER}")
    with tempfile.TemporaryDirectory() as out:
        for name, options in (("pooled", ["--pool-trials"]), ("single trials", [])):
            calls = {file.stem: partial(_fit, file, options, out) for file in files}
            calls[files[0].stem]()  # imports and compiles
            once = interleaved(calls, 1, warm=False)
            slowest = max(once, key=lambda file: once[file][0])
            seconds = interleaved({slowest: calls[slowest]}, settings.repeats, warm=False)
            quickest = min(values[0] for values in once.values())
            yield Row(
                f"spikecdl fit, {name}, {slowest}",
                package=duration(np.median(seconds[slowest])),
                note=f"the slowest of {len(files)} recordings; the quickest: {duration(quickest)}",
            )


def _fit(file: Path, options: list[str], out: str) -> None:
    """Run the command in this process."""
    arguments = ["fit", str(file), *_OPTIONS, *options, "--overwrite", "--out", out]
    result = CliRunner().invoke(app, arguments)
    if result.exit_code:
        raise RuntimeError(result.output) from result.exception
