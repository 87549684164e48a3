"""Weights and tokenizer of an encoder, written into its folder."""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path
from typing import Any

from torch import Tensor

from embedkit.errors import ModelError
from embedkit.formats.tensors import quiet, write_tensors, write_tokenizer
from embedkit.models.modules.adapters import has_adapters, merged_state
from embedkit.models.modules.static import NO_LIMIT, StaticEncoder
from embedkit.models.modules.text import TextEncoder


@singledispatch
def write_weights(model: Any, folder: Path, extra: dict[str, Tensor] | None = None) -> None:
    """Write weights and tokenizer of a model into a folder, `extra` tensors with them.

    Raises
    ------
    ModelError
        A model of this kind has no weights file of its own.

    Examples
    --------
    >>> from embedkit.data.builtin import tokenizer
    >>> Path("words").mkdir()
    >>> write_weights(StaticEncoder(tokenizer(), dim=4), Path("words"))
    >>> sorted(path.name for path in Path("words").iterdir())
    ['model.safetensors', 'tokenizer.json']
    """
    raise ModelError(f"a {model.kind} model has no single file of weights", remedy="save it with embedkit")


@write_weights.register
def _(model: TextEncoder, folder: Path, extra: dict[str, Tensor] | None = None) -> None:
    state = merged_state(model.encoder) if has_adapters(model.encoder) else None
    if model.mask_head is not None:  # under the names of the architecture's own
        extra = {**(extra or {}), **model.mask_head.named_as(model.encoder.config.model_type)}
    if extra:
        state = {**(state or model.encoder.state_dict()), **extra}
    with quiet():
        model.encoder.save_pretrained(folder, state_dict=state)
        write_tokenizer(model.tokenizer, folder)


@write_weights.register
def _(model: StaticEncoder, folder: Path, extra: dict[str, Tensor] | None = None) -> None:
    write_tensors({"embedding.weight": model.embedding.weight, **(extra or {})}, folder)
    text = model.tokenizer_json(cut=model.max_length < NO_LIMIT)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
