"""CLIP's weights under open_clip's and under transformers' names: the same numbers, some transposed or fused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]

# open_clip -> transformers, within a block
_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_BLOCK_BACK = {theirs: ours for ours, theirs in _BLOCK.items()}
_QKV = ("q_proj", "k_proj", "v_proj")
_VISION = {
    "conv1.weight": "embeddings.patch_embedding.weight", "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight", "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias", "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}  # fmt: skip
_TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight", "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}  # fmt: skip


def _blocks_to_hf(state: State) -> State:
    """``transformer.resblocks.*`` -> ``encoder.layers.*``; the fused matrix is cut in three."""
    tensors: State = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)\.?", name)
        if match is None:
            continue
        base, part = f"encoder.layers.{match[1]}.", match[2]
        if part.startswith("attn.in_proj_"):
            for kind, piece in zip(_QKV, tensor.chunk(3), strict=True):
                tensors[f"{base}self_attn.{kind}.{part.rpartition('_')[2]}"] = piece
        else:
            module, _, leaf = part.rpartition(".")
            tensors[f"{base}{_BLOCK[module]}.{leaf}"] = tensor
    return tensors


def _blocks_from_hf(state: State) -> State:
    """The inverse of `_blocks_to_hf`."""
    tensors: State = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None:
            continue
        base, module, leaf = f"transformer.resblocks.{match[1]}.", match[2], match[3]
        if module.endswith("q_proj"):
            parts = [state[f"encoder.layers.{match[1]}.self_attn.{kind}.{leaf}"] for kind in _QKV]
            tensors[f"{base}attn.in_proj_{leaf}"] = torch.cat(parts)
        elif module in _BLOCK_BACK:
            tensors[f"{base}{_BLOCK_BACK[module]}.{leaf}"] = tensor
    return tensors


def _renamed(state: State, table: dict[str, str]) -> State:
    return {theirs: state[ours] for ours, theirs in table.items() if ours in state}


def vision_to_hf(state: State) -> State:
    """open_clip's ``visual.*`` (without the prefix, without ``proj``) -> CLIPVisionModel.

    Examples
    --------
    >>> list(vision_to_hf({"ln_pre.bias": torch.zeros(2), "transformer.resblocks.0.ln_1.bias": torch.zeros(2)}))
    ['encoder.layers.0.layer_norm1.bias', 'pre_layrnorm.bias']
    """
    return _blocks_to_hf(state) | _renamed(state, _VISION)


def vision_from_hf(state: State) -> State:
    """CLIPVisionModel -> open_clip's ``visual.*`` without the prefix, without ``proj``.

    Examples
    --------
    >>> list(vision_from_hf({"embeddings.class_embedding": torch.zeros(2)}))
    ['class_embedding']
    """
    return _blocks_from_hf(state) | _renamed(state, {theirs: ours for ours, theirs in _VISION.items()})


def text_to_hf(state: State) -> State:
    """open_clip's text tower (without ``text_projection``) -> CLIPTextModel; SiglipTextModel has the same names.

    Examples
    --------
    >>> for name in text_to_hf({"transformer.resblocks.0.attn.in_proj_bias": torch.zeros(6)}):
    ...     print(name)
    encoder.layers.0.self_attn.q_proj.bias
    encoder.layers.0.self_attn.k_proj.bias
    encoder.layers.0.self_attn.v_proj.bias
    """
    return _blocks_to_hf(state) | _renamed(state, _TEXT)


def text_from_hf(state: State) -> State:
    """CLIPTextModel (or SiglipTextModel without its head) -> open_clip's text tower without ``text_projection``.

    Examples
    --------
    >>> list(text_from_hf({"final_layer_norm.weight": torch.ones(2)}))
    ['ln_final.weight']
    """
    return _blocks_from_hf(state) | _renamed(state, {theirs: ours for ours, theirs in _TEXT.items()})
