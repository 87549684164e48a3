"""What every encoder declares: the base class is abstract, abilities have values, setters check as constructors do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from embedkit.errors import ModelError, UserError
from embedkit.models.augment.dropout import dropout_rate, has_dropout, rates, set_dropout
from embedkit.models.base import Model
from tests.helpers import dual, tiny

pytest.importorskip("open_clip")

MODELS = {
    "text": lambda: tiny.text_encoder("bert"),
    "t5": lambda: tiny.text_encoder("t5"),
    "clip-text": lambda: dual.text_tower("clip"),
    "siglip-text": lambda: dual.text_tower("siglip"),
    "static": lambda: dual.text_tower("static"),
    "dual": lambda: dual.dual("bert", "open_clip-vit"),
    "dual static": lambda: dual.dual("static", "timm-convnext"),
    "dual resnet": lambda: dual.dual("clip", "open_clip-resnet"),
}


class Smallest(Model):
    """The least that is a model: the length of a text."""

    kind = "smallest"
    dim = 1
    normalize = False

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer, self.prompts, self.default_prompt = None, {}, None
        self.weight = nn.Parameter(torch.ones(1))

    @property
    def max_length(self) -> int:
        return 100

    def prepare(self, inputs: Any, prompt: str | None = None) -> Any:
        from embedkit.models.inputs.inputs import Inputs

        return Inputs.of([[1] * (len(text) + 1) for text in inputs])

    def forward(self, inputs: Any) -> torch.Tensor:
        return torch.from_numpy(inputs.costs - 1).float()[:, None] * self.weight

    def spec(self) -> dict[str, Any]:
        return {}

    def tokenizer_json(self) -> str:
        return ""


def test_the_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Model()  # type: ignore[abstract]
    assert Model.__abstractmethods__ == {"max_length", "prepare", "forward", "spec", "tokenizer_json"}


def test_the_abstract_methods_are_all_that_a_model_needs() -> None:
    model = Smallest().eval()
    np.testing.assert_array_equal(model.encode(["abc", "", "abcde"])[:, 0], [3, 0, 5])
    assert model.encode("ab").tolist() == [2]
    assert len(model.hash()) == 16
    assert model.describe()["kind"] == "smallest"
    assert model.pooling is None
    assert model.backbone is None
    assert model.text_model is model
    assert "smallest" in repr(model)
    assert model.similarity("a", "abc").shape == (1, 1)
    for action in (model.gradient_checkpointing_enable, model.compile_layers):
        with pytest.raises(ModelError, match="a smallest model has no layers; leave train"):
            action()
    with pytest.raises(ModelError, match="a smallest model has no dropout"):
        model.set_dropout(0.1)


@pytest.mark.parametrize("name", MODELS)
def test_every_ability_has_a_value(name: str) -> None:
    model = MODELS[name]()
    assert isinstance(model.has_dropout(), bool)
    assert isinstance(model.mixes_inputs, bool)
    assert isinstance(model.has_scale, bool)
    assert isinstance(model.fixed_length, bool)
    assert isinstance(model.beyond_modules, list)
    assert model.ngrams >= 1
    assert model.hidden_size > 0
    assert model.training_dim > 0
    assert model.pooling is None or isinstance(model.pooling, str)
    assert model.similarity_fn_name == "cosine"
    assert model.tokenizer is not None
    text = model.text_model
    assert text.kind != "dual"
    assert (text.backbone is None) == (text.kind == "static")
    assert (model.preprocess is None) == (model.kind != "dual")
    assert model.has_scale == (model.kind == "dual")
    assert model.mixes_inputs == (name == "dual resnet")
    assert text.fixed_length == (name == "siglip-text")


def test_nobody_probes_a_model_for_its_attributes(root: Path) -> None:
    """What is declared on `Model` and `ImageTower` is read, in every room; only foreign objects are probed."""
    declared = (
        "pooling", "ngrams", "cleaning", "padded", "preprocess", "scale", "bias", "beyond_modules", "mixes_inputs",
        "hidden_size", "text", "encoder", "image", "computed_tokens",
    )  # fmt: skip
    probe = re.compile(rf"(?:getattr|hasattr)\((?:[\w.]*\.)?(?:model|text|tower|image), \"(?:{'|'.join(declared)})\"")
    foreign = {"embedkit/formats/transformers/dual_reader.py"}  # transformers' own models
    sources = [path for path in (root / "embedkit").rglob("*.py") if path.relative_to(root).as_posix() not in foreign]
    hits = [
        f"{path.relative_to(root)}: {line.strip()}" for path in sources
        for line in path.read_text(encoding="utf-8").splitlines() if probe.search(line)
    ]  # fmt: skip
    assert hits == []


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_a_length_beyond_the_positions_is_refused_everywhere(family: str) -> None:
    model = tiny.text_encoder(family)
    limit = 80 - (1 if family == "roberta" else 0)
    for value in (limit + 10, 10_000):
        with pytest.raises(ModelError, match=f"max_length is {value}; this encoder takes at most"):
            model.max_length = value
        with pytest.raises(ModelError, match=f"max_length is {value}"):
            tiny.text_encoder(family, max_length=value)
        with pytest.raises(ModelError, match=f"max_length is {value}"):
            model.at_length(value)
    assert model.max_length == 64  # what the tokenizer was made for
    model.max_length = 70  # more than that, within the positions
    assert model.prepare(["a " * 100]).costs.tolist() == [70]
    assert model(model.prepare(["a " * 100])).shape == (1, 32)


def test_a_siglip_tokenizer_that_pads_left_is_obeyed() -> None:
    """The padding is seen: the tokens stand at the end, as the library puts them."""
    model, other = dual.text_tower("siglip"), dual.text_tower("siglip")
    other.tokenizer.padding_side = "left"
    texts = ["a cat", "the dog is running in the park"]
    right, left = (m.prepare(texts).ids.view(2, -1) for m in (model, other))
    for side, ids in (("right", right), ("left", left)):
        source = tiny.tokenizer()
        source.padding_side = side
        wanted = source(texts, padding="max_length", max_length=model.max_length, return_tensors="pt")["input_ids"]
        assert torch.equal(ids, wanted)
    with torch.no_grad():
        wanted = other.encoder(input_ids=left).pooler_output
        torch.testing.assert_close(other(other.prepare(texts)), wanted, atol=1e-5, rtol=1e-5)
    assert np.abs(other.encode(texts) - model.encode(texts)).max() > 1e-3
    assert other.hash() != model.hash()
    bert = tiny.text_encoder("bert")  # whose padding nobody sees
    before = bert.encode(texts)
    bert.tokenizer.padding_side = "left"
    np.testing.assert_array_equal(bert.encode(texts), before)


def test_an_unknown_way_of_running_is_named() -> None:
    model = tiny.text_encoder("bert")
    with pytest.raises(UserError, match="unknown packing 'paked'; did you mean 'packed'"):
        model.way("paked")
    with pytest.raises(UserError, match="mpnet cannot run packed; use packing 'buckets'"):
        tiny.text_encoder("mpnet").way("packed")


# dropout --------------------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """A layer that hands its rate to a function, as attention layers of transformers do."""

    def __init__(self, rate: float, flag: bool = True) -> None:
        super().__init__()
        self.attention_dropout, self.dropout = rate, flag  # a flag is no rate


def test_rates_of_layers_and_of_attributes() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))
    module = nn.Sequential(nn.Dropout(0.1), inner, Functional(0.3), Functional(0))
    assert sorted(rate.value for rate in rates(module)) == [0.0, 0.0, 0.1, 0.3]
    assert has_dropout(module)
    assert set_dropout(module, 0.0) == 4
    assert not has_dropout(module)
    assert module[2].dropout is True
    assert set_dropout(nn.Linear(2, 2), 0.5) == 0
    assert not has_dropout(nn.Linear(2, 2))


def test_a_rate_for_a_while() -> None:
    module = nn.Sequential(nn.Dropout(0.1), Functional(0.3))
    with dropout_rate(module, 0.7):
        assert [rate.value for rate in rates(module)] == [0.7, 0.7]
    assert [rate.value for rate in rates(module)] == [0.1, 0.3]
    with pytest.raises(RuntimeError, match="inside"), dropout_rate(module, 0.7):
        raise RuntimeError("inside")
    assert [rate.value for rate in rates(module)] == [0.1, 0.3]
    with dropout_rate(module, None):
        assert [rate.value for rate in rates(module)] == [0.1, 0.3]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_model_says_whether_two_passes_differ(family: str) -> None:
    """In every architecture `has_dropout` is what a forward pass in training mode shows."""
    inputs = tiny.text_encoder(family).prepare(tiny.SENTENCES)
    for dropout in (0.0, 0.2):
        model = tiny.text_encoder(family, dropout=dropout).train()
        with torch.no_grad():
            differ = not torch.equal(model(inputs), model(inputs))
        assert differ == model.has_dropout() == (dropout > 0)
    model.set_dropout(0.0)
    with torch.no_grad():
        assert torch.equal(model(inputs), model(inputs))
    assert not model.has_dropout()
