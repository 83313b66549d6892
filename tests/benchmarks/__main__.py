"""Compare the package with the paper's algorithm: ``python tests/benchmarks --help``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import denoising
import encoding
import ingredients
import joint
import learning
import machine
import online
import peers
import problems
import scaling
import selecting
import sequences
import songbird
import speeds
import stream
import whiskers
from timing import Row, Settings, Skip

PARTS: Mapping[str, Callable[[Settings], Iterable[Row]]] = {
    "machine": machine.measure,
    "encoder": encoding.iterations,
    "codes": encoding.at_the_gap_of_the_yardstick,
    "certificate": encoding.to_a_certificate,
    "alphacsc": encoding.against_alphacsc,
    "training": learning.training_steps,
    "near": learning.from_near,
    "unknown": learning.from_nothing,
    "unknown-hard": learning.from_nothing_hard,
    "memory": scaling.memory,
    "recordings": scaling.recordings,
    "slopes": scaling.slopes,
    "denoiser": denoising.denoiser,
    "whiskers": whiskers.commands,
    "peers": peers.pooled,
    "sequences": sequences.measure,
    "populations": joint.measure,
    "online": online.measure,
    "ingredients": ingredients.measure,
    "selection": selecting.measure,
    "songbird": songbird.sequences,
    "speeds": speeds.measure,
    "stream": stream.measure,
}
_COLUMNS = ("what", "yardstick", "package", "ratio", "note")
_WIDTHS = (58, 18, 18, 20, 0)


def main() -> None:
    """Print each row of the table when it is measured."""
    arguments = _arguments()
    settings = Settings(arguments.repeats, arguments.seeds, arguments.quick, arguments.figures)
    print(machine.describe())
    if settings.quick:
        problems.use_small_parts()
        print("sizes      tiny: a check that everything runs; do not quote")
    print(f"\n{_line(_COLUMNS)}\n{_line(['-' * max(width, 3) for width in _WIDTHS])}")
    began = time.perf_counter()
    for name in arguments.only or PARTS:
        try:
            for row in PARTS[name](settings):
                print(_line([getattr(row, column) for column in _COLUMNS]), flush=True)
        except Skip as reason:
            print(_line([name, "", "", "", f"skipped: {reason}"]), flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s in all; medians of {settings.repeats}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/benchmarks",
        description="Compare the package with the paper's algorithm, measured in turn.",
    )
    names = f"{', '.join(PARTS)}; may be repeated"
    parser.add_argument("--only", action="append", choices=PARTS, metavar="NAME", help=names)
    parser.add_argument("--repeats", type=_count, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--seeds", type=_count, default=5, metavar="N", help="fits from random seeds; default: 5"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="folder that receives figures")
    return parser.parse_args()


def _count(text: str) -> int:
    """Read a number of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of 1 or more")
    return int(text)


def _line(cells: Iterable[str]) -> str:
    """Format cells as a row of a Markdown table."""
    padded = (cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return f"| {' | '.join(padded)} |"


if __name__ == "__main__":
    main()
