"""An image tower as the state dict of a model of torchvision: ResNets and plain ViTs, whole or by
``create_feature_extractor``."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.errors import need
from embedkit.formats.folder import read_json, write_json
from embedkit.formats.image_part import ImagePart, image_report, refuse
from embedkit.formats.registry import IMAGE_KINDS, FolderWriter, writers

if TYPE_CHECKING:
    from torch import Tensor

    from embedkit.formats.timm.architecture import Architecture

NAME, CONFIG = "torchvision", "torchvision.json"
# torchvision's builders by timm's names of the same architecture; the weights have the same names
_RESNETS = {
    **{f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{name: name for name in ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")},
    **{f"wide_resnet{depth}_2": f"wide_resnet{depth}_2" for depth in (50, 101)},
}  # fmt: skip
_IN_BLOCK = {
    "norm1": "ln_1", "norm2": "ln_2", "attn.proj": "self_attention.out_proj", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3",
}  # fmt: skip
_OUTSIDE = {
    "cls_token": "class_token", "pos_embed": "encoder.pos_embedding", "patch_embed.proj.weight": "conv_proj.weight",
    "patch_embed.proj.bias": "conv_proj.bias", "norm.weight": "encoder.ln.weight", "norm.bias": "encoder.ln.bias",
}  # fmt: skip


def write(part: ImagePart, folder: Path, samples: int = 100) -> dict[str, Any]:
    """How the folder is used, and the certificate; writes ``model.safetensors`` and ``torchvision.json``.

    Raises
    ------
    ModelError
        When torchvision has no such model, with the reason; or when its vectors differ.

    Examples
    --------
    >>> from embedkit.config.model import ModelConfig
    >>> from embedkit.factory import build
    >>> text = {"kind": "static", "dim": 8, "tokenizer": "builtin"}
    >>> vit = {"model_type": "vit", "image_size": 32, "hidden_size": 24, "num_hidden_layers": 1}
    >>> model = build(ModelConfig(kind="dual", towers={"dim": 8, "text": text, "image": {"config": vit}}))
    >>> Path("tower").mkdir()
    >>> write(ImagePart(model), Path("tower"), samples=2)["use"]["features"]
    "create_feature_extractor(model, {'getitem_5': 'features'})"
    """
    _need()
    import torch

    from embedkit.formats.tensors import write_tensors
    from embedkit.formats.timm.architecture import architecture_of

    architecture = architecture_of(part)
    config, state, head = _resnet(architecture) if architecture.name in _RESNETS else _vit(architecture)
    if architecture.linear is not None:
        dim = architecture.linear[0].shape[0]
        bias = torch.zeros(dim) if architecture.linear[1] is None else architecture.linear[1]
        state |= {f"{head}.weight": architecture.linear[0], f"{head}.bias": bias}
        config["arguments"]["num_classes"] = int(dim)
    config["head"] = "" if architecture.linear is None else head
    config["preprocess"] = part.preprocess.to_json()
    write_tensors(state, folder)
    write_json(folder / CONFIG, config)
    node = "flatten" if architecture.name in _RESNETS else "getitem_5"
    use = {
        "model": "torchvision.json names the constructor and its arguments; load_state_dict takes model.safetensors",
        "features": f"create_feature_extractor(model, {{'{node}': 'features'}})", "normalize": part.model.normalize,
    }  # fmt: skip
    report = image_report(
        part, NAME, lambda images: read_vectors(part, folder, images), samples, part.preprocess.crop
    )  # fmt: skip
    return {"use": use, "readers": report}


def _need() -> None:
    need("torchvision", "clip", "a state dict for torchvision")
    need("timm", "clip", "a state dict for torchvision")


def _resnet(architecture: Architecture) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    if architecture.pool != "avg":
        refuse(NAME, f"its ResNets have no pooling {architecture.pool!r}")
    return {"builder": _RESNETS[architecture.name], "arguments": {}}, dict(architecture.state), "fc"


def _vit(architecture: Architecture) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """A ViT without a norm in front, read at its class token."""
    module = architecture.module()
    blocks: Any = list(dict(module.named_children()).get("blocks", []))
    size = architecture.size
    fits = size is not None and size[0] == size[1] and architecture.pool == "token"
    if not blocks or not fits or "cls_token" not in architecture.state:
        refuse(NAME, f"it has ResNets and plain square ViTs read at the class token, and this is {architecture.name}")
    state: dict[str, Tensor] = {}
    for name, tensor in architecture.state.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", name)
        place = _place(block[2]) if block else _OUTSIDE.get(name)
        if place is None:
            refuse(NAME, f"its ViT has no {name}")
        if block:
            leaf = f"in_proj_{block[3]}" if block[2] == "attn.qkv" else block[3]
            dot = "" if block[2] == "attn.qkv" else "."
            state[f"encoder.layers.encoder_layer_{block[1]}.{place}{dot}{leaf}"] = tensor
        else:
            state[str(place)] = tensor
    width = architecture.state["cls_token"].shape[-1]
    arguments = {
        "image_size": size[0] if size else 0,
        "patch_size": architecture.state["patch_embed.proj.weight"].shape[-1],
        "num_layers": len(blocks), "num_heads": blocks[0].attn.num_heads, "hidden_dim": width,
        "mlp_dim": architecture.state["blocks.0.mlp.fc1.weight"].shape[0],
    }  # fmt: skip
    config = {"builder": "VisionTransformer", "arguments": arguments, "layer_norm_eps": architecture.eps}
    return config, state, "heads.head"


def _place(module: str) -> str | None:
    return "self_attention." if module == "attn.qkv" else _IN_BLOCK.get(module)


def read_model(folder: Path) -> Any:
    """The model of torchvision that a folder describes; without linear layers behind the tower, without a head.

    Examples
    --------
    >>> write_json(Path("torchvision.json"), {"builder": "resnet18", "arguments": {}, "head": ""})
    >>> from torchvision.models import resnet18
    >>> from embedkit.formats.tensors import write_tensors
    >>> write_tensors({k: v for k, v in resnet18().state_dict().items() if "fc." not in k}, Path())
    >>> read_model(Path()).fc
    Identity()
    """
    from torch import nn
    from torchvision import models

    from embedkit.formats.tensors import load_exactly, read_safetensors

    config = read_json(folder / CONFIG)
    if config["builder"] == "VisionTransformer":
        norm = partial(nn.LayerNorm, eps=config["layer_norm_eps"])
        model: Any = models.VisionTransformer(**config["arguments"], norm_layer=norm)
    else:
        model = models.get_model_builder(config["builder"])(**config["arguments"])
    if not config["head"]:
        setattr(model, "heads" if config["builder"] == "VisionTransformer" else "fc", nn.Identity())
    load_exactly(model, read_safetensors(folder / "model.safetensors"), folder)
    return model.eval()


def read_vectors(part: ImagePart, folder: Path, images: list[Any], size: int = 32) -> np.ndarray:
    """Vectors of images by torchvision, with the model's own preprocessing, which a state dict does not hold.

    Examples
    --------
    >>> from PIL import Image
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> from torchvision.models import resnet18
    >>> from embedkit.formats.tensors import write_tensors
    >>> write_json(Path("torchvision.json"), {"builder": "resnet18", "arguments": {"num_classes": 5}, "head": "fc"})
    >>> write_tensors(resnet18(num_classes=5).state_dict(), Path())
    >>> part = ImagePart(build(load_recipe("simclr", smoke=True).model))
    >>> read_vectors(part, Path(), [Image.new("RGB", (40, 60))]).shape
    (1, 5)
    """
    import torch

    model = read_model(folder)
    with torch.inference_mode():
        batches = [
            model(part.model.pixels(part.model.prepare(images[start : start + size])).float().cpu())
            for start in range(0, len(images), size)
        ]
    return torch.cat(batches).numpy()  # type: ignore[no-any-return]


writers.add("torchvision")(FolderWriter(IMAGE_KINDS, write, _need))
