"""Dual encoders of transformers and of sentence-transformers: CLIP, SigLIP and VisionTextDualEncoder folders."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.formats.folder import FolderPlan, read_json
from embedkit.formats.open_clip.text_config import end_id
from embedkit.models.inputs.preprocess import FILTERS, Preprocess

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder

_log = logging.getLogger(__name__)
_FILTER_NAMES = {number: name for name, number in FILTERS.items()}


def read(plan: FolderPlan, *, allow_pickle: bool = False) -> DualEncoder:
    """The dual encoder of a folder with a CLIPModel, SiglipModel or VisionTextDualEncoderModel.

    Raises
    ------
    ModelError
        When weights are missing, or a part is not supported.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> settings = {"model.towers.text.tokenizer": "builtin", "model.towers.text.max_length": 77}
    >>> model = build(load_recipe("clip-small", settings).model)
    >>> from embedkit.formats.transformers.dual_writer import write_files
    >>> folder = Path("clip")
    >>> folder.mkdir()
    >>> notes = write_files(model, folder)
    >>> read(FolderPlan(folder, folder, "dual")).dim
    128
    """
    from embedkit.formats.transformers.tokenizer import read_tokenizer

    model = _whole(plan.weights, allow_pickle)
    make = {
        "clip": _clip, "metaclip_2": _clip, "siglip": _siglip, "siglip2": _siglip, "vision-text-dual-encoder": _mixed,
    }[model.config.model_type]  # fmt: skip
    dual = make(model, read_tokenizer(plan.weights), preprocess_of(plan.weights), plan.spec)
    dual.normalize = bool(plan.spec.get("normalize", True))
    dual.prompts = dual.text.prompts = dict(plan.spec.get("prompts") or {})
    dual.default_prompt = dual.text.default_prompt = plan.spec.get("default_prompt")
    return dual


def _whole(folder: Path, allow_pickle: bool) -> Any:
    import torch
    from transformers import AutoModel

    from embedkit.formats.tensors import check_complete, reading

    with reading(folder):
        model, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, weights_only=True,
            trust_remote_code=False,
            use_safetensors=not allow_pickle or any(folder.glob("*.safetensors")),
        )  # fmt: skip
    check_complete(report, folder)
    return model.float()


def _linear(layer: Any) -> Any:
    """A projection with the weights of a linear layer without bias."""
    from embedkit.models.modules.dual import Projection

    projection = Projection("linear", layer.in_features, layer.out_features)
    projection.layers[0].load_state_dict({"weight": layer.weight.detach()})
    return projection


def _clip(model: Any, tokenizer: Any, preprocess: Preprocess, spec: dict[str, Any]) -> DualEncoder:
    from embedkit.models.modules.clip_text import ClipTextEncoder
    from embedkit.models.modules.dual import DualEncoder
    from embedkit.models.towers.transformers import TransformersTower

    text = ClipTextEncoder(model.text_model, tokenizer, max_length=spec.get("max_length"))
    if model.config.model_type == "clip" and model.config.text_config.eos_token_id == 2:
        text.highest_token = end_id(text) != max(tokenizer.get_vocab().values())
    elif model.config.text_config.eos_token_id != end_id(text):
        raise ModelError(
            f"eos_token_id is {model.config.text_config.eos_token_id} and the tokenizer's is {end_id(text)}",
            where="config.json", remedy="transformers would read the text at another place; correct the configuration",
        )  # fmt: skip
    return DualEncoder(
        text, TransformersTower(model.vision_model), _linear(model.text_projection), _linear(model.visual_projection),
        preprocess, scale=math.exp(model.logit_scale.item()),
    )  # fmt: skip


def _siglip(model: Any, tokenizer: Any, preprocess: Preprocess, spec: dict[str, Any]) -> DualEncoder:
    from embedkit.models.modules.clip_text import ClipTextEncoder
    from embedkit.models.modules.dual import DualEncoder, Projection
    from embedkit.models.towers.transformers import tower_of

    length = model.config.text_config.max_position_embeddings
    text = ClipTextEncoder(model.text_model, tokenizer, max_length=spec.get("max_length") or length)
    image = tower_of(model.vision_model)
    parts = Projection("none", text.dim, text.dim), Projection("none", image.dim, image.dim)
    return DualEncoder(
        text, image, *parts, preprocess, scale=math.exp(model.logit_scale.item()), bias=model.logit_bias.item()
    )


def _mixed(model: Any, tokenizer: Any, preprocess: Preprocess, spec: dict[str, Any]) -> DualEncoder:
    from embedkit.models.modules.clip_text import CAUSAL, ClipTextEncoder
    from embedkit.models.modules.dual import DualEncoder
    from embedkit.models.modules.text import Dense, TextEncoder
    from embedkit.models.towers.transformers import TransformersTower

    encoder = model.text_model
    text: TextEncoder
    if encoder.config.model_type == CAUSAL:
        text = ClipTextEncoder(encoder, tokenizer, max_length=spec.get("max_length"))
        text.highest_token = encoder.config.eos_token_id == 2 and end_id(text) != max(tokenizer.get_vocab().values())
    else:
        pooler = getattr(encoder, "pooler", None)
        if pooler is None or not hasattr(pooler, "dense"):
            raise ModelError(f"a {encoder.config.model_type} text tower without a pooler is not supported")
        head = Dense(pooler.dense.in_features, pooler.dense.out_features, "tanh")
        head.linear.load_state_dict(pooler.dense.state_dict())
        encoder.pooler = None
        text = TextEncoder(encoder, tokenizer, "cls", [head], max_length=spec.get("max_length"))
    image = TransformersTower(model.vision_model, "pooler")
    return DualEncoder(
        text, image, _linear(model.text_projection), _linear(model.visual_projection), preprocess,
        scale=math.exp(model.logit_scale.item()),
    )  # fmt: skip


def preprocess_of(folder: Path) -> Preprocess:
    """The preprocessing of a transformers folder, with the numbers of its PIL processors.

    Raises
    ------
    ModelError
        When it is missing, or has a step that embedkit does not have.

    Examples
    --------
    >>> from transformers import CLIPImageProcessor
    >>> _ = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64).save_pretrained("images")
    >>> preprocess = preprocess_of(Path("images"))
    >>> preprocess.size, preprocess.interpolation
    ((64, 64), 'bicubic')
    """
    from transformers import AutoImageProcessor

    try:
        config = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        ).to_dict()
    except (OSError, ValueError, ImportError) as error:
        raise ModelError("the image processor cannot be read", where=str(folder)) from error
    if "max_num_patches" in config:
        square = math.isqrt(config["max_num_patches"]) * int(config["patch_size"])
        config |= {"size": {"height": square, "width": square}, "do_center_crop": False}
        what = "NaFlex: an image keeps its shape, with %d patches at most; preprocess.size sets one shape for all"
        _log.warning(f"%s: {what}", folder, config["max_num_patches"])
    size, crop = dict(config.get("size") or {}), dict(config.get("crop_size") or {})
    cut = bool(config.get("do_center_crop"))
    settings: dict[str, Any] = {
        "mean": tuple(config["image_mean"]) if config.get("do_normalize", True) else (0.0,) * 3,
        "std": tuple(config["image_std"]) if config.get("do_normalize", True) else (1.0,) * 3,
        "interpolation": _FILTER_NAMES[int(config.get("resample", 3))], "crop": "truncate", "alpha": "drop",
        "convert": "before" if config.get("do_convert_rgb") else "after",
    }  # fmt: skip
    if abs(float(config.get("rescale_factor", 1 / 255)) - 1 / 255) > 1e-9 or not config.get("do_rescale", True):
        raise ModelError("pixels are not scaled to 0..1", where=str(folder), remedy="this processor is not supported")
    side = size.get("shortest_edge")
    if not config.get("do_resize", True):
        return Preprocess(size=_sides(crop if cut else size), resize="none", **settings)
    if side is not None:
        if not cut:
            raise ModelError("images keep their shape, which needs one size for all", where=str(folder))
        target = _sides(crop)
        return Preprocess(size=target, edge=None if target == (side, side) else int(side), **settings)
    if cut and _sides(crop) != _sides(size):
        raise ModelError("a squashed image is cut, which is not supported", where=str(folder))
    if "max_num_patches" in config:
        most = int(config["max_num_patches"])
        settings |= {"patch": int(config["patch_size"]), "max_patches": None if math.isqrt(most) ** 2 == most else most}
    return Preprocess(size=_sides(size), resize="squash", **settings)


def image_sides(folder: Path) -> tuple[int, int] | None:
    """Height and width of the images of a transformers folder, as `preprocess_of` reads them; None where it names none.

    Examples
    --------
    >>> from transformers import CLIPImageProcessor
    >>> _ = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=48).save_pretrained("images")
    >>> image_sides(Path("images")), image_sides(Path("elsewhere"))
    ((48, 48), None)
    """
    file = folder / "preprocessor_config.json"
    config = read_json(file) if file.is_file() else {}
    if "max_num_patches" in config:
        side = math.isqrt(config["max_num_patches"]) * int(config["patch_size"])
        return side, side
    size = config.get("crop_size" if config.get("do_center_crop") else "size") or {}
    size = {"height": size, "width": size} if isinstance(size, int) else size
    return _sides(size) if {"height", "width"} <= size.keys() else None


def _sides(size: dict[str, Any]) -> tuple[int, int]:
    return int(size["height"]), int(size["width"])


def read_vision_model(folder: Path, allow_pickle: bool = False) -> Any:
    """The vision model of a transformers folder, or the vision part of its CLIP or SigLIP model.

    Raises
    ------
    ModelError
        When the folder holds no vision model, or weights are missing.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> small = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32)
    >>> ViTModel(small).save_pretrained("vit")
    >>> read_vision_model(Path("vit")).config.image_size
    32
    """
    from embedkit.models.towers.transformers import has_images

    model = _whole(folder, allow_pickle)
    model = getattr(model, "vision_model", model)
    if not has_images(model.config):
        raise ModelError(f"a {model.config.model_type} model is no image tower", where=str(folder))
    return model
