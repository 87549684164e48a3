"""Dual encoders in other libraries' folders: read, written and read back, without network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError, UnsafeFileError
from embedkit.formats import export, load
from embedkit.formats.parity import READERS, compare
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.models.modules.dual import DualEncoder
from tests.helpers import dual

open_clip = pytest.importorskip("open_clip")
BOUND = 1e-5


def clip(image: str = "open_clip-vit", **settings: Any) -> DualEncoder:
    """A random CLIP with CLIP's own tokenizer and cleaning."""
    model = dual.dual("clip", image, clip=True, **{"cleaning": "lower", **settings})
    model.scale = 33.0
    return model


def check(model: DualEncoder, folder: Path, *readers: str) -> None:
    """What each library reads from `folder` equals the model, for odd captions and odd crop margins."""
    pictures = dual.images(8)
    texts = model.encode(dual.CAPTIONS, prompt="")
    for reader in readers:
        pytest.importorskip({"sentence-transformers": "sentence_transformers"}.get(reader, reader))
        kept = model.preprocess
        model.preprocess = dataclasses.replace(kept, crop="round" if reader == "open_clip" else "truncate")
        ours = texts, model.encode(pictures)
        model.preprocess = kept
        found = compare(ours, READERS[reader](folder, dual.CAPTIONS, pictures))
        assert found["difference"] < BOUND, (reader, found)


ALL = ("open_clip", "transformers", "sentence-transformers")


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_one_folder_for_three_libraries(act: str, tmp_path: Path) -> None:
    model = clip(act=act)
    if act == "quick_gelu":
        from embedkit.models.towers.open_clip import OpenClipTower

        tower = OpenClipTower(dual.DIM, dual.VIT, quick_gelu=True)
        tower.load_state_dict(model.image.state_dict())
        model.image = tower.eval()
    export(model, tmp_path / "m", "clip", samples=12)
    check(model, tmp_path / "m", *ALL)
    said = json.loads((tmp_path / "m" / "embedkit_export.json").read_text())
    assert {name: found["same_top1"] for name, found in said["readers"].items() if name != "samples"} == dict.fromkeys(
        ALL, 1.0
    )
    assert any("odd crop margin" in note for note in said["notes"])
    back = load(tmp_path / "m", device="cpu")
    np.testing.assert_array_equal(back.encode(dual.CAPTIONS), model.encode(dual.CAPTIONS))
    assert back.scale == pytest.approx(33.0)
    # without open_clip's part the folder is read as transformers reads it
    (tmp_path / "m" / "open_clip_config.json").unlink()
    back = load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(back.encode(dual.CAPTIONS), model.encode(dual.CAPTIONS), atol=BOUND)
    assert (back.preprocess.crop, back.scale, back.normalize) == ("truncate", pytest.approx(33.0), True)
    assert back.image.encoder.config.hidden_act == act


@pytest.mark.parametrize("image", ["open_clip-resnet", "timm-convnext", "timm-vit"])
def test_towers_that_only_open_clip_has(image: str, tmp_path: Path) -> None:
    model = dual.dual("clip", image, cleaning="whitespace")
    export(model, tmp_path / "m", "open_clip", samples=8)
    check(model, tmp_path / "m", "open_clip")
    back = load(f"local-dir:{tmp_path / 'm'}", device="cpu")
    np.testing.assert_allclose(back.encode(dual.images(3)), model.encode(dual.images(3)), atol=BOUND)
    with pytest.raises(ModelError, match=r"transformers cannot express this model: a CLIP"):
        export(model, tmp_path / "n", "clip")
    assert not (tmp_path / "n").exists()


def test_another_vocabulary_is_read_at_its_own_end_token(tmp_path: Path) -> None:
    """The tiny vocabulary: the end token has not the largest id, and the tokenizer is a file of the folder."""
    model = dual.dual("clip", "open_clip-vit", cleaning="whitespace")
    export(model, tmp_path / "m", "clip", samples=8)
    check(model, tmp_path / "m", *ALL)
    saved = json.loads((tmp_path / "m" / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert (saved["pool_type"], saved["eos_id"], saved["tokenizer_kwargs"]) == ("eos", 3, {"clean": "whitespace"})
    back = load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(back.encode(dual.CAPTIONS), model.encode(dual.CAPTIONS), atol=BOUND)


def transformers_clip(folder: Path, act: str = "quick_gelu", eos: int = 49407) -> Any:
    """A CLIPModel as transformers saves it, with CLIP's vocabulary under OpenAI's names of the special tokens."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    from embedkit.models.modules.clip_text import clip_bpe

    core = json.loads(dual.bpe().backend_tokenizer.to_str())["model"]
    vocabulary = {name: place for name, place in core["vocab"].items() if place < 49406}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    words = clip_bpe(
        vocabulary, [tuple(pair) for pair in core["merges"]], "<|startoftext|>", "<|endoftext|>", "<|endoftext|>"
    )
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": act,
    }
    config = CLIPConfig(
        text_config={**shape, "vocab_size": 49408, "eos_token_id": eos, "bos_token_id": 49406, "pad_token_id": 49407},
        vision_config={**shape, "image_size": 32, "patch_size": 8}, projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    dual.spread(model)
    model.save_pretrained(folder)
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pixels, words).save_pretrained(folder)
    return model


@pytest.mark.parametrize("eos", [2, 49407])
def test_a_clip_folder_of_transformers(eos: int, tmp_path: Path) -> None:
    transformers_clip(tmp_path / "hf", eos=eos)
    model = load(tmp_path / "hf", device="cpu")
    assert model.preprocess.crop == "truncate"
    check(model, tmp_path / "hf", "transformers")
    model.save(tmp_path / "own")
    np.testing.assert_allclose(
        load(tmp_path / "own", device="cpu").encode(dual.CAPTIONS), model.encode(dual.CAPTIONS), atol=1e-6
    )
    with pytest.raises(ModelError, match="cleans every caption and this model none"):
        export(model, tmp_path / "m", "clip", samples=8)
    model.text.cleaning = "lower"
    export(model, tmp_path / "m", "clip", samples=8)
    check(model, tmp_path / "m", *ALL)
    assert "quick_gelu" in json.loads((tmp_path / "m" / "open_clip_config.json").read_text())["model_cfg"]


def test_an_end_token_that_transformers_would_not_find_is_refused(tmp_path: Path) -> None:
    transformers_clip(tmp_path / "hf", eos=49406)
    with pytest.raises(ModelError, match="eos_token_id is 49406"):
        load(tmp_path / "hf", device="cpu")


def test_folders_of_sentence_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    transformers_clip(tmp_path / "hf")
    theirs = library.SentenceTransformer(str(tmp_path / "hf"), device="cpu", processor_kwargs={"backend": "pil"})
    theirs.save(str(tmp_path / "st"))
    model = load(tmp_path / "st", device="cpu")
    assert not model.normalize
    np.testing.assert_allclose(model.encode(dual.CAPTIONS), theirs.encode(dual.CAPTIONS), atol=BOUND, rtol=BOUND)
    np.testing.assert_allclose(model.encode(dual.images(8)), theirs.encode(dual.images(8)), atol=BOUND, rtol=BOUND)
    # the layout of before version 5.4
    old = tmp_path / "old"
    (tmp_path / "hf").rename(tmp_path / "moved")
    old.mkdir()
    (tmp_path / "moved").rename(old / "0_CLIPModel")
    modules = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    (old / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_array_equal(load(old, device="cpu").encode(dual.CAPTIONS), model.encode(dual.CAPTIONS))


def test_siglip(tmp_path: Path) -> None:
    model = dual.dual("siglip", "siglip", cleaning="canonicalize")
    model.scale, model.bias = 10.0, -9.0
    model.preprocess = Preprocess(size=(32, 32), resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
    export(model, tmp_path / "m", "transformers", samples=8)
    check(model, tmp_path / "m", "transformers", "sentence-transformers")
    back = load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(back.encode(dual.CAPTIONS), model.encode(dual.CAPTIONS), atol=BOUND)
    assert (back.scale, back.bias) == (pytest.approx(10.0), -9.0)
    with pytest.raises(ModelError, match="open_clip cannot express this model"):
        export(model, tmp_path / "n", "clip")


def test_a_siglip_text_tower_in_open_clip(tmp_path: Path) -> None:
    """Padded text, a head with bias, a learnt bias, and preprocessing that squashes."""
    model = dual.dual("siglip", "open_clip-vit", cleaning="canonicalize")
    from embedkit.models.modules.dual import Projection
    from embedkit.models.towers.open_clip import OpenClipTower

    torch.manual_seed(0)
    image = OpenClipTower(32, dual.VIT).eval()
    model = DualEncoder(
        model.text, image, Projection("none", 32, 32), Projection("none", 32, 32),
        Preprocess(size=(32, 32), resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3), scale=10.0, bias=-10.0,
    ).eval()  # fmt: skip
    export(model, tmp_path / "m", "open_clip", samples=8)
    check(model, tmp_path / "m", "open_clip")
    back = load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(back.encode(dual.CAPTIONS), model.encode(dual.CAPTIONS), atol=BOUND)
    assert (back.scale, back.bias) == (pytest.approx(10.0), -10.0)


def test_a_mixed_pair_in_transformers(tmp_path: Path) -> None:
    """A BERT with its pooler and a ViT with its own: a VisionTextDualEncoderModel."""
    model = dual.dual("simcse", "vit")
    model.image.pooling = "pooler"
    model.preprocess = dataclasses.replace(model.preprocess, resize="squash")
    export(model, tmp_path / "m", "transformers", samples=8)
    check(model, tmp_path / "m", "transformers")
    back = load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(back.encode(dual.CAPTIONS), model.encode(dual.CAPTIONS), atol=BOUND)
    np.testing.assert_allclose(back.encode(dual.images(4)), model.encode(dual.images(4)), atol=BOUND)


@pytest.mark.parametrize(
    ("text", "image", "format", "reason"),
    [
        ("bert", "vit", "transformers", "tanh pooler"),
        ("bert", "open_clip-vit", "open_clip", "its own text towers are CLIP's and SigLIP's"),
        ("clip", "dinov2", "transformers", "no class for these two towers"),
        ("clip", "dinov2", "open_clip", "no dinov2 tower"),
        ("static", "open_clip-vit", "onnx", "a static text tower has no ONNX export"),
        ("clip", "open_clip-vit", "open-clip", "did you mean 'open_clip'"),
    ],
)
def test_what_cannot_be_expressed_is_refused(text: str, image: str, format: str, reason: str, tmp_path: Path) -> None:
    settings = {"cleaning": "whitespace"} if text == "clip" else {}
    with pytest.raises(ModelError, match=reason):
        export(dual.dual(text, image, **settings), tmp_path / "m", format)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("changes", "format", "reason"),
    [
        ({"resize": "longest"}, "transformers", "fill"),
        ({"resize": "none"}, "open_clip", "cannot resize"),
        ({"edge": 40}, "open_clip", "cannot resize the shorter side to 40"),
    ],
)
def test_preprocessing_that_cannot_be_expressed_is_refused(
    changes: dict[str, Any], format: str, reason: str, tmp_path: Path
) -> None:
    model = dual.dual("clip", cleaning="whitespace")
    model.preprocess = dataclasses.replace(model.preprocess, **changes)
    with pytest.raises(ModelError, match=reason):
        export(model, tmp_path / "m", format)


def test_wrong_vectors_are_not_certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkit.formats.open_clip.keys._QKV", ("v_proj", "k_proj", "q_proj"))
    model = dual.dual("clip", "clip", cleaning="whitespace")
    with pytest.raises(ModelError, match="open_clip reads other vectors"):
        export(model, tmp_path / "m", "open_clip", samples=8)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda f: (f / "open_clip_model.safetensors").unlink(), ModelError, "has no open_clip_model.safetensors"),
        (lambda f: (f / "open_clip_config.json").write_text("{}"), ModelError, "has no model_cfg"),
        (lambda f: _edit(f, vision_cfg={**dual.VIT, "layers": 3}), ModelError, "the weights do not fit"),
        (lambda f: _text(f, qk_norm=True), ModelError, "the weights do not fit"),
        (lambda f: _to_pickle(f), UnsafeFileError, "pickle"),
    ],
)  # fmt: skip
def test_damaged_open_clip_folders(break_it: Any, error: Any, message: str, tmp_path: Path) -> None:
    from embedkit.formats.open_clip.writer import write_files

    folder = tmp_path / "m"
    folder.mkdir()
    write_files(dual.dual("clip", cleaning="whitespace"), folder)
    break_it(folder)
    with pytest.raises(error, match=message):
        load(folder, device="cpu")


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "open_clip_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "model_cfg": {**saved["model_cfg"], **changes}}))


def _text(folder: Path, **changes: Any) -> None:
    saved = json.loads((folder / "open_clip_config.json").read_text())
    _edit(folder, text_cfg={**saved["model_cfg"]["text_cfg"], **changes})


def _to_pickle(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")


@pytest.mark.slow
@pytest.mark.parametrize(("text", "image"), [("clip", "open_clip-vit"), ("bert", "dinov2"), ("siglip", "siglip")])
def test_onnx(text: str, image: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = dual.dual(text, image)
    export(model, tmp_path / "m", "onnx", samples=8)
    session = runtime.InferenceSession(str(tmp_path / "m" / "image.onnx"), providers=["CPUExecutionProvider"])
    pixels = model.pixels(model.prepare(dual.images(5)))
    np.testing.assert_allclose(
        session.run(None, {"pixel_values": pixels.numpy()})[0], model.encode(dual.images(5)), atol=1e-4
    )
    said = json.loads((tmp_path / "m" / "embedkit_export.json").read_text())
    assert said["readers"]["onnxruntime"]["difference"] < 1e-4
    assert said["use"]["preprocess"] == model.preprocess.to_json()
