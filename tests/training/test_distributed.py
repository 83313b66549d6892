"""Processes that share the windows of a fit agree with one that has all of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from commands import ENVIRONMENT, FIT, SIMULATE, run, succeeded
from populations import population

from spikecdl import L1, Alternating, GroupL1, History, Implicit, Marginal, Poisson, Unrolled, load
from spikecdl.model.covariates import Covariates
from spikecdl.model.history import Drift
from spikecdl.solvers.events import Events
from spikecdl.solvers.parallel import Processes, current_processes, joined
from spikecdl.training import (
    Fraction,
    Observations,
    Problem,
    UniversalThreshold,
    with_covariates,
)

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch has no gloo")

POPULATIONS = {"one window": 1, "windows": 3, "dense": 3}
TRAINERS = {
    "alternating": Alternating(),
    "l1": Alternating(debias=False),
    "unrolled": Unrolled(n_unrolled=8, batch_size=4),
    "implicit": Implicit(batch_size=4),
    "history": Alternating(),
}


def problem(name):
    """Seven windows of Poisson counts in double precision: shares of 2, 2 and 3."""
    draw = torch.Generator().manual_seed(0)
    t = torch.linspace(0, 1, 15, dtype=torch.float64)
    waves = torch.stack([t * (1 - t), torch.sin(2 * torch.pi * t)])[:, None]
    waves = waves / waves.flatten(1).norm(dim=1)[:, None, None]
    window = torch.arange(7).repeat_interleave(6)
    place = (25 * torch.arange(6) + torch.randint(0, 10, (7, 6), generator=draw)).reshape(-1)
    amplitude = 5 + torch.rand(42, generator=draw, dtype=torch.float64)
    events = Events(window, torch.arange(2).repeat(21), place, amplitude)
    baseline = torch.full((7, 1, 1), -0.5, dtype=torch.float64)
    y = Poisson().sample(events.add_to(baseline.expand(7, 1, 160), waves), draw)[:, None]
    mask = torch.rand(y.shape, generator=draw) > 0.1
    data = Observations(y, mask, Poisson(), baseline[:, None], True)
    penalty = GroupL1() if name == "unrolled" else L1()
    weight = Fraction(0.1) if name == "l1" else UniversalThreshold()
    if name == "history":
        unit = torch.tensor([0, 1, 2, 0, 1, 1, 0])[:, None, None, None]
        past, drift = History(5).basis(1.0), Drift(300.0, 0.0, 1120.0)
        covariates = Covariates(y, unit, 160.0 * torch.arange(7.0)[:, None, None, None], 1.0, past)
        data = replace(data, covariates=replace(covariates, drift=drift))
    seed = torch.Generator().manual_seed(8)
    return with_covariates(Problem(data, 2, 15, penalty, weight, 2, seed))


def learn(name):
    """Return what a fit learns, with the last record of its history."""
    learned = TRAINERS[name].fit(problem(name), None, lambda state: None)
    record = learned.history[-1]
    tensors = {
        "templates": learned.tensors["templates"],
        "baseline": learned.state["baseline"],
        **learned.unit_tensors,
    }
    return {**tensors, "record": torch.tensor(list(record.values()), dtype=torch.float64)}


def learn_population(name):
    """Return what a fit of a population learns with its events summed out."""
    counts = population(10, 6.0, peak=40.0, n_events=5, n_windows=POPULATIONS[name])
    y = torch.tensor(counts.counts)[:, None]
    if name == "dense":  # sampled
        y = y[:, :, :1]
    mask = torch.ones_like(y, dtype=torch.bool)
    baseline = torch.full((len(y), 1, y.shape[2], 1), -3.9, dtype=torch.float64)
    data = Observations(y, mask, Poisson(), baseline, True)
    seed = torch.Generator().manual_seed(1)
    given = Problem(data, 2, 50, L1(), UniversalThreshold(), 2, seed)
    trainer = Marginal(n_starts=2, overlap=3 if name == "dense" else None)
    return trainer.fit(given, None, lambda state: None).tensors


def begin(rank, size, store, work, *arguments):
    """Join a group of processes and do some work in it."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    torch.set_num_threads(1)
    work(rank, *arguments)
    dist.barrier()
    dist.destroy_process_group()


def too_many():
    with pytest.raises(ValueError, match="processes cannot share") as error:
        current_processes().part(2)
    return str(error.value)


def work(rank, folder, size):
    """Write what a process of two or of three learns to a file."""
    if size == 2:
        found = {name: learn_population(name) for name in POPULATIONS}
    else:
        found = {name: learn(name) for name in TRAINERS} | {"too many": too_many()}
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What the processes of a group learn, by the size of the group; each is started once."""
    groups = {}

    def learned(size):
        if size not in groups:
            folder = tmp_path_factory.mktemp("processes")
            about = (size, folder / "store", work, folder, size)
            mp.start_processes(begin, about, size, start_method="spawn")
            files = [folder / f"{rank}.pt" for rank in range(size)]
            groups[size] = [torch.load(file, weights_only=True) for file in files]
        return groups[size]

    return learned


def test_processes_agree_with_one(shared):
    found = shared(3)
    for name in TRAINERS:
        expected = learn(name)
        assert expected["record"][0] == 2
        for key, value in expected.items():
            torch.testing.assert_close(found[0][name][key], value, rtol=1e-10, atol=1e-10)
            for other in found[1:]:
                assert torch.equal(other[name][key], found[0][name][key])


def test_populations_are_shared_to_the_same_bits(shared):
    alone = {name: learn_population(name) for name in POPULATIONS}
    assert float(alone["one window"]["event_rates"].sum()) > 1e-4  # it has events
    for found in shared(2):
        for name, expected in alone.items():
            assert expected.keys() == found[name].keys()
            for key, value in expected.items():
                if name == "dense":  # begins with alternating training
                    torch.testing.assert_close(found[name][key], value, rtol=1e-6, atol=1e-6)
                else:
                    assert torch.equal(found[name][key], value), (name, key)


def test_more_processes_than_windows(shared):
    for found in shared(3):
        assert found["too many"] == (
            "3 processes cannot share 2 windows; start at most 2 (--nproc-per-node)"
        )


def test_one_process_has_all():
    processes = current_processes()
    assert type(processes) is Processes
    assert processes.part(5) == slice(0, 5)
    values = torch.arange(5.0)
    assert processes.total(values) is values
    assert processes.largest(values) is values
    assert processes.whole(values, 5) is values
    with joined() as inside:
        assert inside.size == 1


def test_torchrun_of_the_command_line(tmp_path):
    recording = tmp_path / "made.nwb"
    succeeded(run(*SIMULATE, "--out", recording))
    fit = ["fit", recording, *FIT, "--folds", "2", "--out"]
    alone = succeeded(run(*fit, tmp_path / "one")).out
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "spikecdl", *fit, tmp_path / "two"],
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, out in {"one": alone, "two": done.stdout}.items():
        assert out.count("events of each template") == 1
        assert (tmp_path / name / "report.html").exists()
    models = (load(tmp_path / name).templates_ for name in ("one", "two"))
    torch.testing.assert_close(*map(torch.from_numpy, models), rtol=1e-5, atol=1e-6)
