"""Models and checkpoints: the same bits come back, from another process and after a kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import TRAINERS, quick, same_bits, some_counts

import spikecdl
from spikecdl import (
    DCEA,
    L1,
    Alternating,
    Binomial,
    GroupL1,
    NegativeBinomial,
    Unrolled,
    checkpoint,
)
from spikecdl.training import initialization

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
each_trainer = pytest.mark.parametrize("trainer", sorted(TRAINERS))

MODELS = {
    "names": lambda: quick(penalty_weight=None),
    "implicit": lambda: quick(trainer="implicit"),
    "unrolled": lambda: quick(trainer="unrolled"),
    "untied": lambda: quick(trainer=Unrolled(n_unrolled=8, tied=False, step=0.02)),
    "objects": lambda: quick(
        Binomial(n_trials=np.int64(40)),
        Alternating(separation=0.3),
        penalty=L1(sign=("both",)),
        baseline=(0.0, 50.0),
        random_state=np.int64(7),
    ),
    "groups": lambda: quick(
        NegativeBinomial(shape=3.5), penalty=GroupL1(), baseline=np.array([1.0, 2.0])
    ),
    "joint": lambda: quick(layout="joint", baseline=[0.5, 1.5]),
    "random state": lambda: quick(random_state=np.random.RandomState(0)),
}


class TestModel:
    """`DCEA.save` and `spikecdl.load`."""

    @pytest.mark.parametrize("name", MODELS)
    def test_comes_back_to_the_bit_and_is_the_same_file_for_the_same_fit(self, name, tmp_path):
        counts = some_counts("binomial")
        model = MODELS[name]().fit(counts)
        for number, one in enumerate((model, MODELS[name]().fit(counts))):
            (tmp_path / str(number)).mkdir()
            one.save(tmp_path / str(number))
        for file in ("model.safetensors", "model.json"):
            one, two = ((tmp_path / str(number) / file).read_bytes() for number in range(2))
            assert one == two
        model.save(tmp_path / "a.model")
        again = spikecdl.load(tmp_path / "a.model")
        assert same_bits(again.templates_, model.templates_)
        assert same_bits(again.baseline_, model.baseline_)
        assert same_bits(again.transform(counts), model.transform(counts))
        assert same_bits(again.predict(counts), model.predict(counts))
        assert again.score(counts) == model.score(counts)
        for attribute in ("history_", "converged_", "n_iter_", "penalty_weight_", "unit_ids_"):
            assert getattr(again, attribute) == getattr(model, attribute)
        assert repr(again.get_params()["trainer"]) == repr(model.get_params()["trainer"])

    def test_fits_again_to_the_same_bits(self, tmp_path):
        counts = some_counts("binomial")
        model = MODELS["objects"]().fit(counts)
        model.save(tmp_path / "model")
        again = spikecdl.load(tmp_path / "model").fit(counts)
        assert same_bits(again.templates_, model.templates_)

    def test_another_process_finds_the_same_codes(self, tmp_path):
        counts = some_counts()
        model = quick().fit(counts)
        model.save(tmp_path / "model")
        np.save(tmp_path / "counts.npy", counts.counts)
        code = (
            "import sys, numpy, spikecdl, pathlib; folder = pathlib.Path(sys.argv[1]);"
            "codes = spikecdl.load(folder / 'model').transform(numpy.load(folder / 'counts.npy'));"
            "numpy.save(folder / 'codes.npy', codes)"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment())
        assert same_bits(np.load(tmp_path / "codes.npy"), model.transform(counts))

    def test_is_found_by_folder_stem_or_file(self, tmp_path):
        model = quick().fit(some_counts())
        model.save(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}
        for path in ("", "model", "model.json", "model.safetensors"):
            assert same_bits(spikecdl.load(tmp_path / path).templates_, model.templates_)

    def test_json_is_for_people(self, tmp_path):
        MODELS["objects"]().fit(some_counts("binomial")).save(tmp_path)
        content = json.loads((tmp_path / "model.json").read_text())
        assert content["spikecdl"] == spikecdl.__version__
        assert content["settings"]["family"] == {"name": "binomial", "n_trials": 40}
        assert content["settings"]["baseline"] == {"window": [0.0, 50.0]}
        assert content["fitted"]["n_bins_"] == 12

    def test_what_is_not_a_model_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no model at"):
            spikecdl.load(tmp_path / "nothing")
        (tmp_path / "text.safetensors").write_text("templates")
        with pytest.raises(ValueError, match="not a file written by spikecdl, or damaged"):
            spikecdl.load(tmp_path / "text")
        checkpoint.save_tensors(tmp_path / "checkpoint.safetensors", {"a": torch.ones(1)}, {})
        with pytest.raises(ValueError, match="not a model"):
            spikecdl.load(tmp_path / "checkpoint")

    def test_damage_is_found(self, tmp_path):
        quick().fit(some_counts()).save(tmp_path)
        file = tmp_path / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-3] ^= 4
        file.write_bytes(content)
        with pytest.raises(ValueError, match="SHA-256"):
            spikecdl.load(tmp_path)

    def test_what_cannot_be_written_is_said_before_anything_is(self, tmp_path):
        class MyPenalty(L1):
            pass

        model = quick(penalty=MyPenalty()).fit(some_counts())
        with pytest.raises(TypeError, match="`penalty`.*cannot be saved"):
            model.save(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_unfitted(self, tmp_path):
        with pytest.raises(ValueError, match="not fitted"):
            DCEA().save(tmp_path)


#: A fit that takes all of its epochs.
LONG = {
    "n_templates": 2,
    "penalty_weight": None,
    "n_epochs": 3,
    "random_state": 2,
}  # takes all three


class Stop(Exception):
    """The power goes."""


def stop_after(epochs: int):
    def on_epoch(state):
        if state.epoch == epochs:
            raise Stop

    return on_epoch


class TestResume:
    """A fit that was broken off goes on as if it had not been."""

    @pytest.mark.parametrize(
        ("trainer", "epochs"),
        [("alternating", 1), ("alternating", 2), ("implicit", 1), ("unrolled", 2)],
    )
    def test_gives_the_bits_of_an_unbroken_fit(self, trainer, epochs, tmp_path):
        file, counts = tmp_path / "checkpoint.safetensors", some_counts()
        model = quick(trainer=trainer, **LONG)
        with pytest.raises(Stop):
            model.fit(counts, checkpoint=file, on_epoch=stop_after(epochs))
        seen = []
        on_epoch = lambda state: seen.append(state.epoch)  # noqa: E731
        model.fit(counts, checkpoint=file, resume=True, on_epoch=on_epoch)
        whole = quick(trainer=trainer, **LONG).fit(counts)
        assert whole.n_iter_ == 3
        assert seen == list(range(epochs + 1, whole.n_iter_ + 1))
        assert same_bits(model.templates_, whole.templates_)
        assert same_bits(model.transform(counts), whole.transform(counts))
        assert [r["loss"] for r in model.history_] == [r["loss"] for r in whole.history_]
        assert model.converged_ == whole.converged_

    @pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
    def test_goes_on_from_every_step_before_the_first_epoch(self, family, tmp_path, monkeypatch):
        """The shape of a negative binomial is estimated by a fit of its own."""
        counts = some_counts()
        long = {**LONG, "family": family}
        whole = quick(**long).fit(counts)
        whole.save(tmp_path / "whole")
        monkeypatch.setattr(checkpoint, "MOMENT", 0.0)
        rounds, save, written = counting(monkeypatch), checkpoint.save_tensors, []

        def save_and_stop(path, tensors, about):
            save(path, tensors, about)
            written.append(about["epoch"])
            raise Stop

        file, model = tmp_path / "checkpoint", quick(**long)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_tensors", save_and_stop)
            while not any(written):
                with pytest.raises(Stop):
                    model.fit(counts, checkpoint=file, resume=True)
        n_steps = len(written) - 1
        assert n_steps > 12
        broken_off = len(rounds)
        model.fit(counts, checkpoint=file, resume=True).save(tmp_path / "model")
        assert len(rounds) == broken_off  # nothing before the first epoch was computed again
        quick(**long).fit(counts)
        assert broken_off == len(rounds) - broken_off  # nor was anything computed twice
        for name in ("whole", "model"):
            assert same_file(tmp_path / name, tmp_path / "whole")

    def test_untied_weights_too(self, tmp_path):
        file, counts = tmp_path / "checkpoint", some_counts("binomial")
        trainer = Unrolled(n_unrolled=8, tied=False, step=0.02, batch_size=3)
        model = quick("binomial", trainer, n_epochs=3)
        with pytest.raises(Stop):
            model.fit(counts, checkpoint=file, on_epoch=stop_after(2))
        model.fit(counts, checkpoint=file, resume=True)
        whole = quick("binomial", trainer, n_epochs=3).fit(counts)
        for name, tensor in whole.tensors_.items():
            assert torch.equal(model.tensors_[name], tensor), name

    @each_trainer
    def test_a_finished_fit_is_as_it_was(self, trainer, tmp_path):
        file, counts = tmp_path / "checkpoint", some_counts()
        model = quick(trainer=trainer).fit(counts, checkpoint=file)
        again = quick(trainer=trainer).fit(
            counts, checkpoint=file, resume=True, on_epoch=lambda state: pytest.fail("an epoch")
        )
        assert same_bits(again.templates_, model.templates_)
        assert again.history_ == model.history_

    def test_goes_on_for_more_epochs(self, tmp_path):
        file, counts = tmp_path / "checkpoint", some_counts()
        quick(trainer="unrolled", n_epochs=1).fit(counts, checkpoint=file)
        more = quick(trainer="unrolled", n_epochs=3).fit(counts, checkpoint=file, resume=True)
        whole = quick(trainer="unrolled", n_epochs=3).fit(counts)
        assert same_bits(more.templates_, whole.templates_)

    def test_without_a_file_begins(self, tmp_path):
        model = quick().fit(some_counts(), checkpoint=tmp_path / "new", resume=True)
        assert model.n_iter_ >= 1
        assert (tmp_path / "new").exists()
        with pytest.raises(ValueError, match="`resume`.*needs `checkpoint`"):
            quick().fit(some_counts(), resume=True)

    @pytest.mark.parametrize(
        "change",
        [{"random_state": 1}, {"penalty_weight": 0.3}, {"family": "negative_binomial"}],
        ids=lambda change: next(iter(change)),
    )
    def test_of_other_settings_is_refused(self, change, tmp_path):
        file = tmp_path / "checkpoint"
        quick().fit(some_counts(), checkpoint=file)
        with pytest.raises(ValueError, match="`checkpoint`.*of another fit"):
            quick().set_params(**change).fit(some_counts(), checkpoint=file, resume=True)

    def test_of_other_data_is_refused(self, tmp_path):
        file = tmp_path / "checkpoint"
        quick().fit(some_counts(), checkpoint=file)
        with pytest.raises(ValueError, match="`checkpoint`.*of another fit"):
            quick().fit(some_counts(seed=1), checkpoint=file, resume=True)

    def test_damaged_is_refused(self, tmp_path):
        file = tmp_path / "checkpoint"
        quick().fit(some_counts(), checkpoint=file)
        file.write_bytes(file.read_bytes()[:-10])
        with pytest.raises(ValueError, match="damaged"):
            quick().fit(some_counts(), checkpoint=file, resume=True)

    def test_in_use_is_refused(self, tmp_path):
        file, counts = tmp_path / "checkpoint", some_counts()

        def on_epoch(state):
            with pytest.raises(ValueError, match=r"`checkpoint` .* is in use by process"):
                quick().fit(counts, checkpoint=file)
            raise Stop

        with pytest.raises(Stop):
            quick().fit(counts, checkpoint=file, on_epoch=on_epoch)
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]

    def test_what_a_killed_write_has_left_is_removed(self, tmp_path):
        (tmp_path / ".fit-0123abcd.tmp").write_bytes(b"half")
        quick().fit(some_counts(), checkpoint=tmp_path / "fit.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]

    def test_a_model_is_no_checkpoint(self, tmp_path):
        quick().fit(some_counts()).save(tmp_path / "model")
        with pytest.raises(ValueError, match="of another fit"):
            quick().fit(some_counts(), checkpoint=tmp_path / "model.safetensors", resume=True)

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
    def test_after_kill_9(self, tmp_path):
        file = tmp_path / "checkpoint"
        code = (
            "import sys, time; from fits import quick, some_counts;"
            f"quick(**{LONG}).fit(some_counts(), checkpoint=sys.argv[1],"
            "on_epoch=lambda state: time.sleep(0.2))"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(file)], env=environment())
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert checkpoint.load_tensors(file)[1]["epoch"] < 3
        model = quick(**LONG).fit(some_counts(), checkpoint=file, resume=True)
        whole = quick(**LONG).fit(some_counts())
        assert same_bits(model.templates_, whole.templates_)
        assert same_bits(model.baseline_, whole.baseline_)


def counting(monkeypatch) -> list[None]:
    """Return a list that becomes longer with each candidate of an initialization."""
    found, original = [], initialization.Initialization._rounds

    def rounds(*arguments):
        found.append(None)
        return original(*arguments)

    monkeypatch.setattr(initialization.Initialization, "_rounds", rounds)
    return found


def same_file(one: Path, other: Path) -> bool:
    """Whether two models are the same bytes."""
    first, second = (path.with_suffix(".safetensors").read_bytes() for path in (one, other))
    return first == second


def environment() -> dict[str, str]:
    """Return an environment in which another process finds this working tree."""
    folders = [Path(__file__).parents[1], Path(__file__).parent]
    paths = [*map(str, folders), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
