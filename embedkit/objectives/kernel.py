"""The score table kernel: anchors x candidates, and a part for each slot that says what becomes of their scores.

The order of evaluation is: sides, masks, scores, scale, margin on positives, sums over negatives, reducer, mean.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from embedkit.errors import RecipeError, nearest
from embedkit.objectives.base import LossOutput, NegativeCount, Objective, ObjectiveBatch
from embedkit.objectives.candidates import Direction, FalseNegatives, Target, count_negatives
from embedkit.objectives.reducers import Reducer, Row, Weight
from embedkit.objectives.registry import Preset, presets
from embedkit.objectives.scales import Margin, Scale, Score
from embedkit.objectives.sides import Side
from embedkit.objectives.slots import Chosen, choose, exposed, make
from embedkit.objectives.stats import Table, dense_stats
from embedkit.objectives.tools import prepare

TABLE_SETTINGS: dict[str, Any] = {"tile": None}


class TableObjective(Objective):
    """An objective composed of parts; see `embedkit.objectives.slots` for the slots.

    Parameters
    ----------
    chosen : Chosen
        Part and settings of every slot.
    tile : int, "auto" or None
        Rows and columns of the tiles in which the table is evaluated; None holds the whole table.
    dim, num_rows : int, optional
        Size of the embeddings and of the training data, for parts with state.
    """

    accepts = frozenset({"negatives"})

    def __init__(self, chosen: Chosen, *, tile: int | str | None = None, dim: int | None = None,
                 num_rows: int | None = None) -> None:  # fmt: skip
        super().__init__()
        self.chosen, self.tile = chosen, tile
        built = {slot: make(chosen, slot, dim, num_rows) for slot in chosen}
        self.score, self.scale = cast(Score, built["score"]), cast(Scale, built["scale"])
        self.margin, self.direction = cast(Margin, built["margin"]), cast(Direction, built["direction"])
        self.target, self.mask = cast(Target, built["target"]), cast(FalseNegatives, built["mask"])
        self.weight, self.reducer = cast(Weight, built["weight"]), cast(Reducer, built["reducer"])
        self.requires = self.direction.requires | self.target.requires
        self._check()

    def _check(self) -> None:
        if not self.reducer.ratio and not self.weight.plain:
            raise RecipeError(
                f"the reducer {self.chosen['reducer'][0]!r} has no weighted sum over negatives",
                where="objective.weight", remedy="use the weight 'uniform' with its defaults, or another reducer",
            )  # fmt: skip

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """This process's share of the loss."""
        z = prepare(embeddings)
        losses = [self._direction(left, right, batch) for left, right in self.direction.sides(z, batch)]
        loss = torch.stack(losses).sum()
        if self.direction.combine == "mean":
            loss = loss / len(losses)
        return LossOutput(loss, {}, self.scale.metrics())

    def _direction(self, whole: Side, right: Side, batch: ObjectiveBatch) -> Tensor:
        """The share of the loss of one direction."""
        masks = self.target.masks(whole, right, batch)
        self.mask.extend(masks, whole, right)
        weights = self.weight.weights(whole, right)
        row = whole.id("row")
        mine = ((row >= batch.rows.start) & (row < batch.rows.stop)).nonzero().squeeze(1)
        all_pairs = masks.pairs()
        anchors = len(whole) if self.reducer.average == "all" else len(all_pairs[0].unique())
        left = whole.take(mine)
        scale, bias = self.scale(left, None, batch)
        table = Table(self.score.parts(left, right, batch), scale, bias, masks.share(mine), weights.share(mine))
        pair_row, pair_column = table.masks.pairs()
        scores = table.pair_scores(pair_row, pair_column)
        logit = table.logits(self.margin(scores, scale, batch), pair_row)
        wanted = list(dict.fromkeys((self.weight.wanted() if self.reducer.ratio else []) + self.reducer.wanted()))
        stats = dict(zip(wanted, dense_stats(table, wanted), strict=True))
        count = torch.bincount(pair_row, minlength=len(left)).to(scores.dtype)
        log_neg = self.weight.log_neg(stats) if self.reducer.ratio else None
        per_row = self.reducer(Row(pair_row, logit, scores, count, stats, log_neg, scale))
        return (per_row * self.scale.factor(scale)).sum() / max(1, anchors)

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Advance the state of all parts."""
        self.scale.after_step()

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """What repels an anchor."""
        return count_negatives(self.direction, batch_size, hard, processes, 0)


def table_preset(name: str, *, paper: str, note: str = "", cost: str = "B² D", state: str = "", **slots: Any) -> None:
    """File a member of the kernel: a name, a citation, and what its slots hold. Slots not named hold the default."""
    chosen, rest = choose(slots, {}, f"objective {name}")
    known = {**exposed(chosen), **TABLE_SETTINGS, **rest}

    def make_table(given: dict[str, Any], dim: int | None, num_rows: int | None) -> Objective:
        picked, others = choose(slots, given, f"objective {name}")
        for key in others:
            if key not in TABLE_SETTINGS:
                raise RecipeError(f"unknown setting {key!r}", where=f"objective {name}",
                                  remedy=nearest(key, {**exposed(picked), **TABLE_SETTINGS, **picked}))  # fmt: skip
        return TableObjective(picked, **{**TABLE_SETTINGS, **others}, dim=dim, num_rows=num_rows)

    told = ", ".join(f"{slot} {part}" for slot, (part, _) in chosen.items() if slot in slots)
    presets.add(name)(Preset(name, paper, make_table, known, "table", told, state, cost, True, True, note))
