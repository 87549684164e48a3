"""Dual encoders for training, from the `model` section of a recipe."""

from __future__ import annotations

from embedkit.errors import ModelError
from embedkit.factory.registry import builders
from embedkit.formats.detect import inspect, locate
from embedkit.models.base import Model
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.models.modules.dual import DualEncoder, Projection
from embedkit.models.modules.image_towers import ImageTower, build_image_tower
from embedkit.recipe import ImageTowerConfig, ModelConfig, TextTowerConfig, TowersConfig

_TEXT_KEYS = (
    "kind", "name", "revision", "config", "tokenizer", "pooling", "max_length", "prompts", "default_prompt", "dropout",
    "lora", "dim", "ngrams", "buckets",
)  # fmt: skip
_NOT_DUAL = (
    "config", "tokenizer", "pooling", "head", "max_length", "dropout", "lora", "dim", "prompts", "default_prompt",
)  # fmt: skip


@builders.add("dual")
def build_dual(config: ModelConfig) -> DualEncoder:
    """The dual encoder of a recipe.

    Raises
    ------
    ModelError
        For settings that belong to a tower, and for towers that cannot be read or built.
    """
    for key in _NOT_DUAL:
        if getattr(config, key) not in (None, {}, []):
            raise ModelError("belongs to a tower", where=f"model.{key}", remedy=f"write model.towers.text.{key}")
    towers = config.towers or TowersConfig()
    model = _loaded(config) if config.name is not None else _new(towers)
    if config.normalize is not None:
        model.normalize = config.normalize
    _adapt(model, towers)
    return model


def _loaded(config: ModelConfig) -> DualEncoder:
    from embedkit.formats.loading import OPEN_CLIP, assemble

    assert config.name is not None
    if config.name.startswith(OPEN_CLIP):
        from embedkit.formats.open_clip.towers import load_tag

        return load_tag(config.name.removeprefix(OPEN_CLIP))
    plan = inspect(locate(config.name, config.revision))
    if plan.kind != "dual":
        raise ModelError(
            f"is a {plan.kind} model",
            where=config.name,
            remedy="name it in model.towers.text.name, with an image tower",
        )
    model = assemble(plan)
    assert isinstance(model, DualEncoder)
    return model


def _new(towers: TowersConfig) -> DualEncoder:
    assert towers.dim is not None
    text = _text(towers.text)
    image = _image(towers.image, towers.dim)
    if towers.text.projection == "none" and text.dim != towers.dim:
        raise ModelError(
            f"the text tower has {text.dim} coordinates", where="model.towers.dim", remedy="add a projection"
        )
    ends = image.dim == towers.dim and image.family == "open_clip"  # these towers end in a projection of their own
    behind_text = Projection(towers.text.projection or "linear", text.dim, towers.dim)
    behind_image = Projection(towers.image.projection or ("none" if ends else "linear"), image.dim, towers.dim)
    preprocess = Preprocess.of({"size": list(image.size), **towers.image.preprocess})
    return DualEncoder(text, image, behind_text, behind_image, preprocess)


def _text(config: TextTowerConfig) -> Model:
    settings = {key: getattr(config, key) for key in _TEXT_KEYS}
    if config.size is not None:
        from embedkit.factory.tower_configs import text_size

        settings["config"] = text_size(config.size)
        settings["tokenizer"] = config.tokenizer or "clip"
    settings["lora"] = None  # added to the whole tower at the end
    model = builders[config.kind](ModelConfig(**settings))
    dense = getattr(model, "dense", None)
    if dense is not None:  # layers that only its own training used are no part of a tower
        from torch import nn

        model.dense = nn.ModuleList(layer for layer in dense if not layer.train_only)
    return model


def _image(config: ImageTowerConfig, dim: int) -> ImageTower:
    from embedkit.factory.tower_configs import image_size
    from embedkit.models.modules.image_towers import TransformersTower

    if config.name is not None:
        from embedkit.formats.transformers.dual_reader import read_vision_model

        return TransformersTower(read_vision_model(locate(config.name, config.revision)), config.pooling)
    if config.size is not None:
        return build_image_tower({"family": "open_clip", "dim": dim, **image_size(config.size)})
    assert config.config is not None
    if "model_type" in config.config:
        return build_image_tower({"family": "transformers", "config": config.config, "pooling": config.pooling})
    return build_image_tower(
        {"family": "open_clip", "dim": dim, "config": config.config, "quick_gelu": config.quick_gelu}
    )


def _adapt(model: DualEncoder, towers: TowersConfig) -> None:
    """Settings that apply to built and to loaded towers alike."""
    from embedkit.models.modules.adapters import add_lora

    if towers.image.patch_dropout is not None:
        model.image.set_patch_dropout(towers.image.patch_dropout)
    model.image.freeze_batch_norm = towers.image.freeze_batch_norm
    if towers.text.lora is not None:
        add_lora(model.text, towers.text.lora)
    if towers.image.lora is not None:
        add_lora(model.image, towers.image.lora)
