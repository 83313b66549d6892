"""The command line `spikecdl`: its commands, exit codes, and error messages of one line.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

import spikecdl
from spikecdl.cli import denoising, fitting, models, recordings
from spikecdl.cli.options import add
from spikecdl.files import is_disk_full
from spikecdl.validation import MissingExtraError, printable

SUCCESS, BUG, MISUSE, INTERRUPTED = 0, 1, 2, 130

_PACKAGE = Path(__file__).parents[1]
_EXPECTED = (ValueError, TypeError, FloatingPointError, MissingExtraError)
# ClickException, the base class of errors in the command line, of the Click that Typer uses.
_USAGE_ERROR: type[BaseException] = typer.BadParameter.__mro__[2]
# Arguments of which options have another name.
_ARGUMENTS = {"shape": "templates", "path": "out"}


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
    models.select,
    models.apply,
    models.evaluate,
    models.compare,
    models.watch,
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
    sys.exit(run(arguments or ["--help"], debug="--debug" in sys.argv[1:]))


def run(arguments: Sequence[str], debug: bool) -> int:
    """Run a command, print each warning, once, or error as one line, and return the exit code.

    ``arguments`` are what follows ``spikecdl`` on the command line; with ``debug``, tracebacks and
    the warnings of other packages are shown.
    """
    options = _options(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)

    said = set()

    def show_warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if str(message) not in said and (debug or category.__module__.startswith("spikecdl")):
            said.add(str(message))
            _say(f"warning: {message}", options)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show_warning
        try:
            empty = [before for before, word in pairwise(["spikecdl", *arguments]) if not word]
            if empty:
                raise ValueError(f"what follows {empty[0]} is empty; leave it out, or give a value")
            code = app(args=list(arguments), prog_name="spikecdl", standalone_mode=False) or SUCCESS
            message = "interrupted" if code == INTERRUPTED else ""
        except BaseException as error:
            code, message = _verdict(error)
            if debug and code in (BUG, MISUSE) and not isinstance(error, _USAGE_ERROR):
                traceback.print_exc()
        if message:
            _say(message, options)
    return code


def _interrupt(*received: Any) -> None:
    """End as after Ctrl-C, with all in order."""
    raise KeyboardInterrupt


def _verdict(error: BaseException) -> tuple[int, str]:
    """Return the exit code for an exception, and the message to print."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, "interrupted"
    if isinstance(error, _USAGE_ERROR):
        where = getattr(getattr(error, "ctx", None), "command_path", "spikecdl")
        return MISUSE, f"error: {error.format_message()} (see {where} --help)"  # type: ignore[attr-defined]
    if isinstance(error, OSError):
        known = error.filename is not None and error.strerror is not None
        text = f"{error.strerror}: {str(error.filename)!r}" if known else str(error)
        return MISUSE, f"error: {text}"
    if is_disk_full(error):
        return MISUSE, f"error: a disk that is written to has no space left: {error}"
    if isinstance(error, _EXPECTED) and _raised_here(error):
        return MISUSE, f"error: {error}"
    if not isinstance(error, Exception):
        raise error
    return BUG, (
        f"unexpected error: {type(error).__name__}: {error}; this is a bug, please run again with "
        "--debug and report it"
    )


def _say(message: str, options: Mapping[str, str]) -> None:
    """Print one line on standard error, with arguments replaced by the names of their options."""

    def as_typed(found: re.Match[str]) -> str:
        return f"`{options.get(_ARGUMENTS.get(found[1], found[1]), found[1])}`"

    text = " ".join(message.split())
    text = text if len(text) <= 900 else f"{text[:600]} ... {text[-250:]}"
    line = re.sub(r"`(\w+)`", as_typed, text)
    print(f"spikecdl: {printable(line)}", file=sys.stderr)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """Return the options of the command in ``arguments``, by the names of its parameters."""
    command: Any = typer.main.get_command(app)
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    if default := getattr(command, "default", None):
        command = command.commands[default]
    return {p.name: p.opts[0] for p in command.params if p.opts[0].startswith("--")}


def _raised_here(error: BaseException) -> bool:
    """Whether the package itself raised the error, not a library that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and _PACKAGE in Path(frames[-1].filename).parents
