"""Sparse Poisson denoising of one image, with templates that are learned from its own patches.

Patches y and their means have the shape (group, member, pixel), templates (template, pixel), codes
(group, member, active).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from spikecdl import config, validation
from spikecdl.denoise.images import SingleImageDenoiser, summed
from spikecdl.denoise.networks import interpolated
from spikecdl.model.families import Poisson


@dataclass(eq=False, repr=False)
class SPDA(SingleImageDenoiser):
    r"""Denoise an image of photon counts by sparse codes of its patches, without training.

    A patch (its pixels in a row) is Poisson with mean :math:`\exp(b + \sum_c a_c h_c)`, where few
    of the unit-norm templates :math:`h_c` are active and b is the log of the patch's own mean.
    Similar patches form groups that share their active templates, each with codes of its own.

    1. Patches are grouped by the smoothed counts, and each group gets ``n_active`` templates,
       chosen one by one; codes are refitted by Newton steps after each.
    2. Templates take Newton steps on the same likelihood, and groups choose their templates again.
    3. The estimate is the mean of overlapping patches.  Patches are grouped by the estimate, and
       steps 1 and 2 are repeated.  Groups now take more templates, up to ``max_active``, while
       each brings them nearer to the previous estimate (the authors' "boot-strapped" stopping).

    The authors start from templates that were learned beforehand, here these are cosines, edges and
    lines.  Unlike theirs, a group never has fewer templates than in the first round (otherwise
    rounds remove what the first one found), and templates are learned from 500 random groups.

    Parameters
    ----------
    patch_size : int
        Side of patches, in pixels.
    n_templates : int
    n_active, max_active : int
        Templates of a group in the first round, and the maximum in later ones.  The first template
        is constant and in every group.
    group_size : int
        Approximate number of patches in a group.
    n_rounds : int
    n_steps : int
        Dictionary updates in each round.
    stride : int
        Pixels from patch to patch; 2 is four times faster and about half a decibel worse.
    binning : int
        Denoise sums over squares of this many pixels a side, and interpolate linearly between
        their centres: for few photons (3 is "SPDAbin" of the authors).
    random_state : int, RandomState or None
        Chooses the groups from which templates are learned.

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

    patch_size: int = 20
    n_templates: int = 400
    _: KW_ONLY
    n_active: int = 3
    max_active: int = 8
    group_size: int = 50
    n_rounds: int = 2
    n_steps: int = 2
    stride: int = 1
    binning: int = 1
    random_state: Any = None

    def _rates(self, counts: np.ndarray) -> np.ndarray:
        for name in ("patch_size", "n_active", "group_size", "n_rounds", "stride", "binning"):
            validation.integer(name, getattr(self, name))
        validation.integer("n_steps", self.n_steps, minimum=0)
        validation.integer("n_templates", self.n_templates, minimum=self.n_active)
        validation.integer("max_active", self.max_active, minimum=self.n_active)
        if self.stride > self.patch_size:
            raise ValueError(
                f"`stride` (={self.stride}) must be at most `patch_size` (={self.patch_size}), or "
                "pixels between patches are left out"
            )
        side = self.patch_size * self.binning
        if min(counts.shape) < side:
            raise ValueError(
                f"`counts` (shape {counts.shape}) must have at least {side} rows and columns, "
                "those of a patch; lower `patch_size` or `binning`"
            )
        rate = self._estimate(torch.from_numpy(summed(counts, self.binning)).float())
        rate = interpolated(rate / self.binning**2, self.binning)
        return rate[: counts.shape[0], : counts.shape[1]].double().numpy()

    def _estimate(self, image: Tensor) -> Tensor:
        """Return the expected counts of an image (row, column)."""
        generator = config.generator(self.random_state)
        pixels = patch_pixels(image.shape, self.patch_size, self.stride)
        templates = initial_templates(self.patch_size, self.n_templates).float()
        y = image.flatten()
        compared = torch.from_numpy(gaussian_filter(image.numpy(), 2)).flatten()
        floor = 1e-3 * y.mean() + torch.finfo(y.dtype).tiny  # of rates whose log is taken
        estimate: Tensor | None = None

        def coded(some: Tensor) -> GroupCodes:
            reference = None if estimate is None else estimate[some]
            return pursue(y[some], templates, self.n_active, self.max_active, reference)

        for _ in range(self.n_rounds):
            groups = pixels[similar_groups((compared + floor).log()[pixels], self.group_size)]
            for _ in range(self.n_steps):
                some = groups[torch.randperm(len(groups), generator=generator)[:500]]
                templates = updated_templates(y[some], templates, coded(some))
            compared = estimate = mean_of_patches(
                ((coded(some).mean, some) for some in groups.split(32)), len(y)
            )
        return compared.reshape(image.shape)


def initial_templates(size: int, number: int) -> Tensor:
    """Return a constant, cosines of low frequency, and edges and lines (template, pixel).

    A quarter are cosines, orthogonal to each other.  Edges and lines have sixteen orientations,
    positions that are spread over the patch, and zero mean.
    """
    pixel = torch.arange(size, dtype=torch.float64) + 0.5
    basis = torch.cos(math.pi * torch.arange(size)[:, None] * pixel / size)
    cosines = torch.einsum("ip,jq->ijpq", basis, basis).flatten(2).flatten(0, 1)
    frequency = torch.arange(size).square()
    order = (frequency[:, None] + frequency).flatten().argsort(stable=True)
    cosines = cosines[order[: max(1, round(number / 4))]]

    n_positions = math.ceil((number - len(cosines)) / (2 * 16))
    angle = torch.arange(16, dtype=torch.float64)[:, None, None] * math.pi / 16
    across = (pixel - size / 2)[:, None] * angle.sin() + (pixel - size / 2) * angle.cos()
    middle = torch.linspace(-size / 2, size / 2, n_positions + 2)[1:-1]
    distance = across - middle[:, None, None, None]
    edges, lines = torch.tanh(distance), torch.exp(-((distance / 2) ** 2))
    shapes = torch.stack([edges, lines]).transpose(0, 1).flatten(0, 2).flatten(1)
    shapes = (shapes - shapes.mean(1, keepdim=True))[: number - len(cosines)]
    return F.normalize(torch.cat([cosines, shapes]), dim=1)


def patch_pixels(shape: tuple[int, ...], size: int, stride: int) -> Tensor:
    """Return the pixels of each patch (patch, pixel), as indices of the flattened image.

    Patches are ``stride`` pixels apart, and the last ones lie at the border.
    """
    image = torch.arange(shape[0] * shape[1]).reshape(shape)
    top, left = (torch.tensor([*range(0, n - size, stride), n - size]) for n in shape)
    return image.unfold(0, size, 1).unfold(1, size, 1)[top[:, None], left].reshape(-1, size**2)


def similar_groups(patches: Tensor, size: int) -> Tensor:
    """Return indices of patches (patch, pixel) in groups of similar ones (group, member).

    Patches are compared by 25 principal components.  All are halved along the first one, then each
    half along its own, and so on until groups have about ``size`` members.  The middle one of an
    odd number goes into both halves, so a patch may be in several groups.
    """
    centred = patches - patches.mean(0)
    features = centred @ torch.linalg.eigh(centred.T @ centred)[1][:, -25:]
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


def mean_of_patches(patches: Iterable[tuple[Tensor, Tensor]], n_pixels: int) -> Tensor:
    """Return the flattened image whose pixels are means over patches: (values, pixels) pairs."""
    total, number = torch.zeros(2, n_pixels)
    for values, pixels in patches:
        total.index_add_(0, pixels.flatten(), values.flatten())
        number.index_add_(0, pixels.flatten(), torch.ones(pixels.numel()))
    return total / number


class GroupCodes(NamedTuple):
    """Codes of groups of patches, on the templates that each group has chosen."""

    support: Tensor  # (group, active): templates of each group, -1 for none
    codes: Tensor  # (group, member, active): their amplitudes, 0 for none
    mean: Tensor  # (group, member, pixel)


def log_mean(y: Tensor) -> Tensor:
    """Return the baseline: the log of each patch's mean (..., 1), with half a count added."""
    return Poisson().link((y.sum(-1, keepdim=True) + 0.5) / y.shape[-1])


def refit(
    y: Tensor,
    baseline: Tensor,
    templates: Tensor,
    codes: Tensor,
    n_steps: int = 4,
    tolerance: float = 1e-2,
    precision: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """Return codes and means, fitted by Newton steps on templates (group, active, pixel).

    Steps are shortened so that no log rate changes by more than 1.  Then the Poisson likelihood
    cannot fall, because it is generalized self-concordant (Bach, Electron. J. Stat. 4, 2010,
    doi:10.1214/09-EJS521), and no line search is needed.  They end after ``n_steps``, or when the
    squared Newton decrement of all patches is below the tolerance.  The ``precision`` of a Gaussian
    prior keeps codes of dark patches finite; it is far below the curvature of others, which is
    about the mean count of a pixel.
    """
    n_active = templates.shape[1]
    products = (templates[:, :, None] * templates[:, None]).flatten(1, 2).mT
    eta = baseline + codes @ templates
    for _ in range(n_steps):
        mean = Poisson().mean(eta)  # also the curvature
        gradient = (y - mean) @ templates.mT - precision * codes
        hessian = (mean @ products).unflatten(-1, (n_active, n_active))
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        diagonal.mul_(1 + 1e-5).add_(precision)  # for templates that are nearly equal, or unused
        step = torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(hessian))[..., 0]
        change = step @ templates
        longest = change.abs().amax(-1, keepdim=True).clamp(min=1)
        codes, eta = codes + step / longest, eta + change / longest
        if (gradient * step).sum(-1).max() < tolerance:
            break
    return codes, Poisson().mean(eta)


def pursue(
    y: Tensor, templates: Tensor, least: int, most: int = 0, reference: Tensor | None = None
) -> GroupCodes:
    """Choose templates for groups of patches one by one, and fit the codes.

    The first template is in every group.  The next is the one with the largest sum over the
    group's patches of score tests, squared gradient over curvature.  Groups get ``least``
    templates, and continue up to ``most`` while each brings the means nearer to the ``reference``,
    an earlier estimate of them; without one they have ``least``.
    """
    n_groups, n_members, _ = y.shape
    most = least if reference is None else most
    kept = GroupCodes(
        torch.full((n_groups, most), -1), y.new_zeros(n_groups, n_members, most), y.clone()
    )
    error = torch.full((n_groups,), torch.inf, dtype=y.dtype)
    going = torch.arange(n_groups)
    support, codes = torch.zeros(n_groups, 1).long(), y.new_zeros(n_groups, n_members, 1)
    baseline = log_mean(y)
    for size in range(1, most + 1):
        codes, mean = refit(y[going], baseline[going], templates[support], codes)
        if reference is not None:
            now = (mean - reference[going]).square().sum((1, 2))
            better = (now < error[going]) | (size <= least)
            going, support, codes, mean = (a[better] for a in (going, support, codes, mean))
            error[going] = now[better]
        kept.support[going, :size], kept.mean[going] = support, mean
        kept.codes[going, :, :size] = codes
        if size == most or not len(going):
            break
        gradient = (y[going] - mean) @ templates.T
        test = (gradient.square() / (mean @ templates.T.square() + 1e-3)).sum(1)
        best = test.scatter(1, support, -1.0).argmax(1, keepdim=True)
        support = torch.cat([support, best], 1)
        codes = torch.cat([codes, codes.new_zeros(*codes.shape[:2], 1)], 2)
    return kept


def updated_templates(y: Tensor, templates: Tensor, found: GroupCodes) -> Tensor:
    """Return templates after a Newton step of each but the first in turn, with supports fixed.

    A ridge of 1 holds back rare templates, and steps are shortened as in `refit`.  Templates are
    scaled back to unit norm, and their amplitudes accordingly.
    """
    rows, templates = y.flatten(0, 1), templates.clone()
    n_none = len(templates)  # one more column, for codes of no template
    support = found.support.where(found.support >= 0, n_none)[:, None].expand(found.codes.shape)
    codes = y.new_zeros(len(rows), n_none + 1)
    codes.scatter_(1, support.flatten(0, 1), found.codes.flatten(0, 1))
    codes = codes[:, :-1].T.contiguous()
    eta = log_mean(rows) + codes.T @ templates
    for template, amplitude in zip(templates[1:], codes[1:], strict=True):
        users = amplitude.nonzero()[:, 0]
        if not len(users):
            continue
        size, now = amplitude[users], eta[users]
        mean = Poisson().mean(now)
        step = size @ (rows[users] - mean) / (size.square() @ mean + 1)
        step /= (step.abs() * size.abs().max()).clamp(min=1)
        eta[users] = now + size[:, None] * step
        template += step
        norm = template.norm()
        template /= norm
        amplitude *= norm
    return templates
