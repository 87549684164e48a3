"""Order and equivariance: group ordering by differentiable sorting (GroCo) and equality of Gram matrices (CARE)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import FURTHER, PAIR, Family, all_views, loss_of_rows, other_rows, require_role, take
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import number, unit, whole


def odd_even_sort(values: Tensor, steepness: float) -> Tensor:
    """Soft permutation of an odd-even sorting network, ascending.

    Petersen et al. 2022, "Monotonic Differentiable Sorting Networks", with the Cauchy sigmoid: neighbours a, b change
    places to the degree ``1/2 - atan(steepness * (b - a)) / pi``.

    Parameters
    ----------
    values : Tensor (R, n)
        Rows to be sorted.
    steepness : float
        Inverse temperature of each swap.

    Returns
    -------
    Tensor (R, n, n)
        Doubly stochastic: entry (r, k, j) says how much element j is at place k.

    Examples
    --------
    >>> import torch
    >>> odd_even_sort(torch.tensor([[2.0, 1.0]]), steepness=10.0)
    tensor([[[0.0317, 0.9683],
             [0.9683, 0.0317]]])
    """
    count = values.shape[1]
    eye = torch.eye(count, dtype=values.dtype, device=values.device)
    places = eye.expand(len(values), count, count)
    for layer in range(count):
        low = torch.arange(layer % 2, count - 1, 2, device=values.device)
        a, b = values[:, low], values[:, low + 1]  # (R, pairs)
        keep = 0.5 + torch.atan(steepness * (b - a)) / math.pi
        values = values.index_copy(1, low, keep * a + (1 - keep) * b)
        values = values.index_copy(1, low + 1, (1 - keep) * a + keep * b)
        a, b, keep = places[:, low], places[:, low + 1], keep[:, :, None]  # (R, pairs, n)
        places = places.index_copy(1, low, keep * a + (1 - keep) * b)
        places = places.index_copy(1, low + 1, (1 - keep) * a + keep * b)
    return places


@objective(
    "groco", paper="Shvetsova et al. 2023, ICCV, Learning by Sorting, section 3", family="ranking", splits=True,
    slots="differentiable odd-even sorting of positives and hardest negatives, cross-entropy of the two groups",
    cost="B² D + B n³ for n = negatives + views - 1",
)  # fmt: skip
class GroCo(Family):
    """Group ordering: all positives of an anchor should come after its hardest negatives when sorted by cosine.

    Every view is an anchor. Its positives are the other views of its row, its negatives the `hardest` most similar
    vectors of its own view; both carry no gradient. The network sorts ``[negatives ascending, positives ascending]``;
    the loss is the binary cross-entropy of each element's probability of ending in the positive group, averaged over
    elements. (The paper averages it with that of the negative group, which is the same number, as the two
    probabilities sum to one.)

    Parameters
    ----------
    hardest : int
        Negatives per anchor; fewer when the batch has fewer.
    steepness : float
        Inverse temperature of each swap.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("groco")(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    0.6931
    """

    accepts = FURTHER
    repels = True

    def __init__(self, *, hardest: int = 10, steepness: float = 1.0) -> None:
        super().__init__()
        self.hardest = whole("hardest", hardest, least=1)
        self.steepness = number("steepness", steepness, above=0)

    def _group_loss(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """Loss (R,) of each anchor from its similarities (R, P) and (R, N)."""
        values = torch.cat([negatives.sort(dim=1).values, positives.sort(dim=1).values], dim=1)  # (R, n)
        split_at = negatives.shape[1]
        places = odd_even_sort(values, self.steepness)  # (R, n, n)
        chance = places[:, split_at:].sum(dim=1).clamp(0.0, 1.0)  # (R, n): ends among the positives
        truth = (torch.arange(values.shape[1], device=values.device) >= split_at).to(values.dtype)
        return F.binary_cross_entropy(chance, truth.expand_as(chance), reduction="none").mean(dim=1)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's anchors, in every view."""
        views = [unit(z) for z in all_views(embeddings)]
        rows = batch.rows
        total = views[0].new_zeros(())
        other = other_rows(batch.size, rows, views[0].device)  # (rows, B)
        for at, anchors in enumerate(views):
            keys = torch.stack([z for k, z in enumerate(views) if k != at]).detach()  # (V - 1, B, D)
            positives = torch.einsum("rd,vrd->rv", anchors[rows], keys[:, rows])  # (rows, V - 1)
            table = (anchors[rows] @ anchors.detach().T).masked_fill(~other, -torch.inf)  # (rows, B)
            hardest = min(self.hardest, batch.size - 1)
            total = total + self._group_loss(positives, table.topk(hardest, dim=1).values).sum()
        return loss_of_rows({"order": total / (batch.size * len(views))})


@objective(
    "gram-equivariance", paper="Gupta et al. 2023, arXiv 2306.13924, CARE", family="equivariance", splits=True,
    slots="equality of the Gram matrices of two views within a group",
    note="CARE adds it to ntxent; its group is the part of a batch that shares one pair of augmentations.",
)  # fmt: skip
class GramEquivariance(Family):
    """Equal Gram matrices: within a group of rows, both views should have the same cosines between rows.

    ``2 * mean_i sum_{j != i} (cos(a_i, a_j) - cos(p_i, p_j))²`` over the rows of a group, averaged over groups. A group
    is a set of rows whose views were made by one and the same pair of augmentations, so that an augmentation acts as
    a rotation. A group of one row counts as zero.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> loss = build("gram-equivariance")(z, ObjectiveBatch.of(z, group=torch.tensor([0, 0]))).loss
    >>> round(loss.item(), 4)
    0.0
    """

    requires = frozenset({"anchor", "positive", "group"})
    shares_draws = True

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        a, b = (unit(z) for z in take(embeddings, *PAIR))
        group, rows = require_role(batch.group, "group"), batch.rows
        _, inverse, sizes = group.unique(return_inverse=True, return_counts=True)
        same = (group[rows, None] == group[None, :]) & other_rows(batch.size, rows, a.device)  # (rows, B)
        gaps = (a[rows] @ a.T - b[rows] @ b.T).square().masked_fill(~same, 0.0).sum(dim=1)  # (rows,)
        weight = 2.0 / (sizes[inverse[rows]] * len(sizes)).to(a.dtype)
        return loss_of_rows({"gram": (weight * gaps).sum()})
