"""Growth of memory with depth and recordings, and of time with the number and length of windows."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import workloads
from learning import default_round, perturbed, take
from machine import peak_memory
from problems import Coding, observations, true_templates, use_small_parts
from timing import Row, Settings, exponent, interleaved
from yardstick import Training

from spikecdl import DCEA, BinnedSpikes, SpikeTrains


def memory(settings: Settings) -> Iterator[Row]:
    """Peak memory of a process that takes a step of training on W1, at several depths."""
    depths = (5, 10, 20) if settings.quick else (25, 50, 100)
    for name in _TRAINED:
        peaks = [_in_a_process(name, depth, settings.quick) for depth in depths]
        growth = (peaks[-1] - peaks[0]) / (depths[-1] - depths[0])
        at = ", ".join(f"{peak:.0f}" for peak in peaks)
        yield Row(
            f"peak memory against depth, {name}, W1",
            note=f"{at} MB at {', '.join(map(str, depths))} iterations",
            **{name: f"{growth:.2f} MB/iteration"},
        )


def recordings(settings: Settings) -> Iterator[Row]:
    """Growth of the peak memory of a process that bins and fits, with the bins of a recording."""
    trials = (2, 4) if settings.quick else (8, 16)
    n_bins = (trials[1] - trials[0]) * _UNITS * (_QUICK_BINS if settings.quick else _BINS)
    for where in ("memory", "a file"):
        peaks = [_in_a_process(where, number, settings.quick) for number in trials]
        growth = (peaks[1] - peaks[0]) * 2**20 / n_bins
        at = ", ".join(f"{peak:.0f}" for peak in peaks)
        yield Row(
            f"peak memory of a fit against bins, counts in {where}",
            package=f"{growth:.1f} bytes/bin",
            note=f"{at} MB at {' and '.join(map(str, trials))} trials; counts and pages of the file"
            " included",
        )


def slopes(settings: Settings) -> Iterator[Row]:
    """Power of the time of a debiased round in the number and in the length of windows."""
    windows, bins = ((2, 4), (500, 1000)) if settings.quick else ((15, 30, 60), (1500, 3000, 6000))
    for what, sizes, counts in (
        ("number of windows", windows, [workloads.w1(n_windows=size) for size in windows]),
        ("bins of a window", bins, [workloads.w1(n_bins=size) for size in bins]),
    ):
        yield Row(
            f"time of a debiased round against {what}, W1",
            package=f"power {_power(sizes, counts, settings):.2f}",
            note=f"of {', '.join(map(str, sizes))}",
        )


def _power(sizes: Sequence[int], counts: Sequence[BinnedSpikes], settings: Settings) -> float:
    """Return p of time = constant * size ** p."""
    calls = {}
    for size, drawn in zip(sizes, counts, strict=True):
        data = observations(drawn, known_baseline=False)
        start = perturbed(true_templates(drawn), 0.9, seed=0)
        calls[str(size)] = partial(take, default_round(data), start, data.baseline)
    seconds = interleaved(calls, settings.repeats)
    return exponent(sizes, list(seconds.values()))


def _in_a_process(name: str, number: int, quick: bool) -> float:
    """Return the peak memory in MB of a process that trains with that many iterations or trials."""
    command = [sys.executable, __file__, name, str(number), *["quick"] * quick]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def _yardstick(counts: BinnedSpikes, depth: int) -> None:
    """Take a gradient step through that many iterations."""
    problem = Coding.of(counts)
    Training(problem.yardstick, problem.templates, depth).step()


def _package(counts: BinnedSpikes, depth: int) -> None:
    """Take a round whose coding stops after that many iterations."""
    data, templates = observations(counts, known_baseline=False), true_templates(counts)
    step = replace(default_round(data), max_iter=depth)
    take(step, perturbed(templates, 0.9, seed=0), data.baseline, tol=1e-9)


def _fit_recording(n_trials: int, n_bins: int, in_a_file: bool) -> None:
    """Bin and fit a recording of 5 Hz, with two bursts in every trial of a unit."""
    rng, duration = np.random.default_rng(0), n_bins * _BIN
    times = []
    for _ in range(_UNITS):
        bursts = rng.uniform(0, duration, (n_trials, 2)) + duration * np.arange(n_trials)[:, None]
        burst = (bursts.reshape(-1, 1) + rng.normal(0, 0.006, (bursts.size, 12))).ravel()
        single = rng.uniform(0, n_trials * duration, rng.poisson(5 * n_trials * duration))
        every = np.concatenate([burst, single])
        times.append(np.sort(every[(every > 0) & (every < n_trials * duration)]))
    edges = duration * np.arange(n_trials + 1)
    spikes = SpikeTrains.from_arrays(times, trials=np.stack([edges[:-1], edges[1:]], axis=1))
    with tempfile.TemporaryDirectory() as folder:
        counts = spikes.bin(_BIN, file=Path(folder, "counts.h5") if in_a_file else None)
        DCEA(1, 0.05, "poisson", n_epochs=1, random_state=0).fit(counts)


_BIN, _BINS, _QUICK_BINS, _UNITS = 0.001, 20_000, 2_000, 50  # seconds; bins of a trial
_TRAINED = {"yardstick": _yardstick, "package": _package}

if __name__ == "__main__":
    measured, number, *options = sys.argv[1:]
    if measured in _TRAINED:
        size = {"n_windows": 4, "n_bins": 1000} if options else {}
        _TRAINED[measured](workloads.w1(**size), int(number))
    else:
        warnings.simplefilter("ignore")  # one epoch does not converge
        if options:
            use_small_parts()
        _fit_recording(int(number), _QUICK_BINS if options else _BINS, measured == "a file")
    print(peak_memory())
