"""Help: short enough for a terminal, complete, and quick to appear."""

from __future__ import annotations

import re
import subprocess
import sys

from commands import ENVIRONMENT, run, succeeded

import spikecdl

COMMANDS = ("demo", "inspect", "fit", "select", "apply", "evaluate", "compare", "simulate")
COMMANDS = (*COMMANDS, "watch", "denoise")
HEAVY = {"torch", "scipy", "pandas", "h5py", "pynwb", "neo", "matplotlib", "sklearn", "jinja2"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)


def test_help_fits_a_hundred_columns_and_describes_every_option(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for command in ("", *COMMANDS, "denoise image", "denoise train", "denoise benchmark"):
        outcome = succeeded(run(*command.split(), "--help"))
        assert outcome.err == ""
        lines = outcome.out.splitlines()
        assert max(map(len, lines)) <= 100
        assert "--help" in outcome.out
        assert [line for line in lines if re.match(r"  --\S+( [A-Z.,]+)*$", line)] == []


def test_help_names_every_command_in_whole_sentences(monkeypatch):
    assert "benchmark" in succeeded(run("denoise")).out
    monkeypatch.setenv("COLUMNS", "80")
    outcome = succeeded(run())
    listed = outcome.out.partition("Commands:")[2]
    for command in COMMANDS:
        assert re.search(rf"^  {command} +[A-Z].*\.$", listed, re.MULTILINE), listed
    assert "..." not in listed
    assert "130 interrupted" in " ".join(outcome.out.split())


def test_options_are_in_panels():
    fit = "bin units window trials pool-trials align templates family lambda layout epochs resume"
    for command, promised in {"fit": fit, "select": "jobs", "apply": "own-windows"}.items():
        text = run(command, "-h").out
        panels = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", text, re.MULTILINE))
        expected = ["Arguments", "Data", "Windows", "Model", "Training", "Output", "Options"]
        places = {"units": "Data", "align": "Windows", "out": "Output", "json": "Output"}
        if command == "apply":
            expected = [name for name in expected if name != "Training"]
        else:
            places |= {"family": "Model", "folds": "Training", "seed": "Options"}
        assert list(panels) == expected
        for option, panel in {**places, "device": "Options", "help": "Options"}.items():
            assert f"--{option} " in panels[panel]
        assert [name for name in promised.split() if f"--{name} " not in text] == []


def test_a_shell_completes(monkeypatch):
    completed = {
        "ev": ["evaluate"],
        "fit --fam": ["--family"],
        "fit --family p": ["poisson"],
        "fit --format ": ["png", "pdf", "svg"],
        "experiment w": ["whisker"],
    }
    monkeypatch.setenv("_SPIKECDL_COMPLETE", "complete_bash")
    for typed, expected in completed.items():
        monkeypatch.setenv("COMP_WORDS", f"spikecdl {typed}")
        monkeypatch.setenv("COMP_CWORD", str(len(typed.split(" "))))
        assert run().out.split() == expected


def test_a_missing_file_is_said_before_anything_heavy_is_imported(tmp_path):
    lines = [
        "fit nowhere.nwb --length 0.1 --bin 0.01 --out OUT",
        "select nowhere.nwb --length 0.1 --bin 0.01 --out OUT",
        "apply nowhere nowhere.nwb --out OUT",
        "inspect nowhere.nwb",
        "denoise nowhere.png --out OUT",
    ]
    commands = [line.replace("OUT", str(tmp_path / "out")).split() for line in lines]
    code = (
        "import sys, spikecdl.cli\n"
        f"for words in {commands}:\n"
        "    sys.argv = ['spikecdl', *words]\n"
        "    try: spikecdl.cli.main()\n"
        f"    except SystemExit as end: print(end.code, sorted({HEAVY} & set(sys.modules)))"
    )
    done = python("-c", code)
    assert done.stdout.splitlines() == ["2 []"] * len(lines)
    said = re.compile(r"spikecdl: error: there is no file or folder 'nowhere.*'")
    assert [bool(said.fullmatch(line)) for line in done.stderr.splitlines()] == [True] * len(lines)
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
