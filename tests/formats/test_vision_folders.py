"""Vision folders and dual encoders of transformers: vectors are transformers' own, and they are fine-tuned."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedkit
from embedkit.config.model import ModelConfig
from embedkit.data.images.pictures import Picture
from embedkit.errors import ModelError
from embedkit.factory import build
from embedkit.formats.open_clip.writer import preprocess_cfg
from embedkit.models.inputs.preprocess import Preprocess, own_shape
from embedkit.models.modules.image_towers import resized
from embedkit.views.image import ImageInput, prepare_images
from tests.helpers import dual, vision_folders


def tower(folder: Path, pooling: str | None, dim: int) -> embedkit.Model:
    image = {"name": str(folder), "projection": "none", **({"pooling": pooling} if pooling else {})}
    text = {"kind": "static", "tokenizer": "builtin", "dim": 8}
    return build(ModelConfig(kind="dual", towers={"dim": dim, "text": text, "image": image})).eval()


@pytest.mark.parametrize("name", vision_folders.TOWERS)
def test_each_vision_model_with_each_pooling(name: str, tmp_path: Path) -> None:
    """DeiT's distillation token and registers are no patches; I-JEPA has patches only."""
    model = vision_folders.write_tower(name, tmp_path)
    images = vision_folders.pictures(name)
    for pooling, vectors in vision_folders.tower_vectors(model, tmp_path, images).items():
        ours = tower(tmp_path, pooling, vectors.shape[1])
        np.testing.assert_allclose(ours.encode(images, normalize=False), vectors, atol=1e-5)
    if name == "IJEPA":
        assert tower(tmp_path, None, 32).image.pooling == "mean"
        with pytest.raises(ModelError, match="a ijepa has no class token"):
            tower(tmp_path, "cls", 32)


@pytest.mark.parametrize("name", vision_folders.DUALS)
def test_each_dual_encoder_is_read_tuned_and_saved(name: str, tmp_path: Path) -> None:
    model = vision_folders.write_dual(name, tmp_path / "m")
    images = vision_folders.pictures(name)
    texts, pictures = vision_folders.dual_vectors(model, tmp_path / "m", dual.CAPTIONS, images)
    ours = embedkit.load(tmp_path / "m", device="cpu")
    np.testing.assert_allclose(ours.encode(dual.CAPTIONS, normalize=False), texts, atol=1e-5)
    np.testing.assert_allclose(ours.encode(images, normalize=False), pictures, atol=2e-5)
    ours.train()
    loss = (ours(ours.prepare(["a cat", "two dogs"])) * ours(ours.prepare(images[:2]))).sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.image.parameters())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.sub_(0.01 * (0 if parameter.grad is None else parameter.grad))
    ours.eval().save(tmp_path / "own")
    again = embedkit.load(tmp_path / "own", device="cpu")
    np.testing.assert_array_equal(again.encode(images), ours.encode(images))
    assert np.abs(again.encode(images, normalize=False) - pictures).max() > 1e-4


def test_naflex_has_transformers_vector_where_the_shape_is_its_own(tmp_path: Path) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    model = vision_folders.write_dual("SigLIP 2 NaFlex", tmp_path)
    images = [image.resize((100, 40)) for image in dual.images(2)]
    _, theirs = vision_folders.dual_vectors(model, tmp_path, ["a"], images)
    shape = get_image_size_for_max_num_patches(40, 100, patch_size=8, max_num_patches=16)
    assert shape[1] > shape[0]
    settings = {"image": {"preprocess": {"size": list(shape)}}}
    ours = build(ModelConfig(kind="dual", name=str(tmp_path), towers=settings))
    np.testing.assert_allclose(ours.encode(images, normalize=False), theirs, atol=2e-5)


@pytest.mark.parametrize("most", [16, 21])
def test_naflex_trains_on_transformers_patches(most: int, tmp_path: Path) -> None:
    """Pixels, shapes and vectors of pictures without random changes, whether or not `max_num_patches` is a square."""
    from transformers import AutoImageProcessor, Siglip2ImageProcessor

    model = vision_folders.write_dual("SigLIP 2 NaFlex", tmp_path)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=most).save_pretrained(tmp_path)
    shapes = [(100, 40), (50, 50), (20, 90), (9, 9)]
    images = [image.resize(sides) for image, sides in zip(dual.images(4), shapes, strict=True)]
    theirs = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(images=images, return_tensors="pt")
    ours: Any = build(ModelConfig(kind="dual", name=str(tmp_path)))
    inputs: Any = prepare_images(ours, [ImageInput(Picture(image, b"")) for image in images])
    np.testing.assert_array_equal(inputs.shapes, theirs["spatial_shapes"])
    assert max(inputs.costs) > 16 or most == 16
    rows = ours.pixels(inputs).movedim(1, -1).flatten(1)  # (P, side side 3)
    wanted = torch.cat([own[:cost] for own, cost in zip(theirs["pixel_values"], inputs.costs, strict=True)])
    torch.testing.assert_close(rows, wanted, atol=1e-6, rtol=0)
    with torch.no_grad():
        vectors = model.get_image_features(**theirs).pooler_output
        torch.testing.assert_close(ours(inputs), vectors, atol=2e-5, rtol=0)
    np.testing.assert_allclose(ours.encode(images, normalize=False), vectors, atol=2e-5)


@pytest.mark.parametrize("family", ["open_clip-vit", "vit", "clip", "siglip"])
def test_positions_at_twice_the_resolution_are_timms(family: str) -> None:
    from timm.layers import resample_abs_pos_embed

    image = dual.image_tower(family)
    size = (2 * image.size[0], 2 * image.size[1])
    other = resized(image, size)
    old, new = image.encoder.state_dict(), other.encoder.state_dict()
    tables = [key for key in old if ("position" in key and old[key].dim() > 1) or "pos_embed" in key]
    assert len(tables) == 1
    table = old[tables[0]].reshape(1, -1, old[tables[0]].shape[-1])
    grid = image.grid()
    wanted = resample_abs_pos_embed(
        table, [2 * grid[0], 2 * grid[1]], list(grid), num_prefix_tokens=table.shape[1] - grid[0] * grid[1]
    )
    found = new[tables[0]].reshape(wanted.shape)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_tower_whose_positions_can_be_resampled_takes_each_shape_too() -> None:
    shape = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = {"kind": "static", "dim": 8, "tokenizer": "builtin"}
    towers: Any = {"text": text, "dim": 8, "image": {"config": shape, "preprocess": {"patch": 8, "resize": "squash"}}}
    model: Any = build(ModelConfig(kind="dual", towers=towers), 0)
    images = [image.convert("RGB") for image in dual.images(5)]
    found = model.encode(images)
    shapes = [own_shape(image.height, image.width, 8, 16) for image in images]
    assert len(set(shapes)) > 1
    for image, size, vector in zip(images, shapes, found, strict=True):
        towers["image"]["preprocess"] = {"size": list(size), "resize": "squash"}
        other: Any = build(ModelConfig(kind="dual", towers={**towers, "image": {**towers["image"]}}), 0)
        other.load_state_dict({**model.state_dict(), **_tables(model, other, size)})
        np.testing.assert_allclose(other.encode([image])[0], vector, atol=1e-5)


def _tables(model: Any, other: Any, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The tables of positions of `model` for another size."""
    wide = resized(copy.deepcopy(model.image), size).state_dict()
    own = other.image.state_dict()
    return {f"image.{key}": value for key, value in wide.items() if value.shape == own[key].shape}


@pytest.mark.parametrize(("high", "wide"), [(40, 100), (1, 900), (640, 480), (333, 1000), (17, 16), (4000, 3001)])
@pytest.mark.parametrize("most", [16, 256])
def test_shapes_are_those_of_transformers(high: int, wide: int, most: int) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    theirs = get_image_size_for_max_num_patches(high, wide, patch_size=16, max_num_patches=most)
    assert own_shape(high, wide, 16, most) == tuple(theirs)


def test_a_graph_of_one_shape_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    vision_folders.write_dual("SigLIP 2 NaFlex", tmp_path / "m")
    with pytest.raises(ModelError, match="a graph takes images of one shape, this tower each in its own"):
        embedkit.export(embedkit.load(tmp_path / "m", device="cpu"), tmp_path / "graph", format="onnx")


@pytest.mark.parametrize("patch", [8, None])
def test_an_image_tower_of_many_shapes_has_no_form_in_transformers(tmp_path: Path, patch: int | None) -> None:
    vision_folders.write_dual("SigLIP 2 NaFlex", tmp_path / "m")
    model: Any = embedkit.load(tmp_path / "m", device="cpu")
    model.preprocess = replace(model.preprocess, patch=patch)
    with pytest.raises(ModelError, match="one shape"):
        embedkit.export(model, tmp_path / "whole", format="transformers", tower="image")
    with pytest.raises(ModelError, match="one shape"):
        preprocess_cfg(Preprocess(size=(32, 32), patch=8))
