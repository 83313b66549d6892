"""Arguments made into objects, and written as plain values that give the same objects back."""

from __future__ import annotations

import json
import threading
from dataclasses import fields

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from spikecdl import DCEA, L1, Binomial, config
from spikecdl.model.families import FAMILIES, Poisson
from spikecdl.model.penalties import PENALTIES
from spikecdl.solvers import parallel
from spikecdl.training import TRAINERS


def back(**arguments):
    """Write arguments as JSON and read them again."""
    every = {**DCEA().get_params(deep=False), **arguments}
    restored = config.restore(json.loads(json.dumps(config.describe(every))))
    assert restored.keys() == every.keys()
    return restored


class TestRoundTrip:
    """`describe` and `restore`."""

    def test_defaults(self):
        assert back() == DCEA().get_params(deep=False)

    @pytest.mark.parametrize("name", sorted(FAMILIES))
    def test_families(self, name):
        family = FAMILIES[name]()
        restored = back(family=family)["family"]
        assert type(restored) is type(family)
        assert restored.config() == family.config()

    def test_trials_of_each_window(self):
        trials = torch.tensor([[[3]], [[4]]])
        restored = back(family=Binomial(n_trials=trials))["family"]
        assert torch.equal(torch.as_tensor(restored.n_trials), trials)

    @pytest.mark.parametrize("name", sorted(PENALTIES))
    @pytest.mark.parametrize("sign", ["both", ("positive", "both")])
    def test_penalties(self, name, sign):
        restored = back(penalty=PENALTIES[name](sign=sign))["penalty"]
        assert type(restored) is PENALTIES[name]
        assert restored.sign == sign or restored.sign == list(sign)

    @pytest.mark.parametrize("name", sorted(TRAINERS))
    def test_trainers(self, name):
        kind = TRAINERS[name]
        first = fields(kind)[0].name
        trainer = kind(**{first: 13})
        assert back(trainer=trainer)["trainer"] == trainer

    @pytest.mark.parametrize(
        ("baseline", "expected"),
        [
            ((0, 1.5), (0.0, 1.5)),
            ([1.0, 2.0], [1.0, 2.0]),
            (np.array([[1.0], [2.0]]), [[1.0], [2.0]]),
            (np.float32(0.5), 0.5),
            ([np.int64(3)], [3]),
        ],
    )
    def test_baselines(self, baseline, expected):
        restored = back(baseline=baseline)["baseline"]
        assert restored == expected
        assert type(restored) is type(expected)

    def test_random_states(self):
        assert back(random_state=np.int64(4))["random_state"] == 4
        assert back(random_state=np.random.RandomState(4))["random_state"] is None

    def test_what_is_not_of_the_package_is_refused(self):
        class MyPoisson(Poisson):
            pass

        class MyL1(L1):
            pass

        for arguments in ({"family": MyPoisson()}, {"penalty": MyL1()}, {"trainer": object()}):
            with pytest.raises(TypeError, match=f"`{next(iter(arguments))}`.*cannot be saved"):
                config.describe(arguments)


class TestObjects:
    """What arguments stand for."""

    @pytest.mark.parametrize(("length", "size", "bins"), [(0.125, 0.005, 25), (0.3, 0.1, 3)])
    def test_lengths_in_bins(self, length, size, bins):
        assert config.template_bins(length, size, 100) == bins

    @pytest.mark.parametrize("length", [0.004, 0.0126, 0.0149])
    def test_lengths_that_are_not_whole_name_the_nearest(self, length):
        nearest = max(round(length / 0.005), 1) * 0.005
        with pytest.raises(ValueError, match=f"`template_length`.*nearest is {nearest:g}"):
            config.template_bins(length, 0.005, 100)

    def test_generators(self):
        def draw(random_state):
            return torch.rand(3, generator=config.generator(random_state)).tolist()

        assert draw(3) == draw(np.int32(3)) != draw(4)
        assert draw(np.random.RandomState(1)) == draw(np.random.RandomState(1))


class TestThreads:
    """One thread for small problems."""

    @pytest.fixture(autouse=True)
    def _two_threads(self):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        with threadpool_limits(2, user_api="blas"):
            yield
        torch.set_num_threads(before)

    @staticmethod
    def _of_blas():
        return [x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas"]

    def test_small_and_large(self):
        with parallel.for_size(9, small=10):
            assert {torch.get_num_threads(), *self._of_blas()} == {1}
        assert {torch.get_num_threads(), *self._of_blas()} == {2}
        with parallel.for_size(10, small=10):
            assert {torch.get_num_threads(), *self._of_blas()} == {2}

    def test_other_threads_keep_theirs(self):
        """Two fits at a time: the second begins in the first, and ends after it."""
        seen, inside, done = {}, threading.Event(), threading.Event()

        def first():
            with parallel.for_size(1):
                seen["first"] = torch.get_num_threads()
                inside.set()
                done.wait(60)

        def second():
            seen["before"] = torch.get_num_threads()
            with parallel.for_size(1):
                done.set()
                other.join(60)
                seen["second"] = torch.get_num_threads()
            seen["after"] = torch.get_num_threads()

        other, mine = threading.Thread(target=first), threading.Thread(target=second)
        other.start()
        assert inside.wait(60)
        assert torch.get_num_threads() == 2
        mine.start()
        mine.join(60)
        assert set(self._of_blas()) == {2}
        assert seen == {"first": 1, "before": 2, "second": 1, "after": 2}
        assert torch.get_num_threads() == 2

    def test_restored_after_an_error(self):
        with pytest.raises(KeyError), parallel.for_size(1):
            raise KeyError
        assert torch.get_num_threads() == 2

    def test_each_item_on_a_thread_of_its_own(self):
        used = []

        def square(number: int) -> torch.Tensor:
            used.append((torch.get_num_threads(), torch.is_grad_enabled()))
            return (torch.full((2, 2), float(number)) @ torch.eye(2, requires_grad=True)).square()

        with torch.autocast("cpu", torch.bfloat16):
            found = list(parallel.on_each(square, range(5), torch.device("cpu")))
        assert [float(one[0, 0]) for one in found] == [0, 1, 4, 9, 16]
        assert {one.dtype for one in found} == {torch.bfloat16}  # the precision of the caller
        assert used == [(1, False)] * 5
        assert torch.get_num_threads() == 2

    def test_errors_of_an_item_are_raised(self):
        with pytest.raises(ZeroDivisionError):
            list(parallel.on_each(lambda number: 1 / number, [1, 0, 2], torch.device("cpu")))
        assert torch.get_num_threads() == 2
