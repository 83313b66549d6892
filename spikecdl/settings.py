"""The arguments of an estimator in plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from spikecdl.families import Family, from_config
from spikecdl.penalties import PENALTIES, Penalty
from spikecdl.training import TRAINERS


def describe(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as values that JSON can hold; objects become mappings with a name.

    Raises
    ------
    TypeError
        If an argument is of a kind that cannot be written.
    """
    return {name: _plain(name, value) for name, value in arguments.items()}


def restore(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `describe`."""
    arguments = dict(values)
    if isinstance(arguments["family"], dict):
        arguments["family"] = from_config(arguments["family"])
    if isinstance(arguments["penalty"], dict):
        plain = dict(arguments["penalty"])
        arguments["penalty"] = PENALTIES[plain.pop("name")](**plain)
    if isinstance(arguments["gradient"], dict):
        plain = dict(arguments["gradient"])
        arguments["gradient"] = TRAINERS[plain.pop("name")](**plain)
    if isinstance(arguments["baseline"], dict):
        arguments["baseline"] = tuple(arguments["baseline"]["window"])
    return arguments


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Family):
        return {key: _plain(key, entry) for key, entry in value.config().items()}
    if isinstance(value, Penalty):
        sign = value.sign if isinstance(value.sign, str) else list(value.sign)
        kinds = {kind: key for key, kind in PENALTIES.items()}
        return {"name": kinds[type(value)], "sign": sign}
    if type(value) in TRAINERS.values():
        return {"name": value.name, **asdict(value)}
    if isinstance(value, tuple):
        return {"window": [float(edge) for edge in value]}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list):
        return [_plain(name, entry) for entry in value]
    raise TypeError(f"`{name}` (={value!r}) cannot be written to a file; pass plain values")
