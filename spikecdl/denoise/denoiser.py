"""The estimator of photon-limited images, its networks by name, and where their weights are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor

from spikecdl import config, validation
from spikecdl.checkpoint import load_tensors, save_tensors
from spikecdl.denoise import networks
from spikecdl.denoise.images import checked, summed
from spikecdl.denoise.training import Crops, Schedule, Training, initial_templates
from spikecdl.files import reading, write_json

SHIPPED = Path(__file__).parent / "weights"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Model:
    """A kind of network, and the defaults of its training.

    ``build`` makes one from clean images, the largest expected count in training, and a generator;
    ``restore`` makes one from its `ImageNetwork.settings`, with arbitrary weights.
    """

    build: Callable[[Sequence[Tensor], float, torch.Generator], networks.ImageNetwork]
    restore: Callable[[Mapping[str, Any]], networks.ImageNetwork]
    peaks: tuple[float, ...] = (4.0,)  # counts
    learning_rate: float = 6e-4


def _autoencoder(tied: bool) -> Model:
    def build(
        images: Sequence[Tensor], peak: float, generator: torch.Generator
    ) -> networks.ImageNetwork:
        chosen = networks.Architecture(tied, stabilizer=peak)
        return networks.ImageAutoencoder(chosen, initial_templates(images, chosen, peak, generator))

    return Model(
        build, lambda settings: networks.ImageAutoencoder(networks.Architecture(**settings))
    )


MODELS = {
    "c": _autoencoder(tied=True),
    "uc": _autoencoder(tied=False),
    "blind": Model(
        lambda images, peak, generator: networks.MultiscaleAutoencoder(generator=generator),
        lambda settings: networks.MultiscaleAutoencoder(**settings),
        peaks=(0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0),
        learning_rate=1e-3,
    ),
    "ca": Model(
        lambda images, peak, generator: networks.ResidualCNN(generator=generator),
        lambda settings: networks.ResidualCNN(**settings),
    ),
}


def peaks_of(model: str, peak: float | None) -> tuple[float, ...]:
    """Return the largest expected counts that a model is trained for; None: its own."""
    own = MODELS[validation.one_of("model", model, MODELS)].peaks
    return own if peak is None else (validation.positive("peak", peak),)


def file_name(model: str, peaks: Sequence[float]) -> str:
    """Return the file name of weights, such as ``uc-4.safetensors``."""
    return f"{model}-{peaks[0]:g}{_SUFFIX}" if len(peaks) == 1 else f"{model}{_SUFFIX}"


def find(model: str, peak: float | None, folder: Path | None = None) -> Path:
    """Return the weights of a model, from a folder or else from the package.

    Of several files, the one with the nearest peak by ratio is taken.  Raises ValueError if there
    are none, or files are for single peaks and no peak is given.
    """
    validation.one_of("model", model, MODELS)
    for place in [SHIPPED] if folder is None else [folder, SHIPPED]:
        files = sorted(place.glob(f"{model}-*{_SUFFIX}"))
        if files:
            if peak is None:
                raise ValueError(f"`peak` (=None) must be given for `model` ({model!r}), in counts")
            known = {float(file.stem.removeprefix(f"{model}-")): file for file in files}
            wanted = validation.positive("peak", peak, "counts")
            return known[min(known, key=lambda value: abs(math.log(value / wanted)))]
        if (file := place / f"{model}{_SUFFIX}").exists():
            return file
    there = sorted({file.stem.partition("-")[0] for file in SHIPPED.glob(f"*{_SUFFIX}")})
    raise ValueError(
        f"`model` (={model!r}) comes without weights; give a folder of those that `denoise train` "
        f"wrote, or use one of: {', '.join(there)}"
    )


class UnusualLightWarning(UserWarning):
    """An image has much more or less light than a network was trained for."""


@dataclass(eq=False, repr=False)
class PoissonDenoiser(BaseEstimator):
    """Denoise photon-limited images by a network that was trained on clean images.

    Parameters
    ----------
    peak : float, optional
        Largest expected count of an image.  None: it is estimated from the counts, and training is
        for the peaks of the model (4 for "uc", "c" and "ca").
    model : {"blind", "uc", "c", "ca"}
        Network: "blind", one for any peak; "uc" and "c", the untied and tied auto-encoders (DCEA)
        of the paper; "ca", a residual network to compare with.
    n_epochs : int
        Of training.  In an epoch the crops have as many pixels as the images.
    batch : int
        Crops in each step.
    n_shifts : int
        Shifts of the stride's grid whose mean is trained ("uc" and "c"), at a proportional cost.
    crop : int
        Pixels along a side of a crop, rounded up to whole strides.
    zoom : float
        Half of the crops are enlarged by up to this factor: microscopes give smooth frames.
    learning_rate : float, optional
        Maximum in training.  None: the default of the model.
    loss : {"mse", "log"}
        Mean over crops of the squared error, which is largest at the lowest peaks, or of its
        logarithm, which is what a mean PSNR measures.
    precision : {"single", "bfloat16"}
        Of products.  bfloat16 is faster on some processors, and changes rates by less than 1 %.
    device : str
        "auto" (a GPU if there is one), "cpu" or "cuda".
    random_state : int, RandomState or None
        Draws crops and counts in training.

    Attributes
    ----------
    network_ : torch.nn.Module
    peaks_ : tuple of float
        Peaks of training.
    losses_ : list of float
        Mean squared error in each epoch, with images scaled to a largest value of 1; after `fit`.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(4.0, (40, 50))
    >>> rate = PoissonDenoiser.pretrained().predict(counts)
    >>> rate.shape, bool(abs(rate - 4).mean() < 0.5)
    ((40, 50), True)
    """

    peak: float | None = None
    model: str = "blind"
    _: KW_ONLY
    n_epochs: int = 20
    batch: int = 4
    n_shifts: int = 1
    crop: int = 128
    zoom: float = 1.0
    learning_rate: float | None = None
    loss: str = "mse"
    precision: str = "single"
    device: str = "auto"
    random_state: Any = 0
    network_: networks.ImageNetwork = field(init=False)

    @classmethod
    def pretrained(
        cls,
        model: str = "blind",
        peak: float | None = None,
        *,
        precision: str = "single",
        device: str = "auto",
    ) -> PoissonDenoiser:
        """Return a denoiser with weights of the package; parameters are as for the class.

        "uc" and "c" need a peak: they come for 1, 2 and 4, of which the nearest is taken.  Raises
        ValueError without one, or if there are no weights of that model.
        """
        path = find(model, peak)
        return cls.read(path, peak=peak, precision=precision, device=device)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        peak: float | None = None,
        precision: str = "single",
        device: str = "auto",
    ) -> PoissonDenoiser:
        """Return the denoiser of a file that `save` wrote; parameters are as for the class.

        Raises FileNotFoundError if there is no such file, and ValueError if it is damaged, or does
        not hold a denoiser.
        """
        tensors, metadata = load_tensors(path)
        model = metadata.get("model")
        if model not in MODELS:
            raise ValueError(
                f"`{path}` is not of a denoiser; give weights that `denoise train` wrote"
            )
        denoiser = cls(peak, model, precision=precision, device=device)
        with reading(Path(path), "a denoiser"):
            denoiser.network_ = MODELS[model].restore(metadata["settings"])
            denoiser.network_.copy_weights(tensors)
            denoiser.peaks_ = tuple(metadata["peaks"])
        return denoiser

    def fit(
        self,
        images: Iterable[Any],
        y: Any = None,
        *,
        start: str | Path | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[int, float], None] | None = None,
    ) -> PoissonDenoiser:
        """Train on clean images, whose counts are drawn anew for every crop.

        Parameters
        ----------
        images : iterable of array (row, column)
            Clean images in any unit; 0 is dark.
        y : ignored
        start : path, optional
            Weights of the same model, at which training starts.
        checkpoint : path, optional
            File that receives the state of training after each epoch.
        resume : bool
            Continue from that file if it exists; the result is that of an unbroken run.
        on_epoch : callable, optional
            Called with the number of epochs done and the mean squared error of the last one.

        Raises
        ------
        ValueError
            If an argument or an image is out of range, or the checkpoint is of another training.
        FloatingPointError
            If the error is not finite.
        """
        if resume and checkpoint is None:
            raise ValueError("`resume` (=True) needs `checkpoint`, the file to continue from")
        training = self._training(images, start)
        if checkpoint is not None and resume and Path(checkpoint).exists():
            training.resume(Path(checkpoint))
        while not training.done:
            loss = training.run_epoch()
            if checkpoint is not None:
                training.save(Path(checkpoint))
            if on_epoch is not None:
                on_epoch(len(training.losses), loss)
        training.network.copy_weights(training.average)
        self.peaks_, self.losses_ = tuple(training.crops.peaks), training.losses
        return self

    def _training(self, images: Iterable[Any], start: str | Path | None) -> Training:
        """Return the state of training before its first step."""
        model = MODELS[validation.one_of("model", self.model, MODELS)]
        generator = config.generator(self.random_state)
        clean = [clean_image(image, number) for number, image in enumerate(images)]
        if not clean:
            raise ValueError("`images` is empty; give at least one clean image")
        peaks = peaks_of(self.model, self.peak)
        network = model.build(clean, max(peaks), generator)
        if start is not None:
            other = self.read(start)
            if other.model != self.model:
                raise ValueError(
                    f"`start` (={str(start)!r}) is of the model {other.model!r}, not {self.model!r}"
                )
            network.copy_weights(dict(other.network_.named_parameters()))
        self.network_ = network.to(config.device(self.device))
        margin = network.margin(self.n_shifts)
        size = network.padded(validation.integer("crop", self.crop)) + margin
        edges = 2 * (network.border + margin)
        if size <= edges:
            raise ValueError(
                f"`crop` (={self.crop}) must be more than {edges} pixels: that many lie at its "
                "edges, which are not trained"
            )
        pixels = sum(image.numel() for image in clean)
        per_epoch = max(1, round(pixels / size**2 / validation.integer("batch", self.batch)))
        rate = model.learning_rate if self.learning_rate is None else self.learning_rate
        how = (self.batch, rate, self.precision, self.loss, self.n_shifts)
        schedule = Schedule(self.n_epochs, per_epoch, *how)
        return Training(network, Crops(clean, size, peaks, self.zoom), schedule, generator)

    def predict(self, counts: Any) -> np.ndarray:
        """Return expected counts, of the same shape, in single precision.

        Parameters
        ----------
        counts : array, shape (row, column) or (frame, row, column)
            Photons per pixel; frames are denoised one by one.

        Raises
        ------
        ValueError, TypeError
            If a count is not a whole number of 0 or more, or the shape is wrong.
        NotFittedError
            If there are no weights.

        Warns
        -----
        UnusualLightWarning
            If an image has much more or less light than the network was trained for.
        """
        if not hasattr(self, "network_"):
            raise NotFittedError(
                "this PoissonDenoiser has no weights: call fit(images), or use "
                "PoissonDenoiser.pretrained()"
            )
        frames = checked("counts", counts, whole=True)
        rates = [self._frame(frame) for frame in frames.reshape(-1, *frames.shape[-2:])]
        return np.array(rates, np.float32).reshape(frames.shape)

    def _frame(self, frame: np.ndarray) -> np.ndarray:
        """Return the rates of one frame."""
        peak = estimate_peak(frame) if self.peak is None else self.peak
        validation.positive("peak", peak, "counts")
        device = config.device(self.device)
        network = self.network_.to(device)
        validation.one_of("precision", self.precision, ("single", "bfloat16"))

        def rate(counts: torch.Tensor, peak: float) -> torch.Tensor:
            return network.denoise(counts, peak).float() * peak

        bfloat16 = self.precision == "bfloat16"
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            counts = torch.tensor(frame, dtype=torch.float32, device=device)
            rates = in_known_light(rate, counts, peak, self.peaks_)
        return rates.clamp(min=0).cpu().numpy()

    def save(self, path: str | Path, about: dict[str, Any] | None = None) -> None:
        """Write the weights to ``path`` (``.safetensors``) and their origin beside it (``.json``).

        The origin is the model, its settings and peaks, and what ``about`` tells in plain values.
        """
        network = self.network_
        origin: dict[str, Any] = {
            "model": self.model,
            "peaks": self.peaks_,
            "settings": network.settings,
        }
        save_tensors(path, dict(network.named_parameters()), origin)
        origin |= {"n_parameters": network.n_parameters, **(about or {})}
        write_json(Path(path).with_suffix(".json"), origin)


def estimate_peak(counts: np.ndarray) -> float:
    """Estimate the largest expected count of an image (row, column), at least 0.01.

    It is the 99.9 % quantile of the counts, smoothed by a Gaussian window two pixels wide, less one
    standard deviation of the noise that remains after smoothing.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(4.0, (64, 64))
    >>> 3.5 < estimate_peak(counts) < 5
    True
    """
    width = 2.0
    smooth = gaussian_filter(np.asarray(counts, float), width, mode="reflect")
    highest = float(np.quantile(smooth, 0.999))
    noise = math.sqrt(highest / (4 * math.pi)) / width
    return max(highest - noise, 0.01)


def in_known_light(
    rate: Callable[[Tensor, float], Tensor], counts: Tensor, peak: float, known: Sequence[float]
) -> Tensor:
    """Return the expected counts of a network, which is shown about as much light as it knows.

    Brighter counts are scaled down to the largest known peak, and expected counts scaled up again.
    Scaled counts are less noisy than the network assumes, so the result is smoother than necessary.
    Counts of at most half the smallest known peak are summed over squares of pixels, and expected
    counts are interpolated.

    ``rate`` returns expected counts, given counts (row, column) and their peak; ``known`` are the
    peaks of training.  Warns if the peak is more than twice the largest known one, or pixels are
    summed.
    """
    brightest, darkest = max(known), min(known)
    if peak > brightest:
        if peak > 2 * brightest:
            message = (
                f"`peak` (={peak:.3g}) is above {brightest:g} counts, the most that these weights "
                "were trained for: the result is smoother than necessary; denoise.VST may be better"
            )
            warnings.warn(message, UnusualLightWarning, stacklevel=2)
        scale = brightest / peak
        return rate(counts * scale, brightest) / scale
    side = math.ceil(math.sqrt(darkest / 2 / peak))
    if side <= 1:
        return rate(counts, peak)
    message = (
        f"`peak` (={peak:.3g}) is below {darkest:g} counts, the least that these weights were "
        f"trained for: counts are summed over squares of {side} x {side} pixels"
    )
    warnings.warn(message, UnusualLightWarning, stacklevel=2)
    sums = torch.from_numpy(summed(counts.cpu().numpy(), side)).to(counts)
    fine = networks.interpolated(rate(sums, peak * side**2) / side**2, side)
    return fine[: counts.shape[0], : counts.shape[1]]


def clean_image(image: Any, number: int) -> Tensor:
    """Return a clean image (row, column), scaled to a largest value of 1; see `checked`.

    ``number`` names the image in errors.
    """
    name = f"images[{number}]"
    values = checked(name, np.asarray(image, np.float32), axes=(2,))
    if not values.any():
        raise ValueError(f"`{name}` must not be all zero")
    return torch.tensor(values / values.max())
