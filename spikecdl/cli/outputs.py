"""What a command writes and shows: a folder of results, progress, and the final summary."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikecdl.cli.options import Selected
    from spikecdl.data import Decomposition
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.bands import Bands

_SUMMARY, _RESULTS, _UNFINISHED = "summary.json", "results.nwb", ".unfinished"
_PICTURES = {"templates", "rates", "codes"}


@contextmanager
def results_folder(out: Path, source: Path) -> Iterator[Path]:
    """Make a folder for results, and yield a folder in it where they are written first.

    All results take their place together at the end, the summary last. After an error the folder
    is as it was, except for a checkpoint; an empty folder that was made here is removed. Raises
    ValueError if the folder cannot be written to, or if results would replace the data, ``source``.
    """
    if (out / _RESULTS).exists() and source.exists() and source.samefile(out / _RESULTS):
        raise ValueError(f"`out` (={str(out)!r}) holds the data themselves; choose another folder")
    unfinished = out / _UNFINISHED
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a fit that was killed
        try:
            unfinished.mkdir(parents=True)
        except OSError as error:
            raise ValueError(
                f"`out` (={str(out)!r}) cannot be written to: {error.strerror}; choose another "
                "folder"
            ) from None
        yield unfinished
        (out / _SUMMARY).unlink(missing_ok=True)
        for file in sorted(unfinished.iterdir(), key=lambda file: file.name == _SUMMARY):
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def write_results(
    folder: Path,
    selected: Selected,
    parts: Decomposition,
    summary: Mapping[str, Any],
    model: DCEA | None = None,
    bands: Bands | None = None,
) -> None:
    """Write figures, the recording with its decomposition, and the summary.

    Given the model that was fitted, write it, its report and its bands, too.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    from spikecdl import plots, report
    from spikecdl.files import write_json
    from spikecdl.io import write_nwb

    if model is None:
        figures = {"rates": plots.rates_figure(parts, selected.single_trials)}
        figures["codes"] = plots.codes(parts)[0].figure
    else:
        figures = report.draw_figures(model, parts, selected.single_trials, bands)
    pictures = {}
    for name, figure in figures.items():
        pictures[name] = report.png(figure)
        plt.close(figure)
    if model is not None:
        model.save(folder)
        report.write_report(folder / "report.html", parts, pictures, summary)
    if bands is not None:
        np.savez(folder / "bands.npz", **bands.arrays())  # type: ignore[arg-type]
    for name in _PICTURES & pictures.keys():
        (folder / f"{name}.png").write_bytes(pictures[name])
    write_nwb(folder / _RESULTS, selected.data, decomposition=parts)
    write_json(folder / _SUMMARY, summary)


def show(summary: Mapping[str, Any], lines: Sequence[str], as_json: bool) -> None:
    """Print a summary as one JSON document, or the lines that describe it."""
    print(json.dumps(summary, indent=2, allow_nan=False) if as_json else "\n".join(lines))


def command_line() -> str:
    """Return the command that is running."""
    return shlex.join(["spikecdl", *sys.argv[1:]])


@contextmanager
def epochs_shown(first: str, quiet: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar on a terminal, or lines in a log; yields a function of text, epoch and last epoch.

    Both go to standard error; ``first`` is shown before the first epoch.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(first, total=None)

        def update(text: str, epoch: int, last: int | None) -> None:
            progress.update(task, description=text, total=last, completed=epoch)
            if not quiet and not console.is_terminal:
                console.print(text, highlight=False)

        yield update
        progress.update(task, total=1, completed=1)


def working(what: str, quiet: bool) -> AbstractContextManager[Any]:
    """Show on a terminal what is going on."""
    from rich.console import Console

    return nullcontext() if quiet else Console(stderr=True).status(what)
