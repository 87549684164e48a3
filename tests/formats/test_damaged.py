"""Folders of every library with one thing broken: each is one line that names the folder or file, and a way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import embedkit
from embedkit.errors import ModelError, UserError
from embedkit.models.heads.layers import Dense
from embedkit.models.modules.static import StaticEncoder
from tests.helpers import dual, tiny

Damage = Callable[[Path], Any]


# --- a folder of each library, made once ------------------------------------------------------------------------------


def _text(path: Path) -> None:
    tiny.model_folder(path, dense=[Dense(32, 8)], max_length=20)


def _sentence_transformers(path: Path) -> None:
    _text(path)
    (path / "embedkit.json").unlink()


def _transformers(path: Path) -> None:
    embedkit.export(tiny.text_encoder(), path, format="transformers")


def _static(path: Path) -> None:
    StaticEncoder(tiny.tokenizer(), 8).save(path)
    (path / "embedkit.json").unlink()


def _model2vec(path: Path) -> None:
    from safetensors.torch import save_file

    path.mkdir()
    words = tiny.tokenizer()
    (path / "tokenizer.json").write_text(words.backend_tokenizer.to_str())
    save_file({"embeddings": torch.ones(len(words), 4)}, path / "model.safetensors")
    modules = [{"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"}]
    (path / "modules.json").write_text(json.dumps(modules))


def _dual(path: Path) -> None:
    dual.dual("bert", "open_clip-vit").save(path)


def _open_clip(path: Path) -> None:
    from embedkit.formats.open_clip.writer import write_files

    path.mkdir()
    write_files(dual.dual("clip", cleaning="whitespace"), path)


def _clip(path: Path) -> None:
    from embedkit.formats.transformers.dual_writer import write_files

    path.mkdir()
    write_files(dual.dual("clip", "clip", cleaning="whitespace"), path)


def _peft(path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = path.parent / "base"
    _transformers(base)
    encoder = tiny.text_encoder().encoder
    get_peft_model(encoder, LoraConfig(r=2, target_modules=["query"])).save_pretrained(path)
    edit(path / "adapter_config.json", base_model_name_or_path="../base")
    tiny.tokenizer_folder(path)


MAKERS = {
    "embedkit": _text, "sentence-transformers": _sentence_transformers, "transformers": _transformers,
    "static": _static, "model2vec": _model2vec, "dual": _dual, "open_clip": _open_clip, "clip": _clip, "peft": _peft,
}  # fmt: skip


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of a library, made at its first use and only read."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "m"
            MAKERS[name](made[name])
        return made[name]

    return get


@pytest.fixture
def copy(whole: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of such a folder that a test may break, with what stands beside it."""

    def get(name: str) -> Path:
        source = whole(name)
        shutil.copytree(source.parent, tmp_path / name)
        return tmp_path / name / "m"

    return get


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder: Path, message: str | None = None) -> UserError:
    """The error of loading a folder: one line that names the folder or something in it."""
    with pytest.raises(ModelError, match=message) as caught:
        embedkit.load(folder, device="cpu")
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line, line
    assert caught.value.remedy, line
    return caught.value


def said(folder: Path) -> UserError | None:
    """The error of loading a folder, None where it is read."""
    try:
        embedkit.load(folder, device="cpu")
    except UserError as error:
        return error
    return None


# --- every file of every folder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_the_whole_folder_is_read(name: str, whole: Callable[[str], Path]) -> None:
    """Else no test below says anything."""
    assert embedkit.load(whole(name), device="cpu").encode(["the dog"]).shape[0] == 1


def vital(folder: Path) -> list[Path]:
    """Files without which nobody could give the right vectors."""
    names = ("*.safetensors", "modules.json", "embedkit.json", "config.json", "adapter_config.json",
             "open_clip_config.json", "tokenizer.json")  # fmt: skip
    paths = {path for pattern in names for path in folder.rglob(pattern)}
    return sorted(path for path in paths if not path.parent.name.endswith("_Normalize"))  # an empty object


DAMAGES: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "a web page": lambda path: path.write_text("<!DOCTYPE html><html><body>404: Not Found</body></html>"),
    "an LFS pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", MAKERS)
def test_each_file_damaged(name: str, damage: str, copy: Callable[[str], Path]) -> None:
    folder = copy(name)
    files = vital(folder)
    assert len(files) >= 2
    for path in files:
        content = path.read_bytes()
        DAMAGES[damage](path)
        error = said(folder)
        assert error is not None, f"{path.relative_to(folder)} is {damage} and the model was read"
        line = str(error)
        assert "\n" not in line, (path, line)
        assert str(folder) in line, (path, line)
        assert error.remedy or str(path.parent) in line, (path, line)
        path.write_bytes(content)
    assert embedkit.load(folder, device="cpu").encode(["the dog"]).shape[0] == 1  # whole again


# --- what is missing --------------------------------------------------------------------------------------------------

MISSING: list[tuple[str, str, str]] = [
    ("embedkit", "model.safetensors", r"no weights \(\*.safetensors\) in the folder"),
    ("embedkit", "config.json", r"config.json: file is missing"),
    ("embedkit", "2_Dense/model.safetensors", r"2_Dense: no weights"),
    ("sentence-transformers", "1_Pooling/config.json", r"1_Pooling/config.json: file is missing"),
    ("sentence-transformers", "2_Dense/config.json", r"2_Dense/config.json: file is missing"),
    ("sentence-transformers", "2_Dense/model.safetensors", "2_Dense: no weights"),
    ("transformers", "model.safetensors", "no weights"),
    ("static", "tokenizer.json", r"tokenizer.json: file is missing"),
    ("static", "model.safetensors", "no weights"),
    ("model2vec", "tokenizer.json", r"tokenizer.json: file is missing"),
    ("dual", "projections.safetensors", r"projections.safetensors|no weights"),
    ("dual", "text/model.safetensors", "text: no weights"),
    ("dual", "image/model.safetensors", r"image/model.safetensors: file is missing"),
    ("open_clip", "open_clip_model.safetensors", r"has no open_clip_model.safetensors"),
    ("clip", "model.safetensors", "no weights"),
    ("peft", "adapter_model.safetensors", r"the adapter has no adapter_model.safetensors"),
]


@pytest.mark.parametrize(("name", "file", "message"), MISSING)
def test_a_file_that_is_missing(name: str, file: str, message: str, copy: Callable[[str], Path]) -> None:
    folder = copy(name)
    (folder / file).unlink()
    refused(folder, message)


@pytest.mark.parametrize(("name", "below"), [("embedkit", "2_Dense"), ("sentence-transformers", "1_Pooling"),
                                             ("dual", "text"), ("dual", "image")])  # fmt: skip
def test_a_sub_folder_that_is_missing(name: str, below: str, copy: Callable[[str], Path]) -> None:
    folder = copy(name)
    shutil.rmtree(folder / below)
    assert below in str(refused(folder).line())


def test_a_base_that_was_moved_is_told_with_the_way_to_get_it(copy: Callable[[str], Path]) -> None:
    folder = copy("peft")
    shutil.rmtree(folder.parent / "base")
    error = refused(folder, r"the base model '\.\./base' of the adapter is not on this machine")
    assert error.remedy == "write the base model's folder into base_model_name_or_path"


# --- what stands there in the wrong type ------------------------------------------------------------------------------

WRONG: list[tuple[str, str, dict[str, Any]]] = [
    ("embedkit", "embedkit.json", {"spec": None}),
    ("embedkit", "embedkit.json", {"spec": {"dense": 3}}),
    ("embedkit", "embedkit.json", {"spec": {"dense": [{"folder": "../x", "train_only": False}]}}),
    ("embedkit", "embedkit.json", {"format": "1"}),
    ("embedkit", "config.json", {"hidden_size": "large"}),
    ("sentence-transformers", "config_sentence_transformers.json", {"prompts": ["who"]}),
    ("sentence-transformers", "config_sentence_transformers.json", {"similarity_fn_name": 3}),
    ("sentence-transformers", "config_sentence_transformers.json", {"truncate_dim": "8"}),
    ("sentence-transformers", "config_sentence_transformers.json", {"truncate_dim": -1}),
    ("sentence-transformers", "sentence_bert_config.json", {"max_seq_length": "long"}),
    ("sentence-transformers", "sentence_bert_config.json", {"modality_config": 3}),
    ("sentence-transformers", "1_Pooling/config.json", {"pooling_mode": 3}),
    ("sentence-transformers", "2_Dense/config.json", {"in_features": "many"}),
    ("sentence-transformers", "2_Dense/config.json", {"out_features": -1}),
    ("transformers", "config.json", {"num_hidden_layers": "two"}),
    ("transformers", "config.json", {"model_type": "no-such-model"}),
    ("transformers", "config.json", {"model_type": 3}),
    ("dual", "embedkit.json", {"spec": {}}),
    ("dual", "embedkit.json", {"spec": {"image": 3, "projections": {}}}),
    ("open_clip", "open_clip_config.json", {"model_cfg": 3}),
    ("open_clip", "open_clip_config.json", {"model_cfg": {"embed_dim": "wide"}}),
    ("open_clip", "open_clip_config.json", {"preprocess_cfg": {"mean": "dark"}}),
    ("clip", "config.json", {"text_config": {"hidden_size": "wide"}}),
    ("clip", "config.json", {"vision_config": 3}),
    ("peft", "adapter_config.json", {"peft_type": 3}),
    ("peft", "adapter_config.json", {"r": "two"}),
    ("peft", "adapter_config.json", {"base_model_name_or_path": 3}),
]


@pytest.mark.parametrize(("name", "file", "changes"), WRONG, ids=lambda value: str(value)[:40])
def test_a_value_of_the_wrong_type(name: str, file: str, changes: dict[str, Any], copy: Callable[[str], Path]) -> None:
    folder = copy(name)
    edit(folder / file, **changes)
    error = said(folder)
    assert error is not None
    line = str(error)
    assert "\n" not in line
    assert str(folder) in line
    assert error.remedy, line


@pytest.mark.parametrize("value", [[], {}, 3, "x", None, [[]], [{"type": None}], [{}], [{"path": ""}]])
def test_a_listing_of_modules_of_the_wrong_shape(value: Any, copy: Callable[[str], Path]) -> None:
    folder = copy("sentence-transformers")
    (folder / "modules.json").write_text(json.dumps(value))
    refused(folder)
