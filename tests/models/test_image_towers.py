"""Image towers against their libraries, the registry of towers, positions of another resolution, frozen statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embedkit.errors import MissingExtraError, ModelError, UserError, need
from embedkit.models.modules import image_towers as module
from embedkit.models.modules.image_towers import (
    ImageTower,
    build_image_tower,
    channel_factors,
    grid,
    image_towers,
    named_tower,
    pair,
    product,
    resample_positions,
    resized,
    tower_class,
)
from embedkit.models.towers.convnext import ConvNextTower
from embedkit.models.towers.naflex import NaflexTower
from embedkit.models.towers.open_clip import OpenClipTower
from embedkit.models.towers.timm import TimmTower
from embedkit.models.towers.transformers import POOLINGS, TransformersTower, new_vision_model, plain_config
from tests.helpers import dual

open_clip = pytest.importorskip("open_clip")


def pixels_for(tower: ImageTower, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *tower.size, generator=torch.Generator().manual_seed(0))


# against the libraries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["open_clip-vit", "open_clip-resnet", "timm-vit", "timm-convnext"])
@pytest.mark.parametrize("quick", [False, True])
def test_a_tower_of_open_clip_is_the_visual_of_its_clip(family: str, quick: bool) -> None:
    config = dual.IMAGES[family]["config"]
    tower = OpenClipTower.from_config(config, dual.DIM, {"quick_gelu": quick})
    tower = build_image_tower({**dual.IMAGES[family], "quick_gelu": quick}).eval()
    text = {"context_length": 8, "vocab_size": 10, "width": 16, "heads": 2, "layers": 1}
    theirs = open_clip.CLIP(dual.DIM, config, text, quick_gelu=quick).eval()
    theirs.visual.load_state_dict(tower.encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels_for(tower)), theirs.encode_image(pixels_for(tower)))


@pytest.mark.parametrize("family", ["vit", "clip", "siglip", "dinov2", "dinov2-registers"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_pooling_of_a_transformers_tower(family: str, pooling: str) -> None:
    spec = dual.IMAGES[family]
    if family == "siglip" and pooling == "cls":
        with pytest.raises(ModelError, match="a SigLIP tower has no class token"):
            build_image_tower({**spec, "pooling": pooling})
        return
    tower = build_image_tower({**spec, "pooling": pooling}).eval()
    with torch.no_grad():
        output = tower.encoder(pixel_values=pixels_for(tower))
        prefix = {"siglip": 0, "dinov2-registers": 4}.get(family, 1)
        wanted = {
            "cls": output.last_hidden_state[:, 0], "mean": output.last_hidden_state[:, prefix:].mean(1),
            "pooler": output.pooler_output,
        }[pooling]  # fmt: skip
        torch.testing.assert_close(tower(pixels_for(tower)), wanted)
    assert tower.spec()["pooling"] == pooling


def test_the_usual_pooling_is_the_trained_one() -> None:
    usual = {family: dual.image_tower(family).pooling for family in ("vit", "clip", "siglip", "dinov2")}
    assert usual == {"vit": "cls", "clip": "pooler", "siglip": "pooler", "dinov2": "cls"}
    with pytest.raises(ModelError, match=r"towers\.image\.pooling: unknown pooling 'max'"):
        dual.image_tower("vit").pooling = "max"


@pytest.mark.parametrize("family", dual.IMAGES)
def test_a_spec_makes_the_tower_again(family: str) -> None:
    tower = dual.image_tower(family)
    other = build_image_tower(tower.spec())
    assert type(other) is type(tower)
    other.encoder.load_state_dict(tower.encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(pixels_for(tower)), tower(pixels_for(tower)))
    assert (other.dim, other.size, other.patches, other.spec()) == (tower.dim, tower.size, tower.patches, tower.spec())


def test_a_configuration_says_nothing_of_where_it_came_from() -> None:
    config = plain_config(dual.image_tower("vit").encoder.config)
    assert config["model_type"] == "vit"
    assert not {"transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"} & set(config)


# the registry ---------------------------------------------------------------------------------------------------------


def test_the_towers_that_are_there() -> None:
    assert list(image_towers) == ["convnext", "naflex", "open_clip", "timm", "transformers"]
    assert {name: tower.family for name, tower in image_towers.items()} == {
        "convnext": "transformers", "naflex": "transformers", "open_clip": "open_clip", "timm": "open_clip",
        "transformers": "transformers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (dual.VIT, OpenClipTower), ({"timm_model_name": "test_vit"}, TimmTower),
        ({"model_type": "vit"}, TransformersTower), ({"model_type": "convnextv2"}, ConvNextTower),
        ({"model_type": "siglip2_vision_model"}, NaflexTower), ({**dual.VIT, "timm_model_name": None}, OpenClipTower),
        ({}, OpenClipTower),
    ],
)  # fmt: skip
def test_exactly_one_tower_takes_a_configuration(config: dict[str, Any], kind: type[ImageTower]) -> None:
    assert [tower for _, tower in image_towers.items() if tower.takes(config)] == [kind]
    assert tower_class(config) is kind
    assert named_tower(config) == (kind, config)


def test_a_name_of_a_family_that_is_none() -> None:
    with pytest.raises(ModelError, match="unknown family of image towers 'keras'; known: open_clip, transformers"):
        build_image_tower({"family": "keras", "config": {}})
    with pytest.raises(ModelError, match="no image tower takes this configuration"):
        build_image_tower({"family": "open_clip", "config": {"model_type": "vit"}})
    with pytest.raises(UserError, match="unknown image tower 'keras'"):
        named_tower({"family": "keras"})


class Patches(ImageTower):
    """The mean colour of each patch: a whole tower in a few lines."""

    family = "patches"

    def __init__(self, dim: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.dim, self.config = dim, config
        self.size = pair(config["image_size"])
        self.encoder = nn.Conv2d(3, dim, config["patch_size"], config["patch_size"])
        self.patches = product(self.grid())

    @classmethod
    def takes(cls, config: dict[str, Any]) -> bool:
        return "colours" in config

    @classmethod
    def from_config(cls, config: dict[str, Any], dim: int, options: dict[str, Any]) -> Patches:
        return cls(dim, config)

    def grid(self) -> tuple[int, int]:
        return grid(self.size, self.config["patch_size"])

    def rebuilt(self, size: tuple[int, int]) -> Patches:
        return Patches(self.dim, {**self.config, "image_size": list(size)})

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels).mean((2, 3))

    def spec(self) -> dict[str, Any]:
        return {"family": self.family, "dim": self.dim, "config": self.config}


def test_a_new_tower_is_one_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Registered, it is built from a recipe, trained, saved, loaded and resized like the others."""
    from embedkit.config.model import ModelConfig
    from embedkit.factory import build
    from embedkit.formats import load
    from tests.helpers import tiny

    list(image_towers)  # complete before the change
    monkeypatch.setitem(image_towers._entries, "patches", Patches)
    config = {"colours": True, "image_size": 32, "patch_size": 8}
    words = str(tiny.tokenizer_folder(tmp_path / "words"))
    towers = {"text": {"kind": "static", "dim": 8, "tokenizer": words}, "image": {"config": config}, "dim": 12}
    model = build(ModelConfig(kind="dual", towers=towers)).eval()
    assert isinstance(model.image, Patches)
    vectors = model.encode(dual.images(2))
    model.save(tmp_path / "m")
    np.testing.assert_allclose(load(tmp_path / "m", device="cpu").encode(dual.images(2)), vectors, atol=1e-6)
    larger = {"image": {"preprocess": {"size": [64, 32]}}}
    other = build(ModelConfig(kind="dual", name=str(tmp_path / "m"), towers=larger))
    assert (other.image.size, other.image.patches) == ((64, 32), 32)
    with pytest.raises(ModelError, match="no row of patches"):
        other.image.set_patch_dropout(0.5)


def test_a_tower_without_its_methods_cannot_be_made() -> None:
    class Half(ImageTower):
        """Without a forward pass."""

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


# positions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [0, 1, 4])
@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((8, 8), (4, 4)), ((4, 6), (7, 5)), ((3, 3), (3, 3))])
def test_resampling_is_timms(prefix: int, old: tuple[int, int], new: tuple[int, int]) -> None:
    from timm.layers import resample_abs_pos_embed

    table = torch.randn(1, prefix + product(old), 6, generator=torch.Generator().manual_seed(1))
    ours = resample_positions(table, prefix, old, new)
    wanted = resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=prefix)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(resample_positions(table[0], prefix, old, new), ours[0])  # (P, W), as in open_clip
    assert torch.equal(ours[:, :prefix], table[:, :prefix])


def test_resampling_keeps_the_type() -> None:
    assert resample_positions(torch.randn(17, 4).half(), 1, (4, 4), (2, 2)).dtype == torch.float16


def test_a_constant_table_stays_constant() -> None:
    table = torch.full((1, 17, 3), 0.5)
    torch.testing.assert_close(resample_positions(table, 1, (4, 4), (9, 9)), torch.full((1, 82, 3), 0.5))


@pytest.mark.parametrize("family", dual.IMAGES)
def test_a_tower_of_the_same_size_is_itself(family: str) -> None:
    tower = dual.image_tower(family)
    assert resized(tower, tower.size) is tower


def test_a_resized_tower_keeps_its_mode_and_type() -> None:
    tower = dual.image_tower("vit").double().train()
    other = resized(tower, (64, 64))
    assert other.training
    assert next(other.parameters()).dtype == torch.float64
    assert tower.size == (32, 32)


def test_a_table_that_belongs_to_no_grid_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = dual.image_tower("vit")
    monkeypatch.setattr(TransformersTower, "grid", lambda self: (50, 50))
    with pytest.raises(ModelError, match="position_embeddings belongs to images of 32 x 32"):
        resized(tower, (64, 64))


# batch normalisation --------------------------------------------------------------------------------------------------


def test_frozen_statistics_do_not_move() -> None:
    tower = dual.image_tower("open_clip-resnet")
    norms = [m for m in tower.encoder.modules() if isinstance(m, module.BATCH_NORMS)]
    before = [norm.running_mean.clone() for norm in norms]
    tower.freeze_batch_norm = True
    tower.train()
    assert not tower.mixes_images
    assert not any(norm.training for norm in norms)
    tower(pixels_for(tower))
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    tower.freeze_batch_norm = False
    tower.train()
    assert tower.mixes_images
    tower(pixels_for(tower))
    assert not all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    tower.requires_grad_(False).train()  # a locked tower
    assert not tower.mixes_images
    assert not any(norm.training for norm in norms)


@pytest.mark.parametrize("family", ["open_clip-vit", "vit", "timm-convnext"])
def test_towers_without_batch_normalisation_mix_nothing(family: str) -> None:
    assert not dual.image_tower(family).mixes_images


# the rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", dual.IMAGES)
def test_the_blocks_are_the_longest_stack(family: str) -> None:
    blocks = dual.image_tower(family).blocks()
    assert len({type(block) for block in blocks}) <= 1
    if "resnet" not in family and "convnext" not in family:
        assert len(blocks) >= 2


@pytest.mark.parametrize("family", ["open_clip-vit", "vit", "clip", "timm-vit"])
def test_checkpointed_gradients_are_equal(family: str) -> None:
    tower = dual.image_tower(family).train()
    pixels = pixels_for(tower)
    plain = torch.autograd.grad(tower(pixels).square().sum(), list(tower.parameters()), allow_unused=True)
    tower.gradient_checkpointing_enable()
    again = torch.autograd.grad(tower(pixels).square().sum(), list(tower.parameters()), allow_unused=True)
    for a, b in zip(plain, again, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_resnet_has_no_checkpointing() -> None:
    with pytest.raises(ModelError, match="no checkpointing"):
        dual.image_tower("open_clip-resnet").gradient_checkpointing_enable()


def test_normalisation_is_torchvisions() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    scale, shift = channel_factors(mean, std, 1.0, pixels)
    wanted = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(pixels * scale - shift, wanted)
    scale, shift = channel_factors(mean, std, 255.0, pixels)
    torch.testing.assert_close((pixels * 255) * scale - shift, wanted)


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(MissingExtraError, match="clip"):
        need("no_such_package_at_all", "clip", "an image tower")
    need("torch", "clip", "an image tower")


WRONG = ({"model_type": "bert"}, {"model_type": "vit", "hidden_size": "x"}, {"model_type": "?"})


@pytest.mark.parametrize("settings", WRONG)
def test_what_is_no_vision_model(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="no vision model of transformers"):
        new_vision_model(settings)


def test_a_resnet_whose_configuration_names_no_patches() -> None:
    """Ten of open_clip's configurations say ``patch_size: null``."""
    config = {**dual.IMAGES["open_clip-resnet"]["config"], "patch_size": None}
    tower = OpenClipTower(dual.DIM, config)
    assert tower.patches == 4
    assert tower(pixels_for(tower)).shape == (2, dual.DIM)
