"""What is wrong with the input, and what is said of it: one clear sentence, nothing left behind.

The table of command lines is in `test_bad_command_lines.py`; inputs that are odd but no error, with
their documented result, are in `test_odd_input.py`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import torch
from tables import refused

import spikecdl
from spikecdl import DCEA, BinnedSpikes, SpikeTrains, Unrolled
from spikecdl.estimator import load
from spikecdl.simulate import place_spikes, simulate
from spikecdl.training import NotConvergedWarning

COUNTS = np.random.default_rng(0).poisson(0.3, (6, 2, 60))
QUICK = Unrolled(n_unrolled=2)


class Row(NamedTuple):
    """A bad input: what is wrong, what is called, words of the error between semicolons."""

    what: str
    call: Callable[..., object]
    words: str
    error: type[Exception] = ValueError


def with_value(value: float) -> np.ndarray:
    """Counts of which one, of trial 1, unit 0 and bin 3, is this."""
    counts = COUNTS.astype(float)
    counts[1, 0, 3] = value
    return counts


def fit(counts: object = COUNTS, n_templates: int = 1, length: float = 10, **arguments) -> DCEA:
    return DCEA(n_templates, length, random_state=0, **arguments).fit(counts)


def quick(checkpoint: Path | None = None, random_state: int = 0, **arguments) -> DCEA:
    """A model that was hardly trained; goes on from a checkpoint if there is one."""
    model = DCEA(1, 10, random_state=random_state, n_epochs=1, trainer=QUICK, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        return model.fit(COUNTS, checkpoint=checkpoint, resume=checkpoint is not None)


@cache
def trained() -> DCEA:
    return quick()


def recording(times: object = ([0.5, 1.5], [0.7]), **parts: object) -> SpikeTrains:
    trials = {"start_time": [0.0, 1.0], "stop_time": [1.0, 2.0], "cue": [0.2, 1.2], "kind": [1, 2]}
    return SpikeTrains.from_arrays(times, **{"trials": trials, **parts})


def other_fit(tmp: Path) -> DCEA:
    quick(tmp / "c.safetensors")
    return quick(tmp / "c.safetensors", random_state=1)


def checkpoint_as_model(tmp: Path) -> DCEA:
    quick(tmp / "c.safetensors")
    return load(tmp / "c.safetensors")


def damaged_checkpoint(tmp: Path) -> DCEA:
    quick(tmp / "c.safetensors")
    written(tmp, (tmp / "c.safetensors").read_bytes()[:-4], "c.safetensors")
    return quick(tmp / "c.safetensors")


def damaged_model(tmp: Path, position: int, keep: int | None = None) -> DCEA:
    trained().save(tmp)
    file = tmp / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content[:keep])
    return load(tmp)


def written(tmp: Path, content: bytes, name: str = "file.nwb") -> Path:
    (tmp / name).write_bytes(content)
    return tmp / name


def nwb(tmp: Path, n_bytes: int | None = None) -> Path:
    path = tmp / "recording.nwb"
    spikecdl.write_nwb(path, recording())
    content = path.read_bytes()
    return written(tmp, content[:n_bytes], "cut.nwb")


def hdf5(tmp: Path, *groups: str) -> Path:
    with h5py.File(tmp / "file.h5", "w") as file:
        for group in groups:
            file.create_group(group)
    return tmp / "file.h5"


def npz(tmp: Path, **arrays: object) -> Path:
    np.savez(tmp / "file.npz", **arrays)
    return tmp / "file.npz"


FITS = [
    Row("NaN", lambda: fit(with_value(np.nan)), "nan; trial 1; unit 0; bin 3; `mask`"),
    Row("Inf", lambda: fit(with_value(np.inf)), "inf; trial 1; unit 0; bin 3"),
    Row("negative", lambda: fit(with_value(-1)), "-1; trial 1; unit 0; bin 3; 0 or more"),
    Row("not whole", lambda: fit(with_value(0.5)), "0.5; trial 1; unit 0; bin 3; another family"),
    Row(
        "too large to be exact", lambda: fit(with_value(1e9)), "1000000000; trial 1; unit 0; bin 3"
    ),
    Row(
        "count > M",
        lambda: fit(np.where(with_value(9) == 9, 2, COUNTS > 0), family="binomial"),
        "count; trial 1; unit 0; bin 3; n_trials; another family",
    ),
    Row("no trials", lambda: fit(COUNTS[:0]), "0 sample"),
    Row("no bins", lambda: fit(COUNTS[..., :0]), "`counts` (6, 2, 0); not be empty"),
    Row("one number", lambda: fit(3.0), "trial, bin"),
    Row("one window", lambda: fit(COUNTS[0, 0]), "trial, bin"),
    Row("four axes", lambda: fit(COUNTS[None]), "(1, 6, 2, 60); (trial, unit, bin)"),
    Row("text", lambda: fit(COUNTS.astype(str)), "numeric"),
    Row(
        "template longer than window",
        lambda: fit(length=61),
        "`template_length` (=61; 60 bins",
    ),
    Row(
        "length of half bins",
        lambda: fit(length=2.5),
        "`template_length` (=2.5); whole number of bins",
    ),
    Row("length 0", lambda: fit(length=0), "`template_length` (=0); positive"),
    Row("length as text", lambda: fit(length="10"), "`template_length` (='10'); number", TypeError),
    Row("zero templates", lambda: fit(n_templates=0), "`n_templates` (=0); at least 1"),
    Row(
        "half a template", lambda: fit(n_templates=1.5), "`n_templates` (=1.5); integer", TypeError
    ),
    Row(
        "weight of lambda_max",
        lambda: fit(penalty_weight=1),
        "`penalty_weight` (=1); below 1; lambda_max",
    ),
    Row("weight 0", lambda: fit(penalty_weight=0), "`penalty_weight` (=0); positive"),
    Row("zero epochs", lambda: fit(n_epochs=0), "`n_epochs` (=0); at least 1"),
    Row("bin size 0", lambda: fit(bin_size=0), "`bin_size` (=0); positive"),
    Row(
        "unknown family",
        lambda: fit(family="bernoulli"),
        "`family` (='bernoulli'); binomial; gaussian; negative_binomial; poisson",
    ),
    Row(
        "family of another kind",
        lambda: fit(family=3),
        "`family` (=3); Family; binomial; gaussian; negative_binomial; poisson",
        TypeError,
    ),
    Row("unknown layout", lambda: fit(layout="both"), "`layout` (='both'); joint, shared"),
    Row(
        "unknown trainer",
        lambda: fit(trainer="adam"),
        "`trainer` (='adam'); alternating, implicit, marginal, unrolled",
    ),
    Row("unknown penalty", lambda: fit(penalty="l0"), "`penalty` (='l0'); group_l1, l1"),
    Row(
        "unknown sign",
        lambda: fit(penalty=spikecdl.L1(sign="plus")),
        "`sign` (='plus'); both, negative, positive",
    ),
    Row(
        "weight that marginal training does not use",
        lambda: fit(trainer="marginal", penalty_weight=0.3),
        "`penalty_weight` (=0.3); marginal; leave it out",
    ),
    Row(
        "signs that marginal training has not",
        lambda: fit(trainer="marginal", penalty=spikecdl.L1(sign="both")),
        "`sign` (='both'); marginal; leave it out",
    ),
    Row(
        "penalty that marginal training does not use",
        lambda: fit(trainer="marginal", penalty="group_l1"),
        "`penalty` (='group_l1'); marginal; leave it out",
    ),
    Row("unknown device", lambda: fit(device="tpu"), "`device` (='tpu'); auto, cpu, cuda"),
    Row("baseline as a word", lambda: fit(baseline="mean"), "`baseline` (='mean'); learned"),
    Row(
        "baseline window elsewhere",
        lambda: fit(baseline=(70, 80)),
        "`baseline` (=(70, 80)); 0 to 60",
    ),
    Row(
        "baseline window of three",
        lambda: fit(baseline=(1, 2, 3)),
        "`baseline` (=(1, 2, 3)); (start, stop)",
    ),
    Row("baseline of 3 units of 2", lambda: fit(baseline=[1, 2, 3]), "`baseline`; (unit,); (6, 2)"),
    Row("baseline 0 Hz", lambda: fit(baseline=0.0), "`baseline` (=0.0); above 0"),
    Row("transform before fit", lambda: DCEA(1, 10).transform(COUNTS), "not fitted; fit"),
    Row(
        "transform bins of another size",
        lambda: trained().transform(BinnedSpikes.from_array(COUNTS, 0.5)),
        "`bin_size`; 0.5; (1); bin the spikes again",
    ),
    Row(
        "transform windows shorter than a template",
        lambda: trained().transform(BinnedSpikes.from_array(COUNTS[..., :5])),
        "5 bins; template (10)",
    ),
    Row(
        "other units in the joint layout",
        lambda: quick(layout="joint").transform(BinnedSpikes.from_array(COUNTS[:, :1])),
        "1 units; joint templates 2; select the units",
    ),
]

RECORDINGS = [
    Row("no units", lambda: recording([]), "`times`; at least one unit"),
    Row(
        "one array without a list",
        lambda: recording(np.array([0.5])),
        "`times`; one 1-D array per unit; wrap",
        TypeError,
    ),
    Row(
        "unsorted times", lambda: recording([[1.5, 0.5]]), "`times` of unit 0; not sorted; np.sort"
    ),
    Row(
        "duplicate times",
        lambda: recording([[0.5, 0.5]]),
        "`times` of unit 0; 0.5 s twice; np.unique",
    ),
    Row("NaN time", lambda: recording([[0.5, np.nan]]), "`times` of unit 0; finite"),
    Row(
        "milliseconds as seconds",
        lambda: recording([[500.0, 1500.0]]),
        "milliseconds; 1500; divide by 1000",
    ),
    Row(
        "units with one name",
        lambda: recording(unit_ids=["a", "a"]),
        "`unit_ids`; distinct; 'a', 'a'",
    ),
    Row(
        "trial ends before it starts",
        lambda: recording(trials=[[1.0, 0.5]]),
        "trial 0; stop after it starts",
    ),
    Row(
        "trials without a stop",
        lambda: recording(trials={"start_time": [0.0]}),
        "'trials'; lacks ['stop_time']",
    ),
    Row(
        "observed intervals that overlap",
        lambda: recording(observed=[[0, 2], [1, 3]]),
        "`observed` of unit 0; overlap",
    ),
    Row(
        "trial outside the recording",
        lambda: recording(observed=(0.0, 0.9)).bin(0.1),
        "trial 1; outside the recording; 0 to 0.9 s; `trials`",
    ),
    Row("bin size 0", lambda: recording().bin(0), "`bin_size` (=0); positive, in seconds"),
    Row(
        "bin longer than trials",
        lambda: recording().bin("1.5s"),
        "`bin_size` (=1.5); window of trial 0",
    ),
    Row(
        "bin size in milliseconds",
        lambda: recording().bin(5),
        "`bin_size` (=5) looks like milliseconds; give 0.005; '5s' if you mean seconds",
    ),
    Row("bin size in words", lambda: recording().bin("five"), "`bin_size` (='five'); 5ms, 0.5s"),
    Row(
        "missing column",
        lambda: recording().bin(0.1, align="go", window=(0, 1)),
        "'trials'; lacks ['go']; 'cue'",
    ),
    Row(
        "column without times",
        lambda: recording(trials={"start_time": [0.0], "stop_time": [1.0], "cue": [np.nan]}).bin(
            0.1, align="cue", window=(0, 1)
        ),
        "'cue'; no time for trials [0]; cue == cue",
    ),
    Row(
        "aligned without a window",
        lambda: recording().bin(0.1, align="cue"),
        "`align` (='cue'); `window`",
    ),
    Row(
        "window reversed",
        lambda: recording().bin(0.1, align="cue", window=(1, 0)),
        "`window` (=(1, 0)); stop after it starts",
    ),
    Row(
        "query of an unknown column",
        lambda: recording().bin(0.1, trials="type == 1"),
        "`trials` (='type == 1'); 'kind'",
    ),
    Row(
        "query that is not one",
        lambda: recording().bin(0.1, trials="kind ="),
        "`trials` (='kind ='); query; 'kind'",
    ),
    Row(
        "query that selects none",
        lambda: recording().bin(0.1, trials="kind == 3"),
        "`trials` (='kind == 3'); none of 2",
    ),
    Row(
        "trials that do not exist",
        lambda: recording().bin(0.1, trials=[0, 7]),
        "`trials` [7]; [0, 1]",
    ),
    Row("unknown unit", lambda: recording().bin(0.1, units=[5]), "`units` (=[5]); [0, 1]"),
    Row(
        "unknown table", lambda: recording().bin(0.1, table="odours"), "`table` (='odours'); trials"
    ),
]

BINNED = [
    Row(
        f"{name}: {words}",
        lambda parts={name: value}: replace(BinnedSpikes.from_array(COUNTS), **parts),
        f"`{name}`; {words}",
        error,
    )
    for name, value, words, error in [
        ("bin_size", 1e-320, "1e-320; 1e-9 to 1e9", ValueError),
        ("bin_size", 1e308, "1e+308; 1e-9 to 1e9", ValueError),
        ("sub_bins", 10**18, "1000000000000000000; at most", ValueError),
        ("n_pooled", COUNTS * 0 + 2**62, "`sub_bins`; at most", ValueError),
        ("n_pooled", COUNTS * 0 + 1.5, "float64", TypeError),
        ("counts", COUNTS * 1j, "complex128", TypeError),
        ("counts", COUNTS.astype(str), "<U21", TypeError),
        ("trial_starts", np.array(["a"] * 6), "<U1", TypeError),
    ]
]

FILES = [
    Row("no such file", lambda tmp: spikecdl.read(tmp / "x.nwb"), "x.nwb", FileNotFoundError),
    Row(
        "text called .nwb",
        lambda tmp: spikecdl.read(written(tmp, b"spikes")),
        "file.nwb; not an HDF5 file",
    ),
    Row("empty file", lambda tmp: spikecdl.read(written(tmp, b"")), "file.nwb; not an HDF5 file"),
    Row("not HDF5", lambda tmp: spikecdl.read_nwb(written(tmp, b"spikes")), "file.nwb; HDF5"),
    Row(
        "cut short", lambda tmp: spikecdl.read_nwb(nwb(tmp, 9000)), "cut.nwb; damaged or cut short"
    ),
    Row("no units table", lambda tmp: spikecdl.read_nwb(hdf5(tmp, "intervals")), "file.h5; units"),
    Row(
        "units without spikes",
        lambda tmp: spikecdl.read_nwb(hdf5(tmp, "units")),
        "file.h5; spike_times",
    ),
    Row(
        "npz without counts",
        lambda tmp: spikecdl.read(npz(tmp, rate=[1.0])),
        "file.npz; `counts`; 'rate'",
    ),
    Row(
        "npz of NaN",
        lambda tmp: spikecdl.read(npz(tmp, counts=with_value(np.nan))),
        "file.npz; nan; trial 1; unit 0; bin 3",
    ),
    Row(
        "npz of objects",
        lambda tmp: spikecdl.read(npz(tmp, counts=np.array([None, 1]))),
        "file.npz",
    ),
    Row("folder of nothing", lambda tmp: spikecdl.read(tmp), "cannot be read: it is none of; Phy"),
    Row("no model", lambda tmp: load(tmp), "no model; model.safetensors", FileNotFoundError),
    Row(
        "model with a flipped bit",
        lambda tmp: damaged_model(tmp, -3),
        "model.safetensors; damaged; another copy",
    ),
    Row("model cut short", lambda tmp: damaged_model(tmp, 0, 100), "model.safetensors; damaged"),
    Row("checkpoint taken for a model", checkpoint_as_model, "c.safetensors; checkpoint; `resume`"),
    Row("checkpoint cut short", damaged_checkpoint, "c.safetensors; damaged"),
    Row("checkpoint of another fit", other_fit, "`checkpoint`; another fit; remove it"),
    Row(
        "results over the data",
        lambda tmp: spikecdl.write_nwb(tmp / "cut.nwb", spikecdl.read(nwb(tmp))),
        "cut.nwb; data come from; elsewhere",
    ),
]

SIMULATIONS = [
    Row("unknown shape", lambda: simulate(templates=["sine"]), "`shape` (='sine'); square"),
    Row("events that do not fit", lambda: simulate(n_events=99), "99 events; do not fit; lower"),
    Row("negative gap", lambda: simulate(gap=-0.1), "`gap` (=-0.1)"),
    Row("more than a spike per sub-bin", lambda: simulate(baseline=2e3), "`baseline`; 2000; Hz"),
    Row(
        "spikes of a signal",
        lambda: place_spikes(simulate("gaussian", n_trials=2)),
        "`counts`; real-valued",
    ),
]


KINDS = {"fits": FITS, "recordings": RECORDINGS, "binned": BINNED, "simulations": SIMULATIONS}


def check(row: Row, *given: Path) -> None:
    """One sentence or two, on one line, that say what is wrong."""
    words = "".join(rf"(?=.*{re.escape(part)})" for part in row.words.split("; "))
    with refused(row.error, rf"(?i)\A{words}.{{1,499}}\Z", row.what):
        row.call(*given)


@pytest.mark.parametrize("kind", KINDS)
def test_values(kind):
    for row in KINDS[kind]:
        check(row)


def test_files(tmp_path):
    for number, row in enumerate(FILES):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(row, folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu():
    with pytest.raises(ValueError, match=r"`device` \(='cuda'\).*'cpu' or 'auto'"):
        fit(device="cuda")
