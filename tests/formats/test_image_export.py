"""Image towers that leave without text: timm, transformers, torchvision and ONNX give embedkit's vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from embedkit.errors import ModelError
from embedkit.formats import export
from embedkit.formats.image_part import ImagePart, folded, image_report
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.models.modules.dual import DualEncoder, Projection
from embedkit.models.modules.image_towers import build_image_tower
from tests.helpers import dual

timm = pytest.importorskip("timm")
pytest.importorskip("open_clip")


def timm_dual(name: str, pool: str, proj: str | None, size: int | list[int], projection: str = "linear") -> DualEncoder:
    """A dual encoder with a random model of timm."""
    torch.manual_seed(0)
    config = {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": size}
    tower = build_image_tower({"family": "open_clip", "dim": 12, "config": config})
    text = dual.text_tower("static")
    parts = Projection("linear", text.dim, 8), Projection(projection, 12, 8, bias=True)
    return DualEncoder(
        text,
        tower,
        *parts,
        Preprocess(size=tower.size, edge=max(tower.size) + 9 if len(set(tower.size)) == 1 else None),
    ).eval()


def pixels(model: DualEncoder) -> Any:
    return torch.randn(3, 3, *model.image.size, generator=torch.Generator().manual_seed(0))


def wanted(model: DualEncoder, x: Any) -> Any:
    return model.projection("image")(model.image(x))


@pytest.mark.parametrize("family", [name for name in dual.IMAGES if name != "open_clip-resnet"])
def test_timm_reads_its_vectors(family: str, tmp_path: Path) -> None:
    model = dual.dual("clip", family)
    said = json.loads((export(model, tmp_path / "m", "timm", samples=6) / "embedkit_export.json").read_text())
    assert said["readers"]["timm"]["difference"] < 1e-5
    theirs = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels(model)), wanted(model, pixels(model)), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "pool", "proj", "size"),
    [("test_vit3", "avg", "linear", [96, 64]), ("test_vit", "token", None, 160), ("resnet10t", "avg", "linear", 64),
     ("test_nfnet", "avg", None, 64)],
)  # fmt: skip
def test_a_model_of_timm_goes_home(name: str, pool: str, proj: str | None, size: Any, tmp_path: Path) -> None:
    """Norm before or behind the pooling, new positions, a classifier of its own, two linear layers in one."""
    model = timm_dual(name, pool, proj, size)
    export(model, tmp_path / "m", "timm", samples=4)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    features = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels(model)), wanted(model, pixels(model)), atol=1e-5, rtol=1e-4)
        before = theirs.forward_head(theirs.forward_features(pixels(model)), pre_logits=True)
        torch.testing.assert_close(features(pixels(model)), before)


@pytest.mark.parametrize("family", ["open_clip-vit", "timm-vit", "vit", "clip", "siglip", "dinov2-registers"])
def test_auto_model_reads_its_vectors(family: str, tmp_path: Path) -> None:
    model = dual.dual("clip", family)
    path = export(model, tmp_path / "m", "transformers", samples=6, tower="image")
    said = json.loads((path / "embedkit_export.json").read_text())
    assert said["readers"]["transformers"]["difference"] < 1e-5
    assert ("projection.safetensors" in said["use"]["vector"]) == (tmp_path / "m" / "projection.safetensors").is_file()


def test_a_clip_with_its_projection(tmp_path: Path) -> None:
    from transformers import CLIPVisionModelWithProjection

    model = dual.dual("static", "open_clip-vit")
    export(model, tmp_path / "m", "transformers", samples=4, tower="image")
    theirs = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "m").eval()
    with torch.no_grad():
        found = theirs(pixel_values=pixels(model)).image_embeds
        torch.testing.assert_close(found, wanted(model, pixels(model)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["resnet18", "vit"])
def test_torchvision_reads_its_vectors_and_features(kind: str, tmp_path: Path) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    from embedkit.formats.torchvision.writer import read_model

    model = timm_dual(kind, "avg", "linear", 64) if kind == "resnet18" else dual.dual("static", "vit")
    path = export(model, tmp_path / "m", "torchvision", samples=4)
    node = json.loads((path / "embedkit_export.json").read_text())["use"]["features"].split("'")[1]
    theirs = read_model(path)
    extractor = create_feature_extractor(theirs, {node: "features"})
    linear = theirs.fc if kind == "resnet18" else theirs.heads
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels(model)), wanted(model, pixels(model)), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(linear(extractor(pixels(model))["features"]), theirs(pixels(model)))


def test_one_graph_of_the_image_tower(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = timm_dual("test_nfnet", "avg", "linear", 64, "mlp")
    with pytest.raises(ModelError, match="the projection behind the image tower is an mlp"):
        export(model, tmp_path / "m", "timm", samples=4)
    export(model, tmp_path / "m", "onnx", samples=4, tower="image")  # compares with onnxruntime
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == ["embedkit_export.json", "image.onnx"]


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    for family, format, reason in (
        ("open_clip-resnet", "timm", "has other layers than its resnet50_clip"),
        ("clip", "torchvision", "its ViT has no norm_pre.weight"), ("siglip", "torchvision", "plain square ViTs"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=reason):
            export(dual.dual("clip", family), tmp_path / "m", format, samples=2)
    with pytest.raises(ModelError, match="is a static model, without an image tower"):
        export(dual.text_tower("static"), tmp_path / "m", "timm")
    with pytest.raises(ModelError, match="unknown tower 'text'"):
        export(dual.dual("clip", "vit"), tmp_path / "m", "onnx", tower="text")
    with pytest.raises(ModelError, match="tower: a static model has no towers to choose; leave it out"):
        export(dual.text_tower("static"), tmp_path / "m", "onnx", tower="text")
    assert not (tmp_path / "m").exists()


def test_a_certificate_that_fails_names_the_reader() -> None:
    part = ImagePart(dual.dual("static", "vit"))
    with pytest.raises(ModelError, match=r"other reads other vectors \(largest difference"):
        image_report(part, "other", lambda images: part.vectors(images, "round") * 1.01, samples=2)
    with pytest.raises(ModelError, match=r"other reads vectors of the shape \(2, 1\)"):
        image_report(part, "other", lambda images: np.zeros((len(images), 1)), samples=2)


def test_linear_layers_in_one() -> None:
    layers = [nn.Linear(5, 4), nn.Linear(4, 3, bias=False), nn.Linear(3, 2)]
    found = folded(layers)
    assert found is not None
    weight, bias = found
    x = torch.randn(7, 5)
    torch.testing.assert_close(nn.functional.linear(x, weight, bias), nn.Sequential(*layers)(x))
