"""Weights in files: what is read is what stands there, damage is one line, no reader of another library is noisy."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embedkit.errors import DataError, ModelError
from embedkit.formats import tensors
from tests.helpers import tiny

FIRST, SECOND = torch.arange(6.0).view(2, 3), torch.tensor([1, 2, 3])


def encoder_of(folder: Path | str) -> Any:
    return SimpleNamespace(name_or_path=str(folder))


# --- one file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_a_file_is_read_back_bit_for_bit_in_its_own_type(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {"a": torch.tensor([[0, 1, 2]]).to(dtype), "empty": torch.zeros(0, 4, dtype=dtype)}
    tensors.write_tensors(state, tmp_path)
    found = tensors.read_safetensors(tmp_path / "model.safetensors")
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_written_tensors_are_whole_whatever_their_layout(tmp_path: Path) -> None:
    """Transposed, sliced, shared and with a gradient: safetensors itself refuses the first three."""
    base = torch.arange(12.0, requires_grad=True)
    table = base.view(3, 4)
    state = {"t": table.T, "slice": table[:, 1:3], "tied": table, "tied too": table, "leaf": base}
    tensors.write_tensors(state, tmp_path, "some.safetensors")
    found = load_file(tmp_path / "some.safetensors")
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0)
    assert base.requires_grad


def test_files_are_marked_as_torchs_which_transformers_asks_for(tmp_path: Path) -> None:
    from safetensors import safe_open

    tensors.write_tensors({"a": FIRST}, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("size", [0, 5, 40, -1])
def test_a_cut_file_is_damaged_wherever_it_was_cut(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(50)}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match="is damaged") as caught:
        tensors.read_safetensors(path)
    assert (caught.value.where, caught.value.remedy) == (str(path), "copy or write it again")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"layer/model.safetensors: file is missing; the model folder is incomplete"):
        tensors.read_tensors(tmp_path / "layer")


def test_a_pickle_is_read_only_where_it_is_allowed_and_nothing_else_is_there(tmp_path: Path) -> None:
    torch.save({"a": FIRST}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.safetensors: file is missing"):
        tensors.read_tensors(tmp_path)
    torch.testing.assert_close(tensors.read_tensors(tmp_path, allow_pickle=True)["a"], FIRST)
    save_file({"a": FIRST + 1}, tmp_path / "model.safetensors")
    torch.testing.assert_close(tensors.read_tensors(tmp_path, allow_pickle=True)["a"], FIRST + 1)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_an_allowed_pickle_holds_tensors_only(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Touch(marker)}))
    with pytest.raises(ModelError) as caught:
        tensors.read_tensors(tmp_path, allow_pickle=True)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    torch.save({"a": Touch(marker)}, tmp_path / "pytorch_model.bin")
    reads = (tensors.read_tensors, lambda folder, allow_pickle: tensors.find_tensors(
        encoder_of(folder), {"x": ["a"]}, allow_pickle))  # fmt: skip
    for read in reads:
        with pytest.raises(ModelError, match="the pickle holds more than tensors, so it could run code"):
            read(tmp_path, allow_pickle=True)
        assert not marker.exists()


# --- looked for by name ----------------------------------------------------------------------------------------------


def test_the_first_of_several_names_is_found_over_all_shards(tmp_path: Path) -> None:
    save_file({"bert.pooler.weight": FIRST.half()}, tmp_path / "model-00002-of-00002.safetensors")
    save_file({"pooler.weight": FIRST + 1, "other": FIRST}, tmp_path / "model-00003.safetensors")
    save_file({"cls.bias": SECOND}, tmp_path / "model-00001-of-00002.safetensors")
    wanted = {"weight": ["pooler.weight", "bert.pooler.weight"], "bias": ["cls.bias"], "none": ["nowhere"]}
    found = tensors.find_tensors(encoder_of(tmp_path), wanted)
    assert found.keys() == {"weight", "bias"}
    assert {t.dtype for t in found.values()} == {torch.float32}
    torch.testing.assert_close(found["weight"], FIRST)  # the first file that holds any of the names
    torch.testing.assert_close(found["bias"], SECOND.float())


def test_a_pickle_is_looked_into_only_when_allowed(tmp_path: Path) -> None:
    torch.save({"a": FIRST}, tmp_path / "pytorch_model-00001-of-00001.bin")
    assert tensors.find_tensors(encoder_of(tmp_path), {"x": ["a"]}) == {}
    torch.testing.assert_close(tensors.find_tensors(encoder_of(tmp_path), {"x": ["a"]}, allow_pickle=True)["x"], FIRST)
    save_file({"a": FIRST + 1}, tmp_path / "model.safetensors")
    found = tensors.find_tensors(encoder_of(tmp_path), {"x": ["a"]}, allow_pickle=True)
    torch.testing.assert_close(found["x"], FIRST + 1)


@pytest.mark.parametrize("place", ["", "org/name", "/no/such/folder"])
def test_a_random_encoder_comes_from_no_files(place: str) -> None:
    assert tensors.find_tensors(encoder_of(place), {"x": ["a"]}, allow_pickle=True) == {}


def test_a_damaged_file_is_not_taken_for_one_without_the_tensor(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        tensors.find_tensors(encoder_of(tmp_path), {"x": ["a"]})


# --- state dicts -----------------------------------------------------------------------------------------------------


def layer() -> nn.Linear:
    return nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("bias"), r"bias is missing, expected \(2,\)"),
        (lambda s: s.update(extra=torch.ones(4)), r"extra is \(4,\), expected nothing"),
        (lambda s: s.update(weight=s["weight"].T), r"weight is \(3, 2\), expected \(2, 3\)"),
        (lambda s: s.clear(), "bias is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_none_is_loaded(change: Any, said: str, tmp_path: Path) -> None:
    module, state = layer(), {name: tensor + 1 for name, tensor in layer().state_dict().items()}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    change(state)
    with pytest.raises(ModelError, match=rf"the weights do not fit \({said}") as caught:
        tensors.load_exactly(module, state, tmp_path / "2_Dense")
    assert caught.value.where == str(tmp_path / "2_Dense")
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_tensors_that_fit_are_loaded_in_the_modules_type(tmp_path: Path) -> None:
    module = layer()
    state: dict[str, Tensor] = {"weight": FIRST.half(), "bias": torch.tensor([1.0, 2.0]).double()}
    tensors.load_exactly(module, state, tmp_path)
    torch.testing.assert_close(module.weight, FIRST, check_dtype=True)
    assert module.bias.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"missing_keys": ["b.weight", "a.weight"], "mismatched_keys": []}, r"2 weights .*\(first: a.weight\)"),
        ({"missing_keys": [], "mismatched_keys": [("c", (1,), (2,))]}, r"1 weights .*\(first: \('c'"),
    ],
)
def test_reports_of_transformers_that_are_refused(report: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        tensors.check_complete(report, tmp_path)
    assert "do not belong together" in str(caught.value.remedy)


def test_reports_of_transformers_that_are_fine(tmp_path: Path) -> None:
    known = {"missing_keys": ["embeddings.position_ids"], "mismatched_keys": [], "unexpected_keys": ["cls.bias"]}
    tensors.check_complete(known, tmp_path)  # a buffer that old files lack; a head that is not used


# --- readers of other libraries ---------------------------------------------------------------------------------------


def test_any_error_of_a_reader_is_the_folders(tmp_path: Path) -> None:
    for error, reason in ((KeyError("layers"), "'layers'"), (RuntimeError("\n\n size mismatch\nlong"), "size mismatch"),
                          (ValueError("Validation error for field 'size':\n  expected int\n  more"),
                           "Validation error for field 'size': expected int"),
                          (AssertionError(), "AssertionError")):  # fmt: skip
        with pytest.raises(ModelError, match=rf"cannot be loaded \({reason}\)") as caught, tensors.reading(tmp_path):
            raise error
        assert caught.value.where == str(tmp_path)
        assert caught.value.__cause__ is error
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [DataError("row 3 is empty"), KeyboardInterrupt(), SystemExit(3)])
def test_what_is_meant_for_people_or_stops_the_program_is_passed_on(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, tensors.reading(tmp_path):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("fails", [True, False])
def test_the_noise_of_transformers_is_as_before_afterwards(fails: bool) -> None:
    from transformers.utils import logging as hf

    level, shown = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity_info()
    hf.enable_progress_bar()
    try:
        with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext(), tensors.quiet():
            assert (hf.get_verbosity(), hf.is_progress_bar_enabled()) == (hf.ERROR, False)
            if fails:
                raise ZeroDivisionError
        assert (hf.get_verbosity(), hf.is_progress_bar_enabled()) == (hf.INFO, True)
        hf.disable_progress_bar()
        with tensors.quiet():
            pass
        assert not hf.is_progress_bar_enabled()
    finally:
        hf.set_verbosity(level)
        hf.enable_progress_bar() if shown else hf.disable_progress_bar()


# --- tokenizers ------------------------------------------------------------------------------------------------------


def test_a_tokenizer_without_limits_is_written_as_it_is(tmp_path: Path) -> None:
    words = tiny.tokenizer()
    tensors.write_tokenizer(words, tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (saved["truncation"], saved["padding"]) == (None, None)
    assert words.backend_tokenizer.truncation is None
    assert saved["model"]["vocab"] == words.get_vocab()


def test_limits_come_back_even_when_writing_fails(tmp_path: Path) -> None:
    words = tiny.tokenizer()
    words("the dog", truncation=True, max_length=4, padding="max_length")
    before = words.backend_tokenizer.truncation, words.backend_tokenizer.padding
    (tmp_path / "file").write_text("x")
    with pytest.raises(Exception):
        tensors.write_tokenizer(words, tmp_path / "file" / "inside")
    assert (words.backend_tokenizer.truncation, words.backend_tokenizer.padding) == before


def test_a_slow_tokenizer_writes_itself(tmp_path: Path) -> None:
    called = []
    words = SimpleNamespace(save_pretrained=called.append, pad_token="[PAD]", eos_token=None)
    tensors.write_tokenizer(words, tmp_path)
    assert called == [tmp_path]
