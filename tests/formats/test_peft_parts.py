"""Which weights of an adapter go where, and which base is meant: rules of peft's folders one by one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import embedkit
from embedkit.errors import MissingExtraError, ModelError, UnsafeFileError
from embedkit.formats.folder import FolderPlan
from embedkit.formats.peft.merging import _fit, _for_encoder, _layer_of, merge_adapter
from embedkit.formats.peft.reader import ADAPTER, WEIGHTS, base_of, place_on_base
from tests.helpers import tiny

peft = pytest.importorskip("peft")
TEXTS = [text for text in tiny.SENTENCES if text]
A, B = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((2, 32), (32, 2)))
QUERY = "encoder.layer.1.attention.self.query"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare transformers folder."""
    return embedkit.export(tiny.text_encoder(), tmp_path_factory.mktemp("b") / "base", format="transformers")


def adapter(path: Path, base: Path | str, tensors: dict[str, torch.Tensor] | None = None, **settings: Any) -> Path:
    """An adapter folder with a rank-two update of one layer, written by hand as peft writes it."""
    path.mkdir(parents=True, exist_ok=True)
    known = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"],
             "base_model_name_or_path": str(base)}  # fmt: skip
    (path / ADAPTER).write_text(json.dumps({**known, **settings}))
    if tensors is None:
        tensors = {f"base_model.model.{QUERY}.lora_A.weight": A, f"base_model.model.{QUERY}.lora_B.weight": B}
    save_file(tensors, path / WEIGHTS)
    return path


def updated(delta: torch.Tensor) -> np.ndarray:
    """Vectors of the tiny encoder with `delta` added to the adapted layer, by hand."""
    model = tiny.text_encoder(normalize=False)
    with torch.no_grad():
        model.encoder.get_submodule(QUERY).weight += delta
    return model.encode(TEXTS)


# --- the update ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "factor"),
    [({}, 4 / 2), ({"lora_alpha": 1}, 1 / 2), ({"use_rslora": True}, 4 / 2**0.5),
     ({"alpha_pattern": {QUERY: 6}}, 6 / 2)],
)  # fmt: skip
def test_the_update_is_scaled_as_its_settings_say(
    base: Path, settings: dict[str, Any], factor: float, tmp_path: Path
) -> None:
    folder = adapter(tmp_path / "a", base, **settings)
    found = embedkit.load(folder, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, updated(factor * B @ A), atol=1e-5)
    assert np.abs(found - updated(torch.zeros(32, 32))).max() > 1e-2


def test_only_layers_that_have_weights_are_updated_whatever_the_pattern_says(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", base, target_modules="all-linear")
    np.testing.assert_allclose(embedkit.load(folder, device="cpu").encode(TEXTS), updated(2 * B @ A), atol=1e-5)


def test_an_adapter_of_a_model_with_a_head_fits_the_encoder_inside(base: Path, tmp_path: Path) -> None:
    """Trained on ``BertForMaskedLM``: each name begins with ``bert.``, and the head's own update is left out."""
    tensors = {
        f"base_model.model.bert.{QUERY}.lora_A.weight": A, f"base_model.model.bert.{QUERY}.lora_B.weight": B,
        "base_model.model.cls.predictions.transform.dense.lora_A.weight": A.clone(),
        "base_model.model.cls.predictions.transform.dense.lora_B.weight": B.clone(),
    }  # fmt: skip
    folder = adapter(tmp_path / "a", base, tensors, alpha_pattern={f"bert.{QUERY}": 6})
    np.testing.assert_allclose(embedkit.load(folder, device="cpu").encode(TEXTS), updated(3 * B @ A), atol=1e-5)


def test_the_merged_model_has_no_trace_of_peft(base: Path, tmp_path: Path) -> None:
    model = embedkit.load(adapter(tmp_path / "a", base), device="cpu")
    assert not [name for name, _ in model.encoder.named_parameters() if "lora" in name or "base_layer" in name]
    model.save(tmp_path / "m")
    held = load_file(tmp_path / "m" / "model.safetensors")
    assert held.keys() == tiny.text_encoder().encoder.state_dict().keys()


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "layer"),
    [("a.b.lora_A.weight", "a.b"), ("a.lora_magnitude_vector", "a"), ("a.b.weight", "a.b"), ("bias", ""),
     ("x.lora_embedding_A", "x")],
)  # fmt: skip
def test_the_layer_of_a_tensor(key: str, layer: str) -> None:
    assert _layer_of(key) == layer


def test_tensors_of_no_layer_are_named(tmp_path: Path) -> None:
    encoder = tiny.text_encoder().encoder
    good = f"base_model.model.{QUERY}.lora_A.weight"
    strange = "base_model.model.decoder.layer.0.query.lora_A.weight"
    with pytest.raises(ModelError, match=f"does not fit its base model \\(first: {strange}\\)") as caught:
        _for_encoder({good: A, strange: A}, encoder, tmp_path)
    assert (caught.value.where, caught.value.remedy) == (str(tmp_path), "give the base model that it was trained on")
    assert _for_encoder({good: A}, encoder, tmp_path).keys() == {good}


@pytest.mark.parametrize("state", [{}, {"base_model.model.lm_head.lora_A.weight": A}])
def test_an_adapter_of_the_head_alone_or_of_nothing_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"first: (no weights|base_model.model.lm_head)"):
        _for_encoder(state, tiny.text_encoder().encoder, tmp_path)


def test_layers_to_save_that_the_encoder_has_not_are_left_out() -> None:
    config = SimpleNamespace(target_modules="all-linear", modules_to_save=["score", "LayerNorm"], rank_pattern={},
                             alpha_pattern=None)  # fmt: skip
    _fit(config, {f"base_model.model.{QUERY}.lora_A.weight": A}, tiny.text_encoder().encoder)
    assert config.modules_to_save == ["LayerNorm"]
    assert config.target_modules == {QUERY}
    config.modules_to_save = ["score"]
    _fit(config, {}, tiny.text_encoder().encoder)
    assert config.modules_to_save is None


def test_half_of_an_update_is_not_an_update(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", base, {f"base_model.model.{QUERY}.lora_A.weight": A})
    with pytest.raises(ModelError, match=r"1 weights of the adapter do not fit its base model \(first: .*lora_B"):
        embedkit.load(folder)


def test_an_update_of_another_rank_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        embedkit.load(adapter(tmp_path / "a", base, r=3))
    assert "\n" not in str(caught.value)


def test_without_peft_its_name_and_extra_are_said(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"an adapter of peft needs the package 'peft'.*embedkit\[lora\]"):
        merge_adapter(tiny.text_encoder().encoder, adapter(tmp_path / "a", base))


# --- the base --------------------------------------------------------------------------------------------------------


def test_a_base_is_looked_for_as_written_then_beside_the_adapter(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    (folder / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_of(folder, str(base)) == base
    assert base_of(folder, "inner") == folder / "inner"
    (tmp_path / "inner").mkdir()  # in the working folder, where peft looks
    (tmp_path / "inner" / "config.json").write_text("{}")
    assert base_of(folder, "inner") == Path("inner")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("org/name", "fetch it once: hf download org/name"), ("bert-base", "fetch it once: hf download bert-base"),
     ("/mnt/models/bert", "write the base model's folder into base_model_name_or_path"),
     ("./bert", "write the base model's folder into base_model_name_or_path"),
     ("a/b/c", "write the base model's folder into base_model_name_or_path")],
)  # fmt: skip
def test_a_base_that_is_not_here_is_never_fetched(name: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not on this machine") as caught:
        base_of(tmp_path, name)
    assert (caught.value.remedy, caught.value.where) == (remedy, str(tmp_path / ADAPTER))


@pytest.mark.parametrize("brings", [True, False])
def test_the_tokenizer_is_the_adapters_where_it_brings_one(base: Path, brings: bool, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", base)
    if brings:
        tiny.tokenizer_folder(folder)
    plan = FolderPlan(folder, folder, "text")
    place_on_base(plan, folder)
    assert (plan.adapter, plan.weights, plan.tokenizer) == (folder, base, folder if brings else base)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT"])
def test_adapters_that_are_no_change_of_weights(base: Path, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"an adapter of kind {kind} cannot be merged; use LoRA or its kin"):
        embedkit.load(adapter(tmp_path / "a", base, peft_type=kind))


def test_a_pickled_base_and_a_pickled_adapter_are_refused(base: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match="the weights are a pickle"):
        embedkit.load(adapter(tmp_path / "a", tmp_path / "base"))
    folder = adapter(tmp_path / "b", base)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    for allowed in (False, True):  # an adapter's pickle is never read
        with pytest.raises(UnsafeFileError, match=f"the adapter has no {WEIGHTS}"):
            embedkit.load(folder, allow_pickle=allowed)
