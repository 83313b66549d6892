"""What networks are trained on: crops of clean images, turned and flipped, and their counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikecdl import checkpoint, validation
from spikecdl.denoise.network import ImageNetwork


@dataclass(frozen=True)
class Crops:
    """Draws batches of square crops of images whose largest value is 1.

    A crop at a random place meets the stride's grid at a random shift, so one shift of each crop
    stands for all of them.

    Parameters
    ----------
    images : sequence of tensor, shape (row, column)
        Clean images, scaled so that the largest value of each is 1.
    size : int
        Pixels along a side of a crop.
    peaks : sequence of float
        Largest expected counts; each crop has one of them.
    zoom : float
        Every second crop, on average, is enlarged by up to this factor: frames of microscopes are
        smoother than photographs, and a network should know both.  1: none is.
    """

    images: Sequence[Tensor]
    size: int
    peaks: Sequence[float]
    zoom: float = 1.0

    def __post_init__(self) -> None:
        validation.integer("size", self.size)
        if validation.positive("zoom", self.zoom) < 1:
            raise ValueError(f"`zoom` (={self.zoom:g}) must be at least 1: crops are not reduced")
        small = min(min(image.shape) for image in self.images)
        if small < self.size:
            raise ValueError(
                f"`size` (={self.size}) must be at most {small}, the shortest side of an image"
            )

    def draw(self, n_crops: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return clean crops and their counts (crop, 1, row, column), and peaks (crop, 1, 1, 1)."""
        clean = torch.stack([self._crop(generator) for _ in range(n_crops)])[:, None]
        chosen = torch.randint(len(self.peaks), (n_crops,), generator=generator)
        peak = torch.tensor(self.peaks)[chosen, None, None, None]
        return clean, torch.poisson(clean * peak, generator=generator), peak

    def _crop(self, generator: torch.Generator) -> Tensor:
        which, turns, flipped = (
            int(torch.randint(high, (), generator=generator)) for high in (len(self.images), 4, 2)
        )
        image, side = self.images[which], self._side(generator)
        row, column = (
            int(torch.randint(size - side + 1, (), generator=generator)) for size in image.shape
        )
        crop = image[row : row + side, column : column + side]
        if side < self.size:
            crop = _enlarged(crop, self.size)
        crop = torch.rot90(crop, turns)
        return crop.flip(1) if flipped else crop

    def _side(self, generator: torch.Generator) -> int:
        """Return how many pixels of the image a crop shows along each side."""
        if self.zoom == 1:
            return self.size
        chance, place = torch.rand(2, generator=generator).tolist()
        return self.size if chance < 0.5 else math.ceil(self.size / self.zoom**place)


def _enlarged(crop: Tensor, size: int) -> Tensor:
    """Return a crop with so many pixels along each side, between 0 and 1 as before."""
    shape = (size, size)
    return F.interpolate(crop[None, None], shape, mode="bicubic")[0, 0].clamp(0, 1)


_STATE = "optimizer."
_EMA = 0.999  # decay of the average of weights per step, once there are enough of them


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Parameters
    ----------
    n_epochs, per_epoch : int
        Epochs, and steps in each; a step is on a batch.
    batch : int
        Crops per step.
    learning_rate : float
        At the most: reached after a fiftieth of the steps, then falling to zero along a cosine.
    precision : {"single", "bfloat16"}
        Of products; weights are always in single precision.
    loss : {"mse", "log"}
        Of a batch: the mean squared error, or the mean logarithm of each crop's, which is what a
        mean PSNR measures and does not leave all the weight to the hardest crops and lowest peaks.

    Raises
    ------
    ValueError, TypeError
        If a setting is not a positive number, or the precision is unknown.
    """

    n_epochs: int
    per_epoch: int
    batch: int = 4
    learning_rate: float = 6e-4
    precision: str = "bfloat16"
    loss: str = "mse"

    def __post_init__(self) -> None:
        validation.integer("n_epochs", self.n_epochs)
        validation.integer("per_epoch", self.per_epoch)
        validation.integer("batch", self.batch)
        validation.positive("learning_rate", self.learning_rate)
        validation.one_of("precision", self.precision, ("single", "bfloat16"))
        validation.one_of("loss", self.loss, ("mse", "log"))

    @property
    def n_steps(self) -> int:
        """Steps in all."""
        return self.n_epochs * self.per_epoch

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        warm = max(1, self.n_steps // 50)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.n_steps - warm)
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2


class Training:
    """A network that is being trained, and everything that going on with it needs.

    Parameters
    ----------
    network : ImageNetwork
        Trained in place.
    optimizer : Optimizer
        Of the network's parameters.
    crops : Crops
    schedule : Schedule
    generator : torch.Generator
        Draws crops and counts.
    """

    def __init__(
        self,
        network: ImageNetwork,
        optimizer: torch.optim.Optimizer,
        crops: Crops,
        schedule: Schedule,
        generator: torch.Generator,
    ) -> None:
        self.network, self.optimizer, self.crops = network, optimizer, crops
        self.schedule, self.generator = schedule, generator
        self.weights = dict(network.named_parameters())
        self.average = {name: value.detach().clone() for name, value in self.weights.items()}
        self.step = 0
        self.losses: list[float] = []

    @property
    def done(self) -> bool:
        """Whether all steps have been taken."""
        return self.epoch >= self.schedule.n_epochs

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.schedule.per_epoch

    def run_epoch(self) -> float:
        """Take the steps of an epoch, and return their mean squared error.

        Raises
        ------
        FloatingPointError
            If the loss is not finite.
        """
        for _ in range(self.schedule.per_epoch):
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.rate(self.step)
            errors = self._errors(*self.crops.draw(self.schedule.batch, self.generator))
            loss = errors.mean() if self.schedule.loss == "mse" else errors.log().mean()
            self.losses.append(float(errors.detach().mean()))
            if not math.isfinite(self.losses[-1]):
                raise FloatingPointError(
                    f"the error is {self.losses[-1]} at step {self.step}; start anew with a lower "
                    f"`learning_rate` (={self.schedule.learning_rate:g})"
                )
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
            self.optimizer.step()
            self.step += 1
            self._follow()
        return sum(self.losses[-self.schedule.per_epoch :]) / self.schedule.per_epoch

    def _errors(self, clean: Tensor, y: Tensor, peak: Tensor) -> Tensor:
        """Return the mean squared error of every crop, less the border."""
        clean, y, peak = (tensor.to(self._device) for tensor in (clean, y, peak))
        border = self.network.border
        inner = slice(border, y.shape[-1] - border)
        bfloat16 = self.schedule.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16):
            fraction = self.network(y, peak)
        return (fraction.float() - clean)[..., inner, inner].square().mean((1, 2, 3))

    @property
    def _device(self) -> torch.device:
        return next(iter(self.weights.values())).device

    def _follow(self) -> None:
        """Move the average of the weights."""
        decay = min(_EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.weights.items():
                self.average[name].lerp_(value, 1 - decay)

    def take_average(self) -> None:
        """Give the network the average of its weights; training is over."""
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(self.average[name])

    def save(self, path: Path) -> None:
        """Write everything to a file, whole or not at all; see `resume`."""
        tensors = {"generator": self.generator.get_state()}
        for name, value in self.weights.items():
            tensors |= {f"weights.{name}": value, f"average.{name}": self.average[name]}
            state = self.optimizer.state[value]
            tensors |= {f"{_STATE}{key}.{name}": moment for key, moment in state.items()}
        about = {"step": self.step, "losses": self.losses, "schedule": asdict(self.schedule)}
        checkpoint.save_tensors(path, tensors, about)

    def resume(self, path: Path) -> None:
        """Go on from a file that `save` wrote: the result is that of an unbroken run.

        Raises
        ------
        ValueError
            If the file is damaged, or of another schedule or network.
        """
        tensors, about = checkpoint.load_tensors(path)
        if about["schedule"] != asdict(self.schedule):
            raise ValueError(
                f"`{path}` is of the schedule {about['schedule']}, not {asdict(self.schedule)}; "
                "start anew, or with that schedule"
            )
        shapes = {name: tensors[f"weights.{name}"].shape for name in self.weights}
        if shapes != {name: value.shape for name, value in self.weights.items()}:
            raise ValueError(f"`{path}` is of another network; start anew, or with that model")
        self.step, self.losses = about["step"], about["losses"]
        self.generator.set_state(tensors.pop("generator"))
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(tensors[f"weights.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
        for place, moment in tensors.items():
            if place.startswith(_STATE):
                key, name = place.removeprefix(_STATE).split(".", 1)
                self.optimizer.state[self.weights[name]][key] = moment.to(self._device)
