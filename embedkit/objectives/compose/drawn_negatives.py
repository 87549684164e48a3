"""Hard negatives of a step: for each row another one, drawn by its similarity."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 1024


def drawn_negatives(
    anchors: Tensor, others: Tensor, keys: list[Tensor], temperature: float, generator: torch.Generator
) -> Tensor:  # fmt: skip
    """For each row the place of another row, drawn in proportion to exp(cosine / temperature); int64 (N,).

    That is how ALBEF chooses the wrong partners of image-text matching (Li et al. 2021, section 3.2). Rows that share
    a key are no negatives of each other; a row without any gets -1. One number is drawn for each row, so that what is
    drawn is a function of all vectors and the generator; nothing of size N x N is kept.

    Parameters
    ----------
    anchors, others : Tensor (N, D)
        Of the whole batch; need not be normalised. No gradient goes through.
    keys : list of LongTensor (N,)
        What rows may share: their number, their image, their text.
    temperature : float
        Small: always the most similar one; large: any.
    generator : torch.Generator
        On the CPU.

    Examples
    --------
    >>> vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> rows, generator = torch.arange(3), torch.Generator().manual_seed(0)
    >>> drawn_negatives(vectors, vectors, [rows], 0.01, generator)
    tensor([1, 0, 1])
    >>> drawn_negatives(vectors, vectors, [rows, torch.tensor([0, 0, 1])], 0.01, generator)
    tensor([2, 2, 1])
    """
    count = len(anchors)
    draws = torch.rand(count, generator=generator, dtype=torch.float64).to(anchors.device)
    first, second = (torch.nn.functional.normalize(z.detach(), dim=1) for z in (anchors, others))
    places = []
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        same = torch.zeros(len(first[part]), count, dtype=torch.bool, device=anchors.device)
        for key in keys:
            same |= key[part, None] == key[None]
        scores = (first[part] @ second.T).double() / temperature
        scores = scores.masked_fill(same, -torch.inf)
        shares = (scores - scores.amax(dim=1, keepdim=True)).exp().nan_to_num(0.0).cumsum(dim=1)
        place = torch.searchsorted(shares, draws[part, None] * shares[:, -1:], right=True)[:, 0]
        places.append(torch.where(same.all(dim=1), -1, place.clamp(max=count - 1)))
    return torch.cat(places) if places else torch.zeros(0, dtype=torch.int64, device=anchors.device)
