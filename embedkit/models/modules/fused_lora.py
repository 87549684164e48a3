"""Low-rank updates of matrices that are read and not called, as in the attention of open_clip's and timm's towers.

`torch.nn.MultiheadAttention` calls no linear layer: it reads its matrices. So the update is part of the matrix itself,
W + alpha / rank · B A, and the three parts of the fused one have updates of their own, as if they were three layers.
The same holds for linear layers whose owner reads their weight: a layer that stood around them would never act.
"""

from __future__ import annotations

from collections.abc import Collection
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


def add_fused_lora(module: nn.Module, config: LoraConfig, read: Collection[str] = ()) -> list[str]:
    """Names of the fused attention layers below `module`, and of the linear layers in `read`, which get low-rank
    updates; their own matrices are frozen.

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
        matrices = _matrices(name, layer, config, name in read)
        if not matrices:
            continue
        if config.dropout > 0.0:
            raise ModelError(
                f"{name} reads its matrix and has no input to drop from" if name in read
                else "fused attention has no input to drop from",
                where="model.towers.image.lora.dropout",
                remedy="set it to 0",
            )  # fmt: skip
        names.append(name)
        for owner, key, parts in matrices:
            weight = getattr(owner, key)
            parametrize.register_parametrization(owner, key, LowRank(weight.detach(), parts, config))
            owner.parametrizations[key].original.requires_grad_(False)
    return names


def _matrices(name: str, layer: Any, config: LoraConfig, read: bool) -> list[tuple[Any, str, int]]:
    """Owner, key and number of parts of each matrix of `layer` to update."""
    if read:
        return [(layer, "weight", 1)] if _targeted(name, "", config) else []
    if not isinstance(layer, nn.MultiheadAttention) or layer.in_proj_weight is None:
        return []
    both = {"in_proj": (layer, "in_proj_weight", 3), "out_proj": (layer.out_proj, "weight", 1)}
    return [matrix for part, matrix in both.items() if _targeted(name, part, config)]


def _targeted(name: str, part: str, config: LoraConfig) -> bool:
    if isinstance(config.targets, str):
        return True
    return any(target in (part, name) or name.endswith(f".{target}") for target in config.targets)


def read_directly(model: Any) -> set[str]:
    """Names of the linear layers of ``model.encoder`` whose matrix is read in a pass that does not call the layer.

    Found by one pass over one input: a layer that was not called, and whose matrix has a gradient all the same. The
    kernel of `torch.nn.TransformerEncoderLayer` reads its two linear layers in evaluation only. Layers inside
    `torch.nn.MultiheadAttention` are not listed.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> read_directly(build(load_recipe("quickstart").model))
    set()
    """
    modules = dict(model.encoder.named_modules())
    inside = {
        f"{name}.{part}".lstrip(".") for name, layer in modules.items() for part in ("linear1", "linear2")
        if isinstance(layer, nn.TransformerEncoderLayer)
    }  # fmt: skip
    linear = {
        name: layer for name, layer in modules.items()
        if isinstance(layer, nn.Linear) and not isinstance(modules[name.rpartition(".")[0]], nn.MultiheadAttention)
    }  # fmt: skip
    called: set[str] = set()
    hooks = [layer.register_forward_hook(lambda *_, name=name: called.add(name)) for name, layer in linear.items()]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            out = _one_pass(model)
        left = {name: layer for name, layer in linear.items() if name not in called}
        if out is None or not left:
            return inside
        weights = [layer.weight for layer in left.values()]
        frozen = [weight for weight in weights if not weight.requires_grad]
        for weight in frozen:
            weight.requires_grad_(True)
        with torch.enable_grad():
            gradients = torch.autograd.grad(_one_pass(model).sum(), weights, allow_unused=True)
        for weight in frozen:
            weight.requires_grad_(False)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return inside | {name for name, gradient in zip(left, gradients, strict=True) if gradient is not None}


def _one_pass(model: Any) -> Any:
    """Vectors of one input; None for a module that is neither a text model nor an image tower."""
    if hasattr(model, "prepare"):
        return model(model.prepare(["a"]).to(model.device))
    if hasattr(model, "size"):
        weight = next(model.parameters())
        return model(torch.zeros(1, 3, *model.size, dtype=weight.dtype, device=weight.device))
    return None


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
