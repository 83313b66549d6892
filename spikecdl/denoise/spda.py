"""Sparse Poisson denoising of one image, with templates that are learned from its own patches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.base import BaseEstimator
from torch import Tensor
from torch.nn import functional

from spikecdl import config, validation
from spikecdl.denoise.frames import checked_counts, summed
from spikecdl.denoise.group_pursuit import GroupCodes, learn, pursue

_WIDTH = 2.0  # of the Gaussian window before patches are compared the first time, in pixels
_FLOOR = 1e-3  # added to rates before their logarithms are compared, of the mean rate
_SMOOTH = 0.25  # of the templates to start from: cosines
_ORIENTATIONS = 16  # of edges and of lines
_EDGE, _LINE = 1.0, 2.0  # widths, in pixels
_LEARNED_FROM = 500  # groups
_TOGETHER = 32  # groups that are coded at once


class SPDA(BaseEstimator):
    r"""Denoise an image of photon counts by sparse codes of its patches, without any training.

    A patch (its pixels in a row) is Poisson of mean :math:`\exp(b + \sum_c a_c h_c)` with
    unit-norm templates :math:`h_c`, of which few are active, and the log b of its own mean.
    Similar patches form groups that share their active templates, each with codes of its own.

    1. Patches are grouped by the smoothed counts, and each group gets ``n_active`` templates,
       chosen one by one; codes are refitted by Newton steps after each.
    2. Templates take Newton steps on the same likelihood; templates of groups are chosen anew.
    3. The estimate is the mean of overlapping patches.  Patches are grouped by it, and steps 1 and
       2 repeated; now groups take more templates, up to ``max_active``, as long as each brings
       them nearer to the estimate before (the source's "boot-strapped" stopping rule).

    This follows the source in outline, not in every detail: it starts from cosines, edges and
    lines, where the source has templates that were learned beforehand.  Two rules are added: a
    group never has fewer templates than in the first round (or else rounds take away what the
    first has found), and templates learn from some groups, drawn at random.

    Parameters
    ----------
    patch_size : int
        Side of patches, in pixels.
    n_templates : int
    n_active, max_active : int
        Templates of a group in the first round, and at the most in later ones.  The first template
        is a constant and in every group.
    group_size : int
        Patches of a group, about.
    n_rounds : int
    n_steps : int
        Times in each round that templates learn.
    stride : int
        Pixels from patch to patch; with 2 it is four times quicker and about half a decibel worse.
    binning : int
        Denoise sums over squares of so many pixels a side, and interpolate linearly between
        their centres: for few photons ("SPDAbin" in the source with 3).
    templates : array_like, shape (template, patch_size, patch_size), optional
        To start from; the first stays as it is and should be constant.
    random_state : int, RandomState or None
        Seed of the groups from which templates learn.

    References
    ----------
    Giryes and Elad, *Sparsity-Based Poisson Denoising With Dictionary Learning*, IEEE Trans. Image
    Process. 23(12), 2014, 5057-5069, doi:10.1109/TIP.2014.2362057, arXiv:1309.4306.

    Examples
    --------
    >>> rows, columns = np.mgrid[:40, :40]
    >>> clean = np.where(rows + columns < 40, 0.5, 3.0)
    >>> counts = np.random.default_rng(0).poisson(clean)
    >>> rate = SPDA(random_state=0).predict(counts)
    >>> rate.shape, bool(((rate - clean) ** 2).mean() < 0.1 * ((counts - clean) ** 2).mean())
    ((40, 40), True)
    """

    def __init__(
        self,
        patch_size: int = 20,
        n_templates: int = 400,
        *,
        n_active: int = 3,
        max_active: int = 8,
        group_size: int = 50,
        n_rounds: int = 2,
        n_steps: int = 2,
        stride: int = 1,
        binning: int = 1,
        templates: Any = None,
        random_state: Any = None,
    ) -> None:
        self.patch_size = patch_size
        self.n_templates = n_templates
        self.n_active = n_active
        self.max_active = max_active
        self.group_size = group_size
        self.n_rounds = n_rounds
        self.n_steps = n_steps
        self.stride = stride
        self.binning = binning
        self.templates = templates
        self.random_state = random_state

    def predict(self, counts: Any) -> np.ndarray:
        """Return the expected counts of every pixel.

        Parameters
        ----------
        counts : array_like, shape (row, column)
            Photons per pixel.

        Returns
        -------
        ndarray, shape (row, column)

        Raises
        ------
        ValueError
            If a count is negative, not whole or not finite, the image is smaller than a patch, or
            a setting is out of range.
        TypeError
            If the counts are not numbers.
        """
        self._check_settings()
        image = checked_counts(counts).astype(float)
        side = self.patch_size * self.binning
        if min(image.shape) < side:
            raise ValueError(
                f"`counts` (shape {image.shape}) must have at least {side} rows and columns, "
                "those of a patch; lower `patch_size` or `binning`"
            )
        rate = self._rate(torch.from_numpy(summed(image, self.binning)).float())
        return _between(rate / self.binning**2, self.binning, image.shape)

    def _check_settings(self) -> None:
        for name in ("patch_size", "n_active", "group_size", "n_rounds", "binning"):
            validation.integer(name, getattr(self, name))
        validation.integer("n_steps", self.n_steps, minimum=0)
        validation.integer("n_templates", self.n_templates, minimum=self.n_active)
        validation.integer("max_active", self.max_active, minimum=self.n_active)
        if validation.integer("stride", self.stride) > self.patch_size:
            raise ValueError(
                f"`stride` (={self.stride}) must be at most `patch_size` (={self.patch_size}), or "
                "pixels between patches are left out"
            )

    def _rate(self, image: Tensor) -> Tensor:
        """Return the expected counts of an image."""
        generator = config.generator(self.random_state)
        pixels = patch_pixels(image.shape, self.patch_size, self.stride)
        templates = self._start()
        y = image.flatten()
        likeness = torch.from_numpy(gaussian_filter(image.numpy(), _WIDTH)).flatten()
        floor = _FLOOR * y.mean() + torch.finfo(y.dtype).tiny
        estimate: Tensor | None = None
        for _ in range(self.n_rounds):
            groups = pixels[similar_groups((likeness + floor).log()[pixels], self.group_size)]
            for _ in range(self.n_steps):
                some = groups[torch.randperm(len(groups), generator=generator)[:_LEARNED_FROM]]
                templates = learn(y[some], templates, self._coded(y, some, templates, estimate))
            mean = PatchMean(len(y))
            for some in groups.split(_TOGETHER):
                mean.add(self._coded(y, some, templates, estimate).mean, some)
            likeness = estimate = mean.image()
        return likeness.reshape(image.shape)

    def _coded(
        self, y: Tensor, pixels: Tensor, templates: Tensor, estimate: Tensor | None
    ) -> GroupCodes:
        """Return the codes of groups of patches (group, member, pixel)."""
        reference = None if estimate is None else estimate[pixels]
        return pursue(y[pixels], templates, self.n_active, self.max_active, reference)

    def _start(self) -> Tensor:
        """Return the templates to start from (template, pixel), of unit norm."""
        if self.templates is None:
            return starting_templates(self.patch_size, self.n_templates).float()
        waves = np.asarray(self.templates, dtype=np.float32)
        expected = (self.n_templates, self.patch_size, self.patch_size)
        flat = waves.reshape(len(waves), -1) if waves.shape == expected else np.zeros((1, 1))
        norms = np.sqrt((flat**2).sum(1, keepdims=True))
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise ValueError(
                f"`templates` (shape {waves.shape}) must be finite, none zero, and of the shape "
                f"(template, row, column) = {expected}"
            )
        return torch.from_numpy(flat / norms)


def starting_templates(size: int, number: int) -> Tensor:
    """Return a constant, cosines of low frequency, and edges and lines (template, pixel).

    A quarter are cosines, all orthogonal to each other.  Edges and lines have sixteen orientations,
    and places that are spread over the patch; they have no mean.
    """
    place = torch.arange(size, dtype=torch.float64) + 0.5
    waves = torch.cos(math.pi * torch.arange(size)[:, None] * place / size)
    cosines = torch.einsum("ip,jq->ijpq", waves, waves).flatten(2).flatten(0, 1)
    frequency = torch.arange(size).square()
    order = (frequency[:, None] + frequency).flatten().argsort(stable=True)
    cosines = cosines[order[: max(1, round(_SMOOTH * number))]]

    n_places = math.ceil((number - len(cosines)) / (2 * _ORIENTATIONS))
    angle = (
        torch.arange(_ORIENTATIONS, dtype=torch.float64)[:, None, None] * math.pi / _ORIENTATIONS
    )
    across = (place - size / 2)[:, None] * angle.sin() + (place - size / 2) * angle.cos()
    middle = torch.linspace(-size / 2, size / 2, n_places + 2)[1:-1]
    distance = across - middle[:, None, None, None]
    edges, lines = torch.tanh(distance / _EDGE), torch.exp(-((distance / _LINE) ** 2))
    shapes = torch.stack([edges, lines]).transpose(0, 1).flatten(0, 2).flatten(1)
    shapes = (shapes - shapes.mean(1, keepdim=True))[: number - len(cosines)]
    return functional.normalize(torch.cat([cosines, shapes]), dim=1)


def _between(rate: Tensor, binning: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image at ``binning`` times as many rows and columns, cut to a shape."""
    full = functional.interpolate(rate[None, None], scale_factor=binning, mode="bilinear")[0, 0]
    return full[: shape[0], : shape[1]].double().numpy()


_COMPONENTS = 25  # principal components of patches that tell them apart


def patch_pixels(shape: tuple[int, ...], size: int, stride: int) -> Tensor:
    """Return the pixels of each patch (patch, pixel), as places in the flattened image.

    Patches are ``stride`` pixels apart; the last ones lie at the border, so that every pixel is
    in some patch if ``stride`` is at most ``size``.
    """
    top, left = (
        torch.cat([torch.arange(0, n - size, stride), torch.tensor([n - size])]) for n in shape
    )
    side = torch.arange(size)
    corners = (top[:, None] * shape[1] + left).flatten()
    return corners[:, None] + (side[:, None] * shape[1] + side).flatten()


def similar_groups(patches: Tensor, size: int) -> Tensor:
    """Sort patches into groups of similar ones, all of one size.

    All patches are halved along their first principal component, then each half along its own,
    and so on until groups have about ``size`` members.  The middle one of an odd number goes into
    both halves, so that a patch may be in several groups.

    Parameters
    ----------
    patches : tensor, shape (patch, pixel)
    size : int

    Returns
    -------
    tensor, shape (group, member)
        Indices of patches.
    """
    centred = patches - patches.mean(0)
    features = centred @ torch.linalg.eigh(centred.T @ centred)[1][:, -_COMPONENTS:]
    groups = torch.arange(len(patches))[None]
    while groups.shape[1] > size * 2**0.5:
        members = features[groups]
        members = members - members.mean(1, keepdim=True)
        axes = torch.linalg.eigh(members.mT @ members)[1][:, :, -1:]
        order = (members @ axes)[..., 0].argsort(dim=1, stable=True)
        groups = groups.gather(1, order)
        half = (groups.shape[1] + 1) // 2
        groups = torch.cat([groups[:, :half], groups[:, -half:]])
    return groups


class PatchMean:
    """The image in which every pixel is the mean of the patches over it.

    Parameters
    ----------
    n_pixels : int
    """

    def __init__(self, n_pixels: int) -> None:
        self._total, self._number = torch.zeros(n_pixels), torch.zeros(n_pixels)

    def add(self, values: Tensor, pixels: Tensor) -> None:
        """Take in values at pixels, tensors of one shape."""
        self._total.index_add_(0, pixels.flatten(), values.flatten())
        self._number.index_add_(0, pixels.flatten(), torch.ones(pixels.numel()))

    def image(self) -> Tensor:
        """Return the flattened image."""
        return self._total / self._number
