"""Training of a denoiser: from counts to the clean image, on one shift of the grid per crop."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from spikecdl import storage
from spikecdl.autoencoder import UnrolledAutoencoder
from spikecdl.denoise.crops import Crops

_EMA = 0.999  # decay of the average of weights per step, once there are enough of them


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Parameters
    ----------
    n_steps : int
        Steps of Adam, each on a batch.
    batch : int
        Crops per step.
    learning_rate : float
        At the most: reached after a fiftieth of the steps, then falling to zero along a cosine.
    precision : {"single", "bfloat16"}
        Of products; weights are always in single precision.
    """

    n_steps: int
    batch: int = 16
    learning_rate: float = 1e-3
    precision: str = "bfloat16"

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
    network : UnrolledAutoencoder
        Trained in place.
    crops : Crops
    schedule : Schedule
    generator : torch.Generator
        Draws crops and counts.
    """

    def __init__(
        self,
        network: UnrolledAutoencoder,
        crops: Crops,
        schedule: Schedule,
        generator: torch.Generator,
    ) -> None:
        self.network, self.crops, self.schedule = network, crops, schedule
        self.generator = generator
        self.weights = dict(network.named_parameters())
        self.average = {name: value.detach().clone() for name, value in self.weights.items()}
        self.optimizer = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate)
        self.step = 0
        self.losses: list[float] = []

    def run(self, until: int) -> None:
        """Take steps until so many have been taken."""
        while self.step < min(until, self.schedule.n_steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.rate(self.step)
            loss = self._loss(*self.crops.draw(self.schedule.batch, self.generator))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            self._follow()
            self.losses.append(float(loss.detach()))
            if not math.isfinite(self.losses[-1]):
                raise FloatingPointError(f"the loss is {self.losses[-1]} at step {self.step}")

    def _loss(self, clean: Tensor, y: Tensor, peak: Tensor) -> Tensor:
        """Return the mean squared error, less the borders that fewer templates reach."""
        border = self.network.dictionary.support[0] // 2
        inner = (..., slice(border, -border), slice(border, -border))
        bfloat16 = self.schedule.precision == "bfloat16"
        with torch.autocast(y.device.type, torch.bfloat16, enabled=bfloat16):
            _, eta = self.network(y)
        return (eta.float().exp() / peak - clean)[inner].square().mean()

    def _follow(self) -> None:
        """Move the average of the weights."""
        decay = min(_EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.weights.items():
                self.average[name].lerp_(value, 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything to a file, whole or not at all; see `resume`."""
        tensors = {"generator": self.generator.get_state()}
        for name, value in self.weights.items():
            moments = self.optimizer.state[value]
            tensors |= {
                f"weights.{name}": value,
                f"average.{name}": self.average[name],
                f"first.{name}": moments["exp_avg"],
                f"second.{name}": moments["exp_avg_sq"],
            }
        about = {"step": self.step, "losses": self.losses, "schedule": asdict(self.schedule)}
        storage.save_tensors(path, tensors, about)

    def resume(self, path: Path) -> None:
        """Go on from a file that `save` wrote: the result is that of an unbroken run.

        Raises
        ------
        ValueError
            If the file is damaged, or of another schedule or network.
        """
        tensors, about = storage.load_tensors(path)
        if about["schedule"] != asdict(self.schedule):
            raise ValueError(
                f"`{path}` is of the schedule {about['schedule']}, not {asdict(self.schedule)}; "
                "start anew, or with that schedule"
            )
        self.step, self.losses = about["step"], about["losses"]
        self.generator.set_state(tensors["generator"])
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(tensors[f"weights.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                self.optimizer.state[value] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"first.{name}"],
                    "exp_avg_sq": tensors[f"second.{name}"],
                }
