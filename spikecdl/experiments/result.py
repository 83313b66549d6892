"""Options and results of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Options:
    """How to run an experiment.

    Parameters
    ----------
    quick : bool
        Run a small version, under two minutes on two cores, that shows the same things.
    random_state : int
        Seed of the first repetition; each further repetition adds one.
    data : Path, optional
        Folder of recordings, for experiments on recordings.
    say : callable
        Receives progress messages, one line each.
    """

    quick: bool = False
    random_state: int = 0
    data: Path | None = None
    say: Callable[[str], None] = field(default=lambda message: None, repr=False)


@dataclass(frozen=True, eq=False)
class Result:
    """Tables, figures and findings of an experiment.

    Parameters
    ----------
    table : DataFrame
        One row per measured condition.
    figures : mapping of str to Figure
        Figures by file stem.
    settings : mapping
        What was run, as plain values, including the seeds.
    findings : sequence of str
        What the table shows, in sentences with numbers.
    more : mapping of str to DataFrame
        Further tables by file stem.
    """

    table: pd.DataFrame
    figures: Mapping[str, Figure]
    settings: Mapping[str, Any]
    findings: Sequence[str]
    more: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write tables as CSV, figures as PNG, and ``summary.json``, which includes ``about``."""
        from spikecdl.files import write_json

        for name, table in {"table": self.table, **self.more}.items():
            table.to_csv(folder / f"{name}.csv", index=False)
        for name, figure in self.figures.items():
            figure.savefig(folder / f"{name}.png", dpi=150)
        summary = {**about, "settings": dict(self.settings), "findings": list(self.findings)}
        write_json(folder / "summary.json", summary)


def median_and_range(values: Iterable[float], digits: int = 2) -> str:
    """Format the median of values, followed by their range in brackets.

    Examples
    --------
    >>> median_and_range([0.1, 0.3, 0.2])
    '0.20 (0.10 to 0.30)'
    """
    import numpy as np

    array = np.array(list(values), dtype=float)
    middle, low, high = np.median(array), array.min(), array.max()
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
