"""A saved model applied to a file, in windows like those of its fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spikecdl.cli import outputs
from spikecdl.cli.options import Selected, Selection
from spikecdl.validation import listed

if TYPE_CHECKING:
    from spikecdl.data import Decomposition
    from spikecdl.estimator import DCEA

_SHOWN = 10  # units listed


class Applied(NamedTuple):
    """What a saved model finds in a file, and the lines that say how its windows were chosen."""

    model: DCEA
    selection: Selection
    selected: Selected
    parts: Decomposition
    lines: list[str]


def decomposed(
    path: Path, file: Path, selection: Selection, own_windows: bool, device: str
) -> Applied:
    """Select from a file as the fit of a saved model has done, and decompose the counts."""
    from spikecdl.data import SpikeTrains
    from spikecdl.estimator import load

    model = load(path).set_params(device=device)
    data = selection.read(file)
    lines: list[str] = []
    has_times = isinstance(data, SpikeTrains)
    if not own_windows:
        fitted = model.windows_
        if not has_times:  # bins are as they are
            fitted = {name: fitted[name] for name in ("pool_trials",) if name in fitted}
        selection, lines = selection.like(fitted)
    needs_units = model.layout == "joint" or model.unit_tensors_
    if needs_units and selection.units is None and set(model.unit_ids_) < set(data.unit_ids):
        selection = replace(selection, units=",".join(map(str, model.unit_ids_)))
        lines.append(f"units of the fit: {listed(model.unit_ids_, _SHOWN)}")
    with _because("; ".join(lines)):
        selected = selection.count(data, f"{model.bin_size_}s" if has_times else None)
    return Applied(model, selection, selected, model.decompose(selected.counts), lines)


@contextmanager
def _because(reason: str) -> Iterator[None]:
    """Add to an error about windows why they were chosen."""
    try:
        yield
    except ValueError as error:
        if not reason:
            raise
        raise ValueError(f"{error} ({reason}; --own-windows leaves them out)") from error


def scored(
    path: Path, file: Path, selection: Selection, own_windows: bool, device: str
) -> tuple[Selected, Decomposition, dict[str, Any]]:
    """Return what was selected from a file, its decomposition by a saved model, and the summary."""
    from spikecdl.report.summary import score_summary

    found = decomposed(path, file, selection, own_windows, device)
    about: dict[str, Any] = {"command": outputs.command_line(), "model": str(path)}
    about |= {"settings": found.selection.described(), "windows": found.lines}
    scores = score_summary(found.model, found.parts, file)
    return found.selected, found.parts, {**about, **scores}
