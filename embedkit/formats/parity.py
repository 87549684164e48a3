"""The parity report of an export: vectors that other libraries read from the folder, compared with the model's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.errors import ModelError

if TYPE_CHECKING:
    from embedkit.models.modules.dual import DualEncoder

BOUND = 0.9999
Vectors = tuple[np.ndarray, np.ndarray]

_STEMS = (
    "a photo of a {} dog", "two {} bicycles near the river", "{} houses on a hill, seen from far away",
    "the {} kitchen table", "a child with a {} hat", "an aerial view of a {} harbour", "{} flowers", "a {} bus stops",
)  # fmt: skip
_WORDS = ("red", "small", "old", "wooden", "striped", "empty", "bright", "broken", "tall", "quiet", "snowy", "yellow")
_ODD = (
    "", "a “quoted” dog’s ball", "salt &amp; pepper", "very long " + "words and more words " * 60,
    "UPPER Case  and\ttabs", "3.5 x 1,200 -- 50%!", "a_b #tag @user", "café, naïve, Zürich", "ﬁsh &lt;3",
)  # fmt: skip


def probe_texts(count: int) -> list[str]:
    """`count` different captions, among them empty, overlong and oddly written ones.

    Examples
    --------
    >>> probe_texts(11)[-2:]
    ['a photo of a red dog, number 0', 'two small bicycles near the river, number 1']
    """
    texts = list(_ODD)
    for number in range(count):
        word = _WORDS[number % len(_WORDS)]
        texts.append(f"{_STEMS[number % len(_STEMS)].format(word)}, number {number}")
    return texts[:count]


def probe_images(count: int) -> list[Any]:
    """`count` different RGB images of many shapes: coloured gradients with rectangles and some noise.

    Examples
    --------
    >>> [image.size for image in probe_images(3)]
    [(144, 177), (125, 119), (87, 175)]
    """
    from PIL import Image

    images = []
    for number in range(count):
        random = np.random.default_rng(number)
        high, wide = (int(v) for v in random.integers(48, 200, 2))
        begin, end = random.uniform(0, 255, (2, 3))
        tilt = random.uniform(-99, 99, 3)
        across, down = np.linspace(0, 1, wide)[None, :, None], np.linspace(-1, 1, high)[:, None, None]
        ramps = begin + (end - begin) * across + tilt * down  # (H, W, 3)
        pixels = ramps + random.normal(0, 8, (high, wide, 3))
        top, left = int(random.integers(0, high - 16)), int(random.integers(0, wide - 16))
        pixels[top : top + high // 3, left : left + wide // 3] = random.integers(0, 256, 3)
        images.append(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    return images


def parity_report(model: DualEncoder, folder: Path, readers: list[str], samples: int) -> dict[str, Any]:
    """Agreement of each library's vectors with the model's, of `samples` images and texts, read from `folder`.

    A reader that splits an odd crop margin another way is compared with the model under that rule; the notes of an
    export say so.

    Returns
    -------
    dict
        For each reader: smallest cosine of texts and of images, largest difference of a coordinate of unit vectors,
        share of images whose nearest text is the same; or that the library is not installed.

    Raises
    ------
    ModelError
        When a cosine is below `BOUND`, or a nearest text differs.

    Examples
    --------
    >>> from embedkit.config.recipe_io import load_recipe
    >>> from embedkit.factory import build
    >>> model = build(load_recipe("clip-small").model)
    >>> from embedkit.formats.open_clip.writer import write_files
    >>> Path("clip").mkdir()
    >>> notes = write_files(model.eval(), Path("clip"))
    >>> parity_report(model, Path("clip"), ["open_clip"], samples=4)["open_clip"]["same_top1"]
    1.0
    """
    texts, images = probe_texts(samples), probe_images(samples)
    agreement: dict[str, Any] = {}
    for reader in readers:
        if find_spec(_PACKAGES[reader]) is None:
            agreement[reader] = "not installed, not compared"
            continue
        theirs = READERS[reader](folder, texts, images)
        agreement[reader] = compare(_ours(model, reader, texts, images), theirs)
        worst = min(agreement[reader]["cosine_texts"], agreement[reader]["cosine_images"])
        if not worst >= BOUND or agreement[reader]["same_top1"] < 1.0:
            raise ModelError(
                f"{reader} reads other vectors (smallest cosine {worst:.6f}, same nearest text for "
                f"{agreement[reader]['same_top1']:.0%} of images)", remedy="please report this model",
            )  # fmt: skip
    return {"samples": samples, **agreement}


def _ours(model: DualEncoder, reader: str, texts: list[str], images: list[Any]) -> Vectors:
    preprocess = model.preprocess
    model.preprocess = dataclasses.replace(preprocess, crop="round" if reader == "open_clip" else "truncate")
    try:
        return model.encode(texts, prompt="", normalize=True), model.encode(images, normalize=True)
    finally:
        model.preprocess = preprocess


def compare(ours: Vectors, theirs: Vectors) -> dict[str, Any]:
    """Agreement of (texts, images) vectors; both sides are brought to unit length.

    Examples
    --------
    >>> report = compare((np.eye(2), np.eye(2)), (3 * np.eye(2), np.eye(2)))
    >>> report["cosine_texts"], report["same_top1"]
    (1.0, 1.0)
    """
    (text, image), (other_text, other_image) = (tuple(map(_unit, pair)) for pair in (ours, theirs))
    nearest, other = image @ text.T, other_image @ other_text.T
    places = nearest.argmax(1)
    # a tie within rounding is no difference: equal captions after cleaning have equal vectors
    same = other[np.arange(len(other)), places] >= other.max(1) - 1e-5
    return {
        "cosine_texts": float((text * other_text).sum(1).min()),
        "cosine_images": float((image * other_image).sum(1).min()),
        "difference": float(max(np.abs(text - other_text).max(), np.abs(image - other_image).max())),
        "same_top1": float(same.mean()),
    }  # fmt: skip


def _unit(vectors: np.ndarray) -> np.ndarray:
    wide = np.asarray(vectors, dtype=np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def _read_open_clip(folder: Path, texts: list[str], images: list[Any], size: int = 64) -> Vectors:
    """Vectors by open_clip from ``local-dir:folder``."""
    import open_clip
    import torch

    name = f"local-dir:{folder}"
    model, transform = open_clip.create_model_from_pretrained(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    with torch.inference_mode():
        text = [model.encode_text(tokenizer(texts[s : s + size])) for s in range(0, len(texts), size)]
        image = [
            model.encode_image(torch.stack([transform(i) for i in images[s : s + size]]))
            for s in range(0, len(images), size)
        ]
    return torch.cat(text).float().numpy(), torch.cat(image).float().numpy()


def _read_transformers(folder: Path, texts: list[str], images: list[Any], size: int = 64) -> Vectors:
    """Vectors by transformers: AutoModel and AutoProcessor of the folder, with its PIL image processor."""
    import torch
    from transformers import AutoModel, AutoProcessor

    from embedkit.formats.tensors import quiet

    with quiet():
        model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")
    text_config = model.config.text_config
    length = getattr(text_config, "max_position_embeddings", None) or processor.tokenizer.model_max_length
    length = min(int(length), int(processor.tokenizer.model_max_length))
    padding = "max_length" if model.config.model_type == "siglip" else True
    text, image = [], []
    with torch.inference_mode():
        for start in range(0, len(texts), size):
            tokens = processor.tokenizer(
                texts[start : start + size], padding=padding, truncation=True, max_length=length, return_tensors="pt"
            )
            text.append(model.get_text_features(**tokens).pooler_output)
        for start in range(0, len(images), size):
            pixels = processor.image_processor(images[start : start + size], return_tensors="pt")
            image.append(model.get_image_features(**pixels).pooler_output)
    return torch.cat(text).float().numpy(), torch.cat(image).float().numpy()


def _read_sentence_transformers(folder: Path, texts: list[str], images: list[Any]) -> Vectors:
    """Vectors by sentence-transformers, with transformers' PIL image processor."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, processor_kwargs={"backend": "pil"})
    return model.encode(texts, prompt="", show_progress_bar=False), model.encode(images, show_progress_bar=False)


READERS: dict[str, Callable[[Path, list[str], list[Any]], Vectors]] = {
    "open_clip": _read_open_clip,
    "transformers": _read_transformers,
    "sentence-transformers": _read_sentence_transformers,
}
_PACKAGES = {
    "open_clip": "open_clip",
    "transformers": "transformers",
    "sentence-transformers": "sentence_transformers",
}
