"""Options that several commands share, and the part of a recording that they select."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from spikecdl.validation import counted, one_of, seconds

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, SpikeTrains
    from spikecdl.model.covariates import History as HistoryFilter

_SHOWN = 10  # units listed in an error
# options that need spike times
_OF_TIMES = ("align", "window", "trials", "table", "events", "within")
_WINDOWS = ("pool_trials", *(name for name in _OF_TIMES if name != "trials"))


class Picture(str, Enum):
    """Formats of figures."""

    PNG = "png"
    PDF = "pdf"
    SVG = "svg"


#: Headings of the help, in its order; options without one are under the last.
DATA, WINDOWS, MODEL, TRAINING, OUTPUT = "Data", "Windows", "Model", "Training", "Output"
_HEADINGS = ("Arguments", DATA, WINDOWS, MODEL, TRAINING, OUTPUT, "Options")


class Grouped(TyperCommand):
    """Command with many options, which its help shows in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _HEADINGS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            is_argument = parameter.param_type_name == "argument"
            heading = getattr(parameter, "rich_help_panel", None) or _HEADINGS[-1]
            if record is not None:
                groups[_HEADINGS[0] if is_argument else heading].append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def option(
    metavar: str, help: str, *names: str, group: str | None = None, values: str = "", **more: Any
) -> Any:
    """Describe an option that takes a value; a shell completes those of ``values``."""
    more |= {"autocompletion": _completion(values), "rich_help_panel": group}
    return typer.Option(*names, metavar=metavar, help=help, **more)


def flag(name: str, help: str, group: str | None = None) -> Any:
    """Describe an option that takes no value."""
    return typer.Option(name, help=help, rich_help_panel=group)


def argument(metavar: str, help: str, values: str = "") -> Any:
    """Describe an argument; a file or folder must be there."""
    complete = _completion(values)
    return typer.Argument(metavar=metavar, help=help, callback=_existing, autocompletion=complete)


def _completion(values: str) -> Callable[[str], list[str]] | None:
    """Return what lists the values that begin with what was typed; None without values."""

    def beginning(incomplete: str) -> list[str]:
        return [value for value in values.split() if value.startswith(incomplete)]

    return beginning if values else None


def _existing(value: Any) -> Any:
    """Return the value of an argument; ValueError if it is a path that leads nowhere.

    That is said here, before torch is imported.
    """
    for path in value if isinstance(value, list) else [value]:
        if isinstance(path, Path) and not path.exists():
            raise ValueError(f"there is no file or folder {str(path)!r}")
    return value


Out = Annotated[
    Path, option("FOLDER", "Folder for the results; created if it is missing.", group=OUTPUT)
]
Overwrite = Annotated[
    bool, flag("--overwrite", "Replace what an earlier run has written to --out.", group=OUTPUT)
]
Json = Annotated[bool, flag("--json", "Print JSON and nothing else.", group=OUTPUT)]
Format = Annotated[
    Picture,
    option("NAME", "Of the figures: png; pdf or svg, whose text can be edited.", group=OUTPUT),
]
Device = Annotated[
    str,
    option(
        "NAME", "auto (a GPU if there is one), cpu or cuda.", group=TRAINING, values="auto cpu cuda"
    ),
]
Seed = Annotated[
    int, option("NUMBER", "Random seed: same seed, same result.", min=0, group=TRAINING)
]
Family = Annotated[
    str,
    option(
        "NAME",
        "binomial, poisson, negative_binomial or gaussian; parameters after a colon, as in "
        "gaussian:scale=2.5 or negative_binomial:shape=3.",
        group=MODEL,
        values="binomial poisson negative_binomial gaussian",
    ),
]
File = Annotated[
    Path, argument("FILE", "Recording: NWB, npz, a Phy folder, or any format that Neo reads.")
]
Files = Annotated[
    list[Path],
    argument("FILE", "Recordings: NWB, npz, Phy folders, or any format that Neo reads."),
]
Bin = Annotated[
    str | None,
    option(
        "SECONDS",
        "Bin size, as in 0.005 or 5ms. Required unless the file holds bins.",
        group=DATA,
    ),
]
History = Annotated[
    float | None,
    option(
        "SECONDS",
        "How far back a unit's own spikes change its rate. Single trials only.",
        group=MODEL,
    ),
]
HistorySign = Annotated[
    str,
    option(
        "NAME",
        "negative: a spike can only lower the rate; both: raise it, too (bursts).",
        group=MODEL,
        values="negative both",
    ),
]
HistoryCommon = Annotated[
    bool,
    flag("--history-common", "One history filter for all units, not one for each.", group=MODEL),
]
Drift = Annotated[
    float | None,
    option(
        "SECONDS", "Time between the knots of a slow log rate. Single trials only.", group=MODEL
    ),
]
Trainer = Annotated[
    str,
    option(
        "NAME",
        "alternating; marginal, with events summed out; unrolled, as in the paper; implicit, its "
        "limit of infinitely many layers; or auto: marginal for counts, except for many bins of "
        "pooled trials, else alternating.",
        group=TRAINING,
        values="auto alternating marginal unrolled implicit",
    ),
]
FollowLinks = Annotated[
    bool, flag("--follow-links", "Read data that an HDF5 file keeps in other files.", group=DATA)
]
Pool = Annotated[
    bool, flag("--pool-trials", "Sum the counts of each unit over trials.", group=WINDOWS)
]
Align = Annotated[
    str | None,
    option("COLUMN", "Column of times to align windows to; needs --window.", group=WINDOWS),
]
Window = Annotated[
    tuple[float, float] | None,
    option(
        "START STOP",
        "Edges of the windows in seconds, relative to --align or the start of each trial. "
        "Default: whole trials.",
        group=WINDOWS,
    ),
]
Units = Annotated[
    str | None, option("IDS", "Units to use, as in 3,7,12. Default: all.", group=DATA)
]
Trials = Annotated[
    str | None,
    option(
        "QUERY",
        "Trials to use, by their columns: \"split == 'train'\". Default: all.",
        group=WINDOWS,
    ),
]
OwnWindows = Annotated[
    bool,
    flag(
        "--own-windows",
        "Use the windows that options name, or whole single trials, in place of those of the fit.",
        group=WINDOWS,
    ),
]
Layout = Annotated[
    str,
    option(
        "NAME",
        "shared: all units have the same waveforms, each unit its own events; joint: each unit has "
        "its own waveforms, all units the same events.",
        group=MODEL,
        values="shared joint",
    ),
]
Table = Annotated[
    str, option("NAME", "Table of intervals whose rows are the trials.", group=WINDOWS)
]

Nonnegative = Annotated[
    str | None,
    option(
        "YES,NO",
        "Keep templates from falling below zero: yes, or a value for each template, as in yes,no.",
        group=MODEL,
        values="yes no",
    ),
]
MostEvents = Annotated[
    int | None,
    option(
        "NUMBER",
        "Events kept in a window: those that gain most, or with marginal training the most "
        "probable ones. Default: all.",
        min=1,
        group=MODEL,
    ),
]
Events = Annotated[
    str | None,
    option(
        "TABLE.COLUMN",
        "Let events begin only near the times in a column of a table, as in trials.cue, or of a "
        "series in the NWB file, as in stimulus/presentation/tones; needs --within.",
        group=WINDOWS,
    ),
]
Within = Annotated[
    tuple[float, float] | None,
    option(
        "START STOP",
        "When events may begin, in seconds after the times of --events.",
        group=WINDOWS,
    ),
]


def past(seconds: float | None, sign: str, common: bool) -> HistoryFilter | None:
    """Return the history that options ask for, if any."""
    from spikecdl.model.covariates import History

    return None if seconds is None else History(seconds, sign=sign, common=common)


def numbers(name: str, text: str, example: str, kind: Callable[[str], Any] = float) -> list[Any]:
    """Return the numbers in a list separated by commas or blanks; ``example`` shows one."""
    try:
        return [kind(word) for word in text.replace(",", " ").split() or [text]]
    except ValueError:
        whole = "whole " * (kind is int)
        raise ValueError(f"`{name}` (={text!r}) must be {whole}numbers, as in {example}") from None


def per_template(name: str, text: str, known: Collection[str], *n_templates: int) -> list[str]:
    """Return the values of an option, one for all templates or one for each; else ValueError."""
    values = [one_of(name, each, known) for each in text.split(",")]
    for number in n_templates:
        if len(values) not in (1, number):
            raise ValueError(
                f"`{name}` (={text!r}) has {len(values)} values for "
                f"{counted(number, 'template')}; give one for each, or one for all"
            )
    return values


def penalty(name: str, sign: str, n_templates: int) -> Any:
    """Return the penalty that options ask for."""
    from spikecdl.model.penalties import PENALTIES, SIGNS

    signs = per_template("sign", sign, SIGNS, n_templates)
    kind = PENALTIES[one_of("penalty", name, PENALTIES)]
    return kind(sign=signs if len(set(signs)) > 1 else signs[0])


class Selected(NamedTuple):
    """What a file holds, the counts selected from it, and the same before pooling."""

    data: SpikeTrains | BinnedSpikes
    counts: BinnedSpikes
    single_trials: BinnedSpikes


@dataclass(frozen=True)
class Selection:
    """The units, trials and windows of a recording that a command uses."""

    pool_trials: bool = False
    align: str | None = None
    window: tuple[float, float] | None = None
    units: str | None = None
    trials: str | None = None
    table: str = "trials"
    follow_links: bool = False
    events: str | None = None
    within: tuple[float, float] | None = None

    def like(self, fitted: Mapping[str, Any]) -> tuple[Selection, list[str]]:
        """Return the selection with the windows of a fit, unless an option names others.

        ``fitted`` are a model's ``windows_``; and the lines that say what is as in the fit, and
        what is not.
        """
        usual = Selection()
        known = {name: fitted.get(name, getattr(usual, name)) for name in _WINDOWS}
        named = {n: getattr(self, n) for n in _WINDOWS if getattr(self, n) != getattr(usual, n)}
        kept = {n: v for n, v in known.items() if n not in named and v != getattr(usual, n)}
        other = [name for name, value in named.items() if value != known[name]]
        lines = [f"as in the fit: {_options(kept)}"] if kept else []
        if other:
            before = _options({name: known[name] for name in other})
            lines.append(f"not as in the fit ({before}): {_options({n: named[n] for n in other})}")
        return replace(self, **kept), lines

    def read(self, file: Path) -> SpikeTrains | BinnedSpikes:
        """Return what a file holds."""
        from spikecdl import io

        return io.read(file, follow_links=self.follow_links)

    def count(self, data: SpikeTrains | BinnedSpikes, bin_size: str | None) -> Selected:
        """Count spikes in bins; data that are binned already keep their bins.

        Raises ValueError if ``bin_size`` is missing or differs from the bins of the data, or if an
        option needs spike times that the data do not have.
        """
        from spikecdl.data import SpikeTrains

        units = _named_units(self.units, data.unit_ids)
        if (self.events is None) != (self.within is None):
            raise ValueError(
                f"`events` (={self.events!r}) and `within` (={self.within!r}) need each other; "
                "give both, or none"
            )
        if not isinstance(data, SpikeTrains):
            for name in _OF_TIMES:
                value = getattr(self, name)
                if value != getattr(type(self), name):
                    raise ValueError(
                        f"`{name}` (={value!r}) needs spike times; the file holds bins"
                    )
            asked = data.bin_size if bin_size is None else seconds("bin", bin_size)
            if abs(asked / data.bin_size - 1) > 1e-6:
                raise ValueError(
                    f"`bin` (={bin_size}) must be {data.bin_size:g}, or left out: the file holds "
                    "bins of that size"
                )
            single = data
            if units is not None:
                single = data.select(units=[data.unit_ids.index(unit) for unit in units])
        elif bin_size is None:
            raise ValueError(
                "`bin` (=None) must be given, in seconds; `spikecdl inspect` suggests one"
            )
        else:
            windows = {"align": self.align, "window": self.window, "trials": self.trials}
            single = data.bin(bin_size, units=units, table=self.table, **windows)  # type: ignore
            if self.events is not None and self.within is not None:
                single = single.near(_times(data, self.events), *self.within)
                near = {"events": self.events, "within": self.within}
                single = replace(single, windows={**(single.windows or {}), **near})
        return Selected(data, single.pool() if self.pool_trials else single, single)

    def described(self) -> dict[str, Any]:
        """Return the options as values that JSON can hold."""
        pairs = {name: getattr(self, name) for name in ("window", "within")}
        return {**vars(self), **{name: pair and list(pair) for name, pair in pairs.items()}}


def _options(values: Mapping[str, Any]) -> str:
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
    from pandas.api.types import is_numeric_dtype

    from spikecdl.io import read_nwb_times

    if "/" in text:
        return read_nwb_times(data.source, text)
    table, _, column = text.partition(".")
    known = [
        f"{name}.{of}"
        for name, rows in data.tables.items()
        for of in rows
        if is_numeric_dtype(rows[of])
    ]
    if text not in known:
        raise ValueError(
            f"`events` (={text!r}) must name a table and a column of times, which are "
            f"{', '.join(known) or 'none'}; or the path of a series or column in the NWB file, as "
            "in stimulus/presentation/tones"
        )
    return data.tables[table][column].dropna().to_numpy(dtype=float)


def _named_units(text: str | None, known: Sequence[int | str]) -> list[int | str] | None:
    """Return the units named in a list separated by commas."""
    if text is None:
        return None
    by_name = {str(unit): unit for unit in known}
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or not by_name.keys() >= set(names):
        some = ", ".join(list(by_name)[:_SHOWN]) + ", ..." * (len(by_name) > _SHOWN)
        raise ValueError(f"`units` (={text!r}) must name units of the recording, which are {some}")
    return [by_name[name] for name in names]
