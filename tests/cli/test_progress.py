"""Progress of long commands: what, how far, how long is left, on a terminal and elsewhere."""

from __future__ import annotations

import io
import sys
import time

import pytest

from spikecdl import progress
from spikecdl.progress import (
    START,
    Progress,
    State,
    showing_epochs,
    showing_steps,
    shown,
)
from spikecdl.training import Learned, Steps, steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_left_follows_from_the_pace_until_now():
    state = State("training", began=0.0)
    assert state.text(65.0) == "training (1 min 5 s)"
    state = state._replace(detail="epoch 5 of 9", done=5, total=9, first=(1, 10.0), latest=50.0)
    assert state.left(50.0) == 40.0  # ten seconds each
    assert state.left(55.0) == 35.0
    assert state.left(200.0) == 30.0  # of the steps after this one
    assert state.text(55.0) == "training: epoch 5 of 9 (55 s, about 35 s left)"
    for unknown in (state._replace(total=None), state._replace(done=1), state._replace(first=None)):
        assert unknown.left(55.0) is None


def wait_for(text: str, stream: io.StringIO) -> None:
    """Wait until this is in what was written, at most for ten seconds."""
    end = time.monotonic() + 10
    while text not in stream.getvalue():
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(progress, "_PAUSE", 0.02)


def test_lines_where_there_is_no_terminal(quick, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with shown("choosing a start", quiet=False) as at:
        wait_for("choosing a start (0 s)\n", stream)
        at.begin("training")
        at("epoch 3", 3, 10)
        wait_for("training: epoch 3 (0 s)\n", stream)
    with shown("nothing to see", quiet=True):
        time.sleep(0.05)
    assert "nothing" not in stream.getvalue()


def test_a_bar_on_a_terminal(quick, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with shown("choosing a start", quiet=False) as at:
        wait_for("choosing a start", stream)
        at.begin("training")
        for epoch in range(3):
            at(f"epoch {epoch} of 3", epoch, 3)
            wait_for(f"epoch {epoch} of 3", stream)
    assert "s left" in stream.getvalue()
    assert "━" in stream.getvalue()


def test_errors_and_interruptions_end_it(quick, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with pytest.raises(KeyboardInterrupt), shown("training", quiet=False):
        raise KeyboardInterrupt
    before = stream.getvalue()
    time.sleep(0.1)
    assert stream.getvalue() == before
    with shown("training", quiet=False):
        stream.close()  # as if its reader had gone
        time.sleep(0.1)


def test_what_follows_the_last_epoch_is_a_stage_of_its_own():
    at = Progress(START)
    show, record = showing_epochs(at, 5), {"loss": 1.0}
    show(Learned({}, {}, 1, [record]))
    assert at.state.stage == "training"
    with showing_steps(at):
        steps.announce("rounds")
        assert at.state.stage == "training"
        steps.announce(steps.AFTER)
    assert at.state.stage == "finding events"


@pytest.mark.parametrize("trainer", ["alternating", "marginal"])
def test_a_fit_tells_that_its_epochs_are_over(trainer):
    from fits import quick, some_counts

    told, weight = [], 0.05 if trainer == "alternating" else None
    with steps.listening(told.append):
        model = quick(trainer=trainer, penalty_weight=weight, n_epochs=30)
        model.fit(some_counts(trials=4), on_epoch=lambda state: told.append(state.epoch))
    assert told[-2:] == [model.n_iter_, "finding events"]


def test_steps_of_choosing_a_start_are_counted():
    at = progress.Progress(START)
    with showing_steps(at):
        for name in ("first rounds", "removal"):
            Steps()(name, dict)
            assert name in str(at)
        assert str(at) == "choosing a start: step 2, removal (0 s)"
        Steps()("start 3 of 8", dict)
        assert (at.state.done, at.state.total) == (2, 8)
        at.begin("fitting without a part of the data")
        Steps()("removal", dict)
        assert at.state.detail == ""
    before = str(at)
    Steps()("rounds", dict)  # nobody is told
    assert str(at) == before


def test_a_verbose_fit_shows_what_it_does_on_standard_error(monkeypatch, capsys):
    from fits import quick, some_counts

    monkeypatch.setattr("spikecdl.progress._PAUSE", 0.01)
    quick(trainer="marginal", penalty_weight=None, verbose=True).fit(some_counts(trials=4))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "choosing a start" in shown.err
    quick(trainer="marginal", penalty_weight=None).fit(some_counts(trials=4))
    assert capsys.readouterr().err == ""


NOTEBOOK = """
import time, numpy as np, spikecdl
counts = np.random.default_rng(0).poisson(0.2, (4, 200))
model = spikecdl.DCEA(1, 20, n_epochs=2, random_state=0, verbose={verbose})
_ = model.fit(counts, on_epoch=lambda state: time.sleep({pause}))
"""


@pytest.mark.pages  # as a notebook needs what pages need
@pytest.mark.parametrize(
    ("pause", "verbose", "is_shown"), [(3.0, None, True), (0.0, None, False), (3.0, False, False)]
)
def test_a_long_fit_in_a_notebook_shows_what_it_does(pause, verbose, is_shown):
    import nbformat
    from nbclient import NotebookClient

    cell = nbformat.v4.new_code_cell(NOTEBOOK.format(pause=pause, verbose=verbose))
    notebook, pages = nbformat.v4.new_notebook(cells=[cell]), []

    class Client(NotebookClient):
        def process_message(self, message, *arguments):
            data = message["content"].get("data", {})
            pages.append(data.get("text/html", data.get("text/plain", "")))
            return super().process_message(message, *arguments)

    Client(notebook, timeout=120, kernel_name="python3").execute()
    bars = [page for page in pages if page.startswith("<progress")]
    assert bool(bars) == is_shown
    assert all("choosing a start" in bar or "training" in bar for bar in bars[:1])
    left = [output for output in cell.outputs if output.output_type != "stream"]
    assert all(output.data == {"text/plain": ""} for output in left)  # and nothing stays
