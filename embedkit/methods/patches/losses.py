"""Losses of patches. Import this file inside functions: it needs torch.

n images of this process with P patches each, vectors of size d; N images in the whole batch. Each loss is one number an
image, (n,).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest(features: Tensor, others: Tensor) -> Tensor:
    """For each patch of n images the patch of highest cosine in the other view: (n, P, W), (n, Q, W) -> (n, P).

    Examples
    --------
    >>> nearest(torch.eye(2)[None], torch.eye(2).flip(0)[None])
    tensor([[1, 0]])
    """
    return (F.normalize(features, dim=2) @ F.normalize(others, dim=2).transpose(1, 2)).argmax(dim=2)


def dense_contrast(
    queries: Tensor, keys: Tensor, match: Tensor, pooled: Tensor, rows: Tensor | None, temperature: float
) -> Tensor:  # fmt: skip
    """InfoNCE of each patch against its match, with the pooled patches of other images as negatives (DenseCL, eq. 2).

    Parameters
    ----------
    queries, keys : Tensor (n, P, d), (n, Q, d)
    match : LongTensor (n, P)
        The key of each query, in 0 .. Q - 1.
    pooled : Tensor (N, d)
        One vector an image of the whole batch, or of earlier ones.
    rows : LongTensor (n,), optional
        The place of the n images in the batch; their own pooled vectors are no negatives. None for earlier images.
    temperature : float

    Examples
    --------
    >>> z, far = torch.eye(2)[None], torch.tensor([[0.0, 0.0], [-1.0, -1.0]])
    >>> dense_contrast(z, z, torch.tensor([[0, 1]]), far, torch.tensor([0]), temperature=0.1) < 1e-6
    tensor([True])
    """
    queries, keys = F.normalize(queries, dim=2), F.normalize(keys, dim=2)
    positive = (queries * keys.gather(1, match[:, :, None].expand(-1, -1, keys.shape[2]))).sum(dim=2) / temperature
    scores = queries @ F.normalize(pooled, dim=1).T / temperature  # (n, P, N)
    if rows is not None:
        itself = rows[:, None] == torch.arange(len(pooled), device=rows.device)[None]
        scores = scores.masked_fill(itself[:, None], -torch.inf)
    return (torch.cat([positive[:, :, None], scores], dim=2).logsumexp(dim=2) - positive).mean(dim=1)


def search(queries: Tensor, tokens: Tensor, sharpness: float) -> Tensor:
    """Means of unit patches (n, P, d), weighted by how like they are to a vector of the image (n, d): (n, d).

    Weights are ``softmax(cosine / sharpness)``.

    Examples
    --------
    >>> search(torch.tensor([[0.0, 3.0]]), torch.eye(2)[None], sharpness=0.01).round(decimals=4)
    tensor([[0., 1.]])
    """
    unit = F.normalize(tokens, dim=2)
    weights = (unit @ F.normalize(queries, dim=1)[:, :, None] / sharpness).softmax(dim=1)  # (n, P, 1)
    return (weights * unit).sum(dim=1)


def propagated(tokens: Tensor, values: Tensor, power: float) -> Tensor:
    """Each patch as the sum of all values of its image, weighted by max(cosine, 0) ** power (PixPro, eq. 2 and 3).

    Examples
    --------
    >>> propagated(torch.eye(2)[None], torch.tensor([[[1.0], [5.0]]]), power=2.0).flatten().tolist()
    [1.0, 5.0]
    """
    unit = F.normalize(tokens, dim=2)
    return (unit @ unit.transpose(1, 2)).clamp_min(0.0) ** power @ values


def near(places: Tensor, others: Tensor, reach: Tensor, threshold: float) -> Tensor:
    """Which patches of two views lie within `threshold` times `reach` (n,) of each other in the picture: (n, P, Q).

    Examples
    --------
    >>> near(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, 0.5], [0.0, 2.0]]]), torch.tensor([1.0]), 0.7)
    tensor([[[ True, False]]])
    """
    return torch.cdist(places, others, compute_mode="donot_use_mm_for_euclid_dist") < threshold * reach[:, None, None]


def consistency(tokens: Tensor, others: Tensor, pairs: Tensor) -> Tensor:
    """Minus the mean cosine of the `pairs` (n, P, Q) of patches; 0 for an image without any (PixPro, eq. 4).

    Examples
    --------
    >>> consistency(torch.eye(2)[None], torch.eye(2)[None], torch.eye(2, dtype=torch.bool)[None])
    tensor([-1.])
    """
    cosines = F.normalize(tokens, dim=2) @ F.normalize(others, dim=2).transpose(1, 2)
    return -(cosines * pairs).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp_min(1)


def grouped(texts: Tensor, patches: Tensor, threshold: float | None = None) -> Tensor:
    """For each text the mean of its image's patches, weighted by how well they fit it (DreamLIP, section 3.3).

    Cosines are brought to 0 .. 1 by the least and the largest of the text; those below `threshold` (one over the number
    of patches when None) count 0; the rest are divided by their sum.

    Parameters
    ----------
    texts, patches : Tensor (m, d), (m, P, d)

    Examples
    --------
    >>> grouped(torch.tensor([[1.0, 0.0]]), torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]))
    tensor([[2., 0.]])
    """
    cosines = (F.normalize(patches, dim=2) @ F.normalize(texts, dim=1)[:, :, None])[:, :, 0]  # (m, P)
    low, high = cosines.amin(dim=1, keepdim=True), cosines.amax(dim=1, keepdim=True)
    fit = (cosines - low) / (high - low).clamp_min(torch.finfo(cosines.dtype).tiny)
    fit = torch.where(fit < (1 / patches.shape[1] if threshold is None else threshold), 0.0, fit)
    weights = fit / fit.sum(dim=1, keepdim=True).clamp_min(torch.finfo(cosines.dtype).tiny)
    return (weights[:, None] @ patches)[:, 0]


def region_means(tokens: Tensor, regions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean vectors of the regions of each image, (n, count, d), and which it has, (n, count).

    `regions` (n, P) says the region of each patch; -1 for none.

    Examples
    --------
    >>> means, there = region_means(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[0, 0, -1]]), count=2)
    >>> means.flatten().tolist(), there.tolist()
    ([2.0, 0.0], [[True, False]])
    """
    members = (regions[:, None] == torch.arange(count, device=regions.device)[None, :, None]).to(tokens.dtype)
    size = members.sum(dim=2, keepdim=True)
    return members @ tokens / size.clamp_min(1.0), size[:, :, 0] > 0


def region_contrast(anchors: Tensor, others: Tensor, there: Tensor, rows: slice, temperature: float) -> Tensor:
    """InfoNCE of the regions of images in one view against those in the other (DetCon, eq. 2 and 3), summed.

    The positive of a region is the same region of the same image in the other view; negatives are all other regions of
    all images in both views. Regions that one of the views does not show are no anchors.

    Parameters
    ----------
    anchors, others : Tensor (N, C, d)
        Means of C regions of all images in both views.
    there : BoolTensor (2, N, C)
        Which regions the two views show.
    rows : slice
        Images whose regions are the anchors.

    Returns
    -------
    Tensor ()
        Sum over the anchors.

    Examples
    --------
    >>> means, there = torch.eye(2)[None], torch.ones(2, 1, 2, dtype=torch.bool)
    >>> bool(region_contrast(means, means, there, slice(0, 1), temperature=0.05) < 1e-6)
    True
    """
    count = there[0].numel()
    places = torch.arange(count, device=anchors.device).view(there.shape[1:])[rows].flatten()
    first, second = F.normalize(anchors, dim=2).flatten(0, 1), F.normalize(others, dim=2).flatten(0, 1)
    own = first[places]
    itself = places[:, None] == torch.arange(count, device=places.device)[None]
    across = (own @ second.T / temperature).masked_fill(~there[1].flatten()[None], -torch.inf)
    within = (own @ first.T / temperature).masked_fill(itself | ~there[0].flatten()[None], -torch.inf)
    positive = (own * second[places]).sum(dim=1) / temperature
    both = (there[0] & there[1])[rows].flatten()
    losses = torch.cat([across, within], dim=1)[both].logsumexp(dim=1) - positive[both]
    return losses.sum()
