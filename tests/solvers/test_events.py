"""Lists of events against the dense codes and the operator they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.solvers.events import Events

SHAPE = (3, 2, 12)  # (window, template, place)


@st.composite
def sparse(draw, positive: bool = False) -> Tensor:
    """Codes of which a few differ from zero."""
    cells = [st.integers(0, size - 1) for size in SHAPE]
    low = 1 if positive else -8
    amplitude = st.integers(low, 8).map(lambda a: a / 2)
    codes = torch.zeros(SHAPE, dtype=torch.float64)
    for *cell, value in draw(st.lists(st.tuples(*cells, amplitude), max_size=20)):
        codes[tuple(cell)] = value
    return codes


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def some_events() -> Events:
    codes = random(*SHAPE)
    return Events.from_codes(torch.where(codes.abs() > 1, codes, 0))


@settings(max_examples=60)
@given(sparse())
def test_codes_come_back(codes):
    events = Events.from_codes(codes)
    assert len(events) == int((codes != 0).sum())
    assert (events.amplitude != 0).all()
    assert torch.equal(events.to_codes(SHAPE), codes)


@settings(max_examples=60)
@given(sparse(), st.integers(0, 5))
def test_merging_conserves_amplitude_and_place(codes, separation):
    """Per window, template and sign: the sum of the codes, and their centre to half a bin."""
    events = Events.from_codes(codes)
    merged = events.merge(separation)
    places = torch.arange(SHAPE[-1], dtype=torch.float64)
    assert len(merged) <= len(events)
    assert merged.onset.dtype == torch.int64
    together = Events(*vars(merged).values()).to_codes(SHAPE)
    for sign in (-1, 1):
        before, after = ((sign * c).clamp(min=0) for c in (codes, together))
        torch.testing.assert_close(after.sum(-1), before.sum(-1))
        moved = ((after - before) * places).sum(-1).abs()
        assert (moved <= after.sum(-1) / 2 + 1e-9).all()


@settings(max_examples=60)
@given(sparse(positive=True), st.integers(0, 5))
def test_merged_events_stand_where_their_cluster_was(codes, separation):
    merged = Events.from_codes(codes).merge(separation)
    for window, template, place in zip(
        merged.window, merged.template, merged.onset.tolist(), strict=True
    ):
        taken = codes[window, template].nonzero().flatten()
        assert int((taken - place).abs().min()) <= max(separation, 0)
        assert taken.min() <= place <= taken.max()


def test_merging_by_hand():
    codes = torch.zeros(2, 2, 10)
    codes[0, 0, [1, 2, 3]] = torch.tensor([1.0, 2.0, 1.0])  # one cluster at 2
    codes[0, 0, 6] = 5.0  # three bins away
    codes[0, 0, 7] = -5.0  # another sign
    codes[0, 1, 7] = 4.0  # another template
    codes[1, 1, 7] = 3.0  # another window
    codes[1, 1, 9] = 1.0
    merged = Events.from_codes(codes).merge(separation=2)
    assert merged.window.tolist() == [0, 0, 0, 0, 1]
    assert merged.template.tolist() == [0, 0, 0, 1, 1]
    assert merged.onset.tolist() == [2, 6, 7, 7, 8]  # 7.5 to the even neighbour
    assert merged.amplitude.tolist() == [4.0, 5.0, -5.0, 4.0, 4.0]
    chained = Events.from_codes(codes).merge(separation=3)
    assert chained.onset.tolist()[0] == 4  # (2 * 4 + 6 * 5) / 9 = 4.2
    untouched = Events.from_codes(codes).merge(separation=0)
    assert torch.equal(untouched.to_codes(codes.shape), codes)


@settings(max_examples=40)
@given(sparse(), st.integers(1, 3), st.integers(1, 6), st.integers(0, 99))
def test_adding_is_what_the_dictionary_does(codes, channels, length, seed):
    templates = random(2, channels, length, seed=seed)
    signal = random(3, channels, SHAPE[-1] + length - 1, seed=seed + 1)
    before = signal.clone()
    added = Events.from_codes(codes).add_to(signal, templates)
    with torch.no_grad():
        expected = signal + ConvDictionary(templates)(codes)
    torch.testing.assert_close(added, expected)
    assert torch.equal(signal, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_give_the_adjoint(channels):
    events = some_events()
    templates = random(2, channels, 5, seed=1)
    signal = random(3, channels, SHAPE[-1] + 4, seed=2)
    patches = events.patches(signal, 5)
    assert patches.shape == (len(events), channels, 5)
    scores = (patches * templates[events.template]).sum((1, 2))
    with torch.no_grad():
        adjoint = ConvDictionary(templates).adjoint(signal)
    torch.testing.assert_close(scores, adjoint[events.window, events.template, events.onset])


def test_derivatives_of_adding():
    events = some_events().take(torch.arange(5))
    signal, templates = random(3, 2, 14, seed=3), random(2, 2, 3, seed=4)

    def total(signal: Tensor, templates: Tensor, amplitude: Tensor) -> Tensor:
        return events.with_amplitude(amplitude).add_to(signal, templates)

    inputs = [tensor.requires_grad_() for tensor in (signal, templates, events.amplitude.clone())]
    assert torch.autograd.gradcheck(total, inputs)


def test_taking_some():
    events = some_events()
    large = events.take(events.amplitude > 1.5)
    assert 0 < len(large) < len(events)
    codes = events.to_codes(SHAPE)
    assert torch.equal(large.to_codes(SHAPE), torch.where(codes > 1.5, codes, 0))
    doubled = events.with_amplitude(2 * events.amplitude)
    assert torch.equal(doubled.to_codes(SHAPE), 2 * codes)


def test_windows_apart_and_together_again():
    events = some_events()
    parts = [events.within(first, first + 1) for first in range(3)]
    assert all((part.window == 0).all() for part in parts)
    joined = Events.joined([part.later(number) for number, part in enumerate(parts)])
    for name, value in vars(events).items():
        assert torch.equal(getattr(joined, name), value)
    codes = events.to_codes(SHAPE)
    assert torch.equal(events.within(1, 3).to_codes((2, 2, 12)), codes[1:])


def test_without_a_template():
    codes = random(3, 4, 12)
    left = Events.from_codes(codes).without(1).to_codes((3, 3, 12))
    assert torch.equal(left, codes[:, [0, 2, 3]])


def test_no_events():
    none = Events.from_codes(torch.zeros(SHAPE, dtype=torch.float64))
    signal = random(3, 1, 14)
    assert len(none) == len(none.merge(3)) == len(none.without(0)) == 0
    assert torch.equal(none.to_codes(SHAPE), torch.zeros(SHAPE, dtype=torch.float64))
    assert torch.equal(none.add_to(signal, random(2, 1, 3)), signal)
    assert none.patches(signal, 3).shape == (0, 1, 3)


class TestGroups:
    """Events of the units of a trial, which neighbouring windows hold."""

    def test_merging_by_hand(self):
        codes = torch.zeros(4, 2, 20)  # two trials of two units
        codes[0, 0, [3, 5]] = torch.tensor([2.0, 1.0])
        codes[1, 0, 6] = 3.0  # 1 bin from the last of the other unit
        codes[1, 1, 6] = 7.0  # another template
        codes[2, 0, 4] = 5.0  # another trial
        codes[3, 0, [11, 13]] = torch.tensor([1.0, -1.0])  # another sign
        merged = Events.from_codes(codes).merge(2, units=2)
        assert merged.window.tolist() == [0, 1, 1, 2, 3, 3]
        assert merged.template.tolist() == [0, 0, 1, 0, 0, 0]
        # (2 * 3 + 1 * 5 + 3 * 6) / 6 = 4.83
        assert merged.onset.tolist() == [5, 5, 6, 4, 11, 13]
        assert merged.amplitude.tolist() == [3.0, 3.0, 7.0, 5.0, 1.0, -1.0]
        assert merged.groups(2).tolist() == [0, 0, 1, 2, 3, 4]
        alone = Events.from_codes(codes).merge(2)
        assert alone.onset.tolist() == [4, 6, 6, 4, 11, 13]
        assert alone.groups(1).unique().numel() == 6

    @settings(max_examples=60)
    @given(sparse(positive=True), st.integers(0, 5))
    def test_units_keep_their_amplitude_and_share_their_places(self, codes, separation):
        merged = Events.from_codes(codes).merge(separation, units=3)
        after = merged.to_codes(SHAPE)
        torch.testing.assert_close(after.sum(-1), codes.sum(-1))
        places = torch.arange(SHAPE[-1], dtype=torch.float64)
        moved = ((after - codes) * places).sum((0, 2)).abs()
        assert (moved <= after.sum((0, 2)) / 2 + 1e-9).all()
        for template in range(2):
            starts = merged.onset[merged.template == template].unique()
            assert (starts.diff() > 0).all()
            together = codes[:, template].sum(0).nonzero().flatten()
            clusters = 1 + int((together.diff() > separation).sum()) if len(together) else 0
            assert len(starts) == clusters
