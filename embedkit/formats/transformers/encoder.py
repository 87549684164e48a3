"""Encoders and tokenizers of transformers folders."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.errors import ModelError
from embedkit.formats.tensors import check_complete, find_tensors, reading

if TYPE_CHECKING:
    from embedkit.models.modules.text import Dense


_log = logging.getLogger(__name__)
_NAMED = {
    "siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel",
    "metaclip_2_text_model": "MetaClip2TextModel",
}  # fmt: skip
"""Classes of text towers by model_type, which no automatic class knows."""


def read_encoder(
    folder: Path, overrides: dict[str, Any] | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> Any:
    """The transformers encoder of a folder in float32, without pooling layer and without the heads of a masked LM.

    Raises
    ------
    ModelError
        When the folder lacks some of the encoder's weights, or they do not fit.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    >>> new_encoder(small).save_pretrained("encoder")
    >>> read_encoder(Path("encoder"), overrides={"hidden_dropout_prob": 0.0}).config.hidden_dropout_prob
    0.0
    """
    from transformers import AutoConfig

    with reading(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        for key, value in (overrides or {}).items():
            setattr(config, key, value)
        encoder, report = _read(folder, config, None, trust_remote_code, allow_pickle)
        prefix = common_prefix(report["missing_keys"], report["unexpected_keys"])
        if prefix:
            note = "%s: the names of its weights begin with %s, as a wrapper writes them: read without"
            _log.warning(note, folder, prefix)
            encoder, report = _read(folder, config, prefix, trust_remote_code, allow_pickle)
    check_complete(report, folder)
    if report["unexpected_keys"]:
        names = sorted({key.split(".")[0] for key in report["unexpected_keys"]})
        _log.info("%s: %d weights not used (%s)", folder, len(report["unexpected_keys"]), ", ".join(names))
    return encoder


def _read(
    folder: Path, config: Any, prefix: str | None, trust_remote_code: bool, allow_pickle: bool
) -> tuple[Any, dict[str, Any]]:
    """The encoder and transformers' report, of weights that have `prefix` in front of their names."""
    import torch

    return _encoder_class(config, trust_remote_code).from_pretrained(  # type: ignore[no-any-return]
        folder, config=config, dtype=torch.float32, output_loading_info=True, local_files_only=True,
        use_safetensors=not allow_pickle or any(folder.glob("*.safetensors")), weights_only=True,
        key_mapping=None if prefix is None else {f"^{re.escape(prefix)}": ""},
        trust_remote_code=trust_remote_code, **_encoder_settings(config),
    )  # fmt: skip


def common_prefix(missing: Iterable[str], others: Iterable[str]) -> str | None:
    """What stands in front of the names of all missing weights in a file: ``module.`` of DataParallel, ``model.`` of
    Lightning, ``_orig_mod.`` of a compiled model. None where it is nothing, or several things.

    Examples
    --------
    >>> common_prefix(["pooler.bias"], ["module.pooler.bias", "module.head.bias"])
    'module.'
    >>> common_prefix(["pooler.bias"], ["query.pooler.bias", "document.pooler.bias"])
    """
    names, keys = sorted(missing), set(others)
    if not names:
        return None
    prefixes = [key.removesuffix(names[0]) for key in keys if key.endswith(f".{names[0]}")]
    fitting = [prefix for prefix in prefixes if all(prefix + name in keys for name in names)]
    return fitting[0] if len(fitting) == 1 else None


def pretrained_pooler(encoder: Any, train_only: bool = False, allow_pickle: bool = False) -> Dense:
    """The layer on the first token that an encoder was pretrained with, Linear + Tanh, from the folder it came from.

    BERT's was trained to tell following sentences (Devlin et al. 2019, section 3.1). The released models of SimCSE keep
    their head under the same name, and the supervised ones are scored through it (Gao et al. 2021, section 6.3); what
    SimCSE's training writes has it as ``mlp.dense``.

    Raises
    ------
    ModelError
        When the folder holds none.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    >>> BertModel(small).save_pretrained("bert")
    >>> pretrained_pooler(read_encoder(Path("bert"))).linear
    Linear(in_features=8, out_features=8, bias=True)
    """
    from embedkit.models.modules.text import Dense

    base = encoder.base_model_prefix
    stems = [f"{prefix}{stem}" for prefix in ("", f"{base}.") for stem in ("pooler.dense", "pooler", "mlp.dense")]
    aliases = {key: [f"{stem}.{key}" for stem in stems] for key in ("weight", "bias")}
    tensors = find_tensors(encoder, aliases, allow_pickle)
    if len(tensors) < len(aliases):
        where = encoder.name_or_path or "a random encoder"
        raise ModelError("holds no pooler, BERT's layer on [CLS]", where=where, remedy="use pooling cls or mean")
    outputs, inputs = tensors["weight"].shape
    layer = Dense(inputs, outputs, "tanh", train_only=train_only)
    layer.linear.load_state_dict(tensors)
    return layer


def new_encoder(config: Any) -> Any:
    """A randomly initialised encoder of a transformers configuration.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    >>> new_encoder(small).get_input_embeddings()
    Embedding(9, 8, padding_idx=0)
    """
    settings = _encoder_settings(config)
    cls = _encoder_class(config, False)
    direct = getattr(cls, "from_config", None) or getattr(cls, "_from_config")  # noqa: B009
    return direct(config, **settings)


def _encoder_class(config: Any, trust_remote_code: bool) -> Any:
    import transformers
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    if config.model_type in _NAMED:
        return getattr(transformers, _NAMED[config.model_type])
    if config.model_type == "m2m_100":  # NLLB: the encoder without the decoder
        from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

        return M2M100Encoder
    whole = AutoModel._model_mapping.get(type(config), None)
    encoder = MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), None)
    return AutoModel if encoder is None or encoder is whole else encoder  # T5: the encoder without the decoder


def _encoder_settings(config: Any) -> dict[str, Any]:
    """Keywords of the model's constructor: no pooling layer, our attention where the architecture can run packed."""
    import inspect as source

    from transformers import AutoModel

    from embedkit.models.execution.attention import ATTENTION
    from embedkit.models.execution.packing import PACKABLE

    settings: dict[str, Any] = {}
    if config.model_type in PACKABLE:
        settings["attn_implementation"] = ATTENTION
    cls = AutoModel._model_mapping.get(type(config), None)
    if cls is not None and not isinstance(cls, tuple) and "add_pooling_layer" in source.signature(cls).parameters:
        settings["add_pooling_layer"] = False
    return settings
