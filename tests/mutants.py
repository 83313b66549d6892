"""Read damaged and hostile files, each in a process of its own with limits of time and memory.

As a program, because forks and the threads of a test run do not go together: it prints JSON.

    python tests/mutants.py damage N FILE...   damages each file N times in each way, and counts
                                               the outcomes
    python tests/mutants.py read FILE...       the outcome of each file, and the error
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import neo  # noqa: F401  here, so that not every child imports it
import numpy as np
from recordings import assert_same_counts, assert_same_recording

import spikecdl
from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.files import SEAL_LENGTH
from spikecdl.io import read

SECONDS, BYTES = 10.0, 2**30  # limits of one file: time, and memory beyond that of the process
_BIN_SIZE = 0.01

Damage = Callable[[bytearray, np.random.Generator], bytes]


def _flip(content: bytearray, generator: np.random.Generator, within: int) -> bytes:
    for position in generator.integers(0, min(within, len(content)), generator.integers(1, 9)):
        content[position] ^= 1 << int(generator.integers(8))
    return bytes(content)


def flip_in_header(content: bytearray, generator: np.random.Generator) -> bytes:
    """Flip one to eight bits in the first 2 KiB."""
    return _flip(content, generator, 2048)


def flip_anywhere(content: bytearray, generator: np.random.Generator) -> bytes:
    """Flip one to eight bits anywhere."""
    return _flip(content, generator, len(content))


def truncate(content: bytearray, generator: np.random.Generator) -> bytes:
    """Cut the end off."""
    return bytes(content[: int(generator.integers(len(content)))])


def swap_blocks(content: bytearray, generator: np.random.Generator) -> bytes:
    """Exchange two blocks of up to 512 bytes."""
    size = int(generator.choice([8, 64, 512]))
    one, other = (int(s) * size for s in generator.integers(0, len(content) // size, 2))
    first, second = content[one : one + size], content[other : other + size]
    content[one : one + size], content[other : other + size] = second, first
    return bytes(content)


def zero_block(content: bytearray, generator: np.random.Generator) -> bytes:
    """Fill a block of up to 512 bytes with zeros."""
    size = int(generator.choice([8, 64, 512]))
    start = int(generator.integers(len(content) - size))
    content[start : start + size] = bytes(size)
    return bytes(content)


KINDS = (flip_in_header, flip_anywhere, truncate, swap_blocks, zero_block)


def outcome(path: Path, original: SpikeTrains | BinnedSpikes | None = None) -> tuple[str, str]:
    """Read and bin a file in a forked child; return how it ended, and the error.

    "same" or "changed" (as compared with an original), "refused" (an error that names the
    file), "unnamed" (one that does not), "bug" (any other exception), "crash" (a signal), "hang",
    "memory".
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _in_child(write_end, path, original)
    os.close(write_end)
    limit = time.monotonic() + SECONDS
    ended = 0
    while not ended and time.monotonic() < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.001)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read().decode()
    if not ended:
        return "hang", ""
    name, _, error = said.partition("\n")
    return (name, error) if os.WIFEXITED(status) and name else ("crash", str(status))


def _in_child(write_end: int, path: Path, original: SpikeTrains | BinnedSpikes | None) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 4 * BYTES,) * 2)
    error = ""
    try:
        said = _compared(path, original)
    except Exception as raised:
        error = " ".join(f"{type(raised).__name__}: {raised}".split())
        named = str(path) in str(raised)
        is_said = isinstance(raised, ValueError | FileNotFoundError)
        said = ("refused" if named else "unnamed") if is_said else "bug"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    said = "memory" if used * 1024 > BYTES or "MemoryError" in error else said
    os.write(write_end, f"{said}\n{error}"[:4000].encode())
    os._exit(0)


def _compared(path: Path, original: SpikeTrains | BinnedSpikes | None) -> str:
    data = read(path)
    if isinstance(data, SpikeTrains):
        data.bin(_BIN_SIZE)
    if original is None:
        return "read"
    try:
        same = assert_same_recording if isinstance(original, SpikeTrains) else assert_same_counts
        same(original, data)  # type: ignore[arg-type]
    except (AssertionError, AttributeError, TypeError, ValueError):
        return "changed"
    return "same"


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def damaged_files(path: Path, n: int, kind: Damage, folder: Path) -> Iterator[Path]:
    """Yield ``n`` files damaged in this way, one at a time."""
    content = path.read_bytes()
    for i in range(n):
        mutant = folder / f"{kind.__name__}{i}{path.suffix}"
        mutant.write_bytes(kind(bytearray(content), np.random.default_rng(i)))
        yield mutant
        mutant.unlink()


def damaged(path: Path, n: int, kind: Damage) -> Counter[str]:
    """Return how often each outcome came of ``n`` files damaged in this way."""
    original, counts = read(path), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for mutant in damaged_files(path, n, kind, Path(folder)):
            said, error = outcome(mutant, original)
            counts[said] += 1
            if said not in ("refused", "same"):
                print(said, path.name, mutant.name, error, file=sys.stderr)
    return counts


def unsealed(path: Path) -> Path:
    """Take the checksum from a file."""
    path.write_bytes(path.read_bytes()[:-SEAL_LENGTH])
    return path


def in_a_process(*arguments: object) -> Any:
    """Run this program, and return what it found."""
    command = [sys.executable, __file__, *map(str, arguments)]
    paths = [str(Path(__file__).parent), str(Path(spikecdl.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "SPIKECDL_MAX_GB": "0.1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "read":
        found: Any = [outcome(Path(file)) for file in sys.argv[2:]]
    else:
        files, n = map(Path, sys.argv[3:]), int(sys.argv[2])
        found = {f.name: {kind.__name__: damaged(f, n, kind) for kind in KINDS} for f in files}
    print(json.dumps(found))
