"""Named random towers, small enough for CPUs, the architectures of open_clip by their names, and what a folder's image
tower is like before its weights are read."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.config.model import ModelConfig
from embedkit.errors import UserError
from embedkit.formats.open_clip.architectures import architecture

if TYPE_CHECKING:
    from embedkit.models.modules.image_towers import ImageTower

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


def folder_tower(config: ModelConfig) -> ImageTower | None:
    """The image tower of the folder that a recipe names, in the size of the recipe's images, without weights: its
    parameters are on the device "meta".

    None where the recipe names no folder on this machine, or the tower cannot be made without its weights; what is
    wrong with a folder is told when it is read.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> _ = build(load_recipe("clip-small", smoke=True).model, 0).save("pair")
    >>> tower = folder_tower(ModelConfig(kind="dual", name="pair"))
    >>> tower.grid(), tower.token_width, tower.encoder.conv1.weight.device.type
    ((4, 4), 32, 'meta')
    """
    import torch

    from embedkit.models.modules.image_towers import build_image_tower, pair

    towers = config.towers
    with contextlib.suppress(UserError, RuntimeError):  # the latter where a module needs numbers of its weights
        outline = _folder_spec(config)
        if outline is None:
            return None
        spec, size = outline
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            tower = build_image_tower(spec)
            own = None if towers is None else towers.image.preprocess.get("size")
            size = size if own is None else pair(own)
            tower = tower if size in (None, tower.size) else tower.rebuilt(size)
        rate = None if towers is None else towers.image.patch_dropout
        if rate is not None:
            tower.set_patch_dropout(rate)
        return tower
    return None


def prompt_count(config: ModelConfig) -> int:
    """How many prompts the text tower of a dual encoder reads a text under; 0 where it is none of several prompts, and
    for a model that is not on this machine.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> prompt_count(load_recipe("multi-prompt").model), prompt_count(load_recipe("clip").model)
    (4, 0)
    """
    from embedkit.factory.folder_settings import folder_of, permissions
    from embedkit.formats.detect import inspect
    from embedkit.formats.embedkit.dual import TEXT

    if config.name is None:
        return 0 if config.towers is None else len(config.towers.text.multi_prompt)
    if not Path(config.name).expanduser().is_dir():
        return 0
    with contextlib.suppress(UserError):  # what is wrong with a folder is told when it is read
        plan = inspect(folder_of(config), **permissions(config))
        text = inspect(plan.root / TEXT) if plan.kind == "dual" and plan.origin == "embedkit" else plan
        return len(text.spec["templates"]) if text.kind == "multi-prompt" else 0
    return 0


def _folder_spec(config: ModelConfig) -> tuple[dict[str, Any], tuple[int, int] | None] | None:
    """What `build_image_tower` takes of the folder that a recipe names, and the size of its images where files say it;
    None for no folder of this machine."""
    from embedkit.factory.folder_settings import folder_of, permissions
    from embedkit.formats.detect import inspect
    from embedkit.formats.folder import OPEN_CLIP_FILE, read_json

    image = None if config.towers is None else config.towers.image
    section = config if config.name is not None else image
    if section is None or section.name is None or not Path(section.name).expanduser().is_dir():
        return None
    folder = folder_of(section)
    if section is image:
        return _transformers_spec(folder, image.pooling)
    plan = inspect(folder, **permissions(config))
    if plan.kind != "dual":
        return None
    if plan.origin == "embedkit":
        return plan.spec["image"], tuple(plan.spec["preprocess"]["size"])
    if (folder / OPEN_CLIP_FILE).is_file():
        model = read_json(folder / OPEN_CLIP_FILE)["model_cfg"]
        vision = {key: value for key, value in model["vision_cfg"].items() if key != "timm_model_pretrained"}
        return {"family": "open_clip", "dim": int(model["embed_dim"]), "config": vision}, None
    return _transformers_spec(plan.weights, None)


def _transformers_spec(folder: Path, pooling: str | None) -> tuple[dict[str, Any], tuple[int, int] | None]:
    from transformers import AutoConfig

    from embedkit.formats.transformers.dual_reader import image_sides
    from embedkit.models.towers.transformers import plain_config

    try:
        whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError("the configuration cannot be read", where=str(folder)) from error
    settings = plain_config(getattr(whole, "vision_config", whole))
    own = {} if pooling is None else {"pooling": pooling}
    return {"family": "transformers", "config": settings, **own}, image_sides(folder)
