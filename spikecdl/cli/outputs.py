"""The folder of results: it receives all of them or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
    from spikecdl.estimator import DCEA

SUMMARY, RESULTS = "summary.json", "results.nwb"
_UNFINISHED = ".unfinished"


@contextmanager
def results_folder(out: Path, source: Path) -> Iterator[Path]:
    """Make a folder for results, and a folder in it where they are written first.

    They go to their place when all are there, the summary last. After an error the folder is as it
    was, but for a checkpoint, and away if it is empty and was made here.

    Parameters
    ----------
    out : Path
        Folder for the results.
    source : Path
        Where the data come from, which is not replaced.

    Raises
    ------
    ValueError
        If the folder cannot be made or written to, or results would replace the data.
    """
    if (out / RESULTS).exists() and source.exists() and source.samefile(out / RESULTS):
        raise ValueError(
            f"`out` (={str(out)!r}) is where the data come from; choose another folder"
        )
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
        (out / SUMMARY).unlink(missing_ok=True)
        for file in sorted(unfinished.iterdir(), key=lambda file: file.name == SUMMARY):
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def write_fit(
    folder: Path,
    model: DCEA,
    data: SpikeTrains | BinnedSpikes,
    single: BinnedSpikes,
    parts: Decomposition,
    summary: dict[str, Any],
) -> None:
    """Write everything about a fit.

    Parameters
    ----------
    folder : Path
        Folder that exists.
    model : DCEA
        Fitted.
    data, single
        What the file holds, and its counts of single trials.
    parts : Decomposition
        Of the counts that were fitted.
    summary : dict
        Plain values.
    """
    from spikecdl import report

    truth = parts.counts.truth
    figures = report.draw_figures(model, parts, spikes=single, truth=truth)
    pictures = {name: report.png(figure) for name, figure in figures.items()}
    model.save(folder)
    _write(folder, data, parts, pictures, ("templates", "rates", "codes"), summary)
    report.write_report(folder / "report.html", parts, pictures, summary, truth=truth)


def write_codes(
    folder: Path,
    model: DCEA,
    data: SpikeTrains | BinnedSpikes,
    single: BinnedSpikes,
    parts: Decomposition,
    summary: dict[str, Any],
) -> None:
    """Write what a model says of other data; parameters as in `write_fit`."""
    from spikecdl import report

    figures = report.draw_figures(model, parts, spikes=single, truth=parts.counts.truth)
    pictures = {name: report.png(figures[name]) for name in ("rates", "codes")}
    _write(folder, data, parts, pictures, ("rates", "codes"), summary)


def _write(
    folder: Path,
    data: SpikeTrains | BinnedSpikes,
    parts: Decomposition,
    pictures: dict[str, bytes],
    names: tuple[str, ...],
    summary: dict[str, Any],
) -> None:
    from spikecdl.files import write_json
    from spikecdl.io import write_nwb

    for name in names:
        (folder / f"{name}.png").write_bytes(pictures[name])
    write_nwb(folder / RESULTS, data, decomposition=parts)
    write_json(folder / SUMMARY, summary)
