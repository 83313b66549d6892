"""Rasters: a mark per spike, where it was fired."""

from __future__ import annotations

import numpy as np
from decompositions import made_up
from drawings import marks

from spikecdl import plots
from spikecdl.data import SpikeTrains


def test_raster_has_a_mark_for_each_spike():
    mask = np.ones((4, 3, 120), bool)
    mask[1, :, :48], mask[2] = False, False
    counts = made_up(units=3, mask=mask).counts
    for unit in range(3):
        drawn = marks(plots.raster(counts, unit))
        trial, at = np.nonzero(counts.counts[:, unit])
        np.testing.assert_allclose(drawn[:, :, 0], np.tile((at + 0.5)[:, None] * 0.005, 2))
        np.testing.assert_allclose(drawn[:, :, 1].mean(axis=1), trial)
    every = marks(plots.raster(counts, None))
    assert len(every) == counts.counts.sum()
    assert np.bincount(every[:, :, 1].mean(axis=1).astype(int) // 4).tolist() == (
        counts.counts.sum(axis=(0, 2)).tolist()
    )


def test_raster_of_spike_trains_is_aligned_to_the_millisecond():
    trials = {"start_time": [0.0, 1.0], "stop_time": [1.0, 2.0], "cue": [0.2, 1.5]}
    spikes = SpikeTrains.from_arrays({"a": [0.25, 0.5], "b": [1.2504, 1.9]}, trials=trials)
    np.testing.assert_allclose(
        marks(plots.raster(spikes, 1))[:, 0], [[0.2505, 0.58], [0.9005, 0.58]]
    )
    ax = plots.raster(spikes, 0, align="cue", window=(0.0, 0.4))
    np.testing.assert_allclose(marks(ax)[:, 0], [[0.0505, -0.42], [0.3005, -0.42]])
    assert ax.get_xlim() == (0.0, 0.4)


def test_raster_of_an_hour_is_not_drawn_by_milliseconds():
    spikes = SpikeTrains.from_arrays([np.arange(1.0, 3600.0, 7.0)], observed=(0.0, 3600.0))
    ax = plots.raster(spikes)
    np.testing.assert_allclose(marks(ax)[:, 0, 0], np.arange(1.0, 3600.0, 7.0), atol=0.08)
