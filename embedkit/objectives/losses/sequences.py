"""Objectives on texts that belong together: sentences in order (context, prediction, bridges, distances), sets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedkit.errors import RecipeError
from embedkit.objectives.base import LossOutput, NegativeCount, ObjectiveBatch
from embedkit.objectives.family import PAIR, Family, loss_of_batch, take
from embedkit.objectives.kernel import table_preset
from embedkit.objectives.matrix.similarity import check_roles
from embedkit.objectives.parts.documents import at_offset
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, number, unit, whole

POOLINGS = ("mean", "max", "min")

table_preset("context", paper="Logeswaran and Lee 2018, ICLR, Quick-Thoughts", score="dot", temperature=1.0,
             target="context", bank="blank", own_views=True, others=1.0, average="positive",
             note="bank: none leaves a sentence out of its own candidates, where the code scores it 0")  # fmt: skip


@objective(
    "cpc", paper="van den Oord et al. 2018 (arXiv 1807.03748), sections 2.2 and 3.3", family="sequences",
    slots="bilinear map an offset, plain product, softmax over the batch", cost="K B² D",
    state="K maps (D, D), a GRU",
)  # fmt: skip
class CPC(Family):
    """Prediction of the sentences that follow, from a summary of those before (contrastive predictive coding).

    ``mean over k of mean over t of -log softmax_j(z_j · W_k c_t)[t + k]``: z are the anchors, j goes over all of the
    batch, the product is not normalised and has no temperature. c_t is the state of a GRU that has read the document's
    sentences of the batch up to t. Needs batches of consecutive sentences (``data.sampler: contiguous``).

    Parameters
    ----------
    offsets : int
        K, sentences ahead.
    summary : str
        "gru", or "last": c_t is z_t.
    dim : int or None
        Size of the embeddings.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(3)}
    >>> numbers = {"document_id": torch.zeros(3).long(), "position": torch.arange(3)}
    >>> objective = build({"name": "cpc", "offsets": 1, "summary": "last"}, dim=3)
    >>> _ = objective.maps.data.copy_(torch.zeros(1, 3, 3))
    >>> round(objective(z, ObjectiveBatch.of(z, **numbers)).loss.item(), 4)  # log 3
    1.0986
    """

    requires = frozenset({"anchor", "document_id", "position"})
    repels = True

    def __init__(self, *, offsets: int = 3, summary: str = "gru", dim: int | None = None) -> None:
        super().__init__()
        self.offsets = whole("offsets", offsets, least=1)
        self.summary = choice("summary", summary, ("gru", "last"))
        bound = 0.0 if dim is None else dim**-0.5
        self.maps = None if dim is None else nn.Parameter(torch.empty(offsets, dim, dim).uniform_(-bound, bound))
        self.gru = None if dim is None or summary == "last" else nn.GRU(dim, dim, batch_first=True)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss; every process computes all of it and returns its share."""
        check_roles(self.requires, embeddings, batch)
        (z,) = take(embeddings, "anchor")
        if self.maps is None:
            raise RecipeError("cpc does not know the size of the embeddings", where="objective",
                              remedy="give build(..., dim=)")  # fmt: skip
        context = z if self.gru is None else self._read(z, batch)
        losses = []
        for k, weight in enumerate(self.maps.to(z.dtype), start=1):
            target = at_offset(batch, k)
            rows = (target >= 0).nonzero()[:, 0]
            logits = context[rows] @ weight.T @ z.T
            losses.append(F.cross_entropy(logits, target[rows], reduction="sum") / max(1, len(rows)))
        return loss_of_batch({"cpc": torch.stack(losses).mean()}, batch)

    def _read(self, z: Tensor, batch: ObjectiveBatch) -> Tensor:
        """States (B, D) of the GRU, each document's rows read by position."""
        assert batch.document_id is not None
        assert batch.position is not None
        assert self.gru is not None
        by_position = batch.position.argsort(stable=True)
        order = by_position[batch.document_id[by_position].argsort(stable=True)]
        _, number, count = batch.document_id[order].unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(z), device=z.device) - (count.cumsum(0) - count)[number]
        rows = z.new_zeros(len(count), int(count.max()), z.shape[1]).index_put((number, place), z[order])
        states = self.gru(rows.to(next(self.gru.parameters()).dtype))[0][number, place].to(z.dtype)
        return torch.zeros_like(states).index_copy(0, order, states)


def bridge_loss(
    start: Tensor, middle: Tensor, end: Tensor, times: Tensor, rows: slice, outside: str = "mask", eps: float = 1e-6
) -> Tensor:
    """Sum over `rows` of the contrast of Brownian bridges (Wang et al. 2022, Time Control).

    ``-l_ii + log(sum_j e^l_ij + eps)`` with ``l_ij = -|z_i - (1 - a) start_j - a end_j|² / (2 s + eps)``,
    ``a = (t_i - t0_j) / (T_j - t0_j)`` and ``s = (t_i - t0_j) (T_j - t_i) / (T_j - t0_j)``: the middle of triple i
    against the bridges of all triples.

    Parameters
    ----------
    start, middle, end : Tensor (B, D)
        The three sentences of each triple.
    times : LongTensor (B, 3)
        t0 < t < T, their places in the document.
    rows : slice
        Triples whose losses are added.
    outside : str
        Where t_i is not between t0_j and T_j, s is not positive: "mask" leaves the bridge out, "clamp" takes s as 0,
        which leaves next to nothing of it, "keep" does as the official code, where a negative s rewards distance.

    Examples
    --------
    >>> import torch
    >>> z = torch.tensor([[0.0], [1.0]])
    >>> times = torch.tensor([[0, 1, 2], [0, 1, 2]])
    >>> bridge_loss(z, z, z, times, slice(0, 2))  # log(1 + 1 / e) of each
    tensor(0.6265)
    """
    first, instant, last = times.to(middle.dtype).T
    length = last - first
    share = (instant[rows, None] - first) / length  # (n, B)
    spread = share * (last - instant[rows, None])
    gap = middle[rows, None] - (1 - share)[..., None] * start - share[..., None] * end
    if outside == "clamp":
        spread = spread.clamp_min(0.0)
    logits = -gap.square().sum(-1) / (2 * spread + eps)
    if outside == "mask":
        logits = logits.masked_fill(spread <= 0, -torch.inf)
    floor = logits.new_full((len(logits), 1), math.log(eps))
    own = logits[torch.arange(len(logits)), torch.arange(len(middle), device=logits.device)[rows]]
    return (torch.cat([logits, floor], dim=1).logsumexp(1) - own).sum()


def distance_loss(
    anchors: Tensor, targets: Tensor, owner: Tensor, offset: Tensor, maps: Tensor, rows: slice,
    choices: int | None = None,
) -> Tensor:  # fmt: skip
    """Sum over the targets of `rows` of -log softmax(t · W_k c) (Iter et al. 2020, CONPONO).

    Parameters
    ----------
    anchors : Tensor (B, D)
        One segment c of each document.
    targets : Tensor (N, D)
        Segments at signed distances from it, document after document.
    owner, offset : LongTensor (N,)
        The document of each target, and the number of its distance among `maps`.
    maps : Tensor (2K, D, D)
        A bilinear map for each signed distance.
    choices : int, optional
        Targets that one is told from, itself included: those of its document, then of the next ones. All when None.

    Examples
    --------
    >>> import torch
    >>> targets = torch.tensor([[2.0], [0.0]])
    >>> one = torch.ones(1, 1)
    >>> distance_loss(one, targets, torch.zeros(2).long(), torch.zeros(2).long(), torch.ones(1, 1, 1), slice(0, 1))
    tensor(2.2539)
    """
    total = targets.sum() * 0.0
    place = torch.arange(len(targets), device=targets.device)
    owner = owner.contiguous()
    first = torch.searchsorted(owner, owner)  # of the targets of the same document
    mine = (owner >= rows.start) & (owner < rows.stop)
    for k in offset.unique().tolist():
        own = ((offset == k) & mine).nonzero()[:, 0]
        logits = anchors[owner[own]] @ maps[k].T @ targets.T
        if choices is not None:
            far = (place - first[own, None]) % len(targets) >= choices
            logits = logits.masked_fill(far, -torch.inf)
        total = total + F.cross_entropy(logits, own, reduction="sum")
    return total


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
