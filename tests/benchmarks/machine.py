"""The machine and its peak rates: products, bytes."""

from __future__ import annotations

import datetime
import platform
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from timing import Row, Settings, interleaved, number

import spikecdl
from spikecdl.solvers.parallel import n_threads


def describe() -> str:
    """Return processor, threads, versions and date."""
    versions = [f"{name} {version(name)}" for name in ("torch", "numpy", "scipy")]
    return "\n".join(
        [
            f"processor  {_processor()}",
            f"threads    {n_threads()} of the package, {torch.get_num_threads()} of torch",
            f"versions   spikecdl {spikecdl.__version__}, {', '.join(versions)}, "
            f"Python {platform.python_version()}",
            f"date       {datetime.date.today().isoformat()}",
        ]
    )


@dataclass(frozen=True)
class Peaks:
    """Peak operations per second, in matrix products, and bytes per second."""

    product: float
    bandwidth: float

    def bound(self, flops: float, n_bytes: float, seconds: float) -> str:
        """Describe the rates of a computation as fractions of both limits."""
        products, traffic = flops / seconds / self.product, n_bytes / seconds / self.bandwidth
        return (
            f"{number(flops / seconds / 1e9)} GFLOP/s ({products:.0%} of products), "
            f"{number(n_bytes / seconds / 1e9)} GB/s ({traffic:.0%} of bandwidth); the nearer "
            f"limit: {'products' if products > traffic else 'bandwidth'}"
        )


@cache
def peaks(settings: Settings) -> Peaks:
    """Measure the peak rates in single precision, with all threads."""
    size = 512 if settings.quick else 2048
    left, right = torch.rand(2, size, size)
    source = torch.rand((2 if settings.quick else 50) * 1_000_000)
    target = torch.empty_like(source)
    seconds = interleaved(
        {
            "product": lambda: left @ right,
            "copy": lambda: target.copy_(source),
        },
        settings.repeats,
    )
    best = {name: values.min() for name, values in seconds.items()}
    return Peaks(
        product=2 * size**3 / best["product"],
        bandwidth=2 * source.nbytes / best["copy"],
    )


def measure(settings: Settings) -> list[Row]:
    """Return the peaks as rows of the table."""
    found = peaks(settings)
    return [
        Row("matrix product, single precision", package=f"{number(found.product / 1e9)} GFLOP/s"),
        Row("copy, read and write", package=f"{number(found.bandwidth / 1e9)} GB/s"),
    ]


def _processor() -> str:
    """Return the name of the processor."""
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> float:
    """Return the peak memory of this process, in MB.

    On Linux it is read from /proc, because `getrusage` includes the peak of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(peak.split()[1]) / 1024
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # bytes or kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
