"""How many threads torch uses: small problems are solved faster by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
    before = torch.get_num_threads()
    if size < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
