"""Many cases in few tests: settings that meet in pairs, and tables of what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest


def pairwise(names: Sequence, *pairs: Sequence) -> list[tuple]:
    """Cases of every name with both values of up to four other things.

    Two cases for each name.  With four names, any two values of different things meet as well.
    """
    masks = (0, 1, 2, 3)  # bits of the number of a name that flip the value
    cases = []
    for number, name in enumerate(names):
        for first in (0, 1):
            flips = [(number & mask).bit_count() % 2 for mask in masks]
            values = [pair[first ^ flip] for pair, flip in zip(pairs, flips, strict=False)]
            cases.append((name, *values))
    return cases


@contextmanager
def refused(
    error: type[Exception] | tuple[type[Exception], ...], match: str, what: object
) -> Iterator[None]:
    """Like `pytest.raises`, for one of many things in a test: failures say which it was."""
    try:
        yield
    except error as caught:
        if not re.search(match, str(caught)):
            pytest.fail(f"{what!r}: {caught}")
    else:
        pytest.fail(f"{what!r} was not refused")
