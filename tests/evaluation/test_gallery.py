"""Searches to look at in reports: the right ones, thumbnails small, result files of others harmless."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedkit.errors import DataError
from embedkit.evaluation import evaluate
from embedkit.evaluation.core.gallery import FOUND, SIDE, SPREAD, WORST, Seen, seen, shown_queries
from embedkit.evaluation.core.inputs import EncodedImage
from embedkit.evaluation.report.html import html_report
from embedkit.evaluation.report.report import Report
from embedkit.evaluation.report.tables import tables_of
from tests.evaluation.test_images import TwoTowers, _captions, _png, _write, _zero_shot


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("images")
    _write(folder / "flickr8k_1k.parquet", _captions(30, same=2))
    return evaluate(TwoTowers(), "image-text", folder, ["flickr8k"], resamples=0)


def test_examples_are_the_search_itself(report: Report) -> None:
    model, captions = TwoTowers(), _captions(30, same=2)
    images = model.encode([Image.open(io.BytesIO(_png(i))) for i in range(30)])
    flat = [text for row in captions for text in row]
    texts = model.encode(flat)
    cosine = (images / np.linalg.norm(images, axis=1)[:, None]) @ (texts / np.linalg.norm(texts, axis=1)[:, None]).T
    number = {seen(EncodedImage(_png(i))).image: i for i in range(30)}
    examples = report.tasks["flickr8k"].examples
    assert [example.way for example in examples] == ["image to text"] * 6 + ["text to image"] * 6
    for example in examples:
        if example.way == "image to text":
            query = number[example.query.image]
            row, names = cosine[query], flat
            right = {2 * query, 2 * query + 1}
        else:
            row, names = cosine[:, flat.index(example.query.text)], list(number)
            right = {flat.index(example.query.text) // 2}
        order = np.argsort(-row, kind="stable")
        wanted = [*order[:FOUND]] if right & set(order[:FOUND]) else [*order[:FOUND], max(right, key=row.__getitem__)]
        assert [one.text or one.image for one in example.answers] == [names[place] for place in wanted]
        assert [one.right for one in example.answers] == [place in right for place in wanted]
        assert [one.score for one in example.answers] == pytest.approx([row[place] for place in wanted], abs=1e-5)
    assert any(len(example.answers) == FOUND + 1 for example in examples), "a right one that was not found is shown"


def test_the_worst_are_the_worst_and_the_others_are_spread() -> None:
    values = np.ones(100)
    values[[7, 50, 60, 90]] = [0.5, 0.0, 0.2, 0.0]
    shown = shown_queries(values)
    assert list(shown)[:WORST] == [50, 90, 60]
    assert list(shown)[WORST:] == [0, 48, 99] and len(shown) == WORST + SPREAD
    assert list(shown_queries(np.ones(1))) == [0]


def test_thumbnails_are_small_whatever_the_image() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    image = seen(EncodedImage(file.getvalue())).image
    assert len(image) < 6_000
    assert Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2]))).size == (SIDE, SIDE * 3 // 4)


def test_the_page_shows_them_and_cards_and_trackers_do_not(report: Report, tmp_path: Path) -> None:
    again = Report.load(report.save(tmp_path / "result.json"))
    assert again.tasks["flickr8k"].examples == report.tasks["flickr8k"].examples
    page = html_report([again])
    assert "To look at" in page and page.count('class="example"') == 12
    assert set(re.findall(r'src="([^,"]*),', page)) == {"data:image/jpeg;base64"}
    assert "examples" not in report.to_json()["tasks"]["flickr8k"], "pushed results hold no images"
    assert not any("base64" in str(table.rows) for table in tables_of(report))


@pytest.mark.parametrize(
    "image",
    [
        "https://example.org/a.jpg",
        "data:image/svg+xml;base64,PHN2Zz4=",
        'data:image/jpeg;base64,/9j/"onerror="x',
        "/9j/",
    ],
)
def test_a_result_file_cannot_bring_another_image(report: Report, tmp_path: Path, image: str) -> None:
    path = report.save(tmp_path / "result.json")
    content = json.loads(path.read_text())
    content["tasks"]["flickr8k"]["examples"][0]["query"]["image"] = image
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="damaged result file"):
        Report.load(path)


def test_images_and_the_classes_they_were_taken_for(tmp_path: Path) -> None:
    _, names, result = _zero_shot(tmp_path, templates=["{}"])
    for example in result.examples:
        assert example.query.image and not example.query.text
        assert sum(one.right for one in example.answers) == 1
        assert all(one.text in names for one in example.answers)
    assert Seen(text=names[0]).image == ""
