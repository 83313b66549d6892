"""Read spikes from tables, of pandas or files of text; write results as tables of MATLAB."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import Decomposition, SpikeTrains
from spikecdl.data.times import check_columns
from spikecdl.files import existing, reading, replacing
from spikecdl.validation import plain

if TYPE_CHECKING:
    import pandas as pd


def from_table(table: pd.DataFrame, *, observed: Any = None, trials: Any = None) -> SpikeTrains:
    """Return the spikes in a long table: one row per spike, with the columns ``unit`` and ``time``.

    Times are in seconds of the recording; they are sorted within each unit, duplicates are kept.
    Other columns (amplitudes, ...) are left out.

    Parameters
    ----------
    table : DataFrame
    observed, trials
        As in `SpikeTrains.from_arrays`.

    Raises
    ------
    ValueError
        If a column is missing or a unit is not named; if there is a column ``trial``, as times are
        then likely to be relative to trials.

    Examples
    --------
    >>> import pandas as pd
    >>> from_table(pd.DataFrame({"unit": ["a", "b", "a"], "time": [0.4, 0.2, 0.1]}))
    SpikeTrains(2 units, 3 spikes, 0 to 0.4 s)
    """
    check_columns("spikes", table, "unit", "time")
    if "trial" in table:
        raise ValueError(
            "the table of spikes has a column 'trial'; add the start of its trial to each time, "
            "drop the column, and give `trials`, a table with start_time and stop_time"
        )
    if table["unit"].isna().any():
        raise ValueError("the table of spikes has rows without a unit; drop them, or name the unit")
    times = {plain(unit): rows.to_numpy() for unit, rows in table.groupby("unit")["time"]}
    more: dict[str, Any] = {"source": "table", "sort": True, "duplicates": "keep"}
    return SpikeTrains.from_arrays(times, observed=observed, trials=trials, **more)


def read_table(path: str | os.PathLike[str]) -> SpikeTrains:
    """Read a text file with a row for each spike: its unit, and its time in seconds.

    Columns are separated by tabs, commas, semicolons or blanks.  A first line may name them; there
    may then be others, which are left out.  Without names there are two, of which that of units
    holds whole numbers, or names.

    Raises
    ------
    ValueError
        If it is no such file, or does not say which column is which.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "spikes.txt")
    >>> _ = path.write_text("1 0.25\\n2 0.5\\n1 0.75\\n")
    >>> read_table(path)
    SpikeTrains(2 units, 3 spikes, 0 to 0.75 s)
    """
    import pandas as pd

    path = existing(path)
    with reading(path, "a table of spikes"):
        lines = _first_lines(path)
        separator = _separator(lines)
        if separator is None:
            raise ValueError("its lines do not have columns for the unit and the time of a spike")
        named = _has_names(lines[0].split(separator))
        sep = r"\s+" if separator == " " else separator
        table = pd.read_csv(path, sep=sep, header=0 if named else None, skipinitialspace=True)
        if named:
            return _spikes(table.rename(columns=lambda name: str(name).strip().lower()), path)
        whole = [_may_be_units(table[column]) for column in table]
        if sum(whole) != 1:
            raise ValueError(
                "either of its two columns may be that of units; name them in a first line: "
                f"unit{separator}time"
            )
        table.columns = ["unit", "time"] if whole[0] else ["time", "unit"]
        return _spikes(table, path)


def is_table(path: Path) -> bool:
    """Return whether a file is a table of spikes, in text."""
    if path.suffix.lower() not in (".csv", ".dat", ".tsv", ".txt") or not path.is_file():
        return False
    lines = _first_lines(path)
    return path.suffix.lower() == ".csv" or _separator(lines) is not None


def _spikes(table: pd.DataFrame, path: Path) -> SpikeTrains:
    return replace(from_table(table), source=str(path))


def _first_lines(path: Path, most: int = 100) -> list[str]:
    """Return the first lines of a file that are not empty, if they are text."""
    try:
        with path.open(encoding="utf-8") as file:
            return [line.strip() for line in itertools.islice(file, most) if line.strip()]
    except UnicodeDecodeError:
        return []


def _separator(lines: list[str]) -> str | None:
    """Return what separates the columns: two of numbers, or any that are named unit and time."""
    for separator in ("\t", ",", ";", " "):
        rows = [line.split(None if separator == " " else separator) for line in lines]
        widths = {len(row) for row in rows}
        if len(rows) >= 3 and len(widths) == 1 and (widths == {2} or _has_names(rows[0])):
            return separator
    return None


def _has_names(row: list[str]) -> bool:
    return {"unit", "time"} <= {name.strip().strip('"').lower() for name in row}


def _may_be_units(column: pd.Series) -> bool:
    """Return whether values are whole numbers that repeat, or names."""
    if column.dtype.kind not in "iuf":
        return True
    return bool((column % 1 == 0).all()) and not column.is_unique


def write_mat(path: str | Path, parts: Decomposition) -> Path:
    """Write templates, events and rates to a file that MATLAB and GNU Octave load.

    Its variables are ``templates`` (template, channel, bin), ``rate`` and ``counts`` (trial, unit,
    bin) in Hz and spikes, ``baseline`` (trial, unit) in Hz, ``times`` (left edges of bins, in s),
    ``bin_size`` (s), ``unit_ids``, ``trial_ids``, and ``events``, a struct with a column for each
    of `Decomposition.events`, whose numbers of templates begin at 0.

    Parameters
    ----------
    path : str or Path
        File to write, which ends in ``.mat``; replaced if it exists.
    parts : Decomposition
        Made by ``model.decompose(counts)``.

    Raises
    ------
    ValueError
        If the path does not end in ``.mat``.
    """
    from scipy.io import savemat

    target, counts = Path(path), parts.counts
    if target.suffix != ".mat":
        raise ValueError(f"`path` (={str(path)!r}) must end in .mat")
    columns = {name: _column(values.to_list()) for name, values in parts.events().items()}
    values = {
        "templates": parts.templates,
        "rate": parts.rate,
        "counts": counts.counts,
        "baseline": parts.baseline,
        "times": counts.times,
        "bin_size": counts.bin_size,
        "unit_ids": _column(counts.unit_ids),
        "trial_ids": _column(counts.trial_ids),
        "events": columns,
    }
    with replacing(target) as unfinished, open(unfinished, "wb") as file:
        savemat(file, values, do_compression=True)
    return target


def _column(values: Sequence[Any]) -> np.ndarray:
    """Return numbers, or a cell array of text."""
    is_text = any(isinstance(value, str) for value in values)
    return np.array([str(v) for v in values], object) if is_text else np.array(values)
