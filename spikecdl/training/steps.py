"""Steps of a fit before its first epoch, which a fit that was broken off does not take again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

AFTER = "finding events"  # what follows the last epoch
_GENERATOR, _RNG = "generator", "rng"  # their states, in the result of a step


_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Call ``listener`` with the name of each step that is computed in this block, at its start.

    Examples
    --------
    >>> names = []
    >>> with listening(names.append):
    ...     _ = Steps()("first", lambda: {"x": torch.ones(1)})
    >>> names
    ['first']
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def announce(name: str) -> None:
    """Call the listener of `listening`, if there is one, with the name of what is computed next."""
    listener = _listener.get()
    if listener is not None:
        listener(name)


class Steps:
    """Results of the steps of a computation, in order; a later run of it goes on after them.

    A step may consist of smaller steps, whose results are dropped when it is done.  The state of
    the generator after a step belongs to its result, so that what follows is the same.

    Parameters
    ----------
    generator : torch.Generator, optional
        The only source of randomness, on the CPU.

    Attributes
    ----------
    done : list of (name, dict of tensor)
        Results, to be written to a file, or read from it before the first step.
    on_step : callable
        Called after each step that was computed.

    Examples
    --------
    >>> steps, again = Steps(), Steps()
    >>> steps("first", lambda: {"x": torch.ones(1)})
    {'x': tensor([1.])}
    >>> again.done = steps.done
    >>> again("first", lambda: 1 / 0)  # known
    {'x': tensor([1.])}
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.done: list[tuple[str, dict[str, Tensor]]] = []
        self.on_step: Callable[[], None] = lambda: None
        self._generator, self._next = generator or torch.Generator(), 0

    def __call__(
        self,
        name: str,
        compute: Callable[[], dict[str, Tensor]],
        rng: np.random.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the result of the next step: as it was, if it is known, or computed.

        ``rng`` is another source of randomness that the step uses.
        """
        at = self._next
        if at == len(self.done) or self.done[at][0] != name:
            announce(name)
            found = {key: value.contiguous() for key, value in compute().items()}
            states = {_GENERATOR: self._generator.get_state()}
            if rng is not None:
                text = json.dumps(rng.bit_generator.state)
                states[_RNG] = torch.tensor([*text.encode()], dtype=torch.uint8)
            copies = {key: value.clone() for key, value in found.items()}
            self.done[at:] = [(name, copies | states)]
            self.on_step()
        else:
            found = {key: value.clone() for key, value in self.done[at][1].items()}
            self._generator.set_state(found.pop(_GENERATOR))
            if rng is not None:
                rng.bit_generator.state = json.loads(bytes(found.pop(_RNG).tolist()))
        self._next = at + 1
        return found
