"""Towers on images of another size: positions resampled as timm does, learning through it, nothing left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError
from embedkit.models.inputs.shapes import ShapedImages
from embedkit.models.modules.image_towers import ImageTower, build_image_tower, resized
from embedkit.models.towers.open_clip import OpenClipTower
from embedkit.models.towers.timm import TimmTower

VIT = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
       "image_size": 32, "patch_size": 8}  # fmt: skip
TINY = {"timm_model_name": "vit_tiny_patch16_224", "timm_proj": "none", "timm_pool": "token"}


def _towers() -> dict[str, Any]:
    return {
        "open_clip": lambda: OpenClipTower(
            4, {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}),
        "resnet": lambda: OpenClipTower(8, {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}),
        **{kind: lambda kind=kind: build_image_tower({"family": "transformers", "config": {"model_type": kind, **VIT}})
           for kind in ("vit", "clip_vision_model", "siglip_vision_model", "dinov2")},
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(_towers()))
def test_a_pass_at_another_size_is_that_of_the_resized_tower(name: str) -> None:
    torch.manual_seed(0)
    tower: ImageTower = _towers()[name]().double().eval()
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    order = [key for key, _ in tower.named_parameters()]
    size = (tower.size[0] // 2, tower.size[1] // 2)
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    with tower.sized(size):
        found = tower(pixels)
    torch.testing.assert_close(found, resized(tower, size)(pixels), rtol=0, atol=1e-12)
    found.square().sum().backward()
    tables = [p for key, p in tower.named_parameters() if "position" in key]
    assert tables and all(p.grad is not None and bool(p.grad.any()) for p in tables)
    assert [key for key, _ in tower.named_parameters()] == order
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())
    own = torch.randn(1, 3, *tower.size, dtype=torch.float64)
    assert tower(own).shape == (1, tower.dim)


def _timm(tower: TimmTower) -> Any:
    """timm's own model of the same weights, which resamples the positions at each pass."""
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, dynamic_img_size=True)
    model.load_state_dict(tower.encoder.trunk.state_dict())
    return model.eval()


@pytest.mark.parametrize("side", [32, 128])
def test_positions_are_resampled_as_timm_does(side: int) -> None:
    """Smaller views of a step, and a trained tower at twice its resolution: its vectors are timm's, to 1e-5."""
    torch.manual_seed(0)
    tower = TimmTower(192, {**TINY, "image_size": 64}).eval()
    pixels = torch.randn(2, 3, side, side)
    theirs = _timm(tower)
    with torch.no_grad(), tower.sized((side, side)):
        wanted = theirs(pixels)
        torch.testing.assert_close(tower(pixels), wanted, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(resized(tower, (side, side))(pixels), wanted, rtol=0, atol=1e-5)
    plain = tower.encoder.trunk.patch_embed.strict_img_size
    assert plain  # as it was


def test_what_cannot_take_another_size_says_so() -> None:
    tower = OpenClipTower(4, {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16})
    with pytest.raises(ModelError, match="4 x 4 pixels are smaller than a patch, 8 x 8"), tower.sized((4, 4)):
        pass
    clip = build_image_tower({"family": "transformers", "config": {"model_type": "clip_vision_model", **VIT}})
    with pytest.raises(ModelError, match="takes square images"), clip.sized((16, 24)):
        pass
    assert clip.patches_of((16, 16)) == 4


# --- each image in its own shape ----------------------------------------------------------------------------------


def _shaped_towers() -> dict[str, Any]:
    siglip = {"model_type": "siglip2_vision_model", "num_patches": 16, **VIT}
    towers = _towers()
    return {
        "naflex": lambda: build_image_tower({"family": "transformers", "config": siglip}),
        "naflex-mean": lambda: build_image_tower({"family": "transformers", "config": siglip, "pooling": "mean"}),
        "open_clip": towers["open_clip"], "vit": towers["vit"],
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(_shaped_towers()))
def test_images_of_many_shapes_have_the_vectors_that_each_has_alone(name: str) -> None:
    torch.manual_seed(0)
    tower: ImageTower = _shaped_towers()[name]().double().eval()
    shapes = [(2, 5), (4, 4), (1, 3), (2, 5)]
    images = [torch.randn(3, 8 * high, 8 * wide, dtype=torch.float64) for high, wide in shapes]
    inputs = ShapedImages.of(images, side=8)
    found = tower.shaped(inputs.pixels, inputs.shapes)
    for image, vector in zip(images, found, strict=True):
        with tower.sized((image.shape[1], image.shape[2])):
            torch.testing.assert_close(tower(image[None])[0], vector, rtol=0, atol=1e-12)
    part = inputs.select([2, 0])
    assert part.shapes.tolist() == [[1, 3], [2, 5]] and part.costs.tolist() == [3, 10]
    torch.testing.assert_close(tower.shaped(part.pixels, part.shapes), found[[2, 0]], rtol=0, atol=1e-12)
    found.square().sum().backward()
    assert all(bool(p.grad.any()) for key, p in tower.named_parameters() if "position" in key and p.grad is not None)
    assert tower.shaped(inputs.pixels[:0], inputs.shapes[:0]).shape == (0, tower.dim)


def test_patch_dropout_of_images_of_many_shapes_follows_the_image() -> None:
    torch.manual_seed(0)
    tower = _towers()["vit"]().train()
    tower.set_patch_dropout(0.5)
    images = [torch.randn(3, 16, 40), torch.randn(3, 32, 32), torch.randn(3, 16, 40)]
    seeds = np.array([3, 5, 7], dtype=np.uint64)
    inputs = ShapedImages.of(images, side=8).replace(seeds=seeds)
    whole = tower.shaped(inputs.pixels, inputs.shapes, inputs.data["seeds"])
    for index in ([2], [1, 0]):
        part = inputs.select(index)
        torch.testing.assert_close(tower.shaped(part.pixels, part.shapes, part.data["seeds"]), whole[index])
