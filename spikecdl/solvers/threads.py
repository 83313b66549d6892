"""Threads by the size of a problem: one for a small one, one per window or item for a large one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
SMALL = 2_000_000  # observed numbers times templates, below which torch uses one thread
_SERIAL = 200_000  # numbers, below which one thread solves all windows
_PARTS = 4  # per thread, so that slow windows do not delay the others


@contextmanager
def for_size(size: int) -> Iterator[None]:
    """Let torch use one thread for a small problem, and restore the number of threads after it.

    ``size`` is the number of observations times templates; from `SMALL` on, nothing is changed.

    Examples
    --------
    >>> with for_size(1000):
    ...     torch.get_num_threads()
    1
    """
    with _torch_threads(1 if size < SMALL else torch.get_num_threads()):
        yield


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_each(function: Callable[[T], R], items: Iterable[T], device: torch.device) -> Iterator[R]:
    """Yield the result of a function for each item, in order, computed without gradients.

    On the CPU each of torch's threads works on an item of its own, which is faster than to divide
    every short operation among threads.  Products have the caller's precision.  Errors of
    ``function`` are raised.

    Examples
    --------
    >>> [int(n) for n in on_each(torch.sum, [torch.ones(2), torch.ones(3)], torch.device("cpu"))]
    [2, 3]
    """
    kind = device.type
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    def call(item: T) -> R:  # gradients and precision are settings of a thread
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=enabled):
            return function(item)

    if kind != "cpu":
        yield from map(call, items)
        return
    threads = torch.get_num_threads()
    with _torch_threads(1), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(call, items)


def in_parallel(work: Callable[[slice], None], n_windows: int, size: int) -> None:
    """Call ``work``, compiled code without the interpreter's lock, on slices of the windows.

    Few numbers (``size``) are left to one thread.  Errors of ``work`` are raised.
    """
    threads = min(n_threads(), n_windows)
    if threads <= 1 or size < _SERIAL:
        work(slice(0, n_windows))
        return
    parts = min(n_windows, threads * _PARTS)
    edges = [n_windows * part // parts for part in range(parts + 1)]
    list(_pool(threads, os.getpid()).map(work, map(slice, edges[:-1], edges[1:])))


def n_threads() -> int:
    """Return ``OMP_NUM_THREADS``, or else the number of cores of this process."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return a pool of this process; a forked process does not inherit its threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="spikecdl")
