"""Vision folders and dual encoders of transformers: vectors are transformers' own, and they are fine-tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import embedkit
from embedkit.config.model import ModelConfig
from embedkit.errors import ModelError
from embedkit.factory import build
from embedkit.models.modules.image_towers import resized
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
