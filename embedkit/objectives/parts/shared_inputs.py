"""Target of image-text pairs in which images or captions occur more than once."""

from __future__ import annotations

import torch
from torch import Tensor

from embedkit.objectives.base import ObjectiveBatch
from embedkit.objectives.matrix.similarity import NOBODY, Masks, Relation, Side
from embedkit.objectives.parts.slots import part
from embedkit.objectives.parts.targets import Target


@part("target", "shared-input")
class SharedInput(Target):
    """Positive are candidates of the anchor's own row and of rows tied to it: by an equal image, caption or group.

    Ties are followed: an image with two captions, one of which another image has too, is tied to that image's other
    captions as well. Hard negatives are never positive.
    """

    many = True
    requires = frozenset({"positive"})

    @torch.no_grad()
    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive: rows in one piece of the graph whose ties are equal inputs and equal groups."""
        piece = tied_rows(batch)
        mine, theirs = (_of_rows(piece, side.id("row")) for side in (left, right))
        theirs = theirs.masked_fill(right.id("hard") >= 0, NOBODY)
        itself = Relation.of(left.id("vector"), right.id("vector"))
        return Masks(Relation.of(mine, theirs), itself)


def _of_rows(piece: Tensor, rows: Tensor) -> Tensor:
    known = rows >= 0
    return torch.where(known, piece[rows.clamp_min(0)], torch.full_like(rows, NOBODY))


def tied_rows(batch: ObjectiveBatch) -> Tensor:
    """The first row that each row is tied to, LongTensor (B,): connected pieces by equal keys of views and groups."""
    device = batch.ids.device
    owners, things = [], []
    for place, name in enumerate(n for n in batch.keys if n != "negatives"):
        owners.append(batch.owner[name])
        things.append(torch.stack([torch.full_like(batch.keys[name], place), batch.keys[name]]))
    if batch.group is not None:
        owners.append(torch.arange(batch.size, device=device))
        things.append(torch.stack([torch.full_like(batch.group, -1), batch.group]))
    owner = torch.cat(owners).to(device)
    _, thing = torch.unique(torch.cat(things, dim=1).to(device), dim=1, return_inverse=True)
    count = int(thing.max()) + 1 if len(thing) else 0
    piece = torch.arange(batch.size, device=device)
    if count == len(thing):  # nothing occurs twice
        return piece
    while True:
        lowest = torch.full((count,), batch.size, device=device).scatter_reduce_(0, thing, piece[owner], "amin")
        moved = piece.scatter_reduce(0, owner, lowest[thing], "amin")
        if bool((moved == piece).all()):
            return piece
        piece = moved
