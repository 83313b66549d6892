"""`PoissonDenoiser`: counts in, rates out, with the weights of the package or its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photographs import camera
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from tables import refused

from spikecdl.checkpoint import load_tensors, save_tensors
from spikecdl.denoise import PoissonDenoiser, UnusualLightWarning
from spikecdl.evaluation.metrics import psnr


def counts_of(image, peak, seed=0):
    return np.random.default_rng(seed).poisson(image * peak)


def quick(**settings):
    """A denoiser that trains in a second or less, on images of 20 x 20 pixels or more."""
    return PoissonDenoiser(**{"n_epochs": 1, "batch": 2, "crop": 16, "model": "c", **settings})


def small_images(count=3):
    generator = np.random.default_rng(3)
    return [generator.gamma(2.0, size=(30, 34)) for _ in range(count)]


@pytest.fixture(scope="module")
def trained():
    return quick().fit(small_images(1))


class TestPredict:
    def test_frames_are_denoised_one_by_one(self):
        denoiser = PoissonDenoiser.pretrained()
        frames = np.stack([counts_of(camera()[:60, :50], peak) for peak in (1, 4)])
        found = denoiser.predict(frames)
        assert found.shape == frames.shape
        assert found.dtype == np.float32
        for frame, rate in zip(frames, found, strict=True):
            np.testing.assert_array_equal(denoiser.predict(frame), rate)
        assert denoiser.predict(frames[:0]).shape == (0, 60, 50)

    def test_counts_are_left_as_they_are(self):
        counts = counts_of(camera()[:60, :50], 2).astype(np.uint16)
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

    def test_bfloat16_changes_little(self):
        counts = counts_of(camera()[:100, :90], 4)
        exact, coarse = (
            PoissonDenoiser.pretrained(precision=name).predict(counts)
            for name in ("single", "bfloat16")
        )
        error = np.linalg.norm(exact - coarse) / np.linalg.norm(exact)
        assert 0 < error < 0.02

    def test_without_weights(self):
        with pytest.raises(NotFittedError, match=r"fit\(images\).*pretrained\(\)"):
            PoissonDenoiser().predict([[1]])

    def test_wrong_settings(self):
        for name, value in [("precision", "double"), ("device", "tpu"), ("peak", -1.0)]:
            with refused(ValueError, rf"`{name}` \(={value!r}\)", name):
                PoissonDenoiser.pretrained("blind").set_params(**{name: value}).predict([[1]])


class TestLight:
    @pytest.mark.parametrize(
        ("model", "peak"),
        [("blind", 0.1), ("blind", 20.0), ("blind", 300.0), ("uc", 0.1), ("uc", 20.0)],
    )
    def test_much_more_or_less_than_known(self, model, peak):
        """The mean is kept, and the result is better than the counts and a flat image."""
        clean = camera() if model == "blind" else camera()[:100, :100]
        counts = counts_of(clean, peak)
        denoiser = PoissonDenoiser.pretrained(model, peak=peak)
        with pytest.warns(UnusualLightWarning, match=rf"`peak` \(={peak:.3g}\) is"):
            found = denoiser.predict(counts)
        assert found.shape == counts.shape
        assert found.mean() == pytest.approx(counts.mean(), rel=0.1)
        assert psnr(found / peak, clean) > psnr(np.full(clean.shape, clean.mean()), clean) + 3
        if peak < 100:
            assert psnr(found / peak, clean) > psnr(counts / peak, clean) + 3

    def test_a_little_more_changes_little(self):
        counts = counts_of(camera()[:100, :100], 9.0)
        found = PoissonDenoiser.pretrained(peak=9.0).predict(counts)
        near = PoissonDenoiser.pretrained(peak=8.0).predict(counts)
        assert np.linalg.norm(found - near) < 0.1 * np.linalg.norm(near)


class TestFit:
    @pytest.mark.parametrize("model", ["uc", "blind", "ca"])
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

    def test_weights_that_contradict_their_settings_are_refused(self, trained, tmp_path):
        path = tmp_path / "weights.safetensors"
        trained.save(path)
        tensors, metadata = load_tensors(path)
        for change in ({"n_templates": 10**12}, {"n_templates": -1}, {"length": "x"}, {"x": 1}):
            settings = {**metadata["settings"], **change}
            save_tensors(path, tensors, {**metadata, "settings": settings})
            with pytest.raises(ValueError, match="weights.safetensors"):
                PoissonDenoiser.read(path)

    def test_same_seed_same_bits(self, trained):
        again, other = (quick(random_state=seed).fit(small_images(1)) for seed in (0, 1))
        assert trained.losses_ == again.losses_ != other.losses_

    def test_training_helps(self):
        """Smooth images: a few epochs make a network better than its start."""
        row, column = np.mgrid[:60, :60]
        images = [1 + np.sin(row / a + column / b) for a, b in ((7, 9), (12, 5), (6, 30))]
        losses = quick(model="blind", n_epochs=15, crop=32, batch=4).fit(images).losses_
        assert losses[-1] < losses[0] / 2

    def test_an_interrupted_training_goes_on(self, tmp_path):
        whole = quick(n_epochs=3).fit(small_images(1))
        epochs = []

        def stop(epoch, loss):
            epochs.append(epoch)
            if len(epochs) == 2:
                raise KeyboardInterrupt

        file = tmp_path / "state"
        with pytest.raises(KeyboardInterrupt):
            quick(n_epochs=3).fit(small_images(1), checkpoint=file, on_epoch=stop)
        again = quick(n_epochs=3).fit(
            small_images(1), checkpoint=file, resume=True, on_epoch=lambda e, _: epochs.append(e)
        )
        assert epochs == [1, 2, 3]
        assert again.losses_ == whole.losses_
        counts = np.random.default_rng(0).poisson(2.0, (21, 18))
        np.testing.assert_array_equal(again.predict(counts), whole.predict(counts))

    def test_a_start(self, trained, tmp_path):
        trained.save(tmp_path / "c.safetensors")
        slow = quick(learning_rate=1e-9).fit(small_images(1), start=tmp_path / "c.safetensors")
        for before, after in zip(
            trained.network_.parameters(), slow.network_.parameters(), strict=True
        ):
            torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-4)
        with pytest.raises(ValueError, match=r"is of the model 'c', not 'uc'"):
            quick(model="uc").fit(small_images(1), start=tmp_path / "c.safetensors")

    def test_images_that_are_refused(self):
        for images, message in [
            ([], "`images` is empty"),
            ([np.ones(5)], r"`images\[0\]` \(shape \(5,\)\) must have the axes \(row, column\)"),
            (
                [np.ones((30, 30)), -np.ones((30, 30))],
                r"`images\[1\]` \(=-1.0 at row 0, column 0\)",
            ),
            ([np.zeros((30, 30))], r"`images\[0\]` must not be all zero"),
            ([small_images(1)[0][:, :12]], r"`size` \(=18\) must be at most 12"),
        ]:
            with refused(ValueError, message, images):
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
