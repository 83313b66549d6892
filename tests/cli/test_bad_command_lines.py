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
    "no file": ("fit --out OUT --length 0.02 --bin 0.002", "'FILE'"),
    "no length": ("fit FILE --out OUT --bin 0.002", "--length"),
    "no bin": ("fit FILE --out OUT --length 0.02", "`--bin` (=None) spikecdl inspect"),
    "unknown command": ("fitt FILE", "fitt"),
    "unknown option": ("FIT --smooth 3", "--smooth fit --help"),
    "text for a number": ("FIT --templates two", "--templates"),
    "half a window": ("FIT --window 0", "--window 2"),
    "no such recording": ("fit nowhere.nwb --out OUT --length 0.02 --bin 0.002", "nowhere.nwb"),
    "a recording of no format": ("fit TEXT --out OUT --length 0.02 --bin 0.002", "notes.nwb HDF5"),
    "out below a file": ("FIT --out TEXT/out", "`--out` notes.nwb/out another folder"),
    "out is a file": ("FIT --out TEXT", "`--out` notes.nwb another folder"),
    "bins that do not divide the length": (
        "FIT --bin 0.003",
        "`--length` (=0.02) bins nearest 0.021",
    ),
    "template longer than trials": ("FIT --length 9", "`--length` (=9, longer 200 bins"),
    "bins in milliseconds": ("FIT --bin 5", "`--bin` (=5) milliseconds 0.005 '5s'"),
    "bins of no unit": ("FIT --bin 5min", "`--bin` (='5min') 5ms"),
    "an onset above all": ("FIT --onset 1.5", "--onset 0.99"),
    "zero templates": ("FIT --templates 0", "`--templates` (=0) at least 1"),
    "zero epochs": ("FIT --epochs 0", "`--epochs` (=0) at least 1"),
    "unknown format": ("FIT --format gif", "'--format' 'gif' is not one of 'png', 'pdf', 'svg'"),
    "negative seed": ("FIT --seed -1", "--seed 0"),
    "lambda of 1": ("FIT --lambda 1", "`--lambda` (=1.0) below 1"),
    "unknown family": ("FIT --family bernoulli", "`--family` (='bernoulli') binomial"),
    "unknown layout": ("FIT --layout both", "`--layout` (='both') joint shared"),
    "unknown trainer": ("FIT --trainer adam", "`--trainer` (='adam') unrolled"),
    "unknown penalty": ("FIT --penalty l0", "`--penalty` (='l0') group_l1"),
    "unknown sign": ("FIT --sign plus", "`--sign` (='plus') positive"),
    "unknown device": ("FIT --device tpu", "`--device` (='tpu') cpu"),
    "lambda of events summed out": (
        "FIT --trainer marginal --lambda 0.1",
        "`--lambda` (=0.1) marginal leave it out",
    ),
    "signs of events summed out": (
        "FIT --trainer marginal --sign both",
        "`--sign` (='both') marginal leave it out",
    ),
    "group of events summed out": (
        "FIT --trainer marginal --penalty group_l1",
        "`--penalty` (='group_l1') marginal leave it out",
    ),
    "unknown unit": ("FIT --units 0,9", "`--units` (='0,9') 0, 1"),
    "no unit": ("FIT --units ,", "`--units` (=',') 0, 1"),
    "unknown column": ("FIT --align go --window 0 0.1", "lacks ['go'] start_time"),
    "aligned without a window": ("FIT --align start_time", "`--align` (='start_time') `--window`"),
    "window reversed": ("FIT --window 0.2 0.1", "`--window` (=(0.2, 0.1)) stop after"),
    "bad query": ("FIT --trials kind==1", "`--trials` (='kind==1') start_time"),
    "query that selects none": ("FIT --trials start_time<0", "`--trials` none of 20"),
    "unknown table": ("FIT --table odours", "`--table` (='odours') trials"),
    "baseline as a word": ("FIT --baseline mean", "`--baseline` (='mean') learned START:STOP Hz"),
    "baseline window elsewhere": ("FIT --baseline 8:9", "`--baseline` (8.0, 9.0) 0 to 0.4 s"),
    "baseline of three units": ("FIT --baseline 8,9,10", "`--baseline` (shape (3,)) (20, 2)"),
    "apply what is no model": ("apply TEXT FILE --out OUT", "no model"),
    "apply over a fit": ("apply MODEL FILE --out MODEL", "`--out` holds a fit another folder"),
    "apply to no recording": ("apply MODEL nowhere.nwb --out OUT", "nowhere.nwb"),
    "evaluate with bins of another size": ("evaluate MODEL BINS", "`bin_size` 0.001 0.002"),
    "bins cannot be aligned": (
        "fit BINS --out OUT --length 0.02 --align go",
        "`--align` (='go') bins",
    ),
    "bins have no tables": (
        "fit BINS --out OUT --length 0.02 --table go",
        "`--table` (='go') bins",
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
    "simulate no trials": ("simulate --out NEW --trials 0", "`--trials` (=0) at least 1"),
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
    assert outcome.err.startswith("spikecdl: error: ")
    assert outcome.err.count("\n") == 1
    assert [word for word in words.split() if word not in outcome.err] == [], outcome.err
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert set(after) == set(before)
    files = [path for path in before if path.is_file()]
    assert [path for path in files if before[path] != after[path]] == []
