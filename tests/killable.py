"""The command line in a process that a test kills; imported before it is forked."""

from __future__ import annotations

import os
import sys

from spikecdl import checkpoint, cli


def command(line: list[str]) -> None:
    """Run ``spikecdl`` with these arguments, quietly, and end the process."""
    sys.argv = ["spikecdl", *line]
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    checkpoint.MOMENT = 0.0  # every step of the initialization is written
    cli.main()
