"""Work on independent windows, shared among the processor's cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

SMALL = 200_000  # numbers
_PARTS = 4  # per thread, so that slow windows do not hold up the others


def n_threads() -> int:
    """Return how many threads may work: ``OMP_NUM_THREADS``, or the cores of this process."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_parallel(work: Callable[[slice], None], n_windows: int, size: int) -> None:
    """Call ``work`` (which lets go of the interpreter's lock) on slices that cover all windows.

    Parameters
    ----------
    work : callable
    n_windows : int
    size : int
        Numbers to be worked on; for fewer than `SMALL` threads take longer to wake than they save.

    Raises
    ------
    Exception
        Whatever ``work`` raises.
    """
    threads = min(n_threads(), n_windows)
    if threads <= 1 or size < SMALL:
        work(slice(0, n_windows))
        return
    parts = min(n_windows, threads * _PARTS)
    edges = [n_windows * part // parts for part in range(parts + 1)]
    slices = [slice(*pair) for pair in zip(edges, edges[1:], strict=False)]
    for _ in _pool(threads, os.getpid()).map(work, slices):
        pass


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads that wait for work; a forked process, which has none of them, gets its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="spikecdl")
