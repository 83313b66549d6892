"""Sequences of populations: what joint templates find, in which time and memory.

Each recording is drawn into a file, and read, fitted and decomposed by a process of its own whose
memory is limited.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from machine import peak_memory
from timing import Row, Settings, Skip, duration

sys.path.append(str(Path(__file__).parents[1]))
from populations import in_a_file

from spikecdl import DCEA, read_counts
from spikecdl.evaluation.metrics import recovery

#: Units, seconds, rates at rest and at the peak (Hz), units that take part, events, GB of memory.
_RECORDINGS = (
    (60, 300.0, 2.0, 20.0, 0.6, 50, 4),
    (60, 300.0, 3.0, 15.0, 0.4, 50, 4),
    (300, 1_200.0, 3.0, 15.0, 0.4, 200, 4),
    (1_000, 10_000.0, 3.0, 15.0, 0.3, 1_667, 8),
)
_QUICK = ((20, 60.0, 2.0, 30.0, 0.6, 20, 4),)
_TOLERANCE = 0.05  # seconds from a true event


def measure(settings: Settings) -> Iterator[Row]:
    """Hits and false events of marginal training, and what it expects of them itself."""
    for units, seconds, rate, peak, part, events, gigabytes in (
        _QUICK if settings.quick else _RECORDINGS
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "counts.h5")
            in_a_file(path, units, seconds, rate, peak, part, events)
            found = _in_a_process(path, gigabytes)
        what = f"population of {units} units, {seconds:g} s, {rate:g} to {peak:g} Hz, {part:.0%}"
        text = f"{found['hits']:.2f} hit, {found['false']:.2f} false"
        note = (
            f"own account {found['own']:.2f} false; {duration(found['seconds'])}, "
            f"{found['memory'] / 1024:.1f} GB with pages of the file"
        )
        yield Row(what, package=text, note=note)


def _in_a_process(path: Path, gigabytes: int) -> dict[str, float]:
    """Return what a process with so much memory finds in a file."""
    command = [sys.executable, __file__, str(path), str(gigabytes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Skip(f"a process with {gigabytes} GB ended with code {done.returncode}")
    return json.loads(done.stdout)


def _found(path: Path) -> dict[str, float]:
    began, counts = time.perf_counter(), read_counts(path)
    model = DCEA(2, 0.5, layout="joint", trainer="marginal", random_state=0).fit(counts)
    parts = model.decompose(counts)
    events = parts.events()
    seconds, score = time.perf_counter() - began, recovery(parts, _TOLERANCE).events
    return {
        "hits": score.hit_rate,
        "false": score.false_alarm_rate,
        "own": float(1 - events["probability"].mean()),
        "seconds": seconds,
        "memory": peak_memory(),
    }


if __name__ == "__main__":
    import resource  # not on Windows

    limit = int(sys.argv[2]) * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")
    print(json.dumps(_found(Path(sys.argv[1]))))
