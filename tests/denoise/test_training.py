"""Training: its crops, the steps of its optimizer, that it learns and can be resumed."""

from __future__ import annotations

import math

import pytest
import torch
from tables import refused

from spikecdl.denoise.networks import Architecture, ImageAutoencoder
from spikecdl.denoise.training import SOAP, Crops, Schedule, Training, initial_templates

ARCHITECTURE = Architecture(n_templates=8, length=5, stride=3, n_unrolled=3)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=3, size=40):
    """Smooth images: sines of random directions."""
    generator = draw(1)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    made = []
    for _ in range(count):
        high, wide, phase = torch.rand(3, generator=generator)
        image = 1 + torch.sin(high * row / 3 + wide * column / 3 + 6 * phase)
        made.append(image / image.max())
    return made


def training(n_epochs=4, seed=0, n_shifts=1, **schedule):
    generator = draw(seed)
    network = ImageAutoencoder(
        ARCHITECTURE, initial_templates(images(), ARCHITECTURE, 4.0, generator)
    )
    settings = {"n_epochs": n_epochs, "per_epoch": 5, "batch": 3, "n_shifts": n_shifts}
    crops = Crops(images(), network.padded(20) + network.margin(n_shifts), [1.0, 4.0])
    return Training(network, crops, Schedule(**{**settings, **schedule}), generator)


class TestCrops:
    def test_counts_have_the_mean_of_the_clean_crop(self):
        crops = Crops([torch.full((12, 15), 0.5)], 10, [2.0, 8.0])
        clean, counts, peak = crops.draw(400, draw())
        assert clean.shape == counts.shape == (400, 1, 10, 10)
        for value in (2.0, 8.0):
            chosen = counts[peak[:, 0, 0, 0] == value]
            assert 120 < len(chosen) < 280
            error = math.sqrt(0.5 * value / chosen.numel())
            assert abs(float(chosen.mean()) - 0.5 * value) < 5 * error
            assert abs(float(chosen.var()) / (0.5 * value) - 1) < 0.1  # Poisson

    def test_all_orientations_and_places_of_all_images(self):
        numbers = torch.arange(2 * 12, dtype=torch.float32).view(2, 3, 4) / 24
        clean, _, _ = Crops(list(numbers), 2, [1.0]).draw(3_000, draw())
        found = {tuple(crop.flatten().tolist()) for crop in clean}
        assert len(found) == 2 * 2 * 3 * 8

    def test_enlarged_crops_are_smoother(self):
        """Every second one, by up to the zoom: a ramp's slope says by how much."""
        ramp = torch.linspace(0, 1, 61).expand(61, 61)
        clean, _, _ = Crops([ramp], 20, [1.0], zoom=3).draw(400, draw())
        rows, columns = (
            clean.diff(dim=axis)[..., 4:-4, 4:-4].abs().mean((1, 2, 3)) for axis in (2, 3)
        )
        zoom = (1 / 60) / (rows + columns)
        assert ((zoom - 1).abs() < 0.01).float().mean() == pytest.approx(0.5, abs=0.08)
        assert zoom.max() == pytest.approx(3, rel=0.06)
        assert clean.min() >= 0
        assert clean.max() <= 1

    def test_crops_are_not_reduced(self):
        with pytest.raises(ValueError, match=r"`zoom` \(=0.5\) must be at least 1"):
            Crops([torch.ones(20, 20)], 10, [1.0], zoom=0.5)

    def test_images_smaller_than_a_crop(self):
        with pytest.raises(ValueError, match=r"`size` \(=13\) must be at most 12"):
            Crops([torch.ones(20, 12)], 13, [1.0])


class TestSchedule:
    def test_it_warms_up_and_falls_to_zero(self):
        plan = Schedule(n_epochs=20, per_epoch=10, learning_rate=2.0)
        rates = [plan.rate(step) for step in range(200)]
        assert rates[0] == 0.5
        assert max(rates) == pytest.approx(2.0)
        assert rates.index(max(rates)) in (3, 4)
        assert rates[-1] < 1e-3
        assert all(a > b for a, b in zip(rates[5:], rates[6:], strict=False))

    def test_wrong_values(self):
        for name, value in [
            ("n_epochs", 0),
            ("per_epoch", 0),
            ("batch", 0),
            ("learning_rate", 0.0),
            ("precision", "x"),
        ]:
            with refused(ValueError, rf"`{name}` \(={value!r}\)", name):
                Schedule(**{"n_epochs": 1, "per_epoch": 1, name: value})


def minimized(optimizer, parameter, target, curvature, n_steps):
    """Minimise a quadratic whose curvature differs by direction, from gradients with noise."""
    noises = draw(1)
    for _ in range(n_steps):
        optimizer.zero_grad()
        noise = 0.01 * torch.randn(len(curvature), generator=noises)
        error = (parameter - target).flatten(1)
        (0.5 * ((error @ curvature) * error).sum() + (error @ noise).sum()).backward()
        optimizer.step()
    return float((parameter - target).detach().norm())


class TestSOAP:
    def test_curvature_that_no_scale_per_pixel_mends(self):
        generator = draw()
        turn = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
        curvature = turn @ torch.diag(torch.logspace(-3, 0, 16)) @ turn.mT
        target = torch.randn(6, 1, 4, 4, generator=generator)
        errors = {}
        for kind in (SOAP, torch.optim.Adam):
            parameter = torch.zeros(6, 1, 4, 4, requires_grad=True)
            errors[kind] = minimized(kind([parameter], lr=0.02), parameter, target, curvature, 300)
        assert errors[SOAP] < errors[torch.optim.Adam] / 1.5

    def test_vectors_have_the_steps_of_adam(self):
        """With its moments, from the second step on."""
        found = []
        for kind in (SOAP, lambda p, lr: torch.optim.Adam(p, lr, betas=(0.95, 0.95))):
            parameter = torch.tensor([3.0, -2.0], requires_grad=True)
            optimizer = kind([parameter], lr=0.1)
            for _ in range(20):
                optimizer.zero_grad()
                (parameter.square() * torch.tensor([1.0, 100.0])).sum().backward()
                optimizer.step()
            found.append(parameter.detach())
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)

    def test_steps_of_thresholds_are_ten_times_as_large(self):
        vector, thresholds = (
            torch.zeros(*shape, requires_grad=True) for shape in ((3,), (3, 1, 1))
        )
        for parameter in (vector, thresholds):
            optimizer = SOAP([parameter], lr=0.1)
            for gradient in (1.0, -3.0, 2.0):
                parameter.grad = torch.full_like(parameter, gradient)
                optimizer.step()
        assert float(vector.detach().abs().max()) > 0.01
        torch.testing.assert_close(thresholds.flatten(), 10 * vector)

    def test_steps_turn_with_the_problem(self):
        """Pixels mixed by a rotation give mixed steps: the pixel basis is not special."""
        generator = draw(2)
        gradients = torch.randn(30, 3, 1, 2, 2, generator=generator)
        turn = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
        plain, mixed = (torch.zeros(3, 1, 2, 2, requires_grad=True) for _ in range(2))
        optimizers = SOAP([plain], lr=0.01), SOAP([mixed], lr=0.01)
        for gradient in gradients:
            plain.grad = gradient.clone()
            mixed.grad = (gradient.flatten(1) @ turn).view_as(gradient)
            for optimizer in optimizers:
                optimizer.step()
        assert plain.abs().max() > 0.05
        expected = (plain.detach().flatten(1) @ turn).view_as(plain)
        torch.testing.assert_close(mixed.detach(), expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("scale", [1e-4, 1e-6, 1e-18])
    def test_gradients_of_one_rank_and_small(self, scale):
        """Most eigenvalues are equal: eigenvectors in single precision may fail."""
        rows, pixels = torch.ones(64, 1), torch.ones(567)
        rows[::2], pixels[::9] = 0, 0
        templates = torch.zeros(64, 63, 3, 3, requires_grad=True)
        templates.grad = (scale * rows * pixels).view_as(templates)
        optimizer = SOAP([templates], lr=0.1)
        optimizer.step()
        optimizer.step()
        assert torch.isfinite(templates).all()
        assert (templates.flatten(1)[1::2, 1] < 0).all()


class TestTraining:
    @pytest.mark.parametrize(("n_shifts", "loss"), [(2, "mse"), (1, "log")])
    def test_it_learns(self, n_shifts, loss):
        run = training(n_epochs=20, n_shifts=n_shifts, loss=loss, learning_rate=5e-3)
        losses = [run.run_epoch() for _ in range(20)]
        assert run.done
        assert losses[-1] < 0.6 * losses[0]

    def test_resumed_it_gives_the_same_bits(self, tmp_path):
        whole, first, then = training(), training(), training(seed=7)
        for _ in range(4):
            whole.run_epoch()
        first.run_epoch()
        first.save(tmp_path / "state")
        then.resume(tmp_path / "state")
        assert len(then.losses) == 1
        while not then.done:
            then.run_epoch()
        assert then.losses == whole.losses
        for run in (whole, then):
            run.network.copy_weights(run.average)
        for expected, found in zip(
            whole.network.parameters(), then.network.parameters(), strict=True
        ):
            assert torch.equal(expected, found)

    def test_the_average_follows_the_weights(self):
        run = training()
        expected = {name: value.detach().clone() for name, value in run.weights.items()}
        for step in range(5):
            run.schedule = Schedule(n_epochs=100, per_epoch=1, batch=2)
            run.run_epoch()
            decay = min(0.999, (2 + step) / (11 + step))
            for name, value in run.weights.items():
                expected[name] = decay * expected[name] + (1 - decay) * value.detach()
        for name, value in run.average.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)

    def test_another_schedule_or_network(self, tmp_path):
        run = training()
        run.run_epoch()
        run.save(tmp_path / "state")
        with pytest.raises(ValueError, match="is of the schedule"):
            training(n_epochs=5).resume(tmp_path / "state")
        other = training()
        other.weights = {name: value[:1] for name, value in other.weights.items()}
        with pytest.raises(ValueError, match="is of another network"):
            other.resume(tmp_path / "state")

    def test_a_loss_that_is_not_finite(self):
        run = training()
        with torch.no_grad():
            run.network.autoencoder.dictionary.templates.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match=r"`learning_rate` \(=0.0006\)"):
            run.run_epoch()

    def test_bfloat16_and_single_agree_about(self):
        losses = [training(precision=name).run_epoch() for name in ("single", "bfloat16")]
        assert losses[0] == pytest.approx(losses[1], rel=0.05)
        assert losses[0] != losses[1]
