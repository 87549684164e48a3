"""Sums over the rows of a score table, dense: the reference that the tiled form is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from embedkit.objectives.sides import Masks, Relation
from embedkit.objectives.tools import masked_lse


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

    def slope(self, s: Tensor) -> Tensor | None:
        """Derivative of the score by the dot product; None stands for 1."""
        return None


@dataclass
class Part:
    """One summand of a score: features (N, D) and (M, D), whose dot products go through a function."""

    left: Tensor
    right: Tensor
    function: Pointwise = field(default_factory=Pointwise)


@dataclass
class LogWeights:
    """Weights of negative pairs, as logarithms: a constant for related pairs, a function of a distance of scores."""

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
            total = ((left[rows, None] - right[None, columns]).abs() + 1).log()
        for relation, value in self.related:
            tile = relation.tile(rows, columns)
            if tile is not None:
                total = tile * value if total is None else total + tile * value
        return total


@dataclass
class Table:
    """Everything that decides the logits l = scale · score + bias of N anchors and M candidates, and their masks.

    `scale` has shape () or (N, 1), `bias` shape (). `band` (low (N,), high (N,)) keeps as negatives only pairs with
    ``low <= score <= high``.
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
        """The scores of a tile, with gradient."""
        return sum((p.function.value(p.left[rows] @ p.right[columns].T) for p in self.parts[1:]),
                   self.parts[0].function.value(self.parts[0].left[rows] @ self.parts[0].right[columns].T))  # fmt: skip

    def negatives(self, scores: Tensor, rows: slice, columns: slice) -> Tensor | None:
        """Bool tile of negatives, the band included; None when all pairs of the tile are negative."""
        mask = self.masks.negatives(rows, columns)
        if self.band is None:
            return mask
        low, high = (bound[rows, None] for bound in self.band)
        inside = (scores.detach() >= low) & (scores.detach() <= high)
        return inside if mask is None else mask & inside

    def pair_scores(self, row: Tensor, column: Tensor) -> Tensor:
        """Scores of single pairs (P,), with gradient, computed from the features alone."""
        total: Tensor | None = None
        for p in self.parts:
            s = p.function.value((p.left[row] * p.right[column]).sum(-1))
            total = s if total is None else total + s
        assert total is not None
        return total

    def logits(self, scores: Tensor, row: Tensor) -> Tensor:
        """Logits (P,) of pairs with these scores whose anchors are `row`."""
        scale = self.scale if self.scale.dim() == 0 else self.scale.squeeze(1)[row]
        return scores * scale if self.bias is None else scores * scale + self.bias


def dense_stats(table: Table, wanted: Sequence[Stat]) -> list[Tensor]:
    """Each wanted number for each row of the table, (N,) each; holds the N x M table."""
    rows, columns = (slice(0, n) for n in table.shape)
    scores = table.scores(rows, columns)
    logits = scores * table.scale if table.bias is None else scores * table.scale + table.bias
    positive = table.masks.positives(rows, columns)
    masks = {
        "negative": table.negatives(scores, rows, columns),
        "positive": torch.zeros_like(scores, dtype=torch.bool) if positive is None else positive,
    }
    extra = table.weights.tile(rows, columns)
    out = []
    for stat in wanted:
        mask = masks[stat.over]
        if stat.kind == "lse":
            x = logits * stat.factor
            out.append(masked_lse(x if extra is None or stat.over == "positive" else x + extra, mask))
        elif stat.kind == "expect":
            x = (logits * stat.factor).detach()
            x = x if mask is None else x.masked_fill(~mask, -torch.inf)
            out.append((x.softmax(-1).nan_to_num(0.0) * logits.detach()).sum(-1))
        elif stat.kind == "count":
            full = torch.full_like(scores[:, 0], table.shape[1])
            out.append(full if mask is None else mask.sum(-1).to(scores.dtype))
        else:
            x = logits if stat.kind == "sum" else softplus(logits * stat.factor)
            out.append((x if mask is None else x.masked_fill(~mask, 0.0)).sum(-1))
    return out
