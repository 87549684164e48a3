"""Image towers of folders, known before their weights are read: losses of patches that do not fit are told then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from embedkit.config.model import ModelConfig
from embedkit.config.recipe_io import load_recipe
from embedkit.errors import ModelError, RecipeError
from embedkit.factory import build
from embedkit.factory.tower_configs import folder_tower
from embedkit.training import setup
from tests.helpers import dual, vision_folders

pytest.importorskip("open_clip")
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
TEXT = {"kind": "static", "tokenizer": "builtin", "dim": 8}


def without_weights(folder: Path) -> Path:
    """The folder with weights that nobody can read."""
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"no weights")
    return folder


def save(image: dict[str, Any], folder: Path) -> Path:
    build(ModelConfig(kind="dual", towers={"dim": 8, "text": TEXT, "image": image})).save(folder)
    return without_weights(folder)


@pytest.mark.parametrize("name", ["CLIP", "SigLIP", "SigLIP 2 NaFlex"])
def test_a_folder_of_transformers_says_what_its_tower_is(name: str, tmp_path: Path) -> None:
    vision_folders.write_dual(name, tmp_path)
    tower: Any = folder_tower(ModelConfig(kind="dual", name=str(without_weights(tmp_path))))
    assert tower.grid() == (4, 4) and next(tower.parameters()).device.type == "meta"
    half = {"image": {"preprocess": {"size": 16}, **({} if "NaFlex" in name else {"patch_dropout": 0.5})}}
    other: Any = folder_tower(ModelConfig(kind="dual", name=str(tmp_path), towers=half))
    assert other.grid() == (2, 2) and other.patch_dropout == half["image"].get("patch_dropout", 0.0)


def test_a_folder_of_open_clip_says_what_its_tower_is(tmp_path: Path) -> None:
    text = {"context_length": 8, "vocab_size": 10, "width": 16, "heads": 2, "layers": 1}
    for vision, grid in ((dual.VIT, (4, 4)), (dual.IMAGES["timm-convnext"]["config"], (2, 2)), (RESNET, (2, 2))):
        model = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
        (tmp_path / "open_clip_model.safetensors").write_bytes(b"no weights")
        tower: Any = folder_tower(ModelConfig(kind="dual", name=str(tmp_path)))
        assert tower.grid() == grid


@pytest.mark.parametrize("name", ["ViT", "DINOv2", "ConvNeXt"])
def test_a_vision_folder_says_what_its_tower_is(name: str, tmp_path: Path) -> None:
    vision_folders.write_tower(name, tmp_path)
    towers = {"dim": 8, "text": TEXT, "image": {"name": str(tmp_path)}}
    wanted: Any = build(ModelConfig(kind="dual", towers=towers)).image
    without_weights(tmp_path)
    tower: Any = folder_tower(ModelConfig(kind="dual", towers=towers))
    assert (tower.grid(), tower.token_width, tower.size) == (wanted.grid(), wanted.token_width, wanted.size)
    assert tower.tokens(torch.zeros(1, 3, *tower.size, device="meta")).shape[1] == wanted.patches


@pytest.mark.parametrize(
    ("recipe", "image", "settings", "told"),
    [
        ("ibot", {"config": RESNET}, [], "no patches of this image tower"),
        ("ibot", {"config": dual.IMAGES["timm-convnext"]["config"]}, [], "no patches of this image tower"),
        ("densecl", {"size": "vit-nano-32"}, ["model.towers={image: {patch_dropout: 0.5}}"], "need whole images"),
        ("detcon", {"size": "vit-nano-32"}, ["method.cells=20"], "20 x 20 regions are smaller than a patch"),
        ("swav", {"size": "vit-nano-32"}, ["method.views=[{count: 2}, {name: small, size: 20}]"], "16 or 24"),
        ("densecl", {"config": dual.IMAGES["timm-vit"]["config"]}, [], None),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_folder_is_told_before_it_is_read(
    recipe: str, image: dict[str, Any], settings: list[str], told: str | None, tmp_path: Path
) -> None:
    folder = save(image, tmp_path / "m")
    given = load_recipe(recipe, [f"model.name={folder}", *settings], smoke=True)
    if told is None:
        setup.check(given)
        return
    with pytest.raises((ModelError, RecipeError)) as caught:
        setup.check(given)
    assert told in caught.value.line() and caught.value.remedy


def test_nothing_is_known_of_what_is_no_folder(tmp_path: Path) -> None:
    for config in (
        ModelConfig(kind="dual", name="org/model"), ModelConfig(kind="dual", name=str(tmp_path)),
        ModelConfig(kind="dual", towers={"dim": 8, "text": TEXT, "image": {"size": "vit-nano-32"}}),
    ):  # fmt: skip
        assert folder_tower(config) is None


def test_parts_that_are_not_those_of_the_prompts_are_told(tmp_path: Path) -> None:
    """By the recipe's prompts, and by those of a folder."""
    own = load_recipe("multi-prompt", smoke=True)
    setup.check(own)
    model = build(own.model, 0)
    model.save(tmp_path / "m")
    named = [f"model.name={without_weights(tmp_path / 'm')}"]
    for changes in ([], named):
        with pytest.raises(RecipeError) as caught:
            setup.check(load_recipe("multi-prompt", ["objective.terms.1.parts=4", *changes], smoke=True))
        assert "objective.terms.1.parts: 4 parts of vectors of 2 prompts" in caught.value.line()
        assert caught.value.remedy == "set it to 2"
        setup.check(load_recipe("multi-prompt", changes, smoke=True))
