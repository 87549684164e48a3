"""Readers of text formats: what they keep, and the one line with which they refuse."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedkit.data import read_rows
from embedkit.data.sources.sources import find_parts
from embedkit.errors import DataError, UserError
from embedkit.evaluation.datasets.tables import read_table
from embedkit.mining.rows.table import read_table as row_table

Write = Callable[[str, "str | bytes"], str]

ROWS = [{"a": "001", "b": "NA"}, {"a": "null", "b": " spaced "}, {"a": "é\u2028x\x0by", "b": ""}]


def _table(separator: str, end: str = "\n") -> str:
    return end.join([separator.join("ab"), *(separator.join(row.values()) for row in ROWS)]) + end


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", _table(",")),
        ("t.csv", _table(",", "\r\n")),
        ("t.csv", "\ufeff" + _table(",")),
        ("t.csv", _table(",").rstrip("\n")),
        ("t.tsv", _table("\t")),
        ("t.tsv", "\ufeff" + _table("\t", "\r\n")),
        ("t.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("t.jsonl", "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_cells_stay_text_in_every_format(write: Write, name: str, content: str, packed: bool) -> None:
    data = content.encode()
    path = write(name + ".gz", gzip.compress(data)) if packed else write(name, data)
    assert list(read_rows(path)) == ROWS


def test_txt_lines_end_at_newline_only(write: Write) -> None:
    path = write("t.txt", "one\u2028still one\x0c\r\ntwo\rtwo\n\x85three")
    assert [row["text"] for row in read_rows(path)] == ["one\u2028still one\x0c", "two\rtwo", "\x85three"]


def test_tsv_has_no_quoting_and_csv_has(write: Write) -> None:
    tsv = write("t.tsv", 'a\tb\n"x\ty"\n')
    assert list(read_rows(tsv)) == [{"a": '"x', "b": 'y"'}]
    path = write("t.csv", 'a,b\n"x, ""y""\nz",5" nail\n')
    assert list(read_rows(path)) == [{"a": 'x, "y"\nz', "b": '5" nail'}]


PANDAS = 'a\tb\n"How do I ""pay""?"\tBy card.\nx\t"1\t2"\n"two\nlines"\ty\n'
R = '"a"\t"b"\n"one"\t"two"\n'


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (PANDAS, [('How do I "pay"?', "By card."), ("x", "1\t2"), ("two\nlines", "y")]),
        (R, [("one", "two")]),
        (R + "\n", [("one", "two")]),  # a blank line at the end is told as ever
        ('a\tb\n"Hello," he said\tx\n"Yes, ""really"""\ty\n', None),  # no quoting: text behind a closing mark
        ('a\tb\n"Yes."\tx\n', None),  # one or the other: as it stands
        ('a\tb\nhe said\t"Yes\nand then\tlater"\n', None),  # two rows, not one of two lines
        ('a\tb\n5" nail\tx\n6""\ty\n', None),
    ],
)
def test_quoted_cells_between_tabs_are_read_as_pandas_r_and_excel_mean_them(
    write: Write, text: str, rows: list[tuple[str, str]] | None
) -> None:
    path = write("t.tsv", text)
    plain = [tuple(line.split("\t")) for line in text.splitlines()[1:]]
    told: list[object] = []
    found = [row for part in find_parts(path, tell=told.append) for _, row in part.records() if isinstance(row, dict)]
    assert [tuple(row.values()) for row in found] == (plain if rows is None else rows)
    assert [str(guess) for guess in told] == (
        [] if rows is None
        else [f"{path}: quotation marks stand around cells, and are read as in csv (set 'format' to change that)"]
    )  # fmt: skip
    if text == R:
        assert [list(row.values()) for row in read_rows(path, "tsv")] == [['"one"', '"two"']]
        assert read_table(Path(path)).columns == {"a": ["one"], "b": ["two"]}
        [part] = find_parts(path, options={"header": ["c", "d"]}, tell=told.append)
        assert list(part.records()) == [(1, {"c": '"a"', "d": '"b"'}), (2, {"c": '"one"', "d": '"two"'})]


def test_arrays_of_other_lengths_are_refused_where_all_columns_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.eye(3), label=np.array([0, 1]))
    with pytest.raises(DataError, match=r"rows\.npz"):
        read_table(tmp_path / "rows.npz")
    with pytest.raises(DataError, match=r"rows\.npz"):
        row_table(str(tmp_path / "rows.npz"))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
            min_size=3,
            max_size=3,
        ),
        max_size=6,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_reads_what_the_standard_library_writes(tmp_path: Path, rows: list[list[str]], end: str) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator=end)
    writer.writerow(["a", "b", "c"])
    writer.writerows(rows)
    path = tmp_path / "t.csv"
    path.write_bytes(buffer.getvalue().encode())
    assert [list(row.values()) for row in read_rows(path)] == rows


BAD: list[tuple[str, str | bytes, list[str]]] = [
    ("t.csv", "", ["t.csv", "empty"]),
    ("t.txt", "", ["t.txt", "empty"]),
    ("t.csv", "\nx\n", ["t.csv:1", "header line is blank"]),
    ("t.csv", "text,label,text\na,1,b\n", ["t.csv:1", "'text' occurs twice", "rename"]),
    ("t.tsv", "a\tb\n1\t2\n1\n", ["t.tsv:3", "1 cells where the header has 2", "separators"]),
    ("t.csv", "a,b\n1,2\n1,2,3\n", ["t.csv:3", "3 cells where the header has 2"]),
    ("t.csv", "a,b\n1,2\n\n", ["t.csv:3", "blank"]),
    ("t.csv", 'a,b\n1,"2\n3,4\n', ["t.csv:2", "never closed", "twice"]),
    ("t.csv", 'a,b\n"1"x,2\n', ["t.csv:2", "after the closing quotation mark"]),
    ("t.csv", 'a,b\n"1\n2",3,4\n', ["t.csv:2-3", "3 cells"]),
    ("t.txt", b"good\nna\xefve\n", ["t.txt:2", "byte 7", "0xef", "not UTF-8", "iconv"]),
    ("t.csv", b"\xef\xbb\xbfa\nb\xff\n", ["t.csv:2", "byte 6", "0xff"]),
    ("t.txt", b"\xef\xbb\xbfok\xff\n", ["t.txt:1", "byte 5", "0xff"]),
    ("t.txt", b"ok\nlone \xed\xa0\x80\n", ["t.txt:2", "byte 8", "not UTF-8"]),
    ("t.txt", b"ok\nwith \x00 nul\n", ["t.txt:2", "NUL byte at byte 8"]),
    ("t.txt", "text".encode("utf-16"), ["t.txt", "UTF-16", "save it as UTF-8"]),
    ("t.jsonl", '{"a": 1}\n{"a": 1, "a": 2}\n', ["t.jsonl:2", "'a' occurs twice"]),
    ("t.jsonl", '{"a": 1}\n{"a": \n', ["t.jsonl:2", "not JSON"]),
    ("t.jsonl", '{"a": 1}\n[1]\n', ["t.jsonl:2", "list, not an object"]),
    ("t.jsonl", '{"a": 1}\n\n{"a": 1}\n', ["t.jsonl:2", "blank"]),
    ("t.jsonl", '{"a": "x\\ud800y"}\n', ["t.jsonl:1", "lone surrogate U+D800 at character 1"]),
    ("t.jsonl", '{"a": ["x\\u0000y"]}\n', ["t.jsonl:1", "NUL character at character 1"]),
    ("t.jsonl", "[" * 100_000 + "\n", ["t.jsonl:1", "JSON"]),
    ("t.jsonl", '{"a": ' + "9" * 5000 + "}\n", ["t.jsonl:1", "not usable JSON"]),
    ("t.txt.gz", gzip.compress(b"text\n" * 1000, mtime=0)[:-20], ["t.txt.gz:", "damaged or cut", "again"]),
    ("t.txt.gz", b"\x1f\x8bnot gzip", ["t.txt.gz:1", "damaged or cut"]),
    ("t.parquet", b"PAR1 not really", ["t.parquet", "not a readable parquet file"]),
    ("t.dat", "x\n", ["t.dat", "cannot infer the format from the extension", "'format'"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), BAD)
def test_bad_file_is_refused_with_place_and_remedy(
    write: Write, name: str, content: str | bytes, parts: list[str]
) -> None:
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in parts), line
    assert caught.value.remedy
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "path", ["missing.csv", "no/such/place/t.csv", "x" * 5000 + ".csv", "nul\0.csv", "~nobody-here/t.csv"]
)
def test_missing_file_is_refused(path: str) -> None:
    with pytest.raises(DataError):
        list(read_rows(path))


def test_unknown_column_is_refused_with_the_nearest(write: Write) -> None:
    path = write("t.csv", "sentence,label\nx,1\n")
    assert list(read_rows(path, columns=["label"])) == [{"label": "1"}]
    with pytest.raises(DataError, match=r"t\.csv:2: there is no column 'sentense'; did you mean 'sentence'\?"):
        list(read_rows(path, columns=["sentense"]))


def test_limit_and_format(write: Write) -> None:
    path = write("t.dat", "x\ny\nz\n")
    assert list(read_rows(path, "txt", limit=2)) == [{"text": "x"}, {"text": "y"}]
    path = write("t.jsonl", '{"a": 1}\nnot JSON\n')
    assert list(read_rows(path, limit=1)) == [{"a": 1}], "what stands behind the limit is not read"
    with pytest.raises(DataError, match=r"t\.jsonl:2"):
        list(read_rows(path, limit=2))


def test_a_long_line_is_refused_and_a_long_cell_is_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("t.csv", "a\n" + "x" * 10_000_000 + "\n")
    assert len(next(read_rows(path))["a"]) == 10_000_000
    monkeypatch.setattr("embedkit.data.sources.files.MAX_LINE", 1 << 20)
    with pytest.raises(DataError, match=r"t\.csv:2: a line is longer than 1 MiB"):
        list(read_rows(path))


def test_folder_reads_its_files_in_order_and_splits_must_be_chosen(write: Write, tmp_path: Path) -> None:
    write("one/b.txt", "third\n")
    write("one/a.txt", "first\nsecond\n")
    write("one/README.md", "not data")
    assert [row["text"] for row in read_rows(tmp_path / "one")] == ["first", "second", "third"]
    write("two/train-00000-of-00002.jsonl", '{"text": "t0"}\n')
    write("two/train-00001-of-00002.jsonl", '{"text": "t1"}\n')
    write("two/test/x.jsonl", '{"text": "x"}\n')
    assert [row["text"] for row in read_rows(tmp_path / "two", split="train")] == ["t0", "t1"]
    assert [row["text"] for row in read_rows(tmp_path / "two", split="test")] == ["x"]
    with pytest.raises(DataError, match="it has the splits test, train; choose one with 'split'"):
        list(read_rows(tmp_path / "two"))
    with pytest.raises(DataError, match=r"no split 'trian'; did you mean 'train'\?"):
        list(read_rows(tmp_path / "two", split="trian"))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no data file in this folder"):
        list(read_rows(tmp_path / "none"))


def test_files_that_a_folder_passes_over_are_named(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("train.jsonl", '{"text": "t"}\n')
    write("more.jsonl", '{"text": "m"}\n')
    assert [row["text"] for row in read_rows(tmp_path)] == ["t"]
    told = "only the files of split train are read, not more.jsonl (set 'split' to change that)"
    assert caplog.messages == [f"{tmp_path}: {told}"]
    caplog.clear()
    assert [row["text"] for row in read_rows(tmp_path, split="train")] == ["t"]
    assert caplog.messages == []


def test_builtin_rows_are_read_by_name() -> None:
    rows = list(read_rows("builtin:pairs-train", limit=3))
    assert len(rows) == 3
    assert all({"anchor", "positive"} <= set(row) for row in rows)
    with pytest.raises(UserError):
        list(read_rows("builtin:no-such-set"))


def _read_all(path: Path) -> None:
    """Read to the end, or to a `UserError` of one line; anything else fails the test."""
    message = ""
    try:
        assert all(isinstance(row, dict) for row in read_rows(path))
    except UserError as error:
        message = str(error)
    assert "\n" not in message


FUZZED = ["csv", "tsv", "jsonl", "txt", "parquet"]
_PIECES = st.sampled_from(
    [b'"', b",", b"\t", b"\n", b"\r\n", b"\0", b"\xff", b"\xed\xa0\x80", b"{", b"}", b'{"a":', b"[", b"]", b"a",
     b"PAR1", b"\\ud800", b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"1e999", b"NaN"]
)  # fmt: skip


@pytest.mark.parametrize("kind", FUZZED)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.lists(_PIECES, max_size=30).map(b"".join)), st.booleans())
def test_fuzz_nothing_but_user_errors_escapes(tmp_path: Path, kind: str, data: bytes, packed: bool) -> None:
    path = tmp_path / f"fuzz.{kind}"
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    _read_all(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_fuzz_damaged_parquet(tmp_path: Path, data: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "good.parquet"
    if not path.exists():
        pq.write_table(pa.table({"anchor": ["a text", "more"] * 20, "negatives": [["x"], []] * 20}), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(bytes(content))
    _read_all(bad)
