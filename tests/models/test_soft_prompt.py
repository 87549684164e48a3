"""Deep soft prompts: keys and values in front of every layer, against a loop that attends to them by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError
from embedkit.models.modules.soft_prompt import FITTING, SoftPrompt
from tests.helpers import tiny


def model_with(length: int = 3, **settings: Any) -> Any:
    return tiny.text_encoder("bert", dropout=0.0, soft_prompt={"length": length, "dropout": 0.0, **settings})


def test_shape_and_order_of_keys_and_values() -> None:
    config = tiny.config("bert")
    prompt = SoftPrompt(config, 3, dropout=0.0)
    assert prompt.weight.shape == (3, 2 * 2 * 32)
    out = prompt(5)
    assert out.shape == (2, 2, 5, 4, 3, 8)  # layers, key and value, texts, heads, virtual tokens, size
    flat = prompt.weight.view(3, 2, 2, 4, 8)
    for layer in range(2):
        for part in range(2):
            torch.testing.assert_close(out[layer, part, 4], flat[:, layer, part].transpose(0, 1))
    assert prompt.spec() == {"length": 3, "dropout": 0.0}


def test_the_start_is_as_wide_as_the_encoders() -> None:
    prompt = SoftPrompt(tiny.config("bert", initializer_range=0.5), 200)
    assert float(prompt.weight.detach().std()) == pytest.approx(0.5, rel=0.05)


def by_hand(model: Any, row: list[int]) -> torch.Tensor:
    """Token vectors (l, H) of one text: BERT's layers with the prompt's keys and values in front, in plain torch."""
    encoder, prompt = model.encoder, model.soft_prompt
    shift = prompt.length
    places = torch.arange(shift, shift + len(row))[None]
    x = encoder.embeddings(input_ids=torch.tensor([row]), position_ids=places)
    extra = prompt(1)
    for number, layer in enumerate(encoder.encoder.layer):
        attention = layer.attention.self
        parts = [getattr(attention, name)(x).view(1, -1, 4, 8).transpose(1, 2) for name in ("query", "key", "value")]
        key = torch.cat([extra[number, 0], parts[1]], dim=2)
        value = torch.cat([extra[number, 1], parts[2]], dim=2)
        weights = torch.softmax(parts[0] @ key.transpose(-1, -2) / 8**0.5, dim=-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        x = layer.attention.output(mixed, x)
        x = layer.output(layer.intermediate(x), x)
    return x[0]


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_every_layer_attends_to_the_prompt(way: str) -> None:
    model = model_with()
    with torch.no_grad():
        model.soft_prompt.weight.normal_()
        inputs = model.prepare(tiny.SENTENCES)
        vectors = model(inputs, packing=way)
        for place, row in enumerate(inputs.rows()):
            torch.testing.assert_close(vectors[place], by_hand(model, row).mean(0), atol=1e-5, rtol=1e-4)


def test_the_prompt_changes_the_vectors_and_is_trained() -> None:
    model = model_with().train()
    inputs = model.prepare(tiny.SENTENCES)
    model(inputs).square().sum().backward()
    assert float(model.soft_prompt.weight.grad.abs().min(dim=1).values.max()) > 0
    plain = tiny.text_encoder("bert", dropout=0.0)
    assert np.abs(model.eval().encode(tiny.SENTENCES) - plain.encode(tiny.SENTENCES)).max() > 1e-4


def test_dropout_is_drawn_for_each_text() -> None:
    prompt = SoftPrompt(tiny.config("bert"), 4, dropout=0.5).train()
    out = prompt(3)
    dropped = (out == 0).double().mean()
    assert float(dropped) == pytest.approx(0.5, abs=0.1)
    assert not torch.equal(out[:, :, 0], out[:, :, 1])
    prompt.eval()
    assert torch.equal(prompt(3)[:, :, 0], prompt(3)[:, :, 1])


def test_the_prompt_takes_positions() -> None:
    model = model_with(length=60)
    assert model.max_length == 20  # of 80 positions
    with pytest.raises(ModelError, match="max_length is 21; this encoder takes at most 20 tokens"):
        model.max_length = 21


@pytest.mark.parametrize("family", ["t5", "albert", "modernbert", "distilbert"])
def test_architectures_that_take_none(family: str) -> None:
    with pytest.raises(ModelError, match=f"{family} takes no soft prompt; it goes with bert"):
        SoftPrompt(tiny.config(family), 3)
    assert family not in FITTING


def test_saved_and_loaded(tmp_path: Path) -> None:
    from embedkit.formats import load

    model = model_with()
    with torch.no_grad():
        model.soft_prompt.weight.normal_()
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(again.encode(tiny.SENTENCES), model.encode(tiny.SENTENCES), atol=1e-6)
    assert again.spec() == model.spec()
    assert "it has a soft prompt in every layer" in again.beyond_modules
