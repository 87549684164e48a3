"""Patch dropout: a random part of the patches is left out in training (FLIP, Li et al. 2023, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedkit.models.augment.counter_rng import GOLDEN, mixed


class PatchDropout(nn.Module):
    """Keeps a random share of the patch tokens of each image, in their order; (N, prefix + P, W) -> (N, prefix + K, W).

    With `seeds` what is drawn for an image is a function of its seed; without, it comes from torch's generator of the
    device. Either way a replayed forward pass draws the same patches.

    Parameters
    ----------
    rate : float
        Share that is left out.
    prefix : int
        Tokens in front (class token, registers) that always stay.

    Examples
    --------
    >>> drop = PatchDropout(0.5, prefix=1)
    >>> drop(torch.ones(2, 1 + 8, 4)).shape, drop.eval()(torch.ones(2, 1 + 8, 4)).shape
    (torch.Size([2, 5, 4]), torch.Size([2, 9, 4]))
    """

    def __init__(self, rate: float, prefix: int) -> None:
        super().__init__()
        self.rate, self.prefix = rate, prefix
        self.seeds: np.ndarray | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, prefix + K, W) of `x` (N, prefix + P, W); all of them outside of training."""
        if not self.training or self.rate == 0.0:
            return x
        count = x.shape[1] - self.prefix
        size = max(1, int(count * (1.0 - self.rate)))
        draws = (
            torch.rand(len(x), count, device=x.device) if self.seeds is None else seeded(self.seeds, count, x.device)
        )
        places = draws.topk(size, dim=-1).indices.sort(dim=-1).values + self.prefix  # (N, K)
        patches = x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))
        return torch.cat([x[:, : self.prefix], patches], dim=1)


def seeded(seeds: np.ndarray, count: int, device: torch.device) -> Tensor:
    """Random sort keys of `count` places for each seed, int64 (N, count): SplitMix64 over a counter.

    Examples
    --------
    >>> seeded(np.array([1, 2]), 4, torch.device("cpu")).argsort().tolist()
    [[3, 0, 1, 2], [0, 2, 1, 3]]
    """
    with np.errstate(over="ignore"):
        x = mixed(seeds.astype(np.uint64)[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)
    return torch.from_numpy((x >> np.uint64(1)).astype(np.int64)).to(device)


def drop_patches(module: Any, inputs: Any, output: Tensor) -> Tensor:
    """The output of an embedding layer without the patches that its `PatchDropout` leaves out; a forward hook.

    Examples
    --------
    >>> embeddings = nn.Identity()
    >>> embeddings.patch_dropout = PatchDropout(0.5, prefix=1)
    >>> _ = embeddings.register_forward_hook(drop_patches)
    >>> embeddings(torch.ones(2, 1 + 8, 4)).shape
    torch.Size([2, 5, 4])
    """
    return module.patch_dropout(output)
