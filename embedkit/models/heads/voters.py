"""A kept classifier that goes on learning, and a queue of vectors with what it says of them."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.errors import ModelError, nearest
from embedkit.models.heads.classifier import TargetHead


def kept_classifier(model: Any, name: str | None) -> tuple[str, TargetHead]:
    """The name and a copy, to be trained, of a classifier that a model keeps; the only one where no name is given.

    Raises
    ------
    ModelError
        There is none of this name, several, or one that does not tell a class.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> model = SimpleNamespace(classifiers={"tone": TargetHead(8, 2, "class", ["glad", "sad"])})
    >>> kept_classifier(model, None)[0]
    'tone'
    """
    names = list(model.classifiers)
    if not names:
        raise ModelError("no classifier is kept with the model", where="model.name",
                         remedy="train one before, with a head of keep: true (recipe adacontrast)")  # fmt: skip
    name = names[0] if name is None and len(names) == 1 else name
    if name is None or name not in names:
        what = f"the model keeps {', '.join(names)}"
        raise ModelError(what if name is None else f"{what}, no {name!r}", where="method.head",
                         remedy="say which" if name is None else nearest(name, names))  # fmt: skip
    head = model.classifiers[name]
    if head.kind != "class":
        raise ModelError(f"the classifier {name!r} tells {head.kind!r}", where="method.head",
                         remedy="use one that tells one class of several")  # fmt: skip
    return name, copy.deepcopy(head).train().requires_grad_(True)


class Voters(nn.Module):
    """The last `size` vectors with the probabilities of K classes each; their neighbours' mean is a vote.

    Parameters
    ----------
    size, dim, classes : int
        Rows of the queue, numbers of a vector, K.

    Examples
    --------
    >>> voters = Voters(4, dim=2, classes=2)
    >>> own = torch.tensor([[0.9, 0.1]])
    >>> voters(torch.tensor([[1.0, 0.0]]), own, 1).tolist() == own.tolist()  # nobody is there yet
    True
    >>> voters.follow(torch.tensor([[2.0, 0.0, 0.25, 0.75], [0.0, 1.0, 1.0, 0.0]]))
    >>> voters(torch.tensor([[1.0, 0.0]]), own, 1).tolist()
    [[0.25, 0.75]]
    """

    vectors: Tensor
    votes: Tensor
    filled: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, dim))
        self.register_buffer("votes", torch.zeros(size, classes))
        for name in ("filled", "pointer"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, z: Tensor, own: Tensor, count: int) -> Tensor:
        """Mean probabilities (N, K) of the `count` vectors of highest cosine with each of (N, d); `own` without any."""
        filled = int(self.filled)
        if not filled:
            return own
        vectors, votes = self.vectors[:filled].to(z.dtype), self.votes[:filled].to(own.dtype)
        places = [
            (part @ vectors.T).topk(min(count, filled), dim=1).indices for part in F.normalize(z, dim=1).split(1024)
        ]
        return votes[torch.cat(places)].mean(dim=1)

    @torch.no_grad()
    def look(self, model: Any, classifier: nn.Module, inputs: Any) -> None:
        """Put what a model and a classifier, maybe on two devices, say of inputs into the queue."""
        vectors = model(inputs.to(model.device)).to(next(classifier.parameters()))
        self.follow(torch.cat([vectors, classifier(vectors).softmax(dim=1)], dim=1))

    @torch.no_grad()
    def follow(self, rows: Tensor) -> None:
        """Replace the oldest by the newest: vectors and probabilities side by side, (N, d + K)."""
        size, dim = self.vectors.shape
        rows, start = rows[-size:], int(self.pointer)
        place = (start + torch.arange(len(rows), device=rows.device)) % size
        self.vectors[place] = F.normalize(rows[:, :dim], dim=1).to(self.vectors.dtype)
        self.votes[place] = rows[:, dim:].to(self.votes.dtype)
        self.pointer.fill_((start + len(rows)) % size)
        self.filled.clamp_(min=min(size, int(self.filled) + len(rows)))
