"""Weights of ViTs of transformers and open_clip under timm's names: the same numbers, some fused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from embedkit.formats.open_clip import keys as clip_keys

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]

_QKV = re.compile(r"(.*)\.(?:attention|self_attn)\.q_proj\.(weight|bias)")
_BLOCK = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.(.+)\.(\w+)")
_IN_BLOCK = {
    "layernorm_before": "norm1", "layernorm_after": "norm2", "norm1": "norm1", "norm2": "norm2",
    "layer_norm1": "norm1", "layer_norm2": "norm2", "attention.o_proj": "attn.proj", "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "mlp.weights_in": "mlp.w12", "mlp.weights_out": "mlp.w3",
}  # fmt: skip
_OUTSIDE = {
    "embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias", "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias", "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
    "embeddings.patch_embedding.bias": "patch_embed.proj.bias", "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding.weight": "pos_embed", "pre_layrnorm.weight": "norm_pre.weight",
    "pre_layrnorm.bias": "norm_pre.bias", "post_layernorm.weight": "norm.weight", "post_layernorm.bias": "norm.bias",
    "head.probe": "attn_pool.latent",
}  # fmt: skip
_IN_HEAD = {"attention.out_proj": "proj", "layernorm": "norm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_NOT_USED = ("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")


def vit_to_timm(state: State) -> State:
    """A ViT, CLIP, SigLIP or DINOv2 vision model of transformers -> timm's VisionTransformer.

    Raises
    ------
    KeyError
        For a weight that timm's ViT has no place for.

    Examples
    --------
    >>> list(vit_to_timm({"layernorm.bias": torch.zeros(2), "encoder.layer.3.norm1.bias": torch.zeros(2)}))
    ['norm.bias', 'blocks.3.norm1.bias']
    """
    tensors: State = {}
    for name, tensor in state.items():
        fused, block = _QKV.fullmatch(name), _BLOCK.fullmatch(name)
        if fused is not None:
            parts = [state[name.replace(".q_proj.", f".{kind}_proj.")] for kind in "qkv"]
            number = fused[1].rpartition(".")[2]
            tensors[f"blocks.{number}.attn.qkv.{fused[2]}"] = torch.cat(parts)
        elif re.search(r"\.[kv]_proj\.", name) or name in _NOT_USED:
            continue
        elif block is not None:
            number, module, leaf = block.groups()
            scale = {"layer_scale1": "ls1.gamma", "layer_scale2": "ls2.gamma"}.get(module)
            tensors[f"blocks.{number}.{scale or f'{_IN_BLOCK[module]}.{leaf}'}"] = tensor
        elif name.startswith("head.") and name != "head.probe":
            tensors |= _head(name.removeprefix("head."), tensor)
        else:
            tensors[_OUTSIDE[name]] = tensor
    for name in ("cls_token", "pos_embed"):
        if name in tensors:
            tensors[name] = tensors[name].reshape(1, -1, tensors[name].shape[-1])
    return tensors


def _head(name: str, tensor: Tensor) -> State:
    """SigLIP's attention pooling: one fused matrix there, the query apart in timm."""
    if name.startswith("attention.in_proj_"):
        leaf = name.rpartition("_")[2]
        query, both = tensor.split([tensor.shape[0] // 3, 2 * tensor.shape[0] // 3])
        return {f"attn_pool.q.{leaf}": query, f"attn_pool.kv.{leaf}": both}
    module, _, leaf = name.rpartition(".")
    return {f"attn_pool.{_IN_HEAD[module]}.{leaf}": tensor}


def clip_to_timm(state: State) -> State:
    """open_clip's ``visual.*`` without its prefix and ``proj`` -> timm's VisionTransformer.

    Examples
    --------
    >>> list(clip_to_timm({"ln_post.bias": torch.zeros(2)}))
    ['norm.bias']
    """
    return vit_to_timm(clip_keys.vision_to_hf(state))


def registers_apart(state: State) -> State:
    """DINOv2's positions for timm's models with registers, whose class token has none: its position is added to it.

    Examples
    --------
    >>> parts = registers_apart({"cls_token": torch.ones(1, 1, 2), "pos_embed": torch.ones(1, 5, 2)})
    >>> parts["cls_token"].tolist(), parts["pos_embed"].shape
    ([[[2.0, 2.0]]], torch.Size([1, 4, 2]))
    """
    places = state["pos_embed"]
    return {**state, "cls_token": state["cls_token"] + places[:, :1], "pos_embed": places[:, 1:]}
