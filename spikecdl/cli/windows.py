"""The recordings of a command: which files, units, trials and windows, and their counts in bins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spikecdl.cli.options import Links
from spikecdl.data.times import query
from spikecdl.validation import listed, plain, seconds

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
    from spikecdl.estimator import DCEA

# Options that need spike times, and those that travel in the model.
_OF_TIMES = ("align", "window", "trials", "table", "events", "within", "signals")
_WINDOWS = ("pool_trials", "align", "window", "table", "events", "within", "signals")
_OF_THE_FIT = {"versions", "family", "layout"}  # parts of a summary, the same for all recordings


class Selected(NamedTuple):
    """What a file holds, the counts selected from it, and the same before pooling."""

    data: SpikeTrains | BinnedSpikes
    counts: BinnedSpikes
    single_trials: BinnedSpikes

    @property
    def pooled(self) -> bool:
        """Whether trials were summed."""
        return self.counts is not self.single_trials


@dataclass(frozen=True, kw_only=True)
class Selection(Links):
    """The units, trials and windows of a recording that a command uses.

    Data
    ----
    units : IDS
        Units to use, as in 3,7-12, or by their columns: "location == 'ca1'". Default: all.

    Windows
    -------
    pool_trials
        Sum the counts of each unit over trials.
    align : COLUMN
        Column of times to align windows to; needs --window.
    window : START STOP
        Edges of the windows in seconds, relative to --align or the start of each trial. Default:
        whole trials.
    trials : QUERY
        Trials to use, by their columns: "split == 'train'". Default: all.
    table : NAME
        Table of intervals whose rows are the trials.
    events : TABLE.COLUMN
        Let events begin only near the times in a column of a table, as in trials.cue, or of a
        series in the NWB file, as in stimulus/presentation/tones; needs --within.
    within : START STOP
        When events may begin, in seconds after the times of --events.
    signals : NAMES
        Series of the NWB file on which rates may depend, as in speed,position; `inspect` lists
        them. Used if the evidence is for it.
    """

    units: str | None = None
    pool_trials: bool = False
    align: str | None = None
    window: tuple[float, float] | None = None
    trials: str | None = None
    table: str = "trials"
    events: str | None = None
    within: tuple[float, float] | None = None
    signals: str | None = None

    def like(self, fitted: Mapping[str, Any]) -> tuple[Selection, list[str]]:
        """Return the selection with the windows of a fit, unless an option names others.

        ``fitted`` are a model's ``windows_``; and the lines that say what is as in the fit, and
        what is not.
        """
        usual = asdict(Selection())
        known = {name: fitted.get(name, usual[name]) for name in _WINDOWS}
        named = {n: getattr(self, n) for n in _WINDOWS if getattr(self, n) != usual[n]}
        kept = {n: v for n, v in known.items() if n not in named and v != usual[n]}
        other = {name: known[name] for name, value in named.items() if value != known[name]}
        lines = [f"as in the fit: {_on_a_line(kept)}"] if kept else []
        if other:
            now = _on_a_line({name: named[name] for name in other})
            lines.append(f"not as in the fit ({_on_a_line(other)}): {now}")
        return replace(self, **kept), lines

    def count(self, data: SpikeTrains | BinnedSpikes, bin_size: str | None) -> Selected:
        """Count spikes in bins; data that are binned already keep their bins.

        Raises ValueError if ``bin_size`` is missing or differs from the bins of the data, or if an
        option needs spike times that the data do not have.
        """
        from spikecdl.data import SpikeTrains
        from spikecdl.io import read_nwb_signal

        units = None if self.units is None else _chosen_units(self.units, data)
        if (self.events is None) != (self.within is None):
            raise ValueError(
                f"`events` (={self.events!r}) and `within` (={self.within!r}) need each other; "
                "give both, or none"
            )
        if self.signals and self.pool_trials:
            raise ValueError(f"`signals` (={self.signals!r}) needs single trials; do not pool them")
        if not isinstance(data, SpikeTrains):
            self._check_bins(data, bin_size)
            single = data
            if units is not None:
                single = data.select(units=[data.unit_ids.index(unit) for unit in units])
        elif bin_size is None:
            raise ValueError(
                "`bin_size` (=None) must be given, in seconds; `spikecdl inspect` suggests one"
            )
        else:
            windows = {"align": self.align, "window": self.window, "trials": self.trials}
            single = data.bin(bin_size, units=units, table=self.table, **windows)  # type: ignore
            if self.events is not None and self.within is not None:
                single = single.near(_times(data, self.events), *self.within)
            for name in self.signals.split(",") if self.signals else ():
                found = read_nwb_signal(data.source, name.strip(), follow_links=self.follow_links)
                single = single.with_signals(found)
            names = ("events", "within", "signals")
            more = {name: x for name in names if (x := getattr(self, name)) is not None}
            single = replace(single, windows={**(single.windows or {}), **more})
        return Selected(data, single.pool() if self.pool_trials else single, single)

    def _check_bins(self, data: BinnedSpikes, bin_size: str | None) -> None:
        usual = Selection()
        for name in _OF_TIMES:
            if (value := getattr(self, name)) != getattr(usual, name):
                raise ValueError(f"`{name}` (={value!r}) needs spike times; the file holds bins")
        asked = data.bin_size if bin_size is None else seconds("bin_size", bin_size)
        if abs(asked / data.bin_size - 1) > 1e-6:
            raise ValueError(
                f"`bin_size` (={bin_size}) must be {data.bin_size:g}, or left out: the file holds "
                "bins of that size"
            )


class Found(NamedTuple):
    """One of several recordings, and what the model of all finds in it."""

    data: SpikeTrains | BinnedSpikes
    model: DCEA
    parts: Decomposition


@dataclass(frozen=True)
class Recordings:
    """The recordings of a fit by name, with their files and what is selected of each.

    ``whole`` is what the model is fitted to; see `spikecdl.concatenate`.
    """

    files: Mapping[str, Path]
    each: Mapping[str, Selected]
    whole: Selected

    @classmethod
    def read(
        cls, selection: Selection, files: Sequence[Path], bin_size: str | None, layout: str
    ) -> Recordings:
        """Read files, and select from each; ValueError if they do not go together."""
        named = _names(files)
        each = {n: selection.count(selection.read(file), bin_size) for n, file in named.items()}
        if len(each) == 1:
            (whole,) = each.values()
            return cls(named, each, whole)
        from spikecdl.data import concatenate

        single = concatenate({name: one.single_trials for name, one in each.items()}, layout)
        counts = single.pool() if selection.pool_trials else single

        def alike(one: Selected) -> Selected:
            binned = (one.counts, one.single_trials)
            return Selected(one.data, *(replace(b, sub_bins=single.sub_bins) for b in binned))

        each = {name: alike(one) for name, one in each.items()}
        return cls(named, each, Selected(counts, counts, single))

    def found(self, model: DCEA) -> dict[str, Found]:
        """Return what a model finds in each of several recordings, by name."""
        from spikecdl.data import of_recording

        found = {}
        for name, one in self.each.items() if len(self.each) > 1 else ():
            its_own = of_recording(model, name, one.counts)
            found[name] = Found(one.data, its_own, its_own.decompose(one.counts))
        return found

    def summary(self, found: Mapping[str, Found]) -> dict[str, Any]:
        """Summarize what was found in each recording, as values that JSON can hold."""
        from spikecdl.report.summary import score_summary

        each = {}
        for name, (_, model, parts) in found.items():
            about = score_summary(model, parts, self.files[name])
            each[name] = {key: about[key] for key in about if key not in _OF_THE_FIT}
        return {"recordings": each} if each else {}


def _names(files: Sequence[Path]) -> dict[str, Path]:
    """Name recordings by the stems of their files, with folders as far as they tell them apart."""
    places = [file.resolve() for file in files]
    for file, place in zip(files, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"`files` names {str(file)!r} twice; give each recording once")
    paths = [place.with_suffix("").parts for place in places]
    depth = 1
    while len({path[-depth:] for path in paths}) < len(paths) and depth < max(map(len, paths)):
        depth += 1
    names = ["-".join(path[-depth:]) for path in paths]
    if len(set(names)) < len(names):  # they differ in their suffix only
        names = [place.name for place in places]
    return dict(zip(names, files, strict=True))


def _on_a_line(values: Mapping[str, Any]) -> str:
    """Return options as they are written on a command line."""
    texts = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value in (None, False):
            texts.append(f"no {option}")
        elif value is True:
            texts.append(option)
        else:
            parts = [f"{edge:g}" for edge in value] if isinstance(value, tuple) else [str(value)]
            texts.append(" ".join([option, *parts]))
    return " ".join(texts)


def _times(data: SpikeTrains, text: str) -> Any:
    """Return the times, in seconds, in a column or in a series of the file that an option names."""
    from spikecdl.io import read_nwb_times

    if "/" in text:
        return read_nwb_times(data.source, text)
    table, _, column = text.partition(".")
    numbers = {name: rows.select_dtypes("number") for name, rows in data.tables.items()}
    known = [f"{name}.{of}" for name, rows in numbers.items() for of in rows]
    if text not in known:
        raise ValueError(
            f"`events` (={text!r}) must name a table and a column of times, which are "
            f"{', '.join(known) or 'none'}; or the path of a series or column in the NWB file, as "
            "in stimulus/presentation/tones"
        )
    return data.tables[table][column].dropna().to_numpy(dtype=float)


def _chosen_units(text: str, data: SpikeTrains | BinnedSpikes) -> list[int | str]:
    """Return units named in a list of ids and ranges of ids, or selected by their columns."""
    columns = getattr(data, "units", None)
    if columns is not None and re.search(r"[=<>]| in ", text):
        return [plain(unit) for unit in query("units", text, columns)]
    names = [name.strip() for name in text.split(",") if name.strip()]
    found = [_in_range(name, data.unit_ids) for name in names]
    if not names or not all(found):
        raise ValueError(
            f"`units` (={text!r}) must name units of the recording, which are "
            f"{listed(data.unit_ids, 10)}"
        )
    return list(dict.fromkeys(chain.from_iterable(found)))


def _in_range(name: str, known: Sequence[int | str]) -> list[int | str]:
    """Return the units of this name, or with numbers in this range, which may lack some."""
    edges = re.fullmatch(r"(\d+)-(\d+)", name)
    if name in map(str, known) or not edges:
        return [unit for unit in known if str(unit) == name]
    first, last = map(int, edges.groups())
    return [unit for unit in known if str(unit).isdecimal() and first <= int(unit) <= last]
