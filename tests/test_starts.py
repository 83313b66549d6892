"""Waveforms taken from a signal as templates to start from."""

from __future__ import annotations

import torch

from spikecdl.training.starts import recurring


def test_what_comes_back_is_chosen_over_what_comes_once():
    draw = torch.Generator().manual_seed(0)
    wave = torch.hann_window(21, periodic=False) * torch.sin(torch.arange(21) / 2.5)
    signal = torch.zeros(12, 1, 200)
    for window in range(12):
        place = 20 + 5 * window
        signal[window, 0, place : place + 21] = wave * (1 + window / 12)
    signal[0, 0, 150:170] = torch.randn(20, generator=draw) * 2
    for seed in range(5):
        found = recurring(signal, 31, torch.Generator().manual_seed(seed))
        assert found.shape == (1, 1, 31)
        torch.testing.assert_close(found.norm(), torch.tensor(1.0))
        overlap = torch.nn.functional.conv1d(found, (wave / wave.norm())[None, None], padding=20)
        assert overlap.max() > 0.98


def test_nothing_recurs_in_silence():
    found = recurring(torch.zeros(2, 3, 50), 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.norm(), torch.tensor(1.0))
