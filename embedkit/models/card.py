"""A model in a few lines: what `repr` and a notebook show."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedkit.models.base import Model


def facts(model: Model) -> dict[str, str]:
    """What a user asks first about a model, in words by name.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> facts(StaticEncoder(tokenizer(), dim=8))["parameters"]
    '3,768'
    """
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    words = {"kind": model.kind, "dim": str(model.dim)}
    if model.input_width is None:
        words["max_length"] = f"{model.max_length:,} tokens"
    else:
        words["width"] = f"{model.input_width} numbers"
    if model.pooling is not None:
        words["pooling"] = model.pooling
    if model.preprocess is not None:
        words["images"] = " x ".join(str(side) for side in model.preprocess.size)
    words["normalize"] = str(model.normalize)
    words["similarity"] = model.similarity_fn_name
    if model.prompts:
        words["prompts"] = ", ".join(_prompt(model, name) for name in model.prompts)
    words["parameters"] = f"{count:,}" if trainable == count else f"{count:,} ({trainable:,} trained)"
    words["device"] = f"{model.device}, {str(model.dtype).removeprefix('torch.')}"
    return words


def _prompt(model: Model, name: str) -> str:
    text = model.prompts[name]
    excerpt = text if len(text) <= 40 else f"{text[:37]}..."
    return f"{name} {excerpt!r}" + (" (default)" if name == model.default_prompt else "")


def card_text(model: Model) -> str:
    """The card in lines: the class, then one fact a line.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> print(card_text(StaticEncoder(tokenizer(), dim=8)))
    StaticEncoder
      kind        static
      dim         8
      max_length  1,000,000 tokens
      pooling     mean
      normalize   True
      similarity  cosine
      parameters  3,768
      device      cpu, float32
    """
    words = facts(model)
    width = max(len(name) for name in words)
    return "\n".join([type(model).__name__, *(f"  {name:<{width}}  {value}" for name, value in words.items())])


def card_html(model: Model) -> str:
    """The card as an HTML table.

    Examples
    --------
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> card_html(StaticEncoder(tokenizer(), dim=8))[:41]
    '<table><caption>StaticEncoder</caption><t'
    """
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts(model).items())
    return f"<table><caption>{escape(type(model).__name__)}</caption>{rows}</table>"
