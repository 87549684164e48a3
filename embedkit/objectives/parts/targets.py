"""Slots `direction`, `target` and `mask`: the sides of the matrix, positives, and pairs that do not count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from embedkit.errors import DataError
from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.matrix.problem import Problem
from embedkit.objectives.matrix.similarity import NOBODY, VIEWS, Masks, PairList, Relation, Side, collect, views_of
from embedkit.objectives.parts.scores import partners
from embedkit.objectives.parts.slots import part
from embedkit.objectives.tools import choice, number, unit, whole

Embeddings = Mapping[str, Tensor]
Sides = list[tuple[Side, Side]]


class Direction(nn.Module):
    """Base class of directions: the pairs of sides (anchors, candidates) whose losses are averaged or added.

    Parameters
    ----------
    combine : str
        "mean" or "sum" of the directions; where every view is an anchor, of the views.
    detach : bool
        Candidates get no gradient.

    Examples
    --------
    >>> import torch
    >>> class Anchors(Direction):
    ...     def _sides(self, embeddings, batch):
    ...         anchors = collect(["anchor"], embeddings, batch)
    ...         return [(anchors, anchors)]
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2)}
    >>> [(left.z.shape, right.z.shape) for left, right in Anchors().sides(z, ObjectiveBatch.of(z))]
    [(torch.Size([2, 2]), torch.Size([2, 2]))]
    """

    requires: frozenset[str] = frozenset({"anchor", "positive"})
    accepts: frozenset[str] = frozenset({"negatives", *VIEWS[2:]})
    joint = False
    """Whether its sides make sense in one denominator only."""

    def __init__(self, combine: str = "mean", detach: bool = False) -> None:
        super().__init__()
        self.combine = choice("combine", combine, ("mean", "sum"))
        self.detach = bool(detach)

    def sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        """Anchors and candidates of each direction."""
        sides = self._sides(embeddings, batch)
        return [(left, right.detach()) for left, right in sides] if self.detach else sides

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        raise TypeError(f"{type(self).__name__} does not define sides")

    def restrict(self, masks: Masks, left: Side, right: Side, place: int) -> None:
        """Add to `masks` the pairs that this direction, number `place` of its sides, leaves out."""

    def factor(self, sides: Sides) -> float:
        """The factor of the sum of the directions."""
        return 1.0 / len(sides) if self.combine == "mean" else 1.0

    def count(self, rows: int, hard: int) -> tuple[int, int]:
        """Negatives of one anchor in a batch of `rows`: in-batch ones, and hard ones."""
        return rows - 1, rows * hard

    def after_step(self, embeddings: Embeddings, batch: ObjectiveBatch) -> None:
        """Update state."""


def _others(embeddings: Embeddings, batch: ObjectiveBatch) -> Side:
    return collect([name for name in views_of(embeddings) if name != "anchor"], embeddings, batch)


def _with_hard(side: Side, embeddings: Embeddings, batch: ObjectiveBatch) -> Side:
    return Side.join([side, collect(["negatives"], embeddings, batch)]) if "negatives" in embeddings else side


@part("direction", "rows")
class Rows(Direction):
    """Anchors against the positives (and further views) and hard negatives of the whole batch.

    With ``keys="guide"`` the positives are those of the guide model, without gradient: the EMA of the encoder.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "negatives": torch.ones(4, 2)}
    >>> [(len(left), len(right)) for left, right in Rows().sides(z, ObjectiveBatch.of(z))]
    [(2, 6)]
    """

    def __init__(self, keys: str = "own", detach: bool = False) -> None:
        super().__init__("mean", detach)
        self.keys = choice("keys", keys, ("own", "guide"))
        self.requires = frozenset({"anchor", "positive"} | ({"guide"} if keys == "guide" else set()))

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        anchors, positives = collect(["anchor"], embeddings, batch), _others(embeddings, batch)
        if self.keys == "guide":
            positives = guide_keys(positives)
        return [(anchors, _with_hard(positives, embeddings, batch))]


def guide_keys(side: Side) -> Side:
    """The same side with the guide's vectors in place of its own.

    >>> import torch
    >>> guide_keys(Side(torch.eye(1, 2), {}, guide=torch.tensor([[3.0, 4.0]]))).z
    tensor([[3., 4.]])
    """
    if side.guide is None or side.guide.shape[1] != side.z.shape[1]:
        there = "there is none" if side.guide is None else f"its vectors have {side.guide.shape[1]} columns"
        raise DataError(f"the keys, of {side.z.shape[1]} columns, are to come from a guide, and {there}", where="guide",
                        remedy="use a method with a running mean of the encoder, or set keys: own")  # fmt: skip
    return replace(side, z=side.guide.detach().to(side.z.dtype))


@part("direction", "columns")
class Columns(Direction):
    """Positives (and further views) against the anchors of the whole batch.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "negatives": torch.ones(4, 2)}
    >>> [(len(left), len(right)) for left, right in Columns().sides(z, ObjectiveBatch.of(z))]
    [(2, 2)]
    """

    accepts = frozenset(VIEWS[2:])

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        return [(_others(embeddings, batch), collect(["anchor"], embeddings, batch))]

    def count(self, rows: int, hard: int) -> tuple[int, int]:
        """The other anchors, and no hard negatives."""
        return rows - 1, 0


@part("direction", "both")
class Both(Direction):
    """Rows and columns, as in CLIP; hard negatives are candidates of the rows only.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "negatives": torch.ones(4, 2)}
    >>> [(len(left), len(right)) for left, right in Both().sides(z, ObjectiveBatch.of(z))]
    [(2, 6), (2, 2)]
    """

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        anchors, others = collect(["anchor"], embeddings, batch), _others(embeddings, batch)
        return [(anchors, _with_hard(others, embeddings, batch)), (others, anchors)]


@part("direction", "each")
class Each(Rows):
    """Anchors against each further view apart, with the hard negatives each time: one loss for every positive.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "view3": torch.eye(2)}
    >>> [(len(left), len(right)) for left, right in Each().sides(z, ObjectiveBatch.of(z))]
    [(2, 2), (2, 2)]
    """

    def __init__(self, keys: str = "own", combine: str = "sum", detach: bool = False) -> None:
        super().__init__(keys, detach)
        self.combine = choice("combine", combine, ("mean", "sum"))

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        further = [name for name in views_of(embeddings) if name != "anchor"]
        always = [name for name in embeddings if name in ("anchor", "negatives")]
        return [
            side for name in further
            for side in super(Each, self)._sides({n: embeddings[n] for n in [*always, name]}, batch)
        ]  # fmt: skip


@part("direction", "with-guide")
class WithGuide(Direction):
    """Every view against all vectors of the batch and the guide's vectors of all views: student and teacher together.

    With ``keys: guide`` the candidates are the guide's vectors alone.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2)}
    >>> batch = ObjectiveBatch.of(z, guide=z)
    >>> [(len(left), len(right)) for keys in ("both", "guide") for left, right in WithGuide(keys).sides(z, batch)]
    [(2, 4), (2, 2)]
    """

    requires = frozenset({"anchor", "guide"})
    accepts = frozenset(VIEWS[1:])

    def __init__(self, keys: str = "both") -> None:
        super().__init__()
        self.keys = choice("keys", keys, ("both", "guide"))

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        own = collect(views_of(embeddings), embeddings, batch)
        theirs = guide_keys(own)
        numbers = torch.arange(len(own), device=own.z.device) + sum(len(z) for z in embeddings.values())
        theirs = replace(theirs, ids={**theirs.ids, "vector": numbers})
        return [(own, theirs if self.keys == "guide" else Side.join([own, theirs]))]

    def count(self, rows: int, hard: int) -> tuple[int, int]:
        """The other rows' vectors, by the model and by the guide."""
        return (rows - 1) * (2 if self.keys == "both" else 1), 0


@part("direction", "views")
class Views(Direction):
    """Every view against all other vectors of the batch, as in SimCLR.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "negatives": torch.ones(4, 2)}
    >>> [(len(left), len(right)) for left, right in Views().sides(z, ObjectiveBatch.of(z))]
    [(4, 8)]
    """

    requires = frozenset({"anchor"})

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        every = collect(views_of(embeddings), embeddings, batch)
        return [(every, _with_hard(every, embeddings, batch))]

    def factor(self, sides: Sides) -> float:
        """1 for the mean over all views; the number of views for their sum."""
        return 1.0 if self.combine == "mean" else len(sides[0][0].id("view").unique())

    def count(self, rows: int, hard: int) -> tuple[int, int]:
        """Two views of every other row, and all hard negatives."""
        return 2 * (rows - 1), rows * hard


@part("direction", "self")
class Alone(Direction):
    """Anchors against all anchors, themselves included.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "positive": torch.eye(2), "negatives": torch.ones(4, 2)}
    >>> [(len(left), len(right)) for left, right in Alone().sides(z, ObjectiveBatch.of(z))]
    [(2, 2)]
    """

    requires = frozenset({"anchor"})
    accepts = frozenset()

    def __init__(self) -> None:
        super().__init__()

    def _sides(self, embeddings: Embeddings, batch: ObjectiveBatch) -> Sides:
        anchors = collect(["anchor"], embeddings, batch)
        return [(anchors, anchors)]


class Target(nn.Module):
    """Base class of targets: which candidates are positive.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.eye(2), {"row": torch.arange(2), "vector": torch.arange(2)})
    >>> class Everything(Target):
    ...     def masks(self, left, right, batch):
    ...         alike = torch.zeros(2, dtype=torch.long)
    ...         return Masks(Relation.of(alike, alike), Relation.of(left.id("vector"), right.id("vector")))
    >>> Everything().masks(side, side, None).count()  # all but itself
    tensor([1, 1])
    """

    requires: frozenset[str] = frozenset()
    many = False
    """Whether an anchor can have so many positives that they are better summed by tiles than listed."""
    sums_to_one = True
    """Whether the weights of a row's candidates are a distribution."""

    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive pairs and the vector itself; the slot `mask` adds what else does not count."""
        raise TypeError(f"{type(self).__name__} does not define masks")

    def distribution(self, problem: Problem, positive: Tensor, valid: Tensor) -> Tensor:
        """Probabilities (n, M) of the candidates, 0 outside `valid`, without gradient: the positives, evenly."""
        weight = positive.to(problem.whole.z.dtype)
        return weight / weight.sum(-1, keepdim=True).clamp_min(1)


def _itself(left: Side, right: Side) -> Relation:
    return Relation.of(left.id("vector"), right.id("vector"))


@part("target", "same")
class Same(Target):
    """Positive are candidates of the anchor's own row, or with its label, group, score, input or cluster: `by`.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.eye(3), {"vector": torch.arange(3), "label": torch.tensor([4, 4, 5])})
    >>> Same(by="label").masks(side, side, ObjectiveBatch.of({"anchor": side.z})).pairs()
    (tensor([0, 1]), tensor([1, 0]))
    """

    def __init__(self, by: str = "row") -> None:
        super().__init__()
        self.by = choice("by", by, ("row", "label", "group", "key", "score", "cluster"))
        self.many = by != "row"
        role = "positive" if by == "row" else by
        self.requires = frozenset() if by in ("key", "cluster") else frozenset({role})

    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive: equal ids of the kind `by`; a row's hard negatives are never positive."""
        theirs = right.id(self.by).masked_fill(right.id("hard") >= 0, NOBODY)
        return Masks(Relation.of(left.id(self.by), theirs), _itself(left, right))


def guides(left: Side, right: Side) -> tuple[Tensor, Tensor]:
    """The guide's unit vectors of both sides, without gradient, in the precision of the embeddings.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.eye(1, 2), {}, guide=torch.tensor([[3.0, 4.0, 0.0]]))
    >>> guides(side, side)[0]
    tensor([[0.6000, 0.8000, 0.0000]])
    """
    if left.guide is None or right.guide is None:
        raise DataError("the guide's vectors are not there for all candidates", where="batch.guide",
                        remedy="use a method with a guide; with a bank, set its guide_dim")  # fmt: skip
    kind = left.z.dtype
    return unit(left.guide.detach().to(kind)), unit(right.guide.detach().to(kind))


@part("target", "itself")
class Itself(Target):
    """The only positive of an anchor is the anchor itself: uniformity without alignment.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.eye(2), {"vector": torch.arange(2)})
    >>> Itself().masks(side, side, ObjectiveBatch.of({"anchor": side.z})).pairs()
    (tensor([0, 1]), tensor([0, 1]))
    """

    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive: the vector itself."""
        return Masks(_itself(left, right), _itself(left, right), keep_same=True)


@part("target", "partner")
class Partner(Target):
    """Positive are candidates with the label paired with the anchor's; its own label does not count (Hydra).

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.eye(2), {"row": torch.arange(2), "vector": torch.arange(2), "label": torch.tensor([4, 5])})
    >>> Partner().masks(side, side, ObjectiveBatch.of({"anchor": side.z}, label=torch.tensor([4, 5]))).pairs()
    (tensor([0, 1]), tensor([1, 0]))
    """

    many = True
    requires = frozenset({"label"})

    def __init__(self, pairing: str = "arbitrary") -> None:
        super().__init__()
        self.pairing = choice("pairing", pairing, ("arbitrary", "distinct", "identical"))

    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive: the partner's label."""
        partner = partners(batch, self.pairing)[left.id("row")]
        own = Relation.of(left.id("label"), right.id("label"))
        return Masks(Relation.of(partner, right.id("label")), _itself(left, right), [own])


@part("target", "nearest")
class Nearest(Target):
    """Positive are the `neighbours` vectors of the bank that the guide finds most similar (MLS, arXiv 2308.03286; [R]).

    The bank must keep the guide's vectors: its setting `guide_dim`.

    Examples
    --------
    >>> import torch
    >>> left = Side(torch.eye(2), {"row": torch.arange(2)}, guide=torch.eye(2))
    >>> bank = Side(torch.eye(2), {}, guide=torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    >>> Nearest(neighbours=1).masks(left, bank, ObjectiveBatch.of({"anchor": left.z})).positive.columns
    tensor([[1],
            [0]])
    """

    requires = frozenset({"guide"})

    def __init__(self, neighbours: int = 10) -> None:
        super().__init__()
        self.neighbours = whole("neighbours", neighbours, least=1)

    @torch.no_grad()
    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive: the nearest by the guide's cosine; the list of candidates is searched a block at a time."""
        mine, theirs = guides(left, right)
        bank = (right.id("row") == NOBODY).nonzero().squeeze(1)
        count = min(self.neighbours, len(bank))
        places = [(block @ theirs[bank].T).topk(count, dim=1).indices for block in mine.split(1024)]
        return Masks(PairList(bank[torch.cat(places)]), _itself(left, right))


@part("mask", "standard")
class FalseNegatives(nn.Module):
    """Pairs that neither attract nor repel: likely false negatives.

    Parameters
    ----------
    groups : bool
        Vectors of the same group, when rows have groups.
    equal_inputs : bool
        Vectors of equal input text or image, and vectors of which one equals a view of the other's row: the same image
        with another caption, the same caption of another image.
    guide_margin, guide_relative_margin : float, optional
        Pairs whose cosine by the guide model is above p - guide_margin, or above p - |p| · guide_relative_margin, with
        p the cosine of the anchor's own positive (GISTEmbed, Solatorio, arXiv 2402.16829, is margin 0); needs guide
        embeddings.
    own_views : bool
        The other views of the anchor's row; only of use where they are not positive.
    candidates : str
        Which may be negatives: "all", an anchor's "own" hard negatives only, or those of the "batch" without any hard
        negative.

    Examples
    --------
    >>> import torch
    >>> place, group = torch.arange(3), torch.tensor([1, 1, 2])
    >>> side = Side(torch.eye(3), {"row": place, "vector": place, "group": group})
    >>> masks = Same().masks(side, side, ObjectiveBatch.of({"anchor": side.z}))
    >>> FalseNegatives().extend(masks, side, side)
    >>> masks.negatives(slice(0, 3), slice(0, 3))
    tensor([[False, False,  True],
            [False, False,  True],
            [ True,  True, False]])
    """

    def __init__(self, groups: bool = True, equal_inputs: bool = False, guide_margin: float | None = None,
                 own_views: bool = False, guide_relative_margin: float | None = None,
                 candidates: str = "all") -> None:  # fmt: skip
        super().__init__()
        self.groups, self.equal, self.own_views = bool(groups), bool(equal_inputs), bool(own_views)
        self.candidates = choice("candidates", candidates, ("all", "own", "batch"))
        margins = {"guide_margin": guide_margin, "guide_relative_margin": guide_relative_margin}
        self.margins = {name: number(name, m, least=-2, most=2) for name, m in margins.items() if m is not None}
        self.requires: frozenset[str] = frozenset({"guide"} if self.margins else ())
        if candidates == "own":
            self.requires |= {"negatives"}

    def extend(self, masks: Masks, left: Side, right: Side) -> None:
        """Add the pairs that do not count to `masks`."""
        alike = [("group", "group")] if self.groups else []
        alike += [("row", "row")] if self.own_views else []
        if self.equal:
            views = [kind for kind in left.ids if kind.startswith("key of ")]
            alike += [("key", "key"), *(("key", view) for view in views), *((view, "key") for view in views)]
        masks.drop += [Relation.of(left.id(a), right.id(b)) for a, b in alike if a in left.ids and b in right.ids]
        if self.candidates == "own":
            masks.only.append(Relation.of(left.id("row"), right.id("hard")))
        elif self.candidates == "batch":
            hard = torch.where(right.id("hard") >= 0, 0, NOBODY)
            masks.drop.append(Relation.of(torch.zeros_like(left.id("row")), hard))
        if self.margins:
            mine, theirs = guides(left, right)
            row, column = masks.pairs()
            ceiling = mine.new_full((len(left),), torch.inf)
            # An anchor with several positives is as strict as its least similar one.
            ceiling.scatter_reduce_(0, row, (mine[row] * theirs[column]).sum(-1), "amin")
            gap = [ceiling - self.margins["guide_margin"]] if "guide_margin" in self.margins else []
            if "guide_relative_margin" in self.margins:
                less = ceiling.abs() * self.margins["guide_relative_margin"]
                gap.append(torch.where(ceiling.isinf(), ceiling, ceiling - less))
            masks.guide = mine, theirs, torch.stack(gap).amin(0)
