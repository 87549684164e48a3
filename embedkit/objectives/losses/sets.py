"""Contrast of sets: what a set of documents shares, told apart from what other sets share."""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.objectives.base import LossOutput, NegativeCount, ObjectiveBatch
from embedkit.objectives.family import PAIR, Family, loss_of_batch, take
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, number, unit, whole

POOLINGS = ("mean", "max", "min")


@objective(
    "set-contrast", paper="after Nguyen et al. 2024, ICLR, Topic Modeling as Multi-Objective Contrastive Optimization",
    family="sets", slots="random sets of the batch, pooled vectors, InfoNCE between their views", cost="S (B/k)² D",
    note="Only the abstract of the paper was at hand; how sets are made and pooled is ours.",
)  # fmt: skip
class SetContrast(Family):
    """InfoNCE between the two views of sets of rows.

    The rows of the batch are put in a random order and cut into sets of `size`; the vector of a set is the `pooling` of
    its rows' vectors, coordinate by coordinate, and of the second view the `positive_pooling`. The loss is
    ``-log softmax_j(cos(s_i, s'_j) / temperature)`` at j = i, a mean over the sets of all `orders`. Orders are a
    function of the run's seed and the step, the same on every process.

    Parameters
    ----------
    size : int
        Rows of a set.
    orders : int
        Random orders whose sets are taken.
    pooling, positive_pooling : str
        mean, max or min.
    temperature : float
        Of the softmax.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(4), "positive": torch.eye(4)}
    >>> loss = build({"name": "set-contrast", "size": 2, "orders": 1, "temperature": 1.0})(z, ObjectiveBatch.of(z)).loss
    >>> round(loss.item(), 4)
    0.3133
    """

    def __init__(
        self, *, size: int = 4, orders: int = 4, pooling: str = "mean", positive_pooling: str = "mean",
        temperature: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size = whole("size", size, least=1)
        self.orders = whole("orders", orders, least=1)
        self.pooling = choice("pooling", pooling, POOLINGS)
        self.positive_pooling = choice("positive_pooling", positive_pooling, POOLINGS)
        self.temperature = number("temperature", temperature, above=0)

    def sets(self, batch: ObjectiveBatch) -> list[list[Tensor]]:
        """For each order the rows of each set; sizes of sets differ by one at most."""
        generator = batch.generator("set-contrast")
        count = max(1, batch.size // self.size)
        orders = [torch.randperm(batch.size, generator=generator) for _ in range(self.orders)]
        return [list(order.tensor_split(count)) for order in orders]

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The mean over all sets."""
        anchor, positive = take(embeddings, *PAIR)
        losses = []
        for sets in self.sets(batch):
            own = unit(torch.stack([pooled(anchor[rows], self.pooling) for rows in sets]))
            other = unit(torch.stack([pooled(positive[rows], self.positive_pooling) for rows in sets]))
            losses.append(-(own @ other.T / self.temperature).log_softmax(dim=1).diagonal())
        return loss_of_batch({"sets": torch.cat(losses).mean()}, batch)

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """The other sets of an order."""
        return NegativeCount(in_batch=max(1, batch_size // self.size) - 1, hard=0, other_processes=0)


def pooled(vectors: Tensor, pooling: str) -> Tensor:
    """One vector (D,) of the rows (n, D) of a set.

    Examples
    --------
    >>> pooled(torch.tensor([[1.0, 5.0], [3.0, 4.0]]), "max").tolist()
    [3.0, 5.0]
    """
    if pooling == "mean":
        return vectors.mean(dim=0)
    return vectors.amax(dim=0) if pooling == "max" else vectors.amin(dim=0)
