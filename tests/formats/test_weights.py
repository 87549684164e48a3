"""The weights of each kind of model: names and values of the library that owns them, shards, types, tied tensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import embedkit
from embedkit.config.model import LoraConfig
from embedkit.errors import ModelError
from embedkit.formats.transformers.encoder import new_encoder, pretrained_pooler, read_encoder
from embedkit.formats.weights import write_weights
from embedkit.models.modules.adapters import add_lora
from embedkit.models.modules.static import StaticEncoder
from tests.helpers import dual, tiny

TEXTS = [text for text in tiny.SENTENCES if text]


def bert(name: str, **settings: Any) -> Any:
    """A random BERT of transformers under one of its classes."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, name)(tiny.config("bert", **settings)).eval()
        tiny.spread(model)
    return model


def bare(model: Any, path: Path, **settings: Any) -> Path:
    model.save_pretrained(path, **settings)
    tiny.tokenizer().save_pretrained(path)
    return path


def means(model: Any) -> np.ndarray:
    """Mean-pooled vectors by transformers, one text at a time."""
    words = tiny.tokenizer()
    with torch.inference_mode():
        rows = [model(**words([text], return_tensors="pt")).last_hidden_state[0].mean(0) for text in TEXTS]
    return torch.stack(rows).numpy()


# --- written ---------------------------------------------------------------------------------------------------------


def test_an_encoder_is_written_under_the_names_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoModel

    model = tiny.text_encoder()
    write_weights(model, tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == model.encoder.state_dict().keys()
    theirs, report = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    np.testing.assert_allclose(means(theirs.eval()), model.encode(TEXTS, normalize=False), atol=1e-5)


def test_extra_tensors_stand_beside_and_the_encoders_stay(tmp_path: Path) -> None:
    model = tiny.text_encoder()
    write_weights(model, tmp_path, {"pooler.dense.weight": torch.ones(3)})
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == {*model.encoder.state_dict(), "pooler.dense.weight"}
    assert found["pooler.dense.weight"].tolist() == [1, 1, 1]


def test_adapters_are_written_merged_and_the_model_keeps_them(tmp_path: Path) -> None:
    model = tiny.text_encoder()
    plain = model.encode(TEXTS)
    add_lora(model, LoraConfig(rank=2, targets=["query"]))
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.3)
    adapted = model.encode(TEXTS)
    assert np.abs(adapted - plain).max() > 1e-3
    write_weights(model, tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "lora" in name]
    np.testing.assert_allclose(embedkit.load(tmp_path, device="cpu").encode(TEXTS, normalize=True), adapted, atol=1e-5)
    np.testing.assert_array_equal(model.encode(TEXTS), adapted)


def test_a_static_table_and_its_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    model = StaticEncoder(tiny.tokenizer(), 8, max_length=5)
    write_weights(model, tmp_path, {"more": torch.zeros(1)})
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == {"embedding.weight", "more"}
    torch.testing.assert_close(found["embedding.weight"], model.embedding.weight.detach(), rtol=0, atol=0)
    core = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert core.truncation["max_length"] == 5
    assert core.encode("the dog", add_special_tokens=False).tokens == ["the", "dog"]


def test_a_dual_encoder_has_no_single_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a dual model has no single file of weights; save it with embedkit"):
        write_weights(dual.dual("bert"), tmp_path)


# --- read: names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"])
def test_the_encoder_is_found_within_the_model_that_was_saved(name: str, tmp_path: Path) -> None:
    model = bert(name)
    bare(model, tmp_path / "m")
    expected = means(getattr(model, "bert", model))
    np.testing.assert_allclose(embedkit.load(tmp_path / "m", device="cpu").encode(TEXTS), expected, atol=1e-5)


def test_old_names_of_layer_norms_are_understood(tmp_path: Path) -> None:
    """BERT's first checkpoints have gamma and beta."""
    model = bert("BertModel")
    bare(model, tmp_path)
    old = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        old[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    assert any(name.endswith("gamma") for name in old)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_allclose(embedkit.load(tmp_path, device="cpu").encode(TEXTS), means(model), atol=1e-5)


def test_tied_tables_are_written_once_and_read(tmp_path: Path) -> None:
    model = bert("BertForMaskedLM", tie_word_embeddings=True)
    bare(model, tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert not any(name.startswith("cls.predictions.decoder.weight") for name in held)  # tied to the word vectors
    ours = embedkit.load(tmp_path, device="cpu")
    table = ours.encoder.get_input_embeddings().weight
    torch.testing.assert_close(table.detach(), model.get_input_embeddings().weight.detach(), rtol=0, atol=0)


def test_the_tied_table_of_t5_is_one_parameter(tmp_path: Path) -> None:
    model = tiny.text_encoder("t5")
    model.save(tmp_path / "m")
    again = embedkit.load(tmp_path / "m", device="cpu")
    names = [name for name, tensor in again.encoder.named_parameters() if tensor.shape[0] == len(tiny.tokenizer())]
    assert len(names) == 1, names
    assert again.encoder.shared.weight is again.encoder.encoder.embed_tokens.weight
    assert again.hash() == model.hash()


def test_weights_beyond_the_encoder_are_told_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare(bert("BertForMaskedLM"), tmp_path)
    with caplog.at_level("INFO", logger="embedkit"):
        read_encoder(tmp_path)
    assert "weights not used (cls)" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.bert.", "0.auto_model."])
def test_what_a_wrapper_writes_before_the_names_is_read_over_and_told(
    prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare(bert("BertModel"), tmp_path)
    right = embedkit.load(tmp_path, device="cpu").encode(TEXTS)
    state = load_file(tmp_path / "model.safetensors")
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    save_file(wrapped, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(embedkit.load(tmp_path, device="cpu").encode(TEXTS), right)
    assert f"the names of its weights begin with {prefix}" in caplog.text
    wrapped |= {f"other.{name}": tensor.clone() for name, tensor in state.items()}
    save_file(wrapped, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="weights are missing"):  # which of the two?
        embedkit.load(tmp_path)


def test_a_checkpoint_with_its_tensors_inside_is_told_what_to_write(tmp_path: Path) -> None:
    bare(bert("BertModel"), tmp_path)
    file = tmp_path / "model.safetensors"
    torch.save({"epoch": 3, "state_dict": load_file(file)}, tmp_path / "pytorch_model.bin")
    file.unlink()
    with pytest.raises(ModelError, match="a checkpoint with 'state_dict' inside: .*save_file"):
        embedkit.load(tmp_path, allow_pickle=True)


def test_what_simcses_training_writes_is_read_at_the_first_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its class BertForCL keeps the layer of [CLS] as mlp.dense (train.py of princeton-nlp/SimCSE)."""
    bare(bert("BertModel"), tmp_path)
    pooled = embedkit.load(tmp_path, device="cpu", pooling="pooler").encode(TEXTS)
    first = embedkit.load(tmp_path, device="cpu", pooling="cls").encode(TEXTS)
    state = load_file(tmp_path / "model.safetensors")
    named = {f"bert.{name}".replace("bert.pooler.dense", "mlp.dense"): tensor for name, tensor in state.items()}
    save_file(named, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForCL"]}))
    caplog.clear()
    np.testing.assert_array_equal(embedkit.load(tmp_path, device="cpu").encode(TEXTS), first)
    assert "its first token, for SimCSE's code wrote it" in caplog.text
    np.testing.assert_array_equal(embedkit.load(tmp_path, device="cpu", pooling="pooler").encode(TEXTS), pooled)


@pytest.mark.parametrize("layer", ["encoder.layer.1.output.dense.weight", "embeddings.word_embeddings.weight"])
def test_a_missing_tensor_is_named_not_drawn(layer: str, tmp_path: Path) -> None:
    bare(bert("BertModel"), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop(layer)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"1 weights are missing .*first: {layer}") as caught:
        embedkit.load(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_settings_of_the_configuration_are_replaced_by_a_caller(tmp_path: Path) -> None:
    bare(bert("BertModel"), tmp_path)
    encoder = read_encoder(tmp_path, {"hidden_dropout_prob": 0.4, "attention_probs_dropout_prob": 0.2})
    rates = {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.4, 0.2}


# --- read: shards and types ------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path: Path) -> tuple[Any, Path]:
    model = bert("BertModel")
    return model, bare(model, tmp_path / "m", max_shard_size="20KB")


def test_shards_are_one_model(sharded: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = sharded
    shards = sorted(p.name for p in folder.glob("*.safetensors"))
    assert len(shards) >= 3
    assert not (folder / "model.safetensors").exists()
    ours = embedkit.load(folder, device="cpu")
    np.testing.assert_allclose(ours.encode(TEXTS), means(model), atol=1e-5)
    ours.save(tmp_path / "one")
    assert [p.name for p in (tmp_path / "one").glob("*.safetensors")] == ["model.safetensors"]
    np.testing.assert_array_equal(embedkit.load(tmp_path / "one", device="cpu").encode(TEXTS), ours.encode(TEXTS))


def test_a_shard_that_was_not_copied_is_told(sharded: tuple[Any, Path]) -> None:
    _, folder = sharded
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelError, match="cannot be loaded|missing") as caught:
        embedkit.load(folder)
    assert caught.value.where == str(folder)
    assert "\n" not in str(caught.value)


def test_shards_without_their_index_are_not_taken_for_a_whole_model(sharded: tuple[Any, Path]) -> None:
    _, folder = sharded
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        embedkit.load(folder)
    assert caught.value.remedy == "is the folder complete?"


@pytest.mark.parametrize("damage", ["{}", '{"weight_map": 3}', '{"weight_map": {}}', "[]", ""])
def test_a_damaged_index_is_one_line(sharded: tuple[Any, Path], damage: str) -> None:
    _, folder = sharded
    (folder / "model.safetensors.index.json").write_text(damage)
    with pytest.raises(ModelError) as caught:
        embedkit.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_type_are_read_as_float32_of_the_same_value(kept: torch.dtype, tmp_path: Path) -> None:
    bare(bert("BertModel"), tmp_path)
    state = {name: tensor.to(kept) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = read_encoder(tmp_path).state_dict()
    assert {tensor.dtype for tensor in found.values() if tensor.is_floating_point()} == {torch.float32}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, state[name].float(), rtol=0, atol=0)


# --- the layer of pretraining ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BertModel", "BertForSequenceClassification"])
def test_the_pooler_of_the_folder_is_transformers_own(name: str, tmp_path: Path) -> None:
    model = bert(name)
    bare(model, tmp_path)
    inner = getattr(model, "bert", model)
    words = tiny.tokenizer()
    with torch.inference_mode():
        expected = [inner(**words([text], return_tensors="pt")).pooler_output[0] for text in TEXTS]
    ours = embedkit.load(tmp_path, device="cpu", pooling="pooler")
    np.testing.assert_allclose(ours.encode(TEXTS), torch.stack(expected).numpy(), atol=1e-5)


def test_a_folder_without_pooler_and_a_random_encoder_have_none(tmp_path: Path) -> None:
    bare(bert("BertForMaskedLM"), tmp_path)  # has no pooling layer
    with pytest.raises(ModelError, match="holds no pooler, BERT's layer on \\[CLS\\]; use pooling cls or mean") as e:
        embedkit.load(tmp_path, pooling="pooler")
    assert e.value.where == str(tmp_path)
    with pytest.raises(ModelError, match="a random encoder: holds no pooler"):
        pretrained_pooler(new_encoder(tiny.config("bert")))


def test_a_configuration_of_another_model_does_not_fit(tmp_path: Path) -> None:
    bare(bert("BertModel"), tmp_path / "m")
    other = bare(bert("BertModel", hidden_size=48), tmp_path / "other")
    shutil.copy(other / "config.json", tmp_path / "m" / "config.json")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["hidden_size"] == 48
    with pytest.raises(ModelError) as caught:
        embedkit.load(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value)
    assert "\n" not in str(caught.value)
