"""PromCSE: prefixes against BERT written out, the frozen encoder, and the saved prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError, RecipeError
from embedkit.formats import load
from embedkit.formats.registry import writers
from embedkit.methods.promcse import PromCSE
from tests.methods import toys


@pytest.mark.parametrize("packing", ["packed", "padded"])
@pytest.mark.parametrize(("family", "offset"), [("bert", 0), ("roberta", 1)])  # padding is 0 here
def test_every_layer_sees_the_prefix_and_positions_start_behind_it(family: str, offset: int, packing: str) -> None:
    model = toys.encoder(family, pooling="cls", packing=packing)
    PromCSE(4, dropout=0.0).adapt(model)
    torch.nn.init.normal_(model.double().soft_prompt.weight)
    inputs = model.prepare(toys.TEXTS)
    prefix = model.soft_prompt.weight.view(4, 2, 2, 4, 8).permute(1, 2, 3, 0, 4)  # (layers, 2, heads, p, d)
    for row, z in zip(inputs.rows(), model(inputs), strict=True):
        wanted = toys.bert(model, row, list(range(offset + 4, offset + 4 + len(row))), prefix=prefix)[0]
        assert torch.allclose(z, wanted, atol=1e-12)


def test_only_the_prompt_is_trained() -> None:
    model = toys.encoder()
    PromCSE(5).adapt(model)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["soft_prompt.weight"]
    assert model.soft_prompt.weight.numel() == 5 * 2 * 2 * 32


def test_dropout_of_the_prompt_differs_from_row_to_row() -> None:
    model = toys.encoder()
    PromCSE(5, dropout=0.5).adapt(model)
    torch.nn.init.ones_(model.soft_prompt.weight)
    drawn = model.soft_prompt(3)
    assert drawn.shape == (2, 2, 3, 4, 5, 8)
    assert not torch.equal(drawn[:, :, 0], drawn[:, :, 1])
    assert set(drawn.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(model.eval().soft_prompt(3), torch.ones_like(drawn))


def test_the_saved_model_has_its_prompt_and_other_formats_are_refused(tmp_path: Path) -> None:
    model = toys.encoder(pooling="cls").float()
    plain = model.encode(toys.TEXTS)
    PromCSE(4).adapt(model)
    torch.nn.init.normal_(model.soft_prompt.weight)
    model.eval().save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.encode(toys.TEXTS), model.encode(toys.TEXTS))
    assert not np.allclose(again.encode(toys.TEXTS), plain, atol=1e-3)
    assert again.hash() == model.hash()
    for name in ("sentence-transformers", "transformers", "onnx"):
        with pytest.raises(ModelError, match="soft prompt"):
            writers[name].write(again, tmp_path / "other")


def test_views_follow_the_data() -> None:
    rows = [{"anchor": "a dog"}, {"anchor": "a cat"}]
    plain = PromCSE().views(rows, lambda i: np.random.default_rng(i))
    assert plain["positive"].inputs == plain["anchor"].inputs == ["a dog", "a cat"]
    labelled = [{**row, "positive": "x", "negatives": ["y", "z"]} for row in rows]
    found = PromCSE().views(labelled, lambda i: np.random.default_rng(i))
    assert (found["positive"].inputs, found["negatives"].owner) == (["x", "x"], [0, 0, 1, 1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="distilbert takes no soft prompt"):
        PromCSE().adapt(toys.encoder("distilbert"))
    with pytest.raises(ModelError, match="need more than 80 positions"):
        PromCSE(40).adapt(toys.encoder())
    with pytest.raises(RecipeError, match="prompt_length is 0"):
        PromCSE(0)
