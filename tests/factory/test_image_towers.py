"""Image towers of a recipe: another resolution, a folder's own preprocessing, lengths, dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.config.model import ModelConfig
from embedkit.errors import ModelError, UserError
from embedkit.factory import build
from embedkit.factory.dual import changed_preprocess
from embedkit.formats import load
from embedkit.models.inputs.preprocess import CLIP_MEAN, Preprocess
from tests.helpers import dual, tiny

open_clip = pytest.importorskip("open_clip")
SHAPE = {"model_type": "bert", **tiny.CONFIGS["bert"]}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.tokenizer_folder(tmp_path_factory.mktemp("tokenizer")))


def tuned(name: Path, **image: Any) -> Any:
    return build(ModelConfig(kind="dual", name=str(name), towers={"image": image})).eval()


RESIZED = ("open_clip-vit", "open_clip-resnet", "clip", "siglip", "vit", "dinov2", "timm-convnext")


@pytest.mark.parametrize("family", RESIZED)
def test_a_loaded_model_at_another_resolution(family: str, tmp_path: Path) -> None:
    """Trains, saves, loads; the position table is timm's (DINOv2 resamples its own, a ConvNeXt has none)."""
    model = dual.dual("bert", family)
    model.save(tmp_path / "m")
    size = 64 if model.image.size[0] == 32 else 96
    other = tuned(tmp_path / "m", preprocess={"size": [size, size]})
    assert other.image.size == other.preprocess.size == (size, size)
    pictures = dual.images(2)
    other.train()(other.prepare(pictures)).sum().backward()
    vectors = other.eval().encode(pictures)
    assert np.abs(vectors - model.encode(pictures)).max() > 1e-4
    other.save(tmp_path / "again")
    again = load(tmp_path / "again", device="cpu")
    assert again.image.size == (size, size)
    np.testing.assert_allclose(again.encode(pictures), vectors, atol=1e-6)
    assert again.hash() == other.hash()


def test_positions_are_resampled_as_open_clip_does(tmp_path: Path) -> None:
    from open_clip.model import resize_pos_embed

    model = dual.dual("bert", "open_clip-vit")
    model.save(tmp_path / "m")
    other = tuned(tmp_path / "m", preprocess={"size": [64, 64]})
    state = {"visual.positional_embedding": model.image.encoder.positional_embedding.detach().clone()}

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = other.image.encoder

    resize_pos_embed(state, Holder())
    wanted = state["visual.positional_embedding"]
    assert float((other.image.encoder.positional_embedding.detach() - wanted).abs().max()) < 1e-5


@pytest.mark.parametrize("family", ["vit", "clip", "siglip"])
def test_positions_are_resampled_as_timm_does(family: str, tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    model = dual.dual("bert", family)
    model.save(tmp_path / "m")
    other = tuned(tmp_path / "m", preprocess={"size": [64, 64]})
    name = next(n for n, p in model.image.encoder.named_parameters() if "position_embedding" in n)
    before, after = (dict(m.image.encoder.named_parameters())[name].detach() for m in (model, other))
    wanted = resample_abs_pos_embed(
        before.reshape(1, -1, before.shape[-1]), [8, 8], [4, 4], num_prefix_tokens=0 if family == "siglip" else 1
    )
    assert float((after.reshape(wanted.shape) - wanted).abs().max()) < 1e-5
    rest = [n for n, p in model.image.encoder.named_parameters() if n != name]
    assert all(torch.equal(model.image.encoder.get_parameter(n), other.image.encoder.get_parameter(n)) for n in rest)


def test_a_shape_that_is_not_square(tmp_path: Path) -> None:
    for family in ("open_clip-vit", "vit"):
        dual.dual("bert", family).save(tmp_path / family)
        other = tuned(tmp_path / family, preprocess={"size": [32, 64]})
        assert other.image.grid() == (4, 8)
        assert other.encode(dual.images(1)).shape == (1, other.dim)
    dual.dual("bert", "clip").save(tmp_path / "clip")
    with pytest.raises(ModelError, match=r"preprocess\.size: a clip_vision_model takes square images"):
        tuned(tmp_path / "clip", preprocess={"size": [32, 64]})


def test_mean_and_other_preprocessing_of_a_loaded_model(tmp_path: Path) -> None:
    model = dual.dual("bert", "clip")
    model.save(tmp_path / "m")
    other = tuned(tmp_path / "m", preprocess={"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear"})
    assert other.preprocess == Preprocess(size=(32, 32), mean=(0.5,) * 3, interpolation="bilinear")
    assert model.preprocess.mean == CLIP_MEAN
    with pytest.raises(ModelError, match="preprocess: unknown setting 'men'; did you mean 'mean'"):
        tuned(tmp_path / "m", preprocess={"men": [0.5] * 3})
    with pytest.raises(ModelError, match="unknown interpolation 'cubic'"):
        tuned(tmp_path / "m", preprocess={"interpolation": "cubic"})


@pytest.mark.parametrize(
    ("known", "settings", "edge"),
    [
        (Preprocess(size=(224, 224), edge=256), {"size": [112, 112]}, 128),
        (Preprocess(size=(224, 224), edge=256), {"size": 112}, 128),
        (Preprocess(size=(224, 224), edge=256), {"size": [112, 112], "edge": 200}, 200),
        (Preprocess(size=(224, 224), edge=256), {"fill": 3}, 256),
        (Preprocess(size=(224, 224)), {"size": [64, 32]}, None),
    ],
)
def test_the_edge_keeps_its_proportion(known: Preprocess, settings: dict[str, Any], edge: int | None) -> None:
    assert changed_preprocess(known, settings).edge == edge


def test_settings_of_the_text_tower_of_a_loaded_model(tmp_path: Path) -> None:
    dual.dual("bert", "clip").save(tmp_path / "m")
    towers = {"text": {"max_length": 7, "pooling": "cls", "dropout": 0.3}}
    model = build(ModelConfig(kind="dual", name=str(tmp_path / "m"), towers=towers))
    assert (model.max_length, model.text.pooling) == (7, "cls")
    assert {m.p for m in model.text.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
    assert model.prepare(["a " * 50]).costs.tolist() == [7]
    with pytest.raises(ModelError, match="max_length is 1000; this encoder takes at most"):
        build(ModelConfig(kind="dual", name=str(tmp_path / "m"), towers={"text": {"max_length": 1000}}))


def test_a_pooling_that_clip_does_not_have_is_refused(tmp_path: Path) -> None:
    dual.dual("clip", "clip").save(tmp_path / "m")
    with pytest.raises(ModelError, match=r"model\.towers\.text\.pooling: has no effect"):
        build(ModelConfig(kind="dual", name=str(tmp_path / "m"), towers={"text": {"pooling": "mean"}}))


# folders of vision models ---------------------------------------------------------------------------------------------

_SQUARE = {"size": {"height": 32, "width": 32}}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "siglip": ("SiglipImageProcessor", {**_SQUARE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    "vit": ("ViTImageProcessor", {**_SQUARE, "image_mean": [0.4] * 3, "image_std": [0.6] * 3}),
    "dinov2": ("BitImageProcessor", {
        "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3,
    }),
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
}  # fmt: skip


def vision_folder(path: Path, family: str, **changes: Any) -> Path:
    """A folder of a vision model with the processor that its library gives it."""
    import transformers

    tower = dual.image_tower(family)
    tower.encoder.save_pretrained(path)
    name, settings = PROCESSORS[family]
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    kind(**{**settings, **changes}).save_pretrained(path)
    return path


@pytest.mark.parametrize("family", PROCESSORS)
def test_the_folders_own_preprocessing_is_used(family: str, tmp_path: Path, words: str) -> None:
    """The vectors of the tower are those of the library with its own processor."""
    from transformers import AutoImageProcessor, AutoModel

    folder = vision_folder(tmp_path / family, family)
    towers = {"text": {"config": SHAPE, "tokenizer": words}, "image": {"name": str(folder)}, "dim": 8}
    model = build(ModelConfig(kind="dual", towers=towers)).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pictures = [image for image in dual.images(4) if image.size != (32, 32)]
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    library = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = library(pixel_values=pixels)
        wanted = output.last_hidden_state[:, 0] if family in ("vit", "dinov2") else output.pooler_output
        ours = model.image(model.pixels(model.prepare(pictures)))
    torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=1e-4)
    assert model.preprocess.mean != CLIP_MEAN or family == "clip"


def test_dinov2_trained_at_another_size_than_its_processor(tmp_path: Path, words: str) -> None:
    """The library resamples at every pass, and so do we: 32 in the configuration, 48 from the processor."""
    from transformers import AutoModel

    folder = vision_folder(tmp_path / "d", "dinov2", size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    towers = {"text": {"config": SHAPE, "tokenizer": words}, "image": {"name": str(folder)}, "dim": 8}
    model = build(ModelConfig(kind="dual", towers=towers)).eval()
    assert (model.image.size, model.image.patches) == ((48, 48), 36)
    inputs = model.prepare(dual.images(2))
    library = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = library(pixel_values=model.pixels(inputs)).last_hidden_state[:, 0]
        torch.testing.assert_close(model.image(model.pixels(inputs)), wanted, atol=1e-5, rtol=1e-4)
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu")
    assert again.image.size == (48, 48)
    np.testing.assert_allclose(again.encode(dual.images(2)), model.encode(dual.images(2)), atol=1e-6)


def test_the_recipes_preprocessing_wins_over_the_folders(tmp_path: Path, words: str) -> None:
    folder = vision_folder(tmp_path / "v", "vit")
    image = {"name": str(folder), "preprocess": {"size": [64, 64], "mean": [0.1] * 3}}
    towers = {"text": {"config": SHAPE, "tokenizer": words}, "image": image, "dim": 8}
    model = build(ModelConfig(kind="dual", towers=towers))
    assert (model.image.size, model.preprocess.mean, model.preprocess.std) == ((64, 64), (0.1,) * 3, (0.6,) * 3)


# random towers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ({"config": {"family": "open_clip", **dual.VIT}}, "OpenClipTower"),
        ({"config": dual.VIT}, "OpenClipTower"),
        ({"config": dual.IMAGES["timm-convnext"]["config"]}, "TimmTower"),
        ({"config": {"family": "timm", **dual.IMAGES["timm-convnext"]["config"]}}, "TimmTower"),
        ({"config": dual.IMAGES["vit"]["config"]}, "TransformersTower"),
        ({"config": dual.IMAGES["vit"]["config"], "pooling": "mean"}, "TransformersTower"),
        ({"config": dual.VIT, "quick_gelu": True}, "OpenClipTower"),
        ({"size": "convnext-tiny-64"}, "TimmTower"),
        ({"size": "resnet-tiny-64"}, "OpenClipTower"),
    ],
)
def test_the_configuration_tells_the_tower(image: dict[str, Any], kind: str, words: str) -> None:
    towers = {"text": {"config": SHAPE, "tokenizer": words}, "image": image, "dim": 16}
    model = build(ModelConfig(kind="dual", towers=towers))
    assert type(model.image).__name__ == kind
    assert model(model.prepare(dual.images(1))).shape == (1, 16)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"family": "opnclip", **dual.VIT},
            "unknown image tower 'opnclip'; known: convnext, naflex, open_clip, timm, transformers",
        ),
        ({"model_type": "bert"}, "no vision model of transformers"),
        ({"model_type": "no-such"}, "no vision model of transformers"),
        ({"image_size": 32, "patch": 8}, "not a vision_cfg of open_clip"),
        ({"timm_model_name": "no_such_model"}, "not a vision_cfg of open_clip"),
        ({"timm_model_name": "hf-hub:org/name"}, "is no name of timm's own"),
    ],
)
def test_configurations_that_no_tower_takes(config: dict[str, Any], message: str, words: str) -> None:
    towers = {"text": {"config": SHAPE, "tokenizer": words}, "image": {"config": config}, "dim": 16}
    with pytest.raises(UserError, match=message):
        build(ModelConfig(kind="dual", towers=towers))


def test_more_than_77_tokens_with_the_vocabulary_of_clip(tmp_path: Path) -> None:
    """The tower's own length, from scratch, saved and loaded."""
    shape = {
        "model_type": "clip_text_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": 128,
    }  # fmt: skip
    towers = {"text": {"config": shape, "tokenizer": "clip"}, "image": {"size": "vit-nano-32"}, "dim": 16}
    model = build(ModelConfig(kind="dual", towers=towers)).eval()
    assert model.max_length == 128
    long = " ".join(["cat"] * 300)
    assert model.prepare([long]).costs.tolist() == [128]
    assert np.abs(model.encode([long]) - model.encode([" ".join(["cat"] * 75)])).max() > 1e-6
    model.save(tmp_path / "m")
    again = load(tmp_path / "m", device="cpu")
    assert again.max_length == 128
    np.testing.assert_allclose(again.encode([long]), model.encode([long]), atol=1e-6)
    shorter = {**towers, "text": {**towers["text"], "max_length": 100}}
    assert build(ModelConfig(kind="dual", towers=shorter)).max_length == 100
    with pytest.raises(ModelError, match="max_length is 129; this encoder takes at most 128 tokens"):
        build(ModelConfig(kind="dual", towers={**towers, "text": {**towers["text"], "max_length": 129}}))


# dropout --------------------------------------------------------------------------------------------------------------

MODERN: dict[str, dict[str, Any]] = {
    "modernbert": {
        **tiny.CONFIGS["modernbert"], "attention_dropout": 0.0, "mlp_dropout": 0.0, "embedding_dropout": 0.0,
    },
    "qwen3": {"head_dim": 8, "num_key_value_heads": 2},
    "gemma3_text": {"head_dim": 8, "num_key_value_heads": 2, "query_pre_attn_scalar": 8},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("family", MODERN)
def test_dropout_of_encoders_whose_default_has_none(family: str, words: str) -> None:
    """Without the setting two passes are equal and the model says so; with it they differ."""
    shape = {"model_type": family, **tiny.CONFIGS["bert"], **MODERN[family]}
    model = build(ModelConfig(config=shape, tokenizer=words, pooling="mean"))
    inputs = model.prepare(tiny.SENTENCES)
    assert not model.has_dropout()
    assert torch.equal(model(inputs), model(inputs))
    other = build(ModelConfig(config=shape, tokenizer=words, pooling="mean", dropout=0.3))
    assert other.has_dropout()
    assert not torch.allclose(other(inputs), other(inputs))
    other.eval()
    assert torch.equal(other(inputs), other(inputs))
    model.set_dropout(0.4)
    assert model.has_dropout()
    assert not torch.allclose(model(inputs), model(inputs))


@pytest.mark.parametrize("family", ["modernbert", "qwen3"])
def test_dropout_of_a_loaded_encoder(family: str, words: str, tmp_path: Path) -> None:
    shape = {"model_type": family, **tiny.CONFIGS["bert"], **MODERN[family]}
    build(ModelConfig(config=shape, tokenizer=words, pooling="mean")).save(tmp_path / "m")
    assert not build(ModelConfig(name=str(tmp_path / "m"))).has_dropout()
    model = build(ModelConfig(name=str(tmp_path / "m"), dropout=0.3))
    inputs = model.prepare(tiny.SENTENCES)
    assert model.has_dropout()
    assert not torch.allclose(model(inputs), model(inputs))


def test_has_dropout_of_the_other_kinds() -> None:
    assert not dual.text_tower("static").has_dropout()
    model = dual.dual("bert", "open_clip-vit", dropout=0.0)
    assert not model.has_dropout()
    model.text.set_dropout(0.1)
    assert model.has_dropout()
    with pytest.raises(ModelError, match="has no dropout in its encoder"):
        dual.text_tower("static").set_dropout(0.1)
