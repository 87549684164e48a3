"""One denominator for several directions: anchors and positives against those of all rows (GTE, GISTEmbed)."""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.kernel import table_preset
from embedkit.objectives.matrix.problem import Row
from embedkit.objectives.matrix.similarity import NOBODY, Masks, Relation, Side, collect, views_of
from embedkit.objectives.parts.reducers import Reducer
from embedkit.objectives.parts.slots import part
from embedkit.objectives.parts.targets import Direction, Embeddings, Sides
from embedkit.objectives.tools import grouped_lse, logaddexp


@part("direction", "joint")
class Joint(Direction):
    """Anchors and positives against each other and against their own kind, for one denominator of all (reducer joint).

    Li et al. 2023, GTE (arXiv 2308.03281), section 3.3: the four kinds of pairs. Anchors against positives and hard
    negatives are always there; an anchor's own hard negatives do not repel its positive. What a guide finds too alike
    is measured by the anchor and its positive in every kind.

    Parameters
    ----------
    contrast_anchors, contrast_positives : bool
        Anchors against the other anchors; positives against the other positives.
    contrast_back : bool
        Positives against the anchors, their own once more.
    contrast_negatives : bool
        Positives against the hard negatives of the other rows too.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "negatives": torch.ones(4, 2)}
    >>> [(len(left), len(right)) for left, right in Joint().sides(z, ObjectiveBatch.of(z))]
    [(2, 8), (2, 8)]
    """

    joint = True

    def __init__(self, contrast_anchors: bool = True, contrast_positives: bool = True, contrast_back: bool = True,
                 contrast_negatives: bool = True, detach: bool = False) -> None:  # fmt: skip
        super().__init__("mean", detach)
        self.anchors, self.back = bool(contrast_anchors), bool(contrast_back)
        self.positives, self.hard = bool(contrast_positives), bool(contrast_negatives)

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        anchors = collect(["anchor"], embeddings, batch)
        positives = collect([name for name in views_of(embeddings) if name != "anchor"], embeddings, batch)
        hard = [collect(["negatives"], embeddings, batch)] if "negatives" in embeddings else []
        own = [anchors] if self.anchors else []
        sides = [(anchors, Side.join([positives, *hard, *own]))]
        if self.positives:
            sides.append((positives, Side.join([positives, *(hard if self.hard else []), anchors])))
        elif self.back:
            sides.append((positives, anchors))
        return sides

    def restrict(self, masks: Masks, left: Side, right: Side, place: int) -> None:
        """Positives: no own hard negative repels, and without `contrast_back` no anchor does."""
        if place == 0:
            return
        if bool((right.id("hard") >= 0).any()):
            masks.drop.append(Relation.of(left.id("row"), right.id("hard")))
        if not self.back:
            masks.attracts = False
            anchors = torch.where(right.id("view") == 0, 0, NOBODY)
            masks.drop.append(Relation.of(torch.zeros_like(left.id("row")), anchors))

    def count(self, rows: int, hard: int) -> tuple[int, int]:
        """The other rows, once for every kind of pair, and their hard negatives."""
        kinds = 1 + self.anchors + self.positives + self.back
        return kinds * (rows - 1), rows * hard + (max(rows - 1, 0) * hard if self.positives and self.hard else 0)


@part("reducer", "joint")
class JointSoftmax(Reducer):
    """-l_p + log of Σ e^l over the candidates of all directions of a row: one softmax instead of a mean of several.

    Positives of the first direction are the numerator; those of the others are in the denominator, where the direction
    has them.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import build
    >>> z = {"anchor": torch.eye(2), "positive": torch.tensor([[0.6, 0.8], [0.0, 1.0]])}
    >>> build({"name": "gte", "temperature": 1.0})(z, ObjectiveBatch.of(z)).loss
    tensor(1.5938)
    """

    joins = True
    average = "rows"

    def join(self, rows: list[Row]) -> Tensor:
        """The loss of each row of this process, (rows,)."""
        batch = rows[0].problem.batch
        first, size = batch.rows.start, batch.rows.stop - batch.rows.start
        totals, owners = [], []
        for r in rows:
            assert r.log_neg is not None
            totals.append(logaddexp(r.log_pos, r.log_neg) if r.problem.masks.attracts else r.log_neg)
            owners.append(r.problem.left.id("row") - first)
        total = grouped_lse(torch.cat(totals), torch.cat(owners), size)
        owner = rows[0].problem.left.id("row") - first
        anchors = torch.bincount(owner, minlength=size).clamp_min(1)
        logit = total.new_zeros(size).index_add(0, owner, rows[0].add(rows[0].logit * rows[0].part)) / anchors
        there = torch.zeros_like(anchors).index_add(0, owner, rows[0].count.long()) > 0
        return torch.where(there, total - logit, 0.0)


table_preset("gte", paper="Li et al. 2023 (arXiv 2308.03281), section 3.3", direction="joint", reducer="joint",
             temperature=0.01)  # fmt: skip
table_preset("gist", paper="Solatorio 2024 (arXiv 2402.16829), section 3", direction="joint", reducer="joint",
             temperature=0.01, guide_margin=0.0, contrast_back=False, contrast_negatives=False,
             note="contrast_anchors and contrast_positives: false is infonce with guide_margin")  # fmt: skip
table_preset("llave", paper="Lan et al. 2025, LLaVE (arXiv 2503.04812), eq. 5", weight="hardness", strength=9.0,
             harder="in-batch", temperature=0.02,
             note="[M] temperature; EmbeddingGemma (arXiv 2509.20354): strength 5, harder: own")  # fmt: skip
