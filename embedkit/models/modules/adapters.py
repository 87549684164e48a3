"""What of an encoder is trained: low-rank adapters, through peft, or some rows of a table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from embedkit.config.model import LoraConfig
from embedkit.errors import MissingExtraError, ModelError
from embedkit.models.modules.fused_lora import add_fused_lora, is_updated, read_directly


def add_lora(model: Any, config: LoraConfig) -> None:
    """Freeze the encoder of a model or tower and give its linear layers trainable low-rank updates (Hu et al. 2021).

    Heads stay trainable. Matrices that a pass reads without calling their layer (fused attention, and those of
    `read_directly`) are updated by `embedkit.models.modules.fused_lora`, the rest by peft, whose layers act only where
    they are called. `save` merges the updates into the weights, so that a saved model needs no peft.

    Raises
    ------
    MissingExtraError
        When peft is not installed.
    ModelError
        When no layer has a name in ``targets``, or one of them stands under a second name.

    Examples
    --------
    >>> model = nn.Module()
    >>> model.encoder = nn.Sequential(nn.Linear(4, 4))
    >>> add_lora(model, LoraConfig(rank=2, targets=["0"]))
    >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
    ['encoder.0.lora_A.default.weight', 'encoder.0.lora_B.default.weight']
    """
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError:
        raise MissingExtraError("peft", "lora", "model.lora") from None
    fused = {name for name, layer in model.encoder.named_modules() if isinstance(layer, nn.MultiheadAttention)}
    read = read_directly(model)
    fused |= read
    targets = _linear_layers(model.encoder, config, fused) if fused else config.targets
    settings = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # used as a factor
        lora_dropout=config.dropout,
        target_modules=targets,
    )
    if fused:
        model.encoder.requires_grad_(False)
    try:
        if targets:
            inject_adapter_in_model(settings, model.encoder)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"adapters do not fit ({reason})", where="model.lora.targets") from error
    if fused and not add_fused_lora(model.encoder, config, read) and not targets:
        raise ModelError("no layer has such a name", where="lora.targets", remedy="try all-linear")
    _refuse_second_names(model.encoder)


def _refuse_second_names(encoder: nn.Module) -> None:
    """peft puts an adapter in front of a layer under its first name; under another one the plain layer stays."""
    first = {id(module.base_layer): name for name, module in encoder.named_modules() if hasattr(module, "base_layer")}
    for name, module in encoder.named_modules(remove_duplicate=False):
        if id(module) in first and not name.endswith(".base_layer"):
            raise ModelError(
                f"the layer {first[id(module)]} is {name} too, where its adapter would not act",
                where="model.lora.targets", remedy="name other layers, or train without lora",
            )  # fmt: skip


def _linear_layers(encoder: nn.Module, config: LoraConfig, fused: set[str]) -> list[str]:
    """Names of the linear layers to adapt, without those in or inside `fused`, which are never called."""
    linear = [
        name for name, layer in encoder.named_modules()
        if isinstance(layer, nn.Linear) and not fused & {name, name.rpartition(".")[0]}
    ]  # fmt: skip
    if isinstance(config.targets, str):
        return linear
    return [name for name in linear if any(name == t or name.endswith(f".{t}") for t in config.targets)]


def merged_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The encoder's state dict with every adapter added to its layer, under the names of the plain encoder.

    Examples
    --------
    >>> model = nn.Module()
    >>> model.encoder = nn.Sequential(nn.Linear(4, 4))
    >>> add_lora(model, LoraConfig(rank=2, targets=["0"]))
    >>> list(merged_state(model.encoder))
    ['0.weight', '0.bias']
    """
    state = {name: tensor.detach() for name, tensor in encoder.state_dict().items()}
    for name, module in encoder.named_modules():
        if is_updated(module):
            for key in module.parametrizations:
                kept_apart = f"{name}.parametrizations.{key}."
                state = {entry: tensor for entry, tensor in state.items() if not entry.startswith(kept_apart)}
                state[f"{name}.{key}"] = getattr(module, key).detach()
        if not hasattr(module, "base_layer"):
            continue
        weight = f"{name}.base_layer.weight"
        for adapter in module.active_adapters:
            state[weight] = state[weight] + module.get_delta_weight(adapter).detach().to(state[weight].dtype)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}


def has_adapters(encoder: nn.Module) -> bool:
    """Whether adapters were added.

    Examples
    --------
    >>> has_adapters(nn.Linear(4, 4))
    False
    """
    return any(hasattr(module, "base_layer") or is_updated(module) for module in encoder.modules())


def train_rows(table: nn.Parameter, first: int) -> None:
    """Train the rows of a table from `first` on and no others: these get no gradient, and the table no weight decay.

    Examples
    --------
    >>> table = nn.Parameter(torch.ones(3, 2))
    >>> train_rows(table, 2)
    >>> table.sum().backward()
    >>> table.grad.tolist(), table.undecayed
    ([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], True)
    """
    table.requires_grad_(True)
    table.register_hook(lambda gradient: torch.cat([torch.zeros_like(gradient[:first]), gradient[first:]]))
    table.undecayed = True  # type: ignore[attr-defined]
