"""What heads read and what they are scored by: features of vectors, gradient reversal, losses over targets that may be
missing. Import this file inside functions: it needs torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from embedkit.objectives.base import ObjectiveBatch

PAIR_FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "u": lambda u, v: u,
    "v": lambda u, v: v,
    "|u-v|": lambda u, v: (u - v).abs(),
    "u-v": lambda u, v: u - v,
    "u*v": lambda u, v: u * v,
    "max(u,v)^2": lambda u, v: torch.maximum(u, v) ** 2,
}
"""Features of two vectors by name, each (N, D)."""


def pair_features(u: Tensor, v: Tensor, names: Sequence[str] = ("u", "v", "|u-v|")) -> Tensor:
    """Features of pairs side by side, (N, D) and (N, D) -> (N, F * D); by default those of Sentence-BERT.

    Examples
    --------
    >>> pair_features(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    tensor([[1., 3., 2.]])
    """
    return torch.cat([PAIR_FEATURES[name](u, v) for name in names], dim=1)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor, factor: float) -> Tensor:  # type: ignore[override]
        ctx.factor = factor  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.factor * gradient, None  # type: ignore[attr-defined]


def reverse_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` as it is; its gradient is multiplied by -`factor` (Ganin et al. 2016, section 4.2).

    Examples
    --------
    >>> x = torch.ones(1, requires_grad=True)
    >>> (3 * reverse_gradient(x, 0.5)).sum().backward()
    >>> x.grad
    tensor([-1.5000])
    """
    return _Reversed.apply(x, factor)  # type: ignore[no-any-return]


def ramp(step: int, total: int) -> float:
    """2 / (1 + exp(-10 p)) - 1 at the share p of a run: from 0 to 1 (Ganin et al. 2016, section 5.2.2).

    Examples
    --------
    >>> ramp(0, 100), round(ramp(50, 100), 3)
    (0.0, 0.987)
    """
    return 2 / (1 + math.exp(-10 * step / max(total, 1))) - 1


def encoded(kind: str, values: Sequence[object], classes: Sequence[str], width: int) -> np.ndarray:
    """Targets as numbers: int64 (n,), -1 where a class is missing; else float32 (n, width), NaN where one is.

    Examples
    --------
    >>> encoded("class", ["b", None], ["a", "b"], 2), encoded("classes", [["a"]], ["a", "b"], 2)
    (array([ 1, -1]), array([[1., 0.]], dtype=float32))
    """
    place = {name: number for number, name in enumerate(classes)}
    if kind == "class":
        return np.array([-1 if value is None else place[value] for value in values], np.int64)  # type: ignore[index]
    numbers = np.full((len(values), width), np.nan, np.float32)
    for row, value in enumerate(values):
        if value is not None and kind == "classes":
            numbers[row] = 0
            numbers[row, [place[name] for name in value]] = 1  # type: ignore[attr-defined]
        elif value is not None:
            numbers[row] = value  # type: ignore[call-overload]
    return numbers


def there(target: Tensor) -> Tensor:
    """Which rows (N,) have a target, bool.

    Examples
    --------
    >>> there(torch.tensor([2, -1])), there(torch.tensor([[0.5], [torch.nan]]))
    (tensor([ True, False]), tensor([ True, False]))
    """
    return target >= 0 if target.ndim == 1 else ~target.isnan().any(dim=1)


def own_targets(target: Tensor, owner: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Which entries of `owner` (N,) have a target and belong to this process's `rows`; how many of all have one.

    Examples
    --------
    >>> mine, number = own_targets(torch.tensor([2, -1, 0]), torch.tensor([0, 1, 2]), slice(0, 2))
    >>> mine.tolist(), int(number)
    ([True, False, False], 2)
    """
    from embedkit.methods.common.parts import own_rows

    present = there(target)
    return present & own_rows(owner, rows), present.sum().clamp(min=1)


def mixed_rows(target: Tensor, alpha: float, batch: ObjectiveBatch, use: str) -> tuple[Tensor, float]:
    """With which vector, of those that have a target, each of N is mixed, (N,), and the share that it keeps.

    Drawn for the whole batch, the same on every process: a permutation, and one number of Beta(alpha, alpha); for alpha
    0 each vector stays alone.

    Examples
    --------
    >>> from embedkit.objectives.base import ObjectiveBatch
    >>> batch = ObjectiveBatch.of({"anchor": torch.eye(3)})
    >>> partner, share = mixed_rows(torch.tensor([0, -1, 1]), 1.0, batch, "label")
    >>> int(partner[1]), sorted(partner.tolist()), 0 < share < 1
    (1, [0, 1, 2], True)
    """
    partner = torch.arange(len(target), device=target.device)
    if not alpha:
        return partner, 1.0
    random, rows = batch.random(f"mixup {use}"), there(target).nonzero()[:, 0]
    order = torch.from_numpy(random.permutation(len(rows))).to(rows.device)
    return partner.index_copy(0, rows, rows[order]), float(random.beta(alpha, alpha))


def target_losses(kind: str, logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """The loss (N,) of each row, all of which have a target.

    Cross-entropy for kind "class", with shares for "soft"; binary cross-entropies for "classes" and "degrees" and
    squared errors for "number", of which `reduction` takes the mean or the sum over the outputs.

    Examples
    --------
    >>> target_losses("classes", torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 1.0]]), "sum")
    tensor([2.7726])
    >>> target_losses("class", torch.zeros(1, 4), torch.tensor([2]))
    tensor([1.3863])
    """
    if kind == "class":
        return F.cross_entropy(logits, target, reduction="none")
    goal = target.to(logits.dtype)
    if kind == "soft":
        return F.cross_entropy(logits, goal, reduction="none")
    if kind == "number":
        losses = F.mse_loss(logits, goal, reduction="none")
    else:
        losses = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    return losses.sum(dim=1) if reduction == "sum" else losses.mean(dim=1)
