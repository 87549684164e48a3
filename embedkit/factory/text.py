"""Text encoders for training, from the `model` section of a recipe: read from a folder or made at random."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.config.model import HeadConfig, ModelConfig
from embedkit.errors import ModelError
from embedkit.formats.detect import inspect

if TYPE_CHECKING:
    from embedkit.models.base import Model
    from embedkit.models.modules.text import Dense, TextEncoder

from embedkit.factory.folder_settings import folder_of, of_another_kind, permissions, replaced
from embedkit.factory.registry import builders
from embedkit.factory.tokenizer import open_tokenizer

# Configuration keys of the rates inside an encoder; those of classifier heads are not among them.
DROPOUT_KEYS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "dropout_rate",
    "embedding_dropout", "mlp_dropout", "hidden_dropout", "activation_dropout",
)  # fmt: skip


@builders.add("text")
def _text(config: ModelConfig) -> Model:
    from torch import nn

    from embedkit.formats.loading import assemble
    from embedkit.models.modules.text import TextEncoder

    if config.name is not None:
        plan = inspect(folder_of(config), **permissions(config))
        if plan.kind != "text":
            raise of_another_kind(plan, config.name)
        plan.spec = replaced(plan.spec, config)
        model = assemble(plan, overrides=_dropout_overrides(config, plan.weights), **permissions(config))
    else:
        model = _random_text(config)
    assert isinstance(model, TextEncoder)
    if config.head:  # in the place of what an earlier training had for itself
        model.dense = nn.ModuleList(layer for layer in model.layers if not layer.train_only)
    for head in config.head:
        model.dense.append(_new_head(model, head))
    if config.lora is not None:
        from embedkit.models.modules.adapters import add_lora

        add_lora(model, config.lora)
    return model


def _new_head(model: TextEncoder, config: HeadConfig) -> Dense:
    """A dense layer for the end of a model: its own pretrained pooler, or one initialised as BERT does, with normal
    weights and zero bias."""
    from torch import nn

    from embedkit.formats.transformers.encoder import pretrained_pooler
    from embedkit.models.modules.text import Dense

    size = model.training_dim
    if config.kind == "pooler":
        if model.layers:
            raise ModelError("a pooler behind another head", where="model.head", remedy="give kind: pooler first")
        return pretrained_pooler(model.encoder, train_only=config.train_only)
    activation = {"tanh": "tanh", "relu": "relu", "linear": "identity"}[config.kind]
    head = Dense(size, config.dim or size, activation, train_only=config.train_only)
    nn.init.normal_(head.linear.weight, std=getattr(model.encoder.config, "initializer_range", 0.02))
    nn.init.zeros_(head.linear.bias)
    return head


def _dropout_overrides(config: ModelConfig, source: Any) -> dict[str, float]:
    """The configuration's rates to replace; `source` is the configuration or the folder that holds it.

    Raises
    ------
    ModelError
        When the architecture has no dropout.
    """
    if config.dropout is None:
        return {}
    if isinstance(source, Path):
        from transformers import AutoConfig

        source = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    settings = source.to_dict()
    places = [key for key in DROPOUT_KEYS if isinstance(settings.get(key), float | int)]
    if not places:
        raise ModelError(f"a {source.model_type} encoder has no dropout", where="model.dropout", remedy="leave it out")
    return dict.fromkeys(places, config.dropout)


def _random_text(config: ModelConfig) -> Model:
    from embedkit.formats.loading import POOLER
    from embedkit.formats.transformers.encoder import new_encoder
    from embedkit.models.modules.clip_text import CAUSAL, PADDED, ClipTextEncoder, special_ids
    from embedkit.models.modules.text import TextEncoder
    from embedkit.models.towers.transformers import new_config

    assert config.config is not None
    settings = dict(config.config)
    kind = settings.pop("model_type")
    tokenizer = open_tokenizer(str(config.tokenizer))
    settings.setdefault("vocab_size", len(tokenizer))
    if kind in (CAUSAL, PADDED):
        settings = {**special_ids(tokenizer), **settings}
    for name in ("pad", "bos", "eos", "cls", "sep"):
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None:
            settings.setdefault(f"{name}_token_id", number)
    if config.tokenizer == "clip":  # made for 77 tokens; here the position table of the tower counts
        tokenizer.model_max_length = int(settings.get("max_position_embeddings", tokenizer.model_max_length))
    shape = new_config({**settings, "model_type": kind}, "model.config", "not a transformers configuration")
    if shape.vocab_size < len(tokenizer):
        raise ModelError(
            f"vocab_size is {shape.vocab_size}, the tokenizer has {len(tokenizer)} entries", where="model.config",
            remedy="leave vocab_size out",
        )  # fmt: skip
    for key, value in _dropout_overrides(config, shape).items():
        setattr(shape, key, value)
    spec = replaced({"normalize": True}, config)
    if spec.get("pooling") == POOLER:
        raise ModelError("a random encoder has no pooler", where="model.pooling", remedy="use cls and model.head")
    if kind in (CAUSAL, PADDED):
        cleaning = "lower" if config.tokenizer == "clip" else "none"
        return ClipTextEncoder(new_encoder(shape), tokenizer, cleaning=cleaning, **spec)
    return TextEncoder(new_encoder(shape), tokenizer, **spec)
