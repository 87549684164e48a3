"""Adapters of peft merged into an encoder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from embedkit.errors import MissingExtraError, ModelError
from embedkit.formats.peft.reader import WEIGHTS
from embedkit.formats.tensors import read_safetensors, reading

_PREFIX = "base_model.model."
# layers behind an encoder that an adapter may have been trained with
_HEADS = ("pooler", "lm_head", "cls", "classifier", "score", "embed_out", "qa_outputs", "generator_lm_head")


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

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> recipe = load_recipe("quickstart")
    >>> adapted = get_peft_model(build(recipe.model).encoder, LoraConfig(target_modules=["query"]))
    >>> adapted.save_pretrained("lora")
    >>> type(merge_adapter(build(recipe.model).encoder, Path("lora"))).__name__
    'BertModel'
    """
    try:
        from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    except ImportError:
        raise MissingExtraError("peft", "lora", "an adapter of peft") from None
    state = _for_encoder(read_safetensors(folder / WEIGHTS), encoder, folder)
    with reading(folder):
        config = PeftConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        config.task_type, config.inference_mode = None, True  # no head, which some kinds of task would ask for
        _fit(config, state, encoder)
        model = get_peft_model(encoder, config)
        report: Any = set_peft_model_state_dict(model, state)
    missing = [key for key in report.missing_keys if _of_adapter(key)]
    strange = [*report.unexpected_keys, *missing]
    if strange:
        raise ModelError(
            f"{len(strange)} weights of the adapter do not fit its base model (first: {strange[0]})",
            where=str(folder), remedy="give the base model that it was trained on",
        )  # fmt: skip
    with reading(folder):
        merged = model.merge_and_unload().requires_grad_(True)  # peft leaves the base frozen
    logging.getLogger(__name__).info("%s: the adapter is merged into its base model", folder)
    return merged


def _of_adapter(key: str) -> bool:
    return ".base_layer." not in key and any(part in key for part in (".lora_", ".ia3_", ".hada_", ".lokr_", ".oft_"))


def _for_encoder(state: dict[str, Any], encoder: Any, folder: Path) -> dict[str, Any]:
    """The adapter's tensors under the names of the encoder, which may be a part of the model they were trained in;
    those of layers behind the encoder are left out.

    Raises
    ------
    ModelError
        A tensor belongs to no layer of either.
    """
    modules = {name for name, _ in encoder.named_modules()}
    inner = f"{encoder.base_model_prefix}."
    renamed, strange = {}, []
    for key, tensor in state.items():
        plain = key.removeprefix(_PREFIX)
        layer = _layer_of(plain)
        if layer in modules:
            renamed[key] = tensor
        elif layer.removeprefix(inner) in modules:
            renamed[_PREFIX + plain.removeprefix(inner)] = tensor
        elif layer.partition(".")[0] not in _HEADS:
            strange.append(key)
    if strange or not renamed:
        first = (strange or sorted(state) or ["no weights"])[0]
        raise ModelError(
            f"the adapter does not fit its base model (first: {first})", where=str(folder),
            remedy="give the base model that it was trained on",
        )  # fmt: skip
    return renamed


def _layer_of(key: str) -> str:
    """The layer that a tensor of an adapter belongs to."""
    layer, part, _ = key.partition(".lora_")
    return layer if part else key.rpartition(".")[0]


def _fit(config: Any, state: dict[str, Any], encoder: Any) -> None:
    """Let settings of an adapter name layers of the encoder where they name those of the model around it."""
    inner = f"{encoder.base_model_prefix}."
    modules = {name.rpartition(".")[2] for name, _ in encoder.named_modules()}
    adapted = {_layer_of(key.removeprefix(_PREFIX)) for key in state if ".lora_" in key}
    if adapted:  # exactly those that have weights, whatever pattern chose them
        config.target_modules = adapted
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = getattr(config, name, None)
        if pattern:
            setattr(config, name, {key.removeprefix(inner): value for key, value in pattern.items()})
    extras = getattr(config, "modules_to_save", None)
    if extras:
        config.modules_to_save = [name for name in extras if name.rpartition(".")[2] in modules] or None
