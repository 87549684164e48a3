"""Dual encoders: every text tower with every image tower, mixed lists, drawn patches, adapters, freezing."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.model import LoraConfig, ModelConfig
from embedkit.errors import DataError, ModelError
from embedkit.factory import build
from embedkit.formats import load
from embedkit.models.encode import image_encoding
from embedkit.models.inputs.images import ImageInputs
from embedkit.models.inputs.preprocess import Preprocess
from embedkit.models.modules.dual import DualEncoder
from tests.helpers import dual, tiny

pytest.importorskip("open_clip")


@pytest.mark.parametrize("image", dual.IMAGES)
def test_image_tower_with_every_text_tower(image: str, tmp_path: Path) -> None:
    """Builds, trains two steps with a gradient for every parameter, saves, reloads, encodes the same."""
    pictures = dual.images(3)
    for text in dual.TEXTS:
        model = dual.dual(text, image)
        train_two_steps(model, pictures)
        items: list[Any] = [dual.CAPTIONS[0], pictures[0], dual.CAPTIONS[8], pictures[1], pictures[2]]
        vectors = model.encode(items)
        assert vectors.shape == (5, model.dim)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(vectors[1], model.encode([pictures[0]])[0], atol=1e-5)  # whatever stands beside it
        model.save(tmp_path / text)
        again = load(tmp_path / text, device="cpu")
        assert again.hash() == model.hash()
        assert again.describe() == model.describe()
        np.testing.assert_allclose(again.encode(items), vectors, atol=1e-6)


def train_two_steps(model: DualEncoder, pictures: list[Any]) -> None:
    """Two steps of CLIP's loss; every parameter but those that no forward pass reads has a gradient."""
    from embedkit import objectives
    from embedkit.objectives import ObjectiveBatch

    objective = objectives.build("clip", dim=model.dim)
    sgd = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=1e-4)
    places = torch.arange(len(pictures))
    owner, keys = {"anchor": places, "positive": places}, {"anchor": places, "positive": places + 3}
    batch = ObjectiveBatch(size=3, rows=slice(0, 3), owner=owner, keys=keys, ids=places)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    for _ in range(2):
        sgd.zero_grad()
        texts = model(model.prepare(["a cat", "the dog is running", "two children"]))
        loss = objective({"anchor": model(model.prepare(pictures)), "positive": texts}, batch).loss
        loss.backward()
        sgd.step()
    model.eval()
    assert bool(torch.isfinite(loss))
    never_read = {"mask_token", "pooler"}
    still = [n for n, p in model.named_parameters() if p.grad is None and not never_read & set(n.split("."))]
    assert still == []
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n.startswith("image."))
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n.startswith("text."))


@pytest.mark.parametrize("text", dual.TEXTS)
def test_padding_changes_nothing(text: str) -> None:
    """The vector of a text is the same alone and beside longer ones."""
    model = dual.text_tower(text)
    texts = ["a man", "two children are running in the green park with a big red ball", "the dog"]
    together = model.encode(texts)
    for place, words in enumerate(texts):
        np.testing.assert_allclose(model.encode([words])[0], together[place], atol=1e-5)


def test_clip_text_is_open_clips_for_any_caption() -> None:
    """Ids as open_clip makes them, and vectors as transformers pools them, packed and padded alike."""
    import open_clip

    model = dual.text_tower("clip", clip=True, cleaning="lower")
    odd = [
        "naïve café ☕ 日本語",
        "mojibake cafÃ©",
        "<end_of_text> x",
        "<START_OF_TEXT>",
        "don't 'S I'M",
        "İstanbul",
        "\x00a",
    ]
    texts = [*dual.CAPTIONS, *odd]
    ids = open_clip.SimpleTokenizer()(texts)
    rows = [row[: row.index(49407) + 1] for row in ids.tolist()]
    assert model.prepare(texts).rows() == rows
    with torch.no_grad():
        expected = model.encoder(input_ids=ids).pooler_output
        torch.testing.assert_close(model(model.prepare(texts)), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(model.prepare(texts), packing="buckets"), expected, atol=1e-5, rtol=1e-5)
    model.double()
    weights = torch.randn(expected.shape, dtype=torch.float64)
    packed = torch.autograd.grad((model(model.prepare(texts)) * weights).sum(), list(model.parameters()))
    plain = torch.autograd.grad((model.encoder(input_ids=ids).pooler_output * weights).sum(), list(model.parameters()))
    assert max(float((a - b).abs().max()) for a, b in zip(packed, plain, strict=True)) < 1e-10


def test_siglip_text_sees_its_padding() -> None:
    model = dual.text_tower("siglip")
    inputs = model.prepare(["a cat", "the dog is running"])
    assert set(inputs.costs) == {model.max_length}
    with torch.no_grad():
        ids = inputs.ids.view(2, -1)
        torch.testing.assert_close(model(inputs), model.encoder(input_ids=ids).pooler_output, atol=1e-5, rtol=1e-5)


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_preprocessing_is_open_clips(mode: str, interpolation: str, size: tuple[int, int]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    settings = {"size": size, "interpolation": interpolation, "resize_mode": mode, "fill_color": 7}
    theirs = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    known = Preprocess(size=size, resize=mode, interpolation=interpolation, fill=7, alpha="drop")
    if mode == "shortest" and size[0] != size[1]:
        known = Preprocess(size=size, resize=mode, interpolation="bicubic", alpha="drop")  # it ignores the filter there
    mean, std = (torch.tensor(x)[:, None, None] for x in (known.mean, known.std))
    pictures = [*dual.images(8), dual.images(2)[1].convert("RGBA")]
    if mode != "longest":  # where the two fill a palette picture with different colours
        pictures.append(dual.images(1)[0].convert("P"))
    for picture in pictures:
        ours = (torch.from_numpy(known(picture)).float() / 255 - mean) / std
        torch.testing.assert_close(ours, theirs(picture), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 2},
        {"size": {"height": 32, "width": 48}, "do_center_crop": False},
    ],
)
def test_preprocessing_is_transformers(settings: dict[str, Any], tmp_path: Path) -> None:
    from transformers import CLIPImageProcessorPil

    from embedkit.formats.transformers.dual_reader import preprocess_of

    theirs = CLIPImageProcessorPil(**settings)
    theirs.save_pretrained(tmp_path)
    known = preprocess_of(tmp_path)
    mean, std = (torch.tensor(x)[:, None, None] for x in (known.mean, known.std))
    for picture in dual.images(8):
        ours = (torch.from_numpy(known(picture)).float() / 255 - mean) / std
        expected = torch.as_tensor(np.asarray(theirs(picture)["pixel_values"][0]))
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_images_of_every_form_and_what_cannot_be_read(tmp_path: Path) -> None:
    model = dual.dual(image="clip")
    picture = dual.images(1)[0]
    handle = io.BytesIO()
    picture.save(handle, format="PNG")
    (tmp_path / "a.png").write_bytes(handle.getvalue())
    forms = [picture, handle.getvalue(), tmp_path / "a.png", np.asarray(picture), model.preprocess(picture)]
    vectors = model.encode(forms)
    assert np.ptp(vectors, axis=0).max() < 1e-6
    ready = model.preprocess(picture)
    floats = model.prepare([torch.from_numpy(ready).float() / 255])
    torch.testing.assert_close(model.pixels(floats), model.pixels(model.prepare([ready])))
    (tmp_path / "b.jpg").write_bytes(handle.getvalue()[:100])
    with pytest.raises(DataError, match=r"inputs\[1\].*b.jpg.*no image"):
        model.encode([picture, tmp_path / "b.jpg"])
    with pytest.raises(DataError, match=r"inputs\[0\].*an image is int"):
        model.encode([3])
    with pytest.raises(DataError, match="one list"):
        model.prepare(["a cat", picture])
    assert model.encode([]).shape == (0, dual.DIM)


def test_encode_decodes_on_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def pool(threads: int) -> ThreadPoolExecutor:
        asked.append(threads)
        return ThreadPoolExecutor(threads)

    monkeypatch.setattr(image_encoding, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 7, 9}, raising=False)
    dual.dual(image="clip").encode(dual.images(1))
    assert asked == [3]


def test_a_bar_of_images_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Bar:
        def __init__(self, **_: Any) -> None:
            pass

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr("embedkit.models.encode.encoding.tqdm", Bar)
    with pytest.raises(DataError, match="an image is int"):
        dual.dual(image="clip").encode([3], progress=True)
    assert closed == [True]


def test_image_inputs_keep_what_belongs_together() -> None:
    inputs = ImageInputs(torch.arange(5 * 12).view(5, 3, 2, 2), 4).replace(seeds=np.arange(5, dtype=np.uint64))
    part = ImageInputs.concat([inputs.select([3, 1]), inputs.select(slice(0, 1))])
    assert [int(p[0, 0, 0]) // 12 for p in part.pixels] == part.data["seeds"].tolist() == [3, 1, 0]
    assert part.costs.tolist() == [4, 4, 4]


@pytest.mark.parametrize("image", ["open_clip-vit", "timm-vit", "vit", "siglip", "dinov2-registers"])
def test_patch_dropout_follows_the_seed_of_an_image(image: str) -> None:
    """What is drawn for an image depends on its seed only; without seeds on the generator; never in evaluation."""
    model = dual.dual(image=image)
    inputs = model.prepare(dual.images(4))
    whole = model(inputs)
    model.image.set_patch_dropout(0.5)
    torch.testing.assert_close(model(inputs), whole)
    model.train()
    seeded = inputs.replace(seeds=np.array([5, 6, 7, 5], dtype=np.uint64))
    torch.manual_seed(0)
    first = model(seeded)
    assert (first - whole).abs().max() > 1e-3
    parts = torch.cat([model(seeded.select([place])) for place in range(4)])
    torch.testing.assert_close(parts, first, atol=1e-5, rtol=1e-4)
    other = model(inputs.select([0, 0]).replace(seeds=np.array([5, 6], dtype=np.uint64)))
    assert (other[0] - other[1]).abs().max() > 1e-3
    assert not torch.equal(model(inputs), model(inputs))


def test_every_patch_is_dropped_equally_often() -> None:
    from embedkit.models.modules.patches import PatchDropout

    drop = PatchDropout(0.75, 1)
    drop.seeds = np.arange(8000, dtype=np.uint64)
    tokens = torch.arange(17.0).expand(8000, 17)[..., None]
    kept = drop(tokens)[..., 0]
    assert kept.shape == (8000, 5)
    assert bool((kept[:, 0] == 0).all()) and bool((kept.diff(dim=1) > 0).all())
    counts = torch.bincount(kept[:, 1:].long().flatten(), minlength=17)[1:] / 8000
    assert float((counts - 0.25).abs().max()) < 0.02  # four standard deviations


# --- parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["open_clip-vit", "clip", "siglip"])
@pytest.mark.parametrize("targets", ["all-linear", ["attn", "out_proj", "c_fc", "fc1"]])
def test_lora_starts_as_nothing_and_is_merged_when_saved(image: str, targets: Any, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from embedkit.models.modules.adapters import add_lora

    model = dual.dual(image=image)
    pictures = dual.images(3)
    before = model.encode(pictures)
    add_lora(model.image, LoraConfig(rank=2, targets=targets))
    np.testing.assert_allclose(model.encode(pictures), before, atol=1e-6)
    trained = {n for n, p in model.image.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or ".parametrizations." in name for name in trained)
    if image != "clip":
        assert any("in_proj_weight" in name for name in trained) == (
            targets == "all-linear" or image == "open_clip-vit"
        )
    model.train()
    model(model.prepare(pictures)).square().sum().backward()
    assert all(p.grad is not None for n, p in model.image.named_parameters() if n in trained)
    with torch.no_grad():
        for name, parameter in model.image.named_parameters():
            if name in trained:
                parameter.normal_(std=0.3)
    model.eval()
    after = model.encode(pictures)
    assert np.abs(after - before).max() > 1e-3
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    assert not any("lora" in name or "parametrizations" in name for name in again.state_dict())
    np.testing.assert_allclose(again.encode(pictures), after, atol=1e-5)
    assert again.hash() == model.hash()


def test_fused_lora_takes_no_dropout() -> None:
    pytest.importorskip("peft")
    from embedkit.models.modules.adapters import add_lora

    with pytest.raises(ModelError, match="no input to drop from"):
        add_lora(dual.image_tower("open_clip-vit"), LoraConfig(dropout=0.1))


@pytest.mark.parametrize("image", ["open_clip-vit", "timm-vit", "clip", "dinov2"])
def test_checkpointing_changes_no_gradient(image: str) -> None:
    model = dual.dual(image=image).double().train()
    inputs = model.prepare(dual.images(3))

    def gradients() -> list[torch.Tensor]:
        used = [p for n, p in model.image.named_parameters() if "mask_token" not in n]
        return list(torch.autograd.grad(model(inputs).square().sum(), used))

    plain = gradients()
    model.gradient_checkpointing_enable()
    assert max(float((a - b).abs().max()) for a, b in zip(gradients(), plain, strict=True)) < 1e-10


def test_frozen_batch_normalisation_keeps_its_statistics() -> None:
    model = dual.dual(image="open_clip-resnet")
    inputs = model.prepare(dual.images(4))
    mean = model.image.encoder.bn1.running_mean.clone()
    model.train()
    assert model.image.mixes_images
    model(inputs)
    assert not torch.equal(model.image.encoder.bn1.running_mean, mean)
    mean = model.image.encoder.bn1.running_mean.clone()
    model.image.freeze_batch_norm = True
    model.train()
    model(inputs)
    assert torch.equal(model.image.encoder.bn1.running_mean, mean)
    assert not model.image.mixes_images


# --- recipes ------------------------------------------------------------------------------------------------------

TEXT = {"config": {"model_type": "bert", **tiny.CONFIGS["bert"]}, "tokenizer": "builtin"}


def towers(**changes: Any) -> ModelConfig:
    known = {"text": TEXT, "image": {"config": dual.VIT}, "dim": 16}
    return ModelConfig(kind="dual", towers={**known, **changes})


def test_a_recipe_builds_the_same_model_for_a_seed(tmp_path: Path) -> None:
    config = towers(image={"config": dual.VIT, "patch_dropout": 0.5, "preprocess": {"resize": "squash"}})
    model = build(config, 3)
    assert isinstance(model, DualEncoder)
    assert model.training
    assert (model.preprocess.size, model.preprocess.resize, model.image.patch_dropout) == ((32, 32), "squash", 0.5)
    assert build(config, 3).hash() == model.hash() != build(config, 4).hash()
    tiny.model_folder(tmp_path / "t", prompts={"q": "who "})
    mixed = build(towers(text={"name": str(tmp_path / "t")}, image={"size": "vit-nano-32"}), 1)
    assert mixed.prompts == {"q": "who "}
    mixed.save(tmp_path / "m")
    loaded = build(ModelConfig(kind="dual", name=str(tmp_path / "m"), towers={"image": {"patch_dropout": 0.25}}), 0)
    assert loaded.hash() == mixed.hash()
    assert loaded.image.patch_dropout == 0.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": None}, "needs model.name, or model.towers"),
        ({"image": {}}, "needs model.name, or model.towers"),
        ({"image": {"sise": "vit-tiny-64"}}, "Extra inputs"),
        ({"image": {"size": "vit-tinny-64"}}, "did you mean 'vit-tiny-64'"),
        ({"image": {"config": {"patch": 3}}}, "not a vision_cfg of open_clip"),
        ({"image": {"config": {"model_type": "bert"}}}, "bert has no patch_size"),
        ({"image": {"config": dual.IMAGES["siglip"]["config"], "pooling": "cls"}}, "no class token"),
        ({"image": {"config": dual.IMAGES["open_clip-resnet"]["config"], "patch_dropout": 0.5}}, "no row of patches"),
        ({"image": {"config": dual.VIT, "preprocess": {"resise": "squash"}}}, "did you mean 'resize'"),
        ({"text": {**TEXT, "projection": "none"}}, "add a projection"),
    ],
)
def test_towers_that_cannot_be_built_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelError, ValueError), match=message):
        build(towers(**changes))
