"""Adapters of peft merged into an encoder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from embedkit.errors import MissingExtraError, ModelError
from embedkit.formats.peft.reader import WEIGHTS
from embedkit.formats.tensors import read_safetensors, reading

_PREFIX = "base_model.model."


def merge_adapter(encoder: Any, folder: Path) -> Any:
    """The encoder with the adapter of a folder added to its weights.

    An adapter that was trained on the model with a head (``*ForCausalLM``) fits the encoder inside; weights of the
    head's own layers are left out.

    Raises
    ------
    MissingExtraError
        peft is not installed.
    ModelError
        The adapter does not fit the encoder.
    """
    try:
        from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    except ImportError:
        raise MissingExtraError("peft", "lora", "an adapter of peft") from None
    state = _for_encoder(read_safetensors(folder / WEIGHTS), encoder)
    with reading(folder):
        config = PeftConfig.from_pretrained(str(folder))
        config.task_type, config.inference_mode = None, True  # no head, which some kinds of task would ask for
        model = get_peft_model(encoder, config)
        report = set_peft_model_state_dict(model, state)
    missing = [key for key in report.missing_keys if _of_adapter(key)]
    strange = [*report.unexpected_keys, *missing]
    if strange:
        raise ModelError(
            f"{len(strange)} weights of the adapter do not fit its base model (first: {strange[0]})",
            where=str(folder), remedy="give the base model that it was trained on",
        )  # fmt: skip
    with reading(folder):
        merged = model.merge_and_unload()
    logging.getLogger(__name__).info("%s: the adapter is merged into its base model", folder)
    return merged


def _of_adapter(key: str) -> bool:
    return ".base_layer." not in key and any(part in key for part in (".lora_", ".ia3_", ".hada_", ".lokr_", ".oft_"))


def _for_encoder(state: dict[str, Any], encoder: Any) -> dict[str, Any]:
    """The adapter's tensors under the names of the encoder, which may be a part of the model they were trained in."""
    inner = f"{_PREFIX}{encoder.base_model_prefix}."
    modules = {name for name, _ in encoder.named_modules()}
    renamed = {}
    for key, tensor in state.items():
        plain = key.removeprefix(_PREFIX).partition(".lora_")[0]
        if plain not in modules and key.startswith(inner):
            key = _PREFIX + key.removeprefix(inner)
        renamed[key] = tensor
    return renamed
