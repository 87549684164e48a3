"""The log-sum-exp of the rows of a similarity matrix that is in memory as a whole, at the cost of three products.

A matrix that fits is evaluated once. What stays of it are the exponentials E, relative to the largest logit of a row,
and their sums t. The gradient of the logits is diag(g / t) E for the gradient g of the results, so that rows of the
features are scaled instead of the matrix: diag(g / t) (E R) and Eᵀ (diag(g / t) L), two products without a pass over
it between them. Where the second matrix of an objective is the transpose of the first, its rows are the columns of E,
and the gradient is E times the sum of a column and a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from embedkit.models.execution.products import product, product_across
from embedkit.objectives.matrix.stats import Stat, Table


def whole_lse(table: Table, stat: Stat, *, columns: bool = False) -> list[Tensor]:
    """The stat of every row, (n,), and with `columns` that of every column too, (m,); see `keeps_exponentials`.

    A sum over nothing is -inf and has no gradient. Gradients of first order reach scale, bias and features.

    Examples
    --------
    >>> from embedkit.objectives.matrix.similarity import Masks, Relation
    >>> from embedkit.objectives.matrix.stats import Part
    >>> eye, ids = torch.eye(3), torch.arange(3)
    >>> masks = Masks(Relation.of(ids, ids), Relation.of(ids, ids + 3))
    >>> whole_lse(Table([Part(eye, eye)], torch.tensor(10.0), None, masks), Stat("lse", "negative"))
    [tensor([0.6931, 0.6931, 0.6931])]
    """
    (part,) = table.parts
    sums = _LogSums.apply(table, stat, columns, table.scale, table.bias, part.left, part.right)
    return [sums] if isinstance(sums, Tensor) else list(sums)


def keeps_exponentials(table: Table, stats: Sequence[Stat]) -> bool:
    """Whether `whole_lse` can make these stats: one log-sum-exp of scaled dot products, of a matrix with entries.

    Examples
    --------
    >>> from embedkit.objectives.matrix.similarity import Masks, Relation
    >>> from embedkit.objectives.matrix.stats import Part
    >>> eye, ids = torch.eye(3), torch.arange(3)
    >>> table = Table([Part(eye, eye)], torch.tensor(10.0), None, Masks(Relation.of(ids, ids), Relation.of(ids, ids)))
    >>> keeps_exponentials(table, [Stat("lse", "negative")]), keeps_exponentials(table, [Stat("sum", "negative")])
    (True, False)
    """
    linear = len(table.parts) == 1 and table.parts[0].function.identity and table.weights.hardness is None
    return linear and len(stats) == 1 and stats[0].kind == "lse" and min(table.shape) > 0


class _LogSums(torch.autograd.Function):
    """Log-sum-exps of rows, and of columns, which must not need a largest logit of their own."""

    @staticmethod
    def forward(
        ctx: Any, table: Table, stat: Stat, columns: bool, scale: Tensor, bias: Tensor | None, left: Tensor,
        right: Tensor,
    ) -> Any:  # fmt: skip
        every = tuple(slice(0, n) for n in table.shape)
        x = product(left * (scale * stat.factor), right)
        if bias is not None:
            x += bias * stat.factor
        mask = table.negatives(*every) if stat.over == "negative" else table.masks.positives(*every)
        if mask is None and stat.over == "positive":
            mask = torch.zeros(1, 1, dtype=torch.bool, device=x.device)
        extra = table.weights.tile(*every) if stat.over == "negative" else None
        if extra is not None:
            x += extra
        if mask is not None:
            x.masked_fill_(~mask, -torch.inf)
        top = x.new_zeros(len(x)) if columns else x.amax(1)
        top = torch.where(torch.isfinite(top), top, torch.zeros_like(top))
        e = (x if columns else x.sub_(top[:, None])).exp_()
        totals = [e.sum(dim) for dim in ((1, 0) if columns else (1,))]
        ctx.factor, ctx.exponentials = stat.factor, e
        ctx.save_for_backward(scale, bias, left, right, *totals)
        results = (totals[0].log() + top, *(total.log() for total in totals[1:]))
        return results if columns else results[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        scale, bias, left, right, *totals = ctx.saved_tensors
        e, anchors = ctx.exponentials, left * scale
        pulls = [
            None if grad is None else (grad * ctx.factor / total).masked_fill_(total == 0, 0.0)
            for grad, total in zip(grads, totals, strict=True)
        ]
        rows = pulls[0]
        if len(pulls) > 1 and pulls[1] is not None:  # d is the gradient of the logits
            d = e * (pulls[1] if rows is None else rows[:, None] + pulls[1])
            out = [product(d, right.T), product_across(d, anchors)]
            d_bias = None if bias is None else d.sum()
        else:
            rows = totals[0].new_zeros(len(left)) if rows is None else rows
            out = [product(e, right.T).mul_(rows[:, None]), product_across(e, anchors * rows[:, None])]
            d_bias = None if bias is None else rows @ totals[0]
        along = torch.linalg.vecdot(out[0], left)
        d_scale = along.sum() if scale.dim() == 0 else along[:, None]
        return None, None, None, d_scale, d_bias, out[0].mul_(scale), out[1]
