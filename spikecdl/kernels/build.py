"""Compile the functions in C: run when the package is built, or as ``python build.py``.

Any C compiler will do: the one named by CC, or ``cc``, ``gcc`` or ``clang``.  Where there is none,
building the package asks for one from the package index, ``ziglang``.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program
    BuildHookInterface = object

FOLDER = Path(__file__).parent
FLAGS = "-std=c11 -O3 -g0 -fPIC -fvisibility=hidden -fopenmp-simd".split()
# Products and sums may be rounded once; no result depends on `errno` or on traps.
FLAGS += "-ffp-contract=fast -fno-math-errno -fno-trapping-math".split()
FLAGS += "-Wall -Wextra -Wno-pass-failed".split()
SUFFIX = {"Windows": ".dll", "Darwin": ".dylib"}.get(platform.system(), ".so")


def compiler() -> list[str] | None:
    """Return the command of a C compiler of this machine, or None."""
    if named := os.environ.get("CC"):
        return shlex.split(named)
    if platform.system() == "Windows":  # whose own compiler does not know the attributes of ours
        return None
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return [found] if found else None


def levels() -> dict[str, list[str]]:
    """Return the flags of each level of processors for which the functions are compiled."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {platform.machine().lower(): []}
    flag = "-march=" if compiler() else "-mcpu="  # zig's word, in which "_" stands for "-"
    names = ("x86-64", "x86-64-v3", "x86-64-v4")
    return {name: [flag + (name if compiler() else name.replace("-", "_"))] for name in names}


def build() -> None:
    """Compile a library for each level into the folder of the sources."""
    zig = [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=all"]  # which it does by default
    command = compiler() or zig
    sources = sorted(map(str, FOLDER.glob("*.c")))

    def compile_for(level: str, flags: list[str]) -> None:
        output = FOLDER / f"{level}{SUFFIX}"
        unfinished = output.with_suffix(f".{os.getpid()}")
        every = [*command, *FLAGS, *flags, "-shared", *sources, "-o", str(unfinished), "-lm"]
        result = subprocess.run(every, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{shlex.join(every)} failed:\n{result.stderr}")
        sys.stderr.write(result.stderr)
        unfinished.replace(output)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_for, *zip(*levels().items(), strict=True)))


class Hook(BuildHookInterface):
    """Compiles before a wheel is put together, also that of an editable installation."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what building needs beyond hatchling: a compiler, where the machine has none."""
        if compiler() is None:
            self.app.display_info("no C compiler was found; `ziglang` is installed for the build")
            return ["ziglang>=0.13"]
        return []

    def initialize(self, version: str, build_data: dict) -> None:
        """Compile, and name the platform of the wheel, which any Python 3 can use."""
        build()
        machine = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{machine}"
        build_data["pure_python"] = False


if __name__ == "__main__":
    build()
