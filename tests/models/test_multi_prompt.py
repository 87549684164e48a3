"""A text tower of several prompts: each part against one plain forward pass, what is kept, trained and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

import embedkit
from embedkit.config.model import ModelConfig
from embedkit.errors import UserError
from embedkit.factory import build
from embedkit.models.combined.multi_prompt import MultiPromptEncoder
from embedkit.models.modules.text import TextEncoder

TEMPLATES = ["the red of {}", "{} and a blue ring", "{}"]
_SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 24,
}  # fmt: skip
_DECODER = {"num_key_value_heads": 2, "head_dim": 8, **_SHAPE}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _SHAPE, "clip_text_model": _SHAPE, "modernbert": _SHAPE, "qwen3": _DECODER, "gemma": _DECODER,
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8},
}  # fmt: skip
CAPTIONS = ["a red circle", "the small ring and the big square", "", "a ring"]


def dual(family: str = "bert", **text: Any) -> Any:
    settings: dict[str, Any] = {
        "config": {"model_type": family, **FAMILIES[family]}, "tokenizer": "builtin-shapes", "multi_prompt": TEMPLATES,
        **text,
    }  # fmt: skip
    towers: Any = {"dim": 12, "text": settings, "image": {"size": "vit-nano-32"}}
    return build(ModelConfig(kind="dual", towers=towers), 0)


@pytest.mark.parametrize("family", [*FAMILIES, "qwen3 without special tokens"])
def test_each_part_is_read_at_its_own_token_by_its_own_map(family: str) -> None:
    name, _, bare = family.partition(" ")
    model = dual(name).double().eval()
    text, ends = model.text, 0 if bare else 1
    tokenizer = text.tokenizer
    if bare:  # as the tokenizers of most decoders
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
        encoder = TextEncoder(text.encoder.encoder, tokenizer)
        text = model.text = MultiPromptEncoder(encoder, text.models[1:], TEMPLATES)
    assert text.ends == ends
    with torch.no_grad():
        text.encoder.encoder.get_input_embeddings().weight[text.marks] += torch.randn(3, 32)
    found = text(text.prepare(CAPTIONS))
    assert torch.equal(model(model.prepare(CAPTIONS)), found)  # no projection behind
    for row, caption in enumerate(CAPTIONS):
        for k, template in enumerate(TEMPLATES):
            ids = tokenizer(template.format(caption))["input_ids"]
            place = len(ids) - ends
            ids = [*ids[:place], tokenizer.convert_tokens_to_ids(f"[prompt{k}]"), *ids[place:]]
            states = text.encoder.encoder(input_ids=torch.tensor([ids])).last_hidden_state
            wanted = text.models[1 + k].linear.weight @ states[0, place]
            torch.testing.assert_close(found[row, 4 * k : 4 * k + 4], wanted, rtol=1e-7, atol=1e-9)


def test_a_long_text_is_cut_and_not_the_token_that_is_read() -> None:
    for family in ("bert", "clip_text_model", "qwen3"):
        text = dual(family).text
        inputs = text.prepare(["a red ring " * 30, "a ring"])
        assert inputs.data["lengths"].max() == 24
        assert text.max_length == 72
        for row, lengths in zip(inputs.rows(), inputs.data["lengths"], strict=True):
            parts = np.split(np.array(row), np.cumsum(lengths)[:-1])
            assert [int(mark in part) for mark, part in zip(text.marks, parts, strict=True)] == [1, 1, 1]


def test_a_prompt_stands_around_the_text() -> None:
    model = dual(prompts={"photo": "a photo of {}."})
    wanted = model.encode(["a photo of a ring."])
    np.testing.assert_allclose(model.encode(["a ring"], prompt="photo"), wanted, atol=1e-6)


def test_saved_and_read_it_gives_the_same_vectors(tmp_path: Path) -> None:
    model = dual("clip_text_model")
    again = embedkit.load(model.save(tmp_path / "own"), device="cpu")
    np.testing.assert_array_equal(again.encode(CAPTIONS), model.encode(CAPTIONS))
    assert again.hash() == model.hash()
    tower = embedkit.load(tmp_path / "own" / "text", device="cpu")
    np.testing.assert_array_equal(tower.encode(CAPTIONS), model.encode(CAPTIONS))
    for format in ("transformers", "open_clip", "onnx", "sentence-transformers"):
        with pytest.raises(UserError, match="text tower"):
            embedkit.export(model, tmp_path / format, format=format)


def test_adapters_leave_the_new_words_to_train() -> None:
    pytest.importorskip("peft")
    model = dual("qwen3", lora={"rank": 2})
    words = model.text.encoder.encoder.get_input_embeddings().weight
    model.text(model.text.prepare(CAPTIONS)).square().sum().backward()
    rows = words.grad.abs().sum(dim=1).nonzero()[:, 0].tolist()
    assert rows == model.text.marks
    trained = {name for name, p in model.text.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trained)
    assert not any(name.endswith("norm.weight") for name in trained)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"config": None, "kind": "static", "dim": 8}, "multi_prompt: a static text tower is not read at a token"),
        ({"config": {"model_type": "siglip_text_model", **_SHAPE}}, "a padded text tower is not read at a token"),
        ({"multi_prompt": ["{}"]}, "there is 1 prompt; give two or more"),
        ({"multi_prompt": ["{}", "a ring"]}, r"multi_prompt\[1\]: 'a ring' has 0 slots"),
        ({"multi_prompt": [f"{word} {{}}" for word in "abcde"]}, "5 prompts do not divide 12 coordinates"),
        ({"pooling": "cls"}, "text.pooling: prompts are read at their own tokens; leave it out"),
    ],
)
def test_what_does_not_fit_is_told(text: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        dual(**text)
