"""Pairs and triplets of metric learning: triplet losses with their miners, multi-similarity, circle, contrastive."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from embedkit.errors import DataError
from embedkit.objectives.base import LossOutput, NegativeCount, ObjectiveBatch
from embedkit.objectives.family import PAIR, Family, cosines, loss_of_rows, require_role, take
from embedkit.objectives.kernel import table_preset
from embedkit.objectives.matrix.problem import Row
from embedkit.objectives.matrix.stats import Stat, Table, pair_scores
from embedkit.objectives.parts.reducers import Reducer
from embedkit.objectives.parts.slots import part
from embedkit.objectives.registry import objective
from embedkit.objectives.tools import choice, grouped_lse, logaddexp, number, require, softplus

AT_ONCE = 2**21
"""Entries of the matrix that are looked at together when pairs are chosen."""

Triplets = tuple[Tensor, Tensor, Tensor]
"""Anchor, positive and negative of each triplet, (T,) each."""


def extreme(table: Table, negative: bool) -> Tensor:
    """The highest score of each anchor's negatives, or the lowest of its positives, (n,); ∓inf where there is none.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives.matrix.similarity import Masks, Relation
    >>> from embedkit.objectives.matrix.stats import Part
    >>> eye, ids = torch.eye(2), torch.arange(2)
    >>> masks = Masks(Relation.of(ids, ids), Relation.of(ids, ids + 2))
    >>> table = Table([Part(eye, eye)], torch.tensor(10.0), None, masks)
    >>> extreme(table, negative=True), extreme(table, negative=False)
    (tensor([0., 0.]), tensor([1., 1.]))
    """
    n, m = table.shape
    if not negative:
        row, column = table.masks.pairs()
        scores = pair_scores(table.parts, row, column)
        return scores.new_full((n,), torch.inf).scatter_reduce(0, row, scores, "amin")
    blocks, height = [], max(1, AT_ONCE // max(m, 1))
    for at in range(0, n, height):
        rows = slice(at, min(n, at + height))
        scores, there = table.scores(rows, slice(0, m)), table.masks.negatives(rows, slice(0, m))
        blocks.append((scores if there is None else scores.masked_fill(~there, -torch.inf)).amax(1))
    return torch.cat(blocks) if blocks else table.scale.new_zeros(0)


@part("reducer", "triplet")
class Triplet(Reducer):
    """max(0, margin + l_n - l_p) over triplets of an anchor, a positive and a negative, or softplus of it.

    Parameters
    ----------
    mining : str
        Which triplets: "all"; the "hard" one of each anchor, of its least similar positive and most similar negative
        (Hermans et al. 2017, arXiv 1703.07737); "semi-hard", for each positive the most similar negative that is less
        similar than it, else the least similar negative (Schroff et al. 2015, FaceNet, section 3.2).
    margin : float
        Least difference of the logits.
    soft : bool
        Softplus instead of the hinge.
    average : str
        Mean over "all" triplets that are mined, or over the "active" ones, whose loss is not 0.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> build({"name": "table", "reducer": "triplet", "margin": 0.5, "temperature": 1.0})(z, ObjectiveBatch.of(z)).loss
    tensor(0.1500)
    """

    ratio = False
    dense = True
    lists = False

    def __init__(self, mining: str = "all", margin: float = 1.0, soft: bool = False, average: str = "all") -> None:
        super().__init__()
        self.mining = choice("mining", mining, ("all", "hard", "semi-hard"))
        self.margin, self.soft = number("margin", margin, least=0), bool(soft)
        self.average = choice("average", average, ("all", "active"))

    def forward(self, r: Row) -> Tensor:
        """The sum over each anchor's triplets, (n,)."""
        row, losses = self._losses(r.table)
        return losses.new_zeros(r.table.shape[0]).index_add(0, row, losses)

    @torch.no_grad()
    def divisor(self, r: Row) -> int:
        """Triplets of the whole batch."""
        losses = self._losses(r.whole())[1]
        return int((losses > 0).sum()) if self.average == "active" else len(losses)

    def _losses(self, table: Table) -> tuple[Tensor, Tensor]:
        """Anchor and loss of each triplet."""
        row, positive, negative = self._mine(table)
        if self.mining == "all":
            logits = table.block(slice(0, table.shape[0]))
            gap = logits[row, negative] - logits[row, positive]
        else:
            near, far = (table.logits(pair_scores(table.parts, row, c), row) for c in (negative, positive))
            gap = near - far
        gap = gap + self.margin
        return row, softplus(gap) if self.soft else gap.relu()

    @torch.no_grad()
    def _mine(self, table: Table) -> Triplets:
        """The triplets; the matrix is looked at a block at a time."""
        row, positive = table.masks.pairs()
        if self.mining == "hard":
            order = torch.argsort(pair_scores(table.parts, row, positive), stable=True)
            order = order[torch.argsort(row[order], stable=True)]
            first = torch.ones_like(row, dtype=torch.bool)
            first[1:] = row[order][1:] != row[order][:-1]
            row, positive = row[order][first], positive[order][first]
        height = max(1, AT_ONCE // max(table.shape[1], 1))
        parts = [self._of_pairs(table, *pairs) for pairs in zip(row.split(height), positive.split(height), strict=True)]
        if not parts:
            return row, positive, positive
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]

    def _of_pairs(self, table: Table, row: Tensor, positive: Tensor) -> Triplets:
        """The triplets of some positive pairs, sorted by anchor."""
        if not len(row):
            return row, positive, positive
        rows, columns = slice(int(row[0]), int(row[-1]) + 1), slice(0, table.shape[1])
        place, there = row - rows.start, table.negatives(rows, columns)
        logits = table.block(rows)[place]
        valid = torch.ones_like(logits, dtype=torch.bool) if there is None else there[place]
        if self.mining == "all":
            pair, negative = valid.nonzero().T
            return row[pair], positive[pair], negative
        hardest = logits.masked_fill(~valid, -torch.inf)
        if self.mining == "semi-hard":
            beyond = valid & (logits < logits.gather(1, positive[:, None]))
            easiest = torch.where(valid, -logits, -torch.inf)
            hardest = torch.where(beyond.any(1, keepdim=True), hardest.masked_fill(~beyond, -torch.inf), easiest)
        keep = valid.any(1)
        return row[keep], positive[keep], hardest.argmax(1)[keep]


@part("reducer", "multi-similarity")
class MultiSimilarity(Reducer):
    """log(1 + Σ e^(-alpha (l_p - base))) / alpha + log(1 + Σ e^(beta (l_n - base))) / beta (Wang et al. 2019, eq. 12).

    Parameters
    ----------
    alpha, beta, base : float
        Sharpness of positives and of negatives, and the logit where both turn.
    epsilon : float, optional
        The miner of section 3.2: only negatives with a score above the lowest positive's less epsilon, and positives
        below the highest negative's plus epsilon; None takes all.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> objective = build({"name": "table", "reducer": "multi-similarity", "temperature": 1.0})
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(0.3779)
    """

    ratio = False

    def __init__(self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, epsilon: float | None = None) -> None:
        super().__init__()
        self.alpha, self.beta = number("alpha", alpha, above=0), number("beta", beta, above=0)
        self.base = number("base", base)
        self.epsilon = None if epsilon is None else number("epsilon", epsilon)
        self.sharp = Stat("lse", "negative", self.beta)

    def stats(self) -> list[Stat]:
        """The negatives' log-sum-exp."""
        return [self.sharp]

    @torch.no_grad()
    def band(self, table: Table) -> tuple[Tensor, Tensor] | None:
        """The miner's choice of negatives."""
        if self.epsilon is None:
            return None
        low = extreme(table, negative=False) - self.epsilon
        return low, torch.full_like(low, torch.inf)

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, (n,)."""
        attraction = -self.alpha * (r.logit - self.base)
        if self.epsilon is not None:
            with torch.no_grad():
                highest = extreme(r.table, negative=True)
                hard = r.scores < highest[r.row] + self.epsilon
            attraction = attraction.masked_fill(~hard, -torch.inf)
        none = torch.zeros_like(r.count)
        pull = logaddexp(none, grouped_lse(attraction, r.row, len(r.count))) / self.alpha
        return pull + logaddexp(none, r.stats[self.sharp] - self.beta * self.base) / self.beta


@part("reducer", "circle")
class Circle(Reducer):
    """softplus(lse of [s_n + m] (s_n - m) / T + lse of -[1 + m - s_p] (s_p - 1 + m) / T), [] without gradient.

    Circle loss (Sun et al. 2020, arXiv 2002.10857, eq. 7 and 8), with gamma = 1 / temperature. An anchor without a
    positive or without a negative counts as zero.

    Parameters
    ----------
    relaxation : float
        m of the paper.
    average : str
        Mean over "all" anchors, or those with a "positive".

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> build({"name": "circle", "by": "row", "temperature": 0.1, "direction": "rows"})(z, ObjectiveBatch.of(z)).loss
    tensor(1.7119)
    """

    ratio = False
    dense = True
    lists = False

    def __init__(self, relaxation: float = 0.4, average: str = "positive") -> None:
        super().__init__()
        self.m = number("relaxation", relaxation, least=0, most=1)
        self.average = choice("average", average, ("all", "positive"))

    def forward(self, r: Row) -> Tensor:
        """The loss of each anchor, (n,)."""
        rows, columns = (slice(0, n) for n in r.table.shape)
        scores, there = r.table.scores(rows, columns), r.table.negatives(rows, columns)
        repulsion = (scores.detach() + self.m).relu() * (scores - self.m) * r.scale
        if there is not None:
            repulsion = repulsion.masked_fill(~there, -torch.inf)
        weight = (1 + self.m - r.scores.detach()).relu()
        scale = r.scale if r.scale.dim() == 0 else r.scale.flatten()[r.row]
        attraction = -weight * (r.scores - 1 + self.m) * scale
        owner = torch.arange(len(repulsion), device=repulsion.device)[:, None].expand_as(repulsion)
        pull = grouped_lse(attraction, r.row, len(r.count))
        push = grouped_lse(repulsion.flatten(), owner.flatten(), len(r.count))
        return softplus(pull + push)


@objective(
    "online-contrastive", paper="Reimers and Gurevych, sentence-transformers, OnlineContrastiveLoss", family="pairs",
    splits=True, cost="B D", slots="contrastive, on the hard pairs of the batch, their sum", online=True,
)  # fmt: skip
@objective(
    "contrastive", paper="Hadsell et al. 2006, CVPR, Dimensionality Reduction by Learning an Invariant Mapping, eq. 4",
    family="pairs", splits=True, cost="B D", slots="square of the distance, and of what it lacks of a margin",
)  # fmt: skip
class Contrastive(Family):
    """``mean_i (y_i d_i² + (1 - y_i) max(0, margin - d_i)²) / 2`` of pairs that are alike (score 1) or not (score 0).

    d is 1 - cosine, or the Euclidean distance. A score between 0 and 1 weighs both halves.

    Parameters
    ----------
    margin : float
        Distance beyond which different pairs cost nothing.
    distance : str
        "cosine" or "euclidean".
    online : bool
        Only the hard pairs: different ones nearer than the farthest pair that is alike, and alike ones farther than the
        nearest that is different (with pairs of one kind alone: those on the wrong side of their mean); the sum of the
        squares, not halved, instead of the mean.
    threshold : float, optional
        With `online`: pairs of at least this score are alike, 0.5 when not given.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2).flip(0)}
    >>> build("contrastive")(z, ObjectiveBatch.of(z, score=torch.tensor([1.0, 0.0]))).loss
    tensor(0.2500)
    """

    requires = frozenset({"anchor", "positive", "score"})
    limits = {"score": (0.0, 1.0)}  # noqa: RUF012 - read only

    def __init__(self, *, margin: float = 0.5, distance: str = "cosine", online: bool = False,
                 threshold: float | None = None) -> None:  # fmt: skip
        super().__init__()
        self.margin = number("margin", margin, above=0)
        self.distance = choice("distance", distance, ("cosine", "euclidean"))
        self.online = choice("online", online, (True, False))
        require(online or threshold is None, "threshold", threshold, "left out without online: scores are weights")
        self.threshold = number("threshold", 0.5 if threshold is None else threshold, above=0, most=1)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        a, b = take(embeddings, *PAIR)
        score = require_role(batch.score, "score").to(a.dtype)
        beyond = (score < 0) | (score > 1)
        if bool(beyond.any()):
            row = int(beyond.nonzero()[0])
            raise DataError(
                f"score {float(score[row]):g} is not between 0 and 1", where=f"role 'score' row {row}",
                remedy="scale the scores, or use cosent, which reads only their order",
            )  # fmt: skip
        if self.distance == "cosine":
            gap = 1 - cosines(a, b)
        else:
            gap = torch.linalg.vector_norm(a - b, dim=1)
        near, far = gap.square(), (self.margin - gap).relu().square()
        rows = batch.rows
        if not self.online:
            return loss_of_rows({"square": (score * near + (1 - score) * far)[rows].sum() / (2 * batch.size)})
        attract, repel = self._hard(gap.detach(), score >= self.threshold)
        return loss_of_rows({"square": (near * attract + far * repel)[rows].sum()})

    @staticmethod
    def _hard(gap: Tensor, alike: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (B,) of the hard pairs of both kinds."""
        mean = gap.mean()
        farthest = gap[alike].max() if bool(alike.any()) else mean
        nearest = gap[~alike].min() if bool((~alike).any()) else mean
        return alike & (gap > nearest), ~alike & (gap < farthest)


DISTANCE: dict[str, Any] = {"score": "distance", "gamma": 1.0, "normalize": False, "temperature": 1.0}
BY_LABEL: dict[str, Any] = {"reducer": "triplet", "direction": "views", "by": "label", **DISTANCE}

table_preset("triplet", paper="Weinberger and Saul 2009; Reimers and Gurevych 2019, EMNLP, section 3",
             reducer="triplet", candidates="own", **DISTANCE,
             note="the given triplets; sentence-transformers has margin 5")  # fmt: skip
table_preset("batch-all-triplet", paper="Hermans et al. 2017 (arXiv 1703.07737), section 2", average="active",
             note="mean over triplets that cost something", **BY_LABEL)  # fmt: skip
table_preset("batch-hard-triplet", paper="Hermans et al. 2017 (arXiv 1703.07737), section 2", mining="hard",
             **BY_LABEL)  # fmt: skip
table_preset("soft-margin-triplet", paper="Hermans et al. 2017 (arXiv 1703.07737), section 2", mining="hard",
             soft=True, margin=0.0, **BY_LABEL)  # fmt: skip
table_preset("semi-hard-triplet", paper="Schroff et al. 2015, CVPR, FaceNet, section 3.2", mining="semi-hard",
             **BY_LABEL)  # fmt: skip
table_preset("multi-similarity", paper="Wang et al. 2019, CVPR (arXiv 1904.06627)", reducer="multi-similarity",
             temperature=1.0, epsilon=0.1, direction="views", by="label")  # fmt: skip
table_preset("circle", paper="Sun et al. 2020, CVPR (arXiv 2002.10857)", reducer="circle", temperature=1 / 80,
             direction="views", by="label")  # fmt: skip


@objective(
    "cosine-hinge", paper="Ri, Lee and Verma 2023, RepL4NLP, Contrastive Loss is All You Need to Recover Analogies as "
    "Parallel Lines", family="pairs", splits=True, cost="N D for N negatives",
    slots="hinge on the cosine with each own negative",
    note="factors of the two cosines are 1 here, the authors' code has no default for them",
)  # fmt: skip
class CosineHinge(Family):
    """``sum over the row's negatives n of max(0, margin - attract * cos(a, p) + repel * cos(a, n))``, the mean of rows.

    Parameters
    ----------
    margin : float
        What the two cosines should differ by.
    attract, repel : float
        Their factors.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "negatives": torch.ones(4, 2)}
    >>> round(build({"name": "cosine-hinge", "margin": 0.5})(z, ObjectiveBatch.of(z)).loss.item(), 4)
    0.4142
    """

    requires = frozenset({"anchor", "positive", "negatives"})

    def __init__(self, *, margin: float = 0.15, attract: float = 1.0, repel: float = 1.0) -> None:
        super().__init__()
        self.margin = number("margin", margin, least=0)
        self.attract, self.repel = number("attract", attract, above=0), number("repel", repel, above=0)

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """Only the row's own negatives."""
        return NegativeCount(in_batch=0, hard=hard, other_processes=0)

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """The loss of this process's rows."""
        a, p, n = take(embeddings, *PAIR, "negatives")
        owner = batch.owner["negatives"]
        near = self.attract * cosines(a, p)[owner]
        hinge = torch.relu(self.margin - near + self.repel * cosines(a[owner], n))  # (N,)
        mine = (owner >= batch.rows.start) & (owner < batch.rows.stop)
        return loss_of_rows({"hinge": torch.where(mine, hinge, 0.0).sum() / batch.size})
