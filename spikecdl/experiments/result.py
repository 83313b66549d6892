"""What an experiment is given, and what comes out of it: a table, figures and a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def _silent(message: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Options:
    """How an experiment is to be run.

    Parameters
    ----------
    quick : bool
        A small version, under two minutes on two cores, that shows the same things.
    random_state : int
        Seed of the first repetition; the next ones follow it.
    data : Path, optional
        Folder of recordings, for experiments on recordings.
    say : callable
        Told what goes on, a line at a time.
    """

    quick: bool = False
    random_state: int = 0
    data: Path | None = None
    say: Callable[[str], None] = field(default=_silent, repr=False)


@dataclass(frozen=True, eq=False)
class Result:
    """What came out of an experiment.

    Parameters
    ----------
    table : DataFrame
        One row for everything that was measured.
    figures : mapping of str to Figure
        By the stem of their files.
    settings : mapping
        What was run, as plain values, seeds among them.
    findings : sequence of str
        What the table shows, in sentences with their numbers.
    more : mapping of str to DataFrame
        Other tables, by the stem of their files.
    """

    table: pd.DataFrame
    figures: Mapping[str, Figure]
    settings: Mapping[str, Any]
    findings: Sequence[str]
    more: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the tables as CSV, figures as PNG, and summary.json with what else is known."""
        from spikecdl.files import write_json

        for name, table in {"table": self.table, **self.more}.items():
            table.to_csv(folder / f"{name}.csv", index=False)
        for name, figure in self.figures.items():
            figure.savefig(folder / f"{name}.png", dpi=150)
        summary = {**about, "settings": dict(self.settings), "findings": list(self.findings)}
        write_json(folder / "summary.json", summary)


def median_and_range(values: Iterable[float], digits: int = 2) -> str:
    """Return the median of values, and in brackets the smallest and the largest.

    Examples
    --------
    >>> median_and_range([0.1, 0.3, 0.2])
    '0.20 (0.10 to 0.30)'
    """
    import numpy as np

    array = np.array(list(values), dtype=float)
    middle, low, high = np.median(array), array.min(), array.max()
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
