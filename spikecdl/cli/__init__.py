"""The command line: `spikecdl demo`, `inspect`, `fit`, `apply`, `evaluate`, `compare`, `simulate`,
`experiment`, `denoise`.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import spikecdl
from spikecdl.cli import denoising, experiments, fitting, models, recordings
from spikecdl.cli.errors import run

app = typer.Typer(
    name="spikecdl",
    help="Learn templates, short waveforms of firing-rate change, from spike trains.",
    epilog="Exit codes: 0 success; 2 the command line or the data is wrong; 130 interrupted; "
    "1 anything else, a bug.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    add_completion=False,
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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, and warnings of other packages.")
    ] = False,
) -> None:
    pass


for command in (
    *(fitting.demo, recordings.inspect, fitting.fit),
    *(models.apply, models.evaluate, models.compare, recordings.simulate),
    experiments.experiment,
):
    app.command()(command)
app.add_typer(denoising.app)


def main() -> None:
    """Run the command line and exit with its code (0, 1, 2 or 130; see the README).

    Of several processes (torchrun), the first one speaks; those that have nothing to share end.
    """
    # --debug counts anywhere on the line
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if os.environ.get("RANK", "0") != "0":
        if not {"fit", "demo"} & set(arguments):
            return
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(run(app, arguments or ["--help"], debug="--debug" in sys.argv[1:]))
