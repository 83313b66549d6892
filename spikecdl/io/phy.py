"""Read folders that Kilosort writes and Phy curates."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikecdl.data import SpikeTrains
from spikecdl.files import existing, reading, starts_with
from spikecdl.validation import positive

if TYPE_CHECKING:
    import pandas as pd


def read_phy(
    folder: str | os.PathLike[str],
    groups: Sequence[str] | None = ("good",),
    *,
    sample_rate: float | None = None,
) -> SpikeTrains:
    """Read the sorted spikes of a Phy or Kilosort folder.

    Spikes are in ``spike_times.npy`` (samples), their clusters in ``spike_clusters.npy``, or in
    ``spike_templates.npy`` before any curation.  The label of a cluster is its ``group`` in
    ``cluster_group.tsv`` or ``cluster_info.tsv``, or its ``KSLabel`` if it has none.  All columns
    of ``cluster_*.tsv`` files become columns of ``units``, which are named by their cluster ids.
    Times are sorted within each unit; duplicate times are kept.

    Parameters
    ----------
    folder : path_like
    groups : str, sequence of str, or None
        Labels of the clusters to read.  None reads all, as does a folder without labels.
    sample_rate : float, optional
        Samples per second; default: ``sample_rate`` in ``params.py``, which is parsed, never run.

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder or a file is missing or damaged, no sample rate is known, or no cluster has
        such a label.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.save(folder / "spike_times.npy", np.array([300, 600, 900]))
    >>> np.save(folder / "spike_clusters.npy", np.array([7, 2, 7]))
    >>> _ = (folder / "params.py").write_text("sample_rate = 30000.")
    >>> read_phy(folder)
    SpikeTrains(2 units, 3 spikes, 0 to 0.03 s)
    """
    folder = existing(folder)
    with reading(folder, "a Phy folder"):
        samples = _vector(folder, "spike_times.npy")
        curated = (folder / "spike_clusters.npy").exists()
        clusters = _vector(folder, "spike_clusters.npy" if curated else "spike_templates.npy")
        if samples.size != clusters.size:
            raise ValueError(f"{samples.size} spike times, but {clusters.size} clusters of spikes")
        rate = _sample_rate(folder) if sample_rate is None else sample_rate
        positive("sample_rate", rate, "samples per second")
        table = _cluster_table(folder, np.unique(clusters))
        units = _in_groups(table, groups)
        order = np.lexsort((samples, clusters))
        samples, clusters = samples[order], clusters[order]
        low, high = (np.searchsorted(clusters, units.index, side) for side in ("left", "right"))
        return SpikeTrains.from_arrays(
            [samples[a:b] / rate for a, b in zip(low, high, strict=True)],
            unit_ids=units.index.tolist(),
            units=units if len(units.columns) else None,
            clock_rate=rate,
            source=str(folder),
            duplicates="keep",
        )


def _vector(folder: Path, name: str) -> np.ndarray:
    if not (folder / name).exists():
        raise ValueError(f"{name} is missing")
    if not starts_with(folder / name, b"\x93NUMPY"):
        raise ValueError(f"{name} is not an array that NumPy wrote, or cut short")
    with reading(Path(name), "an array"):
        array = np.load(folder / name, allow_pickle=False).ravel()
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integers, not {array.dtype}")
    return array.astype(np.int64)


def _sample_rate(folder: Path) -> float:
    """Find ``sample_rate = <number>`` in params.py without running it."""
    path = folder / "params.py"
    tree = ast.parse(path.read_text(errors="replace")) if path.is_file() else ast.Module([], [])
    for node in tree.body:
        if isinstance(node, ast.Assign) and "sample_rate" in map(ast.unparse, node.targets):
            return float(ast.literal_eval(node.value))
    raise ValueError("params.py with a sample_rate is missing; give `sample_rate`")


def _cluster_table(folder: Path, clusters: np.ndarray) -> pd.DataFrame:
    """Return the columns of all tsv files, one row per cluster that has spikes."""
    import pandas as pd

    table = pd.DataFrame(index=pd.Index(clusters))
    for path in sorted(folder.glob("cluster_*.tsv")):
        with reading(Path(path.name), "a table"):
            part = pd.read_csv(existing(path), sep="\t")
        key = next((name for name in ("cluster_id", "id") if name in part), None)
        if key is None:
            raise ValueError(f"{path.name} has no column cluster_id, only {list(part.columns)}")
        part = part.set_index(key).reindex(clusters)
        table = table.combine_first(part) if len(table.columns) else part
    return table.rename_axis(None)


def _in_groups(table: pd.DataFrame, groups: Sequence[str] | None) -> pd.DataFrame:
    labels = [table[name] for name in ("group", "KSLabel") if name in table]
    if groups is None or not labels:
        return table
    label = labels[0] if len(labels) == 1 else labels[0].fillna(labels[1])
    chosen = table[label.isin([groups] if isinstance(groups, str) else list(groups))]
    if not len(chosen):
        counts = dict(Counter(label.fillna("unlabelled")))
        raise ValueError(f"no cluster is labelled {groups!r}; the labels are {counts}")
    return chosen
