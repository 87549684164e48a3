"""Named random towers, small enough for CPUs, and the architectures of open_clip by their names."""

from __future__ import annotations

from typing import Any

from embedkit.formats.open_clip.architectures import architecture

_VIT = {"head_width": 64, "mlp_ratio": 4.0}
# open_clip's vision_cfg by name; the last number is the side of the images
IMAGE_SIZES: dict[str, dict[str, Any]] = {
    "vit-nano-32": {**_VIT, "image_size": 32, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
    "vit-tiny-32": {**_VIT, "image_size": 32, "patch_size": 4, "width": 192, "layers": 6},
    "vit-tiny-64": {**_VIT, "image_size": 64, "patch_size": 8, "width": 192, "layers": 6},
    "vit-small-64": {**_VIT, "image_size": 64, "patch_size": 8, "width": 384, "layers": 8},
    "vit-small-128": {**_VIT, "image_size": 128, "patch_size": 16, "width": 384, "layers": 12},
    "resnet-tiny-64": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 32, "head_width": 64},
    "convnext-tiny-64": {
        "image_size": 64, "timm_model_name": "convnext_atto", "timm_pool": "avg", "timm_proj": "linear",
    },
}  # fmt: skip

# transformers' CLIP text configuration by name
TEXT_SIZES: dict[str, dict[str, Any]] = {
    f"clip-text-{name}": {
        "model_type": "clip_text_model", "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": layers, "num_attention_heads": heads, "max_position_embeddings": 77, "hidden_act": "gelu",
    }
    for name, width, layers, heads in (
        ("nano", 128, 2, 4), ("tiny", 192, 4, 3), ("small", 384, 6, 6), ("base", 512, 12, 8)
    )
}  # fmt: skip


def image_size(name: str) -> dict[str, Any]:
    """``config`` and ``quick_gelu`` of a named image tower.

    Raises
    ------
    ModelError
        When neither embedkit nor open_clip has that name.

    Examples
    --------
    >>> image_size("vit-nano-32")["config"]["patch_size"], image_size("ViT-B-16")["config"]["patch_size"]
    (8, 16)
    """
    if name in IMAGE_SIZES:
        return {"config": dict(IMAGE_SIZES[name]), "quick_gelu": False}
    config = architecture(name, IMAGE_SIZES)
    return {"config": config["vision_cfg"], "quick_gelu": bool(config.get("quick_gelu", False))}


def text_size(name: str) -> dict[str, Any]:
    """Configuration of a named text tower.

    Raises
    ------
    ModelError
        When neither embedkit nor open_clip has that name, or it is no plain CLIP text tower.

    Examples
    --------
    >>> text_size("clip-text-nano")["hidden_size"], text_size("ViT-B-32")["hidden_size"]
    (128, 512)
    """
    if name in TEXT_SIZES:
        return dict(TEXT_SIZES[name])
    from embedkit.formats.open_clip.text_config import text_config

    config = architecture(name, TEXT_SIZES)
    return text_config(config["text_cfg"], config["embed_dim"], bool(config.get("quick_gelu", False)))
