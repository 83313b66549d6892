"""Interleaved timing of calls, and the rows of the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BURST = 0.05  # shortest measurement in seconds; quick calls are repeated


class Skip(Exception):
    """A measurement is not possible here; the message says what is missing."""


@dataclass(frozen=True)
class Settings:
    """Arguments of the command line."""

    repeats: int
    seeds: int
    quick: bool
    figures: Path | None = None  # folder that receives figures


@dataclass(frozen=True)
class Row:
    """One line of the table; entries that do not apply are empty."""

    what: str
    yardstick: str = ""
    package: str = ""
    ratio: str = ""
    note: str = ""


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int, warm: bool = True
) -> dict[str, np.ndarray]:
    """Return the seconds of each call (repeat,), measured in turn.

    With ``warm``, each is called once before, so that compilation and first reads are not timed.
    """
    if warm:
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(_burst(call))
    return {name: np.array(values) for name, values in seconds.items()}


def compared(
    what: str, seconds: Mapping[str, np.ndarray], per_call: int = 1, note: str = "", by: str = ""
) -> Row:
    """Return the row that compares the yardstick with the package, in medians per iteration.

    The ratio is the median of the ratios of neighbouring measurements, with its range.  ``by`` is
    the name of the package's call, by default "package".
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
    """Return p of time = constant * size ** p, by least squares of the logarithms of medians."""
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
