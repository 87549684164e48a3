"""Two views of one text that nothing but dropout tells apart, from encoders with and without dropout."""

from __future__ import annotations

from typing import Any

import pytest

from embedkit.config.model import ModelConfig
from embedkit.factory import build
from embedkit.methods import methods
from embedkit.methods.common.usage import equal_views, usage_of

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 64}  # fmt: skip
DECODER = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8}
WITHOUT = {"modernbert": SHAPE, "qwen3": DECODER, "gemma3_text": DECODER, "mistral": DECODER}


def note(config: dict[str, Any], method: str = "simcse-unsup", roles: frozenset[str] = frozenset({"anchor"}),
         **more: Any) -> str | None:  # fmt: skip
    model = build(ModelConfig.model_validate({"tokenizer": "builtin", "config": config, **more}), 1)
    one = methods[method]()
    one.adapt(model)
    return equal_views(one, usage_of(one, dict(one.objective or {}), roles), model, one.parts(model))


@pytest.mark.parametrize("kind", list(WITHOUT))
def test_an_encoder_without_dropout_is_told_of(kind: str) -> None:
    line = note({"model_type": kind, **WITHOUT[kind]})
    assert line is not None
    assert "'anchor' and 'positive' are equal" in line
    assert "model.dropout" in line


def test_the_setting_that_the_line_names_helps() -> None:
    assert note({"model_type": "modernbert", **SHAPE}, dropout=0.1) is None


def test_an_encoder_with_dropout_is_fine_and_one_whose_dropout_is_zero_is_not() -> None:
    assert note({"model_type": "bert", **SHAPE}) is None
    assert note({"model_type": "bert", **SHAPE}, dropout=0.0) is not None


def test_a_row_with_a_positive_of_its_own_needs_no_dropout() -> None:
    pair = frozenset({"anchor", "positive"})
    assert note({"model_type": "bert", **SHAPE}, "views", pair, dropout=0.0) is None
    assert note({"model_type": "bert", **SHAPE}, "views", dropout=0.0) is not None
