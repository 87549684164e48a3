"""The layer on [CLS] that an encoder was pretrained with: read where it is, refused where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embedkit.config.model import ModelConfig
from embedkit.errors import ModelError
from embedkit.factory.model import build
from embedkit.formats import load
from tests.helpers import tiny

TEXTS = ["the cat sleeps", "a small red dog", "river"]
POOLED = ["albert", "bert", "mpnet", "roberta"]


def pretrained(path: Path, family: str = "bert") -> Any:
    """A transformers model with a pooler, saved at `path` with its tokenizer."""
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModel.from_config(tiny.config(family)).eval()
        tiny.spread(model)
    model.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return model


@torch.no_grad()
def outputs(model: Any, name: str = "pooler_output") -> np.ndarray:
    """What transformers gives for each text alone: (N, H)."""
    found = [model(**tiny.tokenizer()([text], return_tensors="pt"))[name][0] for text in TEXTS]
    return torch.stack([vector if vector.dim() == 1 else vector[0] for vector in found]).numpy()


@pytest.mark.parametrize("family", POOLED)
def test_pooling_by_the_pooler_is_transformers_pooler_output(family: str, tmp_path: Path) -> None:
    model = pretrained(tmp_path / "m", family)
    loaded = load(tmp_path / "m", device="cpu", pooling="pooler")
    np.testing.assert_allclose(loaded.encode(TEXTS), outputs(model), atol=1e-5)
    plain = load(tmp_path / "m", device="cpu", pooling="cls").encode(TEXTS)
    assert np.abs(plain - outputs(model)).max() > 0.1


def test_it_is_found_under_the_name_of_a_whole_model_and_in_a_pickle(tmp_path: Path) -> None:
    wanted = outputs(pretrained(tmp_path))
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_allclose(load(tmp_path, device="cpu", pooling="pooler").encode(TEXTS), wanted, atol=1e-5)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    again = load(tmp_path, device="cpu", pooling="pooler", allow_pickle=True)
    np.testing.assert_allclose(again.encode(TEXTS), wanted, atol=1e-5)


def test_it_travels_as_a_dense_layer(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    wanted = outputs(pretrained(tmp_path / "m"))
    load(tmp_path / "m", device="cpu", pooling="pooler").save(tmp_path / "saved")
    np.testing.assert_allclose(load(tmp_path / "saved", device="cpu").encode(TEXTS), wanted, atol=1e-5)
    other = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(other.encode(TEXTS), wanted, atol=1e-5)


def test_as_a_head_for_training_only(tmp_path: Path) -> None:
    """DCLR's: the pretrained pooler, a new layer behind it, and at use time neither."""
    model = pretrained(tmp_path / "m")
    heads = [{"kind": "pooler", "train_only": True}, {"kind": "tanh", "train_only": True}]
    built = build(ModelConfig(name=str(tmp_path / "m"), pooling="cls", head=heads, dropout=0.0), seed=3)
    second = built.layers[1].linear
    with torch.no_grad():
        found = built(built.prepare(TEXTS))
        wanted = torch.tanh(torch.from_numpy(outputs(model)) @ second.weight.T + second.bias)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert all(parameter.requires_grad for layer in built.layers for parameter in layer.parameters())
    np.testing.assert_allclose(built.eval().encode(TEXTS), outputs(model, "last_hidden_state"), atol=1e-5)
    built.save(tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu").train()
    again.encoder.eval()
    torch.testing.assert_close(again(again.prepare(TEXTS)), wanted, atol=1e-5, rtol=1e-4)


def test_equal_heads_stay_two_and_a_new_training_has_only_its_own(tmp_path: Path) -> None:
    pretrained(tmp_path / "m")
    heads = [{"kind": "linear"}, {"train_only": True}, {"train_only": True}]
    first = build(ModelConfig(name=str(tmp_path / "m"), pooling="cls", head=heads), seed=3)
    first.save(tmp_path / "first")
    again = load(tmp_path / "first", device="cpu")
    assert [layer.train_only for layer in again.layers] == [False, True, True]
    for own, saved in zip(first.layers, again.layers, strict=True):
        torch.testing.assert_close(saved.linear.weight, own.linear.weight)
    head = {"train_only": True}
    second = build(ModelConfig(name=str(tmp_path / "first"), head=head), seed=4)
    assert [layer.train_only for layer in second.layers] == [False, True]
    torch.testing.assert_close(second.layers[0].linear.weight, first.layers[0].linear.weight)
    assert not torch.equal(second.layers[1].linear.weight, first.layers[1].linear.weight)
    kept = build(ModelConfig(name=str(tmp_path / "first")), seed=4)  # training goes on with what it had
    assert len(kept.layers) == 3


def test_where_there_is_none_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.text_encoder("distilbert").encoder.save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="m: holds no pooler"):
        load(tmp_path / "m", pooling="pooler")
    pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)  # weights lie in the folder one stands in
    shape = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    for settings in ({"pooling": "pooler"}, {"head": {"kind": "pooler"}}):
        with pytest.raises(ModelError, match=r"random encoder"):
            build(ModelConfig(config=shape, tokenizer=str(tmp_path), **settings))
    behind = [{"kind": "linear"}, {"kind": "pooler"}]
    with pytest.raises(ModelError, match=r"model\.head: a pooler behind another head"):
        build(ModelConfig(name=str(tmp_path), head=behind))
