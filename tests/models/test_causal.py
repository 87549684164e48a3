"""CLIP's text model on real tokens only, against transformers on one text at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.models.execution.plan import Plan
from embedkit.models.inputs.inputs import Inputs
from embedkit.models.modules.causal import ATTENTION, run_causal
from embedkit.models.modules.clip_text import special_ids
from tests.helpers import dual, tiny

TEXTS = ["a man is playing guitar", "the dog", "", "two children are running in the green park", "the dog"]


def theirs(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """The last token's state of each text by transformers' own attention, one text at a time."""
    kept = model.encoder.config._attn_implementation
    model.encoder.set_attn_implementation("eager")
    try:
        states = [model.encoder(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
    finally:
        model.encoder.set_attn_implementation(kept)
    return torch.stack(states)


@pytest.fixture
def model() -> Any:
    return dual.text_tower("clip", cleaning="none")


# --- attention -------------------------------------------------------------------------------------------------------


def test_a_pack_is_causal_attention_of_each_sequence() -> None:
    import torch.nn.functional as F
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    plan = Plan.of(np.array([3, 1, 5, 3]))
    source = torch.Generator().manual_seed(0)
    rows = [torch.randn(1, 2, plan.tokens, 4, dtype=torch.float64, generator=source) for _ in range(3)]
    attend = ALL_ATTENTION_FUNCTIONS[ATTENTION]  # as an encoder finds it
    out, _ = attend(SimpleNamespace(), *rows, None, scaling=0.6, plan=plan)
    for start, length in zip(plan.starts, plan.lengths, strict=True):
        q, k, v = (x[:, :, start : start + length] for x in rows)
        expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.6).transpose(1, 2)
        torch.testing.assert_close(out[:, start : start + length], expected)


# --- vectors ---------------------------------------------------------------------------------------------------------


def test_packed_vectors_are_transformers_one_text_at_a_time(model: Any) -> None:
    inputs = model.prepare(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(
            run_causal(model.encoder, inputs), theirs(model, inputs.rows()), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("packing", ["auto", "packed", "buckets", "padded"])
def test_every_way_of_running_gives_the_same(model: Any, packing: str) -> None:
    inputs = model.prepare(TEXTS)
    with torch.no_grad():
        found = model.pooled(inputs, packing)
        torch.testing.assert_close(found, theirs(model, inputs.rows()), atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_transformers(model: Any) -> None:
    inputs = model.prepare(TEXTS)
    upstream = torch.randn(len(TEXTS), 32, generator=torch.Generator().manual_seed(0))
    grads = []
    for run in (lambda: run_causal(model.encoder, inputs), lambda: theirs(model, inputs.rows())):
        model.zero_grad()
        run().backward(upstream)
        grads.append({name: p.grad.clone() for name, p in model.encoder.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-4, rtol=1e-3, msg=name)


def test_more_tokens_in_a_pack_than_positions_in_the_table(model: Any) -> None:
    texts = ["the dog is running"] * 20
    inputs = model.prepare(texts)
    assert inputs.tokens > model.encoder.config.max_position_embeddings
    with torch.no_grad():
        rows = run_causal(model.encoder, inputs)
    torch.testing.assert_close(rows, rows[:1].expand_as(rows), atol=1e-6, rtol=0)


def test_no_text_has_no_vector(model: Any) -> None:
    assert model(model.prepare([])).shape == (0, 32)
    assert model.encode([]).shape == (0, 32)


# --- captions --------------------------------------------------------------------------------------------------------


def test_a_caption_that_spells_out_its_end_ends_there() -> None:
    model = dual.text_tower("clip", clip=True, cleaning="none")
    end = special_ids(model.tokenizer)["eos_token_id"]
    plain, cut = model.prepare(["a cat", "a cat <end_of_text> on a mat"]).rows()
    assert cut == plain
    assert [row.count(end) for row in (plain, cut)] == [1, 1]


@pytest.mark.parametrize("words", [3, 30, 300])
def test_a_caption_that_is_too_long_keeps_its_end_token(model: Any, words: int) -> None:
    (row,) = model.prepare(["dog " * words]).rows()
    assert len(row) == min(words + 2, model.max_length)
    assert row[-1] == special_ids(model.tokenizer)["eos_token_id"]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 8, "pad_token_id": 0}, (1, 2, 0)),
        ({"cls_token_id": 8, "sep_token_id": 9}, (8, 9, None)),
        ({"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}, (0, 0, 0)),
        ({"bos_token_id": None, "eos_token_id": None}, (None, None, None)),
    ],
)
def test_special_tokens_by_either_name(known: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = special_ids(SimpleNamespace(**known))
    assert (found["bos_token_id"], found["eos_token_id"], found["pad_token_id"]) == expected


def test_prompts_stand_in_front_of_or_around_a_caption(model: Any) -> None:
    model.prompts = {"photo": "a photo of ", "around": "the {} on street"}
    model.default_prompt = "photo"
    words = tiny.tokenizer()
    for prompt, text in ((None, "a photo of dog"), ("around", "the dog on street"), ("", "dog"), ("big {}", "big dog")):
        assert model.prepare(["dog"], prompt).rows() == [words(text)["input_ids"]]


def test_inputs_without_tokens_of_the_end_are_left_alone(model: Any) -> None:
    inputs = Inputs.of([[2, 7, 9], [2, 8]])
    assert model._ended(inputs) is inputs
