"""Vectors of patches: the libraries' own, one for each place, with the vector of `forward`; hidden and dropped ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError
from embedkit.models.modules.image_towers import ImageTower, build_image_tower
from embedkit.models.modules.patches import grid_of
from tests.helpers import dual

pytest.importorskip("open_clip")
VITS = ("open_clip-vit", "timm-vit", "vit", "clip", "siglip", "dinov2", "dinov2-registers")


def _pixels(tower: ImageTower, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *tower.size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("name", dual.IMAGES)
def test_a_vector_for_each_place_of_the_grid_and_the_vector_of_the_image(name: str) -> None:
    tower = dual.image_tower(name)
    pixels = _pixels(tower)
    found = tower.patch_tokens(pixels)
    down, across = found.grid
    assert found.places is None
    assert found.grid == tower.grid()
    assert found.tokens.shape == (2, down * across, tower.token_width)
    torch.testing.assert_close(found.vectors, tower(pixels), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(tower.tokens(pixels), found.tokens)


@torch.no_grad()
def test_tokens_are_those_of_the_libraries() -> None:
    """open_clip's `output_tokens`; transformers' last hidden state behind its prefix; timm's features."""
    ours = dual.image_tower("open_clip-vit")
    pixels = _pixels(ours)
    found = ours.tokens(pixels)
    ours.encoder.output_tokens = True
    torch.testing.assert_close(found, ours.encoder(pixels)[1])
    for name, prefix in (("vit", 1), ("siglip", 0), ("dinov2", 1), ("dinov2-registers", 4)):
        tower = dual.image_tower(name)
        state = tower.encoder(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(tower.tokens(pixels), state[:, prefix:])
    tower = dual.image_tower("clip")
    state = tower.encoder.post_layernorm(tower.encoder(pixel_values=pixels).last_hidden_state)
    torch.testing.assert_close(tower.tokens(pixels), state[:, 1:])
    convolutional = dual.image_tower("timm-convnext")
    pixels = _pixels(convolutional)
    whole = convolutional.encoder.trunk.forward_features(pixels)
    torch.testing.assert_close(convolutional.tokens(pixels).transpose(1, 2).reshape(whole.shape), whole)


@torch.no_grad()
@pytest.mark.parametrize(
    ("timm_name", "size", "grid"),
    [("test_vit", [160, 96], (10, 6)), ("swin_tiny_patch4_window7_224", 224, (7, 7)), ("test_resnet", 64, (2, 2))],
)
def test_grids_that_are_not_square_and_maps_with_channels_last(
    timm_name: str, size: Any, grid: tuple[int, int]
) -> None:
    config = {"timm_model_name": timm_name, "timm_pool": "avg", "timm_proj": "linear", "image_size": size}
    tower = build_image_tower({"family": "open_clip", "dim": 8, "config": config}).eval()
    pixels = _pixels(tower, 1)
    found = tower.patch_tokens(pixels)
    assert (found.grid, found.tokens.shape) == (grid, (1, grid[0] * grid[1], tower.token_width))
    whole = tower.encoder.trunk.forward_features(pixels)
    mean = whole.mean(dim=(1, 2)) if timm_name.startswith("swin") else whole[:, 1:].mean(1)
    if whole.dim() == 4 and not timm_name.startswith("swin"):
        mean = whole.mean(dim=(2, 3))
    torch.testing.assert_close(found.tokens.mean(dim=1), mean, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", VITS)
def test_dropped_patches_say_where_the_others_are(name: str) -> None:
    """Pixels of a patch that was left out change nothing, those of a patch that is among `places` do."""
    tower = dual.image_tower(name)
    tower.set_patch_dropout(0.5)
    tower.train()
    pixels, (down, across) = _pixels(tower), tower.grid()

    def tokens(of: torch.Tensor) -> Any:
        with tower.drawing(np.array([3, 4], dtype=np.uint64)):
            return tower.patch_tokens(of)

    found = tokens(pixels)
    assert found.places is not None
    assert found.tokens.shape[1] == found.places.shape[1] == max(1, int(tower.patches * 0.5))
    kept = set(found.places[0].tolist())
    for place in (min(kept), min(set(range(down * across)) - kept)):
        row, column = divmod(place, across)
        other, high, wide = pixels.clone(), tower.size[0] // down, tower.size[1] // across
        other[0, :, row * high :, column * wide :][:, :high, :wide] += torch.randn(3, high, wide)
        assert torch.allclose(tokens(other).tokens[0], found.tokens[0]) == (place not in kept)
    tower.eval()
    assert tower.patch_tokens(pixels).places is None


@torch.no_grad()
@pytest.mark.parametrize("name", VITS)
def test_a_hidden_patch_is_not_seen(name: str) -> None:
    """Pixels under the cover change nothing; those beside it do; the filler does."""
    tower = dual.image_tower(name)
    pixels = _pixels(tower)
    down, across = tower.grid()
    cover = torch.zeros(2, down * across, dtype=torch.bool)
    cover[:, :across] = True  # the first row of patches
    filler = torch.ones(tower.token_width)
    found = tower.patch_tokens(pixels, cover, filler).tokens
    other = pixels.clone()
    other[:, :, : tower.size[0] // down] += 1.0
    torch.testing.assert_close(tower.patch_tokens(other, cover, filler).tokens, found)
    assert not torch.allclose(tower.patch_tokens(other).tokens, tower.patch_tokens(pixels).tokens)
    assert not torch.allclose(tower.patch_tokens(pixels, cover, 2 * filler).tokens, found)
    with pytest.raises(ModelError, match="make it of the tower's grid"):
        tower.patch_tokens(pixels, cover[:, 1:], filler)


def test_towers_without_patches_say_so() -> None:
    for name in ("open_clip-resnet", "timm-convnext"):
        with pytest.raises(ModelError, match="can be hidden"):
            dual.image_tower(name).patch_embedding()
    with pytest.raises(ModelError, match="no grid"):
        grid_of(7, (4, 4), (32, 32))


def test_a_dual_encoder_gives_both_with_gradients() -> None:
    model = dual.dual("static", "open_clip-vit")
    found = model.patch_tokens(model.prepare(dual.images(2)))
    torch.testing.assert_close(found.vectors, model(model.prepare(dual.images(2))))
    found.tokens.sum().backward()
    assert model.image.encoder.conv1.weight.grad is not None
