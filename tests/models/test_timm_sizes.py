"""timm's models at another image size than their name stands for: positions are timm's, or a remedy is named."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from embedkit.config.recipe import ModelConfig
from embedkit.errors import ModelError
from embedkit.factory import build
from embedkit.formats import export, load
from embedkit.models.modules.image_towers import build_image_tower, resized
from embedkit.models.towers.timm import TimmTower
from tests.helpers import dual

pytest.importorskip("open_clip")
SIZE = (96, 64)


def tower(name: str, size: int | list[int]) -> TimmTower:
    torch.manual_seed(0)
    found = TimmTower(8, {"timm_model_name": name, "timm_proj": "linear", "timm_pool": "avg", "image_size": size})
    return found.eval()


@pytest.mark.parametrize(
    ("name", "size"),
    [("test_vit3", 160), ("deit3_small_patch16_224", 224), ("eva02_tiny_patch14_224", 224),
     ("swin_tiny_patch4_window7_224", 224)],
)  # fmt: skip
def test_another_size_is_timms_own(name: str, size: int) -> None:
    """Class tokens, no class token, rotary positions with a table, relative positions of windows."""
    before = tower(name, size)
    assert not before.has_new_positions
    with torch.no_grad():
        for part in before.encoder.trunk.modules():
            for key, value in part.named_parameters(recurse=False):
                if "pos" in key:  # they start at zero or close to it
                    value.normal_()
    theirs = copy.deepcopy(before.encoder)
    theirs.trunk.set_input_size((128, 96))
    after = resized(before, (128, 96))
    assert isinstance(after, TimmTower)
    assert after.has_new_positions
    assert (after.size, after.spec()["config"]["image_size"]) == ((128, 96), [128, 96])
    pixels = torch.randn(2, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(after(pixels), theirs(pixels), atol=1e-6, rtol=1e-5)
    assert before.encoder.trunk.patch_embed.img_size == (size, size), "the tower itself stays as it was"


def test_a_new_tower_of_another_size_is_saved_and_read(tmp_path: Path) -> None:
    towers = {
        "dim": 8, "text": {"kind": "static", "tokenizer": "builtin", "dim": 8},
        "image": {"config": {"timm_model_name": "test_vit3", "timm_proj": "linear", "image_size": list(SIZE)}},
    }  # fmt: skip
    model = build(ModelConfig(kind="dual", towers=towers)).eval()
    assert model.image.patches == 6 * 4
    assert model.image.encoder.trunk.pos_embed.shape[1] == 1 + 6 * 4
    pictures = dual.images(2)
    model.train()(model.prepare(pictures)).sum().backward()
    assert model.image.encoder.trunk.pos_embed.grad.abs().sum() > 0
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    np.testing.assert_array_equal(again.encode(pictures), model.eval().encode(pictures))
    third = build(ModelConfig(kind="dual", name=str(tmp_path / "m"), towers={"image": {"preprocess": {"size": 64}}}))
    assert third.encode(pictures).shape == (2, 8)
    assert third.image.encoder.trunk.pos_embed.shape[1] == 1 + 4 * 4


def test_open_clip_has_no_way_to_read_it(tmp_path: Path) -> None:
    model = dual.dual("clip", "timm-vit", cleaning="whitespace")
    config = {**model.image.config, "timm_model_name": "test_vit3", "image_size": 64}
    model.image = build_image_tower({"family": "open_clip", "dim": model.image.dim, "config": config})
    with pytest.raises(ModelError, match="open_clip cannot express this model: it builds test_vit3 for images of 160"):
        export(model, tmp_path / "m", "open_clip", samples=4)


def test_a_model_of_one_size_only_names_it() -> None:
    with pytest.raises(ModelError, match=r"takes images of 224 x 224, not of 64 x 64; set config\.image_size to 224"):
        tower("cait_xxs24_224", 64)


def test_a_tower_at_twice_its_resolution_scores_classes_like_timms_built_at_that_size(tmp_path: Path) -> None:
    """From the saved model to cosines with class names: embedkit resizes, timm builds the larger model and filters the
    checkpoint of the smaller one into it."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    text = {"kind": "static", "tokenizer": "builtin", "dim": 16}
    image = {"config": {"timm_model_name": "test_vit", "timm_proj": "linear", "timm_pool": "", "image_size": 160}}
    model = build(ModelConfig(kind="dual", towers={"dim": 16, "text": text, "image": image})).eval()
    with torch.no_grad():
        for name, parameter in model.image.named_parameters():
            parameter.normal_(std=1.0 if "pos_embed" in name else 0.2)
    model.save(tmp_path / "small")
    twice = build(
        ModelConfig(kind="dual", name=str(tmp_path / "small"), towers={"image": {"preprocess": {"size": 320}}})
    )
    assert (twice.image.size, twice.preprocess.size) == ((320, 320), (320, 320))

    theirs = timm.create_model("test_vit", img_size=320, num_classes=0).eval()
    small = {n.removeprefix("trunk."): p for n, p in model.image.encoder.state_dict().items() if n.startswith("trunk.")}
    theirs.load_state_dict(checkpoint_filter_fn(small, theirs))
    names = model.encode(["a cat", "the dog", "a house", "old trees"])
    pictures = dual.images(6)
    with torch.no_grad():
        pixels = twice.pixels(twice.prepare(pictures))
        vectors = torch.nn.functional.linear(theirs(pixels), model.image.encoder.head.proj.weight)
    wanted = torch.nn.functional.normalize(vectors, dim=1).numpy() @ names.T
    found = twice.eval().encode(pictures) @ names.T
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert (found.argmax(1) == wanted.argmax(1)).all()
    assert not np.allclose(found, model.encode(pictures) @ names.T, atol=1e-3)
