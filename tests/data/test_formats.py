"""One list of formats: every format by its endings, compressed, remote, in folders, and with damaged files."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import socket
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit.config.recipe_io import load_recipe
from embedkit.data import read_rows
from embedkit.data.sources.registry import Format, endings, format_of, layouts, readers
from embedkit.errors import DataError, RecipeError, UserError
from tests.data.helpers import opened

Write = Callable[[str, "str | bytes"], str]
ROWS = [{"text": "one text"}, {"text": "another"}, {"text": "a third, with a comma"}]


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array([row["text"] for row in rows], pa.string())}), buffer)
    return buffer.getvalue()


def _arrow(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"text": pa.array([row["text"] for row in rows], pa.string())})
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _tar(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, row in enumerate(rows):
            content = row["text"].encode()
            member = tarfile.TarInfo(f"{number:03}.txt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _lines(rows: list[dict[str, Any]], head: str, line: Callable[[str], str]) -> bytes:
    return (head + "".join(line(row["text"]) + "\n" for row in rows)).encode()


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "csv": lambda rows: _lines(rows, "text\n", '"{}"'.format),
    "tsv": lambda rows: _lines(rows, "text\n", str),
    "txt": lambda rows: _lines(rows, "", str),
    "jsonl": lambda rows: _lines(rows, "", lambda text: json.dumps({"text": text})),
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "parquet": _parquet,
    "arrow": _arrow,
    "webdataset": _tar,
}
"""A writer of each format; a new format gets one here."""

ARRAYS = ("npy", "npz", "safetensors", "hdf5")
"""Formats of arrays, which tests/data/test_vectors.py reads."""

NAMED = {"documents": "sentences", "book": "anchor"}
"""Formats that only a source's ``format`` chooses, and what they give."""

TEXT_FORMATS = ("csv", "tsv", "txt", "jsonl", "json")
FORMATS = sorted(WRITERS)
PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
        ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}  # fmt: skip


def _texts(path: str | Path, **settings: Any) -> list[str]:
    return [row["text"] for row in read_rows(path, **settings)]


TEXTS = [row["text"] for row in ROWS]


def test_every_format_has_a_writer_here() -> None:
    assert sorted(kind for kind, format in readers.items() if format.endings) == sorted([*FORMATS, *ARRAYS])
    assert {kind for kind, format in readers.items() if not format.endings} == NAMED.keys()


@pytest.mark.parametrize("ending", [ending for ending in endings() if format_of(f"t{ending}") not in ARRAYS])
def test_every_ending_is_read_in_training_evaluation_and_folders(write: Write, ending: str, tmp_path: Path) -> None:
    from embedkit.evaluation.datasets.tables import read_table

    kind = format_of(f"t{ending}")
    assert kind is not None and not endings().count("")
    data = WRITERS[kind](ROWS)
    data = gzip.compress(data) if ending == ".tgz" else data
    path = write(f"d/t{ending}", data)
    assert _texts(path) == TEXTS
    assert _texts(tmp_path / "d") == TEXTS
    rows = opened([{"path": path}], "anchor", batch_size=3)
    assert sorted(row["anchor"] for row in next(rows.batches(0)).rows) == sorted(TEXTS)
    assert read_table(Path(path)).columns["text"] == TEXTS


@pytest.mark.parametrize("packed", sorted(PACK))
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_compressed(write: Write, kind: str, packed: str) -> None:
    ending = readers[kind].endings[0]
    path = write(f"t{ending}{packed}", PACK[packed](WRITERS[kind](ROWS)))
    assert format_of(path) == kind
    assert _texts(path) == TEXTS


@pytest.mark.parametrize("packed", sorted(PACK))
def test_cut_compressed_data_is_one_line(write: Write, packed: str) -> None:
    data = PACK[packed](WRITERS["txt"]([{"text": uuid.uuid4().hex} for _ in range(4000)]))
    path = write(f"t.txt{packed}", data[: len(data) // 2])
    with pytest.raises(DataError, match=r"t\.txt\.") as caught:
        list(read_rows(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"], ids=["gzip", "bzip2", "xz", "zstd"]
)
def test_bytes_that_only_begin_like_compressed_ones(write: Write, content: bytes) -> None:
    with pytest.raises(DataError):
        list(read_rows(write("t.txt", content + b"nothing of the kind\n" * 3)))


# Files at the edge: what works and what is one clear line.


def _half(data: bytes) -> bytes:
    """Half of a file, at most so much that a shard of three samples breaks off inside the last one."""
    return data[: min(2560, len(data) // 2)]


EDGES: dict[str, Callable[[str], bytes]] = {
    "empty file": lambda kind: b"",
    "no rows": lambda kind: WRITERS[kind]([]),
    "one row": lambda kind: WRITERS[kind](ROWS[:1]),
    "a text without tokens": lambda kind: WRITERS[kind]([*ROWS[:1], {"text": "\u200b \u00a0"}]),
    "an empty text": lambda kind: WRITERS[kind]([*ROWS[:1], {"text": ""}]),
    "byte order mark": lambda kind: b"\xef\xbb\xbf" + WRITERS[kind](ROWS),
    "CRLF": lambda kind: WRITERS[kind](ROWS).replace(b"\n", b"\r\n"),
    "NUL": lambda kind: WRITERS[kind](ROWS).replace(b"another", b"an\0ther"),
    "Latin-1": lambda kind: WRITERS[kind](ROWS).replace(b"another", b"an\xf6ther"),
    "UTF-16": lambda kind: WRITERS[kind](ROWS).decode("latin-1").encode("utf-16"),
    "cut": lambda kind: WRITERS[kind](ROWS)[:-9] if kind in TEXT_FORMATS else _half(WRITERS[kind](ROWS)),
}
WORKS = {"one row"} | {f"{edge} {kind}" for edge in ("byte order mark", "CRLF") for kind in TEXT_FORMATS}


@pytest.mark.parametrize("edge", sorted(EDGES))
@pytest.mark.parametrize("kind", FORMATS)
def test_every_reader_at_the_edge(write: Write, kind: str, edge: str) -> None:
    """Works with the right rows, or ends in one line that names the file."""
    if kind not in TEXT_FORMATS and edge in ("byte order mark", "CRLF", "UTF-16", "NUL", "Latin-1"):
        return  # these are damages of text files; binary ones are changed as a whole in the fuzz tests
    path = write(f"t{readers[kind].endings[0]}", EDGES[edge](kind))
    if edge in WORKS or f"{edge} {kind}" in WORKS:
        assert _texts(path) == (TEXTS[:1] if edge == "one row" else TEXTS)
        rows = opened([{"path": path}], "anchor", batch_size=1)
        assert rows.num_rows == (1 if edge == "one row" else 3)
        return
    if edge == "cut" and kind in ("txt", "tsv"):
        assert _texts(path)[:2] == TEXTS[:2]  # a shorter last line is a line
        return
    with pytest.raises(UserError) as caught:
        opened([{"path": path}], "anchor", batch_size=1)
    line = str(caught.value)
    assert "\n" not in line and path in line, line
    assert caught.value.remedy


@pytest.mark.parametrize("edge", ["empty file", "Latin-1", "UTF-16"])
@pytest.mark.parametrize("kind", sorted(NAMED))
def test_readers_without_an_ending_at_the_edge(write: Write, kind: str, edge: str) -> None:
    for name, content in {f"t.txt{packed}": PACK[packed](EDGES[edge]("txt")) for packed in PACK}.items():
        path = write(name, content)
        with pytest.raises(UserError) as caught:
            opened([{"path": path, "format": kind}], NAMED[kind], batch_size=1)
        assert "\n" not in str(caught.value) and path in str(caught.value)
    path = write("whole.txt.gz", gzip.compress(WRITERS["txt"](ROWS)))
    rows = opened([{"path": path, "format": kind}], NAMED[kind], batch_size=1)
    (row,) = next(rows.batches(0)).rows
    assert row[NAMED[kind]] == (TEXTS if kind == "documents" else "".join(f"{text}\n" for text in TEXTS))


@pytest.mark.parametrize(
    ("name", "content", "right"),
    [
        ("t.csv", "text,\na,\nb,\n", ["a", "b"]),  # a comma at the end of every line, as spreadsheets write it
        ("t.csv", "text;n\na, b;1\n", ["a, b"]),
        ("t.csv", "text|n\na;b|1\n", ["a;b"]),
        ("t.csv", 'text\tn\n"a\tb"\t1\n', ["a\tb"]),
        ("t.json", '{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ("t.json", '[{"text": "a"}]', ["a"]),
    ],
)
def test_variants_of_a_format(write: Write, name: str, content: str, right: list[str]) -> None:
    assert _texts(write(name, content)) == right


def test_separator_and_header_can_be_set(write: Write) -> None:
    path = write("t.csv", "a,b;1\nc,d;2\n")
    rows = opened([{"path": path, "separator": ";", "header": ["text", "label"]}], "anchor label", batch_size=2)
    assert sorted((row["anchor"], row["label"]) for row in next(rows.batches(0)).rows) == [("a,b", 1), ("c,d", 2)]
    sts = write("sts.csv", 'genre\tx\t1\t4.5\ta "lone mark\tb\n')
    columns = {"a": "anchor", "b": "positive", "s": "score"}
    source = {"path": sts, "format": "tsv", "header": ["g", "x", "n", "s", "a", "b"], "columns": columns}
    row = next(opened([source], "anchor positive score", batch_size=1).batches(0)).rows[0]
    assert row == {"anchor": 'a "lone mark', "positive": "b", "score": 4.5}
    lines = write("t.jsonl", '{"text": "a"}\n')
    with pytest.raises(DataError, match=r"the format jsonl has no setting 'separator'; leave it out, or .*csv"):
        opened([{"path": lines, "separator": ";"}], batch_size=1)


@pytest.mark.parametrize(
    ("name", "separator", "settings"),
    [("t.tsv", ",", {"format": "csv"}), ("t.tsv", ";", {"format": "csv", "separator": ";"})],
)
def test_the_remedy_for_a_wrong_separator_works(
    write: Write, name: str, separator: str, settings: dict[str, str]
) -> None:
    path = write(name, f"anchor{separator}positive\na{separator}b\n")
    with pytest.raises(DataError) as caught:
        opened([{"path": path}], "anchor positive", batch_size=1)
    assert f"set 'format: csv' and 'separator': '{separator}'" in str(caught.value)
    row = next(opened([{"path": path, **settings}], "anchor positive", batch_size=1).batches(0)).rows[0]
    assert row == {"anchor": "a", "positive": "b"}


def test_a_format_in_a_recipe_is_checked_with_the_nearest_name() -> None:
    source = {"path": "x", "format": "jsnol"}
    with pytest.raises(RecipeError, match=r"no data format 'jsnol'; did you mean 'jsonl'\?") as caught:
        load_recipe("pairs", {"data.train": [source]})
    assert "\n" not in str(caught.value)
    for format in ("feather",):
        with pytest.raises(RecipeError, match="no data format 'feather'"):
            load_recipe("pairs", {"data.train": [source | {"format": format}]})
    for format in (*readers, *layouts, "auto", "hub", "builtin"):
        assert load_recipe("pairs", {"data.train": [source | {"format": format}]}).data.train[0].format == format


def test_one_module_adds_a_format(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_shouted(path: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        with path.open("rb") as handle:
            yield from ((number, {"text": line.decode().strip().upper()}) for number, line in enumerate(handle, 1))

    list(readers)
    monkeypatch.setattr(readers, "_entries", dict(readers._entries))
    readers.add("shouted")(Format((".shout",), read_shouted))
    path = write("d/t.shout", "one\ntwo\n")
    assert _texts(path) == _texts(Path(path).parent) == ["ONE", "TWO"]
    assert load_recipe("pairs", {"data.train": [{"path": "x", "format": "shouted"}]}).data.train[0].format == "shouted"
    assert next(opened([{"path": path}], batch_size=2).batches(0)).size == 2


def test_asking_the_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys; from embedkit.data.sources.registry import formats, format_of; formats(); format_of('a.csv');"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'fsspec'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Files behind an address.


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bytes], str]]:
    """Write into fsspec's file system in memory; no socket can be opened meanwhile."""
    import fsspec

    system = fsspec.filesystem("memory")
    top = f"/{uuid.uuid4().hex}"

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    def put(name: str, content: bytes) -> str:
        system.pipe(f"{top}/{name}", content)
        return f"memory:/{top}/{name}"

    yield put
    system.rm(top, recursive=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_behind_an_address(memory: Callable[[str, bytes], str], write: Write, kind: str) -> None:
    ending = readers[kind].endings[0]
    address = memory(f"t{ending}", WRITERS[kind](ROWS))
    assert _texts(address) == TEXTS
    assert _texts(memory(f"p{ending}.gz", gzip.compress(WRITERS[kind](ROWS)))) == TEXTS
    assert _texts("file://" + write(f"t{ending}", WRITERS[kind](ROWS))) == TEXTS
    for stream in (False, True):
        rows = opened([{"path": address, "stream": stream}], "anchor", batch_size=3)
        texts = [row["anchor"] for row in next(rows.batches(0)).rows]
        assert sorted(texts) == sorted(TEXTS) or (stream and readers[kind].lanes and set(texts) <= set(TEXTS))


def test_folders_patterns_and_splits_behind_an_address(memory: Callable[[str, bytes], str], write: Write) -> None:
    paths = [
        memory(f"d/{name}", WRITERS["txt"]([{"text": name}])) for name in ("train-0.txt", "train-1.txt", "test.txt")
    ]
    folder = paths[0].rpartition("/")[0]
    assert _texts(folder, split="train") == ["train-0.txt", "train-1.txt"]
    assert _texts(f"{folder}/train-*.txt") == ["train-0.txt", "train-1.txt"]
    assert _texts(folder + "/train-{0..1}.txt") == ["train-0.txt", "train-1.txt"]
    with pytest.raises(DataError, match="it has the splits test, train; choose one with 'split'"):
        _texts(folder)
    local = Path(write("g/b.txt", "b\n")).parent
    write("g/a.txt", "a\n")
    assert _texts(f"{local}/*.txt") == _texts(f"file://{local}/*.txt") == ["a", "b"]
    with pytest.raises(DataError, match="no file fits this pattern"):
        _texts(f"{local}/*.csv")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("memory://no/such.csv", "no such file or folder"),
        ("http://127.0.0.1:9/x.csv", "no address of this kind is read"),
        ("pipe:touch x", "no address of this kind is read"),
        ("a.tar::b.tar", "two sources in one path; give an entry in data.train for each"),
    ],
)
def test_addresses_that_are_not_read_are_one_line(path: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        list(read_rows(path))
    assert "\n" not in str(caught.value) and caught.value.remedy


def test_a_store_whose_package_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(DataError, match=r"s3://b/x\.csv: s3:// needs another package \(Install s3fs to access S3\)"):
        list(read_rows("s3://b/x.csv"))
