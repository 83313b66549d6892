"""The command line, run in this process as `spikecdl` runs it, and small recordings for it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from spikecdl import cli

SIMULATE = (
    "simulate --trials 20 --units 2 --duration 0.4 --bin 0.002 --length 0.02 --templates square "
    "--baseline 30 --events 2 --seed 1"
).split()
FIT = "--length 0.02 --bin 0.002 --epochs 3".split()
FILES = {
    *(
        "model.safetensors",
        "model.json",
        "summary.json",
        "results.nwb",
        "report.html",
        "events.csv",
    ),
    *("templates.png", "events.png", "rates.png", "codes.png"),
}

#: For a process of its own, which finds the package where this one did.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}


class Outcome(NamedTuple):
    """How a command ended: exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON document without NaN or Infinity."""
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def run(*arguments: object) -> Outcome:
    """Run ``spikecdl`` with these arguments and wait for its end."""
    line = ["spikecdl", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", line),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            return Outcome(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main() must exit")


def succeeded(outcome: Outcome) -> Outcome:
    """Return it, if the command succeeded."""
    assert outcome.code == 0, outcome.err
    return outcome


def write_only_summary(
    folder: Path, selected: Any, parts: Any, summary: Any, *more: Any, **options: Any
) -> None:
    """Replace `outputs.write_results` where figures and the other files do not matter."""
    (folder / "summary.json").write_text(json.dumps(summary))


@contextlib.contextmanager
def without_figures() -> Iterator[None]:
    """Let `spikecdl fit` write all but figures, which take longer than the fits of tests."""
    with (
        mock.patch("spikecdl.report.draw_figures", return_value={}),
        mock.patch("spikecdl.report.write_report", lambda file, *_: file.write_text("report")),
    ):
        yield
