"""open_clip's folders, read into a `DualEncoder`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedkit.formats.folder import read_json

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError, UnsafeFileError, nearest
from embedkit.formats.open_clip import keys as clip_keys
from embedkit.formats.open_clip.text_config import has_text_model, text_config
from embedkit.formats.safety import PICKLE_REMEDY
from embedkit.models.inputs.preprocess import Preprocess

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder

_log = logging.getLogger(__name__)
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
PICKLES = ("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth")
POOLERS = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "cls", "cls_pooler": "cls"}


def read(folder: Path, *, allow_pickle: bool = False) -> DualEncoder:
    """The dual encoder of an open_clip folder.

    Raises
    ------
    ModelError
        When it is incomplete, or has parts that embedkit does not have.
    UnsafeFileError
        When the weights are a pickle and that was not allowed.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> settings = {"model.towers.text.tokenizer": "builtin", "model.towers.text.max_length": 77}
    >>> model = build(load_recipe("clip-small", settings).model)
    >>> from embedkit.formats.open_clip.writer import write_files
    >>> model.text.cleaning = "whitespace"  # open_clip always cleans
    >>> Path("clip").mkdir()
    >>> notes = write_files(model, Path("clip"))
    >>> read(Path("clip")).dim
    128
    """
    contents = read_json(folder / CONFIG)
    if not isinstance(contents, dict) or "model_cfg" not in contents:
        raise ModelError("has no model_cfg", where=str(folder / CONFIG), remedy="write the folder again")
    return _assemble(
        contents["model_cfg"], contents.get("preprocess_cfg") or {}, _weights(folder, allow_pickle), folder
    )


def _weights(folder: Path, allow_pickle: bool) -> dict[str, Any]:
    from embedkit.formats.tensors import read_safetensors

    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    pickles = [name for name in PICKLES if (folder / name).is_file()]
    tensors = _checkpoint(folder / pickles[0], allow_pickle) if pickles else None
    if tensors is None:
        raise ModelError(f"has no {WEIGHTS}", where=str(folder), remedy="copy the folder completely")
    return tensors


def load_tag(name: str, *, allow_pickle: bool = False) -> DualEncoder:
    """A dual encoder by ``ARCHITECTURE`` (random weights), ``ARCHITECTURE/TAG`` (pretrained, fetched by open_clip) or
    ``ARCHITECTURE/FILE`` (a checkpoint of one's own, which open_clip's training writes).

    Raises
    ------
    ModelError
        Unknown name, or weights that cannot be fetched or do not fit.
    UnsafeFileError
        The checkpoint is a pickle and that was not allowed.

    Examples
    --------
    >>> load_tag("ViT-B-32/openia")
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: open_clip:ViT-B-32/openia: ViT-B-32 has no pretrained weights 'openia'; did you mean ...
    """
    from embedkit.errors import need
    from embedkit.formats.open_clip.architectures import architecture

    need("open_clip", "clip", "a model of open_clip")
    import open_clip
    import torch

    kind, tag = named(name)
    config = architecture(kind)
    tags = open_clip.list_pretrained_tags_by_model(kind)
    checkpoint = _checkpoint(Path(tag).expanduser(), allow_pickle) if tag and tag not in tags else None
    if tag and tag not in tags and checkpoint is None:
        remedy = f"{nearest(tag, tags)}; or the file of a checkpoint of that architecture"
        raise ModelError(f"{kind} has no pretrained weights {tag!r}", where=f"open_clip:{name}", remedy=remedy)
    try:
        with torch.random.fork_rng(devices=[]):
            model = open_clip.create_model(kind, pretrained=tag or None if checkpoint is None else None)
    except Exception as error:  # open_clip raises RuntimeError, and whatever its download raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"open_clip cannot give it ({reason})", where=f"open_clip:{name}") from error
    preprocess = open_clip.get_model_preprocess_cfg(model)
    quick = any(type(module).__name__ == "QuickGELU" for module in model.modules())
    if checkpoint is not None:
        _log.warning("%s: a checkpoint names no preprocessing: that of open_clip for %s is used", tag, kind)
    return _assemble({**config, "quick_gelu": quick}, preprocess, checkpoint or model.state_dict(), None)


def _checkpoint(file: Path, allow_pickle: bool) -> dict[str, Any] | None:
    """The tensors of a checkpoint, also of one that open_clip's training wrote; None where there is no such file."""
    from embedkit.formats.tensors import read_safetensors, reading

    if not file.is_file():
        return None
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    if not allow_pickle:
        raise UnsafeFileError(f"the weights are a pickle ({file.name})", where=str(file.parent), remedy=PICKLE_REMEDY)
    import torch

    with reading(file):
        content = torch.load(file, map_location="cpu", weights_only=True)
        tensors = {name: tensor.float() for name, tensor in content.get("state_dict", content).items()}
    distributed = all(name.startswith("module.") for name in tensors)
    return _under(tensors, "module.") if distributed else tensors


def named(name: str) -> tuple[str, str]:
    """Architecture and tag of ``ARCHITECTURE/TAG``; a slash within the architecture (``ViT-B/32``) is its dash.

    Examples
    --------
    >>> named("ViT-B/32/openai")
    ('ViT-B-32', 'openai')
    """
    import open_clip

    parts, models = name.split("/"), set(open_clip.list_models())
    for count in range(len(parts), 1, -1):
        if "-".join(parts[:count]) in models:
            return "-".join(parts[:count]), "/".join(parts[count:])
    return parts[0], "/".join(parts[1:])


def _assemble(
    cfg: dict[str, Any], preprocess_cfg: dict[str, Any], state: dict[str, Any], folder: Path | None
) -> DualEncoder:
    """The dual encoder of open_clip's configuration and weights; a tokenizer of its own is in `folder`."""
    from embedkit.formats.tensors import load_exactly
    from embedkit.models.modules.dual import DualEncoder, Projection
    from embedkit.models.modules.image_towers import build_image_tower

    if cfg.get("multimodal_cfg"):
        _log.warning("%s: CoCa's two contrastive towers are read, its captioning decoder is left out", folder)
    dim, quick = int(cfg["embed_dim"]), bool(cfg.get("quick_gelu", False))
    where = folder or Path("open_clip")
    vision = {key: value for key, value in cfg["vision_cfg"].items() if key != "timm_model_pretrained"}
    vision |= {"timm_model_pretrained": False} if is_timm(vision) else {}
    image = build_image_tower({"family": "open_clip", "dim": dim, "config": vision, "quick_gelu": quick})
    load_exactly(image.encoder, _under(state, "visual."), where)
    nested = any(name.startswith("text.") for name in state)
    outside = ("visual.", "text_decoder.", "logit_")
    rest = _under(state, "text.") if nested else {n: t for n, t in state.items() if not n.startswith(outside)}
    text, projection = _text(dict(cfg["text_cfg"]), dim, quick, rest, where)
    preprocess = Preprocess(
        size=image.size, resize=preprocess_cfg.get("resize_mode") or "shortest",
        interpolation=_interpolation(preprocess_cfg.get("interpolation")),
        mean=_three(preprocess_cfg, "mean", Preprocess.mean), std=_three(preprocess_cfg, "std", Preprocess.std),
        fill=int(preprocess_cfg.get("fill_color") or 0), alpha="drop",
    )  # fmt: skip
    scale, bias = state.get("logit_scale"), state.get("logit_bias")
    return DualEncoder(
        text, image, projection, Projection("none", dim, dim), preprocess,
        scale=None if scale is None else math.exp(scale.item()), bias=None if bias is None else bias.item(),
    )  # fmt: skip


def is_timm(vision: dict[str, Any]) -> bool:
    """Whether an open_clip image tower is one of timm's.

    Examples
    --------
    >>> is_timm({"timm_model_name": "convnext_atto"}), is_timm({"width": 128, "layers": 4})
    (True, False)
    """
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

    from embedkit.formats.tensors import load_exactly
    from embedkit.formats.transformers.encoder import new_encoder
    from embedkit.models.modules.clip_text import ClipTextEncoder, special_ids
    from embedkit.models.modules.dual import Projection

    if cfg.get("hf_model_name"):
        return _hf_text(cfg, dim, state, folder)
    tokenizer, cleaning = _tokenizer(cfg, folder)
    separated = (cfg.get("tokenizer_kwargs") or {}).get("strip_sep_token")
    if separated or not has_text_model(cfg):
        return _own_text(cfg, dim, quick, state, folder), Projection("none", dim, dim)
    settings = text_config(cfg, dim, quick)
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
    text = ClipTextEncoder(encoder, tokenizer, cleaning=cleaning, max_length=cfg.get("context_length", 77))
    if text.causal and cfg.get("pool_type", "argmax") == "argmax":
        text.highest_token = special_ids(tokenizer)["eos_token_id"] != max(tokenizer.get_vocab().values())
    return text, projection


def _own_text(cfg: dict[str, Any], dim: int, quick: bool, state: dict[str, Any], folder: Path) -> Any:
    """open_clip's own text tower, where transformers has none like it."""
    from embedkit.formats.open_clip.text_tower import OpenClipText
    from embedkit.formats.tensors import load_exactly

    tokenizer, cleaning = _tokenizer(cfg, folder)
    own = cfg.get("hf_tokenizer_name") is None
    separated = (cfg.get("tokenizer_kwargs") or {}).get("strip_sep_token")
    text = OpenClipText(
        {key: value for key, value in cfg.items() if not key.startswith(("hf_", "tokenizer_"))}, dim, tokenizer,
        quick_gelu=quick, cleaning=cleaning, filler=0 if own else tokenizer.pad_token_id or 0,
        dropped=tokenizer.sep_token_id if separated else None,
    )  # fmt: skip
    load_exactly(text.encoder, {name: state[name] for name in text.encoder.state_dict() if name in state}, folder)
    return text


def _hf_text(cfg: dict[str, Any], dim: int, state: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig

    from embedkit.formats.tensors import load_exactly
    from embedkit.formats.transformers.encoder import new_encoder
    from embedkit.models.heads.layers import Dense
    from embedkit.models.modules.clip_text import ClipTextEncoder
    from embedkit.models.modules.dual import Projection

    pooler = cfg.get("hf_pooler_type", "mean_pooler")
    if pooler not in POOLERS:
        raise ModelError(f"open_clip's {pooler} is not supported", where="text_cfg.hf_pooler_type")
    try:  # a file may name any model: what is not here already is not fetched
        config = AutoConfig.from_pretrained(cfg["hf_model_name"], local_files_only=True, trust_remote_code=False)
        encoder = new_encoder(config)
    except (OSError, ValueError) as error:
        name = cfg["hf_model_name"]
        raise ModelError(
            f"the configuration of its text tower {name!r} is not in the hub's cache", where=str(folder / CONFIG),
            remedy=f"read what it is, then fetch it once: hf download {name}",
        ) from error  # fmt: skip
    whole = _under(state, "transformer.")
    own = {n: t for n, t in whole.items() if not n.startswith("pooler.")}
    if "embed_tokens.weight" in own and "embed_tokens.weight" not in encoder.state_dict():  # of T5 it keeps the stack
        own = {f"encoder.{n}": t for n, t in own.items()} | {"shared.weight": own["embed_tokens.weight"]}
    load_exactly(encoder, {n: t for n, t in own.items() if n in encoder.state_dict()}, folder)
    kind = cfg.get("hf_proj_type", "mlp") or "none"
    projection = Projection(kind, int(encoder.config.hidden_size), dim)
    names = {"linear": {"proj.weight": "layers.0.weight"}, "none": {}}.get(
        kind, {"proj.0.weight": "layers.0.weight", "proj.2.weight": "layers.1.weight"}
    )
    load_exactly(projection, {ours: state[theirs] for theirs, ours in names.items()}, folder)
    tokenizer, cleaning = _tokenizer(cfg, folder)
    dense = []
    if pooler == "cls_pooler" and "pooler.dense.weight" in whole:  # BERT's layer on the first token; others have none
        outputs, inputs = whole["pooler.dense.weight"].shape
        dense.append(Dense(inputs, outputs, "tanh"))
        load_exactly(dense[0], {f"linear.{n}": whole[f"pooler.dense.{n}"] for n in ("weight", "bias")}, folder)
    text = ClipTextEncoder(
        encoder, tokenizer, cleaning=cleaning, pooling=POOLERS[pooler], max_length=cfg.get("context_length", 77),
        dense=dense,
    )  # fmt: skip
    return text, projection


def _tokenizer(cfg: dict[str, Any], folder: Path) -> tuple[Any, str]:
    """The tokenizer and the cleaning in front of it."""
    from embedkit.formats.transformers.tokenizer import read_tokenizer
    from embedkit.models.modules.clip_text import clip_tokenizer

    kwargs = dict(cfg.get("tokenizer_kwargs") or {})
    name = cfg.get("hf_tokenizer_name")
    if name is None:
        tokenizer = clip_tokenizer()
        tokenizer.model_max_length = cfg.get("context_length", 77)
        return tokenizer, kwargs.get("clean", "lower")
    if cfg.get("tokenizer_mode"):
        raise ModelError("this mode of open_clip's tokenizer is not supported", where="text_cfg.tokenizer_kwargs")
    from embedkit.formats.detect import locate
    from embedkit.formats.safety import has_tokenizer

    place = folder if has_tokenizer(folder) else locate(name, fetch=False)
    return read_tokenizer(place), kwargs.get("clean", "whitespace")
