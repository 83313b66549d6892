"""Fits of counts that lie in a file, in parts: the same numbers, and little memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import ENVIRONMENT
from fits import quick, same_bits, some_counts

from spikecdl import BinnedSpikes, History, Poisson, Unrolled, write_counts
from spikecdl.config import LAYOUTS
from spikecdl.conversion import baseline_rates, observe
from spikecdl.model.families import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")

PART = "spikecdl.model.observations.PART"
MODELS = {
    **{family: {"family": family} for family in sorted(FAMILIES)},
    **{name: {"trainer": name} for name in ("unrolled", "implicit")},
    "untied": {"family": "binomial", "trainer": Unrolled(n_unrolled=20, tied=False)},
    "joint": {"layout": "joint"},
    "groups": {"penalty": "group_l1"},
    "noise": {"penalty_weight": None},
    "window": {"baseline": (0.0, 40.0)},
    "rates": {"baseline": [1.0, 1.0]},
    "history": {"history": 5, "drift": 200.0},
    "history of groups": {"history": History(5, common=True), "penalty": "group_l1"},
    "history of channels": {"history": 5, "layout": "joint"},
    "history, unrolled": {"history": 5, "drift": 200.0, "trainer": "unrolled"},
}
each_model = pytest.mark.parametrize("name", sorted(MODELS))


def counts_for(name: str) -> BinnedSpikes:
    """Return counts that suit a model, with bins that were not observed."""
    family, layout = (
        MODELS[name].get(key, default)
        for key, default in (("family", "poisson"), ("layout", "shared"))
    )
    counts = some_counts(family, layout)
    mask = np.ones(counts.shape, bool)
    mask[0, :, 60:], mask[3, 1, :20] = False, False
    return BinnedSpikes.from_array(counts.counts, mask=mask, sub_bins=counts.sub_bins)


def numbers(counts: BinnedSpikes, name: str) -> dict[str, np.ndarray]:
    """Return all that a model learns of counts and says of them."""
    model = quick(**MODELS[name]).fit(counts)
    parts = model.decompose(counts)
    return {
        "templates": model.templates_,
        "baseline": model.baseline_,
        "weight": np.array(model.penalty_weight_),
        "loss": np.array([record["loss"] for record in model.history_]),
        "codes": model.transform(counts),
        "mean": model.predict(counts),
        "score": np.array(model.score(counts)),
        "rate": parts.rate,
        "explained": parts.deviance_explained_per_unit,
    }


@each_model
def test_parts_are_as_good_as_the_whole(name, monkeypatch):
    """Sums round in another order: all agrees but for that."""
    counts = counts_for(name)
    whole = numbers(counts, name)
    monkeypatch.setattr(PART, 700)  # three trials of one template
    for key, value in numbers(counts, name).items():
        np.testing.assert_allclose(value, whole[key], rtol=2e-3, atol=2e-3, err_msg=key)


@each_model
def test_pieces_of_windows_are_as_good_as_the_whole(name, monkeypatch):
    counts = counts_for(name)
    model = quick(**MODELS[name]).fit(counts)
    whole, pieces = model.decompose(counts), model.decompose(counts)
    explained, totals = (
        whole.deviance_explained_per_unit,
        model._fitted_problem(counts).data.totals(),
    )
    problem, found = model._fitted_problem(counts), model._encode(model._fitted_problem(counts))
    mean = problem.mean(model._dictionary(), *found)
    each = {name: getattr(whole, name) for name in ("rate", "contributions")}
    monkeypatch.setattr(PART, 33)  # a part of a window
    in_pieces = problem.mean(model._dictionary(), *found)
    torch.testing.assert_close(in_pieces, mean, rtol=1e-5, atol=1e-6)
    for name, value in each.items():
        np.testing.assert_allclose(getattr(pieces, name), value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pieces.deviance_explained_per_unit, explained, rtol=1e-5)
    data = model._fitted_problem(counts).data
    np.testing.assert_allclose(data.totals(), totals, rtol=1e-12)
    baseline = baseline_rates(counts, LAYOUTS[model.layout], data, data.baseline)
    monkeypatch.undo()
    np.testing.assert_allclose(
        baseline, baseline_rates(counts, LAYOUTS[model.layout], data, data.baseline), rtol=1e-6
    )


@each_model
def test_counts_in_a_file_give_the_same_bits(name, tmp_path, monkeypatch):
    counts = counts_for(name)
    stored = write_counts(tmp_path / "counts.h5", counts)
    monkeypatch.setattr(PART, 700)
    here = numbers(counts, name)
    for key, value in numbers(stored, name).items():
        assert same_bits(value, here[key]), key


def test_a_fit_in_parts_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(PART, 700)
    counts, file = counts_for("poisson"), tmp_path / "state"
    whole = quick(penalty_weight=None, n_epochs=4).fit(counts)
    quick(penalty_weight=None, n_epochs=1).fit(counts, checkpoint=file)
    model = quick(penalty_weight=None, n_epochs=4).fit(counts, checkpoint=file, resume=True)
    assert same_bits(model.templates_, whole.templates_)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_counts_that_are_wrong_are_named_in_any_part(layout, monkeypatch):
    y = np.zeros((5, 3, 40), int)
    y[3, 1, 7], y[4, 2, 0] = 2, 5
    monkeypatch.setattr(PART, 100)
    message = r"count 2 of unit 1, trial 3, bin 7 is outside .* n_trials \(=1\)"
    with pytest.raises(ValueError, match=message):
        observe(
            BinnedSpikes.from_array(y),
            FAMILIES["binomial"](),
            LAYOUTS[layout],
            "learned",
            torch.device("cpu"),
        )


def test_observations_share_the_memory_of_the_counts(monkeypatch):
    monkeypatch.setattr(PART, 100)
    counts = some_counts()
    data = observe(counts, Poisson(), LAYOUTS["shared"], "learned", torch.device("cpu")).rows()
    assert np.shares_memory(data.y.numpy(), counts.counts)
    assert data.y.dtype == torch.int64
    _, part = next(data.parts())
    assert part.y.dtype == torch.float32


MEMORY = """
import resource, sys
import numpy as np
import spikecdl
from spikecdl.model import observations

def kilobytes(name):
    return int(open("/proc/self/status").read().split(name + ":")[1].split()[0])

observations.PART = int(sys.argv[2])
y = np.random.default_rng(0).poisson(0.01, (50, 2, 10_000)).astype(np.int16)
y[:, 0, 5000:5010] += 2
counts = spikecdl.write_counts(sys.argv[1], spikecdl.BinnedSpikes.from_array(y))
del y
given = {"trainer": "alternating", "n_epochs": 1, "baseline": [0.01, 0.01]}
model = spikecdl.DCEA(1, 10, random_state=0, **given)
model.fit(counts[:1]).score(counts[:1])  # code is compiled, threads are there
bound = kilobytes("VmData") * 1024 + 24 * counts.counts.size
resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
model.fit(counts).score(counts)
print(model.history_[-1]["n_events"])
observations.PART = 2**14
open("/proc/self/clear_refs", "w").write("5")  # forget the peak
before = kilobytes("VmRSS")
assert model.predict(counts).nbytes == 8 * counts.counts.size
used = (kilobytes("VmHWM") - before) * 1024 / counts.counts.size
assert used < 12, used
"""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
WHOLE = pytest.param(2**30, False, marks=pytest.mark.slow)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("part", "fits"), [(2**16, True), WHOLE])
def test_a_fit_needs_memory_for_parts_only(tmp_path, part, fits):
    """Of a million bins, in 24 bytes for each, which are too few for all at once.

    What is predicted, 8 bytes for each bin, takes hardly more than that.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path / "counts.h5"), str(part)],
        env={**ENVIRONMENT, **ONE_THREAD, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == fits, done.stderr
    assert not fits or int(done.stdout) >= 50
