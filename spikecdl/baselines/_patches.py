"""Square patches of an image: where they are, which are alike, and the image of their means."""

from __future__ import annotations

import torch
from torch import Tensor

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
