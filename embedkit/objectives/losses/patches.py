"""Functions of patch tokens for methods: matches and local VICReg (VICRegL), alignment of patch kernels (PaKA).

Tokens stay on the process of their image; what crosses processes is said at each function.
"""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.objectives.losses.statistics.redundancy_reduction import off_diagonal
from embedkit.objectives.tools import require


def nearest_matches(tokens: Tensor, others: Tensor, distances: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` tokens of each image that have the nearest partner in the other view, and their partners.

    Bardes et al. 2022, NeurIPS, VICRegL, section 3: by the distance of features, or of places in the image.

    Parameters
    ----------
    tokens : Tensor (B, N, D)
        Of one view.
    others : Tensor (B, M, D)
        Of the other view of the same images.
    distances : Tensor (B, N, M)
        What partners are chosen by, without gradient.
    count : int
        At most N.

    Returns
    -------
    tuple of Tensor (B, count, D)
        Both in the order of their distance.

    Examples
    --------
    >>> import torch
    >>> tokens, others = torch.tensor([[[0.0], [5.0], [9.0]]]), torch.tensor([[[9.0], [1.0]]])
    >>> mine, theirs = nearest_matches(tokens, others, torch.cdist(tokens, others), count=2)
    >>> mine.flatten().tolist(), theirs.flatten().tolist()
    ([9.0, 0.0], [9.0, 1.0])
    """
    require(1 <= count <= tokens.shape[1], "count", count, f"from 1 to the {tokens.shape[1]} tokens of an image")
    nearest, partner = distances.detach().min(dim=2)  # (B, N)
    pick = nearest.topk(count, dim=1, largest=False).indices
    image = torch.arange(len(tokens), device=tokens.device)[:, None]
    return tokens[image, pick], others[image, partner.gather(1, pick)]


def local_vicreg(
    tokens: Tensor, partners: Tensor, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:  # fmt: skip
    """VICReg of matched tokens (B, n, D): the statistics of each of the n places over the batch, averaged over places.

    The covariance term is half of VICReg's, as in VICRegL's code. Statistics are those of the rows that are given: a
    method that splits a batch over processes gathers the few matched tokens first.

    Parameters
    ----------
    tokens, partners : Tensor (B, n, D)
        As `nearest_matches` gives them.
    invariance, variance, covariance : float
        Weights of the three terms.
    eps : float
        Added to variances.

    Returns
    -------
    Tensor ()

    Examples
    --------
    >>> import torch
    >>> tokens = torch.tensor([[[2.0, 0.0]], [[-2.0, 0.0]]])  # the second column does not vary
    >>> round(local_vicreg(tokens, tokens).item(), 3)
    12.375
    """
    spread = apart = tokens.new_zeros(())
    for z in (tokens, partners):
        centred = z - z.mean(dim=0)
        matrices = torch.einsum("bnc,bnd->ncd", centred, centred) / max(len(z) - 1, 1)  # (n, D, D)
        deviation = (matrices.diagonal(dim1=1, dim2=2) + eps).sqrt()
        spread = spread + torch.relu(1.0 - deviation).mean() / 2
        outside = torch.stack([off_diagonal(matrix).square().sum() for matrix in matrices])
        apart = apart + outside.mean() / z.shape[2] / 2
    return invariance * (tokens - partners).square().mean() + variance * spread + covariance * apart


def vicregl(
    tokens: Tensor, others: Tensor, places: Tensor, other_places: Tensor, matches: tuple[int, int] = (20, 4),
    **weights: float,
) -> Tensor:  # fmt: skip
    """The local part of VICRegL for two views: matches by feature and by place, in both directions.

    ``sum over features and places of (VICReg of the first view's matches + of the second's) / 2``; the method adds
    it, times ``1 - alpha`` = 0.25, to `vicreg` of the whole vectors, times 0.75.

    Parameters
    ----------
    tokens, others : Tensor (B, N, D), (B, M, D)
        Tokens of both views.
    places, other_places : Tensor (B, N, 2), (B, M, 2)
        Where they are in the image that both views were cut from.
    matches : tuple of int
        Matches from the first view to the second, and back; fewer where there are fewer tokens.
    **weights : float
        See `local_vicreg`.

    Returns
    -------
    Tensor ()

    Examples
    --------
    >>> import torch
    >>> tokens, places = torch.randn(4, 3, 2), torch.rand(4, 3, 2)
    >>> bool(vicregl(tokens, tokens, places, places) < vicregl(tokens, -tokens, places, places))
    True
    """
    pairs = all_matches(tokens, others, places, other_places, matches)
    return torch.stack([local_vicreg(match, partner, **weights) for match, partner in pairs]).sum() / 2


def all_matches(
    tokens: Tensor, others: Tensor, places: Tensor, other_places: Tensor, matches: tuple[int, int]
) -> list[tuple[Tensor, Tensor]]:
    """The four sets of matches that `vicregl` compares: by feature and by place, each there and back.

    Examples
    --------
    >>> import torch
    >>> tokens, places = torch.randn(4, 3, 2), torch.rand(4, 3, 2)
    >>> [tuple(mine.shape) for mine, _ in all_matches(tokens, tokens, places, places, (2, 9))]
    [(4, 2, 2), (4, 3, 2), (4, 2, 2), (4, 3, 2)]
    """
    by_feature = torch.cdist(tokens.detach(), others.detach())
    by_place = torch.cdist(places.to(tokens.dtype), other_places.to(tokens.dtype))
    pairs = []
    for distances in (by_feature, by_place):
        for mine, theirs, gap, count in (
            (tokens, others, distances, matches[0]), (others, tokens, distances.transpose(1, 2), matches[1]),
        ):  # fmt: skip
            pairs.append(nearest_matches(mine, theirs, gap, min(count, mine.shape[1])))
    return pairs


def kernel_misalignment(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - centred kernel alignment of the students' and the teacher's patches, by image, (B,).

    Patch-level kernel alignment (PaKA 2025, arXiv 2509.05606): the products of all pairs of an image's patches,
    centred, should be the same up to a factor. Both views show the same places. Nothing crosses images, so that each
    process sums its own and divides by all images of the batch. An image with fewer than two patches, or with equal
    ones, counts as zero.

    Parameters
    ----------
    student, teacher : Tensor (B, N, D), (B, N, E)
        Patches; the teacher's get no gradient, and may have another size.
    valid : BoolTensor (B, N), optional
        Which patches count.

    Returns
    -------
    Tensor (B,)

    Examples
    --------
    >>> import torch
    >>> patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    >>> turned = patches @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]])  # turned and stretched
    >>> round(kernel_misalignment(patches, turned).item(), 4)
    0.0
    """
    there = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device) if valid is None else valid
    weight = there.to(student.dtype)[:, :, None]
    centred = []
    for z in (student, teacher.detach().to(student.dtype)):
        mean = (z * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp_min(1)
        centred.append((z - mean) * weight)  # centred features have the centred kernel
    s, t = (z @ z.transpose(1, 2) for z in centred)  # (B, N, N)
    square = s.square().sum(dim=(1, 2)) * t.square().sum(dim=(1, 2))
    counts = square > 0
    length = torch.where(counts, torch.where(counts, square, 1.0).sqrt(), 1.0)
    return torch.where(counts, 1 - (s * t).sum(dim=(1, 2)) / length, 0.0)
