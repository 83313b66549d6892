"""The command line `spikecdl`. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import spikecdl
from spikecdl.cli import denoising, fitting, models, recordings, selection
from spikecdl.cli.errors import run
from spikecdl.cli.options import add

app = typer.Typer(
    name="spikecdl",
    help="Learn templates (short waveforms of firing-rate change) from spike trains.",
    epilog="Exit codes: 0 success; 1 a bug in spikecdl; 2 an error in the command line or the "
    "data, or a full disk; 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"spikecdl {spikecdl.__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, and warnings from other packages.")
    ] = False,
) -> None:
    pass


add(
    app,
    fitting.demo,
    recordings.inspect,
    fitting.fit,
    selection.select,
    models.apply,
    models.evaluate,
    models.compare,
    recordings.simulate,
    models.experiment,
)
app.add_typer(denoising.app)


def main() -> None:
    """Run the command line and exit with its code, which `spikecdl --help` explains.

    Of several processes (torchrun), only the first prints. The others take part in `fit` and
    `demo`, and end at once in other commands.
    """
    # --debug is accepted anywhere on the line
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if os.environ.get("RANK", "0") != "0":
        if not {"fit", "demo"} & set(arguments):
            return
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(run(app, arguments or ["--help"], debug="--debug" in sys.argv[1:]))
