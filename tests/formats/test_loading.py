"""What `load` is asked for is what the model has: device, type, pooling, length, a name of open_clip."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import embedkit
from embedkit.errors import ModelError, UserError
from embedkit.formats.detect import inspect
from embedkit.formats.loading import as_dtype, assemble
from embedkit.models.heads.layers import Dense
from tests.helpers import dual, tiny

TEXTS = tiny.SENTENCES


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved text encoder, which the tests only read."""
    return tiny.model_folder(tmp_path_factory.mktemp("m") / "m", max_length=20, prompts={"q": "who "})


# --- types and devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("float32", torch.float32), ("fp32", torch.float32), ("float16", torch.float16), ("fp16", torch.float16),
     ("bfloat16", torch.bfloat16), ("bf16", torch.bfloat16), ("fp64", torch.float64), (None, torch.float32),
     (torch.float16, torch.float16)],
)  # fmt: skip
def test_names_of_types(name: Any, dtype: torch.dtype) -> None:
    assert as_dtype(name) is dtype


@pytest.mark.parametrize(("name", "meant"), [("float61", "float16"), ("bfloat", "bfloat16"), ("int4", "int8")])
def test_a_type_that_there_is_not(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"unknown dtype '{name}'.*({meant})"):
        as_dtype(name)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_parameters_have_the_type_and_the_vectors_are_near(kept: Path, dtype: str) -> None:
    model = embedkit.load(kept, device="cpu", dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {as_dtype(dtype)}
    bound = 1e-5 if dtype == "float64" else 0.1
    exact = embedkit.load(kept, device="cpu")
    assert {p.dtype for p in exact.parameters()} == {torch.float32}
    np.testing.assert_allclose(model.encode(TEXTS).astype(np.float64), exact.encode(TEXTS), atol=bound)


def test_a_model_is_ready_to_encode_and_on_the_device_that_was_named(kept: Path) -> None:
    model = embedkit.load(kept, device=torch.device("cpu"))
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert model.device == torch.device("cpu")


def test_without_a_device_the_best_is_taken(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert embedkit.load(kept).device.type == "cpu"
    moved = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device=None, dtype=None: moved.append(device) or self)
    embedkit.load(kept)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    embedkit.load(kept)
    assert [device.type for device in moved if device is not None][-2:] == ["mps", "cuda"]


# --- settings of the caller ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "max", "first-last", "mean+cls"])
def test_another_pooling_is_that_of_a_model_built_with_it(kept: Path, pooling: str) -> None:
    expected = tiny.text_encoder(pooling=pooling, max_length=20)
    model = embedkit.load(kept, device="cpu", pooling=pooling)
    assert model.pooling == pooling
    np.testing.assert_allclose(model.encode(TEXTS), expected.encode(TEXTS), atol=1e-6)


def test_another_length_cuts_texts_there(kept: Path) -> None:
    model = embedkit.load(kept, device="cpu", max_length=5)
    long = "a man is playing guitar with two children"
    assert model.prepare([long]).rows()[0] == model.tokenizer(long, truncation=True, max_length=5)["input_ids"]
    np.testing.assert_array_equal(model.encode([long]), model.encode(["a man is"]))


def test_a_length_of_the_callers_is_not_lowered_silently(kept: Path) -> None:
    with pytest.raises(ModelError, match="at most 80"):
        embedkit.load(kept, max_length=100)


@pytest.mark.parametrize("pooling", ["meen", "mean+", "+", "cls+cls+nothing"])
def test_a_pooling_that_there_is_not(kept: Path, pooling: str) -> None:
    with pytest.raises(UserError) as caught:
        embedkit.load(kept, pooling=pooling)
    assert "pool" in str(caught.value)


@pytest.mark.parametrize("settings", [{"pooling": "cls"}, {"max_length": 12}])
def test_settings_of_one_tower_are_refused_for_two(tmp_path: Path, settings: dict[str, Any]) -> None:
    dual.dual("bert", "open_clip-vit").save(tmp_path / "m")
    with pytest.raises(ModelError, match="pooling and max_length belong to one tower; leave them out"):
        embedkit.load(tmp_path / "m", **settings)


def test_scheme_and_path_object_are_one_model(kept: Path) -> None:
    first = embedkit.load(kept, device="cpu")
    for name in (str(kept), f"local-dir:{kept}", f"hf-hub:{kept}"):
        assert embedkit.load(name, device="cpu").hash() == first.hash()


# --- what the folder says --------------------------------------------------------------------------------------------


def test_notes_of_the_folder_are_warnings_of_the_folder(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = inspect(kept)
    plan.notes = ["first thing", "second thing"]
    with caplog.at_level(logging.WARNING):
        assemble(plan)
    assert [r.getMessage() for r in caplog.records] == [f"{kept}: first thing", f"{kept}: second thing"]


def test_a_plan_of_an_unknown_kind_is_refused_with_the_known_ones(kept: Path) -> None:
    plan = inspect(kept)
    plan.kind = "audio"
    with pytest.raises(
        ModelError, match="unknown kind of model 'audio'; known: chain, clip-text, concatenation, dual, feature"
    ):
        assemble(plan)


def test_dropout_rates_of_a_caller_reach_the_encoder(kept: Path) -> None:
    model = assemble(inspect(kept), overrides={"hidden_dropout_prob": 0.37})
    assert 0.37 in {m.p for m in model.encoder.modules() if isinstance(m, torch.nn.Dropout)}


@pytest.mark.parametrize("name", ["dot", "euclidean", "manhattan"])
def test_the_similarity_of_an_own_folder_comes_back(tmp_path: Path, name: str) -> None:
    model = tiny.text_encoder()
    model.similarity_fn_name = name
    model.save(tmp_path / "m")
    assert embedkit.load(tmp_path / "m", device="cpu").similarity_fn_name == name


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def layered(tmp_path: Path) -> Path:
    return tiny.model_folder(tmp_path / "m", dense=[Dense(32, 8), Dense(8, 4, train_only=True)])


def test_a_layers_pickle_is_read_when_allowed(layered: Path) -> None:
    expected = embedkit.load(layered, device="cpu").encode(TEXTS)
    folder = layered / "2_Dense"
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickle") as caught:
        embedkit.load(layered)
    assert caught.value.where == str(folder)
    np.testing.assert_array_equal(embedkit.load(layered, device="cpu", allow_pickle=True).encode(TEXTS), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"linear.weight": s["linear.weight"]}, r"2_Dense: the weights do not fit \(linear.bias is missing"),
        (lambda s: {**s, "linear.weight": s["linear.weight"][:, :9].clone()}, r"linear.weight is \(8, 9\)"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "linear.bias is missing"),
    ],
)
def test_a_layers_weights_that_do_not_fit(layered: Path, change: Any, message: str) -> None:
    path = layered / "2_Dense" / "model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(ModelError, match=message):
        embedkit.load(layered)


def test_layers_that_do_not_follow_each_other_are_refused(layered: Path) -> None:
    own = json.loads((layered / "embedkit.json").read_text())
    own["spec"]["dense"][0]["inputs"] = 31
    (layered / "embedkit.json").write_text(json.dumps(own))
    with pytest.raises(ModelError) as caught:
        embedkit.load(layered)
    assert "\n" not in str(caught.value)


def test_a_lost_file_of_the_layers_of_training_is_named(layered: Path) -> None:
    (layered / "embedkit_train_only.safetensors").unlink()
    with pytest.raises(ModelError, match=r"embedkit_train_only.safetensors: file is missing"):
        embedkit.load(layered)


# --- open_clip's names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-33", "unknown size 'ViT-B-33'.*did you mean"),
        ("open_clip:ViT-B-32/openia", "ViT-B-32 has no pretrained weights 'openia'.*'openai'"),
        ("open_clip:", "unknown size ''"),
    ],
)
def test_names_of_open_clip_that_there_are_not(name: str, message: str) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(ModelError, match=message):
        embedkit.load(name)


def test_an_architecture_of_open_clip_with_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of the model that open_clip itself makes; its sizes are shrunk so that it is made in no time."""
    open_clip = pytest.importorskip("open_clip")
    real = open_clip.get_model_config
    small = {"width": 16, "layers": 1, "heads": 2}

    def config(name: str) -> Any:
        known = real(name)
        known["embed_dim"], known["text_cfg"] = 8, {**known["text_cfg"], **small}
        known["vision_cfg"] = {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
        return known

    made = []
    create = open_clip.model.CLIP

    def create_model(name: str, pretrained: str | None = None) -> Any:
        known = config(name)
        model = create(**{key: known[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}).eval()
        made.append((name, pretrained, model))
        return model

    monkeypatch.setattr(open_clip, "get_model_config", config)
    monkeypatch.setattr(open_clip, "create_model", create_model)
    model = embedkit.load("open_clip:ViT-B/32", device="cpu")
    ((name, tag, theirs),) = made
    assert (name, tag) == ("ViT-B-32", None)
    with torch.inference_mode():
        expected = theirs.encode_text(open_clip.get_tokenizer("ViT-B-32")(dual.CAPTIONS), normalize=True).numpy()
    np.testing.assert_allclose(model.encode(dual.CAPTIONS), expected, atol=1e-5)
    assert model.scale == pytest.approx(theirs.logit_scale.exp().item())


# --- pickles of two towers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "name", "wrapped"),
    [("transformers", "pytorch_model.bin", False), ("open_clip", "open_clip_pytorch_model.bin", False),
     ("open_clip", "open_clip_pytorch_model.bin", True)],
)  # fmt: skip
def test_two_towers_from_a_pickle_that_was_allowed(library: str, name: str, wrapped: bool, tmp_path: Path) -> None:
    from embedkit.formats.open_clip.writer import write_files as write_open_clip
    from embedkit.formats.transformers.dual_writer import write_files as write_transformers

    pytest.importorskip("open_clip")
    write = {"transformers": write_transformers, "open_clip": write_open_clip}[library]
    write(dual.dual("clip", "clip", cleaning="whitespace"), tmp_path)
    expected = embedkit.load(tmp_path, device="cpu").encode(dual.CAPTIONS)
    (weights,) = tmp_path.glob("*.safetensors")
    state = load_file(weights)
    distributed = {f"module.{key}": tensor for key, tensor in state.items()} if library == "open_clip" else state
    torch.save({"epoch": 3, "state_dict": distributed} if wrapped else state, tmp_path / name)
    weights.unlink()
    with pytest.raises(ModelError, match=rf"the weights are a pickle \({name}\)"):
        embedkit.load(tmp_path)
    model = embedkit.load(tmp_path, device="cpu", allow_pickle=True)
    np.testing.assert_array_equal(model.encode(dual.CAPTIONS), expected)
