"""What users of other libraries have is read: rows, folders and shards in their forms, with the right values."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit.data import TrainingRows, read_rows
from embedkit.errors import DataError
from tests.data.helpers import opened

Write = Callable[[str, "str | bytes"], str]
PAIRS = "anchor positive"
ALL = "negatives score scores label group"


def _lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _rows(rows: TrainingRows) -> list[dict[str, Any]]:
    """All rows in the order of the source, without what they do not have."""
    every = [pair for batch in rows.batches(0) for pair in zip(batch.ids, batch.rows, strict=True)]
    return [{role: value for role, value in row.items() if value not in (None, [])} for _, row in sorted(every)]


def _open(path: str, requires: str = PAIRS, accepts: str = ALL, **source: Any) -> TrainingRows:
    return opened([{"path": path, **source}], requires, accepts, batch_size=1)


def _notes(rows: TrainingRows) -> str:
    return "\n".join(rows.notes)


def test_flag_embedding_rows(write: Write) -> None:
    path = write("t.jsonl", _lines(
        {"query": "q1", "pos": ["p1", "p2"], "neg": ["n1"]}, {"query": "q2", "pos": ["p3"], "neg": []},
    ))  # fmt: skip
    rows = _rows(_open(path))
    assert [(row["anchor"], row["positive"], row.get("negatives")) for row in rows] == [
        ("q1", "p1", ["n1"]), ("q1", "p2", ["n1"]), ("q2", "p3", None),
    ]  # fmt: skip
    assert rows[0]["group"] == rows[1]["group"] and "group" not in rows[2]


def test_positives_of_one_anchor_are_never_in_one_batch_of_no_duplicates(write: Write) -> None:
    path = write("t.jsonl", _lines(*({"query": f"q{i}", "pos": [f"p{i}", f"r{i}"], "neg": []} for i in range(8))))
    rows = opened([{"path": path}], PAIRS, "negatives", batch_size=4, sampler="no-duplicates")
    batches = list(rows.batches(0))
    assert len(batches) == 4
    for batch in batches:
        assert len({row["anchor"] for row in batch.rows}) == 4


def test_flag_embedding_scores_and_prompts_belong_to_their_row(write: Write) -> None:
    path = write("t.jsonl", _lines(
        {"query": "q", "pos": ["p", "r"], "neg": ["n"], "pos_scores": [0.9, 0.8], "neg_scores": [0.1],
         "prompt": "Represent: ", "type": "normal", "pos_id": ["1"]},
    ))  # fmt: skip
    rows = _rows(_open(path))
    assert [(row["anchor"], row["positive"], row["scores"]) for row in rows] == [
        ("Represent: q", "p", [0.9, 0.1]), ("Represent: q", "r", [0.8, 0.1]),
    ]  # fmt: skip
    assert "column 'pos_scores' is not used, nothing reads role scores" in _notes(_open(path, accepts="negatives"))
    bad = write("b.jsonl", _lines({"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": None, "neg_scores": [0.1]}))
    with pytest.raises(DataError, match=r"b\.jsonl:1 column 'pos_scores': expected a list of numbers, found nothing"):
        _open(bad)


def test_a_prompt_column_elsewhere_is_no_prompt(write: Write) -> None:
    path = write("t.jsonl", _lines({"anchor": "a", "positive": "b", "prompt": "c"}))
    assert _rows(_open(path)) == [{"anchor": "a", "positive": "b"}]


@pytest.mark.parametrize(
    ("scores", "negatives", "right"),
    [
        ([0.5, 0.1, 0.2], ["x", "y"], [0.5, 0.1, 0.2]),
        ([0.5], [], [0.5]),
        ([0.5, 0.1], ["x", "y"], None),
        ("[1, 2]", ["x"], [1, 2]),
    ],
)
def test_a_teacher_scores_each_candidate(write: Write, scores: Any, negatives: list[str], right: Any) -> None:
    path = write("t.jsonl", _lines({"anchor": "a", "positive": "b", "negatives": negatives, "scores": scores}))
    if right is None:
        with pytest.raises(
            DataError, match=r"t\.jsonl:1: 2 scores for 3 candidates \(the positive, then its negatives\)"
        ):
            _open(path)
        return
    assert _rows(_open(path))[0]["scores"] == right


def test_score_takes_a_number_or_a_list(write: Write) -> None:
    one = write("o.jsonl", _lines({"anchor": "a", "positive": "b", "score": 0.5}))
    assert _rows(_open(one, "anchor positive score"))[0]["score"] == 0.5
    many = write("m.jsonl", _lines({"anchor": "a", "positive": "b", "negative": ["c"], "score": [0.5, 0.25]}))
    assert _rows(_open(many, "anchor positive score"))[0]["scores"] == [0.5, 0.25]
    with pytest.raises(DataError, match="expected a number, found list"):
        _open(many, "anchor positive score", "negatives")


def test_tevatron_passages(write: Write) -> None:
    path = write("t.jsonl", _lines({
        "query_id": "1", "query": "q", "positive_passages": [{"docid": "7", "title": "T", "text": "body"}],
        "negative_passages": [{"docid": "8", "title": "", "text": "other"}, {"docid": "9", "text": "third"}],
    }))  # fmt: skip
    assert _rows(_open(path)) == [{"anchor": "q", "positive": "T body", "negatives": ["other", "third"]}]


@pytest.mark.parametrize(
    ("row", "requires", "right"),
    [
        ({"anchor": "a", "positive": "b", "negative": "c"}, PAIRS,
         {"anchor": "a", "positive": "b", "negatives": ["c"]}),
        ({"query": "a", "answer": "b"}, PAIRS, {"anchor": "a", "positive": "b"}),
        ({"sentence1": "a", "sentence2": "b", "score": 0.5}, "anchor positive score",
         {"anchor": "a", "positive": "b", "score": 0.5}),
        ({"sentence1": "a", "sentence2": "b", "label": 0.5}, "anchor positive score",
         {"anchor": "a", "positive": "b", "score": 0.5}),
        ({"sentence": "a", "label": 3}, "anchor label", {"anchor": "a", "label": 3}),
        ({"premise": "a", "hypothesis": "b", "label": 1}, "anchor positive label",
         {"anchor": "a", "positive": "b", "label": 1}),
        ({"sentence_A": "a", "sentence_B": "b"}, PAIRS, {"anchor": "a", "positive": "b"}),
        ({"sentence_1": "a", "sentence_2": "b"}, PAIRS, {"anchor": "a", "positive": "b"}),
        ({"text1": "a", "text2": "b"}, PAIRS, {"anchor": "a", "positive": "b"}),
        ({"qid1": "1", "question1": "a", "question2": "b", "is_duplicate": "1"}, PAIRS,
         {"anchor": "a", "positive": "b", "label": 1}),
        ({"question1": "a", "question2": "b", "is_duplicate": 0}, "anchor positive score",
         {"anchor": "a", "positive": "b", "score": 0}),
        ({"question": "a", "positive_ctxs": [{"title": "T", "text": "b"}], "negative_ctxs": [],
          "hard_negative_ctxs": [{"title": "", "text": "c"}]}, PAIRS,
         {"anchor": "a", "positive": "T b", "negatives": ["c"]}),
        ({"Answer": "b", " Question": "a"}, PAIRS, {"anchor": "a", "positive": "b"}),
        ({"anchor": "a", "positive": "b", "negative": ["c", "d"]}, PAIRS,
         {"anchor": "a", "positive": "b", "negatives": ["c", "d"]}),
    ],
)  # fmt: skip
def test_layouts_of_sentence_transformers(write: Write, row: dict[str, Any], requires: str, right: Any) -> None:
    path = write("t.jsonl", _lines(row))
    assert _rows(_open(path, requires)) == [right]


def test_each_guess_is_a_line_and_can_be_set(write: Write) -> None:
    path = write("t.jsonl", _lines({"question": "a", "answer": "b"}))
    assert (
        f"data.train[0] ({path}): question is the anchor, answer is the positive (set 'columns' to change that)"
        in _notes(_open(path))
    )
    assert _notes(_open(path, columns={"question": "anchor", "answer": "positive"})) == ""
    assert _notes(_open(write("p.jsonl", _lines({"anchor": "a", "positive": "b"})))) == ""


def test_labels_beside_pairs_are_told(write: Write) -> None:
    path = write("t.jsonl", _lines(*({"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i % 2} for i in range(6))))
    notes = _notes(_open(path))
    assert "column 'label' is 0 in 3 of the first 6 pairs" in notes
    assert "'where: {label: 1}'" in notes and "columns: {label: score}" in notes
    kept = _rows(_open(path, where={"label": 1}))
    assert len(kept) == 3
    assert "is 0 in" not in _notes(_open(path, "anchor positive label"))
    floats = write(
        "f.jsonl", _lines(*({"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i % 2 * 1.0} for i in range(6)))
    )
    assert "is 0 in 3 of the first 6 pairs" in _notes(_open(floats))


def test_classes_of_nli_are_told_with_the_one_to_keep(write: Write) -> None:
    """SNLI's own files: pairs of every class, and "-" where its annotators do not agree."""
    names = ("entailment", "contradiction", "-")
    path = write("snli.jsonl", _lines(*({"gold_label": name, "sentence1": "a", "sentence2": name} for name in names)))
    notes = _notes(_open(path))
    assert "column 'gold_label' is not used" in notes and "where: {gold_label: entailment}" in notes
    kept = _open(path, where={"gold_label": "entailment"})
    assert _rows(kept) == [{"anchor": "a", "positive": "entailment"}]
    assert "is not used" not in _notes(kept)


@pytest.mark.parametrize(
    ("name", "content", "advice", "source"),
    [
        ("sts.csv", "main\t0001\t5.000\tA plane rises.\tA plane takes off.\nmain\t2\t1.0\tA\tB\n", "header: [NAME_1, ",
         {"header": ["genre", "number", "score", "sentence1", "sentence2"]}),
        ("qrels.tsv", "7\t0\t12\t0\n", "where this line is a row, write names before it",
         {"header": ["anchor", "zero", "positive", "relevance"]}),
        ("snli.txt", "gold_label\tsentence1\tsentence2\n-\ta\tb\n", "set 'format: tsv'", {"format": "tsv"}),
        ("beir.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n", "own-retrieval", None),
    ],
)  # fmt: skip
def test_tables_of_benchmarks_are_answered(
    write: Write, name: str, content: str, advice: str, source: dict[str, Any] | None
) -> None:
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        _open(path)
    assert advice in str(caught.value.remedy)
    if source is not None:  # as the remedy says
        assert {"anchor", "positive"} <= set(_rows(_open(path, **source))[0])


def test_a_pickle_of_examples_is_never_read(write: Write) -> None:
    with pytest.raises(DataError, match="a pickle is not read: it can run code; write its rows as"):
        _open(write("examples.pkl", b"never read"))


def test_json_columns_of_datasets_hold_values(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Json"):
        pytest.skip("datasets below 5.2 has no feature Json")
    features = datasets.Features({"anchor": datasets.Json(), "positive": datasets.Value("string")})
    rows = [{"anchor": "x", "positive": "p"}, {"anchor": 3, "positive": "q"}]
    data = datasets.Dataset.from_list(rows, features=features)
    data.to_parquet(tmp_path / "t.parquet")
    data.save_to_disk(str(tmp_path / "saved"))
    for path in (tmp_path / "t.parquet", tmp_path / "saved"):
        assert list(read_rows(path)) == rows
        opened_rows = opened([{"path": str(path)}], PAIRS, batch_size=1, on_bad_row="skip")
        assert [row["anchor"] for row in _rows(opened_rows)] == ["x"]
        assert opened_rows.summary()["dropped"] == {"wrong type": 1}


# Images and captions.

CAPTIONED = "image texts"


def _image_rows(path: str, **source: Any) -> list[tuple[bytes, list[str]]]:
    rows = _rows(_open(path, CAPTIONED, "", **source))
    return [
        (Path(row["image"]).read_bytes() if isinstance(row["image"], str) else row["image"], row["texts"])
        for row in rows
    ]


@pytest.fixture
def png() -> Callable[[int], bytes]:
    """Small pictures that differ by a number."""
    image = pytest.importorskip("PIL.Image")

    def make(number: int) -> bytes:
        buffer = io.BytesIO()
        image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    return make


Png = Callable[[int], bytes]


def _tar(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize(
    ("image", "text", "columns"),
    [
        ("input.png", "output.txt", None),
        ("05.png", "05.txt", None),
        ("png", "txt", None),
        ("png", "txt0", {"image": "image", "txt0": "text_1"}),
        ("png", "alt", {"image": "image", "alt": "text_1"}),
        ("a.png", "b.caption", {"a.png": "image", "b.caption": "text_1"}),
    ],
)
def test_shards_with_any_ending(tmp_path: Path, png: Png, image: str, text: str, columns: Any) -> None:
    files = {
        f"{n:03}.{end}": png(n) if end == image else f"text {n}".encode() for n in range(3) for end in (image, text)
    }
    path = _tar(tmp_path / "s.tar", files)
    assert _image_rows(path, columns=columns) == [(png(n), [f"text {n}"]) for n in range(3)]


def test_two_images_in_a_sample_are_asked_about(tmp_path: Path, png: Png) -> None:
    path = _tar(tmp_path / "s.tar", {"0.input.png": png(0), "0.other.png": png(1), "0.txt": b"a"})
    with pytest.raises(DataError, match=r"'input\.png' and 'other\.png' both look like image; say which with columns"):
        _open(path, CAPTIONED, "")


def test_the_text_file_of_a_sample_counts_before_its_json(tmp_path: Path, png: Png) -> None:
    told = json.dumps({"caption": "of the json", "width": 4}).encode()
    path = _tar(tmp_path / "s.tar", {"0.png": png(0), "0.txt": b"of the txt", "0.json": told})
    assert _image_rows(path) == [(png(0), ["of the txt"])]
    assert _image_rows(path, columns={"image": "image", "json_caption": "text_1"}) == [(png(0), ["of the json"])]
    only = _tar(tmp_path / "o.tar", {"0.png": png(0), "0.json": told})
    assert _image_rows(only) == [(png(0), ["of the json"])]


def test_what_only_late_samples_of_a_shard_have_is_read(tmp_path: Path) -> None:
    parts = {f"{number}.txt": b"text" for number in range(9)} | {f"{number}.json": b"{}" for number in range(9)}
    parts |= {"6.negative.txt": b"negative", "8.negative.txt": b"negative", "8.json": b'{"source": "web"}'}
    rows = list(read_rows(_tar(tmp_path / "s.tar", dict(sorted(parts.items())))))
    assert [row.get("negative.txt") for row in rows] == [None] * 6 + ["negative", None, "negative"]
    assert [row.get("source") for row in rows] == [None] * 8 + ["web"]


def test_pictures_of_cameras_in_shards_and_folders(tmp_path: Path, png: Png) -> None:
    path = _tar(tmp_path / "s.tar", {"_DSC0.png": png(0), "_DSC0.txt": b"a", "__meta__.json": b"{}", ".x.png": b""})
    assert _image_rows(path) == [(png(0), ["a"])]
    for number, name in enumerate(("cat/_DSC1.png", "cat/2.png", "dog/_DSC3.png", "dog/.4.png")):
        file = tmp_path / "cls" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    assert [row["image"] for row in read_rows(tmp_path / "cls")] == ["cat/2.png", "cat/_DSC1.png", "dog/_DSC3.png"]


def test_a_list_of_captions_in_a_column_caption(tmp_path: Path, png: Png) -> None:
    """Flickr30k as it is on the hub."""
    table = pa.table({
        "image": [{"bytes": png(n), "path": f"{n}.png"} for n in range(2)], "filename": ["0.png", "1.png"],
        "caption": [["a", "b"], ["c", "d"]], "sentids": [["0", "1"], ["2", "3"]],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    assert _image_rows(str(tmp_path / "t.parquet")) == [(png(0), ["a", "b"]), (png(1), ["c", "d"])]


def test_captions_of_coco(tmp_path: Path, png: Png, write: Write) -> None:
    write("images/1.png", png(1))
    write("images/2.png", png(2))
    path = write("captions.json", json.dumps({
        "info": {}, "images": [{"id": 2, "file_name": "2.png"}, {"id": 1, "file_name": "1.png"}],
        "annotations": [{"image_id": 1, "id": 9, "caption": "one"}, {"image_id": 2, "id": 8, "caption": "two"},
                        {"image_id": 1, "id": 7, "caption": "uno"}],
    }))  # fmt: skip
    right = [(png(2), ["two"]), (png(1), ["one", "uno"])]
    assert _image_rows(path, image_folder=str(tmp_path / "images")) == right


def test_captions_in_karpathys_splits(tmp_path: Path, png: Png, write: Write) -> None:
    """dataset_coco.json and dataset_flickr30k.json of Karpathy & Fei-Fei 2015"""
    write("val2014/1.png", png(1))
    write("2.png", png(2))
    images = [
        {"filepath": "val2014", "filename": "1.png", "split": "restval", "imgid": 0,
         "sentences": [{"tokens": ["one"], "raw": "One.", "sentid": 0}, {"raw": "Uno."}]},
        {"filename": "2.png", "split": "train", "imgid": 1, "sentences": [{"raw": "Two."}]},
    ]  # fmt: skip
    path = write("dataset.json", json.dumps({"dataset": "coco", "images": images}))
    assert _image_rows(path) == [(png(1), ["One.", "Uno."]), (png(2), ["Two."])]
    assert _image_rows(path, where={"split": "train"}) == [(png(2), ["Two."])]
    with pytest.raises(DataError, match="without 'split'.*images have filename, split and sentences"):
        _image_rows(write("cut.json", json.dumps({"images": [{"filename": "1.png", "sentences": []}]})))


def test_the_table_of_flickr30k(tmp_path: Path, png: Png, write: Write) -> None:
    """results.csv: names behind "| ", no column that is called a caption"""
    write("1.png", png(1))
    path = write("results.csv", "image_name| comment_number| comment\n1.png| 0| A dog .\n1.png| 1| A cat .\n")
    columns = {"image_name": "image", "comment": "text_1"}
    assert [row["texts"] for row in _rows(_open(path, CAPTIONED, "", columns=columns))] == [[" A dog ."], [" A cat ."]]


def test_text_files_beside_images(tmp_path: Path, png: Png, write: Write) -> None:
    for number in range(3):
        write(f"photos/{number:03}.png", png(number))
        write(f"photos/{number:03}.txt", f"caption {number}\n")
    write("photos/001.json", '{"width": 4}')
    rows = _open(str(tmp_path / "photos"), CAPTIONED, "")
    assert [row["texts"] for row in _rows(rows)] == [["caption 0\n"], ["caption 1\n"], ["caption 2\n"]]
    assert "images with a text file each, of the same name (set 'format' to change that)" in _notes(rows)
    assert "of the same name" not in _notes(_open(str(tmp_path / "photos"), CAPTIONED, "", format="sidecars"))
    assert len(list(read_rows(tmp_path / "photos", "images"))) == 3


@pytest.mark.parametrize("form", ["files", "shards"])
def test_what_img2dataset_writes(tmp_path: Path, png: Png, write: Write, form: str) -> None:
    """The tables of addresses and counts around the samples are no data."""
    texts = [f"caption {number}" for number in range(4)]
    for shard in range(2):
        samples = {f"0000{shard}000{n}": n for n in (2 * shard, 2 * shard + 1)}
        files = {f"{key}.png": png(n) for key, n in samples.items()} | {
            f"{key}.txt": texts[n].encode() for key, n in samples.items()
        }
        files |= {
            f"{key}.json": json.dumps({"url": "u", "caption": texts[n], "status": "success"}).encode()
            for key, n in samples.items()
        }
        files = dict(sorted(files.items()))
        if form == "shards":
            (tmp_path / "out").mkdir(exist_ok=True)
            _tar(tmp_path / "out" / f"0000{shard}.tar", files)
        else:
            for name, content in files.items():
                write(f"out/0000{shard}/{name}", content)
        pq.write_table(pa.table({"url": ["u", "u"], "caption": ["x", "y"]}), tmp_path / "out" / f"0000{shard}.parquet")
        write(f"out/0000{shard}_stats.json", '{"count": 2}')
    assert _image_rows(str(tmp_path / "out")) == [(png(n), [texts[n]]) for n in range(4)]


@pytest.mark.parametrize("names", [("train", "val"), ("training", "test"), ("train", "dev", "test")])
def test_folders_named_like_splits_are_no_classes(
    write: Write, tmp_path: Path, png: Png, names: tuple[str, ...]
) -> None:
    for number, name in enumerate(names):
        write(f"d/{name}/cat/{number}.png", png(number))
        write(f"d/{name}/dog/{number}.png", png(10 + number))
    folder = tmp_path / "d"
    rows = _open(str(folder), "image label", "")
    assert [row["label"] for row in _rows(rows)] == [0, 1]
    assert f"only {names[0]} is read (set 'split' to change that)" in _notes(rows)
    assert [row["label_name"] for row in read_rows(folder, split=names[1])] == ["cat", "dog"]
    with pytest.raises(DataError, match="it has the splits .*choose one with 'split'"):
        list(read_rows(folder))


def test_words_in_file_names_are_splits(write: Write, tmp_path: Path) -> None:
    write("two/faq_train.csv", "anchor,positive\na,b\n")
    write("two/faq_dev.csv", "anchor,positive\nc,d\n")
    rows = _open(str(tmp_path / "two"))
    assert [row["anchor"] for row in _rows(rows)] == ["a"]
    assert "of its splits train, validation only train is read" in _notes(rows)
    assert [row["anchor"] for row in read_rows(tmp_path / "two", split="dev")] == ["c"]
    assert [row["anchor"] for row in read_rows(tmp_path / "two", split="validation")] == ["c"]


def test_absolute_paths_of_images_by_a_setting(write: Write, tmp_path: Path, png: Png) -> None:
    image = write("photos/a.png", png(1))
    path = write("tables/t.csv", f"image,caption\n{image},one\n")
    with pytest.raises(DataError, match=r"leads out of the data folder; .* or set 'image_folder' to the folder"):
        _open(path, CAPTIONED, "")
    assert _image_rows(path, image_folder=str(tmp_path / "photos")) == [(png(1), ["one"])]
    outside = write("tables/o.csv", "image,caption\n/etc/hostname,one\n")
    with pytest.raises(DataError, match="leads out of the data folder"):
        _open(outside, CAPTIONED, "", image_folder=str(tmp_path / "photos"))


def test_open_clips_table(write: Write, png: Png) -> None:
    write("a.png", png(1))
    tabs = write("t.csv", "filepath\ttitle\na.png\tone, two\n")
    assert _image_rows(tabs) == [(png(1), ["one, two"])]
    assert "cells are separated by tabs (set 'separator' to change that)" in _notes(_open(tabs, CAPTIONED, ""))
    assert _image_rows(write("c.csv", "filepath,title\na.png,one\n")) == [(png(1), ["one"])]


def test_class_numbers_are_no_captions(tmp_path: Path, png: Png) -> None:
    path = _tar(tmp_path / "s.tar", {"0.png": png(0), "0.cls": b"1"})
    with pytest.raises(DataError, match="class numbers are no captions, add a column with the names of the classes"):
        _open(path, CAPTIONED, "")


def test_a_shard_that_was_packed_without_sorting_is_told(tmp_path: Path, png: Png) -> None:
    files = {f"{n}.png": png(n) for n in range(4)} | {f"{n}.txt": b"a" for n in range(4)}
    path = _tar(tmp_path / "s.tar", files)
    with pytest.raises(DataError, match=r"files of the sample '0' do not stand together; pack .* tar --sort=name"):
        _open(path, CAPTIONED, "")


def test_texts_that_once_were_empty_are_told(write: Write) -> None:
    rows = "".join(f"question {n},{'nan' if n % 4 == 0 else f'answer {n}'}\n" for n in range(60))
    notes = _notes(_open(write("t.csv", "question,answer\n" + rows)))
    assert "15 of the first 60 texts of 'answer' (positive) are 'nan', which once may have been an empty cell" in notes
    lists = write("l.csv", "anchor,positive\na,\"['b', 'c']\"\n")
    assert "look like lists that Python wrote; save the table as parquet or jsonl" in _notes(_open(lists))


def test_rows_in_no_batch_are_told(write: Write) -> None:
    rows = "".join(f"question {n},answer {n if n % 2 else 0}\n" for n in range(80))
    path = write("t.csv", "anchor,positive\n" + rows)
    notes = _notes(opened([{"path": path}], PAIRS, batch_size=8, sampler="no-duplicates"))
    assert "40 of 80 rows (50%) are in no batch of an epoch: the sampler no-duplicates has too many rows that" in notes
    assert "in no batch" not in _notes(opened([{"path": path}], PAIRS, batch_size=8, sampler="shuffled"))
    short = opened([{"path": path}], PAIRS, batch_size=8, sampler="no-duplicates", drop_last=False)
    assert "in no batch" not in _notes(short) and sum(batch.size for batch in short.batches(0)) == 80
