"""Dual encoders for training, from the `model` section of a recipe."""

from __future__ import annotations

import logging

from pydantic import ValidationError
from torch import nn

from embedkit.config.model import ImageTowerConfig, ModelConfig, TextTowerConfig, TowersConfig
from embedkit.errors import ModelError
from embedkit.factory.folder_settings import checked_prompt, folder_of, of_another_kind, permissions
from embedkit.factory.registry import builders
from embedkit.factory.settings import every_setting_used, taken
from embedkit.factory.tower_configs import image_size, text_size
from embedkit.formats.detect import inspect
from embedkit.formats.loading import OPEN_CLIP, assemble
from embedkit.formats.transformers.dual_reader import preprocess_of, read_vision_model
from embedkit.models.base import Model
from embedkit.models.combined.multi_prompt import MultiPromptEncoder, multi_prompt
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.models.modules.adapters import add_lora, train_rows
from embedkit.models.modules.clip_text import stretch_positions
from embedkit.models.modules.dual import DualEncoder, Projection
from embedkit.models.modules.image_towers import BATCH_NORMS, ImageTower, named_tower, pair, resized
from embedkit.models.modules.text import TextEncoder
from embedkit.models.towers.transformers import TransformersTower, tower_of

_log = logging.getLogger(__name__)
_TEXT_KEYS = (
    "kind", "name", "revision", "config", "tokenizer", "pooling", "max_length", "prompts", "default_prompt", "dropout",
    "dim", "ngrams", "buckets", "trust_remote_code", "allow_pickle",
)  # fmt: skip


@builders.add("dual")
def _dual(config: ModelConfig) -> DualEncoder:
    """The dual encoder of a recipe.

    Raises
    ------
    ModelError
        For settings that belong to a tower, and for towers that cannot be read or built.
    """
    towers = config.towers or TowersConfig()
    if config.name is None:
        model = _new(towers)
    else:
        model = _loaded(config, config.name)
        _adjust_text(model, towers.text)
        _adjust_image(model, towers.image)
    if config.normalize is not None:
        model.normalize = config.normalize
    _adapt(model, towers)
    return model


def _loaded(config: ModelConfig, name: str) -> DualEncoder:
    if name.startswith(OPEN_CLIP):
        from embedkit.formats.open_clip.towers import load_tag

        return load_tag(name.removeprefix(OPEN_CLIP), allow_pickle=config.allow_pickle)
    plan = inspect(folder_of(config), **permissions(config))
    if plan.kind != "dual":
        remedy = "name it in model.towers.text.name, with an image tower"
        raise of_another_kind(plan, name, remedy)
    model = assemble(plan, **permissions(config))
    assert isinstance(model, DualEncoder)
    return model


def _adjust_text(model: DualEncoder, config: TextTowerConfig) -> None:
    """Settings of the recipe in the place of those of a loaded text tower."""
    text = model.text
    if config.keep_positions is not None:
        if config.max_length is None:
            raise ModelError("says not how long", where="model.towers.text.keep_positions", remedy="set max_length too")
        _log.warning("model.towers.text: %s", stretch_positions(text, config.max_length, config.keep_positions))
    if config.max_length is not None:
        text.max_length = config.max_length  # type: ignore[misc]  # every text encoder has a setter
    if config.prompts:
        text.prompts = model.prompts = {**text.prompts, **config.prompts}
    if config.default_prompt is not None:
        name = checked_prompt(config.default_prompt, text.prompts, "model.towers.text")
        text.default_prompt = model.default_prompt = name
    if text.kind == "text" and config.pooling is not None:
        text.pooling = config.pooling
    if config.dropout is not None:
        text.set_dropout(config.dropout)


def _adjust_image(model: DualEncoder, config: ImageTowerConfig) -> None:
    """Settings of the recipe in the place of those of a loaded image tower."""
    if config.preprocess:
        preprocess = changed_preprocess(model.preprocess, config.preprocess)
        model.image = resized(model.image, preprocess.size)
        model.preprocess = preprocess
    if isinstance(model.image, TransformersTower) and config.pooling is not None:
        model.image.pooling = config.pooling


def changed_preprocess(preprocess: Preprocess, settings: dict[str, object]) -> Preprocess:
    """`preprocess` with other settings; an `edge` that is not among them keeps its proportion to the size.

    Raises
    ------
    ModelError
        For an unknown setting or value.

    Examples
    --------
    >>> from embedkit.factory.dual import changed_preprocess
    >>> from embedkit.models import Preprocess
    >>> changed_preprocess(Preprocess(size=(224, 224), edge=256), {"size": 112}).edge
    128
    """
    settings = dict(settings)
    if "size" in settings:
        settings["size"] = list(pair(settings["size"]))
        if preprocess.edge is not None and "edge" not in settings:
            settings["edge"] = round(preprocess.edge * min(pair(settings["size"])) / min(preprocess.size))
        settings.setdefault("patch", None)  # one shape for all
    if {"size", "patch"} & settings.keys():
        settings.setdefault("max_patches", None)
    return Preprocess.of({**preprocess.to_json(), **settings})


def _new(towers: TowersConfig) -> DualEncoder:
    assert towers.dim is not None
    text = _text(towers.text, towers.dim)
    image, preprocess = _image(towers.image, towers.dim)
    if towers.text.projection == "none" and text.dim != towers.dim:
        raise ModelError(
            f"the text tower has {text.dim} coordinates", where="model.towers.dim", remedy="add a projection"
        )
    ends = image.dim == towers.dim and image.ends_in_projection
    is_fit = isinstance(text, MultiPromptEncoder)
    behind_text = Projection(towers.text.projection or ("none" if is_fit else "linear"), text.dim, towers.dim)
    behind_image = Projection(towers.image.projection or ("none" if ends else "linear"), image.dim, towers.dim)
    if towers.image.preprocess:
        preprocess = changed_preprocess(preprocess, towers.image.preprocess)
    model = DualEncoder(text, resized(image, preprocess.size), behind_text, behind_image, preprocess)
    model.are_strangers = True
    return model


def _text(config: TextTowerConfig, dim: int) -> Model:
    settings = taken(config, _TEXT_KEYS)
    if config.size is not None:
        settings["config"] = text_size(config.size)
        settings.setdefault("tokenizer", "clip")
    try:
        section = ModelConfig(**settings)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ").replace("model.", "model.towers.text.")
        raise ModelError(reason, where="model.towers.text") from error
    with every_setting_used(section, "model.towers.text", ("kind",)) as view:
        model = builders[section.kind](view)
    if isinstance(model, TextEncoder):  # layers that only its own training used are no part of a tower
        model.dense = nn.ModuleList(layer for layer in model.layers if not layer.train_only)
    if not config.multi_prompt:
        return model
    if config.pooling is not None:
        raise ModelError("prompts are read at their own tokens", where="model.towers.text.pooling",
                         remedy="leave it out, or leave multi_prompt out")  # fmt: skip
    return multi_prompt(model, config.multi_prompt, dim)


def _image(config: ImageTowerConfig, dim: int) -> tuple[ImageTower, Preprocess]:
    """The tower, and the preprocessing that its folder asks for or that fits its size."""
    if config.name is not None:
        folder = folder_of(config)
        tower: ImageTower = tower_of(read_vision_model(folder, config.allow_pickle), config.pooling)
        if (folder / "preprocessor_config.json").is_file():
            preprocess = preprocess_of(folder)
            return resized(tower, preprocess.size), preprocess
        return tower, Preprocess(size=tower.size)
    if config.size is not None:
        shape = image_size(config.size)
        tower = named_tower(shape["config"])[0].from_config(shape["config"], dim, {"quick_gelu": shape["quick_gelu"]})
    else:
        assert config.config is not None
        kind, settings = named_tower(config.config)
        tower = kind.from_config(settings, dim, taken(config, kind.options))
    return tower, Preprocess(size=tower.size)


def _adapt(model: DualEncoder, towers: TowersConfig) -> None:
    """Settings that apply to built and to loaded towers alike."""
    if towers.image.patch_dropout is not None:
        model.image.set_patch_dropout(towers.image.patch_dropout)
    if any(isinstance(module, BATCH_NORMS) for module in model.image.modules()):
        model.image.freeze_batch_norm = towers.image.freeze_batch_norm
    if isinstance(model.text, MultiPromptEncoder) and towers.text.lora is not None:
        add_lora(model.text.encoder, towers.text.lora)
        train_rows(model.text.encoder.encoder.get_input_embeddings().weight, min(model.text.marks))
    if model.text.backbone is not None and towers.text.lora is not None:
        add_lora(model.text, towers.text.lora)
    if towers.image.lora is not None:
        add_lora(model.image, towers.image.lora)
