"""Training of image networks: initial templates, crops, schedule, optimizer and checkpoints."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikecdl import checkpoint, validation
from spikecdl.denoise.networks import Architecture, ImageNetwork
from spikecdl.model.dictionary import ConvDictionary


def initial_templates(
    images: Sequence[Tensor], architecture: Architecture, peak: float, generator: torch.Generator
) -> Tensor:
    """Return templates (template, 1, row, column) from random parts of log expected counts.

    Images (row, column) have a largest value of 1, whose expected count is the peak.  The first two
    templates are smooth, one bright and one dark, and carry the mean.  The others are parts of zero
    mean and a random sign, which fade out where neighbours overlap.  They are 3.5
    times (those of the mean 1.2 times) as large as they may be for steps of 1 to be stable if all
    act, but their thresholds leave few.
    """
    length, stride = architecture.length, architecture.stride
    overlap = max(length - stride, 0)
    pixel = torch.arange(1, length + 1)
    fade = torch.minimum(pixel, pixel.flip(0)).clamp(max=overlap + 1) / (overlap + 1)
    smooth = (-((pixel - pixel.float().mean()) / (0.32 * length)).square() / 2).exp()
    templates = torch.empty(architecture.n_templates, 1, length, length)
    for number, template in enumerate(templates):
        if number < 2:
            template.copy_((-1) ** number * smooth[:, None] * smooth)
        else:
            sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
            part = _part(images, length, peak, generator) * fade[:, None] * fade
            template.copy_(sign * F.normalize(part.flatten(), dim=0).view_as(part))
    size = length + 15 * stride
    for some, scale in ((templates[:2], 1.2), (templates[2:], 3.5)):
        if len(some):
            norm = ConvDictionary(some.clone(), stride).norm_squared((size, size)).detach()
            some.mul_(scale / (peak * norm).sqrt())
    return templates


def _part(images: Sequence[Tensor], length: int, peak: float, generator: torch.Generator) -> Tensor:
    """Return a part of log counts, of mean 0 and norm 1; of 100 flat ones the last.

    Parts are flat if the norm of their log counts, with 0.1 counts added, is 1 or less.
    """
    for _ in range(100):
        image = images[_draw(len(images), generator)]
        part = (_square(image, length, generator) * peak + 0.1).log()
        part = part - part.mean()
        if part.norm() > 1:
            break
    return part / part.norm().clamp(min=torch.finfo(part.dtype).eps)


def _square(image: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return a random square of an image."""
    row, column = (_draw(extent - side + 1, generator) for extent in image.shape)
    return image[row : row + side, column : column + side]


def _draw(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))


@dataclass(frozen=True)
class Crops:
    """Draws batches of square crops of clean images, turned and flipped, and counts for each.

    A crop at a random position meets the stride's grid at a random shift, so one shift of each crop
    stands for all of them.
    """

    images: Sequence[Tensor]  # (row, column), the largest value of each 1
    size: int  # pixels along a side of a crop
    peaks: Sequence[float]  # largest expected counts, of which each crop has one
    zoom: float = 1.0  # half of the crops, on average, are enlarged by up to this factor

    def __post_init__(self) -> None:
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
        image = self.images[_draw(len(self.images), generator)]
        turns, flipped = _draw(4, generator), _draw(2, generator)
        side = self.size  # pixels of the image along a side
        if self.zoom > 1:
            chance, power = torch.rand(2, generator=generator).tolist()
            side = self.size if chance < 0.5 else math.ceil(self.size / self.zoom**power)
        crop = _square(image, side, generator)
        if side < self.size:
            crop = F.interpolate(crop[None, None], self.size, mode="bicubic")[0, 0].clamp(0, 1)
        crop = torch.rot90(crop, turns)
        return crop.flip(1) if flipped else crop


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; settings are those of `PoissonDenoiser`.

    The learning rate reaches its maximum after a fiftieth of the steps, then falls to zero along a
    cosine.  Weights are always in single precision.
    """

    n_epochs: int
    per_epoch: int  # steps in each epoch
    batch: int = 4
    learning_rate: float = 6e-4
    precision: str = "bfloat16"
    loss: str = "mse"
    n_shifts: int = 1

    def __post_init__(self) -> None:
        for name in ("n_epochs", "per_epoch", "batch"):
            validation.integer(name, getattr(self, name))
        validation.positive("learning_rate", self.learning_rate)
        validation.one_of("precision", self.precision, ("single", "bfloat16"))
        validation.one_of("loss", self.loss, ("mse", "log"))

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        n_steps = self.n_epochs * self.per_epoch
        warm = max(1, n_steps // 50)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, n_steps - warm)
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2


class SOAP(torch.optim.Optimizer):
    r"""Adam in the eigenvectors of the gradient's second moments, for templates.

    For a matrix with gradient G, :math:`L = \mathrm{E}\,GG^\top` and
    :math:`R = \mathrm{E}\,G^\top G` have eigenvectors :math:`Q_L, Q_R`; the step is that of Adam
    for :math:`Q_L^\top G Q_R`, rotated back.  The gradient of image templates is large along smooth
    patterns and small along fine ones, which a scale per pixel cannot correct.  Matrices are
    templates (template, channel, row, column), with a row for each template; their first step only
    initializes the moments, and eigenvectors are renewed every ten steps.  All other parameters
    take the steps of Adam; those of thresholds (template, 1, 1), which are in counts and have far
    to go, are ten times as large.

    References
    ----------
    Vyas et al. 2025, SOAP: improving and stabilizing Shampoo using Adam, ICLR, arXiv:2409.11321.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 2e-3, beta: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})  # decay of the moments per step

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["beta"])

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, beta: float) -> None:
        """Take a step, with the symbols of the docstring."""
        state = self.state[parameter]
        is_matrix = parameter.ndim == 4 and parameter.shape[-1] > 1
        G = gradient.flatten(1) if is_matrix else gradient
        products = {"L": G @ G.mT, "R": G.mT @ G} if is_matrix else {}
        if not state:
            state |= products | {f"Q_{side}": _eigenvectors(of) for side, of in products.items()}
            state |= {"first": torch.zeros_like(G), "second": torch.zeros_like(G)}
            state["step"] = torch.tensor(0.0)
            if is_matrix:
                return

        def rotated(matrix: Tensor) -> Tensor:
            return state["Q_L"].mT @ matrix @ state["Q_R"] if is_matrix else matrix

        state["step"] += 1
        first = state["first"].lerp_(G, 1 - beta)
        state["second"].lerp_(rotated(G).square(), 1 - beta)
        unbiased = 1 - beta ** state["step"]
        scale = (state["second"] / unbiased).sqrt_().add_(1e-8)
        change = rotated(first) / unbiased / scale
        if is_matrix:
            change = state["Q_L"] @ change @ state["Q_R"].mT
        for side, product in products.items():
            state[side].lerp_(product, 1 - beta)
            if state["step"] % 10 == 0:  # by power iteration
                state[f"Q_{side}"] = torch.linalg.qr(
                    state[side] @ state[f"Q_{side}"]
                ).Q.contiguous()
        faster = 10 if parameter.ndim == 3 else 1
        parameter.sub_(faster * lr * change.view_as(parameter))


def _eigenvectors(moments: Tensor) -> Tensor:
    """Return eigenvectors in columns; scaled to 1, in double precision, it always converges."""
    largest = moments.abs().amax().clamp(min=torch.finfo(moments.dtype).tiny)
    vectors = torch.linalg.eigh((moments / largest).double()).eigenvectors
    # contiguous, as they are when read from a file: products then have the same bits
    return vectors.to(moments.dtype).contiguous()


class Training:
    """A network in training, in place, with everything that a checkpoint needs.

    The generator draws crops and counts.  The average of weights has a decay of 0.999 per step,
    once there are enough of them.
    """

    def __init__(
        self, network: ImageNetwork, crops: Crops, schedule: Schedule, generator: torch.Generator
    ) -> None:
        self.network, self.crops = network, crops
        self.schedule, self.generator = schedule, generator
        self.optimizer = SOAP(network.parameters(), schedule.learning_rate)
        self.weights = dict(network.named_parameters())
        self.average = {name: value.detach().clone() for name, value in self.weights.items()}
        self.device = next(network.parameters()).device
        self.losses: list[float] = []  # mean squared error of each epoch

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return len(self.losses) >= self.schedule.n_epochs

    def run_epoch(self) -> float:
        """Take the steps of an epoch, and return their mean squared error.

        Raises FloatingPointError if it is not finite.
        """
        first = len(self.losses) * self.schedule.per_epoch
        errors = [self._step(first + number) for number in range(self.schedule.per_epoch)]
        self.losses.append(sum(errors) / len(errors))
        return self.losses[-1]

    def _step(self, number: int) -> float:
        """Take a step, and return the mean squared error before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(number)
        errors = self._errors(*self.crops.draw(self.schedule.batch, self.generator))
        error = float(errors.detach().mean())
        if not math.isfinite(error):
            raise FloatingPointError(
                f"the error is {error} at step {number}; start again with a lower "
                f"`learning_rate` (={self.schedule.learning_rate:g})"
            )
        self.optimizer.zero_grad()
        (errors.mean() if self.schedule.loss == "mse" else errors.log().mean()).backward()
        nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self.optimizer.step()
        decay = min(0.999, (2 + number) / (11 + number))
        with torch.no_grad():
            for name, value in self.weights.items():
                self.average[name].lerp_(value, 1 - decay)
        return error

    def _errors(self, clean: Tensor, y: Tensor, peak: Tensor) -> Tensor:
        """Return the mean squared error of every crop, without the border."""
        clean, y, peak = (tensor.to(self.device) for tensor in (clean, y, peak))
        network, n_shifts, shifts = self.network, self.schedule.n_shifts, {}
        if n_shifts > 1:  # drawn anew for every batch
            drawn = torch.randperm(network.most_shifts, generator=self.generator)[:n_shifts]
            shifts = {"shifts": [divmod(number, network.stride) for number in drawn.tolist()]}
        border = network.border + network.margin(n_shifts)  # where not all shifts reach
        inner = slice(border, y.shape[-1] - border)
        bfloat16 = self.schedule.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            fraction = network(y, peak, **shifts)
        return (fraction.float() - clean)[..., inner, inner].square().mean((1, 2, 3))

    def save(self, path: Path) -> None:
        """Write a checkpoint for `resume`, whole or not at all."""
        tensors = {"generator": self.generator.get_state()}
        for name, value in self.weights.items():
            state = {"value": value, "average": self.average[name], **self.optimizer.state[value]}
            tensors |= {f"{name}:{key}": tensor for key, tensor in state.items()}
        about = {"losses": self.losses, "schedule": asdict(self.schedule)}
        checkpoint.save_tensors(path, tensors, about)

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Continue from a checkpoint; the result is that of an unbroken run.

        Raises ValueError if the file is damaged, or belongs to another schedule or network.
        """
        tensors, about = checkpoint.load_tensors(path)
        if about["schedule"] != asdict(self.schedule):
            raise ValueError(
                f"`{path}` is of the schedule {about['schedule']}, not {asdict(self.schedule)}; "
                "start again, or continue with that schedule"
            )
        self.losses = about["losses"]
        self.generator.set_state(tensors.pop("generator"))
        states: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for place, tensor in tensors.items():
            name, key = place.split(":")
            states[name][key] = tensor.to(self.device)
        found = {name: state["value"].shape for name, state in states.items()}
        if found != {name: value.shape for name, value in self.weights.items()}:
            raise ValueError(f"`{path}` is of another network; start again, or use that model")
        for name, value in self.weights.items():
            value.copy_(states[name].pop("value"))
            self.average[name].copy_(states[name].pop("average"))
            self.optimizer.state[value] = states[name]
