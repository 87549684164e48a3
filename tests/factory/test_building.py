"""Models of a recipe's `model` section."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedkit.config.model import ModelConfig
from embedkit.errors import ModelError, UserError
from embedkit.factory import build
from embedkit.formats import load
from embedkit.models.modules.adapters import merged_state
from tests.helpers import tiny

SHAPE = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.tokenizer_folder(tmp_path_factory.mktemp("tokenizer")))


def test_random_model_is_a_function_of_the_seed(tokenizer: str) -> None:
    config = ModelConfig(config=SHAPE, tokenizer=tokenizer, head={"train_only": True})
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, second, third = build(config, 1), build(config, 1), build(config, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.training
    assert first.hash() == second.hash() != third.hash()
    assert first.encoder.config.vocab_size == len(first.tokenizer)


def test_settings_of_the_recipe_win(tmp_path: Path) -> None:
    tiny.model_folder(tmp_path / "m", pooling="mean", normalize=True, prompts={"a": "the "}, default_prompt="a")
    name = str(tmp_path / "m")
    kept = build(ModelConfig(name=name))
    assert kept.spec() == load(name).spec()
    config = ModelConfig(
        name=name, pooling="max", normalize=False, max_length=9, prompts={"b": "a "}, default_prompt="b", dropout=0.25
    )
    model = build(config)
    spec = model.spec()
    assert (spec["pooling"], spec["normalize"], spec["max_length"]) == ("max", False, 9)
    assert (spec["prompts"], spec["default_prompt"]) == ({"a": "the ", "b": "a "}, "b")
    rates = {m.p for m in model.encoder.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.25}


def test_head(tokenizer: str) -> None:
    config = ModelConfig(config=SHAPE, tokenizer=tokenizer, pooling="cls", head={"kind": "linear", "dim": 5})
    model = build(config)
    assert model.dim == 5
    inputs = model.prepare(tiny.SENTENCES)
    head = model.layers[0].linear
    assert head.bias.abs().sum() == 0
    assert 0.01 < head.weight.std() < 0.03
    model.eval()
    with torch.no_grad():
        hidden = model.token_states(inputs)
        first = hidden.last[torch.from_numpy(hidden.plan.starts)][torch.from_numpy(hidden.plan.inverse())]
        torch.testing.assert_close(model(inputs), first @ head.weight.T)


def test_train_only_head_shapes(tokenizer: str) -> None:
    model = build(ModelConfig(config=SHAPE, tokenizer=tokenizer, head={"dim": 7, "train_only": True}))
    inputs = model.prepare(tiny.SENTENCES)
    assert model(inputs).shape == (len(tiny.SENTENCES), 7)
    assert model(model.prepare([])).shape == (0, 7)
    assert model.eval()(inputs).shape == (len(tiny.SENTENCES), 32)
    assert model.dim == 32


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_builds_from_a_config(family: str, tokenizer: str) -> None:
    model = build(ModelConfig(config={"model_type": family, **tiny.CONFIGS[family]}, tokenizer=tokenizer))
    out = model(model.prepare(tiny.SENTENCES))
    out.square().sum().backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []  # every parameter takes part, as data-parallel training needs


def test_lora_trains_little_and_merges(tokenizer: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = ModelConfig(
        config=SHAPE, tokenizer=tokenizer, dropout=0.0, lora={"rank": 2, "targets": ["query", "value"]}
    )
    model = build(config, 3)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 2
    assert all(".lora_" in name for name in names)
    plain = build(ModelConfig(config=SHAPE, tokenizer=tokenizer, dropout=0.0), 3)
    inputs = model.prepare(tiny.SENTENCES)
    torch.testing.assert_close(model(inputs), plain(inputs))  # the second factor starts at zero
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_()
    expected = model.encode(tiny.SENTENCES)
    assert np.abs(expected - plain.encode(tiny.SENTENCES)).max() > 1e-2
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(again.encode(tiny.SENTENCES), expected, atol=1e-5)
    assert again.hash() == model.hash()
    assert merged_state(model.encoder).keys() == plain.encoder.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": {**SHAPE, "model_type": "no-such"}}, "not a transformers configuration"),
        ({"config": {**SHAPE, "vocab_size": 5}}, "vocab_size is 5"),
        ({"config": SHAPE, "pooling": "middle"}, "unknown pooler 'middle'"),
        ({"config": SHAPE, "lora": {"targets": ["nothing"]}}, "model.lora.targets: adapters do not fit"),
        ({"kind": "static", "dim": 4, "pooling": "cls"}, "no cls pooling"),
        ({"kind": "static", "dim": 4, "dropout": 0.1}, "model.dropout: has no effect on this model"),
    ],
)
def test_refusals(settings: dict, message: str, tokenizer: str) -> None:
    with pytest.raises(UserError, match=message):
        build(ModelConfig(tokenizer=tokenizer, **settings))


def test_wrong_kind_is_named(tokenizer: str, tmp_path: Path) -> None:
    tiny.model_folder(tmp_path / "text")
    build(ModelConfig(kind="static", tokenizer=tokenizer, dim=4)).save(tmp_path / "static")
    with pytest.raises(ModelError, match="is a text model"):
        build(ModelConfig(kind="static", name=str(tmp_path / "text")))
    with pytest.raises(ModelError, match="is a static model"):
        build(ModelConfig(name=str(tmp_path / "static")))


def test_tokenizer_from_vocab_txt(shared: Path) -> None:
    config = ModelConfig(
        config=SHAPE, tokenizer=str(shared / "data" / "tokenizers" / "bert-base-uncased" / "vocab.txt")
    )
    model = build(config)
    assert len(model.tokenizer) == 30522
    words = model.tokenizer.convert_ids_to_tokens(model.prepare(["Unbelievable guitars!"]).ids.tolist())
    assert words == ["[CLS]", "unbelievable", "guitars", "!", "[SEP]"]


def test_other_vectors_share_the_weights_and_leave_the_model_alone(tokenizer: str) -> None:
    heads = [{"kind": "linear", "dim": 9}, {"dim": 9, "train_only": True}, {"dim": 5, "train_only": True}]
    model = build(ModelConfig(config=SHAPE, tokenizer=tokenizer, pooling="cls", head=heads)).eval()
    before = model.encode(tiny.SENTENCES, normalize=False)
    other = model.by_other_vectors(pooling="mean", heads=1)
    inputs = model.prepare(tiny.SENTENCES)
    with torch.no_grad():
        wanted = model.layers[1](model.layers[0](model.pooled(inputs, pooling="mean")))
    np.testing.assert_allclose(other.encode(tiny.SENTENCES, normalize=False), wanted.numpy(), atol=1e-6)
    assert other.layers[1].linear.weight is model.layers[1].linear.weight
    assert [layer.train_only for layer in model.layers] == [False, True, True]
    assert (model.pooling, len(model.layers)) == ("cls", 3)
    np.testing.assert_array_equal(model.encode(tiny.SENTENCES, normalize=False), before)


def test_a_default_prompt_must_be_one_of_the_folder_or_the_recipe(tmp_path: Path) -> None:
    tiny.model_folder(tmp_path / "m", prompts={"a": "the "})
    with pytest.raises(ModelError, match="default_prompt"):
        build(ModelConfig(name=str(tmp_path / "m"), default_prompt="query"))


def test_what_is_wrong_with_a_modality_names_it() -> None:
    towers = {"place": {"kind": "feature", "feature": {"width": 3, "waves": 4}},
              "image": {"kind": "feature", "feature": {"width": 9}}}  # fmt: skip
    with pytest.raises(ModelError, match=r"model.modalities.place.feature.waves: waves are made of latitude"):
        build(ModelConfig(kind="multi", dim=8, modalities=towers))
