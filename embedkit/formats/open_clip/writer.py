"""open_clip's folders, written from a `DualEncoder`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.formats.folder import write_json
from embedkit.formats.open_clip import keys as clip_keys
from embedkit.formats.open_clip.text_config import ACTIVATIONS, has_clip_vocabulary, open_clip_text_cfg, refuse
from embedkit.formats.tensors import write_tokenizer
from embedkit.models.inputs.preprocess import Preprocess

if TYPE_CHECKING:
    from embedkit.formats.open_clip.text_tower import OpenClipText
    from embedkit.models.modules.clip_text import ClipTextEncoder
    from embedkit.models.modules.dual import DualEncoder

from embedkit.formats.open_clip.towers import CONFIG, WEIGHTS, is_timm
from embedkit.formats.registry import DUAL_KINDS, FolderWriter, writers


def _write(model: DualEncoder, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Notes and parity report of a new open_clip folder, compared with the model.

    Raises
    ------
    ModelError
        When open_clip cannot express the model, with the reason; or when its vectors differ.
    """
    from embedkit.formats.parity import parity_report

    notes = write_files(model, folder)
    return {"notes": notes, "readers": parity_report(model, folder, ["open_clip"], samples)}


def write_files(model: DualEncoder, folder: Path) -> list[str]:
    """Notes on rare inputs that differ; writes configuration, weights and tokenizer.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> settings = {"model.towers.text.tokenizer": "builtin", "model.towers.text.max_length": 77}
    >>> model = build(load_recipe("clip-small", settings).model)
    >>> model.text.cleaning = "whitespace"  # open_clip always cleans
    >>> Path("clip").mkdir()
    >>> notes = write_files(model, Path("clip"))
    >>> sorted(path.name for path in Path("clip").iterdir())
    ['open_clip_config.json', 'open_clip_model.safetensors', 'tokenizer.json', 'tokenizer_config.json']
    """
    from embedkit.formats.open_clip.text_tower import OpenClipText
    from embedkit.models.modules.clip_text import ClipTextEncoder

    text = model.text
    if isinstance(text, OpenClipText):
        return _write_own_text(model, text, folder)
    if not isinstance(text, ClipTextEncoder) or (
        not text.fixed_length and text.encoder.config.model_type != "clip_text_model"
    ):
        refuse("open_clip", "its own text towers are CLIP's and SigLIP's, and others it reads from the hub only")
    assert isinstance(text, ClipTextEncoder)
    text_cfg, quick_text = open_clip_text_cfg(text)
    vision_cfg, visual, quick_image = vision_parts(model)
    if quick_image is not None and quick_image != quick_text:
        refuse("open_clip", "one tower has QuickGELU and the other not")
    state = {f"visual.{name}": tensor for name, tensor in visual.items()} | text_parts(model, text)
    cfg = {"embed_dim": model.dim, "quick_gelu": quick_text, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    notes = _write_config_and_weights(model, cfg, state, folder)
    if "hf_tokenizer_name" in text_cfg and not (folder / "tokenizer.json").is_file():
        write_tokenizer(text.tokenizer, folder)
    return notes


def _write_config_and_weights(
    model: DualEncoder, cfg: dict[str, Any], state: dict[str, Any], folder: Path
) -> list[str]:
    """Notes on images that differ; writes configuration and weights, the scale with them."""
    import torch

    from embedkit.formats.tensors import write_tensors

    state["logit_scale"], cfg["init_logit_scale"] = torch.tensor(model.log_scale), model.log_scale
    if model.bias is not None:
        state["logit_bias"], cfg["init_logit_bias"] = torch.tensor(model.bias), model.bias
    preprocess, notes = preprocess_cfg(model.preprocess)
    write_json(folder / CONFIG, {"model_cfg": cfg, "preprocess_cfg": preprocess})
    write_tensors(state, folder, WEIGHTS)
    return notes


def _write_own_text(model: DualEncoder, text: OpenClipText, folder: Path) -> list[str]:
    """Notes on a model whose text tower is open_clip's own; writes its files."""
    if model.projection("text").kind != "none":
        refuse("open_clip", "its text tower has a projection of its own, and this model a second one")
    vision_cfg, visual, quick_image = vision_parts(model)
    if quick_image is not None and quick_image != text.quick_gelu:
        refuse("open_clip", "one tower has QuickGELU and the other not")
    text_cfg = {key: value for key, value in text.config.items() if key != "output_tokens"}
    vision_cfg = {key: value for key, value in vision_cfg.items() if key != "output_tokens"}  # for CoCa's decoder
    if text.dropped is not None or not has_clip_vocabulary(text.tokenizer):
        kwargs = {"clean": text.cleaning, **({"strip_sep_token": True} if text.dropped is not None else {})}
        text_cfg |= {"hf_tokenizer_name": "tokenizer", "tokenizer_kwargs": kwargs}
        write_tokenizer(text.tokenizer, folder)
    state = {f"visual.{name}": tensor for name, tensor in visual.items()}
    state |= {f"text.{name}": tensor for name, tensor in text.encoder.state_dict().items()}
    cfg = {"embed_dim": model.dim, "quick_gelu": text.quick_gelu, "vision_cfg": vision_cfg, "text_cfg": text_cfg,
           "custom_text": True}  # fmt: skip
    return _write_config_and_weights(model, cfg, state, folder)


def vision_parts(model: DualEncoder) -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """open_clip's ``vision_cfg``, its weights, and whether it has QuickGELU (None where that does not matter).

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip-small", {"model.towers.text.tokenizer": "builtin"}).model)
    >>> cfg, weights, quick_gelu = vision_parts(model)
    >>> cfg["width"], cfg["layers"], weights["class_embedding"].shape, quick_gelu
    (192, 6, torch.Size([192]), False)
    """
    from embedkit.models.modules.adapters import has_adapters, merged_state
    from embedkit.models.towers.open_clip import OpenClipTower
    from embedkit.models.towers.timm import TimmTower

    tower, projection = model.image, model.projection("image")
    state = merged_state(tower.encoder) if has_adapters(tower.encoder) else dict(tower.encoder.state_dict())
    if isinstance(tower, OpenClipTower):
        if projection.kind != "none":
            refuse("open_clip", "its image tower has a projection of its own, and this model a second one")
        if isinstance(tower, TimmTower) and tower.has_new_positions:
            refuse("open_clip", f"it builds {tower.config['timm_model_name']} for images of {tower.usual_size} only")
        cfg = {key: value for key, value in tower.config.items() if key != "patch_dropout"}
        return cfg, state, None if is_timm(cfg) or isinstance(cfg.get("layers"), list) else tower.quick_gelu
    config = tower.encoder.config
    plain = projection.kind == "linear" and not projection.bias
    if config.model_type != "clip_vision_model" or tower.pooling != "pooler" or not plain:  # type: ignore[union-attr]
        refuse("open_clip", f"it has no {config.model_type} tower like this")
    cfg = {
        "layers": config.num_hidden_layers, "width": config.hidden_size, "patch_size": config.patch_size,
        "head_width": config.hidden_size // config.num_attention_heads, "image_size": list(tower.size),
        "mlp_ratio": config.intermediate_size / config.hidden_size,
    }  # fmt: skip
    quick = config.hidden_act == "quick_gelu"
    if not quick and config.hidden_act not in ACTIVATIONS:
        refuse("open_clip", f"it has no activation {config.hidden_act!r}")
    cfg |= {"act_kwargs": ACTIVATIONS[config.hidden_act]} if not quick and ACTIVATIONS[config.hidden_act] else {}
    cfg |= {"norm_kwargs": {"eps": config.layer_norm_eps}} if config.layer_norm_eps != 1e-5 else {}
    return cfg, {**clip_keys.vision_from_hf(state), "proj": projection.layers[0].weight.T}, quick


def text_parts(model: DualEncoder, text: ClipTextEncoder) -> dict[str, Any]:
    """open_clip's weights of the text tower.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip-small", {"model.towers.text.tokenizer": "builtin"}).model)
    >>> text_parts(model, model.text)["text_projection"].shape
    torch.Size([128, 128])
    """
    projection = model.projection("text")
    if text.layers:
        refuse("open_clip", "the text tower has dense layers")
    tensors = {name.removeprefix("encoder."): tensor for name, tensor in text.tensors().items()}
    state = clip_keys.text_from_hf(tensors)
    if text.fixed_length:
        if projection.kind != "none":
            refuse("open_clip", "a SigLIP text tower ends in its own head, and this model has a projection behind it")
        return state | {f"text_projection.{leaf}": tensors[f"head.{leaf}"] for leaf in ("weight", "bias")}
    if projection.kind != "linear" or projection.bias:
        refuse("open_clip", f"a CLIP text tower has a linear projection without bias, not {projection.kind!r}")
    return state | {"text_projection": projection.layers[0].weight.T}


def preprocess_cfg(preprocess: Preprocess) -> tuple[dict[str, Any], list[str]]:
    """open_clip's ``preprocess_cfg``, and notes on images that it treats otherwise.

    Examples
    --------
    >>> cfg, notes = preprocess_cfg(Preprocess(size=(32, 32)))
    >>> cfg["size"], cfg["resize_mode"], cfg["interpolation"]
    ([32, 32], 'shortest', 'bicubic')
    """
    if preprocess.patch is not None:
        refuse("open_clip", "it brings all images to one shape, and preprocess.patch gives each its own")
    if preprocess.resize == "none" or preprocess.interpolation not in ("bicubic", "bilinear"):
        refuse("open_clip", f"it cannot resize with {preprocess.resize!r} and {preprocess.interpolation!r}")
    if preprocess.resize == "shortest" and preprocess.edge not in (None, min(preprocess.size)):
        refuse(
            "open_clip", f"it cannot resize the shorter side to {preprocess.edge} and cut {preprocess.size} out of it"
        )
    notes = []
    if preprocess.crop == "truncate" and preprocess.resize != "squash":
        notes.append("open_clip splits an odd crop margin by rounding half to even, one pixel beside this model")
    if preprocess.alpha == "white":
        notes.append("open_clip leaves an alpha channel out; this model puts transparent pixels on white")
    cfg = {
        "size": list(preprocess.size), "mean": list(preprocess.mean), "std": list(preprocess.std),
        "interpolation": preprocess.interpolation, "resize_mode": preprocess.resize, "fill_color": preprocess.fill,
    }  # fmt: skip
    return cfg, notes


writers.add("open_clip")(FolderWriter(DUAL_KINDS, _write))
