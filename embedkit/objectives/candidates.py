"""Slots `direction`, `target` and `mask`: who looks at whom, who is positive, who does not count."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from embedkit.objectives.base import NegativeCount, ObjectiveBatch
from embedkit.objectives.sides import Masks, Relation, Side, collect, need, views_of
from embedkit.objectives.slots import part
from embedkit.objectives.tools import choice, number

Embeddings = Mapping[str, Tensor]


class Direction(nn.Module):
    """Base of directions: the pairs of sides (anchors, candidates) whose losses are averaged or added."""

    requires = frozenset({"anchor", "positive"})

    def __init__(self, combine: str = "mean", detach: bool = False) -> None:
        super().__init__()
        self.combine = choice("combine", combine, ("mean", "sum"))
        self.detach = detach

    def sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> list[tuple[Side, Side]]:
        """Anchors and candidates of each direction."""
        return [(left, right.detach() if self.detach else right) for left, right in self._sides(embeddings, batch)]

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> list[tuple[Side, Side]]:
        raise TypeError(f"{type(self).__name__} does not define sides")

    def count(self, rows: int, hard: int) -> tuple[int, int]:
        """Negatives of one anchor in a batch of `rows`, without and with hard ones: (in the batch, hard)."""
        return rows - 1, rows * hard


@part("direction", "rows")
class Rows(Direction):
    """Anchors look at positives (and further views) and hard negatives of the whole batch."""

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> list[tuple[Side, Side]]:
        others = [name for name in views_of(embeddings) if name != "anchor"]
        return [(collect(["anchor"], embeddings, batch), collect([*others, "negatives"], embeddings, batch))]


@part("direction", "columns")
class Columns(Direction):
    """Positives (and further views) look at the anchors of the whole batch."""

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> list[tuple[Side, Side]]:
        others = [name for name in views_of(embeddings) if name != "anchor"]
        return [(collect(others, embeddings, batch), collect(["anchor"], embeddings, batch))]

    def count(self, rows: int, hard: int) -> tuple[int, int]:
        """All other anchors."""
        return rows - 1, 0


@part("direction", "both")
class Both(Direction):
    """Rows and columns; hard negatives are candidates of the rows only."""

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> list[tuple[Side, Side]]:
        others = [name for name in views_of(embeddings) if name != "anchor"]
        anchors = collect(["anchor"], embeddings, batch)
        return [(anchors, collect([*others, "negatives"], embeddings, batch)),
                (collect(others, embeddings, batch), anchors)]  # fmt: skip


@part("direction", "views")
class Views(Direction):
    """Every view looks at every other vector of the batch, itself left out."""

    requires = frozenset({"anchor"})

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> list[tuple[Side, Side]]:
        names = views_of(embeddings)
        left = collect(names, embeddings, batch)
        return [(left, collect([*names, "negatives"], embeddings, batch) if "negatives" in embeddings else left)]

    def count(self, rows: int, hard: int) -> tuple[int, int]:
        """Both views of all other rows."""
        return 2 * (rows - 1), rows * hard


class Target(nn.Module):
    """Base of targets: which candidates are positive."""

    requires: frozenset[str] = frozenset()

    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive pairs and the vector itself; what else does not count is added by the slot `mask`."""
        raise TypeError(f"{type(self).__name__} does not define masks")


@part("target", "same")
class Same(Target):
    """Positive are candidates with the anchor's own row, or with its label, group or input, when `by` says so."""

    def __init__(self, by: str = "row") -> None:
        super().__init__()
        self.by = choice("by", by, ("row", "label", "group", "key"))
        self.requires = frozenset({by}) if by in ("label", "group") else frozenset()

    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive: equal ids of the kind `by`; a row's hard negatives are never positive."""
        if self.by in ("label", "group"):
            need(getattr(batch, self.by), self.by, f"a target by {self.by}")
        theirs = right.id(self.by)
        if self.by == "row":
            theirs = theirs.masked_fill(right.id("hard") >= 0, -1)
        positive = Relation.of(left.id(self.by), theirs)
        return Masks(positive, Relation.of(left.id("vector"), right.id("vector")))


@part("mask", "standard")
class FalseNegatives(nn.Module):
    """Which pairs neither attract nor repel.

    Parameters
    ----------
    groups : bool
        Vectors of the same group, when rows have groups.
    equal_inputs : bool
        Vectors of equal input text or image.
    guide_margin : float, optional
        Pairs whose score by the guide model is above the anchor's own positive's score less this margin (GISTEmbed,
        Solatorio 2024, is margin 0); needs guide embeddings.
    """

    def __init__(self, groups: bool = True, equal_inputs: bool = False, guide_margin: float | None = None) -> None:
        super().__init__()
        self.groups, self.equal = bool(groups), bool(equal_inputs)
        self.guide_margin = None if guide_margin is None else number("guide_margin", guide_margin, least=-2, most=2)

    def extend(self, masks: Masks, left: Side, right: Side) -> None:
        """Add what does not count."""
        for wanted, kind in ((self.groups, "group"), (self.equal, "key")):
            if wanted and kind in left.ids:
                masks.drop.append(Relation.of(left.id(kind), right.id(kind)))
        if self.guide_margin is not None:
            need(left.guide if right.guide is not None else None, "guide", "guide_margin")
            assert left.guide is not None and right.guide is not None
            row, column = masks.pairs()
            ceiling = left.guide.new_full((len(left),), float("inf"))
            score = (left.guide[row] * right.guide[column]).sum(-1)
            # An anchor with several positives is as strict as its least similar one.
            ceiling.scatter_reduce_(0, row, score, "amin")
            masks.guide = left.guide, right.guide, ceiling - self.guide_margin


def count_negatives(direction: Direction, batch_size: int, hard: int, processes: int, bank: int) -> NegativeCount:
    """Negatives of one anchor, by where they are computed."""
    inside, _ = direction.count(batch_size // processes, hard)
    everywhere, hard_ones = direction.count(batch_size, hard)
    return NegativeCount(inside, hard_ones, everywhere - inside, bank)
