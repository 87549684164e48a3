"""A token without a row in the embedding table is refused with its id, its text and a remedy that helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel

from embedkit.errors import DataError
from embedkit.models import Inputs, StaticEncoder, TextEncoder
from embedkit.models.inputs.tokens import check_ids
from embedkit.models.modules.clip_text import ClipTextEncoder
from tests.helpers import tiny

SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 80,
}  # fmt: skip


def longer() -> Any:
    """The tiny tokenizer with a word behind its vocabulary."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["[EXTRA]"])
    return tokenizer


def bert() -> TextEncoder:
    tokenizer = longer()
    return TextEncoder(BertModel(BertConfig(**SHAPE, vocab_size=len(tokenizer) - 1)), tokenizer)


def clip() -> ClipTextEncoder:
    tokenizer = longer()
    return ClipTextEncoder(CLIPTextModel(CLIPTextConfig(**SHAPE, vocab_size=len(tokenizer) - 1)), tokenizer)


@pytest.mark.parametrize("make", [bert, clip])
def test_the_token_is_named_and_resizing_helps(make: Any) -> None:
    model = make()
    rows = len(model.tokenizer) - 1
    assert model.encode(["the dog"]).shape == (1, 16), "texts without the word are encoded"
    message = rf"text '.*a man \[EXTRA\]': token id {rows} has no vector, the embedding table has {rows} rows; use the"
    with pytest.raises(DataError, match=message) as caught:
        model.encode(["the dog", "a man [EXTRA]"])
    assert str(caught.value).endswith("or model.backbone.resize_token_embeddings(len(model.tokenizer))")
    model.backbone.resize_token_embeddings(len(model.tokenizer))
    vectors = model.encode(["the dog", "a man [EXTRA]"])
    assert np.isfinite(vectors).all()
    assert not np.array_equal(vectors[1], model.encode("a man"))


@pytest.mark.parametrize("ngrams", [1, 2])
def test_a_static_encoder_does_not_take_a_row_of_its_ngrams_instead(ngrams: int) -> None:
    tokenizer = longer()
    buckets = 50 if ngrams > 1 else 0
    rows = len(tokenizer) - 1
    model = StaticEncoder(tiny.tokenizer(), 8, ngrams=ngrams, buckets=buckets, weight=torch.randn(rows + buckets, 8))
    model._tokenize = type(model._tokenize)(tokenizer, 64, special=False)
    with pytest.raises(DataError, match=rf"token id {rows} has no vector, the embedding table has {rows} rows"):
        model.encode(["a man", "a man [EXTRA]"])
    assert model.encode(["a man"]).shape == (1, 8)


def test_the_first_text_with_such_a_token_is_named_and_cut_short() -> None:
    inputs = Inputs.of([[1, 2], [3, 9, 12], [11]])
    with pytest.raises(DataError, match=r"text 'bbb': token id 9 has"):
        check_ids(inputs, 9, ["a", "bbb", "c"], "resize")
    with pytest.raises(DataError, match=rf"text '{'b' * 57}\.\.\.': token id 9 has"):
        check_ids(inputs, 9, ["a", "b" * 61, "c"], "resize")
    assert check_ids(inputs, 13, ["a", "b", "c"], "resize") is inputs
    empty = Inputs.of([])
    assert check_ids(empty, 1, [], "resize") is empty
