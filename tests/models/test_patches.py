"""Patch dropout: what is kept, what decides it, where each tower has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError
from embedkit.models.modules.patches import PatchDropout, seeded
from tests.helpers import dual

pytest.importorskip("open_clip")
WITH_PATCHES = ("open_clip-vit", "timm-vit", "vit", "clip", "siglip", "dinov2", "dinov2-registers")


def tokens(count: int = 3, prefix: int = 1, patches: int = 20) -> torch.Tensor:
    """(N, prefix + P, 2): each token says its image and its place."""
    image = torch.arange(count)[:, None].expand(-1, prefix + patches)
    place = torch.arange(prefix + patches)[None].expand(count, -1)
    return torch.stack([image, place], dim=-1).double()


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("prefix", [0, 1, 4])
def test_a_share_is_left_out_and_the_rest_stays_in_order(rate: float, prefix: int) -> None:
    drop = PatchDropout(rate, prefix).train()
    x = tokens(prefix=prefix)
    out = drop(x)
    kept = max(1, int(20 * (1 - rate)))
    assert out.shape == (3, prefix + kept, 2)
    assert torch.equal(out[:, :prefix], x[:, :prefix])
    for image in range(3):
        places = out[image, prefix:, 1]
        assert (places.diff() > 0).all()
        assert (places >= prefix).all()
        assert (out[image, :, 0] == image).all()


def test_nothing_is_left_out_in_evaluation_or_at_rate_0() -> None:
    x = tokens()
    assert PatchDropout(0.5, 1).eval()(x) is x
    assert PatchDropout(0.0, 1).train()(x) is x


def test_every_patch_is_as_likely_as_another() -> None:
    drop = PatchDropout(0.75, 0).train()
    drop.seeds = np.arange(4_000, dtype=np.uint64)
    places = drop(tokens(4_000, 0, 16))[:, :, 1]
    counts = torch.bincount(places.flatten().long(), minlength=16).double()
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 37.7  # chi-squared, 15 degrees, one in a thousand
    together = {tuple(row) for row in places.long().tolist()}
    assert len(together) > 1_000  # of 1820 ways to keep 4 of 16


def test_a_seed_decides_for_its_image_alone() -> None:
    drop = PatchDropout(0.5, 1).train()
    x = tokens(4)
    drop.seeds = np.array([5, 6, 7, 8], dtype=np.uint64)
    whole = drop(x)
    drop.seeds = np.array([7, 5], dtype=np.uint64)
    part = drop(x[[2, 0]])
    assert torch.equal(part, whole[[2, 0]])


def test_orders_of_seeds() -> None:
    orders = seeded(np.array([1, 2, 1], dtype=np.uint64), 50, torch.device("cpu"))
    assert orders.shape == (3, 50)
    assert (orders >= 0).all()
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(seeded(np.array([1], dtype=np.uint64), 20, torch.device("cpu"))[0], orders[0, :20])


def test_without_seeds_torchs_generator_decides() -> None:
    drop = PatchDropout(0.5, 1).train()
    torch.manual_seed(3)
    first = drop(tokens())
    torch.manual_seed(3)
    assert torch.equal(drop(tokens()), first)
    assert not torch.equal(drop(tokens()), first)


@pytest.mark.parametrize("family", WITH_PATCHES)
def test_every_tower_with_patches_computes_fewer(family: str) -> None:
    """The transformer layers see the prefix and the kept patches; evaluation is as before."""
    tower = dual.image_tower(family)
    pixels = torch.rand(2, 3, *tower.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = tower(pixels)
    tower.set_patch_dropout(0.5)
    assert tower.patch_dropout == 0.5
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels), before)
    lengths: list[int] = []
    drops = [module for module in tower.encoder.modules() if isinstance(module, PatchDropout)]
    assert len(drops) == 1
    drops[0].register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
    tower.train()
    with torch.no_grad(), tower.drawing(np.array([1, 2], dtype=np.uint64)):
        first = tower(pixels)
    with torch.no_grad(), tower.drawing(np.array([1, 2], dtype=np.uint64)):
        torch.testing.assert_close(tower(pixels), first)
    with torch.no_grad(), tower.drawing(np.array([3, 4], dtype=np.uint64)):
        assert not torch.allclose(tower(pixels), first)
    patches = tower.grid()[0] * tower.grid()[1]
    assert lengths[0] == drops[0].prefix + patches // 2
    assert drops[0].seeds is None  # only inside of `drawing`


def test_the_rate_can_be_set_again() -> None:
    tower = dual.image_tower("vit")
    for rate in (0.5, 0.25):
        tower.set_patch_dropout(rate)
    drops = [module for module in tower.encoder.modules() if isinstance(module, PatchDropout)]
    assert [drop.rate for drop in drops] == [0.25]
    lengths: list[int] = []
    drops[0].register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
    tower.train()(torch.rand(1, 3, *tower.size))
    assert lengths == [1 + 12]  # dropped once, not twice


@pytest.mark.parametrize("family", ["open_clip-resnet", "timm-convnext"])
def test_towers_without_a_row_of_patches_refuse(family: str) -> None:
    tower = dual.image_tower(family)
    with pytest.raises(ModelError, match="no row of patches to drop from; leave it out, or use a ViT"):
        tower.set_patch_dropout(0.5)
    assert tower.patch_dropout == 0.0


def test_the_state_dict_does_not_change() -> None:
    for family in WITH_PATCHES:
        tower = dual.image_tower(family)
        names = set(tower.encoder.state_dict())
        tower.set_patch_dropout(0.5)
        assert set(tower.encoder.state_dict()) == names
