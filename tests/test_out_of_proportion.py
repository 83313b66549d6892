"""Arguments out of proportion to the data, and values of odd kinds: refused at once, or read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from tables import refused

import spikecdl
from spikecdl import DCEA, BinnedSpikes, SpikeTrains
from spikecdl.io import read, write_npz

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")

COUNTS = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.3, (6, 2, 60)), 0.005)
LONG = ["x" * 5000, [*range(3000)], np.zeros((300, 300)), {"a": "b" * 3000}, "a\nb\nc"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"history": 1e9}, "longer than the window"),
        ({"history": spikecdl.History(1e9)}, "longer than the window"),
        ({"bursts": 1e9}, "longer than the window"),
        ({"drift": 1e-9}, "faster than a template is long"),
        ({"n_templates": 10**6}, "more values than there are counts"),
        ({"device": "cpu:x"}, "'auto', 'cpu', 'cuda' or such as 'cuda:0'"),
        ({"random_state": "seed"}, "must be a whole number, None or a RandomState"),
    ],
    ids=str,
)
def test_arguments(arguments, words):
    with refused(ValueError, words, arguments):
        DCEA(**{"n_templates": 1, "template_length": 0.05, "family": "poisson"} | arguments).fit(
            COUNTS
        )


@pytest.mark.parametrize("value", [1e9, -1e15])
def test_a_signal_with_an_artifact(value):
    signal = np.random.default_rng(0).normal(size=(4, 1, 400))
    signal[0, 0, 5] = value
    with refused(ValueError, "an artifact, or a value that is missing; mask it", value):
        DCEA(1, 10, "gaussian").fit(signal)
    mask = np.abs(signal) < 1e6
    DCEA(1, 10, "gaussian", n_epochs=1, trainer="alternating").fit(
        BinnedSpikes.from_array(np.where(mask, signal, 0.0), mask=mask)
    )


@pytest.mark.parametrize("value", LONG, ids=lambda value: type(value).__name__)
def test_errors_are_one_line_however_long_a_value_is(value):
    spikes = SpikeTrains.from_arrays([[0.1]], trials={"start_time": [0.0], "stop_time": [1.0]})
    calls = [
        *((DCEA, name) for name in DCEA().get_params()),
        *((spikes.bin, name) for name in ("bin_size", "trials", "units", "align")),
    ]
    said = []
    for function, name in calls:
        known = {"bin_size": 0.01} if function == spikes.bin else {"template_length": 0.05}
        try:
            made = function(**{**known, name: value})
            if function is DCEA:
                made.fit(COUNTS)
        except (TypeError, ValueError) as error:
            said.append(str(error))
    for path in (str(value), value if isinstance(value, str) else str(value)):
        with pytest.raises(FileNotFoundError) as error:
            spikecdl.load(path)
        said.append(str(error.value))
    assert len(said) > 10
    assert [text for text in said if len(text) > 500 or "\n" in text] == []


def test_tensors_of_many_kinds():
    values = torch.from_numpy(np.array(COUNTS.counts, np.float32))
    kinds = {
        "with a gradient": values.clone().requires_grad_(),
        "bfloat16": values.bfloat16(),
        "sparse": values.to_sparse(),
    }
    for kind, tensor in kinds.items():
        assert np.array_equal(BinnedSpikes.from_array(tensor, 0.005).counts, COUNTS.counts), kind
    model = DCEA(1, 0.05, bin_size=0.005, n_epochs=1).fit(kinds["with a gradient"])
    assert model.predict(kinds["bfloat16"]).shape == COUNTS.shape


def test_a_decomposition_is_pickled_with_its_probabilities():
    parts = DCEA(1, 0.05, "poisson", n_epochs=2).fit(COUNTS).decompose(COUNTS)
    again = pickle.loads(pickle.dumps(parts))
    assert again.events().equals(parts.events())
    assert np.array_equal(again.rate, parts.rate)
    assert np.array_equal(again.contributions, parts.contributions)
    assert np.array_equal(again.drawn_mean, parts.drawn_mean)


def test_columns_of_an_archive(tmp_path):
    trials = {"start_time": [0.0], "stop_time": [1.0], "depth": [1.0]}
    write_npz(tmp_path / "a.npz", SpikeTrains.from_arrays([[0.1, 0.2]], trials=trials))
    with np.load(tmp_path / "a.npz") as archive:
        arrays = dict(archive)
    assert arrays["trials/2"].tolist() == [1.0]
    for name in ("times", "times_ends", "observed", "trials/0", "trials/2"):
        array = arrays[name]
        np.savez(tmp_path / "b.npz", **arrays | {name: array.astype(array.dtype.newbyteorder(">"))})
        assert read(tmp_path / "b.npz").trials.depth.dtype == np.dtype(float)
        for dtype in ([("a", "f8")], "V8", complex):
            np.savez(tmp_path / "b.npz", **arrays | {name: np.zeros(array.shape, dtype)})
            with refused(ValueError, f"array '{name}' must hold real numbers", dtype):
                read(tmp_path / "b.npz")
