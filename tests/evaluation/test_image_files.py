"""Evaluation on folders of images: tables of paths, joined captions, classes by sub-folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit.errors import DataError
from embedkit.evaluation import evaluate, open_suite
from embedkit.evaluation.datasets.image_files import image_content
from embedkit.evaluation.datasets.tables import read_table
from tests.helpers import image_data

CONTENT = image_data.samples(8)


class ByPixels:
    """Knows which caption belongs to which image: exact retrieval, whatever the order."""

    def __init__(self, known: dict[bytes, int], texts: dict[str, int]) -> None:
        self.known, self.texts = known, texts

    def encode(self, inputs: Sequence[Any]) -> np.ndarray:
        places = [self.texts[x] if isinstance(x, str) else self.known[x.tobytes()] for x in inputs]
        return np.eye(len(self.known), dtype=np.float32)[places]


def _knowing(texts: dict[str, int]) -> ByPixels:
    from embedkit.evaluation.core.inputs import EncodedImage

    return ByPixels({EncodedImage(image).decode().tobytes(): i for i, (image, _) in enumerate(CONTENT)}, texts)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_with_a_table(kind: str, tmp_path: Path) -> None:
    table = Path(image_data.write_csv(tmp_path, [*CONTENT]))
    names = [f"files/{number:05d}.png" for number in range(8)]
    if kind == "csv":
        with table.open("a") as file:
            file.write(f"{names[0]},again\n")
    else:
        table.unlink()
        rows = [{"file_name": n, "captions": [t]} for n, (_, t) in zip(names, CONTENT, strict=True)]
        rows[0]["captions"].append("again")  # type: ignore[attr-defined]
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_table(tmp_path)
    assert len(read) == 8
    assert read.lists("captions")[0] == [CONTENT[0][1], "again"]
    assert [image.content for image in read.images("image")] == [image for image, _ in CONTENT]
    texts = {text: number for number, (_, text) in enumerate(CONTENT)} | {"again": 0}
    report = evaluate(_knowing(texts), "own-images", data=tmp_path, resamples=0)
    assert report.tasks[tmp_path.name].metrics["text_to_image_hit_rate@1"] == 100
    assert report.tasks[tmp_path.name].metrics["image_to_text_hit_rate@1"] == 100
    assert report.tasks[tmp_path.name].details["captions"] == 9


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for number, (image, _) in enumerate(CONTENT):
        folder = tmp_path / ("big_dog", "cat")[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(image)

    class Halves(ByPixels):
        def encode(self, inputs: Sequence[Any]) -> np.ndarray:
            if isinstance(inputs[0], str):
                return np.stack([np.eye(3, dtype=np.float32)[int("cat" in text)] for text in inputs])
            return np.eye(3, dtype=np.float32)[[self.known[image.tobytes()] % 2 for image in inputs]]

    report = evaluate(Halves(_knowing({}).known, {}), "own-classes", data=tmp_path, resamples=0)
    assert report.scores == {tmp_path.name: 100.0}
    assert set(report.tasks[tmp_path.name].details["by_class"]) == {"big dog", "cat"}


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    image_data.write_csv(tmp_path, CONTENT, missing=(3,))
    with pytest.raises(DataError, match=r"captions|:5: column 'image' holds no image file 'files/00003\.png'"):
        read_table(tmp_path).images("image")
    (tmp_path / "t.csv").write_text("image\n../secret.png\n")
    with pytest.raises(DataError, match="holds no image file"):
        read_table(tmp_path / "t.csv").images("image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "http:").mkdir()
    (tmp_path / "http:" / "x.png").write_bytes(CONTENT[0][0])
    assert image_content("http:/x.png", tmp_path) is None, "an address is no path, as in training"
    assert image_content("files/00001.png", tmp_path) == CONTENT[1][0]
    for cell in ("empty.png", "a\0b/c.png", "files", "x" * 5000, "", b"", 3, None, {"bytes": None}):
        assert image_content(cell, tmp_path) is None


@pytest.mark.parametrize("form", ["bytes", "struct", "folder"])
def test_rows_of_equal_images_in_a_parquet_file_are_one_image(form: str, tmp_path: Path) -> None:
    """A row an image and caption, as many sets on the hub are stored."""
    cells = [image if form == "bytes" else {"bytes": image, "path": None} for image, _ in CONTENT for _ in range(2)]
    captions = [text for _, caption in CONTENT for text in (caption, f"again {caption}")]
    path = tmp_path / ("set/photos.parquet" if form == "folder" else "photos.parquet")
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": cells, "caption": captions}), path)
    texts = {text: number // 2 for number, text in enumerate(captions)}
    report = evaluate(_knowing(texts), data=path.parent if form == "folder" else path, resamples=0)
    assert report.suite == "own-images"
    (result,) = report.tasks.values()
    assert (result.details["images"], result.details["captions"]) == (8, 16)
    assert result.metrics["text_to_image_hit_rate@1"] == result.metrics["image_to_text_hit_rate@1"] == 100


@pytest.mark.parametrize("column", ["caption", "captions"])
def test_a_list_of_captions_in_jsonl(column: str, tmp_path: Path) -> None:
    """Flickr30k's form on the hub has a list in a column `caption`."""
    Path(image_data.write_csv(tmp_path, [*CONTENT])).unlink()
    rows = [{"file_name": f"files/{n:05d}.png", column: [text, f"again {text}"]} for n, (_, text) in enumerate(CONTENT)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {text: n for n, row in enumerate(rows) for text in row[column]}
    report = evaluate(_knowing(texts), "own-images", tmp_path, resamples=0)
    (result,) = report.tasks.values()
    assert result.details["captions"] == 16
    assert result.metrics["text_to_image_hit_rate@1"] == 100


def test_folders_called_train_and_val_are_splits_not_classes(tmp_path: Path) -> None:
    for number, (image, _) in enumerate(CONTENT):
        folder = tmp_path / ("train", "val")[number // 4] / ("dog", "cat")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(image)
    suite = open_suite("own-classes", tmp_path, split="dev")
    assert (suite.tasks[0].classes, len(suite.tasks[0].items)) == (["cat", "dog"], 4)
    assert len(open_suite("own-classes", tmp_path, split="train").tasks[0].items) == 4
    with pytest.raises(DataError, match="no row of split 'test'") as error:
        open_suite("own-classes", tmp_path)
    assert "train, val" in str(error.value.remedy)
