"""Low-rank updates of attention whose query, key and value share one matrix, as in open_clip's towers.

`torch.nn.MultiheadAttention` calls no linear layer: it reads its matrices. So the update is part of the matrix itself,
W + alpha / rank · B A, and the three parts of the fused one have updates of their own, as if they were three layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from embedkit.config.model import LoraConfig
from embedkit.errors import ModelError


class LowRank(nn.Module):
    """Adds a trainable update of low rank to each of `parts` equal blocks of rows; (R, C) -> (R, C).

    A is drawn, B starts at zero (Hu et al. 2021, section 4.1).

    Examples
    --------
    >>> weight = torch.ones(6, 4)
    >>> update = LowRank(weight, parts=3, config=LoraConfig(rank=2))
    >>> torch.equal(update(weight), weight), update.a.shape, update.b.shape
    (True, torch.Size([3, 2, 4]), torch.Size([3, 2, 2]))
    """

    def __init__(self, weight: Tensor, parts: int, config: LoraConfig) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.a = nn.Parameter(weight.new_empty(parts, config.rank, columns))
        self.b = nn.Parameter(weight.new_zeros(parts, rows // parts, config.rank))
        self.factor = config.alpha / config.rank
        for part in self.a:
            nn.init.kaiming_uniform_(part.data, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its update."""
        return torch.baddbmm(weight.view_as(self._shape(weight)), self.b, self.a, alpha=self.factor).view_as(weight)

    def _shape(self, weight: Tensor) -> Tensor:
        return weight.unflatten(0, (len(self.b), -1))


def add_fused_lora(module: nn.Module, config: LoraConfig) -> list[str]:
    """Names of the fused attention layers below `module`, which get low-rank updates; their own matrices are frozen.

    Only layers that ``config.targets`` names: "all-linear", the layer's own name (``attn``), or ``in_proj``,
    ``out_proj``.

    Raises
    ------
    ModelError
        For a dropout rate, which an update inside the matrix cannot have.

    Examples
    --------
    >>> add_fused_lora(nn.Sequential(nn.MultiheadAttention(4, 2)), LoraConfig(rank=2))
    ['0']
    """
    names = []
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, nn.MultiheadAttention) or layer.in_proj_weight is None:
            continue
        targets = [part for part in ("in_proj", "out_proj") if _targeted(name, part, config)]
        if not targets:
            continue
        if config.dropout > 0.0:
            raise ModelError(
                "fused attention has no input to drop from",
                where="model.towers.image.lora.dropout",
                remedy="set it to 0",
            )
        names.append(name)
        for part in targets:
            owner: Any = layer if part == "in_proj" else layer.out_proj
            key, parts = ("in_proj_weight", 3) if part == "in_proj" else ("weight", 1)
            weight = getattr(owner, key)
            parametrize.register_parametrization(owner, key, LowRank(weight.detach(), parts, config))
            owner.parametrizations[key].original.requires_grad_(False)
    return names


def _targeted(name: str, part: str, config: LoraConfig) -> bool:
    if isinstance(config.targets, str):
        return True
    return any(target in (part, name.rpartition(".")[2]) for target in config.targets)


def is_updated(module: nn.Module) -> bool:
    """Whether `module` has a matrix with such an update.

    Examples
    --------
    >>> attention = nn.MultiheadAttention(4, 2)
    >>> is_updated(attention), add_fused_lora(nn.Sequential(attention), LoraConfig(rank=2)), is_updated(attention)
    (False, ['0'], True)
    """
    updates = getattr(module, "parametrizations", {})
    return any(isinstance(step, LowRank) for steps in updates.values() for step in steps) if updates else False
