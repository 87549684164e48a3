"""Whether a tokenizer belongs to its encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from embedkit.doctor.finding import Finding

ENGLISH = (
    "The weather was cold this morning, so we stayed at home.",
    "She bought a new book about the history of music.",
    "How long does it take to drive from here to the airport?",
    "Two children are playing with a ball in the park.",
    "The company reported higher profits than last year.",
    "Please send me the report before the end of the week.",
    "He cooks dinner every evening after work.",
    "A small dog is running across the green field.",
)
_FETCH = "take the tokenizer that was saved with these weights"


def examine_tokens(model: Any) -> Iterator[Finding]:
    """Findings of a tokenizer beside its encoder: ids outside of the embedding table, special tokens, unknown words.

    `model` is a text encoder; one of another kind gives nothing.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> [finding.what for finding in examine_tokens(build(load_recipe("quickstart").model))]
    []
    """
    tokenizer, encoder = model.tokenizer, model.backbone
    if encoder is None:
        return
    rows = int(encoder.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        yield Finding(
            "the tokenizer has more tokens than the model has vectors", f"{len(tokenizer):,} tokens, {rows:,} vectors",
            _FETCH,
        )  # fmt: skip
    config = encoder.config
    for name in ("pad", "cls", "sep", "bos", "eos", "mask", "unk"):
        number, in_config = getattr(tokenizer, f"{name}_token_id", None), getattr(config, f"{name}_token_id", None)
        if number is not None and number >= rows:
            yield Finding(f"the {name} token is outside of the embedding table", f"id {number}, {rows:,} rows", _FETCH)
        elif name == "pad" and None not in (number, in_config) and number != in_config:
            evidence = f"tokenizer {number}, config.json {in_config}"
            yield Finding(f"tokenizer and configuration name different {name} tokens", evidence, _FETCH)
    limit = getattr(tokenizer, "model_max_length", None)
    if limit is not None and limit < model.max_length:
        evidence = f"tokenizer {limit}, model {model.max_length}"
        yield Finding("the tokenizer was made for shorter texts than the model takes", evidence, "lower max_length")
    yield from _words(model, tokenizer, rows)


def _words(model: Any, tokenizer: Any, rows: int) -> Iterator[Finding]:
    ids = [tokenizer(text)["input_ids"] for text in ENGLISH]
    numbers = [i for text in ids for i in text]
    most = max(numbers)
    if most >= rows:
        yield Finding("token ids lie outside of the embedding table", f"id {most:,}, {rows:,} rows", _FETCH)
    special = {i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id}
    words = [i for i in numbers if i not in special]
    unknown = sum(i == tokenizer.unk_token_id for i in words)
    if tokenizer.unk_token_id is not None and unknown > 0.2 * len(words):
        yield Finding(
            "plain English is mostly unknown to the tokenizer" if unknown > 0.5 * len(words)
            else "much of plain English is unknown to the tokenizer",
            f"{unknown / max(1, len(words)):.0%} of {len(words)} tokens",
            "take the tokenizer of these weights; lower or upper case, and the vocabulary file, are the usual reasons",
        )  # fmt: skip
    if model.pooling == "cls" and any(text[0] not in special for text in ids):
        yield Finding(
            "cls pooling takes the first token, which here is a word", f"ids {ids[0][:4]} ... of {ENGLISH[0][:16]!r}",
            "choose another pooling, or a tokenizer that puts its special token in front",
        )  # fmt: skip
