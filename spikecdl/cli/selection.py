"""`spikecdl select`: how many templates, and how long."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from spikecdl.cli import fitting, options, outputs
from spikecdl.cli.options import Selection, option
from spikecdl.progress import shown
from spikecdl.validation import counted, seconds

if TYPE_CHECKING:
    from spikecdl.evaluation.selection import Selection as Found

_LISTS = ("--templates", "--length")
_FITS = "fits"  # folder of finished fits, which a run that was interrupted goes on from


class WithLists(options.Grouped):
    """Command with options that take several numbers: "--templates 0 1 2", or "0,1,2"."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, joined(args))


def joined(arguments: Sequence[str]) -> list[str]:
    """Join the numbers that follow an option of `_LISTS` by commas.

    Examples
    --------
    >>> joined(["a.nwb", "--templates", "0", "1", "2", "--length", "0.1"])
    ['a.nwb', '--templates', '0,1,2', '--length', '0.1']
    """
    result: list[str] = []
    for word in arguments:
        if len(result) > 1 and result[-2] in _LISTS and _is_number(word):
            result[-1] += f",{word}"
        else:
            result.append(word)
    return result


def select(
    file: options.File,
    out: options.Out,
    length: Annotated[
        str, option("SECONDS ...", "Lengths of the templates, in whole bins.", group=options.MODEL)
    ],
    templates: Annotated[
        str,
        option(
            "NUMBER ...", "Numbers of templates; 0 stands for a constant rate.", group=options.MODEL
        ),
    ] = "0 1 2 3",
    bin: options.Bin = None,
    family: options.Family = "poisson",
    pool_trials: options.Pool = False,
    align: options.Align = None,
    window: options.Window = None,
    units: options.Units = None,
    trials: options.Trials = None,
    table: options.Table = "trials",
    follow_links: options.FollowLinks = False,
    events: options.Events = None,
    within: options.Within = None,
    layout: options.Layout = "shared",
    nonnegative: options.Nonnegative = None,
    most_events: options.MostEvents = None,
    history: options.History = None,
    history_sign: options.HistorySign = "negative",
    history_common: options.HistoryCommon = False,
    drift: options.Drift = None,
    trainer: options.Trainer = "auto",
    folds: Annotated[
        int,
        option("NUMBER", "Parts of the trials that are held out in turn.", group=options.TRAINING),
    ] = 3,
    jobs: Annotated[
        int | None,
        option(
            "NUMBER",
            "Processes at work. Default: one for each core.",
            min=1,
            group=options.TRAINING,
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    format: options.Format = options.Picture.PNG,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Compare numbers and lengths of templates on held-out trials.

    Fits each candidate without a part of the trials, and scores it there: by the evidence, the
    probability of the counts with all possible events summed out. Writes selection.csv, a figure,
    summary.json and the recommended model, fitted to all trials, to --out. After an interruption,
    the same command goes on where it was.
    """
    from spikecdl.config import describe
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.selection import select as search
    from spikecdl.model.families import from_text
    from spikecdl.report.summary import data_summary, versions
    from spikecdl.solvers.threads import n_threads

    numbers = options.numbers("templates", templates, "--templates 1 2 3", int)
    as_seconds = partial(seconds, "length")
    lengths = options.numbers("length", length, "--length 0.05 0.1", as_seconds)
    model = DCEA(
        family=from_text(family) if ":" in family else family,
        layout=layout,
        history=options.past(history, history_sign, history_common),
        drift=drift,
        device=device,
        random_state=seed,
    )
    selection = Selection(
        pool_trials, align, window, units, trials, table, follow_links, events, within
    )
    with outputs.results_folder(out, [file], overwrite) as unfinished:
        selected = selection.count(selection.read(file), bin)
        asked = (nonnegative, most_events, *filter(None, numbers))
        fitting.set_trainer(model, trainer, selected.counts, *asked)
        with shown("fitting candidates without a part of the data", as_json) as progress:
            found = search(
                *(model, selected.counts, numbers, lengths),
                n_folds=folds,
                single_trials=selected.single_trials,
                n_jobs=jobs or n_threads(),
                folder=out / _FITS,
                on_fit=progress,
            )
        best = found.recommended
        with shown(f"fitting {best} to all trials", as_json):
            if best.n_templates:
                best.model(model).fit(selected.counts).save(unfinished)
            about = {
                "command": outputs.command_line(),
                "settings": describe(model.get_params(deep=False)) | selection.described(),
                "data": data_summary(selected.counts, model.family, file),
                "versions": versions(),
                **_described(found, folds),
            }
            _write(unfinished, found, about, format)
    shutil.rmtree(out / _FITS, ignore_errors=True)
    outputs.show(about, [*_lines(found, folds), f"results in {out}/"], as_json)


def _described(found: Found, n_folds: int) -> dict[str, Any]:
    """Return the candidates and what is recommended, as values that JSON can hold."""
    rows = found.table().to_dict("records")
    return {
        "how": found.how,
        "n_folds": n_folds,
        "recommended": vars(found.recommended),
        "candidates": [
            {key: None if value != value else value for key, value in row.items()} for row in rows
        ],
    }


def _write(folder: Path, found: Found, about: dict[str, Any], format: options.Picture) -> None:
    """Write table, figure and summary."""
    import matplotlib.pyplot as plt

    from spikecdl import plots
    from spikecdl.files import write_json

    found.table().to_csv(folder / "selection.csv", index=False)
    panel = plots.selection(found)
    plots.save(panel, folder / f"selection.{format.value}")
    plt.close(panel.figure)
    write_json(folder / "summary.json", about)


def _lines(found: Found, n_folds: int) -> list[str]:
    """Describe the candidates, a line each."""
    width = max(len(str(candidate)) for candidate in found.candidates)
    lines = [f"{'':{width}}  evidence (nats per spike)  below the best, with standard error"]
    for candidate, row in zip(found.candidates, found.table().itertuples(), strict=True):
        below = f"{max(0.0, -row.difference):.4f} +- {row.difference_error:.4f}"
        text = f"{candidate!s:{width}}  {row.evidence:25.4f}  {below.replace('nan', '-')}"
        lines.append(text + "  recommended" * (row.recommended and len(found.candidates) > 1))
    folds = f"{counted(n_folds, 'fold')} of {found.how}"
    rule = "recommended: the simplest within two standard errors, or five nats, of the best"
    if len(found.candidates) == 1:
        rule = "one candidate, compared with nothing: give more numbers (0, too) or lengths"
    return [*lines, f"{rule} ({folds})"]


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?[\d.,]+(e-?\d+)?([mu]?s)?", word) is not None
