"""A text encoder's other faces: another length, other vectors with shared weights, new words, prompts left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError, UserError
from embedkit.models.heads.layers import Cut, Dense
from embedkit.models.modules.text import position_limit
from tests.helpers import tiny

TEXTS = [text for text in tiny.SENTENCES if text]
LONG = "the big red dog is running in the green park with two children"


def states(model: Any, row: list[int]) -> torch.Tensor:
    """Token states (T, H) of one text by transformers."""
    with torch.no_grad():
        return model.encoder(input_ids=torch.tensor([row])).last_hidden_state[0]


# --- lengths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "limit"), [("bert", 80), ("roberta", 79), ("t5", None), ("modernbert", 80)])
def test_the_positions_of_an_encoder(family: str, limit: int | None) -> None:
    encoder = tiny.text_encoder(family).encoder
    assert position_limit(encoder) == limit
    assert position_limit(encoder, prompt=5) == (None if limit is None else limit - 5)


def test_the_usual_length_is_what_encoder_and_tokenizer_take() -> None:
    assert tiny.text_encoder().max_length == 64  # the tokenizer's, below the encoder's 80
    words = tiny.tokenizer(max_length=500)
    from embedkit.models.modules.text import TextEncoder

    assert TextEncoder(tiny.text_encoder().encoder, words).max_length == 80
    assert TextEncoder(tiny.text_encoder("t5").encoder, words).max_length == 500


def test_the_same_encoder_at_another_length() -> None:
    model = tiny.text_encoder(max_length=40)
    short = model.at_length(6)
    assert (model.max_length, short.max_length) == (40, 6)
    assert short.encoder is model.encoder
    words = tiny.tokenizer()
    cut = words(LONG, truncation=True, max_length=6)["input_ids"]
    assert short.prepare([LONG]).rows() == [cut]
    assert model.prepare([LONG]).rows() == [words(LONG)["input_ids"]]
    assert model.at_length(None).max_length == 64
    with pytest.raises(ModelError, match="max_length is 81; this encoder takes at most 80 tokens"):
        model.at_length(81)


def test_a_length_that_is_set_is_checked() -> None:
    model = tiny.text_encoder()
    model.max_length = 5
    assert len(model.prepare([LONG]).rows()[0]) == 5
    with pytest.raises(ModelError, match="max_length is 99"):
        model.max_length = 99
    assert model.max_length == 5


# --- other vectors ---------------------------------------------------------------------------------------------------


def test_other_vectors_leave_the_model_alone() -> None:
    model = tiny.text_encoder(pooling="mean", prompts={"a": "who ", "b": "the "}, default_prompt="a", normalize=False)
    before = model.encode(TEXTS)
    other = model.by_other_vectors(pooling="cls", default_prompt="b")
    assert other.encoder is model.encoder
    expected = np.stack([states(model, row)[0].numpy() for row in model.prepare(TEXTS, "b").rows()])
    np.testing.assert_allclose(other.encode(TEXTS), expected, atol=1e-5)
    np.testing.assert_array_equal(model.encode(TEXTS), before)
    with pytest.raises(ModelError, match="no prompt 'c'"):
        model.by_other_vectors(default_prompt="c")


@pytest.mark.parametrize("heads", [0, 1, 2])
def test_heads_of_training_used_always(heads: int) -> None:
    layers = [Dense(32, 16, train_only=True), Dense(16, 8, train_only=True)]
    model = tiny.text_encoder(dense=layers, normalize=False)
    other = model.by_other_vectors(heads=heads)
    expected = torch.from_numpy(model.encode(TEXTS))
    for layer in layers[:heads]:
        expected = layer(expected)
    np.testing.assert_allclose(other.encode(TEXTS), expected.detach().numpy(), atol=1e-5)
    assert model.dim == 32
    with pytest.raises(ModelError, match="2 layers are used in training only; heads is 3: lower it"):
        model.by_other_vectors(heads=3)


def test_a_bias_of_a_template_is_taken_off_or_left() -> None:
    settings: dict[str, Any] = {
        "pooling": "mask", "prompts": {"t": "{} means [MASK] ."}, "default_prompt": "t", "normalize": False,
    }  # fmt: skip
    with_it, without = tiny.text_encoder(template_bias={"when": "always"}, **settings), tiny.text_encoder(**settings)
    np.testing.assert_allclose(
        with_it.by_other_vectors(template_bias=False).encode(TEXTS), without.encode(TEXTS), atol=1e-6
    )
    trained = tiny.text_encoder(template_bias={"when": "training"}, **settings)
    np.testing.assert_allclose(
        trained.by_other_vectors(template_bias=True).encode(TEXTS), with_it.encode(TEXTS), atol=1e-6
    )
    with pytest.raises(ModelError, match="no template bias to take off"):
        without.by_other_vectors(template_bias=True)


# --- new words -------------------------------------------------------------------------------------------------------


def test_new_words_start_with_the_vectors_of_old_ones() -> None:
    model = tiny.text_encoder(normalize=False)
    old = tiny.tokenizer().convert_tokens_to_ids(["dog", "park"])
    before = model.encode(TEXTS)
    new = model.add_tokens(["[A]", "[B]"], old)
    assert new == [len(tiny.tokenizer()), len(tiny.tokenizer()) + 1]
    np.testing.assert_allclose(model.encode(["the [A]"]), model.encode(["the dog"]), atol=1e-6)
    np.testing.assert_allclose(model.encode(["[B][A]"]), model.encode(["park dog"]), atol=1e-6)
    np.testing.assert_allclose(model.encode(TEXTS), before, atol=1e-6)
    assert model.prepare(["[A]"]).rows()[0][1:-1] == new[:1]
    with pytest.raises(ModelError, match=r"the vocabulary has '\[A\]' already"):
        model.add_tokens(["[A]"], old[:1])


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "last-token"])
def test_a_prompt_that_is_read_and_not_pooled(pooling: str) -> None:
    """The states are those with the prompt, the pool begins behind it."""
    model = tiny.text_encoder(pooling=pooling, prompts={"q": "who is "}, pool_prompt=False, normalize=False)
    skipped = len(tiny.tokenizer()("who is")["input_ids"]) - 1
    rows = model.prepare(TEXTS, "q").rows()
    pool = {
        "mean": lambda x: x.mean(0),
        "max": lambda x: x.amax(0),
        "cls": lambda x: x[0],
        "last-token": lambda x: x[-1],
    }
    expected = torch.stack([pool[pooling](states(model, row)[skipped:]) for row in rows])
    np.testing.assert_allclose(model.encode(TEXTS, prompt="q"), expected.numpy(), atol=1e-5)
    plain = torch.stack([pool[pooling](states(model, row)) for row in model.prepare(TEXTS, "").rows()])
    np.testing.assert_allclose(model.encode(TEXTS, prompt=""), plain.numpy(), atol=1e-5)


# --- sizes and words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "dim", "training"),
    [
        ({}, 32, 32),
        ({"pooling": "cls+mean+max"}, 96, 96),
        ({"pooling": "cls+mean", "dense": [Dense(64, 10)]}, 10, 10),
        ({"dense": [Dense(32, 10, train_only=True)]}, 32, 10),
        ({"dense": [Cut(7)], "normalize": False}, 7, 32),
    ],
)
def test_the_size_is_that_of_the_vectors(settings: dict[str, Any], dim: int, training: int) -> None:
    model = tiny.text_encoder(**settings)
    assert (model.dim, model.training_dim) == (dim, training)
    inputs = model.prepare(TEXTS)
    assert model.encode(TEXTS).shape == (len(TEXTS), dim)
    assert model.train()(inputs).shape == (len(TEXTS), training)
    assert model(model.prepare([])).shape == (0, training)


def test_what_lies_beyond_a_listing_of_modules_is_said() -> None:
    assert tiny.text_encoder(dense=[Dense(32, 8)]).beyond_modules == []
    assert tiny.text_encoder(dense=[Dense(32, 8, norm=1e-5)]).beyond_modules == ["a dense layer has a layer norm"]
    assert tiny.text_encoder(dense=[Dense(32, 8, norm=1e-5, train_only=True)]).beyond_modules == []


def test_a_setting_of_a_forward_pass_that_there_is_not() -> None:
    model = tiny.text_encoder()
    with pytest.raises(UserError, match="unknown setting 'token_cutof' of a forward pass; did you mean 'token_cutoff'"):
        model(model.prepare(TEXTS), token_cutof=0.1)


@pytest.mark.parametrize(
    "changes",
    [{"pooling": "cls"}, {"max_length": 9}, {"normalize": False}, {"prompts": {"a": "b "}}, {"pool_prompt": False},
     {"similarity_fn_name": "dot"}],
)  # fmt: skip
def test_the_hash_follows_every_setting_and_the_reading_hash_no_weight(changes: dict[str, Any]) -> None:
    model, other = tiny.text_encoder(), tiny.text_encoder(**changes)
    assert model.hash() != other.hash()
    assert model.reading_hash() != other.reading_hash()
    again = tiny.text_encoder(seed=5)
    assert again.hash() != model.hash()
    assert again.reading_hash() == model.reading_hash()
