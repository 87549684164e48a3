"""Sentences of documents: neighbours as positives, and a candidate that is no sentence."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.matrix.problem import Extra, Problem
from embedkit.objectives.matrix.similarity import Masks, PairList, Relation, Side, check_roles
from embedkit.objectives.parts.banks import Bank
from embedkit.objectives.parts.slots import part
from embedkit.objectives.parts.targets import Target
from embedkit.objectives.tools import number, whole


def at_offset(batch: ObjectiveBatch, offset: int) -> Tensor:
    """For each row (B,) the row that stands `offset` sentences behind it in its document; -1 where there is none.

    Examples
    --------
    >>> import torch
    >>> numbers = {"document_id": torch.tensor([7, 7, 7, 8]), "position": torch.tensor([3, 4, 5, 6])}
    >>> at_offset(ObjectiveBatch.of({"anchor": torch.eye(4)}, **numbers), 1)
    tensor([ 1,  2, -1, -1])
    """
    check_roles({"document_id", "position"}, {}, batch)
    document, position = cast(Tensor, batch.document_id), cast(Tensor, batch.position)
    match = (document[:, None] == document) & (position[:, None] + offset == position)
    return torch.where(match.any(1), match.int().argmax(1), torch.full_like(document, -1))


@part("target", "context")
class Context(Target):
    """Positive are sentences at most `context` places before or behind the anchor's in its document (Quick-Thoughts).

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(3), "positive": torch.eye(3)}
    >>> numbers = {"document_id": torch.zeros(3).long(), "position": torch.arange(3)}
    >>> left, right = (Side(torch.eye(3), {"row": torch.arange(3)}) for _ in z)
    >>> Context().masks(left, right, ObjectiveBatch.of(z, **numbers)).pairs()
    (tensor([0, 1, 1, 2]), tensor([1, 0, 2, 1]))
    """

    requires = frozenset({"document_id", "position"})

    def __init__(self, context: int = 1) -> None:
        super().__init__()
        self.context = whole("context", context, least=1)

    @torch.no_grad()
    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive: all views of the neighbours; hard negatives are none."""
        offsets = [d for d in range(-self.context, self.context + 1) if d]
        rows = torch.stack([at_offset(batch, d) for d in offsets], dim=1)[left.id("row")]  # (n, 2 context)
        own = torch.where(right.id("hard") >= 0, -1, right.id("row"))
        views = [(own == row).nonzero()[:, 0] for row in range(batch.size)]
        width = max(1, *map(len, views))
        table = torch.full((batch.size + 1, width), -1, device=own.device)  # the last row is that of -1
        for row, candidates in enumerate(views):
            table[row, : len(candidates)] = candidates
        itself = Relation.of(left.id("vector"), right.id("vector"))
        return Masks(PairList(table[rows].flatten(1)), itself)


@part("bank", "blank")
class Blank(Bank):
    """One more candidate of every anchor, whose score is the number `blank`; a score has no gradient there.

    Quick-Thoughts' code has such a one: the score of a sentence with itself is set to 0, not left out.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.zeros(2, 2), "positive": torch.eye(2)}
    >>> build({"name": "table", "bank": "blank", "score": "dot"})(z, ObjectiveBatch.of(z)).loss  # log 3
    tensor(1.0986)
    """

    makes_extras = True

    def __init__(self, blank: float = 0.0) -> None:
        super().__init__()
        self.blank = number("blank", blank)

    def extras(self, problem: Problem) -> list[Extra]:
        """The score, (n, 1)."""
        return [Extra(problem.left.z.new_full((len(problem.left), 1), self.blank))]
