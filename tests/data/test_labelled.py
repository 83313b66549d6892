"""Arrays that say what their axes are: their order is read, and unknown names are refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from spikecdl import DCEA, BinnedSpikes, goodness_of_fit

VALUES = np.random.default_rng(0).poisson(0.4, (4, 2, 30))  # trial, unit, bin
EDGES = -0.1 + 0.01 * np.arange(30)


@pytest.fixture
def xr():
    return pytest.importorskip("xarray")


@pytest.fixture
def nap():
    return pytest.importorskip("pynapple")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("unit", "trial", "time"), (1, 0, 2)),
        (("time", "trials", "neurons"), (2, 0, 1)),
        (("Trial", "cell", "bin"), (0, 1, 2)),
    ],
)
def test_dimensions_are_read_by_name(xr, names, order):
    counts = BinnedSpikes.from_array(xr.DataArray(VALUES.transpose(order), dims=names), 0.01)
    np.testing.assert_array_equal(counts.counts, VALUES)
    assert (counts.bin_size, counts.t_start) == (0.01, 0.0)


def test_coordinates_are_ids_and_times(xr):
    coords = {"unit": ["a", "b"], "trial": [5, 6, 7, 9], "time": EDGES}
    array = xr.DataArray(VALUES.transpose(1, 0, 2), dims=("unit", "trial", "time"), coords=coords)
    counts = BinnedSpikes.from_array(array)
    assert (counts.unit_ids, counts.trial_ids) == (("a", "b"), (5, 6, 7, 9))
    assert (counts.bin_size, counts.t_start) == (0.01, -0.1)
    masked = BinnedSpikes.from_array(array, mask=array > -1)
    np.testing.assert_array_equal(masked.counts, VALUES)
    with pytest.raises(ValueError, match=r"`bin_size` \(=5\) must be 0.01, or left out"):
        BinnedSpikes.from_array(array, 5)


def test_one_trial_or_one_unit(xr):
    one_trial = xr.DataArray(VALUES[0].T, dims=("time", "unit"))
    np.testing.assert_array_equal(BinnedSpikes.from_array(one_trial).counts, VALUES[:1])
    one_unit = xr.DataArray(VALUES[:, 0].T, dims=("time", "trial"))
    np.testing.assert_array_equal(BinnedSpikes.from_array(one_unit).counts, VALUES[:, :1])


@pytest.mark.parametrize(
    "names", [None, ("unit", "trial", "frequency"), ("unit", "neuron", "time"), ("unit", "trial")]
)
def test_unknown_dimensions_are_refused(xr, names):
    values = VALUES if names is None or len(names) == 3 else VALUES[0]
    array = xr.DataArray(values, dims=names)
    for take in (BinnedSpikes.from_array, DCEA(1, 5).fit):
        with pytest.raises(
            ValueError, match="must be named trial, unit and time; use its `rename`"
        ):
            take(array)


def test_uneven_or_odd_times_are_refused(xr):
    array = xr.DataArray(VALUES[0], dims=("unit", "time"), coords={"time": EDGES**2})
    with pytest.raises(ValueError, match="time must rise in even steps"):
        BinnedSpikes.from_array(array)
    array["time"] = [f"{edge}" for edge in EDGES]
    with pytest.raises(TypeError, match="'time' must be numbers, in seconds"):
        BinnedSpikes.from_array(array)


def test_a_model_takes_a_data_array_as_it_takes_counts(xr):
    array = xr.DataArray(
        VALUES.transpose(1, 0, 2), dims=("unit", "trial", "time"), coords={"time": EDGES}
    )
    counts = BinnedSpikes.from_array(VALUES, 0.01, t_start=-0.1)
    settings = {"n_epochs": 30, "penalty_weight": 0.2, "random_state": 0}
    one = DCEA(1, 0.05, **settings).fit(counts)
    other = DCEA(1, 0.05, **settings).fit(array)
    np.testing.assert_array_equal(one.templates_, other.templates_)
    np.testing.assert_array_equal(one.predict(counts), other.predict(array))
    assert one.score(counts) == one.score(array)
    tests = [goodness_of_fit.time_rescaling(one, given) for given in (counts, array)]
    np.testing.assert_array_equal(tests[0].distance, tests[1].distance)


def test_counts_of_pynapple_are_time_by_unit_with_a_trial_for_each_epoch(nap):
    times = np.sort(np.random.default_rng(1).uniform(0.0, 3.0, 90))
    support = nap.IntervalSet(0.0, 3.0)
    group = nap.TsGroup({7: nap.Ts(times), 3: nap.Ts(times[::4])}, time_support=support)
    counts = BinnedSpikes.from_array(group.count(0.1))
    assert (counts.unit_ids, counts.shape, counts.bin_size) == ((3, 7), (1, 2, 30), 0.1)
    np.testing.assert_array_equal(counts.counts[0, 1], np.histogram(times, 30, (0.0, 3.0))[0])
    assert counts.trial_starts == [0.0]
    epochs = nap.IntervalSet([0.0, 1.0, 2.0], [0.5, 1.01, 2.3])
    some = BinnedSpikes.from_array(group.count(0.1, ep=epochs))
    kept = [trial for trial in some.trial_ids if trial != 1]  # the second holds no whole bin
    assert kept == [0, 2]
    rows = [some.trial_ids.index(trial) for trial in kept]
    np.testing.assert_array_equal(some.trial_starts[rows], [0.0, 2.0])
    assert list(some.mask[rows, 0].sum(1)) == [5, 3]
    np.testing.assert_array_equal(some.counts[rows[1], 1, :3], counts.counts[0, 1, 20:23])


def test_a_sparse_array_is_unit_by_bin_but_no_input_of_scikit_learn():
    matrix = scipy.sparse.csr_array(VALUES[0])
    np.testing.assert_array_equal(BinnedSpikes.from_array(matrix, 0.01).counts, VALUES[:1])
    with pytest.raises(TypeError, match="(?i)sparse"):
        DCEA(1, 5).fit(matrix)
    with pytest.raises(ValueError, match=r"a sparse array \(3,\) must be \(unit, bin\)"):
        BinnedSpikes.from_array(scipy.sparse.coo_array(np.array([1, 0, 2])))
