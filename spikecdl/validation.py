"""Checks of single arguments, so that every error has the same words; and words for them."""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np

T = TypeVar("T")


class MissingExtraError(ModuleNotFoundError):
    """An optional library is not installed."""


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Import optional libraries in a block; `MissingExtraError` names the remedy if one is missing.

    ``name`` is the extra of the package that has them, and ``purpose`` what needs them.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f'{purpose} needs {error.name}: pip install "spikecdl[{name}]"'
        raise MissingExtraError(message, name=error.name) from None


def yes_or_no(name: str, value: bool | Sequence[bool]) -> tuple[bool, ...]:
    """Return a value for all templates, or one for each, as a tuple; raise if they are not bool."""
    values = (value,) if isinstance(value, bool) or not isinstance(value, Sequence) else value
    if not all(isinstance(each, bool) for each in values):
        raise TypeError(
            f"`{name}` (={shown(value)}) must be True or False, or one of them per template"
        )
    return tuple(values)


def per_template(name: str, given: Any, values: Sequence[T], n_templates: int) -> tuple[T, ...]:
    """Return a value for each template, from one for all or one for each that were ``given``.

    Examples
    --------
    >>> per_template("sign", "both", ["both"], 2)
    ('both', 'both')
    """
    if len(values) not in (1, n_templates):
        raise ValueError(
            f"`{name}` (={shown(given)}) has {counted(len(values), 'value')} for "
            f"{counted(n_templates, 'template')}; give one for each, or one for all"
        )
    return tuple(values) * (n_templates // len(values))


def positive(name: str, value: float, unit: str = "") -> float:
    """Return ``value`` as a float, or raise if it is not a positive finite number."""
    number = real(name, value, unit)
    if number <= 0:
        raise ValueError(f"`{name}` (={shown(value)}) must be positive{_in(unit)}")
    return number


def real(name: str, value: float, unit: str = "") -> float:
    """Return ``value`` as a float, or raise if it is not a finite number."""
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` (={shown(value)}) must be a number{_in(unit)}") from None
    if not math.isfinite(number):
        raise ValueError(f"`{name}` (={shown(value)}) must be finite{_in(unit)}")
    return number


_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}


def seconds(name: str, value: float | str) -> float:
    """Return a positive time in seconds, from a number or from a text such as "5ms" or "0.5 s"."""
    if not isinstance(value, str):
        return positive(name, value, "seconds")
    found = re.fullmatch(r"\s*([-+.\de]+?)\s*(s|ms|us|)\s*", value)
    try:
        number = float(found[1]) if found else math.nan
    except ValueError:
        number = math.nan
    if not number > 0 or not found:
        raise ValueError(
            f"`{name}` (={shown(value)}) must be a positive time in seconds, or with its "
            "unit: 5ms, 0.5s"
        )
    return number / _UNITS[found[2] or "s"]


def integer(name: str, value: int, minimum: int = 1) -> int:
    """Return ``value`` as an int, or raise if it is not an integer of at least ``minimum``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` (={shown(value)}) must be an integer") from None
    if number < minimum:
        raise ValueError(f"`{name}` (={shown(value)}) must be at least {minimum}")
    return number


def one_of(name: str, value: Any, options: Collection[str]) -> str:
    """Return ``value`` if it is among ``options``, or raise an error that lists them."""
    if value not in options:
        raise ValueError(f"`{name}` (={shown(value)}) must be one of: {', '.join(sorted(options))}")
    return value


def member(name: str, value: Any, registry: Mapping[str, type[T]], base: type) -> T:
    """Return ``value`` if it is an instance of ``base``, or make one from its name in a registry.

    Raises ValueError for a name that is not in the registry, and TypeError for anything else.
    """
    if isinstance(value, base):
        return cast(T, value)
    if isinstance(value, str):
        return registry[one_of(name, value, registry)]()
    raise TypeError(
        f"`{name}` (={shown(value)}) must be a {base.__name__} or one of: "
        f"{', '.join(sorted(registry))}"
    )


def non_negative(name: str, value: float, unit: str = "") -> float:
    """Return ``value`` as a float, or raise if it is not a finite number of at least 0."""
    number = real(name, value, unit)
    if number < 0:
        raise ValueError(f"`{name}` (={shown(value)}) must not be negative{_in(unit)}")
    return number


def whole_bins(name: str, length: float, bin_size: float) -> int:
    """Return a length as a number of bins, or raise if that is not whole or below one."""
    bins = round(positive(name, length) / positive("bin_size", bin_size))
    if bins < 1 or abs(length / bin_size - bins) > 1e-6 * bins:
        raise ValueError(
            f"`{name}` (={length:g}) must be a whole number of bins of {bin_size:g}; the nearest "
            f"is {max(bins, 1) * bin_size:g}"
        )
    return bins


def broadcast(name: str, values: Any, shape: tuple[int, ...], why: str) -> np.ndarray:
    """Return an array broadcast to a shape, or raise an error that says what it must be."""
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(f"`{name}` (shape {np.shape(values)}) must {why} {shape}") from None


def shaped(name: str, array: Any, shape: tuple[int, ...], of: str = "") -> None:
    """Raise unless an array has this shape, which may be that ``of`` another argument."""
    if array.shape != shape:
        other = f", as `{of}`" if of else ""
        raise ValueError(f"`{name}` {array.shape} must have shape {shape}{other}")


def distinct(name: str, ids: Iterable[Any], size: int) -> tuple[Any, ...]:
    """Return ids as a tuple of Python objects, or raise unless they are ``size`` distinct ones."""
    found = tuple(map(plain, ids))
    if len(found) != size or len(set(found)) != size:
        raise ValueError(f"`{name}` must be {size} distinct ids, not {found!r}")
    return found


def as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Return positions as a slice, which copies nothing, if each follows the one before."""
    is_slice = (np.diff(positions) == 1).all()
    return slice(int(positions[0]), int(positions[-1]) + 1) if is_slice else positions


def positions(name: str, index: Any, size: int) -> np.ndarray:
    """Return positions below a size that an index means, all of them if it is None."""
    key = slice(None) if index is None else index
    try:
        chosen = np.atleast_1d(np.arange(size)[key if isinstance(key, slice) else np.asarray(key)])
    except IndexError:
        raise ValueError(f"`{name}` (={index!r}) must be positions below {size}") from None
    if chosen.size == 0:
        raise ValueError(f"`{name}` (={index!r}) leaves none of {size}")
    return chosen


def plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python object, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def shown(value: Any) -> str:
    """Return how a value looks in an error: on one line, and its ends if that is long.

    Examples
    --------
    >>> shown("poisson"), shown("x" * 1000)
    ("'poisson'", "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxx'")
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:51]}...{text[-12:]}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 unit", "2 units"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def printable(text: str) -> str:
    """Return a line without characters that could control a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def listed(values: Sequence[Any], most: int = 5) -> str:
    """Return the first few values as text, with "..." for the others."""
    more = ", ..." if len(values) > most else ""
    return ", ".join(shown(plain(value)) for value in values[:most]) + more


def _in(unit: str) -> str:
    return f", in {unit}" if unit else ""


def names_of(module: str) -> Callable[[], list[str]]:
    """Return the ``__dir__`` of a module: its ``__all__``, or the public names that it defines."""

    def names() -> list[str]:
        here = vars(sys.modules[module])
        own = [name for name, x in here.items() if getattr(x, "__module__", None) == module]
        return sorted(here.get("__all__", [name for name in own if not name.startswith("_")]))

    return names
