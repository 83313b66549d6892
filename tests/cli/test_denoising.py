"""`spikecdl denoise`: a frame, a stack, training and comparison, and what goes wrong."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from commands import run, succeeded

from spikecdl.denoise import PoissonDenoiser, estimate_peak, read_images, write_images

pytest.importorskip("skimage")


@pytest.fixture
def counts(tmp_path):
    """Two frames in a TIFF file."""
    row, column = np.mgrid[:60, :50]
    rate = 2 + 2 * np.sin(row / 9) * np.cos(column / 7)
    frames = np.random.default_rng(0).poisson([rate, rate[::-1]])
    write_images(tmp_path / "noisy.tif", frames)
    return frames


@pytest.fixture
def folder(tmp_path):
    """Clean images."""
    place = tmp_path / "clean"
    place.mkdir()
    row, column = np.mgrid[:40, :44]
    for number in range(4):
        write_images(place / f"{number}.png", 1 + np.sin(row / (3 + number) + column / 5))
    return place


class TestImage:
    def test_a_stack(self, counts, tmp_path):
        found = succeeded(
            run("denoise", tmp_path / "noisy.tif", "--out", tmp_path / "clean.npy", "--json")
        ).json
        assert found["frames"] == 2
        assert found["shape"] == [60, 50]
        assert found["peak_estimated"]
        assert found["peak"] == pytest.approx(max(map(estimate_peak, counts)))
        expected = PoissonDenoiser.pretrained().predict(counts)
        np.testing.assert_allclose(np.load(tmp_path / "clean.npy"), expected, rtol=1e-6)

    @pytest.mark.parametrize("order", ["file first", "options first", "by name"])
    def test_one_frame_as_png(self, counts, tmp_path, order):
        write_images(tmp_path / "one.npy", counts[0, :24, :20])
        options = ["--peak", 4, "--out", tmp_path / "clean.png", "--model", "uc"]
        file = tmp_path / "one.npy"
        line = {"file first": [file, *options], "options first": [*options, file]}
        outcome = succeeded(run("denoise", *line.get(order, ["image", file, *options])))
        assert "peak 4 counts (given)" in outcome.out
        assert "by uc-4" in outcome.out
        rates = PoissonDenoiser.pretrained("uc", peak=4).predict(counts[0, :24, :20])
        expected = rates / rates.max() * 65535
        np.testing.assert_allclose(read_images(tmp_path / "clean.png")[0], expected, atol=1)

    def test_help_without_arguments(self):
        for line in (["denoise"], ["denoise", "--help"]):
            assert "benchmark" in succeeded(run(*line)).out

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--peak", "0"], "`--peak` (=0.0) must be positive, in counts"),
            (["--model", "x"], "`--model` (='x') must be one of: blind, c, ca, uc"),
            (["--model", "ca"], "`--model` (='ca') comes without weights"),
            (["--precision", "half"], "`--precision` (='half') must be one of"),
            (["--device", "cuda"], "`--device` (='cuda') is not"),
            (["--weights", "none.safetensors"], "No such file or directory: 'none.safetensors'"),
        ],
    )
    def test_wrong_options(self, counts, tmp_path, more, message):
        out = tmp_path / "clean.npy"
        outcome = run("denoise", tmp_path / "noisy.tif", "--out", out, *more)
        assert outcome.code == 2
        assert message in outcome.err
        assert not out.exists()

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("clean.png", "(2 frames) must be one for PNG; write a .tif"),
            ("clean.jpg", "must be a file that ends in one of"),
            ("noisy.tif", "is where the data come from"),
            ("none/clean.tif", "there is no file or folder"),
        ],
    )
    def test_a_wrong_target_is_refused_before_the_work(
        self, counts, tmp_path, out, message, monkeypatch
    ):
        monkeypatch.setattr(PoissonDenoiser, "predict", None)
        outcome = run("denoise", tmp_path / "noisy.tif", "--out", tmp_path / out)
        assert outcome.code == 2
        assert message in outcome.err
        np.testing.assert_array_equal(read_images(tmp_path / "noisy.tif"), counts)

    def test_what_are_no_counts(self, tmp_path):
        np.save(tmp_path / "real.npy", np.full((4, 4), 0.5))
        outcome = run("denoise", tmp_path / "real.npy", "--out", tmp_path / "clean.npy")
        assert outcome.code == 2
        assert "(=0.5 at frame 0, row 0, column 0) must be whole numbers of photons" in outcome.err


class TestTrain:
    def test_weights_that_denoise(self, folder, counts, tmp_path):
        line = ["denoise", "train", folder, "--model", "c", "--peak", 3, "--epochs", 2]
        line += ["--crop", 32, "--batch", 2, "--shifts", 2, "--leave-out", 1]
        found = succeeded(run(*line, "--out", tmp_path / "w", "--json")).json
        assert found["n_images"] == 3
        assert len(found["psnr_of_epochs"]) == 2
        assert 0 < found["validation_psnr"]["3"] < 40
        assert sorted(file.name for file in (tmp_path / "w").iterdir()) == [
            "c-3.json",
            "c-3.safetensors",
        ]
        written = json.loads((tmp_path / "w" / "c-3.json").read_text())
        assert written["training"]["n_shifts"] == 2
        assert written["validation_psnr"] == found["validation_psnr"]
        weights = tmp_path / "w" / "c-3.safetensors"
        line = [*line[:7], "--epochs", 1, "--start", weights, "--out", tmp_path / "more", "--json"]
        again = succeeded(run(*line, "--crop", 32, "--batch", 2)).json
        assert again["start"]["psnr_of_epochs"] == found["psnr_of_epochs"]
        options = ["--weights", weights, "--out", tmp_path / "clean.npy"]
        outcome = succeeded(run("denoise", tmp_path / "noisy.tif", *options))
        assert "by c-3" in outcome.out

    def test_interrupted_and_resumed(self, folder, tmp_path, monkeypatch):
        from spikecdl.denoise.training import Training

        line = ["denoise", "train", folder, "--model", "c", "--epochs", 3, "--crop", 32]
        whole = succeeded(run(*line, "--out", tmp_path / "whole", "--json")).json
        original, calls = Training.run_epoch, []

        def stopping(training):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(training)

        monkeypatch.setattr(Training, "run_epoch", stopping)
        out = tmp_path / "out"
        assert run(*line, "--out", out).code == 130
        assert [file.name for file in out.iterdir()] == ["c.checkpoint"]
        found = succeeded(run(*line, "--out", out, "--resume", "--json")).json
        assert len(calls) == 4
        assert found["psnr_of_epochs"] == whole["psnr_of_epochs"]

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--leave-out", 4], "`--leave-out` (=4) must be below the 4 images"),
            (["--crop", 60], "`size` (=60) must be at most 40"),
            (["--model", "blind", "--shifts", 2], "(=2) must be 1 for networks without a grid"),
            (["--rate", 0], "`--rate` (=0.0) must be positive"),
        ],
    )
    def test_wrong_options(self, folder, tmp_path, more, message):
        outcome = run("denoise", "train", folder, "--out", tmp_path / "w", *more)
        assert outcome.code == 2
        assert message in outcome.err


class TestBenchmark:
    def test_table_and_figure(self, folder, tmp_path):
        line = ["denoise", "benchmark", folder, "--peaks", 1, 4, "--methods", "noisy", "blind"]
        outcome = succeeded(run(*line, "--draws", 2, "--out", tmp_path / "out"))
        assert "PSNR in dB / SSIM of each image" in outcome.out
        assert "3.png" in outcome.out
        names = sorted(file.name for file in (tmp_path / "out").iterdir())
        assert names == ["figure.png", "summary.json", "table.csv"]
        with open(tmp_path / "out" / "table.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 2 * 2 * 4 * 2
        results = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
        quality = {(row["method"], row["peak"]): row["psnr"] for row in results}
        for peak in (1.0, 4.0):
            assert quality["blind", peak] > quality["noisy", peak] + 5

    def test_json(self, folder):
        line = ["denoise", "benchmark", folder, "--peaks", 2, "--methods", "noisy", "--draws", 1]
        found = succeeded(run(*line, "--json")).json
        assert found["results"][0]["psnr_error"] is None  # of one draw
        assert found["images"] == ["0.png", "1.png", "2.png", "3.png"]

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--peaks", "a"], "`--peaks` (='a') must be numbers, as in --peaks 1 2 4"),
            (["--methods", "bm3d"], "`--methods` (='bm3d') must be one of"),
            (["--peaks"], "`--peaks` (='') must be numbers"),
            (["--methods", "ca"], "comes without weights"),
        ],
    )
    def test_wrong_options(self, folder, more, message):
        outcome = run("denoise", "benchmark", folder, *more)
        assert outcome.code == 2
        assert message in outcome.err
