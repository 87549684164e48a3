"""Training data that cannot be used: a line each, with the place and the remedy, and rows that can be skipped."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

from tests.faults.data_frame import TEXTS, Broken, csv, jsonl, tsv

LONG = "word " * 2_000_000  # 10 MB


def parquet(**columns: list[Any]) -> bytes:
    """A parquet file of these columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    handle = io.BytesIO()
    pq.write_table(pa.table(columns), handle)
    return handle.getvalue()


def _pairs(**spoilt: Any) -> dict[str, list[Any]]:
    """The good pairs as columns, the fourth row spoilt."""
    columns: dict[str, list[Any]] = {"anchor": [a for a, _ in TEXTS], "positive": [p for _, p in TEXTS]}
    for name, cell in spoilt.items():
        columns[name] = [*columns[name][:3], cell, *columns[name][4:]]
    return columns


def _one_line(name: str, line: str | bytes, *parts: str, reason: str) -> Broken:
    """A tsv with one bad line."""
    return Broken(name, {"t.tsv": tsv(line)}, ("t.tsv:5", *parts), {reason: 1})


def _one_object(name: str, bad: Any, *parts: str, reason: str, **more: Any) -> Broken:
    """A jsonl with one bad line."""
    return Broken(name, {"t.jsonl": jsonl(bad)}, ("t.jsonl:4", *parts), {reason: 1}, **more)


_TRIPLET = {"objective": {"name": "margin-mse"}}
_COSENT = {"objective": {"name": "cosent"}}
_SCORED = [{"anchor": a, "positive": p, "score": 0.5} for a, p in TEXTS]

FILES = [
    Broken("no such file", {}, ("t.tsv", "no such file", "check the path")),
    Broken("empty file", {"t.tsv": ""}, ("t.tsv", "empty")),
    Broken("header only, tsv", {"t.tsv": "anchor\tpositive\n"}, ("t.tsv", "no rows")),
    Broken("header only, csv without a line end", {"t.csv": "anchor,positive"}, ("t.csv", "no rows")),
    Broken("no rows, parquet", {"t.parquet": parquet(anchor=[], positive=[])}, ("t.parquet", "no rows")),
    Broken("blank lines only, jsonl", {"t.jsonl": "\n\n"}, ("t.jsonl", "no rows")),
    Broken("one row", {"t.tsv": "anchor\tpositive\na dog\tan animal\n"}, ("1 rows of", "do not fill", "4", "t.tsv")),
    Broken("fewer rows than a batch", {"t.tsv": tsv()}, ("8 rows", "9", "t.tsv"), change={"train": {"batch_size": 9}}),
    Broken("an empty file among good ones", {"d/a.tsv": tsv(), "d/b.tsv": ""}, ("d/b.tsv", "empty"),
           source={"path": "d"}),
    Broken("a header alone among good files", {"d/a.tsv": tsv(), "d/b.tsv": "anchor\tpositive\n"},
           ("d/b.tsv", "no rows"), {"empty file": 1}, source={"path": "d"}),
    Broken("a folder without data", {"papers/notes.md": "words"}, ("data/papers", "no data file", ".tsv"),
           source={"path": "papers"}),
    Broken("an unknown ending", {"t.dat": tsv()}, ("t.dat", "format")),
    Broken("UTF-16", {"t.tsv": tsv().decode().encode("utf-16")}, ("t.tsv", "UTF-16", "UTF-8")),
    Broken("line ends of old Macs", {"t.tsv": tsv().replace(b"\n", b"\r")}, ("t.tsv:1", "CR", "LF")),
    Broken("line ends of old Macs, txt", {"t.txt": "a dog runs\rit rains\rhe cooks\r"}, ("t.txt:1", "CR", "LF"),
           change={"method": {"name": "views"}}),
    Broken("commas in a tsv", {"t.tsv": csv()}, ("t.tsv", "role 'anchor'", "','")),
    Broken("gzip cut short", {"t.tsv.gz": gzip.compress(tsv())[:-12]}, ("t.tsv.gz", "gzip")),
    Broken("parquet cut short", {"t.parquet": parquet(**_pairs())[:-20]}, ("t.parquet", "not a readable parquet")),
    Broken("a web page as parquet", {"t.parquet": "<html>404</html>"}, ("t.parquet", "not a readable parquet")),
    Broken("a JSON array in a jsonl", {"t.jsonl": json.dumps(_SCORED)}, ("t.jsonl:1", "list", "a line")),
]  # fmt: skip
"""Whole files."""

COLUMNS = [
    Broken("a column is missing", {"t.tsv": tsv(header="anchor\tother")}, ("t.tsv", "role 'positive'", "'other'")),
    Broken("a mapped column is missing", {"t.tsv": tsv()}, ("t.tsv", "'anchr'", "'anchor'"),
           source={"columns": {"anchr": "anchor", "positive": "positive"}}),
    Broken("a header name twice, tsv", {"t.tsv": tsv(header="anchor\tanchor")}, ("t.tsv:1", "twice", "rename")),
    Broken("a header name twice, csv", {"t.csv": csv(header="text,text")}, ("t.csv:1", "'text'", "rename")),
    Broken("two columns for one role", {"t.csv": "query,question,positive\na,b,c\n"}, ("'query' and 'question'",)),
    Broken("a score where the positive is", {"t.tsv": tsv(header="anchor\tscore")}, ("role 'positive'", "'score'")),
    Broken("swapped: score and positive", {"t.jsonl": jsonl(score="a dog")}, ("t.jsonl:1", "'score'", "number"),
           change=_COSENT),
    Broken("a negative that is not there", {"t.tsv": tsv()}, ("t.tsv", "role 'negatives'"), change=_TRIPLET),
]  # fmt: skip
"""Headers and mappings."""

CELLS = [
    _one_line("a row with a cell too many", "a\tb\tc", "3 cells", "2", reason="ragged row"),
    _one_line("a row with a cell too few", "a dog", "1 cells", "2", reason="ragged row"),
    _one_line("a blank line", "", "blank", reason="ragged row"),
    _one_line("the header again", "anchor\tpositive", "header", reason="repeated header"),
    Broken("the header again, csv", {"t.csv": csv("anchor,positive")}, ("t.csv:5", "header"), {"repeated header": 1}),
    Broken("an open quotation mark", {"t.csv": csv('"a dog,b')}, ("t.csv:5", "never closed", '""')),
    Broken("text after a quotation", {"t.csv": csv('"a dog" runs,b')}, ("t.csv:5", "quotation"), {"bad quotes": 1}),
    _one_line("bytes of latin-1", b"a na\xefve dog\tan animal", "not UTF-8", "0xef", "iconv", reason="not UTF-8"),
    Broken("parquet text of latin-1", {"t.parquet": parquet(anchor=["a"]).replace(b"a", b"\xef", 1)}, ("t.parquet",)),
    _one_line("a NUL byte", b"a\0dog\tan animal", "NUL", "byte", reason="NUL byte"),
    _one_object("a NUL in an escape", {"anchor": "a\0dog", "positive": "b"}, "NUL", reason="NUL byte"),
    _one_object("a lone surrogate", '{"anchor": "a \\ud83d dog", "positive": "b"}', "U+D83D", reason="lone surrogate"),
    Broken("10 MB in a cell", {"t.tsv": tsv(f"a dog\t{LONG}")}, ("t.tsv:5", "'positive'", "cut_long"),
           {"long text": 1}),
    _one_line("an empty text", "a dog\t", "'positive'", "empty", reason="blank text"),
    _one_line("only white space", "a dog\t \u00a0\u3000", "'positive'", "white space", reason="blank text"),
    _one_line("only zero-width characters", "a dog\t\u200b\u200d\ufeff", "'positive'", reason="blank text"),
    _one_line("only blank letters", "a dog\t\u3164\u2800", "'positive'", reason="blank text"),
    _one_object("null", {"anchor": "a dog", "positive": None}, "'positive'", "null", reason="missing value"),
    _one_object("NaN for a text", '{"anchor": "a dog", "positive": NaN}', "'positive'", "nan", reason="wrong type"),
    _one_object("a number for a text", {"anchor": "a dog", "positive": 3}, "'positive'", "int 3", reason="wrong type"),
    _one_object("true for a text", {"anchor": "a dog", "positive": True}, "'positive'", "bool", reason="wrong type"),
    _one_object("a list for a text", {"anchor": "a dog", "positive": ["b"]}, "'positive'", "list", reason="wrong type"),
    _one_object("an object for a text", {"anchor": "a", "positive": {"b": 1}}, "'positive'", "dict",
                reason="wrong type"),
    _one_object("a key is missing", {"anchor": "a dog"}, "'positive'", reason="missing column"),
    _one_object("a key twice", '{"anchor": "a", "positive": "b", "positive": "c"}', "'positive' occurs twice",
                reason="duplicate key"),
    _one_object("a line that is not JSON", '{"anchor": "a dog", ', "not JSON", "column", reason="bad JSON"),
    _one_object("a line that is a list", '["a", "b"]', "list", "object", reason="bad JSON"),
    _one_object("JSON of a million brackets", "[" * 1_000_000, "JSON", reason="bad JSON"),
    Broken("a null in parquet", {"t.parquet": parquet(**_pairs(positive=None))}, ("t.parquet:4", "'positive'", "null"),
           {"missing value": 1}),
    Broken("numbers in parquet", {"t.parquet": parquet(anchor=list(range(8)), positive=[p for _, p in TEXTS])},
           ("t.parquet:1", "'anchor'", "int 0", "mapping")),
]  # fmt: skip
"""Rows and texts."""

_NEGATIVES = {"negatives": ["a stone"]}


def _with(name: str, key: str, cell: Any, *parts: str, reason: str, objective: dict[str, Any], good: Any) -> Broken:
    """A jsonl with one bad value of a further role; `good` is that of all other rows."""
    bad = {"anchor": "a dog", "positive": "an animal", key: cell}
    where = ("t.jsonl:4", *parts)
    return Broken(name, {"t.jsonl": jsonl(bad, **{key: good})}, where, {reason: 1}, change={"objective": objective})


def _negatives(name: str, cell: Any, *parts: str, reason: str) -> Broken:
    bad = {"anchor": "a dog", "positive": "an animal", "negatives": cell, "score": 0.5}
    rows = {"t.jsonl": jsonl(bad, negatives=["a stone"], score=0.5)}
    return Broken(name, rows, ("t.jsonl:4", *parts), {reason: 1}, change={"objective": {"name": "margin-mse"}})


def _score(name: str, cell: Any, *parts: str, objective: str = "cosent", reason: str = "bad score") -> Broken:
    return _with(name, "score", cell, "'score'", *parts, reason=reason, objective={"name": objective}, good=0.5)


def _label(name: str, cell: Any, *parts: str, reason: str = "bad label") -> Broken:
    bad = {"anchor": "a dog", "positive": "an animal", "label": cell}
    return Broken(
        name, {"t.jsonl": jsonl(bad, label=1)}, ("t.jsonl:4", "'label'", *parts), {reason: 1},
        change={"data": {"sampler": "by-label"}, "objective": {"name": "supcon"}},
    )  # fmt: skip


VALUES = [
    _negatives("no negative", [], "no negative", reason="no negatives"),
    _negatives("a list in the list of negatives", [["a stone"]], "'negatives'", "list", reason="wrong type"),
    _negatives("a text for the list of negatives", "a stone", "'negatives'", "JSON list", reason="bad list"),
    _negatives("null in the list of negatives", ["a", None], "'negatives'", "null", reason="missing value"),
    _negatives("an empty text among negatives", ["a", ""], "'negatives'", "empty", reason="blank text"),
    _score("a score that is NaN", float("nan"), "nan", "finite"),
    _score("an infinite score", float("-inf"), "inf", "finite"),
    _score("a score of letters", "high", "number", "'high'", reason="wrong type"),
    _score("a score that is null", None, "number", "null", reason="missing value"),
    _score("a list for a score", [0.5], "number", "list", reason="wrong type"),
    _score("a score of 5 for a cosine", 5, "5", "-1", "1", objective="cosine-mse"),
    _label("a negative label", -1, "-1", "0, 1, 2"),
    _label("a label that is a fraction", 1.5, "integer", "1.5", reason="wrong type"),
    _label("a label of letters", "cat", "integer", "'cat'", reason="wrong type"),
    _label("a label of 25 digits", 10**24, "out of range"),
    Broken("a label beyond the classes", {"t.jsonl": jsonl({"anchor": "a", "positive": "b", "label": 3}, label=1)},
           ("t.jsonl:4", "'label'", "3", "0", "2"), {"bad label": 1}, change={"method": {"name": "consert-sup"}}),
    Broken("a group that is a list", {"t.jsonl": jsonl({"anchor": "a", "positive": "b", "group": [1]}, group=1)},
           ("t.jsonl:4", "'group'", "list"), {"wrong type": 1},
           change={"data": {"sampler": "no-duplicates"}, "train": {"batch_size": 1}}),
    Broken("a filter that leaves nothing", {"t.tsv": tsv()}, ("no rows are left", "8 left out", "'a man plays"),
           source={"where": {"anchor": "z"}}),
    Broken("a filter on a column that is not there", {"t.tsv": tsv()}, ("'where'", "'lang'"),
           source={"where": {"lang": "en"}}),
]  # fmt: skip
"""Roles besides the texts."""

ALL = [*FILES, *COLUMNS, *CELLS, *VALUES]
