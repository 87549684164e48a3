"""embedkit's own dual encoder goes through every suite that has images, and through mteb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit.evaluation import evaluate, evaluate_all
from tests.evaluation.test_images import _captions, _png, _write
from tests.helpers.dual import dual


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with three captions each, and the same images with labels."""
    folder = tmp_path_factory.mktemp("images")
    _write(folder / "flickr8k_1k.parquet", _captions(12, same=3))
    names = [("cat", "dog", "tree")[n % 3] for n in range(24)]
    columns = {
        "image": [_png(n) for n in range(24)], "label_name": names, "label": [n % 3 for n in range(24)],
        "split": ["train"] * 9 + ["val"] * 6 + ["test"] * 9,
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / "cifar10.parquet")
    return folder


def test_a_dual_encoder_is_scored_on_images_and_texts(place: Path) -> None:
    model = dual().eval()
    report = evaluate(model, "image-text", place, ["flickr8k"], resamples=20)
    result = report.tasks["flickr8k"]
    table = pq.read_table(place / "flickr8k_1k.parquet").to_pylist()
    images = model.encode([row["image"] for row in table], normalize=True)
    texts = model.encode([text for row in table for text in row["captions"]], normalize=True)
    owner = np.repeat(np.arange(12), 3)
    hits = [owner[row.argmax()] == place_ for place_, row in enumerate(images @ texts.T)]
    assert result.metrics["image_to_text_hit_rate@1"] == pytest.approx(100 * np.mean(hits), abs=1e-4)
    assert report.model["hash"] == model.hash()
    assert report.settings["max_length"] == model.max_length
    assert report.settings["pooler"] == model.text.spec()["pooling"], "of the text tower"


def test_other_suites_with_images_share_its_vectors(place: Path) -> None:
    model, suites = dual().eval(), ["zero-shot", "image-probe"]
    settings = {"shots": (1, 2), "draws": 2, "neighbours": 3}
    reports = evaluate_all({"dual": model}, suites, place, settings=settings, resamples=0)
    assert 0 <= reports["dual", "zero-shot"].main <= 100
    probe = reports["dual", "image-probe"]
    assert {"accuracy_1_shot", "accuracy_2_shot", "knn_accuracy"} <= set(probe.tasks["cifar10"].metrics)
    assert probe.timing["inputs_from_cache"] == 9, "the test images"


def test_mteb_gives_the_same_hit_rates(place: Path) -> None:
    pytest.importorskip("mteb")
    model = dual().eval()
    own = evaluate(model, "image-text", place, ["flickr8k"], resamples=0).tasks["flickr8k"].metrics
    report = evaluate(model, "mieb:image-text/flickr8k", place)
    for name, way in (("i2t", "image_to_text"), ("t2i", "text_to_image")):
        found = report.tasks[f"image-text-flickr8k-{name}"].metrics["hit_rate_at_5"]
        assert 100 * found == pytest.approx(own[f"{way}_hit_rate@5"], abs=2e-3)
