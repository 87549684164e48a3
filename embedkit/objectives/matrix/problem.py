"""The inputs of the kernel's parts when one direction of an objective is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.matrix.similarity import Masks, Side
from embedkit.objectives.matrix.stats import Part, Stat, Table, pair_scores
from embedkit.objectives.tools import grouped_lse


@dataclass
class Extra:
    """Candidates of single anchors: scores (n, E), negatives unless `positive`; log weights (n, E) or None.

    Examples
    --------
    >>> import torch
    >>> extra = Extra(scores=torch.tensor([[0.9, 0.2], [0.4, 0.3]]))  # two more negatives for each of two anchors
    >>> extra.scores.shape, extra.positive
    (torch.Size([2, 2]), False)
    """

    scores: Tensor
    log_weight: Tensor | None = None
    positive: bool = False


@dataclass
class Problem:
    """Anchors, candidates and masks of one direction of an objective.

    Attributes
    ----------
    whole, right : Side
        All anchors of the batch, all candidates.
    mine : slice or LongTensor
        The n anchors that this process evaluates. A slice stands for all.
    masks, parts : Masks, list of Part
        Over all anchors.
    place : int
        Number of the direction, for state that each direction has of its own.
    extras : list of Extra
        Candidates of single anchors of this process.
    left : Side
        The anchors of this process.
    my_parts : list of Part
        Features of this process's anchors and of all candidates.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import build
    >>> from embedkit.objectives.matrix.similarity import Relation
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> batch = ObjectiveBatch.of(z)
    >>> ((left, right),) = build("infonce").direction.sides(z, batch)
    >>> masks = Masks(*(Relation.of(left.id(kind), right.id(kind)) for kind in ("row", "vector")))
    >>> Problem(batch, left, right, slice(0, 2), masks, [Part(left.z, right.z)]).all_scores
    tensor([0.6000, 1.0000])
    """

    batch: ObjectiveBatch
    whole: Side
    right: Side
    mine: slice | Tensor
    masks: Masks
    parts: list[Part]
    place: int = 0
    extras: list[Extra] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Made here and not on first use, which may be where gradients are off.
        whole = isinstance(self.mine, slice)
        self.left = self.whole if whole else self.whole.take(self.mine)
        self.my_parts = self.parts if whole else [Part(p.left[self.mine], p.right, p.function) for p in self.parts]

    @cached_property
    def all_pairs(self) -> tuple[Tensor, Tensor]:
        """All positive pairs of the batch."""
        return self.masks.pairs()

    @cached_property
    def all_scores(self) -> Tensor:
        """Their scores, without gradient."""
        with torch.no_grad():
            return pair_scores(self.parts, *self.all_pairs)


@dataclass
class Row:
    """The rows of the matrix as a reducer sees them: n anchors and P positive pairs, sorted by anchor.

    Attributes
    ----------
    row, logit, scores : Tensor (P,)
        Anchor of a pair; its logit after the slot `positive`; its score before.
    part : Tensor (P,)
        Share of its anchor's target that a pair holds; the parts of one anchor add up to 1.
    count : Tensor (n,)
        Positives of each anchor.
    stats : dict
        Sums over the rows of the matrix, (n,) each.
    log_neg : Tensor (n,) or None
        log Σ w e^l over negatives, -inf when there is none.
    omega : Tensor (P,) or None
        Weight of each positive logit.
    scale : Tensor () or (n, 1)
        Scale of the logits.
    pooled : Tensor (n,) or None
        log Σ e^l over positives when the pairs are not listed one by one but stand for their mean.
    table : Table
        The similarity matrix itself, for reducers that need all of it.
    whole : callable
        ``whole()`` is that of the anchors of all processes.
    distribution : callable
        ``distribution(positive, valid)`` with bool matrices (n, M) gives the target's probabilities (n, M).

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> objective, rows = build({"name": "infonce", "temperature": 1.0}), []
    >>> _ = objective.reducer.register_forward_pre_hook(lambda reducer, inputs: rows.append(inputs[0]))
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> _ = objective(z, ObjectiveBatch.of(z))
    >>> rows[0].logit, rows[0].log_neg
    (tensor([1., 1.]), tensor([0., 0.]))
    """

    problem: Problem
    row: Tensor
    logit: Tensor
    scores: Tensor
    part: Tensor
    count: Tensor
    stats: dict[Stat, Tensor]
    log_neg: Tensor | None
    scale: Tensor
    table: Table
    distribution: Callable[[Tensor, Tensor], Tensor]
    whole: Callable[[], Table]
    omega: Tensor | None = None
    pooled: Tensor | None = None

    def add(self, values: Tensor) -> Tensor:
        """Sum over the pairs of each anchor, (n,)."""
        return values.new_zeros(len(self.count)).index_add(0, self.row, values)

    def lse(self, values: Tensor) -> Tensor:
        """Log-sum-exp over the pairs of each anchor, (n,); -inf where there is none."""
        return grouped_lse(values, self.row, len(self.count))

    @cached_property
    def log_pos(self) -> Tensor:
        """log Σ e^l over the positives, (n,)."""
        return self.lse(self.logit) if self.pooled is None else self.pooled
