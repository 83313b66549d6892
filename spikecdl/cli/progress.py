"""What a waiting person sees, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikecdl.estimator import DCEA
    from spikecdl.training import Learned


@contextmanager
def epochs_shown(model: DCEA, quiet: bool) -> Iterator[Callable[[Learned], None]]:
    """Show a bar of epochs; yields what to call after each."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("choosing a start", total=None)

        def on_epoch(state: Learned) -> None:
            record = state.history[-1]
            events = f", {record['n_events']} events" if "n_events" in record else ""
            progress.update(
                task,
                description=f"epoch {state.epoch}: loss {record['loss']:.5g}{events}",
                total=model.epochs_at_most,
                completed=state.epoch,
            )

        yield on_epoch
        progress.update(task, total=1, completed=1)


@contextmanager
def working(what: str, quiet: bool) -> Iterator[None]:
    """Show that something goes on."""
    from rich.console import Console

    if quiet:
        yield
        return
    with Console(stderr=True).status(what):
        yield
