"""The head of a masked language model, read from the folder that its encoder came from."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from embedkit.errors import ModelError
from embedkit.formats.detect import inspect, locate
from embedkit.formats.loading import assemble
from embedkit.formats.tensors import find_tensors
from embedkit.models.modules.masked import MaskedHead, MaskedModel, names_in
from embedkit.models.modules.text import Dense, TextEncoder


def masked_head(model: Any) -> MaskedHead:
    """The head for a text encoder: the pretrained one of its folder where that has one, else a new one.

    Raises
    ------
    ModelError
        When word vectors and token vectors differ in size.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("quickstart").model)
    >>> masked_head(model).dense
    Linear(in_features=64, out_features=64, bias=True)
    """
    words = model.encoder.get_input_embeddings().weight
    if words.shape[1] != model.hidden_size:
        raise ModelError(
            f"{model.encoder.config.model_type} has word vectors of another size than its token vectors",
            remedy="use a BERT, RoBERTa or DistilBERT encoder",
        )
    head = MaskedHead(model.hidden_size, len(words), getattr(model.encoder.config, "layer_norm_eps", 1e-12))
    tensors = _pretrained_head(model)
    if tensors is not None:
        head.load_state_dict({**head.state_dict(), **_fitted(tensors, len(words))})
    return head


def masked_transform(model: Any) -> Dense:
    """A dense layer like the transform of the masked-word head, pretrained where the encoder's folder has it.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> masked_transform(build(load_recipe("quickstart").model)).linear
    Linear(in_features=64, out_features=64, bias=True)
    """
    head = masked_head(model)
    layer = Dense(model.hidden_size, model.hidden_size, "gelu", norm=head.norm.eps)
    layer.linear.load_state_dict(head.dense.state_dict())
    assert layer.norm is not None
    layer.norm.load_state_dict(head.norm.state_dict())
    return layer


def _pretrained_head(model: Any) -> dict[str, Tensor] | None:
    """The tensors of the pretrained head in a text encoder's folder, None where it has none."""
    names = names_in(model.encoder.config.model_type)
    if names is None:
        return None
    dense, norm, bias = names
    aliases = {
        "dense.weight": [f"{dense}.weight"], "dense.bias": [f"{dense}.bias"],
        "norm.weight": [f"{norm}.weight", f"{norm}.gamma"], "norm.bias": [f"{norm}.bias", f"{norm}.beta"],
        "bias": [bias, bias.replace(".bias", ".decoder.bias")],
    }  # fmt: skip
    tensors = find_tensors(model.encoder, aliases)
    return tensors if len(tensors) == len(aliases) else None


def _fitted(tensors: dict[str, Tensor], words: int) -> dict[str, Tensor]:
    """The bias cut or filled up to the entries of the vocabulary."""
    bias = tensors["bias"][:words]
    return {**tensors, "bias": F.pad(bias, (0, words - len(bias)))}


def frozen_masked_model(name: str) -> MaskedModel:
    """The masked language model of a folder or hub id.

    Raises
    ------
    ModelError
        When it is no text encoder, or has no masked-word head that can be read.

    Examples
    --------
    >>> from transformers import BertConfig, BertForMaskedLM
    >>> from embedkit.data.builtin import tokenizer
    >>> size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> BertForMaskedLM(BertConfig(vocab_size=len(tokenizer()), **size)).save_pretrained("bert")
    >>> _ = tokenizer().save_pretrained("bert")
    >>> any(parameter.requires_grad for parameter in frozen_masked_model("bert").parameters())
    False
    """

    plan = inspect(locate(name))
    model = assemble(plan)
    if not isinstance(model, TextEncoder):
        raise ModelError(f"is a {plan.kind} model", where=name, remedy="give a masked language model")
    if _pretrained_head(model) is None:
        raise ModelError(
            "holds no masked-word head (or one of an unknown architecture)", where=name,
            remedy="give a masked language model of BERT, RoBERTa or DistilBERT, saved as safetensors",
        )  # fmt: skip
    return MaskedModel(model, masked_head(model)).requires_grad_(False)
