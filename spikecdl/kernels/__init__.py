"""Functions in C, compiled when the package is built, and how Python calls them.

A header declares each function that Python calls with the word ``KERNEL``; its arguments are
numbers, arrays as in ``arrays.h``, or structs of these, which a named tuple of the same fields
fills in.  What a header says is checked at every call, and nothing is copied.

The same sources are compiled for several levels of x86-64 processors; the best one that this
processor has is taken.  The variable SPIKECDL_CPU of the environment names another.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent
LEVELS = ("x86-64", "x86-64-v3", "x86-64-v4")  # of processors, from the least on
_SUFFIXES = (".so", ".dylib", ".dll")
_OUT_OF_MEMORY = -1

_DTYPES: dict[str, np.dtype] = {
    "doubles": np.dtype(np.float64),
    "floats": np.dtype(np.float32),
    "longs": np.dtype(np.int64),
    "ints": np.dtype(np.int32),
    "flags": np.dtype(np.bool_),
}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_STRUCT = re.compile(r"typedef struct \{([^{}]*)\} (\w+);")
_KERNEL = re.compile(r"^KERNEL (\w+) (\w+)\((.*?)\);", re.DOTALL | re.MULTILINE)
_ARRAY = re.compile(rf"({'|'.join(_DTYPES)})([1-4])")


@cache
def function(name: str) -> Callable[..., Any]:
    """Return a function in C by its name in the headers.

    It raises TypeError if an argument is not what the header says, and MemoryError if there is no
    memory left.  It does not hold the lock of the interpreter.
    """
    returned, arguments = _declarations()[name]
    compiled = getattr(_library(), name)
    compiled.restype = {"void": None, "double": ctypes.c_double}.get(returned, ctypes.c_int64)
    types = tuple(argument for argument, _ in arguments)
    compiled.argtypes = [type_.passed_as for type_ in types]
    return partial(_call, compiled, name, arguments)


def _call(compiled: Any, name: str, arguments: tuple, *values: Any) -> Any:
    if len(values) != len(arguments):
        raise TypeError(f"`{name}` takes {len(arguments)} arguments, not {len(values)}")
    each = zip(arguments, values, strict=True)
    result = compiled(*[_passed(name, word, type_, value) for (type_, word), value in each])
    if result == _OUT_OF_MEMORY and compiled.restype is ctypes.c_int64:
        raise MemoryError(f"no memory is left for `{name}`; give it fewer windows at a time")
    return result


class Packed(NamedTuple):
    """An argument as it is passed, of some type; made by `packed`."""

    content: Any
    type: Any


def packed(name: str, word: str, value: Any) -> Packed:
    """Return an argument of a function as it is passed, for several calls with the same.

    ``word`` is its name in the header.  The arrays must live until the last call.
    """
    type_ = {argument: type_ for type_, argument in _declarations()[name][1]}[word]
    return Packed(_passed(name, word, type_, value), type_)


def _passed(name: str, word: str, type_: _Number | _Pointed, value: Any) -> Any:
    if type(value) is Packed and value.type is type_:
        return value.content
    try:
        return type_.passed(value)
    except _Refused as refused:
        where = " of ".join(f"`{part}`" for part in [*refused.where, word, name])
        raise TypeError(f"{where} {refused.reason}") from None


class _Refused(Exception):
    """An argument is not what the header says; ``where`` are the fields around it, from inside."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.where: list[str] = []


@dataclass(frozen=True)
class _Number:
    """A number, which is passed as it is."""

    code: str

    @property
    def passed_as(self) -> Any:
        return ctypes.c_double if self.code == "d" else ctypes.c_int64

    def passed(self, value: Any) -> Any:
        return float(value) if self.code == "d" else int(value)

    def words(self, value: Any) -> tuple:
        return (self.passed(value),)


class _Pointed:
    """What is passed by its address, as words of eight bytes."""

    code: str
    passed_as: Any = ctypes.c_char_p

    @cached_property
    def _layout(self) -> struct.Struct:
        return struct.Struct(self.code)

    def words(self, value: Any) -> Sequence:
        raise NotImplementedError

    def passed(self, value: Any) -> bytes:
        return self._layout.pack(*self.words(value))


@dataclass(frozen=True)
class _Array(_Pointed):
    """A contiguous array: its address and the lengths of its axes."""

    dtype: np.dtype
    rank: int

    @property
    def code(self) -> str:  # type: ignore[override]
        return "P" + "q" * self.rank

    def words(self, value: Any) -> tuple:
        if not isinstance(value, np.ndarray):
            raise _Refused(f"must be an array, not {type(value).__name__}")
        if value.dtype != self.dtype or value.ndim != self.rank:
            raise _Refused(
                f"must be {self.dtype} with {self.rank} axes, not {value.dtype} with {value.ndim}"
            )
        if not value.flags.c_contiguous:
            raise _Refused("must be contiguous; `np.ascontiguousarray` makes it so")
        return (value.ctypes.data, *value.shape)


@dataclass(frozen=True)
class _Struct(_Pointed):
    """A named tuple, whose fields have the names and the order of those in C."""

    types: tuple[_Number | _Array | _Struct, ...]
    names: tuple[str, ...]

    @property
    def code(self) -> str:  # type: ignore[override]
        return "".join(type_.code for type_ in self.types)

    def words(self, value: Any) -> list:
        if getattr(value, "_fields", None) != self.names:
            given = type(value).__name__
            raise _Refused(f"must be a named tuple of {', '.join(self.names)}, not {given}")
        words: list = []
        for type_, name, part in zip(self.types, self.names, value, strict=True):
            try:
                words += type_.words(part)
            except _Refused as refused:
                refused.where.append(name)
                raise
        return words


@cache
def _declarations() -> dict[str, tuple[str, tuple]]:
    """Return what each function returns, and the types and names of its arguments."""
    headers = [path.read_text("utf-8") for path in sorted(FOLDER.glob("*.h"))]
    text = _COMMENT.sub("", "\n".join(headers))
    structs = {name: body for body, name in _STRUCT.findall(text)}

    @cache
    def type_of(word: str) -> Any:
        if word in ("double", "int64_t"):
            return _Number("d" if word == "double" else "q")
        if found := _ARRAY.fullmatch(word):
            return _Array(_DTYPES[found[1]], int(found[2]))
        return _Struct(*zip(*pairs(structs[word].split(";")), strict=True))

    def pairs(parts: list[str]) -> Iterator[tuple[Any, str]]:
        for part in filter(str.strip, parts):
            word, *names = re.findall(r"\w+", part.replace("const ", ""))
            yield from ((type_of(word), name) for name in names)

    return {
        name: (returned, tuple(pairs([] if given == "void" else given.split(","))))
        for returned, name, given in _KERNEL.findall(text)
    }


@cache
def _library() -> ctypes.CDLL:
    """Load the library for this processor."""
    return ctypes.CDLL(str(_libraries()[level()]))


@cache
def level() -> str:
    """Return the name of the processors for which the functions that are used were compiled."""
    found, wanted = _libraries(), os.environ.get("SPIKECDL_CPU")
    if wanted is not None and wanted not in found:
        raise ImportError(f"SPIKECDL_CPU must be one of {', '.join(found)}, not {wanted!r}")
    if wanted is None and LEVELS[0] in found:
        best = ctypes.CDLL(str(found[LEVELS[0]])).cpu_level()
        wanted = [name for name in LEVELS[: best + 1] if name in found][-1]
    return wanted or next(iter(found))


@cache
def _libraries() -> dict[str, Path]:
    """Return the libraries that were compiled, by the processors that they are for."""
    found = {path.stem: path for path in sorted(FOLDER.iterdir()) if path.suffix in _SUFFIXES}
    if not found:
        raise ImportError(
            f"the functions in C are not compiled: {FOLDER} has no library; "
            "`pip install .` in the project's folder, or `pip install -e .`, compiles them"
        )
    return found
