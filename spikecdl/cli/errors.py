"""Exit codes, and errors as one line."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import typer

SUCCESS, BUG, MISUSE, INTERRUPTED = 0, 1, 2, 130

_PACKAGE = Path(__file__).parents[1]
_EXPECTED = (ValueError, TypeError, FloatingPointError)


def run(app: typer.Typer, arguments: Sequence[str], debug: bool) -> int:
    """Run a command; tell of what goes wrong in one line, and return the exit code."""
    with warnings.catch_warnings():
        if debug:
            warnings.simplefilter("default")
        else:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module=r"spikecdl(\.|$)")
        warnings.showwarning = _show_warning
        try:
            result = app(args=list(arguments), standalone_mode=False)
        except BaseException as error:
            if debug and not isinstance(error, click.ClickException | click.Abort):
                traceback.print_exc()
            return _report(error)
    return result if isinstance(result, int) else SUCCESS


def _report(error: BaseException) -> int:
    """Print what went wrong and return the exit code."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        _say("interrupted")
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        help_of = error.ctx.command_path if getattr(error, "ctx", None) else "spikecdl"
        _say(f"error: {error.format_message()} (see {help_of} --help)")
        return MISUSE
    if isinstance(error, OSError):
        _say(f"error: {_os_message(error)}")
        return MISUSE
    if isinstance(error, _EXPECTED) and _raised_here(error):
        _say(f"error: {error}")
        return MISUSE
    if not isinstance(error, Exception):
        raise error
    _say(
        f"unexpected error: {type(error).__name__}: {error}; this is a bug: run again with --debug "
        "and report it"
    )
    return BUG


def _say(message: str) -> None:
    print(f"spikecdl: {' '.join(message.split())}", file=sys.stderr)


def _os_message(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.strerror}: {str(error.filename)!r}"


def _raised_here(error: BaseException) -> bool:
    """Whether the package itself raised the error, rather than something it called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and _PACKAGE in Path(frames[-1].filename).parents


def _show_warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    _say(f"warning: {message}")
