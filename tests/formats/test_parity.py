"""The certificate of an export: what it compares, and that every kind of difference is found."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.errors import ModelError
from embedkit.formats import parity
from embedkit.formats.export import export
from embedkit.formats.registry import DUAL_KINDS, FolderWriter, writers
from tests.helpers import dual

RANDOM = np.random.default_rng(0)


def vectors(count: int = 6, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Texts and images, each image nearest to the text of its own place."""
    text = np.linalg.qr(RANDOM.normal(size=(max(count, dim), dim)))[0][:count]
    text = np.eye(count, dim) if count <= dim else text
    return text, text + 0.05 * RANDOM.normal(size=text.shape)


# --- what is compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 9, 10, 250])
def test_probes_are_as_many_as_asked_and_all_different(count: int) -> None:
    texts, images = parity.probe_texts(count), parity.probe_images(count)
    assert len(texts) == len(set(texts)) == count
    assert len({image.tobytes() for image in images}) == len(images) == count
    assert {image.mode for image in images} == {"RGB"}


def test_probes_are_the_same_each_time_and_a_longer_list_begins_like_a_shorter_one() -> None:
    assert parity.probe_texts(30)[:12] == parity.probe_texts(12)
    for once, again in zip(parity.probe_images(4), parity.probe_images(9), strict=False):
        assert np.array_equal(np.asarray(once), np.asarray(again))


def test_probes_hold_what_readers_treat_differently() -> None:
    texts = parity.probe_texts(20)
    assert "" in texts
    assert max(map(len, texts)) > 500  # beyond any context length
    joined = " ".join(texts)
    for odd in ("&amp;", "“", "\t", "ﬁ", "é", "_", "UPPER", "%"):
        assert odd in joined, odd
    sizes = np.array([image.size for image in parity.probe_images(20)])
    assert (sizes[:, 0] > sizes[:, 1]).any() and (sizes[:, 0] < sizes[:, 1]).any()
    assert ((sizes.max(1) - sizes.min(1)) % 2 == 1).any() and ((sizes.max(1) - sizes.min(1)) % 2 == 0).any()
    assert all(np.asarray(image).std() > 3 for image in parity.probe_images(20))  # no flat picture, which hides a crop


# --- compare ---------------------------------------------------------------------------------------------------------


def test_equal_vectors_agree_whatever_their_length() -> None:
    text, image = vectors()
    found = parity.compare((text, image), (text * 3.5, image * np.arange(1, 7)[:, None]))
    assert found["cosine_texts"] == pytest.approx(1.0)
    assert found["cosine_images"] == pytest.approx(1.0)
    assert found["difference"] < 1e-12
    assert found["same_top1"] == 1.0


@pytest.mark.parametrize("side", ["texts", "images"])
def test_one_row_that_differs_decides(side: str) -> None:
    text, image = vectors()
    other = {"texts": text.copy(), "images": image.copy()}
    before = {"texts": text, "images": image}[side][3] / np.linalg.norm({"texts": text, "images": image}[side][3])
    other[side][3] = RANDOM.normal(size=5)
    after = other[side][3] / np.linalg.norm(other[side][3])
    found = parity.compare((text, image), (other["texts"], other["images"]))
    assert found[f"cosine_{side}"] == pytest.approx(before @ after)
    assert found[f"cosine_{'images' if side == 'texts' else 'texts'}"] == pytest.approx(1.0)
    assert found["difference"] == pytest.approx(np.abs(before - after).max())


def test_images_that_find_another_text_are_counted() -> None:
    text, image = vectors(count=4, dim=4)
    swapped = image.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert parity.compare((text, image), (text, swapped))["same_top1"] == 0.5


def test_equal_texts_may_stand_for_each_other() -> None:
    """Two captions that are one after cleaning: which of them is nearest is rounding alone."""
    text = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    image = np.array([[1.0, 0.0], [0.0, 1.0]])
    other = text.copy()
    other[1] = [1.0, 1e-7]
    other[0] = [1.0, -1e-7]
    assert parity.compare((text, image), (other, image))["same_top1"] == 1.0


def test_a_zero_vector_agrees_with_nothing_and_divides_by_nothing() -> None:
    text, image = vectors()
    other = image.copy()
    other[0] = 0
    found = parity.compare((text, image), (text, other))
    assert found["cosine_images"] == 0.0
    assert all(np.isfinite(value) for value in found.values())


def test_half_precision_is_compared_in_double() -> None:
    text, image = vectors()
    found = parity.compare((text.astype(np.float16), image.astype(np.float16)), (text, image))
    assert 0 < found["difference"] < 1e-3
    assert found["cosine_texts"] > 0.999


# --- parity report ---------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> Any:
    return dual.dual("bert", "open_clip-vit")


def reader(model: Any, change: Any = None) -> Any:
    """A library that reads exactly the model, but for what `change` does to its vectors of (texts, images)."""

    def read(folder: Path, texts: list[str], images: list[Any]) -> Any:
        found = model.encode(texts, prompt=""), model.encode(images)
        return found if change is None else change(*found)

    return read


def certified(model: Any, monkeypatch: pytest.MonkeyPatch, change: Any, name: str = "transformers") -> dict[str, Any]:
    monkeypatch.setitem(parity.READERS, name, reader(model, change))
    return parity.parity_report(model, Path("unused"), [name], samples=12)


def test_a_reader_that_agrees_is_certified_with_its_figures(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.preprocess = dataclasses.replace(model.preprocess, crop="truncate")
    found = certified(model, monkeypatch, None)
    assert found.keys() == {"samples", "transformers"}
    assert found["samples"] == 12
    assert found["transformers"]["cosine_images"] == pytest.approx(1.0)
    assert found["transformers"]["same_top1"] == 1.0


@pytest.mark.parametrize(
    "change",
    [
        lambda text, image: (text[::-1].copy(), image),
        lambda text, image: (text, -image),
        lambda text, image: (text, image + 0.3),
        lambda text, image: (np.full_like(text, np.nan), image),
        lambda text, image: (text, np.zeros_like(image)),
    ],
    ids=["reversed texts", "opposite images", "shifted images", "not a number", "zero"],
)
def test_a_reader_that_disagrees_is_named(model: Any, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    with pytest.raises(ModelError, match=r"transformers reads other vectors \(smallest cosine") as caught:
        certified(model, monkeypatch, change)
    assert caught.value.remedy == "please report this model"


def test_a_library_that_is_not_installed_is_said_not_to_be_compared(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "find_spec", lambda name: None)
    monkeypatch.setitem(parity.READERS, "open_clip", lambda *_: pytest.fail("read without the library"))
    found = parity.parity_report(model, Path("unused"), ["open_clip"], samples=3)
    assert found == {"samples": 3, "open_clip": "not installed, not compared"}


@pytest.mark.parametrize(("name", "crop"), [("open_clip", "round"), ("transformers", "truncate")])
@pytest.mark.parametrize("fails", [True, False])
def test_each_reader_is_compared_under_its_own_rule_of_cropping(
    model: Any, monkeypatch: pytest.MonkeyPatch, name: str, crop: str, fails: bool
) -> None:
    seen, own = [], model.preprocess

    class Watched(Exception):
        """The comparison is broken off."""

    def encode(inputs: Any, **settings: Any) -> Any:
        seen.append(model.preprocess.crop)
        if fails and len(seen) == 2:
            raise Watched
        return np.eye(len(inputs), 16)

    monkeypatch.setattr(model, "encode", encode)
    monkeypatch.setitem(parity.READERS, name, lambda *_: (np.eye(4, 16), np.eye(4, 16)))
    with pytest.raises(Watched) if fails else contextlib.nullcontext():
        parity.parity_report(model, Path("unused"), [name], samples=4)
    assert seen == [crop, crop]
    assert model.preprocess is own  # also after an error


def test_the_certificate_stands_in_the_folder_and_no_folder_without_one(
    model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def write(model: Any, folder: Path, samples: int) -> dict[str, Any]:
        (folder / "weights").write_text("x")
        return {"readers": parity.parity_report(model, folder, ["transformers"], samples)}

    monkeypatch.setattr(model, "preprocess", dataclasses.replace(model.preprocess, crop="truncate"))
    monkeypatch.setitem(writers._entries, "probe", FolderWriter(DUAL_KINDS, write))
    monkeypatch.setitem(parity.READERS, "transformers", reader(model))
    export(model, tmp_path / "good", "probe", samples=5)
    said = json.loads((tmp_path / "good" / "embedkit_export.json").read_text())
    assert (said["format"], said["readers"]["samples"]) == ("probe", 5)
    monkeypatch.setitem(parity.READERS, "transformers", reader(model, lambda t, i: (t, -i)))
    with pytest.raises(ModelError, match="reads other vectors"):
        export(model, tmp_path / "bad", "probe", samples=5)
    assert [p.name for p in tmp_path.iterdir()] == ["good"]
