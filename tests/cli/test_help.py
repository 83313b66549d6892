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


@pytest.mark.parametrize("command", ["fit", "select"])
def test_options_are_in_groups(command):
    text = run(command, "--help").out
    groups = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", text, re.MULTILINE))
    expected = ["Arguments", "Data", "Windows", "Model", "Training", "Output", "Options"]
    assert list(groups) == expected
    places = {"units": "Data", "align": "Windows", "family": "Model", "folds": "Training"}
    for option, group in {**places, "out": "Output", "help": "Options"}.items():
        assert f"--{option} " in groups[group]
    others = re.findall(r"^  (--?\w+)", groups["Options"], re.MULTILINE)
    assert others == ["--seed", "--device", "-h"]


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ev", ["evaluate"]),
        ("fit --fam", ["--family"]),
        ("fit --family p", ["poisson"]),
        ("fit --format ", ["png", "pdf", "svg"]),
        ("experiment w", ["whisker"]),
    ],
)
def test_a_shell_completes(typed, completed):
    words = {"COMP_WORDS": f"spikecdl {typed}", "COMP_CWORD": str(len(typed.split(" ")))}
    environment = {**ENVIRONMENT, **words, "_SPIKECDL_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", "from spikecdl.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.split() == completed


@pytest.mark.parametrize(
    "line",
    [
        "fit nowhere.nwb --length 0.1 --bin 0.01 --out OUT",
        "select nowhere.nwb --length 0.1 --bin 0.01 --out OUT",
        "apply nowhere nowhere.nwb --out OUT",
        "inspect nowhere.nwb",
        "denoise nowhere.png --out OUT",
    ],
)
def test_a_missing_file_is_said_before_anything_heavy_is_imported(line, tmp_path):
    words = line.replace("OUT", str(tmp_path / "out")).split()
    code = (
        "import sys, spikecdl.cli\n"
        f"sys.argv = ['spikecdl', *{words}]\n"
        "try: spikecdl.cli.main()\n"
        f"except SystemExit as end: print(end.code, sorted({HEAVY} & set(sys.modules)))"
    )
    done = python("-c", code)
    assert done.stdout.strip() == "2 []"
    assert re.fullmatch(r"spikecdl: error: there is no file or folder 'nowhere.*'\n", done.stderr)
    assert not (tmp_path / "out").exists()


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
