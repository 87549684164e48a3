"""Objectives on ordered things, sentences of a document or segments of a sequence: neighbours, alignments, orders."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, ObjectiveBatch
from embedkit.objectives.family import PAIR, Family, loss_of_batch, take
from embedkit.objectives.losses.sequences import CPC, bridge_loss
from embedkit.objectives.matrix.similarity import check_roles
from embedkit.objectives.parts.documents import at_offset
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, number, whole

_PLACES = frozenset({"anchor", "document_id", "position"})


def runs_of(batch: ObjectiveBatch, count: int) -> Tensor:
    """Rows that follow one another in their document, int64 (R, count): one run from each row that has followers.

    Examples
    --------
    >>> numbers = {"document_id": torch.tensor([7, 7, 7, 8]), "position": torch.tensor([3, 5, 4, 6])}
    >>> runs_of(ObjectiveBatch.of({"anchor": torch.eye(4)}, **numbers), 3).tolist()
    [[0, 2, 1]]
    """
    first = torch.arange(batch.size, device=batch.ids.device)
    runs = torch.stack([first, *(at_offset(batch, offset) for offset in range(1, count))], dim=1)
    return runs[(runs >= 0).all(dim=1)]


def _need_dim(dim: int | None, name: str) -> int:
    if dim is None:
        raise RecipeError(f"{name} does not know the size of the embeddings", where="objective",
                          remedy="give build(..., dim=)")  # fmt: skip
    return dim


@objective(
    "bidirectional", paper="Behrmann et al. 2021, WACV, Bidirectional Feature Prediction", family="sequences",
    slots="bilinear map of the present to past and future together, softmax over the batch and the swapped pair",
    cost="B² D", state="a map (2 D, D)", note="Hard negatives other than the swapped pair are left out; from memory.",
)  # fmt: skip
class BidirectionalPrediction(Family):
    """The present against past and future together, in their order.

    For three neighbours (p, q, f): ``-log softmax`` of ``[z_p, z_f] · W z_q`` among the pairs of all runs of the batch
    and the own pair with past and future exchanged.

    Parameters
    ----------
    dim : int or None
        Size of the embeddings.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(3)}
    >>> numbers = {"document_id": torch.zeros(3).long(), "position": torch.arange(3)}
    >>> objective = build("bidirectional", dim=3)
    >>> _ = objective.map.data.zero_()
    >>> round(objective(z, ObjectiveBatch.of(z, **numbers)).loss.item(), 4)  # log 2: the pair, and the swapped one
    0.6931
    """

    requires = _PLACES
    repels = True

    def __init__(self, *, dim: int | None = None) -> None:
        super().__init__()
        bound = 0.0 if dim is None else dim**-0.5
        self.map = None if dim is None else nn.Parameter(torch.empty(2 * dim, dim).uniform_(-bound, bound))

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss; every process computes all of it and returns its share."""
        check_roles(self.requires, embeddings, batch)
        (z,) = take(embeddings, "anchor")
        _need_dim(None if self.map is None else z.shape[1], "bidirectional")
        assert self.map is not None
        past, present, future = runs_of(batch, 3).T
        query = z[present] @ self.map.to(z.dtype).T
        both, swapped = torch.cat([z[past], z[future]], dim=1), torch.cat([z[future], z[past]], dim=1)
        logits = torch.cat([query @ both.T, (query * swapped).sum(dim=1, keepdim=True)], dim=1)
        target = torch.arange(len(query), device=z.device)
        loss = F.cross_entropy(logits, target, reduction="sum") / max(1, len(query))
        return loss_of_batch({"bidirectional": loss}, batch)


@objective(
    "aligned-cpc", paper="Chorowski et al. 2021, Interspeech, Aligned Contrastive Predictive Coding",
    family="sequences",
    slots="bilinear map a prediction, predictions aligned to more followers, softmax over the batch", cost="K B² D",
    state="K maps (D, D), a GRU", note="The best alignment counts; from memory of the paper.",
)  # fmt: skip
class AlignedCPC(CPC):
    """Fewer predictions than followers, each of which takes a run of followers: the best such alignment counts.

    With ``s[k, m] = log softmax_j(z_j · W_k c_t)[t + m]`` the loss is ``-max over alignments of mean over m of
    s[a(m), m]``, a from the first of `offsets` predictions to the last one in steps of 0 or 1, m to `followers`.

    Parameters
    ----------
    offsets : int
        Predictions.
    followers : int
        What follows, `offsets` at least.
    summary, dim
        See `CPC`.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(4)}
    >>> numbers = {"document_id": torch.zeros(4).long(), "position": torch.arange(4)}
    >>> objective = build({"name": "aligned-cpc", "offsets": 2, "followers": 3, "summary": "last"}, dim=4)
    >>> _ = objective.maps.data.zero_()
    >>> round(objective(z, ObjectiveBatch.of(z, **numbers)).loss.item(), 4)  # log 4
    1.3863
    """

    def __init__(self, *, offsets: int = 2, followers: int = 3, summary: str = "gru", dim: int | None = None) -> None:
        super().__init__(offsets=offsets, summary=summary, dim=dim)
        self.followers = whole("followers", followers, least=self.offsets)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss; every process computes all of it and returns its share."""
        check_roles(self.requires, embeddings, batch)
        (z,) = take(embeddings, "anchor")
        _need_dim(None if self.maps is None else z.shape[1], "aligned-cpc")
        assert self.maps is not None
        context = z if self.gru is None else self._read(z, batch)
        runs = runs_of(batch, self.followers + 1)
        queries = torch.einsum("td,ked->tke", context[runs[:, 0]], self.maps.to(z.dtype))
        logs = (queries @ z.T).log_softmax(dim=2)  # (R, K, B)
        targets = runs[:, 1:].unsqueeze(1).expand(-1, self.offsets, -1)
        loss = -aligned(logs.gather(2, targets)).sum() / (max(1, len(runs)) * self.followers)
        return loss_of_batch({"aligned": loss}, batch)


def aligned(scores: Tensor) -> Tensor:
    """The largest sum (R,) of scores (R, K, M) along an alignment of K predictions with M followers, in order.

    Examples
    --------
    >>> aligned(torch.tensor([[[1.0, 5.0, 0.0], [0.0, 2.0, 3.0]]]))  # 1 + 5 + 3
    tensor([9.])
    """
    outside = torch.full_like(scores[:, :1, 0], -torch.inf)
    best = torch.cat([scores[:, :1, 0], outside.expand(-1, scores.shape[1] - 1)], dim=1)
    for m in range(1, scores.shape[2]):
        best = scores[:, :, m] + torch.maximum(best, torch.cat([outside, best[:, :-1]], dim=1))
    return best[:, -1]


@objective(
    "temporal-cycle", paper="Dwibedi et al. 2019, CVPR, Temporal Cycle-Consistency Learning, section 3.2",
    family="sequences", slots="soft nearest neighbour in the other view of the sequence, and back", cost="B² D",
)  # fmt: skip
class TemporalCycle(Family):
    """From a place of a sequence to its soft nearest neighbour in the other view, and back to the same place.

    ``v = sum_j softmax_j(-|u_i - v_j|² / temperature) v_j``, then ``-log softmax_k(-|v - u_k|² / temperature)`` at
    k = i; j and k go over the rows of i's document. Documents of one row are left out.

    Parameters
    ----------
    temperature : float
        Of both steps.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> batch = ObjectiveBatch.of(z, document_id=torch.zeros(2).long())
    >>> round(build("temporal-cycle")(z, batch).loss.item(), 4)
    0.1972
    """

    requires = frozenset({"anchor", "positive", "document_id"})

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss; every process computes all of it and returns its share."""
        check_roles(self.requires, embeddings, batch)
        u, v = take(embeddings, *PAIR)
        assert batch.document_id is not None
        other = batch.document_id[:, None] != batch.document_id
        way = (-_distances(u, v) / self.temperature).masked_fill(other, -torch.inf).softmax(dim=1)
        back = (-_distances(way @ v, u) / self.temperature).masked_fill(other, -torch.inf)
        rows = ((~other).sum(dim=1) > 1).nonzero()[:, 0]
        loss = F.cross_entropy(back[rows], rows, reduction="sum") / max(1, len(rows))
        return loss_of_batch({"cycle": loss}, batch)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (n, m)."""
    return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T


@objective(
    "order", paper="after Lee et al. 2017, ICCV, Unsupervised Representation Learning by Sorting Sequences",
    family="sequences", slots="all orders of neighbours, a classifier of two layers on the joined vectors",
    cost="B n! n D²", state="two layers", note="An order and its reverse are two classes, where the paper joins them.",
)  # fmt: skip
class OrderClassification(Family):
    """Which of the n! orders are neighbours in? Cross-entropy, a mean over all orders of all runs of the batch.

    Parameters
    ----------
    count : int
        Neighbours n, from 2 to 4.
    dim : int or None
        Size of the embeddings, and of the hidden layer.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(3)}
    >>> numbers = {"document_id": torch.zeros(3).long(), "position": torch.arange(3)}
    >>> objective = build({"name": "order", "count": 2}, dim=3)
    >>> _ = objective.second.weight.data.zero_(), objective.second.bias.data.zero_()
    >>> round(objective(z, ObjectiveBatch.of(z, **numbers)).loss.item(), 4)  # log 2
    0.6931
    """

    requires = _PLACES

    def __init__(self, *, count: int = 3, dim: int | None = None) -> None:
        super().__init__()
        self.count = int(choice("count", whole("count", count, least=2), (2, 3, 4)))
        self.first = None if dim is None else nn.Linear(self.count * dim, dim)
        self.second = None if dim is None else nn.Linear(dim, math.factorial(self.count))

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss; every process computes all of it and returns its share."""
        check_roles(self.requires, embeddings, batch)
        (z,) = take(embeddings, "anchor")
        _need_dim(None if self.first is None else z.shape[1], "order")
        assert self.first is not None
        assert self.second is not None
        runs = runs_of(batch, self.count)
        orders = torch.tensor(list(itertools.permutations(range(self.count))), device=z.device)
        side_by_side = z[runs[:, orders]].flatten(2)  # (R, n!, n D)
        hidden = F.relu(F.linear(side_by_side, self.first.weight.to(z.dtype), self.first.bias.to(z.dtype)))
        logits = F.linear(hidden, self.second.weight.to(z.dtype), self.second.bias.to(z.dtype)).flatten(0, 1)
        target = torch.arange(len(orders), device=z.device).repeat(len(runs))
        return loss_of_batch({"order": F.cross_entropy(logits, target, reduction="sum") / max(1, len(logits))}, batch)


@objective(
    "bridge", paper="Wang et al. 2022, ICLR, Language modeling via stochastic processes, section 3", family="sequences",
    slots="neighbours between the first and the last of a run, against the bridges of all runs", cost="B² D",
)  # fmt: skip
class Bridge(Family):
    """What lies between the ends of a run is near the Brownian bridge between them, nearer than to those of others.

    See `embedkit.objectives.losses.sequences.bridge_loss`; the method ``time-control`` draws triples of whole
    documents instead.

    Parameters
    ----------
    span : int
        Rows of a run, its ends included.

    Examples
    --------
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.tensor([[0.0], [1.0], [2.0]])}
    >>> numbers = {"document_id": torch.zeros(3).long(), "position": torch.arange(3)}
    >>> round(build("bridge")(z, ObjectiveBatch.of(z, **numbers)).loss.item(), 4)  # on the bridge
    0.0
    """

    requires = _PLACES
    repels = True

    def __init__(self, *, span: int = 3) -> None:
        super().__init__()
        self.span = whole("span", span, least=3)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss; every process computes all of it and returns its share."""
        check_roles(self.requires, embeddings, batch)
        (z,) = take(embeddings, "anchor")
        assert batch.position is not None
        runs = runs_of(batch, self.span)
        triples = torch.cat([runs[:, [0, j, self.span - 1]] for j in range(1, self.span - 1)])
        start, middle, end = z[triples].unbind(dim=1)
        times = batch.position[triples].to(z.dtype)
        total = bridge_loss(start, middle, end, times, slice(0, len(triples)))
        return loss_of_batch({"bridge": total / max(1, len(triples))}, batch)
