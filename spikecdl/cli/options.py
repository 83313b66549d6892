"""Options of commands: each is a field of a dataclass, and a command takes such groups as a whole.

The docstring of a group is its help.  A section of it is a panel of the help ("Parameters": that of
the other options), and an entry describes an option: its field, what is typed, and what it does.
Fields have the names of the arguments that they become, so that errors can name the options.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from spikecdl import validation
from spikecdl.validation import one_of

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, SpikeTrains

#: Panels of the help, in its order.
PANELS = ("Arguments", "Data", "Windows", "Model", "Training", "Output", "Options")
REQUIRED = MISSING  # default of an option that has none


def option(default: Any, name: str | None = None, values: str = "", **limits: Any) -> Any:
    """Return the field of an option of another name or with limits; a shell completes values."""
    metadata = {"name": name, "autocompletion": _completion(values), **limits}
    return field(default=default, metadata=metadata)


def argument(metavar: str, help: str, values: str = "") -> Any:
    """Describe an argument; a file or folder must be there."""
    more: dict[str, Any] = {"autocompletion": _completion(values), "rich_help_panel": PANELS[0]}
    return typer.Argument(metavar=metavar, help=help, callback=_existing, **more)


def _completion(values: str) -> Callable[[str], list[str]] | None:
    """Return what lists the values that begin with what was typed; None without values."""
    if not values:
        return None
    return lambda incomplete: [each for each in values.split() if each.startswith(incomplete)]


def _existing(value: Any) -> Any:
    """Return the value of an argument; ValueError if it is a path that leads nowhere.

    That is said here, before torch is imported.
    """
    for path in value if isinstance(value, list) else [value]:
        if isinstance(path, Path) and not path.exists():
            raise ValueError(f"there is no file or folder {str(path)!r}")
    return value


def add(app: typer.Typer, *commands: Callable[..., None]) -> None:
    """Add commands, whose parameters are arguments and groups of options."""
    for command in commands:
        app.command(cls=Command)(_with_single_options(command))


def _with_single_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command for typer, with a parameter for each option of the groups that it takes."""
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    signature = inspect.signature(command, eval_str=True)
    for name, parameter in signature.parameters.items():
        if is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            parameters += _parameters(parameter.annotation)
        else:
            parameters.append(parameter)

    @wraps(command)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{each.name: values.pop(each.name) for each in fields(group)})
        command(**values)

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    """Yield a parameter for each option of a group, in the order of its docstring."""
    described = _described(group)
    by_name, kinds = {each.name: each for each in fields(group)}, get_type_hints(group)
    for name in dict.fromkeys([*described, *by_name]):
        panel, metavar, help = described.get(name, (PANELS[-1], None, None))
        more = dict(by_name[name].metadata)
        word = more.pop("name", None) or f"--{name.replace('_', '-')}"
        option = typer.Option(word, metavar=metavar, help=help, rich_help_panel=panel, **more)
        default = by_name[name].default
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is REQUIRED else default,
            annotation=Annotated[kinds[name], option],
        )


def _described(group: Any) -> dict[str, tuple[str, str | None, str]]:
    """Return panel, metavar and help of options from the docstrings of a group and its bases."""
    found: dict[str, tuple[str, str | None, str]] = {}
    for base in group.__mro__:
        _, *sections = re.split(r"^(\w+)\n-+\n", inspect.cleandoc(base.__doc__ or ""), flags=re.M)
        for heading, text in zip(sections[::2], sections[1::2], strict=True):
            panel = PANELS[-1] if heading == "Parameters" else heading
            for name, metavar, help in re.findall(r"^(\w+)(?: : (.+))?\n((?: .+\n?)+)", text, re.M):
                found.setdefault(name, (panel, metavar or None, " ".join(help.split())))
    return found


class Command(TyperCommand):
    """Command with help in panels, and with lists: "--templates 0 1 2" is "--templates 0,1,2"."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = {p.opts[0] for p in self.params if str(p.metavar).endswith("...")}
        return super().parse_args(ctx, joined(args, lists))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        records: dict[str, list[Any]] = {panel: [] for panel in PANELS}
        for parameter in self.get_params(ctx):
            panel = getattr(parameter, "rich_help_panel", None) or PANELS[-1]
            if record := parameter.get_help_record(ctx):  # without the type: FILE <path>
                records[panel].append((record[0].partition(" <")[0], record[1]))
        for panel in filter(records.get, PANELS):
            with formatter.section(panel):
                formatter.write_dl(records[panel])


def joined(arguments: list[str], lists: Collection[str]) -> list[str]:
    """Join by commas the words that follow an option of a list: numbers, or words until an option.

    Examples
    --------
    >>> joined(["--templates", "0", "1", "a.nwb", "--length", "0.1"], {"--templates", "--length"})
    ['--templates', '0,1', 'a.nwb', '--length', '0.1']
    """
    result: list[str] = []
    for word in arguments:
        option, values = ["", "", *result][-2:]
        alike = is_number(word) or not (is_number(values) or word.startswith("-"))
        if option in lists and alike:
            result[-1] = f"{values},{word}".strip(",")
        else:
            result += [word, ""] if word in lists else [word]
    return result


def is_number(words: str) -> bool:
    """Whether it is a number, or are several with commas, with or without a unit of time."""
    return re.fullmatch(r"-?[\d.,]+(e-?\d+)?([mu]?s)?(,.*)?", words) is not None


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
        validation.per_template(name, text, values, number)
    return values


File = Annotated[
    Path,
    argument("FILE", "Recording: NWB, npz, Phy, a table (.csv), or any format that Neo reads."),
]


@dataclass(frozen=True, kw_only=True)
class Links:
    """Whether a file may refer to others.

    Data
    ----
    follow_links
        Read data that an HDF5 file keeps in other files.
    """

    follow_links: bool = False

    def read(self, file: Path) -> SpikeTrains | BinnedSpikes:
        """Return what a file holds."""
        from spikecdl import io

        return io.read(file, follow_links=self.follow_links)


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The random seed.

    Parameters
    ----------
    random_state : NUMBER
        Random seed: same seed, same result.
    """

    random_state: int = option(0, "--seed", min=0)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where tensors are.

    Parameters
    ----------
    device : NAME
        auto (a GPU if there is one), cpu or cuda.
    """

    device: str = option("auto", values="auto cpu cuda")


@dataclass(frozen=True, kw_only=True)
class Process:
    """The kind of process that is fitted or simulated.

    Model
    -----
    family : NAME
        binomial, poisson, negative_binomial or gaussian; parameters after a colon, as in
        gaussian:scale=2.5 or negative_binomial:shape=3.
    layout : NAME
        shared: all units have the same waveforms, each unit its own events; joint: each unit has
        its own waveforms, all units the same events.
    """

    family: str = option("poisson", values="binomial poisson negative_binomial gaussian")
    layout: str = option("shared", values="shared joint")
