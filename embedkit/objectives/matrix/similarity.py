"""The two sides of a similarity matrix: vectors with their ids, and which pairs are positive, negative or neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from embedkit.errors import DataError
from embedkit.objectives.base import ObjectiveBatch

NOBODY = -(2**62)
"""The id of vectors without one: a bank vector has no row, a hard negative no label."""

VIEWS = ("anchor", "positive", *(f"view{n}" for n in range(3, 17)))
"""Names of the views of a row, in order; "negatives" is no view."""


def views_of(embeddings: Mapping[str, Tensor]) -> list[str]:
    """The names in `embeddings` that are views of a row, in order.

    Examples
    --------
    >>> import torch
    >>> views_of({"negatives": torch.eye(2), "positive": torch.eye(2), "anchor": torch.eye(2)})
    ['anchor', 'positive']
    """
    return [name for name in VIEWS if name in embeddings]


@dataclass
class Side:
    """Vectors (N, D) and their integer ids (N,) of each kind: row, view, vector, key, label, group, hard.

    ``vector`` is a number that no other vector of the batch has; ``hard`` is the row whose hard negative a vector is;
    ``key of VIEW`` is the key of that view of the vector's row.
    `guide` (N, G) holds embeddings by a guide model, `score` (N,) the role of that name, when there are any. `memo`
    caches features of the vectors, so that two directions share them.

    Examples
    --------
    >>> import torch
    >>> side = Side(torch.eye(2), {"row": torch.tensor([0, 1])})
    >>> side.take(slice(1, 2)).id("row"), len(Side.join([side, side]))
    (tensor([1]), 4)
    """

    z: Tensor
    ids: dict[str, Tensor]
    guide: Tensor | None = None
    score: Tensor | None = None
    memo: dict[str, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.z)

    def take(self, index: Tensor | slice) -> Side:
        """The vectors at `index`, with their ids, guide vectors and scores."""
        pick = [None if t is None else t[index] for t in (self.guide, self.score)]
        return Side(self.z[index], {k: v[index] for k, v in self.ids.items()}, *pick)

    def detach(self) -> Side:
        """The same vectors without a gradient."""
        return Side(self.z.detach(), self.ids, self.guide, self.score)

    def id(self, name: str) -> Tensor:
        """Ids (N,) of one kind; `NOBODY` where a side has none."""
        ids = self.ids.get(name)
        return torch.full((len(self.z),), NOBODY, device=self.z.device) if ids is None else ids

    @classmethod
    def join(cls, sides: Iterable[Side]) -> Side:
        """All vectors one after another; ids that one side lacks become `NOBODY` there."""
        every = list(sides)
        parts = [side for side in every if len(side)] or every[:1]
        if len(parts) == 1:
            return parts[0]
        names = {name: None for side in parts for name in side.ids}
        guides = [side.guide for side in parts if side.guide is not None]
        scores = [side.score for side in parts if side.score is not None]
        return cls(
            torch.cat([side.z for side in parts]),
            {name: torch.cat([side.id(name) for side in parts]) for name in names},
            torch.cat(guides) if len(guides) == len(parts) else None,
            torch.cat(scores) if len(scores) == len(parts) else None,
        )


def collect(names: Iterable[str], embeddings: Mapping[str, Tensor], batch: ObjectiveBatch) -> Side:
    """The vectors called `names`, those that are in the batch, as one side.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2), "negatives": torch.ones(4, 2)}
    >>> side = collect(["negatives"], z, ObjectiveBatch.of(z))
    >>> side.id("hard"), side.z.shape
    (tensor([0, 0, 1, 1]), torch.Size([4, 2]))
    """
    first, sides = 0, []
    selection = set(names)
    for name, z in embeddings.items():
        if name in selection:
            row = batch.owner[name]
            ids = {
                "row": row, "key": batch.keys[name], "vector": torch.arange(first, first + len(z), device=z.device),
                "view": torch.full_like(row, VIEWS.index(name) if name in VIEWS else -1),
                "hard": row if name == "negatives" else torch.full_like(row, NOBODY),
            }  # fmt: skip
            # A label belongs to the row, not to its hard negatives, which were chosen because they differ.
            scores = None if batch.score is None else score_ids(batch.score)
            for kind, values in (("label", batch.label), ("group", batch.group), ("score", scores)):
                if values is not None:
                    ids[kind] = torch.full_like(row, NOBODY) if name == "negatives" else values[row]
            for view in views_of(embeddings):
                of_rows = _keys_of_rows(batch, view)
                ids[f"key of {view}"] = torch.full_like(row, NOBODY) if name == "negatives" else of_rows[row]
            guide = batch.guide.get(name)
            score = None if batch.score is None else batch.score[row].to(z.dtype)
            sides.append((name, Side(z, ids, guide, score)))
        first += len(z)
    order = {name: place for place, name in enumerate(names)}
    return Side.join(side for _, side in sorted(sides, key=lambda pair: order[pair[0]]))


def score_ids(score: Tensor) -> Tensor:
    """An integer for each float32 value (N,), equal where values are, in every batch; `NOBODY` for NaN.

    >>> import torch
    >>> a, b, c = score_ids(torch.tensor([0.5, 0.5, 1.0])).tolist()
    >>> a == b, b == c
    (True, False)
    """
    ids = (score.float() + 0.0).view(torch.int32).long()  # adding zero makes one of -0.0 and 0.0
    return ids.masked_fill(score.isnan(), NOBODY)


def _keys_of_rows(batch: ObjectiveBatch, view: str) -> Tensor:
    """The key of each row's vector of a view, (B,): of its first where it has several, nobody's where it has none."""
    keys, owner = batch.keys[view], batch.owner[view]
    place = torch.arange(len(keys), device=keys.device)
    if len(keys) == batch.size and bool((owner == place).all()):
        return keys
    first = torch.full((batch.size,), len(keys), device=keys.device).scatter_reduce_(0, owner, place, "amin")
    return torch.cat([keys, keys.new_full((1,), NOBODY)])[first]


@dataclass
class Relation:
    """Pairs (i, j) with ``left[i] == right[j]``; ids that nobody on the left has never match.

    The ids are replaced by the first place on the left that has them, so that related vectors have near numbers and
    most tiles of a matrix can be seen to hold no pair by comparing two ranges.

    Examples
    --------
    >>> import torch
    >>> same_label = Relation.of(torch.tensor([7, 8]), torch.tensor([8, 7, 8]))
    >>> same_label.pairs()
    (tensor([0, 1, 1]), tensor([1, 0, 2]))
    """

    left: Tensor
    right: Tensor
    _ranges: dict[tuple[str, int, int], tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> Relation:
        """The relation "has the same id" between two sides; `NOBODY` equals no one."""
        values, code = torch.unique(torch.cat([left, right]), return_inverse=True)
        place = torch.arange(len(left), device=left.device)
        first = torch.full((len(values),), -1, device=left.device)
        first.scatter_reduce_(0, code[: len(left)], place, "amin", include_self=False)
        mine, theirs = first[code[: len(left)]], first[code[len(left) :]]
        return cls(mine.masked_fill(left == NOBODY, -2), theirs.masked_fill(right == NOBODY, -1))

    def share(self, index: Tensor | slice) -> Relation:
        """The relation for some of the left side only."""
        return Relation(self.left[index], self.right)

    def flip(self) -> Relation:
        """The relation with its sides exchanged."""
        return Relation(self.right, self.left)

    def _range(self, side: str, part: slice) -> tuple[int, int]:
        key = (side, part.start, part.stop)
        if key not in self._ranges:
            ids = (self.left if side == "left" else self.right)[part]
            ids = ids[ids >= 0]
            self._ranges[key] = (int(ids.min()), int(ids.max())) if len(ids) else (1, 0)
        return self._ranges[key]

    def overlaps(self, rows: slice, columns: slice) -> bool:
        """Whether a tile can hold related pairs: the ranges of its two sides' ids meet."""
        (a, b), (c, d) = self._range("left", rows), self._range("right", columns)
        return a <= b and c <= d and c <= b and a <= d

    def tile(self, rows: slice, columns: slice) -> Tensor | None:
        """Which pairs of a tile are related, bool (rows, columns); None when no pair can be."""
        if not self.overlaps(rows, columns):
            return None
        return self.left[rows, None] == self.right[None, columns]

    def _matches(self) -> tuple[Tensor, Tensor, Tensor]:
        order = torch.argsort(self.right, stable=True)
        ids, left = self.right[order].contiguous(), self.left.contiguous()
        low = torch.searchsorted(ids, left)
        return order, low, torch.searchsorted(ids, left, right=True) - low

    def count(self) -> Tensor:
        """Related candidates of each anchor, (N,)."""
        return self._matches()[2]

    def pairs(self) -> tuple[Tensor, Tensor]:
        """All related pairs as two index vectors, sorted by the left one. Takes memory for the pairs only."""
        order, low, count = self._matches()
        row = torch.repeat_interleave(torch.arange(len(self.left), device=order.device), count)
        within = torch.arange(len(row), device=order.device) - (count.cumsum(0) - count)[row]
        return row, order[low[row] + within]


@dataclass
class PairList:
    """Pairs listed one by one: ``columns[i]`` (k,) are related to i; for relations that are no equality of ids.

    Where an anchor has fewer than k, the rest of its columns is -1.

    Examples
    --------
    >>> import torch
    >>> PairList(torch.tensor([[2], [0]])).tile(slice(0, 2), slice(0, 3))
    tensor([[False, False,  True],
            [ True, False, False]])
    """

    columns: Tensor

    def share(self, index: Tensor | slice) -> PairList:
        """The relation for some of the left side only."""
        return PairList(self.columns[index])

    def tile(self, rows: slice, columns: slice) -> Tensor | None:
        """Which pairs of a tile are related, bool (rows, columns)."""
        width = columns.stop - columns.start
        place = self.columns[rows] - columns.start
        inside = (place >= 0) & (place < width)
        tile = torch.zeros(len(place), width + 1, dtype=torch.bool, device=place.device)
        return tile.scatter_(1, place.where(inside, torch.full_like(place, width)), True)[:, :width]

    def pairs(self) -> tuple[Tensor, Tensor]:
        """All related pairs, sorted by the left one."""
        row, place = (self.columns >= 0).nonzero().T
        return row, self.columns[row, place]

    def count(self) -> Tensor:
        """Related candidates of each anchor, (N,)."""
        return (self.columns >= 0).sum(1)


@dataclass
class Masks:
    """Which pairs are positive, negative, or neither: relations that are evaluated one tile at a time.

    A pair is positive when `positive` relates it and `same` does not; negative when it is in no relation of
    {positive, same, *drop}, in every relation of `only`, and not above `ceiling` (N,) of its anchor in the guide's
    similarity, which marks likely false negatives. Without `attracts` positives are in no denominator: they only say
    how alike the guide finds an anchor's own pair.

    Examples
    --------
    >>> import torch
    >>> row, vector = torch.tensor([0, 1]), torch.tensor([0, 1])
    >>> masks = Masks(Relation.of(row, row), Relation.of(vector, vector + 2))
    >>> masks.positives(slice(0, 2), slice(0, 2))
    tensor([[ True, False],
            [False,  True]])
    >>> masks.negatives(slice(0, 2), slice(0, 2))
    tensor([[False,  True],
            [ True, False]])
    """

    positive: Relation | PairList
    same: Relation
    drop: list[Relation] = field(default_factory=list)
    only: list[Relation] = field(default_factory=list)
    guide: tuple[Tensor, Tensor, Tensor] | None = None
    keep_same: bool = False
    attracts: bool = True

    def share(self, index: Tensor | slice) -> Masks:
        """The masks for some of the left side only."""
        guide = None if self.guide is None else (self.guide[0][index], self.guide[1], self.guide[2][index])
        drop, only = ([relation.share(index) for relation in group] for group in (self.drop, self.only))
        positive, same = self.positive.share(index), self.same.share(index)
        return Masks(positive, same, drop, only, guide, self.keep_same, self.attracts)

    def repels(self, rows: slice, columns: slice) -> bool:
        """Whether a tile can hold negatives, as far as ranges of ids tell."""
        return all(relation.overlaps(rows, columns) for relation in self.only)

    def positives(self, rows: slice, columns: slice) -> Tensor | None:
        """Bool tile of positive pairs; None when there is none."""
        tile = self.positive.tile(rows, columns)
        same = None if tile is None or self.keep_same else self.same.tile(rows, columns)
        return tile if tile is None or same is None else tile & ~same

    def negatives(self, rows: slice, columns: slice) -> Tensor | None:
        """Bool tile of negative pairs; None when all are."""
        exclusions: Tensor | None = None
        for relation in (self.positive, self.same, *self.drop):
            tile = relation.tile(rows, columns)
            if tile is not None:
                exclusions = tile if exclusions is None else exclusions | tile
        if self.guide is not None:
            left, right, ceiling = self.guide
            tile = left[rows] @ right[columns].T > ceiling[rows, None]
            exclusions = tile if exclusions is None else exclusions | tile
        for relation in self.only:
            tile = relation.tile(rows, columns)
            if tile is None:
                tile = torch.zeros(1, 1, dtype=torch.bool, device=relation.left.device)
            exclusions = ~tile if exclusions is None else exclusions | ~tile
        if exclusions is None:
            return None
        return (~exclusions).expand(rows.stop - rows.start, columns.stop - columns.start)

    def count(self) -> Tensor:
        """Positives of each anchor, (N,)."""
        # Where an anchor is among its own candidates it has its own id, so one of the matches is itself.
        matches = self.positive.count()
        return matches if self.keep_same else matches - (self.same.count() * (matches > 0)).clamp_max(matches)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Index vectors of all positive pairs, sorted by the left one."""
        row, column = self.positive.pairs()
        if not self.keep_same:
            keep = self.same.left[row] != self.same.right[column]
            row, column = row[keep], column[keep]
        return row, column


def check_roles(requires: Iterable[str], embeddings: Mapping[str, Tensor], batch: ObjectiveBatch) -> None:
    """Refuse a batch that lacks one of the names and roles in `requires`.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(2)}
    >>> check_roles({"anchor", "label"}, z, ObjectiveBatch.of(z))
    Traceback (most recent call last):
        ...
    embedkit.errors.DataError: batch: the objective needs 'label', which is not there; ...
    """
    for role in sorted(requires):
        value = embeddings.get(role) if role in (*VIEWS, "negatives") else getattr(batch, role)
        if value is None or (role in ("guide", "scores") and not value):
            remedy = "use a method with a guide" if role == "guide" else f"map a column of the data to {role!r}"
            raise DataError(f"the objective needs {role!r}, which is not there", where="batch", remedy=remedy)
