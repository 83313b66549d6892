"""Events listed from their probabilities, with moments."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl.events.table import describe_events, list_events


def test_events_are_listed_with_their_moments():
    posterior = np.zeros((1, 1, 2, 20))
    posterior[0, 0, 0, 4:7] = [0.1, 0.3, 0.1]
    posterior[0, 0, 1, 5] = 0.3
    posterior[0, 0, 0, 15] = 0.4
    amplitudes = np.array([[1.0, 2.0]])
    (event,) = list_events(posterior, amplitudes, 2, 0.5)
    window, template, onset, probability, time, time_sd, amplitude = event
    assert (window, template, onset) == (0, 0, 5)
    np.testing.assert_allclose([probability, time, amplitude], [0.8, 5, (0.5 + 2 * 0.3) / 0.8])
    np.testing.assert_allclose(time_sd, np.sqrt(0.2 / 0.8), rtol=0.15)  # but for times in bins
    places = (np.array([0, 0]), np.array([0, 0]), np.array([6, 15]))
    first, second = describe_events(posterior, amplitudes, 2, *places)
    np.testing.assert_allclose([first[3], second[3]], [0.8, 0.4])
    assert (first[2], second[2]) == (6, 15)


@pytest.mark.parametrize("sd", [0.3, 0.5, 2.0])
@pytest.mark.parametrize("at", [8.0, 8.2, 8.4])
def test_times_lie_between_bins(at, sd):
    """The moments of a normal density, of which the probabilities are values at bins."""
    density = np.exp(-((np.arange(20) - at) ** 2) / (2 * sd**2))
    posterior = (0.9 * density / density.sum())[None, None, None]
    (event,) = list_events(posterior, np.ones((1, 1)), 8, 0.5)
    assert event[2] == round(at)
    np.testing.assert_allclose(event[4], at, atol=0.02)
    np.testing.assert_allclose(event[5], sd, rtol=0.03)
