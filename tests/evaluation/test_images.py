"""Image-text retrieval and zero-shot classification against their definitions restated with loops."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit.errors import DataError, NonFiniteError
from embedkit.evaluation import SuiteConfig, evaluate, open_suite
from embedkit.evaluation.core.stats import mean_statistic
from embedkit.evaluation.measures import geometry
from tests.evaluation.toys import BagOfWords


class TwoTowers(BagOfWords):
    """Images by colour, texts by words, in one noisy space."""

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        if isinstance(inputs[0], str):
            return super().encode(inputs)
        rows = []
        for image in inputs:
            color = np.asarray(image)[0, 0].tolist()
            rows.append(super().encode([f"{color[0]}"])[0] + 0.7 * super().encode([f"noise {color[1]} {color[2]}"])[0])
        return np.array(rows)


def _png(number: int) -> bytes:
    handle = io.BytesIO()
    Image.new("RGB", (2, 2), (number, number * 7 % 256, number * 13 % 256)).save(handle, format="PNG")
    return handle.getvalue()


def _captions(count: int, seed: int = 0, same: int | None = None) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    words = ["red", "big", "new", "old", "wet", "dry"]
    return [
        [f"{i} {' '.join(rng.choice(words, 3))}" for _ in range(same or int(rng.integers(1, 5)))] for i in range(count)
    ]


def _write(path: Path, captions: list[list[str]], **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"image": [_png(i) for i in range(len(captions))], "captions": captions, **columns}
    pq.write_table(pa.table(table), path)


def _oracle(captions: list[list[str]], numbers: list[int], k: int) -> dict[str, float]:
    """R@k as CLIP papers count it, and true recall, query by query."""
    model = TwoTowers()
    images = model.encode([Image.open(io.BytesIO(_png(i))) for i in numbers])
    flat = [(place, caption) for place, row in enumerate(captions) for caption in row]
    texts = model.encode([caption for _, caption in flat])
    cosine = (images / np.linalg.norm(images, axis=1)[:, None]) @ (texts / np.linalg.norm(texts, axis=1)[:, None]).T
    i2t, i2t_recall, t2i = [], [], []
    for place in range(len(images)):
        top = np.argsort(-cosine[place])[:k]
        right = sum(flat[t][0] == place for t in top)
        i2t.append(right > 0)
        i2t_recall.append(right / len(captions[place]))
    for text in range(len(texts)):
        t2i.append(flat[text][0] in np.argsort(-cosine[:, text])[:k])
    return {"i2t": 100 * np.mean(i2t), "i2t_recall": 100 * np.mean(i2t_recall), "t2i": 100 * np.mean(t2i)}


def test_hit_rates_and_recalls_are_counted_apart(tmp_path: Path) -> None:
    captions = _captions(40)
    _write(tmp_path / "flickr8k_1k.parquet", captions)
    report = evaluate(TwoTowers(), "image-text", tmp_path, ["flickr8k"], resamples=50)
    result = report.tasks["flickr8k"]
    found = []
    for k in (1, 5, 10):
        wanted = _oracle(captions, list(range(40)), k)
        assert result.metrics[f"image_to_text_hit_rate@{k}"] == pytest.approx(wanted["i2t"])
        assert result.metrics[f"image_to_text_recall@{k}"] == pytest.approx(wanted["i2t_recall"])
        assert result.metrics[f"text_to_image_hit_rate@{k}"] == pytest.approx(wanted["t2i"])
        found += [wanted["i2t"], wanted["t2i"]]
    assert 10 < found[0] < 90
    assert result.score == pytest.approx(np.mean(found))
    assert result.metrics["rsum"] == pytest.approx(np.sum(found))
    samples = result.samples
    assert 100 * mean_statistic(samples.values)(np.ones(40)) == pytest.approx(result.score)
    assert (result.details["fewest_captions"], result.details["most_captions"]) == (1, 4)


def test_folds_are_scored_against_themselves_only(tmp_path: Path) -> None:
    captions = _captions(30, same=6)
    _write(tmp_path / "coco.parquet", captions)
    task = {"name": "c", "kind": "image-text", "file": "coco", "settings": {"folds": 3, "captions": 5}}
    suite = SuiteConfig.model_validate({"name": "own", "description": "x", "tasks": [task]})
    result = evaluate(TwoTowers(), suite, tmp_path, resamples=0).tasks["c"]
    five = [row[:5] for row in captions]
    parts = [_oracle(five[s : s + 10], list(range(s, s + 10)), 5) for s in (0, 10, 20)]
    assert result.metrics["image_to_text_hit_rate@5"] == pytest.approx(np.mean([p["i2t"] for p in parts]))
    assert result.metrics["text_to_image_hit_rate@5"] == pytest.approx(np.mean([p["t2i"] for p in parts]))
    task["settings"] = {"folds": 4}
    uneven = SuiteConfig.model_validate({"name": "own", "description": "x", "tasks": [task]})
    with pytest.raises(DataError, match="30 images cannot be cut into 4"):
        open_suite(uneven, tmp_path)


def test_geometry_of_two_modalities(tmp_path: Path) -> None:
    captions = _captions(25)
    _write(tmp_path / "pairs.parquet", captions)
    task = {"name": "pairs", "kind": "geometry"}
    suite = SuiteConfig.model_validate({"name": "own", "description": "x", "tasks": [task]})
    metrics = evaluate(TwoTowers(), suite, tmp_path, resamples=0).tasks["pairs"].metrics
    model = TwoTowers()
    images = model.encode([Image.open(io.BytesIO(_png(i))) for i in range(25)])
    texts = model.encode([caption for row in captions for caption in row])
    owners = [place for place, row in enumerate(captions) for _ in row]
    assert metrics["modality_gap"] == pytest.approx(geometry.modality_gap(images, texts))
    assert metrics["alignment"] == pytest.approx(geometry.alignment(images[owners], texts))
    assert metrics["text_uniformity"] == pytest.approx(geometry.uniformity(texts))


def _zero_shot(tmp_path: Path, **settings: Any) -> Any:
    rng = np.random.default_rng(0)
    names = [str(int(n)) for n in rng.integers(0, 8, 64)]
    images = []
    for number in names:
        handle = io.BytesIO()
        Image.new("RGB", (2, 2), (int(number), *map(int, rng.integers(0, 255, 2)))).save(handle, format="PNG")
        images.append(handle.getvalue())
    pq.write_table(pa.table({"image": images, "label_name": names}), tmp_path / "cifar10.parquet")
    task = {"name": "cifar10", "kind": "zero-shot", "settings": settings}
    suite = SuiteConfig.model_validate({"name": "own", "description": "x", "tasks": [task]})
    return images, names, evaluate(TwoTowers(), suite, tmp_path, resamples=20).tasks["cifar10"]


def test_zero_shot_normalises_averages_and_normalises_again(tmp_path: Path) -> None:
    templates = ["a photo of {}", "{} and noise and more", "my very own {}"]
    images, names, result = _zero_shot(tmp_path, templates=templates)
    model = TwoTowers()
    classes = sorted(set(names))
    heads = []
    for name in classes:
        vectors = [model.encode([template.format(name)])[0] for template in templates]
        mean = np.mean([v / np.linalg.norm(v) for v in vectors], axis=0)
        heads.append(mean / np.linalg.norm(mean))
    first, fifth, by_class = [], [], {name: [] for name in classes}
    for image, name in zip(images, names, strict=True):
        order = np.argsort(-(np.array(heads) @ model.encode([Image.open(io.BytesIO(image))])[0]))
        first.append(classes[order[0]] == name)
        fifth.append(name in [classes[i] for i in order[:5]])
        by_class[name].append(first[-1])
    assert result.score == pytest.approx(100 * np.mean(first))
    assert 15 < result.score < 99
    assert result.metrics["top5"] == pytest.approx(100 * np.mean(fifth))
    assert result.metrics["mean_per_class"] == pytest.approx(100 * np.mean([np.mean(v) for v in by_class.values()]))


def test_class_names_can_be_replaced(tmp_path: Path) -> None:
    _, _, plain = _zero_shot(tmp_path, templates=["{}"])
    _, _, renamed = _zero_shot(tmp_path, templates=["{}"], names={str(n): f"{(n + 1) % 8}" for n in range(8)})
    assert renamed.score < plain.score


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"templates": ["a photo"]}, "must have one {}"),
        ({"templates": ["{} {}"]}, "must have one {}"),
        ({"names": {"cow": "ox"}}, "'cow' that no row has"),
        ({"names": {"1": "2"}}, "two classes have the same name"),
        ({"label": "breed"}, "no column 'breed'"),
    ],
)
def test_wrong_zero_shot_settings_are_refused(tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        _zero_shot(tmp_path, **settings)


def test_towers_that_do_not_fit_and_collapsed_towers_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "flickr8k_1k.parquet", _captions(12))

    class Unequal(TwoTowers):
        def encode(self, inputs: Any, **options: Any) -> np.ndarray:
            vectors = super().encode(inputs)
            return vectors if isinstance(inputs[0], str) else vectors[:, :4]

    class OneDirection(TwoTowers):
        def encode(self, inputs: Any, **options: Any) -> np.ndarray:
            return np.abs(super().encode(inputs)[:, :1]) + 1

    with pytest.raises(DataError, match="images have 4 numbers and texts 32"):
        evaluate(Unequal(), "image-text", tmp_path, ["flickr8k"])
    with pytest.raises(NonFiniteError, match="the same score"):
        evaluate(OneDirection(), "image-text", tmp_path, ["flickr8k"])


@pytest.mark.parametrize(
    ("captions", "said"),
    [([["a"], []], "2: column 'captions' holds an empty list"), ([["a"], [""]], "does not hold a list of texts")],
)
def test_bad_captions_are_refused_by_row(tmp_path: Path, captions: list, said: str) -> None:
    _write(tmp_path / "flickr8k_1k.parquet", captions)
    with pytest.raises(DataError, match=said):
        open_suite("image-text", tmp_path, ["flickr8k"])
