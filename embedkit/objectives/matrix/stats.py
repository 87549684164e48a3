"""The similarity matrix: features, scale, masks, and sums over its rows, here with all of it in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from embedkit.objectives.matrix.similarity import Masks, Relation
from embedkit.objectives.tools import masked_lse, softplus

PAIRS_AT_ONCE = 4096
"""Number of pairs whose features are gathered at a time."""


@dataclass(frozen=True)
class Stat:
    """One number per row of the matrix of logits l.

    kind : "lse"      log Σ exp(factor · l + log weight)
           "sum"      Σ l
           "expect"   Σ softmax(factor · l) l, without gradient
           "softplus" Σ log(1 + exp(factor · l))
           "count"    how many, without gradient
    over : the "positive" or the "negative" pairs of the row

    Examples
    --------
    >>> import torch
    >>> sharp = Stat("lse", over="negative", factor=2.0)
    >>> reduce_logits(sharp, torch.tensor([[1.0, 0.5]]), mask=torch.tensor([[False, True]]), extra=None)
    tensor([1.])
    """

    kind: Literal["lse", "sum", "expect", "softplus", "count"]
    over: Literal["positive", "negative"]
    factor: float = 1.0


class Pointwise:
    """An elementwise function of the dot product of two feature vectors, with its derivative; here the identity.

    The derivative is what makes tiles possible: their gradient is computed without a graph.

    Examples
    --------
    >>> import torch
    >>> class Square(Pointwise):
    ...     identity = False
    ...     def value(self, s):
    ...         return s * s
    ...     def slope(self, s):
    ...         return 2 * s
    >>> left, right = torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]])
    >>> pair_scores([Part(left, right, Square())], torch.tensor([0]), torch.tensor([0]))
    tensor([0.3600])
    """

    identity = True

    def value(self, s: Tensor) -> Tensor:
        """The score."""
        return s

    def slope(self, s: Tensor) -> Tensor:
        """Derivative of the score by the dot product."""
        return torch.ones_like(s)


@dataclass
class Part:
    """One summand of a score: features (N, F) and (M, F), whose dot products go through a function.

    Examples
    --------
    >>> import torch
    >>> part = Part(left=torch.eye(2), right=torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]]))
    >>> part.function.value(part.left @ part.right.T)
    tensor([[0.6000, 1.0000, 0.0000],
            [0.8000, 0.0000, 1.0000]])
    """

    left: Tensor
    right: Tensor
    function: Pointwise = field(default_factory=Pointwise)


class _PairDots(torch.autograd.Function):
    """Dot products of chosen pairs of rows, gathering a block of pairs at a time, forward and backward.

    Where the first rows are all of the left side in their order, as where each anchor has one positive, they need no
    gathering.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Tensor:
        ctx.aligned = len(row) == len(left) and torch.equal(row, torch.arange(len(row), device=row.device))
        ctx.save_for_backward(left, right, row, column)
        parts = left.split(PAIRS_AT_ONCE) if ctx.aligned else (left[i] for i in row.split(PAIRS_AT_ONCE))
        return torch.cat(
            [torch.linalg.vecdot(a, right[j]) for a, j in zip(parts, column.split(PAIRS_AT_ONCE), strict=True)]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        left, right, row, column = ctx.saved_tensors
        d_left = torch.empty_like(left) if ctx.aligned else torch.zeros_like(left)
        d_right = torch.zeros_like(right)
        for number, (i, j, g) in enumerate(zip(*(t.split(PAIRS_AT_ONCE) for t in (row, column, grad)), strict=True)):
            part = slice(number * PAIRS_AT_ONCE, number * PAIRS_AT_ONCE + len(i))
            if ctx.aligned:
                torch.mul(right[j], g[:, None], out=d_left[part])
            else:
                d_left.index_add_(0, i, right[j] * g[:, None])
            d_right.index_add_(0, j, (left[part] if ctx.aligned else left[i]) * g[:, None])
        return d_left, d_right, None, None


def pair_scores(parts: Sequence[Part], row: Tensor, column: Tensor) -> Tensor:
    """Scores (P,) of single pairs, with gradient, computed from the features alone.

    Examples
    --------
    >>> import torch
    >>> part = Part(torch.eye(2), torch.tensor([[0.6, 0.8]]))
    >>> pair_scores([part], row=torch.tensor([0, 1]), column=torch.tensor([0, 0]))
    tensor([0.6000, 0.8000])
    """
    scores = [p.function.value(_PairDots.apply(p.left, p.right, row, column)) for p in parts]
    return torch.stack(scores).sum(0) if len(scores) > 1 else scores[0]


@dataclass
class Hardness:
    """The log weight strength · score, without gradient, of the pairs `inside` a relation or outside of it (None: all).

    Examples
    --------
    >>> own = Relation.of(torch.tensor([0, 1]), torch.tensor([0, 1]))
    >>> Hardness(2.0, own, inside=False).tile(slice(0, 2), slice(0, 2), torch.tensor([[0.5, 0.5], [1.0, 1.0]]))
    tensor([[0., 1.],
            [2., 0.]])
    """

    strength: float
    relation: Relation | None = None
    inside: bool = True

    def share(self, index: Tensor | slice) -> Hardness:
        """The weights for some of the left side only."""
        return self if self.relation is None else Hardness(self.strength, self.relation.share(index), self.inside)

    def tile(self, rows: slice, columns: slice, scores: Tensor) -> Tensor:
        """Log weights of a tile with these scores."""
        weights = scores.detach() * self.strength
        if self.relation is None:
            return weights
        tile = self.relation.tile(rows, columns)
        if tile is None:
            return torch.zeros_like(weights) if self.inside else weights
        return weights.masked_fill(~tile if self.inside else tile, 0.0)


@dataclass
class LogWeights:
    """Log weights of negative pairs: a constant for related pairs, and log(1 + |difference|) of two vectors of scores.

    `hardness` adds a multiple of the score itself, which `Table.log_weights` knows.

    Examples
    --------
    >>> import torch
    >>> own = Relation.of(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
    >>> LogWeights([(own, 0.5)]).tile(slice(0, 2), slice(0, 3))
    tensor([[0.5000, 0.0000, 0.0000],
            [0.0000, 0.5000, 0.5000]])
    """

    related: list[tuple[Relation, float]] = field(default_factory=list)
    distance: tuple[Tensor, Tensor] | None = None
    hardness: Hardness | None = None

    def __bool__(self) -> bool:
        return bool(self.related) or self.distance is not None or self.hardness is not None

    def share(self, index: Tensor | slice) -> LogWeights:
        """The weights for some of the left side only."""
        near = None if self.distance is None else (self.distance[0][index], self.distance[1])
        hardness = None if self.hardness is None else self.hardness.share(index)
        return LogWeights([(relation.share(index), value) for relation, value in self.related], near, hardness)

    def tile(self, rows: slice, columns: slice) -> Tensor | None:
        """Log weights of a tile, those by hardness left out; None when all are 0."""
        total: Tensor | None = None
        if self.distance is not None:
            left, right = self.distance
            # a vector without a score, as a random one at the start of a queue, weighs 1
            total = ((left[rows, None] - right[None, columns]).abs().nan_to_num(0.0) + 1).log()
        for relation, value in self.related:
            tile = relation.tile(rows, columns)
            if tile is not None:
                total = tile * value if total is None else total + tile * value
        return total


@dataclass
class Table:
    """The similarity matrix of N anchors and M candidates, as features and masks: logits l = scale · score + bias.

    `scale` has shape () or (N, 1), `bias` shape () or is None. `band` (low (N,), high (N,)) limits the negatives of an
    anchor to candidates with ``low <= score <= high``.

    Examples
    --------
    >>> import torch
    >>> eye = torch.eye(2)
    >>> masks = Masks(Relation.of(torch.arange(2), torch.arange(2)), Relation.of(torch.arange(2), torch.arange(2) + 2))
    >>> table = Table([Part(eye, eye)], torch.tensor(10.0), None, masks)
    >>> table.logits(table.scores(slice(0, 2), slice(0, 2))[0], torch.tensor([0, 0]))
    tensor([10.,  0.])
    """

    parts: list[Part]
    scale: Tensor
    bias: Tensor | None
    masks: Masks
    weights: LogWeights = field(default_factory=LogWeights)
    band: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """N anchors, M candidates."""
        return len(self.parts[0].left), len(self.parts[0].right)

    def scores(self, rows: slice, columns: slice) -> Tensor:
        """The scores of a tile, (rows, columns)."""
        tiles = [p.function.value(p.left[rows] @ p.right[columns].T) for p in self.parts]
        return torch.stack(tiles).sum(0) if len(tiles) > 1 else tiles[0]

    def negatives(self, rows: slice, columns: slice) -> Tensor | None:
        """Bool tile of negatives, the band included; None when all pairs of the tile are negative."""
        mask = self.masks.negatives(rows, columns)
        if self.band is None:
            return mask
        with torch.no_grad():
            scores = self.scores(rows, columns)
        inside = (scores >= self.band[0][rows, None]) & (scores <= self.band[1][rows, None])
        return inside if mask is None else mask & inside

    def block(self, rows: slice) -> Tensor:
        """The logits (k, M) of some anchors."""
        logits = self.scores(rows, slice(0, self.shape[1])) * (
            self.scale if self.scale.dim() == 0 else self.scale[rows]
        )
        return logits if self.bias is None else logits + self.bias

    def log_weights(self, rows: slice, columns: slice, logits: Tensor) -> Tensor | None:
        """Log weights of a tile with these logits; None when all are 0."""
        weights, hardness = self.weights.tile(rows, columns), self.weights.hardness
        if hardness is None:
            return weights
        with torch.no_grad():
            scale = self.scale if self.scale.dim() == 0 else self.scale[rows]
            more = hardness.tile(rows, columns, (logits if self.bias is None else logits - self.bias) / scale)
        return more if weights is None else weights + more

    def logits(self, scores: Tensor, row: Tensor) -> Tensor:
        """Logits (P,) of pairs with these scores whose anchors are `row`."""
        scale = self.scale if self.scale.dim() == 0 else self.scale.squeeze(1)[row]
        return scores * scale if self.bias is None else scores * scale + self.bias


def reduce_logits(stat: Stat, logits: Tensor, mask: Tensor | None, extra: Tensor | None) -> Tensor:
    """One stat (N,) of each row of dense logits (N, M); `extra` are log weights (N, M).

    Examples
    --------
    >>> import torch
    >>> logits, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[False, True, True]])
    >>> reduce_logits(Stat("sum", "negative"), logits, mask, extra=None)
    tensor([6.])
    """
    if stat.kind == "lse":
        x = logits * stat.factor
        return masked_lse(x if extra is None else x + extra, mask)
    if stat.kind == "expect":
        x = (logits * stat.factor).detach()
        x = x if mask is None else x.masked_fill(~mask, -torch.inf)
        return (x.softmax(-1).nan_to_num(0.0) * logits.detach()).sum(-1)
    if stat.kind == "count":
        return logits.new_full(logits.shape[:1], logits.shape[1]) if mask is None else mask.sum(-1).to(logits.dtype)
    x = logits if stat.kind == "sum" else softplus(logits * stat.factor)
    return (x if mask is None else x.masked_fill(~mask, 0.0)).sum(-1)


def dense_stats(table: Table, stats: Sequence[Stat]) -> list[Tensor]:
    """Each stat (N,) of the rows of the matrix; holds all N x M logits.

    Examples
    --------
    >>> import torch
    >>> eye = torch.eye(2)
    >>> masks = Masks(Relation.of(torch.arange(2), torch.arange(2)), Relation.of(torch.arange(2), torch.arange(2) + 2))
    >>> table = Table([Part(eye, eye)], torch.tensor(10.0), None, masks)
    >>> dense_stats(table, [Stat("lse", "negative"), Stat("count", "negative")])
    [tensor([0., 0.]), tensor([1., 1.])]
    """
    rows, columns = (slice(0, n) for n in table.shape)
    logits = table.block(rows)
    masks, extra = {"negative": table.negatives(rows, columns)}, table.log_weights(rows, columns, logits)
    if any(stat.over == "positive" for stat in stats):
        positive = table.masks.positives(rows, columns)
        masks["positive"] = torch.zeros_like(logits, dtype=torch.bool) if positive is None else positive
    return [reduce_logits(s, logits, masks[s.over], extra if s.over == "negative" else None) for s in stats]
