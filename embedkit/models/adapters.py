"""Low-rank adapters on an encoder, through peft."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from embedkit.errors import MissingExtraError, ModelError
from embedkit.recipe import LoraConfig


def add_lora(model: Any, config: LoraConfig) -> None:
    """Freeze the encoder of a text model and give its linear layers trainable low-rank updates (Hu et al. 2021).

    Heads stay trainable. `save` merges the updates into the weights, so that a saved model needs no peft.

    Raises
    ------
    MissingExtraError
        When peft is not installed.
    ModelError
        When no layer has a name in ``targets``.
    """
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError:
        raise MissingExtraError("peft", "lora", "model.lora") from None
    settings = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # used as a factor
        lora_dropout=config.dropout,
        target_modules=config.targets,
    )
    try:
        inject_adapter_in_model(settings, model.encoder)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"adapters do not fit ({reason})", where="model.lora.targets") from error


def merged_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The encoder's state dict with every adapter added to its layer, under the names of the plain encoder."""
    state = {name: tensor.detach() for name, tensor in encoder.state_dict().items()}
    for name, module in encoder.named_modules():
        if not hasattr(module, "base_layer"):
            continue
        weight = f"{name}.base_layer.weight"
        for adapter in module.active_adapters:
            state[weight] = state[weight] + module.get_delta_weight(adapter).detach().to(state[weight].dtype)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}


def has_adapters(encoder: nn.Module) -> bool:
    """Whether adapters were added."""
    return any(hasattr(module, "base_layer") for module in encoder.modules())
