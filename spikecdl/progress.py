"""What a long computation does, how far it is and how long is left: on standard error, or in the
cell of a notebook.
"""

from __future__ import annotations

import html
import itertools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    from spikecdl.training import Learned

_PAUSE = 10.0  # seconds between lines where there is no terminal
START, TRAINING = "choosing a start", "training"  # stages of a fit; then `steps.AFTER`


class State(NamedTuple):
    """How far a stage is: what is done of it, when that was, and what had been done at first."""

    stage: str
    began: float
    detail: str = ""
    done: int = 0
    total: int | None = None
    latest: float = 0.0
    first: tuple[int, float] | None = None

    def left(self, now: float) -> float | None:
        """Seconds that the rest will take at the pace until now, if it is known.

        What is under way, however long it takes, does not shorten what comes after it.
        """
        if self.total is None or self.first is None or self.done <= self.first[0]:
            return None
        pace = (self.latest - self.first[1]) / (self.done - self.first[0])
        rest = pace * (self.total - self.done)
        return max(rest - (now - self.latest), rest - pace, 0.0)

    def text(self, now: float) -> str:
        """Say the stage, how far it is, how long it has taken and about how long is left."""
        what = f"{self.stage}: {self.detail}" if self.detail else self.stage
        left = self.left(now)
        rest = "" if left is None else f", about {duration(left)} left"
        return f"{what} ({duration(now - self.began)}{rest})"


class Progress:
    """The stage that a computation is in; `shown` shows it.

    Call it with a text, how much of the stage is done, and how much there is (None: not known).
    """

    def __init__(self, stage: str) -> None:
        self.begin(stage)

    def begin(self, stage: str) -> None:
        """Begin a stage."""
        self.state = State(stage, time.monotonic())

    def __call__(self, detail: str, done: int, total: int | None) -> None:
        """Say how far the stage is."""
        now = time.monotonic()
        first = self.state.first or (done, now)
        self.state = State(self.state.stage, self.state.began, detail, done, total, now, first)

    def __str__(self) -> str:
        return self.state.text(time.monotonic())


def duration(seconds: float) -> str:
    """Return a time in words.

    Examples
    --------
    >>> duration(3.2), duration(75), duration(7500)
    ('3 s', '1 min 15 s', '2 h 5 min')
    """
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


@contextmanager
def shown(stage: str, quiet: bool) -> Iterator[Progress]:
    """Show progress while a block runs: a bar on a terminal or in the cell of a notebook, else a
    line every ten seconds.

    Where there is no terminal, each stage that takes a while has a line, and short ones have none.
    """
    progress, over = Progress(stage), threading.Event()
    thread = threading.Thread(target=_show, args=(progress, over), daemon=True)
    if not quiet:
        thread.start()
    try:
        yield progress
    finally:
        over.set()
        if not quiet:
            thread.join()


def _show(progress: Progress, over: threading.Event) -> None:
    """Show progress until it is over, or standard error is closed."""
    stream = sys.stderr
    with suppress(OSError, ValueError):
        if in_notebook():
            _show_in_cell(progress, over)
        if stream.isatty():
            _show_bar(progress, over, stream)
        while not over.wait(_PAUSE):
            stream.write(f"{progress}\n")
            stream.flush()


def in_notebook() -> bool:
    """Return whether this runs in a cell of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _show_in_cell(progress: Progress, over: threading.Event) -> None:
    """Show a bar under the cell that waits, from two seconds on until it is over."""
    from IPython.display import display

    if over.wait(timeout=2.0):
        return
    shown = display({"text/plain": str(progress)}, raw=True, display_id=True)
    while not over.wait(0.5):
        at, text = progress.state, html.escape(str(progress))
        of = f'max="{at.total}" value="{at.done}"' if at.total else ""
        page = f"<progress {of}></progress> {text}"
        shown.update({"text/html": page, "text/plain": str(progress)}, raw=True)
    shown.update({"text/plain": ""}, raw=True)


def _show_bar(progress: Progress, over: threading.Event, stream: TextIO) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns: tuple[Any, ...] = (BarColumn(bar_width=20), TextColumn("{task.description}"))
    console = Console(file=stream)
    with Bar(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task, is_over = bar.add_task("", total=None), False
        while not is_over:
            at = progress.state
            bar.update(task, description=str(progress), total=at.total, completed=at.done)
            bar.refresh()
            is_over = over.wait(0.5)  # seconds between updates


def showing_steps(progress: Progress) -> AbstractContextManager[None]:
    """Tell of the steps of choosing a start, and of what follows the epochs.

    Some steps know their number, as in "start 3 of 8".
    """
    from spikecdl.training.steps import AFTER, listening

    count = itertools.count(1)

    def on_step(name: str) -> None:
        if name == AFTER and progress.state.stage in (START, TRAINING):
            progress.begin(AFTER)
        elif progress.state.stage == START:
            number = re.search(r"(\d+) of (\d+)$", name)
            done, total = (int(number[1]) - 1, int(number[2])) if number else (0, None)
            progress(name if number else f"step {next(count)}, {name}", done, total)

    return listening(on_step)


def showing_epochs(progress: Progress, epochs_at_most: int) -> Callable[[Learned], None]:
    """Return what tells of each epoch of a fit."""

    def on_epoch(state: Learned) -> None:
        if progress.state.stage != TRAINING:
            progress.begin(TRAINING)
        record = state.history[-1]
        events = f", {record['n_events']} events" if "n_events" in record else ""
        text = f"epoch {state.epoch} of at most {epochs_at_most}, loss {record['loss']:.5g}{events}"
        progress(text, state.epoch, epochs_at_most)

    return on_epoch


@contextmanager
def of_fit(epochs_at_most: int, verbose: bool | None) -> Iterator[Callable[[Learned], None] | None]:
    """Show the progress of a fit in this block; yield what takes each state, if it is shown.

    None: it is, in notebooks.
    """
    if not (in_notebook() if verbose is None else verbose):
        yield None
        return
    with shown(START, quiet=False) as progress, showing_steps(progress):
        yield showing_epochs(progress, epochs_at_most)
