"""`open_training`: order, slices, resume, fingerprint and account, for every sampler, in memory and as a stream."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedkit.config.recipe import DataConfig
from embedkit.data import TrainingRows, open_training
from embedkit.data.datasets.samplers import SAMPLERS
from embedkit.errors import DataError
from tests.data.helpers import contract, opened

Write = Callable[[str, "str | bytes"], str]

ROLES = ("anchor positive label", "negatives group")


def _line(index: int) -> str:
    row = {
        "anchor": f"anchor {index % 23}" + "x" * (index % 7),
        "positive": f"positive {index}",
        "negatives": [f"negative {index % 5}"] * (index % 3),
        "label": index % 4,
        "document_id": index // 5,
        "position": index % 5,
    }
    return json.dumps(row) + "\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("rows")
    paths = []
    for name, start, stop in (("one", 0, 97), ("two", 97, 130)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(map(_line, range(start, stop))))
        paths.append(str(path))
    return paths


def _open(files: list[str], sampler: str, kind: str, size: int = 8, **more: Any) -> TrainingRows:
    """kind: one, mixture (weighted), each (one source a batch), stream, stream-mixture.

    The sampler contiguous, which keeps documents whole, has its sources one behind the other instead of a mixture.
    """
    chosen = files if kind in ("mixture", "each", "stream-mixture") else files[:1]
    train: list[dict[str, Any]] = [{"path": path, "stream": kind.startswith("stream")} for path in chosen]
    config: dict[str, Any] = {"sampler": sampler, "shuffle_buffer": 25, **more}
    requires, accepts = ROLES
    if sampler == "contiguous":
        requires += " document_id position"
        config |= {"batches_from": "one-source"} if kind == "stream-mixture" else {}
    elif kind.endswith("mixture"):
        config["mixing"] = "weighted"
        for source, weight in zip(train, (2.0, 1.0), strict=True):
            source["weight"] = weight
    if kind == "each":
        config["batches_from"] = "one-source"
    return opened(train, requires, accepts, batch_size=size, **config)


KINDS = ["one", "mixture", "each", "stream", "stream-mixture"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_resume_at_any_step_and_again_equals_the_unbroken_order(
    files: list[str], kind: str, sampler: str, data: Any
) -> None:
    epoch = data.draw(st.integers(0, 3))
    whole = [(batch.ids, batch.rows) for batch in _open(files, sampler, kind).batches(epoch)]
    assert len(whole) > 1
    first = data.draw(st.integers(0, len(whole)))
    second = data.draw(st.integers(first, len(whole)))
    resumed = _open(files, sampler, kind)
    got = list(islice(resumed.batches(epoch, first), second - first))
    again = list(_open(files, sampler, kind).batches(epoch, second))
    assert [(batch.ids, batch.rows) for batch in got + again] == whole[first:]
    assert [batch.step for batch in got + again] == list(range(first, len(whole)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("world", [2, 3, 5])
def test_slices_over_processes_concatenate_to_the_batch(files: list[str], kind: str, sampler: str, world: int) -> None:
    whole = list(_open(files, sampler, kind).batches(1))
    parts = [list(_open(files, sampler, kind).batches(1, 0, rank, world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        slices = [part[step] for part in parts]
        assert [row for piece in slices for row in piece.rows] == batch.rows
        assert [row_id for piece in slices for row_id in piece.ids] == batch.ids
        assert all(piece.size == batch.size == len(batch.rows) for piece in slices)
        assert [piece.offset for piece in slices] == [rank * batch.size // world for rank in range(world)]


@pytest.mark.parametrize("kind", ["one", "each", "stream"])
@pytest.mark.parametrize("sampler", ["shuffled", "no-duplicates", "length"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_each_row_comes_once_an_epoch(files: list[str], kind: str, sampler: str, epoch: int) -> None:
    rows = _open(files, sampler, kind, drop_last=False)
    found = [row["positive"] for batch in rows.batches(epoch) for row in batch.rows]
    total = 130 if kind == "each" else 97
    assert len(found) == len(set(found))
    if rows.steps_per_epoch is None or sampler != "no-duplicates":  # its short batches vary from epoch to epoch
        assert len(found) == total
    else:
        assert len(found) >= total - 8


@pytest.mark.parametrize("kind", ["one", "mixture", "each"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_epoch_has_the_announced_number_of_steps(
    files: list[str], kind: str, sampler: str, drop_last: bool
) -> None:
    rows = _open(files, sampler, kind, drop_last=drop_last)
    for epoch in range(6):
        batches = list(rows.batches(epoch))
        assert len(batches) == rows.steps_per_epoch
        assert all(0 < batch.size <= 8 for batch in batches)
    assert all(batch.size == 8 for batch in rows.batches(0)) or not drop_last


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_epochs_and_seeds_have_orders_of_their_own(files: list[str], kind: str, sampler: str) -> None:
    rows = _open(files, sampler, kind)
    orders = [[batch.ids for batch in rows.batches(epoch)] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("kind", KINDS)
def test_no_duplicates_in_any_batch(files: list[str], kind: str) -> None:
    rows = _open(files, "no-duplicates", kind)
    count = 0
    for batch in rows.batches(0):
        texts = [text for row in batch.rows for text in {row["anchor"], row["positive"], *row.get("negatives", [])}]
        assert len(texts) == len(set(texts))
        count += 1
    assert count >= 2


def test_ids_point_back_to_file_and_row(files: list[str]) -> None:
    rows = opened([{"path": path} for path in files], *ROLES, batch_size=16)
    for batch in rows.batches(0):
        for row, row_id in zip(batch.rows, batch.ids, strict=True):
            index = int(row["positive"].split()[1])
            expected = f"{files[0]}:{index + 1}" if index < 97 else f"{files[1]}:{index - 97 + 1}"
            assert rows.where(row_id) == expected
            assert row_id == index
    stream = opened([{"path": path, "stream": True} for path in files], *ROLES, batch_size=16)
    batch = next(stream.batches(0))
    assert stream.where(batch.ids[0]).startswith((files[0], files[1]))


def test_fingerprint_follows_content_and_not_the_kind_of_file(write: Write) -> None:
    tsv = "anchor\tpositive\na\tb\nc\td\n"
    lines = '{"positive": "b", "anchor": "a"}\n{"anchor": "c", "positive": "d"}\n'

    def mark(name: str, content: str | bytes, **source: Any) -> str:
        return opened([{"path": write(name, content), **source}], "anchor positive", batch_size=1).fingerprint

    same = mark("t.tsv", tsv)
    assert mark("u.tsv", tsv) == same
    assert mark("t.csv", tsv.replace("\t", ",")) == same
    assert mark("t.tsv.gz", gzip.compress(tsv.encode())) == same
    assert mark("t.jsonl", lines) == same
    assert mark("x.tsv", tsv.replace("anchor", "x"), columns={"x": "anchor", "positive": "positive"}) == same
    others = [
        mark("v.tsv", tsv.replace("d", "e")),
        mark("w.tsv", "anchor\tpositive\nc\td\na\tb\n"),
        mark("y.tsv", "anchor\tpositive\nab\tb\nc\td\n"),
        mark("z.tsv", tsv, limit=1),
        mark("s.tsv", tsv, columns={"anchor": "positive", "positive": "anchor"}),
        mark("p.tsv", "anchor\tpositive\na\tbc\nd\td\n"),
    ]
    assert len({same, *others}) == len(others) + 1


def test_fingerprint_sees_negatives_scores_and_labels(write: Write) -> None:
    base = {"anchor": "a", "negatives": ["x", "y"], "score": 1.0, "label": 1, "group": "g"}
    marks = set()
    for change in ({}, {"negatives": ["xy"]}, {"negatives": ["x"]}, {"score": 1.5}, {"label": 2}, {"group": "h"}):
        path = write("t.jsonl", json.dumps(base | change) + "\n")
        rows = opened([{"path": path}], "anchor negatives score label group", batch_size=1)
        marks.add(rows.fingerprint)
    assert len(marks) == 6


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([{"anchor": "ab"}, {"anchor": "c"}], [{"anchor": "a"}, {"anchor": "bc"}]),
        (
            [{"anchor": "a", "negatives": ["x"]}, {"anchor": "b", "negatives": ["y", "z"]}],
            [{"anchor": "a", "negatives": ["x", "y"]}, {"anchor": "b", "negatives": ["z"]}],
        ),
    ],
)
def test_fingerprint_sees_where_cells_end(write: Write, first: list[Any], second: list[Any]) -> None:
    marks = []
    for lines in (first, second):
        path = write("t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        marks.append(opened([{"path": path}], "anchor", "negatives", batch_size=1).fingerprint)
    assert marks[0] != marks[1]


def test_fingerprint_of_a_stream_sees_head_and_size(write: Write) -> None:
    def mark(content: str, **source: Any) -> str:
        path = write("t.txt", content)
        return opened([{"path": path, "stream": True, **source}], batch_size=1).fingerprint

    same = mark("a\nb\n")
    assert mark("a\nb\n") == same
    assert len({same, mark("a\nc\n"), mark("a\nb\nc\n"), mark("a\nb\n", limit=1)}) == 4


def test_summary_accounts_for_every_row(write: Write) -> None:
    lines = [
        {"anchor": "a", "positive": "p", "split": "train"},
        {"anchor": "a", "positive": "q", "negative": "n", "split": "train"},
        {"anchor": "b", "positive": "b", "split": "train"},
        {"anchor": "", "positive": "r", "split": "train"},
        {"anchor": "c", "positive": "s", "split": "test"},
    ]
    path = write("t.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    source = {"path": path, "where": {"split": "train"}}
    rows = opened([source], "anchor positive", "negatives", batch_size=2, on_bad_row="skip")
    assert rows.summary() == {
        "rows": 3,
        "sources": [
            {"path": path, "rows": 3, "read": 5, "filtered": 1, "dropped": {"blank text": 1}, "cut": 0, "share": 1.0}
        ],
        "dropped": {"blank text": 1},
        "held_out": 0,
        "hard_negatives": {"min": 0, "max": 1},
        "without_negatives": 2,
        "duplicates": {"anchors": 1, "positives": 0, "positive_is_anchor": 1},
        "epoch": {"number": 0, "steps": 1, "left_over": 1, "short_batches": 0},
        "notes": [],
    }
    json.dumps(rows.summary())


def test_limit_counts_rows_that_are_kept(write: Write) -> None:
    path = write("t.tsv", "anchor\tb\n" + "".join(f"t{i}\t{i % 2}\n" for i in range(10)))
    rows = opened([{"path": path, "where": {"b": 1}, "limit": 3}], batch_size=3)
    assert sorted(row["anchor"] for row in next(rows.batches(0)).rows) == ["t1", "t3", "t5"]


def test_batch_larger_than_data(write: Write) -> None:
    path = write("t.txt", "a\nb\nc\n")
    with pytest.raises(DataError, match=r"train\.batch_size: 3 rows of .*t\.txt do not fill one batch of 4; lower it"):
        opened([{"path": path}], batch_size=4)
    rows = opened([{"path": path}], batch_size=4, drop_last=False)
    assert [batch.size for batch in rows.batches(0)] == [3]
    stream = opened([{"path": path, "stream": True}], batch_size=4)
    with pytest.raises(DataError, match="the stream does not fill one batch of 4; lower it"):
        list(stream.batches(0))


def test_too_many_duplicates_for_one_batch(write: Write) -> None:
    path = write("t.txt", "same\n" * 20)
    with pytest.raises(DataError, match=r"data\.sampler: the sampler no-duplicates cannot fill one batch of 4"):
        opened([{"path": path}], batch_size=4, sampler="no-duplicates")


def test_a_wrong_mapping_is_told_before_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.tsv"
    with path.open("w") as file:
        file.write("a\tb\n")
        file.writelines(f"text {i}\ttext\n" for i in range(300_000))
    reads = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal reads
        reads += 1
        return real(*args, **kwargs)

    import embedkit.data.sources.files as files_module

    real = files_module._decode
    patch = pytest.MonkeyPatch()
    patch.setattr(files_module, "_decode", counted)
    try:
        with pytest.raises(DataError, match="no column for role 'anchor'"):
            opened([{"path": str(path)}], batch_size=4)
    finally:
        patch.undo()
    assert reads < 3000  # of 300,001: a sample tells how the cells are written


def test_relative_paths_start_at_the_base_folder(write: Write, tmp_path: Path) -> None:
    write("deep/t.txt", "a\nb\n")
    config = DataConfig.model_validate({"train": [{"path": "deep/t.txt"}]})
    rows = open_training(config, contract("anchor"), batch_size=2, seed=0, base_dir=tmp_path)
    assert rows.num_rows == 2


@pytest.mark.parametrize(
    ("path", "requires", "source", "count"),
    [
        ("nli/nli_triplets.parquet", "anchor positive negatives", {"where": {"sts_overlap": False}}, 34797),
        ("text/wiki.txt.gz", "anchor", {}, 112094),
        ("sts/stsb.tsv.gz", "anchor positive score", {"where": {"split": "train"}}, 5749),
        ("paraphrase/wiki_paraphrase.parquet", "anchor positive", {"where": {"split": "val"}, "limit": 100}, 100),
        ("image_text/flickr8k_1k.parquet", "image texts", {}, 1000),
    ],
)
def test_real_data(shared: Path, path: str, requires: str, source: dict[str, Any], count: int) -> None:
    rows = opened([{"path": str(shared / "data" / path), **source}], requires, batch_size=64)
    assert rows.num_rows == count
    assert set(next(rows.batches(0)).rows[0]) == set(requires.split())
