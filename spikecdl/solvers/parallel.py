"""How work is divided: among threads by the size of a problem, and among processes of a fit.

A small problem has one thread, a large one a thread per window or item.  Processes that share a fit
take some windows each, and sums go through all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from threading import current_thread, main_thread
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from threadpoolctl import ThreadpoolController
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")
COSTLY = 10  # work per number, where it is more than to read it

if hasattr(os, "register_at_fork"):  # torch would wait for its threads, which are not inherited
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def for_size(size: int, small: int = 2_000_000) -> AbstractContextManager[None]:
    """Let torch and BLAS use one thread for a small problem, and restore the numbers after it.

    ``size`` is the number of observations times templates; only below ``small``, anything changes.
    Other Python threads keep that of torch, so that fits can run side by side.

    Examples
    --------
    >>> with for_size(1000):
    ...     torch.get_num_threads()
    1
    """
    return nullcontext() if size >= small else _one_thread()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread in this Python thread; `torch.set_num_threads` is for all.

    So is the number of BLAS, whose other threads spin for some time after each product, however
    small: the main thread sets that, too.
    """
    torch.get_num_threads()  # a new Python thread takes its number at its first call
    with _libraries(current_thread() is main_thread()).limit(limits=1):
        yield


@lru_cache
def _libraries(with_blas: bool) -> ThreadpoolController:
    found = ThreadpoolController()
    return found if with_blas else found.select(user_api="openmp")


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

    def call_alone(item: T) -> R:
        with _one_thread():
            return call(item)

    if kind != "cpu":
        yield from map(call, items)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(call_alone, items)


def in_parallel(work: Callable[[slice], Any], windows: int | slice, size: int) -> None:
    """Call ``work``, compiled code without the interpreter's lock, on slices of the windows.

    ``windows`` are a number of them, or those from one to another.  Fewer than 200,000 numbers to
    read (``size``) are left to one thread; each of several has four slices, so that slow windows do
    not delay the others.  Errors of ``work`` are raised.
    """
    span = slice(0, windows) if isinstance(windows, int) else windows
    n_windows = span.stop - span.start
    threads = min(n_threads(), n_windows)
    if threads <= 1 or size < 200_000:
        work(span)
        return
    parts = min(n_windows, 4 * threads)
    edges = [span.start + n_windows * part // parts for part in range(parts + 1)]
    list(_pool(threads, os.getpid()).map(work, map(slice, edges[:-1], edges[1:])))


def in_parts(work: Callable[[int], None], parts: int | slice, size: int) -> None:
    """Call ``work`` with the number of each part, as `in_parallel` does with slices of them."""
    in_parallel(lambda some: [*map(work, range(some.start, some.stop))], parts, size)


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


class Processes:
    """The processes that share a fit, or one process, which takes all windows.

    Parameters
    ----------
    rank, size : int
        Number of this process, and of all; see `current_processes`.

    Examples
    --------
    >>> Processes().part(7)
    slice(0, 7, None)
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def part(self, n_windows: int) -> slice:
        """Return the windows of this process; ValueError if there are more processes."""
        if n_windows < self.size:
            raise ValueError(
                f"{self.size} processes cannot share {n_windows} windows; start at most "
                f"{n_windows} (--nproc-per-node)"
            )
        return self.share(n_windows)

    def share(self, n_parts: int) -> slice:
        """Return the parts of this process, of which there may be none."""
        edges = [n_parts * rank // self.size for rank in (self.rank, self.rank + 1)]
        return slice(*edges)

    def fill(self, *values: np.ndarray) -> None:
        """Fill in what the other processes have computed, where this one has left zeros.

        No two have computed the same numbers, so that none is rounded.
        """
        for each in values:
            if self.size > 1 and each.size:
                dist.all_reduce(torch.from_numpy(each))

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over processes, the same in each."""
        return self._reduced(values, "SUM")

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest over processes, the same in each."""
        return self._reduced(values, "MAX")

    def whole(self, part: Tensor, n_windows: int) -> Tensor:
        """Return the parts of all processes along the first axis, the same in each."""
        if self.size == 1:
            return part
        everyone = part.new_zeros(n_windows, *part.shape[1:])
        everyone[self.part(n_windows)] = part
        return self.total(everyone)

    def _reduced(self, values: Tensor, operation: str) -> Tensor:
        if self.size == 1:
            return values
        # on the CPU, which every group can do
        shared = values.detach().to("cpu", copy=True).contiguous()
        dist.all_reduce(shared, getattr(dist.ReduceOp, operation))
        return shared.to(values.device)


ALONE = Processes()


def current_processes() -> Processes:
    """Return the processes that there are: those of a group that has begun, or this one."""
    begun = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Processes(dist.get_rank(), dist.get_world_size()) if begun else ALONE


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun has started, if it has, until the end of the context.

    Each computes with the CPU, or a GPU of its own where there is one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield current_processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("gloo")
    try:
        yield current_processes()
        dist.barrier()  # none leaves while others still speak to it
    finally:
        dist.destroy_process_group()
