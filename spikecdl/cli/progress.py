"""What a waiting person sees, on standard error: bars on a terminal, lines in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikecdl.estimator import DCEA
    from spikecdl.training import Learned


@contextmanager
def epochs_shown(model: DCEA, quiet: bool) -> Iterator[Callable[[Learned], None]]:
    """Show a bar of epochs, or a line for each; yields what to call after each."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("choosing a start", total=None)

        def on_epoch(state: Learned) -> None:
            record = state.history[-1]
            events = f", {record['n_events']} events" if "n_events" in record else ""
            text = f"epoch {state.epoch}: loss {record['loss']:.5g}{events}"
            progress.update(
                task, description=text, total=model.epochs_at_most, completed=state.epoch
            )
            if not quiet and not console.is_terminal:
                console.print(text, highlight=False)

        yield on_epoch
        progress.update(task, total=1, completed=1)


@contextmanager
def working(what: str, quiet: bool) -> Iterator[None]:
    """Show that something goes on; nothing in a log."""
    from rich.console import Console

    if quiet:
        yield
        return
    with Console(stderr=True).status(what):
        yield
