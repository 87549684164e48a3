"""Saved folders: what stands in each file, who else reads them, and what is said where they cannot."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import embedkit
from embedkit.errors import ModelError
from embedkit.formats.saving import save
from embedkit.formats.sentence_transformers.writer import notes_for_readers, reasons_against
from embedkit.models.heads.layers import Cut, Dense, LayerNorm, UnitLength
from embedkit.models.modules.static import StaticEncoder
from tests.helpers import dual, tiny

TEXTS = tiny.SENTENCES


def held(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def layer_norm(dim: int) -> LayerNorm:
    layer = LayerNorm(dim)
    torch.nn.init.uniform_(layer.norm.weight)
    return layer


# --- the files -------------------------------------------------------------------------------------------------------


def test_the_listing_is_what_older_sentence_transformers_read(tmp_path: Path) -> None:
    """Versions before 5 know ``sentence_transformers.models.*``, one folder a module in order, and the flags."""
    model = tiny.text_encoder(
        pooling="cls", dense=[Dense(32, 16), UnitLength(), layer_norm(16), Dense(16, 8, "identity", bias=False)]
    )
    save(model, tmp_path / "m")
    listing = held(tmp_path / "m" / "modules.json")
    assert [entry["idx"] for entry in listing] == list(range(7))
    assert [entry["name"] for entry in listing] == [str(number) for number in range(7)]
    assert [entry["type"] for entry in listing] == [
        f"sentence_transformers.models.{name}"
        for name in ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dense", "Normalize")
    ]
    assert [entry["path"] for entry in listing] == [
        "", "1_Pooling", "2_Dense", "3_Normalize", "4_LayerNorm", "5_Dense", "6_Normalize",
    ]  # fmt: skip
    assert all((tmp_path / "m" / entry["path"] / "config.json").is_file() for entry in listing)
    dense = held(tmp_path / "m" / "5_Dense" / "config.json")
    assert dense == {
        "in_features": 16, "out_features": 8, "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }  # fmt: skip
    assert load_file(tmp_path / "m" / "5_Dense" / "model.safetensors").keys() == {"linear.weight"}
    assert held(tmp_path / "m" / "4_LayerNorm" / "config.json") == {"dimension": 16}
    assert load_file(tmp_path / "m" / "4_LayerNorm" / "model.safetensors").keys() == {"norm.weight", "norm.bias"}


@pytest.mark.parametrize(
    ("pooling", "flag"),
    [("cls", "cls_token"), ("max", "max_tokens"), ("mean", "mean_tokens"), ("last-token", "lasttoken"),
     ("weighted-mean", "weightedmean_tokens"), ("mean-sqrt-len", "mean_sqrt_len_tokens")],
)  # fmt: skip
def test_each_pooling_is_one_flag(pooling: str, flag: str, tmp_path: Path) -> None:
    model = tiny.text_encoder(pooling=pooling)
    save(model, tmp_path / "m")
    config = held(tmp_path / "m" / "1_Pooling" / "config.json")
    assert [key for key, value in config.items() if value is True] == [f"pooling_mode_{flag}", "include_prompt"]
    assert config["word_embedding_dimension"] == 32
    assert notes_for_readers(model) == []


def test_poolings_in_another_order_than_the_flags_have_the_form_of_5_4(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tiny.text_encoder(pooling="cls+mean"), tmp_path / "old")
    assert "pooling_mode" not in held(tmp_path / "old" / "1_Pooling" / "config.json")
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        save(tiny.text_encoder(pooling="mean+cls"), tmp_path / "new")
    assert held(tmp_path / "new" / "1_Pooling" / "config.json") == {
        "embedding_dimension": 32, "pooling_mode": ["mean", "cls"], "include_prompt": True,
    }  # fmt: skip
    assert "pooling mean+cls is read by sentence-transformers from 5.4 on" in caplog.text
    assert str(tmp_path / "new") in caplog.text


def test_settings_of_the_text_and_of_the_model(tmp_path: Path) -> None:
    model = tiny.text_encoder(max_length=20, prompts={"query": "who: {}", "doc": "the "}, default_prompt="doc")
    model.similarity_fn_name = "dot"
    save(model, tmp_path / "m")
    text = held(tmp_path / "m" / "sentence_bert_config.json")
    assert text == {"max_seq_length": 20, "do_lower_case": False, "model_args": {"add_pooling_layer": False}}
    known = held(tmp_path / "m" / "config_sentence_transformers.json")
    versions = known.pop("__version__")
    assert versions["pytorch"] == torch.__version__
    assert known == {
        "model_type": "SentenceTransformer", "prompts": {"query": "who: ", "doc": "the "}, "default_prompt_name": "doc",
        "similarity_fn_name": "dot",
    }  # fmt: skip


def test_an_architecture_without_pooling_layer_is_not_asked_for_one(tmp_path: Path) -> None:
    save(tiny.text_encoder("distilbert"), tmp_path / "m")
    assert held(tmp_path / "m" / "sentence_bert_config.json").keys() == {"max_seq_length", "do_lower_case"}


def test_embedkits_own_file_has_the_hash_the_spec_and_the_recipe(tmp_path: Path) -> None:
    model = tiny.text_encoder(dense=[Dense(32, 8), Dense(8, 4, train_only=True)])
    save(model, tmp_path / "m", recipe={"train": {"lr": 1e-5}})
    own = held(tmp_path / "m" / "embedkit.json")
    assert (own["format"], own["kind"], own["embedkit"]) == (1, "text", embedkit.__version__)
    assert (own["hash"], own["recipe"]) == (model.hash(), {"train": {"lr": 1e-5}})
    assert [layer.get("folder") for layer in own["spec"]["dense"]] == ["2_Dense", None]
    kept = load_file(tmp_path / "m" / "embedkit_train_only.safetensors")
    torch.testing.assert_close(kept["0.linear.weight"], model.layers[1].linear.weight.detach(), rtol=0, atol=0)


def test_two_layers_of_training_keep_their_order(tmp_path: Path) -> None:
    first, second = Dense(32, 32, train_only=True), Dense(32, 32, train_only=True)
    save(tiny.text_encoder(dense=[first, second]), tmp_path / "m")
    layers = embedkit.load(tmp_path / "m", device="cpu").layers
    for ours, kept in zip(layers, (first, second), strict=True):
        torch.testing.assert_close(ours.linear.weight, kept.linear.weight, rtol=0, atol=0)


def test_a_dual_encoder_is_two_towers_and_the_text_tower_is_a_model_by_itself(tmp_path: Path) -> None:
    model = dual.dual("bert", "open_clip-vit")
    save(model, tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "embedkit.json", "image", "projections.safetensors", "text",
    ]  # fmt: skip
    text = embedkit.load(tmp_path / "m" / "text", device="cpu")
    np.testing.assert_array_equal(text.encode(TEXTS), model.text.encode(TEXTS))
    projections = load_file(tmp_path / "m" / "projections.safetensors")
    expected = model.text.encode(TEXTS, normalize=False) @ projections["text.layers.0.weight"].numpy().T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    assert load_file(tmp_path / "m" / "image" / "model.safetensors").keys() == model.image.encoder.state_dict().keys()


# --- what others cannot have ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, None),
        ({"pooling": "cls+mean"}, None),
        ({"prompts": {"q": "who "}}, None),
        ({"dense": [Dense(32, 8), Cut(4)], "normalize": False}, None),
        ({"pooling": "first-last"}, "it has no first-last pooling"),
        ({"prompts": {"a": "who ", "b": "the {} dog"}}, "prompt 'b' is a template with text behind the slot"),
        ({"dense": [Cut(4)], "normalize": True}, "something stands behind the cut of its vectors"),
        ({"dense": [Cut(4), Dense(4, 4)], "normalize": False}, "something stands behind the cut of its vectors"),
    ],
)
def test_reasons_against_sentence_transformers(settings: dict[str, Any], reason: str | None, tmp_path: Path) -> None:
    model = tiny.text_encoder(**settings)
    assert reasons_against(model) == ([] if reason is None else [reason])
    save(model, tmp_path / "m")
    types = {entry["type"] for entry in held(tmp_path / "m" / "modules.json")}
    assert (types == {"embedkit.models.TextEncoder"}) == (reason is not None)
    again = embedkit.load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    if reason is not None:
        with pytest.raises(ModelError, match="sentence-transformers cannot express this model") as caught:
            embedkit.export(model, tmp_path / "e", format="sentence-transformers")
        assert reason in str(caught.value)


def test_several_reasons_are_all_said() -> None:
    model = tiny.text_encoder(pooling="first-last", prompts={"t": "{} dog"}, dense=[Cut(4)], normalize=True)
    assert len(reasons_against(model)) == 3


def test_a_clip_text_tower_and_word_n_grams_are_not_theirs() -> None:
    assert reasons_against(dual.text_tower("clip")) == ["a clip-text model alone is none of its modules"]
    grams = StaticEncoder(tiny.tokenizer(), 8, ngrams=2, buckets=50)
    assert reasons_against(grams) == ["its StaticEmbedding has no word n-grams"]
    assert reasons_against(StaticEncoder(tiny.tokenizer(), 8)) == []


def test_a_cut_is_said_to_be_newer_than_some_readers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.text_encoder(dense=[Cut(8)], normalize=False)
    with caplog.at_level(logging.WARNING):
        save(model, tmp_path / "m")
    assert "sentence-transformers 5.2 does not read truncate_dim (8) and gives whole vectors" in caplog.text
    assert held(tmp_path / "m" / "config_sentence_transformers.json")["truncate_dim"] == 8
    (tmp_path / "m" / "embedkit.json").unlink()
    np.testing.assert_allclose(
        embedkit.load(tmp_path / "m", device="cpu").encode(TEXTS), model.encode(TEXTS), atol=1e-6
    )


def test_an_architecture_that_sees_its_padding_is_told() -> None:
    from types import SimpleNamespace

    told = SimpleNamespace(
        kind="text", encoder=SimpleNamespace(config=SimpleNamespace(model_type="fnet")), pooling="mean", layers=[],
        tokenizer=tiny.tokenizer(),
    )  # fmt: skip
    assert notes_for_readers(told)[0].startswith("fnet sees the padding of its batch")
    assert notes_for_readers(StaticEncoder(tiny.tokenizer(), 8)) == []


# --- static encoders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_a_static_encoder_is_the_librarys_own(normalize: bool, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = StaticEncoder(tiny.tokenizer(), 8, normalize=normalize)
    save(model, tmp_path / "m")
    names = ["StaticEmbedding", *(["Normalize"] if normalize else [])]
    assert [e["type"].rpartition(".")[2] for e in held(tmp_path / "m" / "modules.json")] == names
    texts = [text for text in TEXTS if text]
    theirs = library.SentenceTransformer(str(tmp_path / "m"), device="cpu").encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(model.encode(texts), theirs, atol=1e-6)
    theirs_again = library.SentenceTransformer(str(tmp_path / "m"), device="cpu")
    theirs_again.save(str(tmp_path / "theirs"))
    np.testing.assert_allclose(embedkit.load(tmp_path / "theirs", device="cpu").encode(texts), theirs, atol=1e-6)
