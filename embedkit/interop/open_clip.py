"""open_clip's folders: read into a `DualEncoder`, and written from one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError, UnsafeFileError
from embedkit.interop import clip_keys
from embedkit.interop.clip_text import ACTIVATIONS, open_clip_text_cfg, refuse, text_config
from embedkit.models.folder import read_json
from embedkit.models.preprocess import Preprocess
from embedkit.models.saving import write_json

if TYPE_CHECKING:
    from embedkit.models.clip_text import ClipTextEncoder
    from embedkit.models.dual import DualEncoder

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
PICKLES = ("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth")
POOLERS = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "cls"}


def read(folder: Path, *, allow_pickle: bool = False) -> DualEncoder:
    """The model of an open_clip folder.

    Raises
    ------
    ModelError
        When it is incomplete, or has parts that embedkit does not have.
    UnsafeFileError
        When the weights are a pickle and that was not allowed.
    """
    saved = read_json(folder / CONFIG)
    if not isinstance(saved, dict) or "model_cfg" not in saved:
        raise ModelError("has no model_cfg", where=str(folder / CONFIG), remedy="write the folder again")
    return assemble(saved["model_cfg"], saved.get("preprocess_cfg") or {}, _weights(folder, allow_pickle), folder)


def _weights(folder: Path, allow_pickle: bool) -> dict[str, Any]:
    from embedkit.models.loading import read_safetensors, reading

    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    pickles = [name for name in PICKLES if (folder / name).is_file()]
    if not pickles:
        raise ModelError(f"has no {WEIGHTS}", where=str(folder), remedy="copy the folder completely")
    if not allow_pickle:
        raise UnsafeFileError(
            f"the weights are a pickle ({pickles[0]})", where=str(folder),
            remedy="convert it to safetensors, or load with allow_pickle=True",
        )  # fmt: skip
    import torch

    with reading(folder):
        found = torch.load(folder / pickles[0], map_location="cpu", weights_only=True)
        tensors: dict[str, Any] = found.get("state_dict", found)
    return tensors


def load_tag(name: str) -> DualEncoder:
    """A model by ``ARCHITECTURE`` (random weights) or ``ARCHITECTURE/TAG`` (pretrained, from open_clip's sources).

    Raises
    ------
    ModelError
        Unknown name, or weights that cannot be fetched.
    """
    from embedkit.models.image_towers import need
    from embedkit.models.sizes import architecture

    need("open_clip", "clip", "a model of open_clip")
    import open_clip
    import torch

    kind, _, tag = name.partition("/")
    config = architecture(kind, {})
    try:
        with torch.random.fork_rng(devices=[]):
            model = open_clip.create_model(kind, pretrained=tag or None)
    except Exception as error:  # open_clip raises RuntimeError, and whatever its download raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"open_clip cannot give it ({reason})", where=f"open_clip:{name}") from error
    known = open_clip.get_model_preprocess_cfg(model)
    quick = any(type(module).__name__ == "QuickGELU" for module in model.modules())
    return assemble({**config, "quick_gelu": quick}, known, model.state_dict(), None)


def assemble(
    cfg: dict[str, Any], preprocess: dict[str, Any], state: dict[str, Any], folder: Path | None
) -> DualEncoder:
    """The model of open_clip's configuration and weights; `folder` holds its tokenizer where it has one of its own."""
    from embedkit.models.dual import DualEncoder, Projection
    from embedkit.models.dual_folder import load_exactly
    from embedkit.models.image_towers import OpenClipTower

    if cfg.get("multimodal_cfg"):
        raise ModelError("CoCa's captioning tower is not supported", where="model_cfg.multimodal_cfg")
    dim, quick = int(cfg["embed_dim"]), bool(cfg.get("quick_gelu", False))
    where = folder or Path("open_clip")
    vision = {key: value for key, value in cfg["vision_cfg"].items() if key != "timm_model_pretrained"}
    image = OpenClipTower(dim, {**vision, **({"timm_model_pretrained": False} if _timm(vision) else {})}, quick)
    load_exactly(image.encoder, _under(state, "visual."), where)
    nested = any(name.startswith("text.") for name in state)
    rest = _under(state, "text.") if nested else {n: t for n, t in state.items() if not n.startswith("visual.")}
    text, projection = _text(dict(cfg["text_cfg"]), dim, quick, rest, where)
    known = Preprocess(
        size=image.size, resize=preprocess.get("resize_mode") or "shortest",
        interpolation=_interpolation(preprocess.get("interpolation")), mean=_three(preprocess, "mean", Preprocess.mean),
        std=_three(preprocess, "std", Preprocess.std), fill=int(preprocess.get("fill_color") or 0), alpha="drop",
    )  # fmt: skip
    scale, bias = state.get("logit_scale"), state.get("logit_bias")
    return DualEncoder(
        text, image, projection, Projection("none", dim, dim), known,
        scale=None if scale is None else math.exp(scale.item()), bias=None if bias is None else bias.item(),
    )  # fmt: skip


def _timm(vision: dict[str, Any]) -> bool:
    return bool(vision.get("timm_model_name"))


def _interpolation(name: str | None) -> str:
    return "bilinear" if name == "bilinear" else "bicubic"  # "random" is for training only


def _three(settings: dict[str, Any], key: str, default: Any) -> Any:
    value = settings.get(key) or default
    return tuple(float(v) for v in (value if isinstance(value, list | tuple) else (value,) * 3))


def _under(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _text(cfg: dict[str, Any], dim: int, quick: bool, state: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """The text tower and its projection."""
    from transformers import AutoConfig

    from embedkit.models.clip_text import ClipTextEncoder, special_ids
    from embedkit.models.dual import Projection
    from embedkit.models.dual_folder import load_exactly
    from embedkit.models.loading import new_encoder

    if cfg.get("hf_model_name"):
        return _hf_text(cfg, dim, state, folder)
    settings = text_config(cfg, dim, quick)
    tokenizer, cleaning = _tokenizer(cfg, folder)
    settings |= special_ids(tokenizer)
    encoder = new_encoder(AutoConfig.for_model(**settings))
    tensors = clip_keys.text_to_hf(state)
    if settings["model_type"] == "siglip_text_model":
        tensors |= {"head.weight": state["text_projection.weight"], "head.bias": state["text_projection.bias"]}
        projection = Projection("none", dim, dim)
    else:
        projection = Projection("linear", settings["hidden_size"], dim)
        load_exactly(projection, {"layers.0.weight": state["text_projection"].T}, folder)
    load_exactly(encoder, tensors, folder)
    return ClipTextEncoder(encoder, tokenizer, cleaning=cleaning, max_length=cfg.get("context_length", 77)), projection


def _hf_text(cfg: dict[str, Any], dim: int, state: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig

    from embedkit.models.clip_text import ClipTextEncoder
    from embedkit.models.dual import Projection
    from embedkit.models.dual_folder import load_exactly
    from embedkit.models.loading import new_encoder

    pooler = cfg.get("hf_pooler_type", "mean_pooler")
    if pooler not in POOLERS:
        raise ModelError(f"open_clip's {pooler} is not supported", where="text_cfg.hf_pooler_type")
    try:  # a file may name any model: what is not here already is not fetched
        known = AutoConfig.from_pretrained(cfg["hf_model_name"], local_files_only=True, trust_remote_code=False)
        encoder = new_encoder(known)
    except (OSError, ValueError) as error:
        name = cfg["hf_model_name"]
        raise ModelError(
            f"the configuration of its text tower {name!r} is not in the hub's cache", where=str(folder / CONFIG),
            remedy=f"read what it is, then fetch it once: hf download {name}",
        ) from error  # fmt: skip
    own = {n: t for n, t in _under(state, "transformer.").items() if not n.startswith("pooler.")}
    load_exactly(encoder, {n: t for n, t in own.items() if n in encoder.state_dict()}, folder)
    kind = cfg.get("hf_proj_type") or "none"
    projection = Projection(kind, int(encoder.config.hidden_size), dim)
    names = {"linear": {"proj.weight": "layers.0.weight"}, "none": {}}.get(
        kind, {"proj.0.weight": "layers.0.weight", "proj.2.weight": "layers.1.weight"}
    )
    load_exactly(projection, {ours: state[theirs] for theirs, ours in names.items()}, folder)
    tokenizer, cleaning = _tokenizer(cfg, folder)
    text = ClipTextEncoder(
        encoder, tokenizer, cleaning=cleaning, pooling=POOLERS[pooler], max_length=cfg.get("context_length", 77)
    )
    return text, projection


def _tokenizer(cfg: dict[str, Any], folder: Path) -> tuple[Any, str]:
    """The tokenizer and the cleaning in front of it."""
    from embedkit.models.clip_text import clip_tokenizer
    from embedkit.models.loading import read_tokenizer

    given = dict(cfg.get("tokenizer_kwargs") or {})
    name = cfg.get("hf_tokenizer_name")
    if name is None:
        return clip_tokenizer(), given.get("clean", "lower")
    if cfg.get("tokenizer_mode") or given.get("strip_sep_token"):
        raise ModelError("this mode of open_clip's tokenizer is not supported", where="text_cfg.tokenizer_kwargs")
    held = (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()
    from embedkit.models.folder import locate

    return read_tokenizer(folder if held else locate(name, fetch=False)), given.get("clean", "whitespace")


# --- writing --------------------------------------------------------------------------------------------------------


def write(model: DualEncoder, folder: Path, samples: int = 100) -> dict[str, Any]:
    """Write an open_clip folder and compare what open_clip reads from it with the model.

    Raises
    ------
    ModelError
        When open_clip cannot express the model, with the reason; or when its vectors differ.
    """
    from embedkit.interop.certificate import certify

    notes = write_files(model, folder)
    return {"notes": notes, "readers": certify(model, folder, ["open_clip"], samples)}


def write_files(model: DualEncoder, folder: Path) -> list[str]:
    """Write configuration, weights and tokenizer; what differs in rare inputs is returned as notes."""
    import torch

    from embedkit.models.clip_text import ClipTextEncoder
    from embedkit.models.dual_folder import write_tensors

    text = model.text
    if not isinstance(text, ClipTextEncoder) or (
        not text.padded and text.encoder.config.model_type != "clip_text_model"
    ):
        refuse("open_clip", "its own text towers are CLIP's and SigLIP's, and others it reads from the hub only")
    assert isinstance(text, ClipTextEncoder)
    text_cfg, quick_text = open_clip_text_cfg(text)
    vision_cfg, visual, quick_image = vision_parts(model)
    if quick_image is not None and quick_image != quick_text:
        refuse("open_clip", "one tower has QuickGELU and the other not")
    state = {f"visual.{name}": tensor for name, tensor in visual.items()} | text_parts(model, text)
    state["logit_scale"] = torch.tensor(model.log_scale)
    cfg = {"embed_dim": model.dim, "quick_gelu": quick_text, "vision_cfg": vision_cfg, "text_cfg": text_cfg,
           "init_logit_scale": model.log_scale}  # fmt: skip
    if model.bias is not None:
        state["logit_bias"] = torch.tensor(model.bias)
        cfg["init_logit_bias"] = model.bias
    preprocess, notes = preprocess_cfg(model.preprocess)
    write_json(folder / CONFIG, {"model_cfg": cfg, "preprocess_cfg": preprocess})
    write_tensors(state, folder, WEIGHTS)
    if "hf_tokenizer_name" in text_cfg and not (folder / "tokenizer.json").is_file():
        text.tokenizer.save_pretrained(folder)
    return notes


def vision_parts(model: DualEncoder) -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """open_clip's ``vision_cfg``, its weights, and whether it has QuickGELU (None where that does not matter)."""
    from embedkit.models.adapters import has_adapters, merged_state
    from embedkit.models.image_towers import OpenClipTower

    tower, projection = model.image, model.projection("image")
    state = merged_state(tower.encoder) if has_adapters(tower.encoder) else dict(tower.encoder.state_dict())
    if isinstance(tower, OpenClipTower):
        if projection.kind != "none":
            refuse("open_clip", "its image tower has a projection of its own, and this model a second one")
        cfg = {key: value for key, value in tower.config.items() if key != "patch_dropout"}
        return cfg, state, None if _timm(cfg) or isinstance(cfg.get("layers"), list) else tower.quick_gelu
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
    """open_clip's weights of the text tower."""
    projection = model.projection("text")
    if text.layers:
        refuse("open_clip", "the text tower has dense layers")
    held = {name.removeprefix("encoder."): tensor for name, tensor in text.tensors().items()}
    state = clip_keys.text_from_hf(held)
    if text.padded:
        if projection.kind != "none":
            refuse("open_clip", "a SigLIP text tower ends in its own head, and this model has a projection behind it")
        return state | {f"text_projection.{leaf}": held[f"head.{leaf}"] for leaf in ("weight", "bias")}
    if projection.kind != "linear" or projection.bias:
        refuse("open_clip", f"a CLIP text tower has a linear projection without bias, not {projection.kind!r}")
    return state | {"text_projection": projection.layers[0].weight.T}


def preprocess_cfg(known: Preprocess) -> tuple[dict[str, Any], list[str]]:
    """open_clip's ``preprocess_cfg``, and notes on images that it treats otherwise."""
    if known.resize == "none" or known.interpolation not in ("bicubic", "bilinear"):
        refuse("open_clip", f"it cannot resize with {known.resize!r} and {known.interpolation!r}")
    if known.resize == "shortest" and known.edge not in (None, min(known.size)):
        refuse("open_clip", f"it cannot resize the shorter side to {known.edge} and cut {known.size} out of it")
    notes = []
    if known.crop == "truncate" and known.resize != "squash":
        notes.append("open_clip splits an odd crop margin by rounding half to even, one pixel beside this model")
    if known.alpha == "white":
        notes.append("open_clip leaves an alpha channel out; this model puts transparent pixels on white")
    cfg = {
        "size": list(known.size), "mean": list(known.mean), "std": list(known.std),
        "interpolation": known.interpolation, "resize_mode": known.resize, "fill_color": known.fill,
    }  # fmt: skip
    return cfg, notes
