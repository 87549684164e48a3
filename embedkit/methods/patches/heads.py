"""State and losses of patches with prototypes. Import this file inside functions: it needs torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Centre(nn.Module):
    """The running mean (K,) of a teacher's cosines with K prototypes, from 0 (Caron et al. 2021, DINO, section 3.1).

    Examples
    --------
    >>> centre = Centre(2, momentum=0.5)
    >>> centre.follow(torch.tensor([1.0, 3.0]))
    >>> centre.mean.tolist()
    [0.5, 1.5]
    """

    mean: Tensor

    def __init__(self, count: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(count))

    @torch.no_grad()
    def follow(self, cosines: Tensor) -> None:
        """Move towards the mean of this step."""
        self.mean.lerp_(cosines.to(self.mean.dtype), 1 - self.momentum)


def cosines(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines (..., K) of vectors (..., d) with prototypes (K, d).

    Examples
    --------
    >>> cosines(torch.tensor([[3.0, 0.0]]), torch.eye(2)).tolist()
    [[1.0, 0.0]]
    """
    return F.normalize(tokens, dim=-1) @ F.normalize(prototypes, dim=-1).T


def assignment_loss(student: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of log-probabilities (n, P, K) against probabilities, averaged over the patches of `counts` (n, P).

    Returns
    -------
    Tensor (n,)
        0 for an image without any.

    Examples
    --------
    >>> half = torch.full((1, 2, 2), 0.5)
    >>> loss = assignment_loss(half.log(), half, torch.tensor([[True, False]]))
    >>> round(float(loss), 4)  # log 2
    0.6931
    """
    losses = -(teacher * student).sum(dim=2) * counts
    return losses.sum(dim=1) / counts.sum(dim=1).clamp_min(1)


def slots_of(tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Means of patches (n, P, d) by their shares in K slots (n, P, K): (n, K, d), and the slots that are the largest of
    some patch, (n, K).

    Examples
    --------
    >>> slots, there = slots_of(torch.eye(2)[None], torch.tensor([[[0.9, 0.1], [0.9, 0.1]]]))
    >>> slots[0, 0].tolist(), there.tolist()
    ([0.5, 0.5], [[True, False]])
    """
    total = weights.sum(dim=1)[:, :, None].clamp_min(torch.finfo(weights.dtype).tiny)
    there = F.one_hot(weights.argmax(dim=2), weights.shape[2]).any(dim=1)
    return weights.transpose(1, 2) @ tokens / total, there


def slot_contrast(queries: Tensor, own: Tensor, keys: Tensor, there: Tensor, first: int, temperature: float) -> Tensor:
    """InfoNCE of the slots of images against the same slot of the same image, summed (SlotCon, eq. 5).

    Parameters
    ----------
    queries, own : Tensor (n, K, d), BoolTensor (n, K)
        Slots of n images, and which they have.
    keys, there : Tensor (N, K, d), BoolTensor (N, K)
        The teacher's slots of the whole batch in the other view; all but the positive are negatives.
    first : int
        Place of the first of the n images in the batch.

    Examples
    --------
    >>> z, all_there = torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool)
    >>> bool(slot_contrast(z, all_there, z, all_there, first=0, temperature=0.05) < 1e-6)
    True
    """
    count = queries.shape[1]
    places = torch.arange(len(queries) * count, device=queries.device) + first * count
    table = F.normalize(queries, dim=2).flatten(0, 1) @ F.normalize(keys, dim=2).flatten(0, 1).T / temperature
    table = table.masked_fill(~there.flatten()[None], -torch.inf)
    both = own.flatten() & there.flatten()[places]
    return F.cross_entropy(table[both], places[both], reduction="sum")
