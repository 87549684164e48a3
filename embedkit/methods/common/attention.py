"""Attention maps as rows of numbers, and how much two views of them share (miCSE)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedkit.models.execution.plan import Plan
from embedkit.objectives.base import ObjectiveBatch

FLOOR = 1e-6
"""Least value of 1 - rho^2, so that equal maps have a finite mutual information."""


class Maps(nn.Module):
    """How attention maps lie in a row of numbers; it has no parameter.

    Parameters
    ----------
    dim : int
        Numbers of the vector in front of them.
    layers : list of int
        Whose maps there are.
    longest : int
        Tokens of a text at most; shorter ones are filled up with zeros.

    Examples
    --------
    >>> maps = Maps(dim=8, layers=[0, 1], longest=3)  # 4 heads; 5 texts
    >>> maps.length(3), maps.paired(torch.zeros(5, 8 + 2 * 4 * 3**2)).shape
    (9, torch.Size([5, 8, 9]))
    """

    def __init__(self, dim: int, layers: Sequence[int], longest: int) -> None:
        super().__init__()
        self.dim, self.layers, self.longest = dim, list(layers), longest

    def flat(self, record: dict[int, list[Tensor]], lengths: np.ndarray) -> Tensor:
        """(n, layers x heads x longest^2) from recorded groups (n_g, heads, l, l), in the order of the inputs."""
        plan, layers, square = Plan.of(lengths), len(self.layers), self.longest**2
        heads = record[self.layers[0]][0].shape[1]
        flat = torch.cat([group.flatten() for layer in self.layers for group in record[layer]])
        corner = torch.arange(square).view(self.longest, self.longest)
        starts = torch.arange(len(lengths) * layers * heads).view(len(lengths), layers, heads) * square
        places, first = [], 0
        for group in plan.groups:
            of_group = starts[torch.from_numpy(plan.order[first : first + group.count])].transpose(0, 1)
            inner = corner[: group.length, : group.length].flatten()
            places.append((of_group[..., None] + inner).flatten(1))  # (layers, n_g x heads x l^2)
            first += group.count
        index = torch.cat(places, dim=1).flatten().to(flat.device)
        return flat.new_zeros(starts.numel() * square).index_copy(0, index, flat).view(len(lengths), -1)

    def length(self, longest: int) -> int:
        """P for maps of `longest` tokens."""
        return len(self.layers) // 2 * longest**2

    def paired(self, output: Tensor) -> Tensor:
        """(B, D + ..) -> (B, R, P): R = heads x 2 parities of layers, P = layers / 2 x longest^2."""
        square = self.longest**2
        maps = output[:, self.dim :].unflatten(1, (len(self.layers) // 2, 2, -1, square))  # B, half, parity, heads, P'
        return maps.permute(0, 3, 2, 1, 4).flatten(3).flatten(1, 2)


def default_layers(depth: int) -> list[int]:
    """Layers 7 to 10 of 12, the like of other depths, an even number: the last two of very small encoders.

    Examples
    --------
    >>> default_layers(12), default_layers(2)
    ([7, 8, 9, 10], [0, 1])
    """
    layers = list(range(7 * depth // 12, 11 * depth // 12))
    layers = layers[len(layers) % 2 :]
    return layers or list(range(depth))[-2:]


def alignment(one: Tensor, two: Tensor, samples: int, batch: ObjectiveBatch, length: int) -> Tensor:
    """This process's share of ``-mean(I) * (valid^2 + 1e-6)`` over vectors (B, R, P) of two views.

    `valid` is the share of valid numbers in the vectors used, of `length`: what P would be were the maps filled up to
    the longest text of the batch only.

    Examples
    --------
    >>> maps = torch.rand(4, 2, 9, generator=torch.Generator().manual_seed(0))
    >>> batch = ObjectiveBatch.of({"anchor": maps[:, 0], "positive": maps[:, 0]})
    >>> alignment(maps, maps, samples=5, batch=batch, length=9)
    tensor(-6.9078)
    >>> alignment(maps, maps.flip(0), samples=5, batch=batch, length=9)
    tensor(-0.1210)
    """
    valid = (one.detach() > 0) & (two.detach() > 0)
    counts = valid.sum(dim=2)  # (B, R)
    long_enough = counts >= samples
    if not bool(long_enough.any()):
        samples, long_enough = int(counts.min()), torch.ones_like(long_enough)
    if samples < 2:
        return one.sum() * 0.0
    share = counts[long_enough].to(one.dtype).mean() / length
    own = range(batch.size)[batch.rows]
    draws = [torch.rand(valid.shape[1:], generator=batch.generator("attention", row)) for row in own]
    if not draws:
        return one.sum() * 0.0
    keys = torch.stack(draws).to(one.device).masked_fill(~valid[batch.rows], 2.0)
    places = keys.topk(samples, dim=2, largest=False).indices  # (n, R, samples)
    mine = long_enough[batch.rows]
    x, y = (torch.log(z[batch.rows].gather(2, places)[mine]) for z in (one, two))  # (m, samples)
    return -mutual_information(x, y).sum() / long_enough.sum() * (share.square() + FLOOR)


def mutual_information(x: Tensor, y: Tensor) -> Tensor:
    """-1/2 log(1 - rho^2), rho the correlation of each row of `x` (m, n) with the same row of `y`.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> mutual_information(x, torch.tensor([[1.0, 2.0, 3.0, 5.0]]))
    tensor([1.6865])
    >>> mutual_information(x, torch.tensor([[1.0, 3.0, 0.0, 2.0]])).abs()
    tensor([0.])
    """
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    rho = F.cosine_similarity(x, y, dim=1)
    return -0.5 * torch.log((1 - rho.square()).clamp_min(FLOOR))
