"""`PoissonDenoiser`: counts in, rates out, with the weights of the package or its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from spikecdl.denoise import PoissonDenoiser, UnusualLightWarning, estimate_peak, models
from spikecdl.denoise.benchmark import psnr

skimage_data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def camera():
    """A photograph (row, column) with a largest value of 1."""
    image = skimage_data.camera()[100:300, 100:260].astype(float)
    return image / image.max()


def counts_of(image, peak, seed=0):
    return np.random.default_rng(seed).poisson(image * peak)


def quick(**settings):
    """A denoiser that trains in a second or two, on images of 20 x 20 pixels or more."""
    return PoissonDenoiser(**{"n_epochs": 1, "batch": 2, "crop": 16, "model": "c", **settings})


def small_images(count=3):
    generator = np.random.default_rng(3)
    return [generator.gamma(2.0, size=(30, 34)) for _ in range(count)]


class TestShipped:
    @pytest.mark.parametrize(
        ("model", "margin", "bias"), [("blind", 1.4, 0.03), ("uc", 1.1, 0.03), ("c", 0.3, 0.08)]
    )
    def test_photographs_are_better_than_smoothed(self, camera, model, margin, bias):
        """Than by the best Gaussian filter, chosen with the truth, by so many dB."""
        from scipy.ndimage import gaussian_filter

        for peak in (1, 2, 4):
            counts = counts_of(camera, peak)
            found = PoissonDenoiser.pretrained(model, peak=peak).predict(counts)
            smooth = (gaussian_filter(counts.astype(float), width) for width in (1, 1.5, 2, 3, 4))
            best = max(psnr(camera, image / peak) for image in smooth)
            assert psnr(camera, found / peak) > best + margin
            assert found.mean() == pytest.approx(counts.mean(), rel=bias)

    def test_files_are_small_and_say_where_they_are_from(self):
        import json

        files = sorted(models._SHIPPED.glob("*.safetensors"))
        assert len(files) == 7
        for file in files:
            assert file.stat().st_size < 300_000
            about = json.loads(file.with_suffix(".json").read_text())
            assert about["n_parameters"] <= 61_516
            assert about["n_images"] == 380
            assert "spikecdl denoise train" in about["command"]

    def test_the_nearest_peak_by_ratio(self):
        assert models.find("uc", 1.3).name == "uc-1.safetensors"
        assert models.find("uc", 1.5).name == "uc-2.safetensors"
        assert models.find("uc", 90.0).name == "uc-4.safetensors"
        assert models.find("blind", None).name == "blind.safetensors"

    def test_what_is_not_there(self):
        with pytest.raises(ValueError, match=r"`model` \(='ca'\) comes without weights"):
            PoissonDenoiser.pretrained("ca", peak=1.0)
        with pytest.raises(ValueError, match=r"`peak` \(=None\) must be given"):
            PoissonDenoiser.pretrained("uc")
        with pytest.raises(ValueError, match=r"`model` \(='dncnn'\) must be one of"):
            PoissonDenoiser.pretrained("dncnn")


class TestPredict:
    def test_frames_are_denoised_one_by_one(self, camera):
        denoiser = PoissonDenoiser.pretrained()
        frames = np.stack([counts_of(camera, peak) for peak in (1, 4)])
        found = denoiser.predict(frames)
        assert found.shape == frames.shape
        assert found.dtype == np.float32
        for frame, rate in zip(frames, found, strict=True):
            np.testing.assert_array_equal(denoiser.predict(frame), rate)
        assert denoiser.predict(frames[:0]).shape == (0, *camera.shape)

    def test_counts_are_left_as_they_are(self, camera):
        counts = counts_of(camera, 2).astype(np.uint16)
        before = counts.copy()
        PoissonDenoiser.pretrained().predict(counts)
        np.testing.assert_array_equal(counts, before)

    def test_darkness_and_a_single_pixel(self):
        denoiser = PoissonDenoiser.pretrained()
        with pytest.warns(UnusualLightWarning, match="5 x 5 pixels"):
            dark = denoiser.predict(np.zeros((30, 20), int))
        assert 0 <= dark.min() <= dark.max() < 0.1
        assert denoiser.predict([[3]]).shape == (1, 1)

    def test_the_rate_of_flat_counts(self):
        for level in (0.3, 1.0, 3.0):
            counts = np.random.default_rng(0).poisson(level, (80, 80))
            rates = PoissonDenoiser.pretrained().predict(counts)
            assert rates.mean() == pytest.approx(level, rel=0.1)
            assert rates.std() < 0.25 * counts.std()

    def test_bfloat16_changes_little(self, camera):
        counts = counts_of(camera, 4)
        exact, coarse = (
            PoissonDenoiser.pretrained(precision=name).predict(counts)
            for name in ("single", "bfloat16")
        )
        error = np.linalg.norm(exact - coarse) / np.linalg.norm(exact)
        assert 0 < error < 0.02

    def test_without_weights(self):
        with pytest.raises(NotFittedError, match=r"fit\(images\).*pretrained\(\)"):
            PoissonDenoiser().predict([[1]])

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ([[1.0, 2.5]], r"`counts` \(=2.5 at \(0, 1\)\) must be whole numbers of photons"),
            ([[1, -2]], r"`counts` \(=-2 at \(0, 1\)\)"),
            ([[np.nan, 0.0]], r"`counts` \(=nan at \(0, 0\)\)"),
            ([1, 2], r"`counts` \(shape \(2,\)\) must have the axes \(row, column\) or \(frame,"),
            (np.zeros((3, 0)), r"`counts` \(shape \(3, 0\)\) has no pixels"),
            ([["a"]], r"`counts` \(of <U1\) must be numbers"),
        ],
    )
    def test_what_are_no_counts(self, counts, message):
        with pytest.raises((TypeError, ValueError), match=message):
            PoissonDenoiser.pretrained().predict(counts)

    @pytest.mark.parametrize(
        ("name", "value"), [("precision", "double"), ("device", "tpu"), ("peak", -1.0)]
    )
    def test_wrong_settings(self, name, value):
        with pytest.raises(ValueError, match=rf"`{name}` \(={value!r}\)"):
            PoissonDenoiser.pretrained("blind").set_params(**{name: value}).predict([[1]])


class TestLight:
    @pytest.mark.parametrize("model", ["blind", "uc"])
    @pytest.mark.parametrize("peak", [0.1, 20.0, 300.0])
    def test_much_more_or_less_than_known(self, camera, model, peak):
        """The mean is kept, and it is better than the counts and a flat image."""
        counts = counts_of(camera, peak)
        denoiser = PoissonDenoiser.pretrained(model, peak=peak)
        with pytest.warns(UnusualLightWarning, match=rf"`peak` \(={peak:.3g}\) is"):
            found = denoiser.predict(counts)
        assert found.shape == counts.shape
        assert found.mean() == pytest.approx(counts.mean(), rel=0.1)
        assert psnr(camera, found / peak) > psnr(camera, np.full(camera.shape, camera.mean())) + 3
        if peak < 100:
            assert psnr(camera, found / peak) > psnr(camera, counts / peak) + 3

    def test_a_little_more_is_no_matter(self, camera):
        counts = counts_of(camera, 9.0)
        found = PoissonDenoiser.pretrained(peak=9.0).predict(counts)
        near = PoissonDenoiser.pretrained(peak=8.0).predict(counts)
        assert np.linalg.norm(found - near) < 0.1 * np.linalg.norm(near)


class TestFit:
    @pytest.mark.parametrize("model", ["c", "uc", "blind", "ca"])
    def test_every_model(self, model, tmp_path):
        denoiser = quick(model=model, peak=3.0, crop=24).fit(small_images())
        assert denoiser.peaks_ == (3.0,)
        assert len(denoiser.losses_) == 1
        counts = np.random.default_rng(0).poisson(2.0, (21, 18))
        rates = denoiser.predict(counts)
        denoiser.save(tmp_path / "weights.safetensors")
        again = PoissonDenoiser.read(tmp_path / "weights.safetensors", peak=3.0)
        assert again.model == model
        assert again.peaks_ == (3.0,)
        np.testing.assert_array_equal(again.predict(counts), rates)

    def test_same_seed_same_bits(self):
        first, second, other = (quick(random_state=seed).fit(small_images()) for seed in (0, 0, 1))
        assert first.losses_ == second.losses_ != other.losses_

    def test_training_helps(self):
        """Smooth images: a few epochs make a network better than its start."""
        row, column = np.mgrid[:60, :60]
        images = [1 + np.sin(row / a + column / b) for a, b in ((7, 9), (12, 5), (6, 30))]
        losses = quick(model="blind", n_epochs=15, crop=32, batch=4).fit(images).losses_
        assert losses[-1] < losses[0] / 2

    def test_an_interrupted_training_goes_on(self, tmp_path):
        whole = quick(n_epochs=3).fit(small_images())
        epochs = []

        def stop(epoch, loss):
            epochs.append(epoch)
            if len(epochs) == 2:
                raise KeyboardInterrupt

        file = tmp_path / "state"
        with pytest.raises(KeyboardInterrupt):
            quick(n_epochs=3).fit(small_images(), checkpoint=file, on_epoch=stop)
        again = quick(n_epochs=3).fit(
            small_images(), checkpoint=file, resume=True, on_epoch=lambda e, _: epochs.append(e)
        )
        assert epochs == [1, 2, 3]
        assert again.losses_ == whole.losses_
        counts = np.random.default_rng(0).poisson(2.0, (21, 18))
        np.testing.assert_array_equal(again.predict(counts), whole.predict(counts))

    def test_a_start(self, tmp_path):
        first = quick().fit(small_images())
        first.save(tmp_path / "c.safetensors")
        slow = quick(learning_rate=1e-9).fit(small_images(), start=tmp_path / "c.safetensors")
        for before, after in zip(
            first.network_.parameters(), slow.network_.parameters(), strict=True
        ):
            torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-4)
        with pytest.raises(ValueError, match=r"is of the model 'c', not 'uc'"):
            quick(model="uc").fit(small_images(), start=tmp_path / "c.safetensors")

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([], "`images` is empty"),
            ([np.ones(5)], r"image 0 \(shape \(5,\)\)"),
            ([np.ones((30, 30)), -np.ones((30, 30))], "image 1 has values from -1 to -1"),
            ([np.zeros((30, 30))], "not all zero"),
            ([np.ones((30, 12))], r"`size` \(=18\) must be at most 12"),
        ],
    )
    def test_what_are_no_images(self, images, message):
        with pytest.raises(ValueError, match=message):
            quick().fit(images)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("model", "x"),
            ("n_epochs", 0),
            ("batch", 0),
            ("crop", 0),
            ("peak", 0.0),
            ("n_shifts", 50),
        ],
    )
    def test_wrong_settings(self, name, value):
        with pytest.raises(ValueError, match=rf"`{name}` \(={value!r}\)"):
            quick(**{name: value}).fit(small_images())

    def test_crops_that_are_all_edge(self):
        with pytest.raises(ValueError, match=r"`crop` \(=16\) must be more than 16 pixels"):
            quick(model="blind").fit(small_images())

    def test_resume_needs_a_checkpoint(self):
        with pytest.raises(ValueError, match=r"`resume` \(=True\) needs `checkpoint`"):
            quick().fit(small_images(), resume=True)


def test_it_is_an_estimator():
    denoiser = PoissonDenoiser(peak=2.0, model="uc")
    assert clone(denoiser).get_params() == denoiser.get_params()


def test_a_damaged_file(tmp_path):
    content = bytearray(models.find("blind", None).read_bytes())
    content[-100] ^= 1
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256 does not match"):
        PoissonDenoiser.read(tmp_path / "w.safetensors")
    with pytest.raises(FileNotFoundError):
        PoissonDenoiser.read(tmp_path / "none.safetensors")


def test_a_file_of_something_else(tmp_path):
    from spikecdl import checkpoint

    checkpoint.save_tensors(tmp_path / "other.safetensors", {"x": torch.ones(2)}, {"version": 1})
    with pytest.raises(ValueError, match="is not of a denoiser"):
        PoissonDenoiser.read(tmp_path / "other.safetensors")


class TestPeak:
    @pytest.mark.parametrize("peak", [0.5, 1.0, 4.0, 30.0])
    def test_about_the_largest_rate(self, camera, peak):
        found = [estimate_peak(counts_of(camera, peak, seed)) for seed in range(5)]
        assert np.median(found) == pytest.approx(peak, rel=0.25)
        assert np.ptp(found) < 0.3 * peak

    def test_nothing_counted(self):
        assert estimate_peak(np.zeros((5, 5))) == 0.01
