"""The similarity matrix: features, scale, masks, and sums over its rows. This is the dense form, which holds it."""

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
"""Pairs whose features are gathered at a time."""


@dataclass(frozen=True)
class Stat:
    """One number per row of the table of logits l.

    kind : "lse"      log Σ exp(factor · l + log weight)
           "sum"      Σ l
           "expect"   Σ softmax(factor · l) l, without gradient
           "softplus" Σ log(1 + exp(factor · l))
           "count"    how many, without gradient
    over : the "positive" or the "negative" pairs of the row
    """

    kind: Literal["lse", "sum", "expect", "softplus", "count"]
    over: Literal["positive", "negative"]
    factor: float = 1.0


class Pointwise:
    """A function of the dot product of two feature vectors, elementwise, with its derivative. The base is s itself."""

    identity = True

    def value(self, s: Tensor) -> Tensor:
        """The score."""
        return s

    def slope(self, s: Tensor) -> Tensor:
        """Derivative of the score by the dot product."""
        return torch.ones_like(s)


@dataclass
class Part:
    """One summand of a score: features (N, F) and (M, F), whose dot products go through a function."""

    left: Tensor
    right: Tensor
    function: Pointwise = field(default_factory=Pointwise)


class _PairDots(torch.autograd.Function):
    """Dot products of chosen pairs of rows, gathering a block of pairs at a time, forward and backward."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, row, column)
        blocks = zip(row.split(PAIRS_AT_ONCE), column.split(PAIRS_AT_ONCE), strict=True)
        return torch.cat([torch.linalg.vecdot(left[i], right[j]) for i, j in blocks])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        left, right, row, column = ctx.saved_tensors
        d_left, d_right = torch.zeros_like(left), torch.zeros_like(right)
        for i, j, g in zip(*(t.split(PAIRS_AT_ONCE) for t in (row, column, grad)), strict=True):
            d_left.index_add_(0, i, right[j] * g[:, None])
            d_right.index_add_(0, j, left[i] * g[:, None])
        return d_left, d_right, None, None


def pair_scores(parts: Sequence[Part], row: Tensor, column: Tensor) -> Tensor:
    """Scores of single pairs (P,), with gradient, computed from the features alone."""
    scores = [p.function.value(_PairDots.apply(p.left, p.right, row, column)) for p in parts]
    return torch.stack(scores).sum(0) if len(scores) > 1 else scores[0]


@dataclass
class LogWeights:
    """Weights of negative pairs, as logarithms: a constant for related pairs, log(1 + |difference|) of two vectors."""

    related: list[tuple[Relation, float]] = field(default_factory=list)
    distance: tuple[Tensor, Tensor] | None = None

    def share(self, index: Tensor | slice) -> LogWeights:
        """The weights for some of the left side only."""
        near = None if self.distance is None else (self.distance[0][index], self.distance[1])
        return LogWeights([(relation.share(index), value) for relation, value in self.related], near)

    def tile(self, rows: slice, columns: slice) -> Tensor | None:
        """Log weights of a tile; None when all are 0."""
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
    """Everything that decides the logits l = scale · score + bias of N anchors and M candidates, and their masks.

    `scale` has shape () or (N, 1), `bias` shape () or is None. `band` (low (N,), high (N,)) keeps as negatives of the
    candidates from number `banded` on only those with ``low <= score <= high``.
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

    def logits(self, scores: Tensor, row: Tensor) -> Tensor:
        """Logits (P,) of pairs with these scores whose anchors are `row`."""
        scale = self.scale if self.scale.dim() == 0 else self.scale.squeeze(1)[row]
        return scores * scale if self.bias is None else scores * scale + self.bias


def reduce_logits(stat: Stat, logits: Tensor, mask: Tensor | None, extra: Tensor | None) -> Tensor:
    """One stat of each row of dense logits (N, M); `extra` are log weights (N, M)."""
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
    """Each wanted number for each row of the table, (N,) each; holds the N x M table."""
    rows, columns = (slice(0, n) for n in table.shape)
    logits = table.scores(rows, columns) * table.scale
    logits = logits if table.bias is None else logits + table.bias
    masks, extra = {"negative": table.negatives(rows, columns)}, table.weights.tile(rows, columns)
    if any(stat.over == "positive" for stat in stats):
        positive = table.masks.positives(rows, columns)
        masks["positive"] = torch.zeros_like(logits, dtype=torch.bool) if positive is None else positive
    return [reduce_logits(s, logits, masks[s.over], extra if s.over == "negative" else None) for s in stats]
