"""open_clip's 144 configurations, shrunk to tiny widths: vectors equal to open_clip's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedkit
from embedkit.errors import ModelError
from tests.helpers import dual, open_clip_shapes

open_clip = pytest.importorskip("open_clip")
# one of each kind; the rest, whose settings are the same but for sizes, only with the slow tests
QUICK = (
    "RN50", "ViT-B-32", "ViT-H-14-quickgelu", "coca_ViT-B-32", "ViT-L-14-CLIPA", "MobileCLIP-S1", "ViT-B-16-SigLIP",
    "ViT-SO400M-16-SigLIP-i18n-256", "roberta-ViT-B-32", "convnext_base", "nllb-clip-base",
)  # fmt: skip


def names() -> list[Any]:
    """The configurations, those of the long tail marked as slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in open_clip.list_models()]


@pytest.mark.parametrize("name", names())
def test_each_configuration(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model = open_clip_shapes.write(name, folder)
    texts, images = open_clip_shapes.vectors(model, folder)
    ours = embedkit.load(folder, device="cpu")
    np.testing.assert_allclose(ours.encode(open_clip_shapes.TEXTS), texts, atol=1e-5)
    np.testing.assert_allclose(ours.encode(dual.images(3)), images, atol=1e-5)


def test_all_configurations_are_tried() -> None:
    count = len(open_clip.list_models())
    print(f"{count} configurations")
    assert count >= 140
    assert set(QUICK) <= set(open_clip.list_models())


@pytest.mark.parametrize("name", ["coca_ViT-B-32", "ViT-L-14-CLIPA", "MobileCLIP-S1"])
def test_text_towers_of_open_clips_own_are_saved_and_exported(name: str, tmp_path: Path) -> None:
    open_clip_shapes.write(name, tmp_path / "m")
    model = embedkit.load(tmp_path / "m", device="cpu")
    assert model.text.kind == "open_clip-text"
    expected = model.encode(open_clip_shapes.TEXTS)
    model.save(tmp_path / "own")
    again = embedkit.load(tmp_path / "own", device="cpu")
    assert again.hash() == model.hash()
    np.testing.assert_array_equal(again.encode(open_clip_shapes.TEXTS), expected)
    embedkit.export(model, tmp_path / "export", format="open_clip", samples=8)  # compares with open_clip itself
    back = embedkit.load(tmp_path / "export", device="cpu")
    np.testing.assert_allclose(back.encode(open_clip_shapes.TEXTS), expected, atol=1e-6)


def test_a_text_tower_of_its_own_learns(tmp_path: Path) -> None:
    open_clip_shapes.write("coca_ViT-B-32", tmp_path / "m")
    model = embedkit.load(tmp_path / "m", device="cpu").train()
    model(model.prepare(["a cat", "two dogs"])).square().sum().backward()
    grads = {name: p.grad for name, p in model.text.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values()), grads.keys()
    with pytest.raises(ModelError, match="no setting 'dropout'"):
        model.text(model.text.prepare(["a cat"]), dropout=0.1)


def test_more_than_77_tokens_with_clips_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = open_clip.get_model_config("ViT-B-32")
    known["text_cfg"]["context_length"] = 248
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: known)
    model = open_clip_shapes.write("long", tmp_path / "m")
    texts = ["a photo of a cat " * 40, "a cat"]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'm'}")
    ours = embedkit.load(tmp_path / "m", device="cpu")
    assert ours.max_length == 248
    expected = model.encode_text(tokenizer(texts), normalize=True).detach().numpy()
    np.testing.assert_allclose(ours.encode(texts), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT-B/32", "ViT-B-32"])
def test_names_as_open_clips_users_type_them(name: str) -> None:
    from embedkit.formats.open_clip.towers import named

    assert named(name) == ("ViT-B-32", "")
    assert named(f"{name}/openai") == ("ViT-B-32", "openai")
