"""Image processors of transformers folders: pixels are those of its own PIL processors, or the folder is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedkit.errors import ModelError
from embedkit.formats.transformers.dual_reader import preprocess_of, read_vision_model
from embedkit.formats.transformers.dual_writer import PIL_NOTE, write_processor
from embedkit.models.inputs.preprocess import Preprocess
from tests.helpers import dual

SQUARE = {"height": 32, "width": 32}
CLIP = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 32}, "resample": 3,
    "do_center_crop": True, "crop_size": SQUARE, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "do_convert_rgb": True,
}  # fmt: skip


def folder_with(path: Path, **changes: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "preprocessor_config.json").write_text(json.dumps({**CLIP, **changes}))
    return path


def theirs(folder: Path, pictures: list[Any]) -> np.ndarray:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor(pictures, return_tensors="np")["pixel_values"]


def ours(known: Preprocess, pictures: list[Any]) -> np.ndarray:
    mean, std = (np.array(v)[:, None, None] for v in (known.mean, known.std))
    return np.stack([(known(picture) / 255 - mean) / std for picture in pictures])


SETTINGS: dict[str, dict[str, Any]] = {
    "clip": {},
    "bilinear": {"resample": 2},
    "lanczos": {"resample": 1},
    "larger edge": {"size": {"shortest_edge": 40}},
    "rectangle": {"size": {"shortest_edge": 40}, "crop_size": {"height": 24, "width": 32}},
    "squash": {"size": SQUARE, "do_center_crop": False},
    "not normalised": {"do_normalize": False},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": SQUARE, "do_center_crop": False},
    "vit": {"image_processor_type": "ViTImageProcessor", "size": SQUARE, "do_center_crop": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_pixels_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, **SETTINGS[name])
    pictures = dual.images(8)
    np.testing.assert_allclose(ours(preprocess_of(folder), pictures), theirs(folder, pictures), atol=1e-5)


def test_each_setting_is_where_it_belongs(tmp_path: Path) -> None:
    found = preprocess_of(folder_with(tmp_path, resample=2, size={"shortest_edge": 48}))
    assert found == Preprocess(
        size=(32, 32), edge=48, interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop="truncate",
        convert="before", alpha="drop",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rescale_factor": 1 / 127.5}, "pixels are not scaled to 0..1"),
        ({"do_rescale": False}, "pixels are not scaled to 0..1"),
        ({"do_center_crop": False}, "images keep their shape, which needs one size for all"),
        ({"size": {"height": 40, "width": 40}}, "a squashed image is cut"),
        ({"image_processor_type": "NoSuchProcessor"}, "the image processor cannot be read"),
    ],
)
def test_steps_that_embedkit_has_not(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        preprocess_of(folder_with(tmp_path, **changes))
    assert caught.value.where == str(tmp_path)


def test_a_folder_without_a_processor(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the image processor cannot be read"):
        preprocess_of(tmp_path)


# --- written ---------------------------------------------------------------------------------------------------------

KNOWN = [
    Preprocess(size=(32, 32), crop="truncate", convert="before", alpha="drop"),
    Preprocess(size=(32, 32), edge=40, crop="truncate", convert="before", alpha="drop", interpolation="bilinear"),
    Preprocess(size=(24, 32), edge=40, crop="truncate", convert="before", alpha="drop", mean=(0.5, 0.5, 0.5)),
    Preprocess(size=(32, 32), resize="squash", crop="truncate", convert="before", alpha="drop"),
]


@pytest.mark.parametrize(
    ("known", "model_type"),
    [*((known, "clip") for known in KNOWN), *((known, "vision-text-dual-encoder") for known in KNOWN),
     (KNOWN[-1], "siglip")],  # SigLIP's processor always squashes
)  # fmt: skip
def test_a_written_processor_is_read_back_and_gives_the_same_pixels(
    known: Preprocess, model_type: str, tmp_path: Path
) -> None:
    assert write_processor(known, tmp_path, model_type) == [PIL_NOTE]
    assert preprocess_of(tmp_path) == known
    np.testing.assert_allclose(ours(known, dual.images(8)), theirs(tmp_path, dual.images(8)), atol=1e-5)
    old, new = (json.loads((tmp_path / f"{name}_config.json").read_text()) for name in ("preprocessor", "processor"))
    assert new["image_processor"].items() <= old.items()  # transformers 4 reads the one, 5 the other


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": "round", "alpha": "drop", "convert": "before"}, ["odd crop margin"]),
        ({"crop": "truncate", "alpha": "white"}, ["alpha channel"]),
        ({"crop": "truncate", "alpha": "drop", "convert": "after"}, ["palette images"]),
        ({}, ["odd crop margin", "alpha channel"]),
    ],
)
def test_images_that_transformers_treats_otherwise_are_noted(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    first, *notes = write_processor(Preprocess(size=(32, 32), **changes), tmp_path, "clip")
    assert first == PIL_NOTE
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


@pytest.mark.parametrize(
    ("known", "reason"),
    [(Preprocess(resize="longest"), "cannot fill"), (Preprocess(size=(24, 32)), "no rectangle")],
)
def test_what_no_processor_of_transformers_does(known: Preprocess, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"transformers cannot express this model: .*{reason}"):
        write_processor(known, tmp_path, "clip")
    assert list(tmp_path.iterdir()) == []


# --- image towers of folders -----------------------------------------------------------------------------------------

_SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def test_the_image_half_of_a_clip_model_is_read_alone(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    text = {key: value for key, value in _SHAPE.items() if key not in ("image_size", "patch_size")}
    model = CLIPModel(
        CLIPConfig(text_config={**text, "vocab_size": 50}, vision_config=_SHAPE, projection_dim=16)
    ).eval()
    model.save_pretrained(tmp_path)
    tower = read_vision_model(tmp_path)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            tower.eval()(pixel_values=pixels).pooler_output, model.vision_model(pixel_values=pixels).pooler_output
        )


def test_a_model_of_texts_is_no_image_tower(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(**shape, vocab_size=50)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a bert model is no image tower") as caught:
        read_vision_model(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_an_image_tower_with_a_lost_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(**_SHAPE)).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(name for name in state if "layer" in name and name.endswith("weight"))
    state.pop(name)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing or have another shape"):
        read_vision_model(tmp_path)
