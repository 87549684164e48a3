"""Dual encoders as folders of transformers and sentence-transformers, written from state dicts and configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.formats.folder import write_json
from embedkit.formats.open_clip import keys as clip_keys
from embedkit.formats.open_clip.text_config import NOT_IN_TOKENIZERS, activation, end_id, refuse, with_cleaning
from embedkit.models.inputs.preprocess import FILTERS, Preprocess
from embedkit.models.inputs.tokens import is_prefix

if TYPE_CHECKING:
    from embedkit.models.modules.clip_text import ClipTextEncoder
    from embedkit.models.modules.dual import DualEncoder, Projection

LIBRARY = "transformers"
PIL_NOTE = (
    "compared with transformers' PIL processors (backend='pil'); its default resizes on tensors, one or two grey "
    "levels beside them"
)
_BASE = "sentence_transformers.base.modules"
# vision settings of open_clip that CLIPVisionModel has no place for, with the one value it stands for
PLAIN_VIT = {
    "ls_init_value": (None,), "attentional_pool": (False,), "no_ln_pre": (False,), "pos_embed_type": ("learnable",),
    "final_ln_after_pool": (False,), "pool_type": ("tok",), "output_tokens": (False,), "block_type": (None, "default"),
    "qk_norm": (False,), "scaled_cosine_attn": (False,), "scale_heads": (False,), "scale_attn_inner": (False,),
    "scale_attn": (False,), "scale_fc": (False,), "timm_model_name": (None, ""),
}  # fmt: skip


def write(model: DualEncoder, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Notes and parity report of a new folder for transformers and sentence-transformers, compared with the model.

    Raises
    ------
    ModelError
        When transformers cannot express the model, with the reason; or when its vectors differ.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip-small", smoke=True).model)
    >>> write(model, Path("pair"))
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: transformers cannot express this model: it has no class for a text text tower ...
    """
    from embedkit.formats.parity import parity_report

    notes = write_files(model, folder)
    return {"notes": notes, "readers": parity_report(model, folder, ["transformers", "sentence-transformers"], samples)}


def write_files(model: DualEncoder, folder: Path) -> list[str]:
    """Notes on rare inputs that differ; writes configuration, weights, tokenizer, processor and modules.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> settings = {"model.towers.text.tokenizer": "builtin", "model.towers.text.max_length": 77}
    >>> model = build(load_recipe("clip-small", settings).model)
    >>> Path("clip").mkdir()
    >>> notes = write_files(model, Path("clip"))
    >>> sorted(path.name for path in Path("clip").glob("p*.json"))
    ['preprocessor_config.json', 'processor_config.json']
    """
    from embedkit.formats.tensors import write_tensors, write_tokenizer
    from embedkit.models.modules.clip_text import ClipTextEncoder
    from embedkit.models.towers.open_clip import OpenClipTower

    text, image = model.text, model.image
    if not isinstance(text, ClipTextEncoder):
        config, state, tokenizer = _mixed(model)
    elif text.fixed_length:
        config, state, tokenizer = _siglip(model, text)
    elif text.causal and (isinstance(image, OpenClipTower) or image.encoder.config.model_type == "clip_vision_model"):
        config, state, tokenizer = _clip(model, text)
    else:
        refuse(LIBRARY, "it has no class for these two towers")
    notes = write_processor(model.preprocess, folder, config.model_type)
    if text.cleaning != "none":
        notes.append(NOT_IN_TOKENIZERS)
    config.save_pretrained(folder)
    write_tensors(state, folder)
    write_tokenizer(tokenizer, folder)
    _write_modules(model, folder, config.model_type)
    return notes


def _clip(model: DualEncoder, text: ClipTextEncoder) -> tuple[Any, dict[str, Any], Any]:
    import torch
    from transformers import CLIPConfig

    if text.encoder.config.model_type != "clip_text_model":
        refuse(LIBRARY, f"embedkit writes no {text.encoder.config.model_type}")
    vision, visual, projection = vision_parts(model)
    own = text.encoder.config.to_dict()
    end = end_id(text)
    if text.highest_token:
        end = 2  # the form in which transformers reads the token with the highest id
    elif end == 2:
        refuse(LIBRARY, "an end token with id 2 means another pooling there")
    own |= {"eos_token_id": end, "projection_dim": model.dim, "max_position_embeddings": text.max_length}
    if text.max_length != text.encoder.config.max_position_embeddings:
        refuse(LIBRARY, f"the position table has more places than max_length, {text.max_length}")
    kind = model.projection("text")
    if kind.kind != "linear" or kind.bias or text.layers:
        refuse(LIBRARY, "a CLIPModel has one linear projection without bias behind each tower")
    config = CLIPConfig(
        text_config=own, vision_config=vision, projection_dim=model.dim, logit_scale_init_value=model.log_scale
    )
    state = {f"vision_model.{name}": tensor for name, tensor in visual.items()} | _encoder_state(text, "text_model.")
    state |= {"visual_projection.weight": projection, "text_projection.weight": kind.layers[0].weight}
    state["logit_scale"] = torch.tensor(model.log_scale)
    config.architectures = ["CLIPModel"]
    return config, state, with_cleaning(text)


def _encoder_state(text: Any, prefix: str) -> dict[str, Any]:
    own = text.tensors()
    return {prefix + n.removeprefix("encoder."): tensor for n, tensor in own.items() if n.startswith("encoder.")}


def vision_parts(model: DualEncoder) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Configuration and weights of a CLIPVisionModel, and the projection (D, I) behind it.

    Raises
    ------
    ModelError
        When the image tower is none.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> config, weights, projection = vision_parts(build(load_recipe("clip-small").model))
    >>> config["hidden_size"], projection.shape
    (192, torch.Size([128, 192]))
    """
    from embedkit.models.modules.adapters import has_adapters, merged_state
    from embedkit.models.towers.open_clip import OpenClipTower

    tower, projection = model.image, model.projection("image")
    state = merged_state(tower.encoder) if has_adapters(tower.encoder) else dict(tower.encoder.state_dict())
    if not isinstance(tower, OpenClipTower):
        if projection.kind != "linear" or projection.bias or tower.pooling != "pooler":  # type: ignore[union-attr]
            refuse(LIBRARY, "a CLIPModel reads the class token, with one linear projection without bias")
        return tower.encoder.config.to_dict(), state, projection.layers[0].weight
    cfg = tower.config
    for key, values in PLAIN_VIT.items():
        if cfg.get(key, values[0]) not in values:
            refuse(LIBRARY, f"a CLIPVisionModel has no {key} {cfg[key]!r}")
    if isinstance(cfg.get("layers", 12), list | tuple):
        refuse(LIBRARY, "a CLIPModel has no ResNet")
    if projection.kind != "none":
        refuse(LIBRARY, "a CLIPModel has one projection behind the image tower, and this model two")
    if tower.size[0] != tower.size[1]:
        refuse(LIBRARY, "a CLIPVisionModel takes square images")
    width = cfg.get("width", 768)
    vision = {
        "hidden_size": width, "intermediate_size": int(width * cfg.get("mlp_ratio", 4.0)),
        "num_hidden_layers": cfg.get("layers", 12), "num_attention_heads": width // cfg.get("head_width", 64),
        "image_size": tower.size[0], "patch_size": cfg.get("patch_size", 16), "projection_dim": model.dim,
        "hidden_act": activation(cfg, tower.quick_gelu),
        "layer_norm_eps": float((cfg.get("norm_kwargs") or {}).get("eps", 1e-5)),
    }  # fmt: skip
    return vision, clip_keys.vision_to_hf(state), state["proj"].T


def _siglip(model: DualEncoder, text: ClipTextEncoder) -> tuple[Any, dict[str, Any], Any]:
    import torch
    from transformers import SiglipConfig

    from embedkit.models.modules.adapters import has_adapters, merged_state

    encoder = model.image.encoder
    kinds = {part.kind for part in _projections(model)}
    kind = getattr(getattr(encoder, "config", None), "model_type", "")
    if kind != "siglip_vision_model" or model.image.pooling != "pooler" or kinds != {"none"}:
        refuse(LIBRARY, "a SiglipModel has SigLIP's own image tower and no projection behind the towers")
    visual = merged_state(encoder) if has_adapters(encoder) else encoder.state_dict()
    config = SiglipConfig(text_config=text.encoder.config.to_dict(), vision_config=encoder.config.to_dict())  # type: ignore[union-attr]
    config.architectures = ["SiglipModel"]
    state = {f"vision_model.{name}": tensor for name, tensor in visual.items()} | _encoder_state(text, "text_model.")
    state["logit_scale"] = torch.tensor([model.log_scale])
    state["logit_bias"] = torch.tensor([0.0 if model.bias is None else model.bias])
    return config, state, with_cleaning(text)


def _mixed(model: DualEncoder) -> tuple[Any, dict[str, Any], Any]:
    """A VisionTextDualEncoderModel: both towers end in their own pooler and a linear projection."""
    import torch
    from transformers import VisionTextDualEncoderConfig

    from embedkit.formats.transformers.text_writer import pooler_of
    from embedkit.models.modules.adapters import has_adapters, merged_state
    from embedkit.models.modules.text import TextEncoder

    text, image = model.text, model.image
    if not isinstance(text, TextEncoder) or image.family != "transformers":
        refuse(LIBRARY, f"it has no class for a {text.kind} text tower with an image tower of {image.family}")
    assert isinstance(text, TextEncoder)
    head = pooler_of(text)
    if head is None:
        refuse(LIBRARY, "a VisionTextDualEncoder reads the text through a tanh pooler on the first token")
    if image.pooling != "pooler" or any(p.kind != "linear" or p.bias for p in _projections(model)):  # type: ignore[union-attr]
        refuse(LIBRARY, "a VisionTextDualEncoder reads poolers, with linear projections without bias")
    visual = merged_state(image.encoder) if has_adapters(image.encoder) else image.encoder.state_dict()
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        image.encoder.config, text.encoder.config, projection_dim=model.dim, logit_scale_init_value=model.log_scale
    )
    config.architectures = ["VisionTextDualEncoderModel"]
    state = {f"vision_model.{name}": tensor for name, tensor in visual.items()} | _encoder_state(text, "text_model.")
    state |= {f"text_model.pooler.dense.{leaf}": tensor for leaf, tensor in head.linear.state_dict().items()}
    state["visual_projection.weight"] = model.projection("image").layers[0].weight
    state["text_projection.weight"] = model.projection("text").layers[0].weight
    state["logit_scale"] = torch.tensor(model.log_scale)
    return config, state, text.tokenizer


def _projections(model: DualEncoder) -> list[Projection]:
    return [model.projection(name) for name in ("text", "image")]


_PROCESSORS = {
    "clip": ("CLIPProcessor", "CLIPImageProcessor"), "siglip": ("SiglipProcessor", "SiglipImageProcessor"),
    "vision-text-dual-encoder": ("VisionTextDualEncoderProcessor", "CLIPImageProcessor"),
    "image": ("", "CLIPImageProcessor"),
}  # fmt: skip


def write_processor(preprocess: Preprocess, folder: Path, model_type: str) -> list[str]:
    """Notes on images that differ; writes the image processor in the form of transformers 4 and of 5; `model_type` is
    "image" for an image tower alone.

    Examples
    --------
    >>> write_processor(Preprocess(size=(32, 32), alpha="white"), Path(), "clip")[-1]
    'transformers leaves an alpha channel out; this model puts transparent pixels on white'
    """
    if preprocess.patch is not None:
        refuse(LIBRARY, "its image processors bring all images to one shape, and preprocess.patch gives each its own")
    if preprocess.resize == "longest":
        refuse(LIBRARY, "its image processors cannot fill what a fitted image leaves free")
    if preprocess.resize == "shortest" and preprocess.edge is None and preprocess.size[0] != preprocess.size[1]:
        refuse(LIBRARY, "its image processors cut no rectangle out of a resized image in one step")
    whole, image = _PROCESSORS[model_type]
    side = {"height": preprocess.size[0], "width": preprocess.size[1]}
    settings = {
        "do_resize": preprocess.resize != "none", "resample": FILTERS[preprocess.interpolation],
        "size": {"shortest_edge": preprocess.edge or preprocess.size[0]} if preprocess.resize == "shortest" else side,
        "do_center_crop": preprocess.resize != "squash", "crop_size": side, "do_convert_rgb": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(preprocess.mean), "image_std": list(preprocess.std),
    }  # fmt: skip
    own = {**settings, "image_processor_type": image}
    write_json(folder / "preprocessor_config.json", {**own, "processor_class": whole} if whole else own)
    if whole:
        write_json(folder / "processor_config.json", {"image_processor": own, "processor_class": whole})
    notes = [PIL_NOTE]
    if preprocess.crop == "round" and preprocess.resize == "shortest":
        notes.append("transformers splits an odd crop margin by rounding down, one pixel beside this model")
    if preprocess.alpha == "white":
        notes.append("transformers leaves an alpha channel out; this model puts transparent pixels on white")
    elif preprocess.convert == "after":
        notes.append("transformers converts to RGB before resizing; palette images differ a little")
    return notes


def _write_modules(model: DualEncoder, folder: Path, model_type: str) -> None:
    """The files that make sentence-transformers read the folder as one multimodal module."""
    from embedkit import __version__
    from embedkit.models.inputs.tokens import SLOT

    outputs = {kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"}
               for kind in ("text", "image")}  # fmt: skip
    settings: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": outputs,
        "module_output_name": "sentence_embedding",
    }
    if model_type == "siglip":
        settings["processing_kwargs"] = {"text": {"padding": "max_length", "max_length": model.max_length}}
    write_json(folder / "sentence_bert_config.json", settings)
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{_BASE}.transformer.Transformer"}]
    if model.normalize:
        modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{_BASE}.normalize.Normalize"})
        (folder / "1_Normalize").mkdir()
        write_json(folder / "1_Normalize" / "config.json", {})
    write_json(folder / "modules.json", modules)
    if model.default_prompt is not None and not is_prefix(model.prompts[model.default_prompt]):
        refuse("sentence-transformers", f"the default prompt {model.default_prompt!r} is a template")
    prompts = {name: text.removesuffix(SLOT) for name, text in model.prompts.items() if is_prefix(text)}
    default = model.default_prompt if model.default_prompt in prompts else None
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer", "__version__": {"embedkit": __version__}, "prompts": prompts,
            "default_prompt_name": default, "similarity_fn_name": "cosine",
        },
    )  # fmt: skip
