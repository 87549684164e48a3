"""Target for image-text pairs in which images or captions occur more than once."""

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

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(3), "positive": torch.eye(3)}
    >>> keys = {"anchor": torch.tensor([7, 7, 8]), "positive": torch.tensor([1, 2, 3])}  # one image with two captions
    >>> left, right = (Side(torch.eye(3), {"row": torch.arange(3)}) for _ in z)
    >>> SharedInput().masks(left, right, ObjectiveBatch.of(z, keys=keys)).positives(slice(0, 3), slice(0, 3))
    tensor([[ True,  True, False],
            [ True,  True, False],
            [False, False,  True]])
    """

    many = True
    requires = frozenset({"positive"})

    @torch.no_grad()
    def masks(self, left: Side, right: Side, batch: ObjectiveBatch) -> Masks:
        """Positive: rows in one connected component of the graph whose edges are equal inputs and equal groups."""
        component = tied_rows(batch)
        mine, theirs = (_of_rows(component, side.id("row")) for side in (left, right))
        theirs = theirs.masked_fill(right.id("hard") >= 0, NOBODY)
        itself = Relation.of(left.id("vector"), right.id("vector"))
        return Masks(Relation.of(mine, theirs), itself)


def _of_rows(component: Tensor, rows: Tensor) -> Tensor:
    valid = rows >= 0
    return torch.where(valid, component[rows.clamp_min(0)], torch.full_like(rows, NOBODY))


def tied_rows(batch: ObjectiveBatch) -> Tensor:
    """The first row that each row is tied to, LongTensor (B,): connected by equal keys of views or equal groups.

    Examples
    --------
    >>> import torch
    >>> z = {"anchor": torch.eye(3), "positive": torch.eye(3)}
    >>> keys = {"anchor": torch.tensor([7, 7, 8]), "positive": torch.tensor([1, 2, 2])}
    >>> tied_rows(ObjectiveBatch.of(z, keys=keys))
    tensor([0, 0, 0])
    """
    device = batch.ids.device
    owners, values = [], []
    for place, name in enumerate(n for n in batch.keys if n != "negatives"):
        owners.append(batch.owner[name])
        values.append(torch.stack([torch.full_like(batch.keys[name], place), batch.keys[name]]))
    if batch.group is not None:
        owners.append(torch.arange(batch.size, device=device))
        values.append(torch.stack([torch.full_like(batch.group, -1), batch.group]))
    owner = torch.cat(owners).to(device)
    _, value = torch.unique(torch.cat(values, dim=1).to(device), dim=1, return_inverse=True)
    count = int(value.max()) + 1 if len(value) else 0
    component = torch.arange(batch.size, device=device)
    if count == len(value):  # nothing occurs twice
        return component
    while True:
        lowest = torch.full((count,), batch.size, device=device).scatter_reduce_(0, value, component[owner], "amin")
        update = component.scatter_reduce(0, owner, lowest[value], "amin")
        if bool((update == component).all()):
            return component
        component = update
