"""Help: short enough for a terminal, complete, and quick to appear."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from commands import ENVIRONMENT, run, succeeded

import spikecdl

COMMANDS = ("demo", "inspect", "fit", "select", "apply", "evaluate", "compare", "simulate")
COMMANDS = (*COMMANDS, "denoise")
HEAVY = {"torch", "scipy", "pandas", "h5py", "pynwb", "neo", "matplotlib", "sklearn", "jinja2"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_hundred_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    outcome = succeeded(run(*command.split(), "--help"))
    assert outcome.err == ""
    assert max(map(len, outcome.out.splitlines())) <= 100
    assert "--help" in outcome.out


def test_help_names_every_command_in_whole_sentences(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = succeeded(run())
    listed = outcome.out.partition("Commands:")[2]
    for command in COMMANDS:
        assert re.search(rf"^  {command} +[A-Z].*\.$", listed, re.MULTILINE), listed
    assert "..." not in listed
    assert "130 interrupted" in " ".join(outcome.out.split())


def test_fit_has_the_options_that_were_promised():
    text = run("fit", "-h").out
    promised = "out family templates length bin pool-trials align window units trials lambda layout"
    for name in [*promised.split(), "device", "seed", "epochs", "json", "resume"]:
        assert f"--{name}" in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys, spikecdl.cli\n"
        f"for command in {COMMANDS}:\n"
        "    sys.argv = ['spikecdl', command, '--help']\n"
        "    try: spikecdl.cli.main()\n"
        "    except SystemExit as end: assert not end.code\n"
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_it_runs_as_a_module_and_says_its_version():
    done = python("-m", "spikecdl", "--version")
    assert (done.returncode, done.stdout) == (0, f"spikecdl {spikecdl.__version__}\n")
