"""Times of contenders that take turns, and the rows of the table they end up in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BURST = 0.05  # seconds that a measurement lasts at the least: quick calls are repeated


class Skip(Exception):
    """What is to be measured is not here; the message says what is missing."""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    repeats: int
    seeds: int
    quick: bool
    figures: Path | None = None  # folder that receives figures


@dataclass(frozen=True)
class Row:
    """One line of the table; what does not apply is empty."""

    what: str
    yardstick: str = ""
    package: str = ""
    ratio: str = ""
    note: str = ""


def interleaved(
    contenders: Mapping[str, Callable[[], object]], repeats: int, warm: bool = True
) -> dict[str, np.ndarray]:
    """Return the seconds of a call of each contender, (repeat,); they take turns.

    ``warm``: call each once before, so that what is compiled or read on first use is not timed.
    """
    if warm:
        for call in contenders.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            seconds[name].append(_burst(call))
    return {name: np.array(values) for name, values in seconds.items()}


def duel(
    what: str, seconds: Mapping[str, np.ndarray], per_call: int = 1, note: str = "", by: str = ""
) -> Row:
    """Return the row of the yardstick against the package, medians per iteration of a call.

    The ratio is the median of the ratios of neighbouring measurements, with its range.  ``by``
    names the contender, if it is not called "package".
    """
    slow, fast = seconds["yardstick"], seconds[by or "package"]
    ratios = slow / fast
    return Row(
        what,
        duration(np.median(slow) / per_call),
        duration(np.median(fast) / per_call),
        f"{number(np.median(ratios))}x ({number(ratios.min())}-{number(ratios.max())})",
        note,
    )


def exponent(sizes: Sequence[int], seconds: Sequence[np.ndarray]) -> float:
    """Return p of time = constant * size ** p, by least squares in logarithms of medians."""
    medians = [np.median(values) for values in seconds]
    return float(np.polyfit(np.log(sizes), np.log(medians), 1)[0])


def duration(seconds: float) -> str:
    """Write seconds to three digits, in s or ms."""
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1e3 * seconds)} ms"


def number(value: float) -> str:
    """Write a positive number to three digits, without an exponent."""
    digits = max(0, 2 - int(np.floor(np.log10(value)))) if value > 0 else 0
    return f"{value:,.{digits}f}"


def _burst(call: Callable[[], object]) -> float:
    calls, began, passed = 0, time.perf_counter(), 0.0
    while passed < _BURST:
        call()
        calls, passed = calls + 1, time.perf_counter() - began
    return passed / calls
