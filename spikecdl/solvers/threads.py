"""How torch uses threads: small problems are solved faster by one, many alike by one each."""

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
SMALL = 2_000_000  # observed numbers times templates


@contextmanager
def for_size(size: int) -> Iterator[None]:
    """Let torch use one thread while a small problem is solved, and what it used before after.

    Parameters
    ----------
    size : int
        Observed numbers times templates; what is not below `SMALL` is left alone.

    Examples
    --------
    >>> with for_size(1000):
    ...     torch.get_num_threads()
    1
    """
    with _at_most(1 if size < SMALL else torch.get_num_threads()):
        yield


def on_each(function: Callable[[T], R], items: Iterable[T], device: torch.device) -> Iterator[R]:
    """Yield what a function, run without gradients, makes of each item, in order.

    On the CPU each of torch's threads works on an item of its own, which is quicker than to share
    out every operation where operations are short.  Products have the caller's precision.

    Parameters
    ----------
    function : callable
        Of an item; uses tensors on the device.
    items : iterable
    device : torch.device

    Raises
    ------
    Exception
        Whatever ``function`` raises.

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
    with _at_most(1), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(call, items)


@contextmanager
def _at_most(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_SERIAL = 200_000  # numbers
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
        Numbers to be worked on; with few of them one thread does all the work.

    Raises
    ------
    Exception
        Whatever ``work`` raises.
    """
    threads = min(n_threads(), n_windows)
    if threads <= 1 or size < _SERIAL:
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
