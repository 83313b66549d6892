"""Processes that share a fit: each takes some windows, and sums go through all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


class Processes:
    """One process, which takes all windows.

    Examples
    --------
    >>> Processes().part(7)
    slice(0, 7, None)
    """

    rank, size = 0, 1

    def part(self, n_windows: int) -> slice:
        """Return the windows of this process."""
        return self.share(n_windows)

    def share(self, n_parts: int) -> slice:
        """Return the parts of this process, of which there may be none."""
        edges = [n_parts * rank // self.size for rank in (self.rank, self.rank + 1)]
        return slice(*edges)

    def fill(self, *values: np.ndarray) -> None:
        """Fill in what the other processes have computed, where this one has left zeros.

        No two have computed the same numbers, so that none is rounded.
        """

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over processes, the same in each."""
        return values

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest over processes, the same in each."""
        return values

    def whole(self, part: Tensor, n_windows: int) -> Tensor:
        """Return the parts of all processes along the first axis, the same in each."""
        return part


ALONE = Processes()


class ProcessGroup(Processes):
    """The processes of the group that torch.distributed knows; see `current_processes`."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def part(self, n_windows: int) -> slice:
        """Return the windows of this process; ValueError if there are more processes."""
        if n_windows < self.size:
            raise ValueError(
                f"{self.size} processes cannot share {n_windows} windows; start at most "
                f"{n_windows} (--nproc-per-node)"
            )
        return super().part(n_windows)

    def fill(self, *values: np.ndarray) -> None:
        for each in (some for some in values if some.size):
            dist.all_reduce(torch.from_numpy(each))

    def total(self, values: Tensor) -> Tensor:
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        return self._reduced(values, dist.ReduceOp.MAX)

    def whole(self, part: Tensor, n_windows: int) -> Tensor:
        everyone = part.new_zeros(n_windows, *part.shape[1:])
        everyone[self.part(n_windows)] = part
        return self.total(everyone)

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        # on the CPU, which every group can do
        shared = values.detach().to("cpu", copy=True).contiguous()
        dist.all_reduce(shared, operation)
        return shared.to(values.device)


def current_processes() -> Processes:
    """Return the processes that there are: those of a group that has begun, or this one."""
    begun = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return ProcessGroup() if begun else Processes()


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
