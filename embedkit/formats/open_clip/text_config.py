"""Text towers of open_clip and of transformers: one configuration from the other, and the tokenizer for both."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from embedkit.errors import ModelError

if TYPE_CHECKING:
    from embedkit.models.modules.clip_text import ClipTextEncoder

# keys of open_clip's text_cfg whose other values no transformers model has
_PLAIN = {
    "ls_init_value": (None,), "embed_cls": (False,), "final_ln_after_pool": (False,), "output_tokens": (False, True),
    "proj_type": ("linear",), "block_type": (None, "default"), "qk_norm": (False,), "scaled_cosine_attn": (False,),
    "scale_heads": (False,), "scale_attn_inner": (False,), "scale_attn": (False,), "scale_fc": (False,),
    "hf_model_name": (None,),
}  # fmt: skip
ACTIVATIONS = {"gelu": {}, "gelu_pytorch_tanh": {"approximate": "tanh"}}


def has_text_model(cfg: dict[str, Any]) -> bool:
    """Whether transformers has a text model for open_clip's ``text_cfg``: CLIP's or SigLIP's.

    Examples
    --------
    >>> has_text_model({"width": 512}), has_text_model({"embed_cls": True})  # CLIP, CoCa
    (True, False)
    """
    plain = all(cfg.get(key, values[0]) in values for key, values in _PLAIN.items() if key != "output_tokens")
    causal, bias = not cfg.get("no_causal_mask", False), cfg.get("proj_bias", False)
    pool = cfg.get("pool_type", "argmax")
    return plain and ((causal and not bias and pool in ("argmax", "eos")) or (not causal and bias and pool == "last"))


def text_config(cfg: dict[str, Any], dim: int, quick_gelu: bool) -> dict[str, Any]:
    """transformers' configuration of open_clip's ``text_cfg``: CLIP's where it is causal, else SigLIP's.

    Raises
    ------
    ModelError
        Naming the setting that no text model of transformers has.

    Examples
    --------
    >>> config = text_config({"width": 64, "layers": 2, "heads": 2}, dim=32, quick_gelu=False)
    >>> config["model_type"], config["hidden_size"], config["hidden_act"]
    ('clip_text_model', 64, 'gelu')
    """
    for key, values in _PLAIN.items():
        if cfg.get(key, values[0]) not in values:
            raise ModelError(f"open_clip's text_cfg has {key} = {cfg[key]!r}, which is not supported", where="text_cfg")
    width, pool = cfg.get("width", 512), cfg.get("pool_type", "argmax")
    causal, bias = not cfg.get("no_causal_mask", False), cfg.get("proj_bias", False)
    common = {
        "vocab_size": cfg.get("vocab_size", 49408), "hidden_size": width, "num_hidden_layers": cfg.get("layers", 12),
        "intermediate_size": int(width * cfg.get("mlp_ratio", 4.0)), "num_attention_heads": cfg.get("heads", 8),
        "max_position_embeddings": cfg.get("context_length", 77), "hidden_act": activation(cfg, quick_gelu),
        "layer_norm_eps": float((cfg.get("norm_kwargs") or {}).get("eps", 1e-5)),
    }  # fmt: skip
    if causal and not bias and pool in ("argmax", "eos"):
        return {"model_type": "clip_text_model", **common, "projection_dim": dim}
    if not causal and bias and pool == "last":
        return {"model_type": "siglip_text_model", **common, "projection_size": dim}
    raise ModelError(
        f"a text tower with pool_type {pool!r}, causal {causal}, proj_bias {bias} is neither CLIP's nor SigLIP's",
        where="text_cfg",
    )


def activation(cfg: dict[str, Any], quick_gelu: bool) -> str:
    """transformers' name of the activation of an open_clip tower.

    Examples
    --------
    >>> activation({}, quick_gelu=True), activation({"act_kwargs": {"approximate": "tanh"}}, quick_gelu=False)
    ('quick_gelu', 'gelu_pytorch_tanh')
    """
    settings = cfg.get("act_kwargs") or {}
    if quick_gelu and not settings:
        return "quick_gelu"
    for name, kwargs in ACTIVATIONS.items():
        if settings == kwargs and not quick_gelu:
            return name
    raise ModelError(
        f"activation settings {settings} with quick_gelu {quick_gelu} are not supported", where="act_kwargs"
    )


def open_clip_text_cfg(text: ClipTextEncoder) -> tuple[dict[str, Any], bool]:
    """open_clip's ``text_cfg`` of a text tower, and whether it needs QuickGELU.

    Raises
    ------
    ModelError
        When open_clip would give other vectors; the reason is named.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip-small").model)
    >>> open_clip_text_cfg(model.text)
    ({'context_length': 77, 'vocab_size': 49408, 'width': 128, 'heads': 4, 'layers': 2, 'mlp_ratio': 4.0}, False)
    """
    config = text.encoder.config
    cfg: dict[str, Any] = {
        "context_length": text.max_length, "vocab_size": config.vocab_size, "width": config.hidden_size,
        "heads": config.num_attention_heads, "layers": config.num_hidden_layers,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
    }  # fmt: skip
    quick = config.hidden_act == "quick_gelu"
    if not quick and config.hidden_act not in ACTIVATIONS:
        refuse("open_clip", f"it has no activation {config.hidden_act!r}")
    if not quick and ACTIVATIONS[config.hidden_act]:
        cfg["act_kwargs"] = ACTIVATIONS[config.hidden_act]
    if config.layer_norm_eps != 1e-5:
        cfg["norm_kwargs"] = {"eps": config.layer_norm_eps}
    if text.max_length != config.max_position_embeddings:
        refuse("open_clip", f"the position table has {config.max_position_embeddings} places, max_length is less")
    if text.fixed_length:
        cfg |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    elif text.highest_token:
        cfg |= {"pool_type": "argmax"}
    elif end_id(text) != config.vocab_size - 1:
        cfg |= {"pool_type": "eos", "eos_id": end_id(text)}
    if has_clip_vocabulary(text.tokenizer) and text.cleaning == "lower":
        return cfg, quick
    if text.cleaning == "none":
        refuse("open_clip", "it cleans every caption and this model none; set `model.text.cleaning` to 'whitespace'")
    return cfg | {"hf_tokenizer_name": "tokenizer", "tokenizer_kwargs": {"clean": text.cleaning}}, quick


def refuse(library: str, reason: str) -> NoReturn:
    """Raise what `export` raises when a library cannot express a model.

    Examples
    --------
    >>> refuse("open_clip", "its text tower has dense layers")
    Traceback (most recent call last):
    ...
    embedkit.errors.ModelError: open_clip cannot express this model: its text tower has dense layers; ...
    """
    raise ModelError(f"{library} cannot express this model: {reason}", remedy="save it as an embedkit folder")


def end_id(text: ClipTextEncoder) -> int:
    """The id of the token at which the text is read.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip-small", {"model.towers.text.tokenizer": "builtin"}).model)
    >>> end_id(model.text)
    3
    """
    from embedkit.models.modules.clip_text import special_ids

    number = special_ids(text.tokenizer)["eos_token_id"]
    if number is None:
        raise ModelError("its tokenizer has no end token", where="CLIP")
    return number


def has_clip_vocabulary(tokenizer: Any) -> bool:
    """Whether a tokenizer has CLIP's 49,408 tokens, whatever the names of the two special ones.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> from embedkit.models.modules.clip_text import clip_tokenizer
    >>> has_clip_vocabulary(clip_tokenizer()), has_clip_vocabulary(tokenizer())
    (True, False)
    """
    from importlib.util import find_spec

    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) != 49408 or find_spec("open_clip") is None:
        return False
    return all(vocabulary.get(piece) == place for piece, place in _clip_pieces().items())


@lru_cache(maxsize=1)
def _clip_pieces() -> dict[str, int]:
    """CLIP's tokens but for the two special ones."""
    from embedkit.models.modules.clip_text import END, START, clip_tokenizer

    return {piece: place for piece, place in clip_tokenizer().get_vocab().items() if piece not in (START, END)}


_ENTITIES = {
    "&quot;": '"', "&#34;": '"', "&#39;": "'", "&#039;": "'", "&#x27;": "'", "&apos;": "'", "&lt;": "<", "&gt;": ">",
    "&nbsp;": " ", "&#160;": " ", "&ndash;": "–", "&mdash;": "—", "&hellip;": "…", "&eacute;": "é", "&copy;": "©",
    "&reg;": "®", "&deg;": "°", "&lsquo;": "'", "&rsquo;": "'", "&ldquo;": '"', "&rdquo;": '"',
}  # fmt: skip
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st"}
NOT_IN_TOKENIZERS = (
    "a tokenizer file resolves the usual HTML entities, curly quotes, ligatures, white space and case as this model "
    "does; rarer entities, full-width letters and broken encodings (cafÃ©) stay as they are in it"
)


def with_cleaning(text: ClipTextEncoder) -> Any:
    """A transformers tokenizer that cleans by itself as far as a tokenizer file can say that (`NOT_IN_TOKENIZERS`).

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip-small", {"model.towers.text.tokenizer": "builtin"}).model)
    >>> model.text.cleaning = "lower"
    >>> with_cleaning(model.text).tokenize("A&nbsp;RED   lamp")
    ['a', 'red', 'lamp']
    """
    from tokenizers import Regex, Tokenizer, normalizers
    from transformers import PreTrainedTokenizerFast

    source = text.tokenizer
    core = Tokenizer.from_str(source.backend_tokenizer.to_str())
    core.no_padding()
    core.no_truncation()
    if text.cleaning != "none":
        replace = normalizers.Replace
        steps: list[Any] = [replace("&amp;", "&"), replace("&amp;", "&")]
        steps += [replace(entity, character) for entity, character in _ENTITIES.items()]
        steps += [replace(Regex("[\u02bc\u2018-\u201b]"), "'"), replace(Regex("[\u201c-\u201f]"), '"')]
        steps += [replace(ligature, letters) for ligature, letters in _LIGATURES.items()]
        steps += [replace(Regex(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff]"), "")]
        if text.cleaning == "canonicalize":
            steps += [replace("_", " "), replace(Regex(r"[!-/:-@\[-`{-~]"), "")]
        steps += [normalizers.Lowercase()] if text.cleaning != "whitespace" else []
        steps += [replace(Regex(r"\s+"), " "), normalizers.Strip()]
        core.normalizer = normalizers.Sequence([*steps, *([core.normalizer] if core.normalizer is not None else [])])
    names: dict[str, Any] = {k: v for k, v in source.special_tokens_map.items() if isinstance(v, str)}
    if text.fixed_length:
        names["model_input_names"] = ["input_ids"]  # no mask: its attention sees the padding, as in training
    side = getattr(source, "padding_side", "right")
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=text.max_length, padding_side=side, **names)
