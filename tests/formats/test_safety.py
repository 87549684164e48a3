"""What is checked before anything of a folder is read: pickles, shards elsewhere, code, parts that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embedkit.errors import ModelError, UnsafeFileError
from embedkit.formats.folder import PICKLES, FolderPlan
from embedkit.formats.safety import check_code, check_text, check_weights, has_tokenizer

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of weights, which nothing here reads."""
    path = tmp_path / "m"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"")
    return path


def plan(folder: Path, *dense: Path | None) -> FolderPlan:
    return FolderPlan(folder, folder, "text", dense=[(one, {}) for one in dense])


def put(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


# --- weights ---------------------------------------------------------------------------------------------------------


def test_safetensors_are_enough_whatever_lies_beside_them(folder: Path) -> None:
    for suffix in PICKLES:
        (folder / f"other{suffix}").write_bytes(b"")
    check_weights(plan(folder), allow_pickle=False)


@pytest.mark.parametrize("suffix", PICKLES)
def test_a_checkpoint_alone_is_no_file_of_weights(folder: Path, suffix: str) -> None:
    """As trainers write them: epoch=3.ckpt of Lightning, model.pt of a loop of one's own."""
    (folder / "model.safetensors").rename(folder / f"weights{suffix}")
    with pytest.raises(UnsafeFileError, match=rf"the weights are a pickle \(weights{suffix}\)") as caught:
        check_weights(plan(folder), allow_pickle=False)
    assert "save_file" in str(caught.value.remedy)
    with pytest.raises(ModelError, match=rf"no weights in the folder, only weights{suffix}.*save_file"):
        check_weights(plan(folder), allow_pickle=True)


def test_a_pickle_alone_is_refused_and_allowed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "optimizer.pt").write_bytes(b"")
    with pytest.raises(UnsafeFileError, match=r"the weights are a pickle \(pytorch_model.bin\)") as caught:
        check_weights(plan(folder), allow_pickle=False)
    assert caught.value.where == str(folder)
    assert all(way in str(caught.value.remedy) for way in ("allow_pickle=True", "--allow-pickle", "model.allow_pickle"))
    check_weights(plan(folder), allow_pickle=True)


@pytest.mark.parametrize("allow", [True, False])
def test_allowing_pickles_does_not_make_weights(folder: Path, allow: bool) -> None:
    (folder / "model.safetensors").rename(folder / "model.onnx")
    with pytest.raises(ModelError, match=r"no weights \(\*.safetensors\) in the folder; copy it completely"):
        check_weights(plan(folder), allow_pickle=allow)


def test_layers_behind_the_encoder_are_checked_too(folder: Path) -> None:
    dense = folder / "2_Dense"
    with pytest.raises(ModelError, match="folder is missing") as caught:
        check_weights(plan(folder, dense), allow_pickle=False)
    assert caught.value.where == str(dense)
    dense.mkdir()
    with pytest.raises(ModelError, match="no weights") as caught:
        check_weights(plan(folder, dense), allow_pickle=False)
    assert caught.value.where == str(dense)
    (dense / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin"):
        check_weights(plan(folder, dense), allow_pickle=False)
    (dense / "model.safetensors").write_bytes(b"")
    check_weights(plan(folder, dense, None), allow_pickle=False)  # None: a layer without weights


def test_a_folder_of_weights_that_is_a_file(folder: Path) -> None:
    with pytest.raises(ModelError, match="folder is missing"):
        check_weights(plan(folder / "model.safetensors"), allow_pickle=False)


@pytest.mark.parametrize(
    "name",
    ["../other/a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "shard.bin", "a.safetensors.py"],
)
@pytest.mark.parametrize("allow", [True, False])
def test_an_index_names_safetensors_of_its_own_folder_only(folder: Path, name: str, allow: bool) -> None:
    put(folder / INDEX, {"weight_map": {"a": "model.safetensors", "b": name}})
    with pytest.raises(UnsafeFileError, match="no safetensors of this folder") as caught:
        check_weights(plan(folder), allow_pickle=allow)
    assert repr(name) in str(caught.value)


def test_an_index_of_good_shards(folder: Path) -> None:
    put(folder / INDEX, {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}})
    check_weights(plan(folder), allow_pickle=False)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_configuration_that_names_other_weights_at_any_depth(folder: Path, depth: int) -> None:
    value: Any = {"transformers_weights": "../../elsewhere.safetensors"}
    for _ in range(depth):
        value = {"inner": [value, 3]}
    put(folder / "config.json", value)
    with pytest.raises(UnsafeFileError, match=r"names the weights '\.\./\.\./elsewhere"):
        check_weights(plan(folder), allow_pickle=False)
    put(folder / "config.json", {"transformers_weights": None, "a": {"transformers_weights": "x.safetensors"}})
    check_weights(plan(folder), allow_pickle=False)


# --- code ------------------------------------------------------------------------------------------------------------

NAMING = (
    "config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "image_processor_config.json",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMING)
@pytest.mark.parametrize("nested", [False, True])
def test_code_is_refused_in_each_file_that_transformers_reads_it_from(folder: Path, name: str, nested: bool) -> None:
    entry: Any = {"auto_map": {"AutoModel": "own.Model"}}
    put(folder / name, {"vision_config": {"list": [0, entry]}} if nested else entry)
    with pytest.raises(UnsafeFileError, match="brings its own code") as caught:
        check_code(folder, trust_remote_code=False)
    assert caught.value.where == str(folder / name)
    assert all(way in str(caught.value.remedy) for way in ("trust_remote_code=True", "--trust-remote-code", "model."))
    check_code(folder, trust_remote_code=True)


def test_an_empty_map_of_code_is_still_one(folder: Path) -> None:
    put(folder / "config.json", {"auto_map": {}})
    with pytest.raises(UnsafeFileError):
        check_code(folder, trust_remote_code=False)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_of_the_hub_are_refused_even_with_code_allowed(folder: Path, key: str) -> None:
    put(folder / "config.json", {"text_config": {key: "kernels-community/flash-attn"}})
    for allowed in (False, True):
        with pytest.raises(UnsafeFileError, match="attention kernels on the hub") as caught:
            check_code(folder, allowed)
        assert caught.value.remedy == "take attn_implementation out of the file"
    put(folder / "config.json", {"text_config": {key: "sdpa"}, key: {"": "eager"}})
    check_code(folder, trust_remote_code=False)


def test_words_that_look_like_code_but_name_none(folder: Path) -> None:
    put(folder / "config.json", {"note": "auto_map", "names": ["attn_implementation", "a/b"], "path": "org/name"})
    check_code(folder, trust_remote_code=False)
    check_code(folder / "not there", trust_remote_code=False)


def test_a_very_deep_configuration_is_looked_through(folder: Path) -> None:
    """Deeper than Python's own recursion goes, and shallower than its JSON reader's limit."""
    text = '{"a": ' * 900 + '{"auto_map": {}}' + "}" * 900
    (folder / "config.json").write_text(text)
    with pytest.raises(UnsafeFileError, match="auto_map"):
        check_code(folder, trust_remote_code=False)


def test_a_broken_file_that_might_name_code_is_not_passed_over(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"auto_map": ')
    for allowed in (False, True):
        with pytest.raises(ModelError, match="is not valid JSON"):
            check_code(folder, allowed)


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model"])
def test_each_form_of_a_tokenizer(tmp_path: Path, name: str) -> None:
    assert not has_tokenizer(tmp_path)
    (tmp_path / name).mkdir()  # a folder of that name is none
    assert not has_tokenizer(tmp_path)
    (tmp_path / name).rmdir()
    (tmp_path / name).write_bytes(b"")
    assert has_tokenizer(tmp_path)


def test_a_text_encoder_needs_configuration_and_tokenizer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="file is missing") as caught:
        check_text(folder)
    assert caught.value.where == str(folder / "config.json")
    put(folder / "config.json", {"hidden_size": 32})
    with pytest.raises(ModelError, match="names no model_type; is it a transformers model"):
        check_text(folder)
    for known in ({"model_type": "bert"}, {"architectures": ["BertModel"]}):
        put(folder / "config.json", known)
        with pytest.raises(ModelError, match=r"no tokenizer in the folder; copy tokenizer\.json there") as caught:
            check_text(folder)
        assert caught.value.where == str(folder)
    other = tmp_path / "words"
    other.mkdir()
    (other / "vocab.txt").write_text("")
    check_text(folder, other)
    (folder / "vocab.txt").write_text("")
    check_text(folder)
    (other / "vocab.txt").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        check_text(folder, other)  # the folder that the plan names decides
