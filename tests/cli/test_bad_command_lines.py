"""What is wrong with a command line or its files: one line says so, and nothing is left behind."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands import run

import spikecdl
from spikecdl import DCEA, Unrolled
from spikecdl.simulate import place_spikes, simulate
from spikecdl.training import NotConvergedWarning

# FILE is a recording, TEXT a file that is none, MODEL a model, BINS and PLAIN npz files; OUT and
# NEW are not there yet.  The words after the line are in the message.
LINES = {
    "no length": ("select FILE --out OUT --bin 0.002", "--length"),
    "no bin": ("select FILE --out OUT --length 0.02", "`--bin` (=None) spikecdl inspect"),
    "no length of bins": ("fit BINS --out OUT", "`--length` (='auto') bins seconds"),
    "unknown option": ("FIT --smooth 3", "--smooth fit --help"),
    "half a window": ("FIT --window 0", "--window 2"),
    "out below a file": ("FIT --out TEXT/out", "`--out` notes.nwb/out another folder"),
    "bins that do not divide the length": (
        "FIT --bin 0.003",
        "`--length` (=0.02) bins nearest 0.021",
    ),
    "unknown format": ("FIT --format gif", "'--format' 'gif' is not one of 'png', 'pdf', 'svg'"),
    "lambda of 1": ("FIT --lambda 1", "`--lambda` (=1.0) below 1"),
    "unknown trainer": ("FIT --trainer adam", "`--trainer` (='adam') unrolled"),
    "one fold": ("FIT --folds 1", "`--folds` (=1) must be at least 2"),
    "unknown sign": ("FIT --sign plus", "`--sign` (='plus') positive"),
    "unknown unit": ("FIT --units 0,9", "`--units` (='0,9') 0, 1"),
    "no unit": ("FIT --units ,", "`--units` (=',') 0, 1"),
    "baseline as a word": ("FIT --baseline mean", "`--baseline` (='mean') learned START:STOP Hz"),
    "apply what is no model": ("apply TEXT FILE --out OUT", "no model"),
    "apply over a fit": ("apply MODEL FILE --out MODEL", "`--out` holds a fit another folder"),
    "bins cannot be aligned": (
        "fit BINS --out OUT --length 0.02 --align go",
        "`--align` (='go') bins",
    ),
    "bins of another size": ("fit BINS --out OUT --length 0.02 --bin 0.5", "`--bin` (=0.5) 0.001"),
    "compare without a truth": ("compare MODEL PLAIN", "truth spikecdl simulate"),
    "negative tolerance": ("compare MODEL FILE --tolerance -1", "`--tolerance` (=-1.0) negative"),
    "simulate into no folder": ("simulate --out nowhere/sim.nwb", "nowhere"),
    "simulate an unknown shape": (
        "simulate --out NEW --templates sine",
        "`--templates` (='sine') square",
    ),
    "simulate text": ("simulate --out NEW --templates TEXT.npy", "notes.nwb.npy"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """What the capital words in `LINES` stand for."""
    folder = tmp_path_factory.mktemp("bad")
    counts = simulate(
        n_trials=20, n_units=2, duration=0.4, bin_size=0.002, template_length=0.02, random_state=0
    )
    spikecdl.write_nwb(folder / "sim.nwb", place_spikes(counts, 0))
    model = DCEA(1, 0.02, trainer=Unrolled(n_unrolled=2), n_epochs=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        model.fit(counts)
    (folder / "model").mkdir()
    model.save(folder / "model")
    (folder / "notes.nwb").write_text("spikes")
    np.savez(folder / "bins.npz", counts=counts.counts[:, :, :60], bin_size=0.001)
    np.savez(folder / "plain.npz", counts=counts.counts[:, :, :60], bin_size=0.002)
    names = {"FILE": "sim.nwb", "MODEL": "model", "TEXT": "notes.nwb", "BINS": "bins.npz"}
    names |= {"PLAIN": "plain.npz"}
    names |= {"OUT": "new/out", "NEW": "new.nwb"}
    return {word: str(folder / name) for word, name in names.items()} | {"HERE": str(folder)}


@pytest.mark.parametrize("what", LINES)
def test_command_lines(what, places):
    line, words = LINES[what]
    line = line.replace("FIT", "fit FILE --out OUT --length 0.02 --bin 0.002")
    line = re.sub(r"\b[A-Z]{3,}\b", lambda word: places.get(word[0], word[0]), line)
    folder = Path(places["HERE"])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    outcome = run(*line.split())
    assert (outcome.code, outcome.out) == (2, "")
    error = re.sub(r"^reading .*\n", "", outcome.err)  # what is done, before what is wrong
    assert error.startswith("spikecdl: error: ")
    assert error.count("\n") == 1
    assert [word for word in words.split() if word not in error] == [], error
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert set(after) == set(before)
    files = [path for path in before if path.is_file()]
    assert [path for path in files if before[path] != after[path]] == []
