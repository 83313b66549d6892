"""What a command writes and shows: a folder of results, and the final summary."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikecdl.cli.options import option
from spikecdl.files import filling, locked, write_json
from spikecdl.validation import printable

if TYPE_CHECKING:
    from spikecdl.cli.windows import Found, Selected
    from spikecdl.data import Decomposition
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.bands import Bands


class Picture(str, Enum):
    """Formats of figures."""

    PNG = "png"
    PDF = "pdf"
    SVG = "svg"


_SUMMARY, _RESULTS = "summary.json", "results.nwb"
_RUN = ".run-"  # begins the name of a folder of results that are not in place
_MATLAB = "results.mat"
_PICTURES = {"templates", "events", "population", "units", "rates", "codes"}
_OF_TABLES = {"selection", "conditions"}
#: What commands write to their folder; that of an earlier run is removed when new results come.
_NAMES = {
    *(_SUMMARY, _RESULTS, "model.safetensors", "model.json", "report.html", "bands.npz"),
    *("selection.csv", "table.csv", "events.csv", "units.csv", "conditions.csv", "replay.csv"),
    *(f"{name}.{kind.value}" for name in _PICTURES | _OF_TABLES for kind in Picture),
    _MATLAB,
}


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a command prints.

    Output
    ------
    as_json
        Print JSON and nothing else.
    """

    as_json: bool = option(False, "--json")

    def show(self, summary: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Print a summary as one JSON document, or the lines that describe it."""
        text = "\n".join(map(printable, lines))
        print(json.dumps(summary, indent=2, allow_nan=False) if self.as_json else text)

    def begin(self, *files: Path) -> None:
        """Say at once, before libraries are imported, what is read."""
        self.say(f"reading {', '.join(printable(file.name) for file in files)}")

    def say(self, text: str) -> None:
        """Print a line about progress on standard error, unless JSON is all that is asked for."""
        if not self.as_json:
            print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Written(Output):
    """What a command prints, and where it writes; subclasses describe --out.

    Output
    ------
    out : PATH
        Where to write.
    overwrite
        Replace what an earlier run has written to --out.
    """

    out: Path
    overwrite: bool = False

    def check_new(self, out: Path) -> None:
        """Raise ValueError if a file exists and is not to be overwritten."""
        if out.exists() and not self.overwrite:
            raise ValueError(
                f"`out` (={str(out)!r}) exists; choose another file, or replace it with --overwrite"
            )


@dataclass(frozen=True, kw_only=True)
class Results(Written):
    """What a command prints, and writes to a folder.

    Output
    ------
    out : FOLDER
        Folder for the results; created if it is missing.
    format : NAME
        Of the figures: png; pdf or svg, whose text can be edited.
    """

    format: Picture = Picture.PNG

    @contextmanager
    def folder(self, *sources: Path) -> Iterator[Path]:
        """Make the folder, and yield a folder in it where results are written first.

        One process at a time has the folder.  All results take their place together at the end, the
        summary last, and results of an earlier run go.  After an error the folder is as it was,
        except for a checkpoint; an empty folder that was made here is removed.

        Raises ValueError if the folder cannot be written to, is in use, or holds results that are
        not to be overwritten; or if results would replace the data, ``sources``.
        """
        out = self.out
        files = [out / name for name in _names(out) if name.endswith(".nwb")]
        if any(a.exists() and b.exists() and a.samefile(b) for a in sources for b in files):
            raise ValueError(
                f"`out` (={str(out)!r}) holds the data themselves; choose another folder"
            )
        made = [folder for folder in (out, *out.parents) if not folder.exists()]
        unfinished, complete = out / f"{_RUN}{os.getpid()}", out / f"{_RUN}complete"
        try:
            with claimed(out):
                held = [n for n in (_SUMMARY, *_names(out), complete.name) if (out / n).exists()]
                if held and not self.overwrite:
                    raise ValueError(
                        f"`out` (={str(out)!r}) holds results ({held[0]}); choose another folder, "
                        "or replace them with --overwrite"
                    )
                if os.path.lexists(complete):  # the run was killed while results took their place
                    _check_own(complete)
                    _put_in_place(complete)
                for leftover in out.glob(f"{_RUN}[0-9]*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                unfinished.mkdir()
                try:
                    with filling(unfinished, out):
                        yield unfinished
                    os.replace(unfinished, complete)
                    _put_in_place(complete)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
        finally:
            for folder in made:
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()


@dataclass(frozen=True, kw_only=True)
class Parts(Results):
    """What a command prints, and writes to a folder about counts and a model.

    Output
    ------
    mat
        Also write results.mat, for MATLAB: templates, events and rates.
    """

    mat: bool = False


def _names(out: Path) -> list[str]:
    """Return the names that results in a folder have, or may have."""
    return sorted(_NAMES | {path.name for path in out.glob("results-*.nwb")})


def claimed(out: Path) -> AbstractContextManager[None]:
    """Make a folder, if it is missing, and keep other processes away from it; see `locked`.

    Raises ValueError if it cannot be written to, or is in use.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(
            f"`out` (={str(out)!r}) cannot be written to: {error.strerror}; choose another folder"
        ) from None
    return locked(out / ".lock", f"`out` (={str(out)!r})")


def _check_own(complete: Path) -> None:
    """Raise ValueError unless a folder holds results as a command writes them, and no link."""
    is_folder = complete.is_dir() and not complete.is_symlink()
    names = set(os.listdir(complete)) if is_folder else set()
    links = [name for name in names if (complete / name).is_symlink()]
    if not is_folder or links or names - set(_names(complete)):
        raise ValueError(
            f"{complete}: not a folder of results of spikecdl; remove it, or choose another `out`"
        )


def _put_in_place(complete: Path) -> None:
    """Move results to the folder above, the summary last, in place of those of an earlier run.

    If the process is killed, another can do the rest.
    """
    out = complete.parent

    def summary_last(name: str) -> tuple[bool, str]:
        return name == _SUMMARY, name

    if (complete / _SUMMARY).exists() and (out / _SUMMARY).exists():  # of the earlier run
        for name in sorted(_names(out), key=summary_last):
            (out / name).unlink(missing_ok=True)
    for name in sorted(os.listdir(complete), key=summary_last):
        os.replace(complete / name, out / name)
    complete.rmdir()


def write_results(
    folder: Path,
    selected: Selected,
    parts: Decomposition,
    summary: Mapping[str, Any],
    results: Parts,
    *,
    model: DCEA | None = None,
    bands: Bands | None = None,
    each: Mapping[str, Found] | None = None,
    fdr: float | None = None,
) -> None:
    """Write figures, a report, the events, the recording with its decomposition, and the summary.

    Given the model that was fitted, write it and its bands, too.  ``each`` of several
    recordings, by name, is written with its own decomposition.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    from spikecdl import plots, report
    from spikecdl.io import write_mat, write_nwb

    if model is None:
        figures = {"rates": plots.rates_figure(parts, selected.single_trials)}
        figures["codes"] = plots.codes(parts)[0].figure
        figures["events"] = plots.event_figure(parts, selected.single_trials)
    else:
        figures = report.draw_figures(model, parts, selected.single_trials, bands)
    for figure in figures.values():
        plt.close(figure)
    pictures: dict[str, Any] = dict(figures)
    for name in sorted(_PICTURES & figures.keys()):
        file = folder / f"{name}.{results.format.value}"
        if results.format is Picture.PNG:  # the report takes the same
            pictures[name] = report.png(figures[name])
            file.write_bytes(pictures[name])
        else:
            plots.save(figures[name], file)
    report.write_report(folder / "report.html", parts, pictures, summary)
    if model is not None:
        model.save(folder)
        if model.has_unit_table:
            model.unit_table().to_csv(folder / "units.csv", index=False)
    if bands is not None:
        np.savez(folder / "bands.npz", **bands.arrays())  # type: ignore[arg-type]
    for name, found in (each or {}).items():
        write_nwb(folder / f"results-{name}.nwb", found.data, decomposition=found.parts)
    if not each:
        write_nwb(folder / _RESULTS, selected.data, decomposition=parts)
    events = parts.intervals if np.isfinite(parts.counts.trial_starts).all() else parts.events
    events(fdr).to_csv(folder / "events.csv", index=False)
    if results.mat:
        write_mat(folder / _MATLAB, parts)
    write_json(folder / _SUMMARY, summary)


def provenance() -> dict[str, Any]:
    """Return the command that is running, and the versions of the packages that it uses."""
    from spikecdl.report.summary import versions

    return {"command": command_line(), "versions": versions()}


def command_line() -> str:
    """Return the command that is running."""
    return shlex.join(["spikecdl", *sys.argv[1:]])
