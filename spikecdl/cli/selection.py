"""`spikecdl select`: how many templates, and how long."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from spikecdl.cli import outputs
from spikecdl.cli.fitting import Settings
from spikecdl.cli.options import REQUIRED, File, Process, numbers, option
from spikecdl.cli.windows import Selection
from spikecdl.files import write_json
from spikecdl.progress import shown
from spikecdl.validation import counted, seconds

if TYPE_CHECKING:
    from spikecdl.evaluation.selection import Selection as Found

_FITS = "fits"  # folder of finished fits, which a run that was interrupted goes on from


@dataclass(frozen=True, kw_only=True)
class Search(Process):
    """The numbers and lengths of templates that `select` compares.

    Model
    -----
    template_length : SECONDS ...
        Lengths of the templates, in whole bins.
    n_templates : NUMBER ...
        Numbers of templates; 0 stands for a constant rate.

    Training
    --------
    n_jobs : NUMBER
        Processes at work. Default: one for each core.
    """

    template_length: str = option(REQUIRED, "--length")
    n_templates: str = option("0 1 2 3", "--templates")
    n_jobs: int | None = option(None, "--jobs", min=1)


def select(
    file: File, search: Search, selection: Selection, settings: Settings, results: outputs.Results
) -> None:
    """Compare numbers and lengths of templates on held-out trials.

    Fits each candidate without a part of the trials, and scores it there: by the evidence, the
    probability of the counts with all possible events summed out. Writes selection.csv, a figure,
    summary.json and the recommended model, fitted to all trials, to --out. After an interruption,
    the same command goes on where it was.
    """
    from spikecdl import plots
    from spikecdl.config import describe
    from spikecdl.evaluation.selection import select as compare
    from spikecdl.report.summary import data_summary
    from spikecdl.solvers.threads import n_threads

    n_templates = numbers("n_templates", search.n_templates, "--templates 1 2 3", int)
    as_seconds = partial(seconds, "template_length")
    lengths = numbers("template_length", search.template_length, "--length 0.05 0.1", as_seconds)
    model, n_folds, out = settings.estimator(search), settings.n_folds, results.out
    with results.folder(file) as unfinished:
        selected = selection.count(selection.read(file), settings.bin_size)
        settings.set_trainer(model, selected.counts, *filter(None, n_templates))
        with shown("fitting candidates without a part of the data", results.as_json) as progress:
            found = compare(
                model,
                selected.counts,
                n_templates,
                lengths,
                n_folds=n_folds,
                single_trials=selected.single_trials,
                n_jobs=search.n_jobs or n_threads(),
                folder=out / _FITS,
                on_fit=progress,
            )
        best = found.recommended
        with shown(f"fitting {best} to all trials", results.as_json):
            if best.n_templates:
                best.model(model).fit(selected.counts).save(unfinished)
            table = found.table()
            about = {
                **outputs.provenance(),
                "settings": describe(model.get_params(deep=False)) | asdict(selection),
                "data": data_summary(selected.counts, model.family, file),
                "how": found.how,
                "n_folds": n_folds,
                "recommended": vars(best),
                "candidates": table.astype(object).where(table.notna(), None).to_dict("records"),
            }
            table.to_csv(unfinished / "selection.csv", index=False)
            plots.save(plots.selection(found), unfinished / f"selection.{results.format.value}")
            write_json(unfinished / "summary.json", about)
    shutil.rmtree(out / _FITS, ignore_errors=True)
    results.show(about, [*_lines(found, n_folds), f"results in {out}/"])


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
