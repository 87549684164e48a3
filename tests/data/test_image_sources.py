"""Image-text data from every kind of file gives the same rows; captions, classes and shards are understood."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit.data import read_rows
from embedkit.data.schema.rows import BadRow
from embedkit.data.sources.formats.webdataset import count_samples, read_shard
from embedkit.data.sources.sources import expand
from embedkit.errors import DataError, RecipeError
from tests.data.helpers import opened
from tests.helpers import image_data

COUNT = 12
CONTENT = image_data.samples(COUNT)


def _rows(path: str, **source: Any) -> list[tuple[bytes, list[str]]]:
    """Content and captions of all rows, in the order of their ids."""
    rows = opened([{"path": path, **source}], "image texts", batch_size=COUNT)
    batch = next(rows.batches(0))
    found = dict(zip(batch.ids, batch.rows, strict=True))
    images = [found[i]["image"] for i in sorted(found)]
    images = [image if isinstance(image, bytes) else Path(image).read_bytes() for image in images]
    return [(image, found[i]["texts"]) for i, image in zip(sorted(found), images, strict=True)]


def _write(folder: Path, kind: str) -> dict[str, Any]:
    """The same samples as a source of one kind."""
    if kind == "shards":
        return {"path": image_data.write_shards(folder, CONTENT, 5)}
    if kind == "one shard, gzipped":
        image_data.write_shards(folder, CONTENT, COUNT)
        import gzip

        (folder / "s-000.tar.gz").write_bytes(gzip.compress((folder / "s-000.tar").read_bytes()))
        return {"path": str(folder / "s-000.tar.gz")}
    if kind == "parquet":
        table = pa.table({"image": [image for image, _ in CONTENT], "captions": [[text] for _, text in CONTENT]})
        pq.write_table(table, folder / "t.parquet")
        return {"path": str(folder / "t.parquet")}
    path = Path(image_data.write_csv(folder, CONTENT))
    if kind == "csv":
        return {"path": str(path)}
    if kind == "tsv, mapped":
        with open(path, encoding="utf-8", newline="") as file:
            (folder / "t.tsv").write_text("".join("\t".join(cells) + "\n" for cells in csv.reader(file)))
        path.unlink()
        return {"path": str(folder / "t.tsv"), "columns": {"image": "image", "caption": "text_1"}}
    names = [f"files/{number:05d}.png" for number in range(COUNT)]
    lines = [json.dumps({"file_name": n, "text": text}) for n, (_, text) in zip(names, CONTENT, strict=True)]
    path.unlink()
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return {"path": str(folder)} if kind == "folder with metadata" else {"path": str(folder / "metadata.jsonl")}


@pytest.mark.parametrize(
    "kind",
    ["csv", "tsv, mapped", "jsonl", "folder with metadata", "parquet", "shards", "one shard, gzipped"],
)
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    assert _rows(**_write(tmp_path, kind)) == [(image, [text]) for image, text in CONTENT]


def test_a_hub_layout_with_images_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    _write(tmp_path / "data", "folder with metadata")
    rows = _rows(str(tmp_path), format="hub", split="train", columns={"image": "image", "text": "text_1"})
    assert sorted(rows) == sorted((image, [text]) for image, text in CONTENT)


def test_folders_of_classes_and_flat_folders(tmp_path: Path) -> None:
    for number, (image, _) in enumerate(CONTENT):
        place = tmp_path / "classes" / ("big_dog", "cat")[number % 2] / f"{number}.PNG"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(image)
    (tmp_path / "classes" / "notes.md").write_text("no image")
    mapped = {"image": "image", "label_name": "text_1", "label": "label"}
    rows = opened([{"path": str(tmp_path / "classes"), "columns": mapped}], "image texts label", batch_size=COUNT)
    batch = next(rows.batches(0))
    assert {(row["label"], *row["texts"]) for row in batch.rows} == {(0, "big dog"), (1, "cat")}
    assert rows.num_rows == COUNT
    flat = opened([{"path": str(tmp_path / "classes" / "cat")}], "image", batch_size=6)
    assert set(next(flat.batches(0)).rows[0]) == {"image"}


def test_several_captions_of_an_image(tmp_path: Path) -> None:
    rows = [{"image": "files/00000.png", "caption_0": "one", "caption_1": "", "caption_2": "three"}]
    image_data.write_csv(tmp_path, CONTENT)
    (tmp_path / "t.jsonl").write_text(json.dumps(rows[0]) + "\n")
    read = opened([{"path": str(tmp_path / "t.jsonl")}], "image texts", batch_size=1)
    assert next(read.batches(0)).rows[0]["texts"] == ["one", "three"]
    (tmp_path / "u.jsonl").write_text(json.dumps({"image": "files/00000.png", "caption": " "}) + "\n")
    with pytest.raises(DataError, match=r"u\.jsonl:1 column 'caption': all captions are empty"):
        opened([{"path": str(tmp_path / "u.jsonl")}], "image texts", batch_size=1)


def test_text_is_an_anchor_for_those_who_read_anchors(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\nhello\n")
    both = opened([{"path": str(tmp_path / "t.csv")}], "", "anchor texts", batch_size=1)
    assert next(both.batches(0)).rows[0]["anchor"] == "hello"


def test_text_beside_a_caption_is_not_read_twice(tmp_path: Path) -> None:
    """As in shards of img2dataset, whose samples have the caption in a text file and in a JSON object."""
    image_data.write_csv(tmp_path, CONTENT)
    row = {"image": "files/00000.png", "text": "a dog", "caption": "a dog"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    read = opened([{"path": str(tmp_path / "t.jsonl")}], "image texts", batch_size=1)
    assert next(read.batches(0)).rows[0]["texts"] == ["a dog"]


# -- shards ---------------------------------------------------------------------------------------------------------


def _shard(path: Path, *files: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_samples_of_a_shard(tmp_path: Path) -> None:
    path = _shard(
        tmp_path / "s.tar", ("d/a.x.jpg", b"1"), ("d/a.txt", b"text"), ("d/a.json", b'{"w": 3, "text": "no"}'),
        ("d/b.txt", b"other"), ("d/b.cls", b"7\n"), ("d/.hidden", b"x"), ("e/b.txt", b"\xff"), ("f.json", b"[1]"),
        ("g.png", b"1"), ("g.jpg", b"2"), ("h.bin", b"raw"),
    )  # fmt: skip
    records = list(read_shard(path))
    assert [number for number, _ in records] == [1, 2, 3, 4, 5, 6]
    assert count_samples(path) == 6
    assert records[0][1] == {"__key__": "d/a", "x.jpg": b"1", "text": "text", "w": 3}
    assert records[1][1] == {"__key__": "d/b", "text": "other", "label": "7"}
    reasons = [values.reason for _, values in records[2:5] if isinstance(values, BadRow)]
    assert reasons == ["not UTF-8", "bad JSON", "duplicate file"]
    assert records[5][1] == {"__key__": "h", "bin": b"raw"}
    assert [number for number, _ in read_shard(path, 4)] == [5, 6]


def test_shards_of_the_webdataset_library_are_read(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "w.tar")) as writer:
        for number, (image, text) in enumerate(CONTENT):
            writer.write({"__key__": f"{number:04d}", "png": image, "txt": text, "json": {"n": number}})
    ours = [values for _, values in read_shard(tmp_path / "w.tar")]
    theirs = list(wds.WebDataset(str(tmp_path / "w.tar"), shardshuffle=False))
    assert len(ours) == len(theirs) == COUNT
    for mine, other in zip(ours, theirs, strict=True):
        assert not isinstance(mine, BadRow)
        assert mine["__key__"] == other["__key__"]
        assert mine["image"] == other["png"]
        assert mine["text"].encode() == other["txt"]
        assert mine["n"] == json.loads(other["json"])["n"]


@pytest.mark.parametrize("keep", [0, 1, 100, 700, 2000, 4000, 9000])
def test_a_cut_shard_ends_with_a_fault_and_counts_like_it_reads(keep: int, tmp_path: Path) -> None:
    path = Path(image_data.write_shards(tmp_path, CONTENT, COUNT).replace("{000..000}", "000"))
    path.write_bytes(path.read_bytes()[:keep])
    records = list(read_shard(path))
    assert len(records) == count_samples(path)
    assert isinstance(records[-1][1], BadRow)
    assert records[-1][1].reason == "damaged shard"
    assert [number for number, _ in records] == list(range(1, len(records) + 1))


def test_a_pattern_of_one_shard_is_that_shard(tmp_path: Path) -> None:
    _shard(tmp_path / "a-000.tar", ("1.txt", b"one"))
    _shard(tmp_path / "b{x}.tar", ("1.txt", b"two"))
    assert [row["text"] for row in read_rows(tmp_path / "a-{000..000}.tar")] == ["one"]
    assert [row["text"] for row in read_rows(tmp_path / "b{x}.tar")] == ["two"]


def test_patterns() -> None:
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{a,b}-{1..2}") == ["a-1", "a-2", "b-1", "b-2"]
    assert expand("a-{000..000}.tar") == ["a-000.tar"]
    assert expand("plain.tar") == ["plain.tar"]
    assert expand("{x}-{2..1}-{0..1}") == ["{x}-{2..1}-0", "{x}-{2..1}-1"]


@pytest.mark.parametrize(
    ("source", "data", "where"),
    [
        ({"limit": 3}, {}, "'limit'"),
        ({"where": {"text": "x"}}, {}, "'where'"),
        ({}, {"sampler": "no-duplicates"}, "sampler"),
        ({}, {"sampler": "length"}, "sampler"),
    ],
)
def test_what_a_stream_of_shards_cannot_do_is_refused(
    source: dict[str, Any], data: dict[str, Any], where: str, tmp_path: Path
) -> None:
    path = image_data.write_shards(tmp_path, CONTENT, 5)
    with pytest.raises(RecipeError, match=where):
        opened([{"path": path, "stream": True, **source}], "image texts", **data)
