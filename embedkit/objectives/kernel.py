"""The similarity matrix kernel: anchors x candidates, and a part for each slot that says what becomes of their scores.

The order of evaluation is: sides, masks, scores, scale, positives, sums over negatives, prior, reducer, mean.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from embedkit.errors import RecipeError, nearest
from embedkit.objectives.base import LossOutput, NegativeCount, Objective, ObjectiveBatch
from embedkit.objectives.matrix.problem import Extra, Problem, Row
from embedkit.objectives.matrix.similarity import Relation, Side, check_roles
from embedkit.objectives.matrix.stats import Stat, Table, pair_scores, reduce_logits
from embedkit.objectives.matrix.tiled import row_stats
from embedkit.objectives.parts.banks import Bank
from embedkit.objectives.parts.reducers import Reducer
from embedkit.objectives.parts.scales import Positive, Scale
from embedkit.objectives.parts.scores import Score
from embedkit.objectives.parts.slots import SLOTS, Choices, all_settings, choose_parts, make_part
from embedkit.objectives.parts.targets import Direction, FalseNegatives, Target
from embedkit.objectives.parts.weights import COUNT, Prior, Weight
from embedkit.objectives.registry import Preset, presets
from embedkit.objectives.tools import logaddexp, prepare, whole

TABLE_SETTINGS: dict[str, Any] = {"tile": "auto"}
POOLED = [Stat("sum", "positive"), Stat("lse", "positive")]


class TableObjective(Objective):
    """A loss on the similarity matrix of anchors and candidates, composed of one part for each slot.

    `embedkit.objectives.parts.slots` lists the slots.

    Parameters
    ----------
    choices : Choices
        Part and settings of every slot.
    tile : int, "auto" or None
        Rows and columns of the tiles in which the matrix is evaluated; None holds the whole matrix, "auto" tiles a
        matrix with more than 2**21 entries when the reducer allows it.
    dim, num_rows : int, optional
        Size of the embeddings and of the training data, for parts with state.

    Examples
    --------
    >>> import torch
    >>> from embedkit.objectives import ObjectiveBatch, build
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> objective = build({"name": "table", "direction": "both", "temperature": 1.0})
    >>> objective.choices["scale"]
    ('fixed', {'temperature': 1.0})
    >>> objective(z, ObjectiveBatch.of(z)).loss
    tensor(0.3133)
    """

    def __init__(self, choices: Choices, *, tile: int | str | None = "auto", dim: int | None = None,
                 num_rows: int | None = None) -> None:  # fmt: skip
        super().__init__()
        self.choices = choices
        self.tile = tile if tile in (None, "auto") else whole("tile", tile, least=1)
        modules = {slot: make_part(choices, slot, dim, num_rows) for slot in choices}
        self.score, self.scale = cast(Score, modules["score"]), cast(Scale, modules["scale"])
        self.positive, self.direction = cast(Positive, modules["positive"]), cast(Direction, modules["direction"])
        self.target, self.mask = cast(Target, modules["target"]), cast(FalseNegatives, modules["mask"])
        self.weight, self.prior = cast(Weight, modules["weight"]), cast(Prior, modules["prior"])
        self.reducer, self.bank = cast(Reducer, modules["reducer"]), cast(Bank, modules["bank"])
        parts = (self.direction, self.target, self.score, self.weight, self.bank, self.mask, self.reducer)
        self.bank.keeps_guides = "guide" in self.target.requires | self.mask.requires
        self.requires = frozenset().union(*(part.requires for part in parts))
        self.any_of, self.limits = self.reducer.any_of, self.reducer.limits
        self.accepts = (self.direction.accepts | ({"group"} if self.mask.groups else set())).union(*self.any_of)
        self.accepts -= self.requires | ({"negatives"} if self.mask.candidates == "batch" else set())
        self._check()

    def _check(self) -> None:
        def refuse(when: bool, slot: str, what: str, remedy: str) -> None:
            if when:
                raise RecipeError(f"{slot} {self.choices[slot][0]!r} {what}", where=f"objective.{slot}", remedy=remedy)

        reducer = f"reducer {self.choices['reducer'][0]!r}"
        no_sum = not self.reducer.ratio
        refuse(no_sum and not self.weight.plain, "weight", f"does not go with the {reducer}, which has no weighted sum",
               "use weight 'uniform' with its defaults, or another reducer")  # fmt: skip
        refuse(no_sum and not self.prior.absent, "prior", f"does not go with the {reducer}", "use prior 'none'")
        refuse(not self.prior.absent and self.score.lowest is None, "prior", "needs a score with a smallest value",
               "use score 'cosine' or 'distance'")  # fmt: skip
        refuse(self.positive.cosine_only and not self.score.cosine, "positive", "needs cosines", "use score 'cosine'")
        refuse(self.bank.cosine_only and not self.score.cosine, "bank", "keeps unit vectors", "use score 'cosine'")
        unread = self.choices["bank"][1].get("guide_dim") is not None and not self.bank.keeps_guides
        refuse(unread, "bank", "keeps the guide's vectors, which nothing reads", "leave out guide_dim")
        refuse(self.scale.per_row and not self.reducer.keeps_state, "scale", "is moved by the reducer 'global' only",
               "use reducer 'global', or scale 'fixed'")  # fmt: skip
        refuse(isinstance(self.tile, int) and self.reducer.dense, "reducer", "needs the whole table", "leave out tile")
        refuse(self.reducer.dense and self.bank.makes_extras, "bank", f"does not go with the {reducer}",
               "use bank 'queue'")  # fmt: skip
        refuse(not self.reducer.lists and not self.positive.plain, "positive", f"does not go with the {reducer}",
               "use positive 'plain'")  # fmt: skip
        refuse(self.weight.by_score and self.bank.makes_extras, "bank", "makes candidates that 'hardness' cannot weigh",
               "use bank 'queue', or weight 'exponential'")  # fmt: skip
        refuse(self.direction.joint and not self.reducer.joins, "direction", f"does not go with the {reducer}",
               "use reducer 'joint'")  # fmt: skip
        refuse(
            self.reducer.joins and self.bank.cosine_only, "bank", f"does not go with the {reducer}", "use bank 'none'"
        )
        refuse(getattr(self.target, "by", "") == "cluster" and not self.bank.clusters_rows, "target",
               "by cluster needs clusters", "use bank 'centroids'")  # fmt: skip
        refuse(not self.target.sums_to_one and not self.reducer.any_mass, "target", f"does not go with the {reducer}",
               "use reducer 'divergence' with form 'cross-entropy' and leak_p 0, or target 'guide'")  # fmt: skip
        refuse(self.reducer.joins and not self.prior.absent, "prior", f"does not go with the {reducer}",
               "use prior 'none'")  # fmt: skip

    def forward(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        """This process's share of the loss."""
        check_roles(self.requires, embeddings, batch)
        # Sums are kept in the type that `prepare` chose, whatever context the caller is in.
        with torch.autocast(next(iter(embeddings.values())).device.type, enabled=False):
            return self._evaluate(prepare(embeddings), batch)

    def _evaluate(self, z: dict[str, Tensor], batch: ObjectiveBatch) -> LossOutput:
        sides = self.direction.sides(z, batch)
        problems = [self._problem(left, right, z, batch, place) for place, (left, right) in enumerate(sides)]
        tables = [self._table(problem) for problem in problems]
        stats = row_stats(tables, self._stats(), self.tile)
        if self.reducer.joins:
            by_name = [dict(zip(self._stats(), sums, strict=True)) for sums in stats]
            rows = [self._row(*each) for each in zip(problems, tables, by_name, strict=True)]
            return LossOutput(self._mean(rows[0], self.reducer.join(rows)), {}, self.scale.metrics())
        losses, terms = [], dict[str, Tensor]()
        for problem, table, sums in zip(problems, tables, stats, strict=True):
            loss, named_terms = self._loss(problem, table, dict(zip(self._stats(), sums, strict=True)))
            losses.append(loss)
            for name, value in named_terms.items():
                terms[name] = terms.get(name, 0) + value.detach() * self.direction.factor(sides)
        metrics = {**self.scale.metrics(), **self.bank.metrics(z, batch)}
        return LossOutput(torch.stack(losses).sum() * self.direction.factor(sides), terms, metrics)

    def _problem(
        self, left: Side, right: Side, z: dict[str, Tensor], batch: ObjectiveBatch, place: int
    ) -> Problem:  # fmt: skip
        """Anchors, candidates and masks of one direction."""
        inside, bank = len(right), self.bank.candidates(left, right, z, batch)
        everyone = right if bank is None else Side.join([right, bank])
        masks = self.target.masks(left, everyone, batch)
        self.mask.extend(masks, left, everyone)
        masks.drop += self.bank.drop(left, everyone)
        self.direction.restrict(masks, left, everyone, place)
        if not self.bank.in_batch:
            bank_only = torch.full((len(everyone),), -1, device=left.z.device)
            bank_only[inside:] = 0
            masks.only.append(Relation(torch.zeros(len(left), dtype=torch.long, device=left.z.device), bank_only))
        row = left.id("row")
        inside_rows = (row >= batch.rows.start) & (row < batch.rows.stop)
        mine = slice(0, len(left)) if bool(inside_rows.all()) else inside_rows.nonzero().squeeze(1)
        problem = Problem(batch, left, everyone, mine, masks, self.score.parts(left, everyone, batch), place)
        problem.extras = self.bank.extras(problem)
        return problem

    def _table(self, problem: Problem) -> Table:
        """The similarity matrix of this process's anchors."""
        scale, bias = self.scale(problem)
        weights = self.weight.weights(problem.whole, problem.right).share(problem.mine)
        columns = slice(len(problem.right) - self.bank.length, len(problem.right))
        band = self.bank.band(problem, columns)
        table = Table(problem.my_parts, scale, bias, problem.masks.share(problem.mine), weights, band)
        limits = self.reducer.band(table)
        if limits is not None:
            low, high = (
                limits if band is None else (torch.maximum(band[0], limits[0]), torch.minimum(band[1], limits[1]))
            )
            table.band = low, high
        return table

    def _whole(self, problem: Problem) -> Table:
        """The similarity matrix of the anchors of all processes."""
        return self._table(replace(problem, mine=slice(0, len(problem.whole))))

    @property
    def _pools(self) -> bool:
        return self.target.many and self.reducer.pools and self.positive.plain and not self.bank.makes_extras

    def _stats(self) -> list[Stat]:
        """Sums over the rows of the matrix that the parts read."""
        stats = self.reducer.stats() + (self.weight.stats() if self.reducer.ratio else [])
        stats += ([] if self.prior.absent else [COUNT]) + (POOLED if self._pools else [])
        return list(dict.fromkeys(stats))

    def _row(self, problem: Problem, table: Table, stats: dict[Stat, Tensor]) -> Row:
        """The positives and sums of the rows, as the reducer reads them."""
        n, kind = table.shape[0], problem.whole.z.dtype
        for extra in problem.extras:
            if not extra.positive:
                _add_extra(stats, extra, table)
        pooled, omega = None, None
        if self._pools:
            count = table.masks.count().to(kind)
            row = count.nonzero().squeeze(1)
            logit = (stats[POOLED[0]] / count.clamp_min(1))[row]
            scores, part, pooled = logit, torch.ones_like(logit), stats[POOLED[1]]
        else:
            row, column = table.masks.pairs()
            scores = pair_scores(table.parts, row, column)
            scale = table.scale if table.scale.dim() == 0 else table.scale.squeeze(1)[row]
            margin_scores, omega = self.positive(
                problem, {"row": row, "column": column, "scores": scores, "scale": scale}
            )
            logit = table.logits(margin_scores, row)
            row, logit, scores = _add_positives(problem.extras, table, row, logit, scores)
            count = torch.bincount(row, minlength=n).to(kind)
            part = 1 / count[row]
        distribution, whole = partial(self.target.distribution, problem), partial(self._whole, problem)
        r = Row(problem, row, logit, scores, part, count, stats, None, table.scale, table, distribution, whole, omega,
                pooled)  # fmt: skip
        if self.reducer.ratio:
            log_neg = self.weight.log_neg(stats)
            if not self.prior.absent:
                assert self.score.lowest is not None
                lowest = self.score.lowest * table.scale.flatten() + (0.0 if table.bias is None else table.bias)
                log_neg = self.prior(r, log_neg, lowest)
            r.log_neg = log_neg
        return r

    def _loss(self, problem: Problem, table: Table, stats: dict[Stat, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """This process's share of one direction's loss, and its named parts."""
        row = self._row(problem, table, stats)
        loss, anchors = self._mean(row, self.reducer(row)), max(1, self.reducer.divisor(row))
        terms = {name: value / anchors for name, value in self.reducer.metrics(row).items()}
        penalty = self.score.penalty(problem.left)
        penalties = ({} if penalty is None else {"compactness": penalty}) | self.bank.penalties(problem)
        if not penalties:
            return loss, terms
        pulls = {name: values.sum() / anchors for name, values in penalties.items()}
        return loss + torch.stack(list(pulls.values())).sum(), {**terms, "contrast": loss, **pulls}

    def _mean(self, row: Row, losses: Tensor) -> Tensor:
        """This process's share of the mean of losses."""
        return losses.sum() * self.scale.factor() / max(1, self.reducer.divisor(row))

    def after_step(self, embeddings: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update the state of all parts; the same on every process, since all see the whole batch."""
        with torch.no_grad():
            z = prepare(embeddings)
            if self.reducer.keeps_state:
                self._advance(z, batch)
            right = self.direction.sides(z, batch)[0][1]
            self.bank.after_step(z, batch, right.take(right.id("hard") < 0))
            self.score.after_step(z, batch)
            self.direction.after_step(z, batch)
            self.scale.after_step()

    def _advance(self, z: dict[str, Tensor], batch: ObjectiveBatch) -> None:
        """Update state by sample, from the sums of all anchors of the batch, not only of this process's."""
        everything = ObjectiveBatch(**{**vars(batch), "rows": slice(0, batch.size)})
        for place, (left, right) in enumerate(self.direction.sides(z, everything)):
            problem = self._problem(left, right, z, everything, place)
            table = self._table(problem)
            stats = dict(zip(self._stats(), row_stats([table], self._stats(), self.tile)[0], strict=True))
            row = self._row(problem, table, stats)
            slope = self.reducer.advance(problem, stats, row.add(row.logit * row.part), table.scale)
            if slope is not None:
                self.scale.advance(problem, slope)

    def negatives(self, batch_size: int, hard: int, processes: int) -> NegativeCount:
        """In-batch negatives, hard negatives of all rows, and as many vectors as the bank holds when it is full."""
        if not self.bank.in_batch:
            return NegativeCount(0, 0, 0, self.bank.count(batch_size))
        if self.mask.candidates == "own":
            return NegativeCount(0, hard, 0, self.bank.count(batch_size))
        hard = 0 if self.mask.candidates == "batch" else hard
        inside, _ = self.direction.count(batch_size // processes, hard)
        everywhere, hard_ones = self.direction.count(batch_size, hard)
        return NegativeCount(inside, hard_ones, everywhere - inside, self.bank.count(batch_size))


def _add_extra(stats: dict[Stat, Tensor], extra: Extra, table: Table) -> None:
    """Add candidates of single anchors to the sums over negatives."""
    logits = extra.scores * table.scale if table.bias is None else extra.scores * table.scale + table.bias
    there = None if extra.log_weight is None else ~torch.isneginf(extra.log_weight)
    weight = None if extra.log_weight is None else extra.log_weight.clamp_min(-1e30)
    for stat, value in stats.items():
        if stat.over == "negative":
            more = reduce_logits(stat, logits, there, weight)
            stats[stat] = logaddexp(value, more) if stat.kind == "lse" else value + more


def _add_positives(extras: list[Extra], table: Table, row: Tensor, logit: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
    """Add positive candidates of single anchors to the pairs."""
    for extra in extras:
        if extra.positive:
            there = torch.ones_like(extra.scores) if extra.log_weight is None else (extra.log_weight > -math.inf)
            more, place = there.nonzero().T
            extra_scores = extra.scores[more, place]
            row = torch.cat([row, more])
            scores, logit = torch.cat([scores, extra_scores]), torch.cat([logit, table.logits(extra_scores, more)])
    return row, logit, scores


def table_preset(name: str, *, paper: str, note: str = "", cost: str = "B² D", state: str = "", **slots: Any) -> None:
    """File a published objective as settings of the kernel: a name, a citation, and the parts that differ from InfoNCE.

    A key of `slots` that names a slot chooses its part; any other key is a setting of the parts.

    Examples
    --------
    >>> from embedkit.objectives import presets
    >>> presets["clip"].slots  # table_preset("clip", paper="...", scale="learnable", direction="both")
    'scale: learnable, direction: both'
    >>> presets["clip"].settings["max_scale"]
    100.0
    """
    choices, rest = choose_parts({}, slots, f"objective {name}")
    if rest.keys() - TABLE_SETTINGS.keys():
        raise ValueError(f"preset {name}: {sorted(rest)} belong to no part")
    settings = {**all_settings(choices), **TABLE_SETTINGS, **rest}

    def make_table(overrides: dict[str, Any], dim: int | None, num_rows: int | None) -> Objective:
        picks, others = choose_parts(slots, overrides, f"objective {name}")
        for key in others:
            if key not in TABLE_SETTINGS:
                raise RecipeError(f"unknown setting {key!r}", where=f"objective {name}",
                                  remedy=nearest(key, {**all_settings(picks), **TABLE_SETTINGS, **picks}))  # fmt: skip
        return TableObjective(picks, **{**TABLE_SETTINGS, **others}, dim=dim, num_rows=num_rows)

    parts = (*(SLOTS[slot][choice[0]] for slot, choice in choices.items()), TableObjective)
    summary = ", ".join(f"{key}: {value}" for key, value in slots.items())
    tiled = not getattr(SLOTS["reducer"][choices["reducer"][0]], "dense", False)
    about = Preset(name, paper, make_table, settings, "table", summary, state, cost, tiled, True, note, parts)
    presets.add(name)(about)
