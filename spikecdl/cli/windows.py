"""Options that say which windows of a recording are meant, and the counts they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, SpikeTrains

_SHOWN = 10  # units listed in an error

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Recording: NWB, npz, a Phy folder, or a format that Neo reads."
    ),
]
Pool = Annotated[
    bool, typer.Option("--pool-trials", help="Sum the trials of a unit into one count series.")
]
Align = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Column of times that windows are relative to; needs --window."
    ),
]
Window = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="START STOP",
        help="Edges of the windows in seconds, relative to --align or the start of each trial. "
        "Default: whole trials.",
    ),
]
Units = Annotated[
    str | None, typer.Option(metavar="IDS", help="Units to take, as 3,7,12. Default: all.")
]
Trials = Annotated[
    str | None,
    typer.Option(
        metavar="QUERY",
        help="Trials to take, by their columns, as \"split == 'train'\". Default: all.",
    ),
]
Table = Annotated[
    str, typer.Option(metavar="NAME", help="Table of intervals whose rows are the trials.")
]


@dataclass(frozen=True)
class Windows:
    """Which windows to take of a recording."""

    pool: bool = False
    align: str | None = None
    window: tuple[float, float] | None = None
    units: str | None = None
    trials: str | None = None
    table: str = "trials"

    def count(
        self, data: SpikeTrains | BinnedSpikes, bin_size: float | None
    ) -> tuple[BinnedSpikes, BinnedSpikes]:
        """Return counts as they are to be fitted, and those of single trials."""
        from spikecdl.data import SpikeTrains

        if isinstance(data, SpikeTrains):
            if bin_size is None:
                raise ValueError(
                    "`bin` (=None) must be given, in seconds; `spikecdl inspect` suggests one"
                )
            single = data.bin(
                bin_size,
                align=self.align,
                window=self.window,
                units=_chosen(self.units, data.unit_ids),
                trials=self.trials,
                table=self.table,
            )
        else:
            single = self._of_binned(data, bin_size)
        return (single.pool() if self.pool else single), single

    def _of_binned(self, data: BinnedSpikes, bin_size: float | None) -> BinnedSpikes:
        """Take units of data that are binned already."""
        given = {"align": self.align, "window": self.window, "trials": self.trials}
        given["table"] = self.table if self.table != "trials" else None
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"`{name}` (={value!r}) needs spike times; the file holds bins")
        if bin_size is not None and abs(bin_size / data.bin_size - 1) > 1e-6:
            raise ValueError(
                f"`bin` (={bin_size:g}) must be {data.bin_size:g}, or left out: the file holds "
                "bins of that size"
            )
        chosen = _chosen(self.units, data.unit_ids)
        if chosen is None:
            return data
        return data.select(units=[data.unit_ids.index(unit) for unit in chosen])

    def described(self) -> dict[str, Any]:
        """Return what was asked for, for the summary."""
        return {
            "pool_trials": self.pool,
            "align": self.align,
            "window": None if self.window is None else list(self.window),
            "units": self.units,
            "trials": self.trials,
            "table": self.table,
        }


def _chosen(text: str | None, known: Sequence[int | str]) -> list[int | str] | None:
    """Return the units named in a list separated by commas."""
    if text is None:
        return None
    by_name = {str(unit): unit for unit in known}
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        some = [*list(by_name)[:_SHOWN], *(["..."] if len(by_name) > _SHOWN else [])]
        raise ValueError(
            f"`units` (={text!r}) must name units of the recording, which are {', '.join(some)}"
        )
    return [by_name[name] for name in names]
