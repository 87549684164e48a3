"""Broken files of evaluation, of encoding and of views: refused before a model is made, or counted and named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from tests.faults.data_frame import MODEL, TEXTS, Broken, one_line, tsv, write
from tests.faults.data_refused import parquet
from tests.faults.frame import Outcome, World, command

_HEADER = "subset\tscore\tsentence1\tsentence2\tsplit"


def sts(*bad: str | bytes, header: str = _HEADER) -> bytes:
    """Eight scored pairs; the lines of `bad` stand in place of the fourth (line 5) and on."""
    lines: list[str | bytes] = [header, *(f"s\t{n / 2}\t{a}\t{p}\ttest" for n, (a, p) in enumerate(TEXTS))]
    lines[4 : 4 + len(bad)] = bad
    return b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n"


def sts_csv(*bad: str) -> bytes:
    """The same with commas."""
    return b"\n".join(sts(*bad).replace(b"\t", b",").splitlines())


def sts_jsonl(bad: str | dict[str, Any]) -> bytes:
    """The same, an object a line; the fourth line is `bad`."""
    rows = [{"score": n / 2, "sentence1": a, "sentence2": p} for n, (a, p) in enumerate(TEXTS)]
    lines = [json.dumps(row) for row in rows]
    lines[3] = bad if isinstance(bad, str) else json.dumps({**rows[3], **bad})
    return "".join(f"{line}\n" for line in lines).encode()


def _columns(**change: list[Any]) -> bytes:
    rows = {"score": [n / 2 for n in range(8)], "sentence1": [a for a, _ in TEXTS], "sentence2": [p for _, p in TEXTS]}
    return parquet(**{**rows, **change})


def _while_training(suite: str, task: str) -> dict[str, Any]:
    return {"evaluation": {"suite": suite, "data": "FOLDER/data", "tasks": [task], "split": "test"}}


def _sts(name: str, file: str, content: bytes, *parts: str) -> Broken:
    """An STS file that a training run is to be evaluated on."""
    files = {"t.tsv": tsv(), file: content}
    return Broken(f"evaluation: {name}", files, (file, *parts), change=_while_training("sts", "stsb"))


def _beir(name: str, file: str, *parts: str, **change: str | bytes) -> Broken:
    files = {"t.tsv": tsv(), **{f"scifact/{path}": content for path, content in collection(**change).items()}}
    return Broken(f"evaluation: {name}", files, (file, *parts), change=_while_training("retrieval", "scifact"))


def collection(**change: str | bytes) -> dict[str, str | bytes]:
    """A collection in BEIR's form; `change` replaces a file by the beginning of its name."""
    corpus = "".join(json.dumps({"_id": f"d{n}", "title": "", "text": a}) + "\n" for n, (a, _) in enumerate(TEXTS))
    queries = "".join(json.dumps({"_id": f"q{n}", "text": p}) + "\n" for n, (_, p) in enumerate(TEXTS))
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in range(8))
    files = {"corpus": corpus, "queries": queries, "qrels": qrels, **change}
    return {"corpus.jsonl": files["corpus"], "queries.jsonl": files["queries"], "qrels/test.tsv": files["qrels"]}


REFUSED = [
    _sts("empty file", "stsb.tsv", b"", "empty"),
    _sts("header only", "stsb.tsv", _HEADER.encode(), "no rows"),
    _sts("a column is missing", "stsb.tsv", sts(header=_HEADER.replace("score", "points")), "'score'", "'points'"),
    _sts("a header name twice", "stsb.tsv", sts(header=_HEADER.replace("sentence1", "score")), "'score'", "twice"),
    _sts("the header again", "stsb.tsv", sts(_HEADER), ":5", "header"),
    _sts("a row with a cell too many", "stsb.tsv", sts("s\t1\ta\tb\ttest\tx"), ":5", "6 cells", "5"),
    _sts("an open quotation mark", "stsb.csv", sts_csv('s\t1\t"a\tb\ttest'), ":5", "never closed"),
    _sts("bytes of latin-1", "stsb.tsv", sts(b"s\t1\tna\xefve\tb\ttest"), ":5", "0xef", "UTF-8"),
    _sts("UTF-16", "stsb.tsv", sts().decode().encode("utf-16"), "UTF-16"),
    _sts("line ends of old Macs", "stsb.tsv", sts().replace(b"\n", b"\r"), "CR"),
    _sts("a NUL byte", "stsb.tsv", sts(b"s\t1\ta\0\tb\ttest"), ":5", "NUL"),
    _sts("gzip cut short", "stsb.tsv.gz", gzip.compress(sts())[:-12], "compressed"),
    _sts("a score that is NaN", "stsb.tsv", sts("s\tnan\ta\tb\ttest"), ":5", "'score'", "finite"),
    _sts("a score of letters", "stsb.tsv", sts("s\thigh\ta\tb\ttest"), ":5", "'score'", "'high'"),
    _sts("a score that is true", "stsb.jsonl", sts_jsonl({"score": True}), ":4", "'score'", "True"),
    _sts("equal scores", "stsb.tsv", sts(*[f"s\t0\t{a}\t{p}\ttest" for a, p in TEXTS])[: -1].replace(b"s\t0.5", b"s\t0")
         .replace(b"s\t1.0", b"s\t0"), "two different scores"),
    _sts("an empty text", "stsb.tsv", sts("s\t1\t \tb\ttest"), ":5", "'sentence1'", "empty"),
    _sts("only zero-width characters", "stsb.tsv", sts("s\t1\t\u200b\ufeff\tb\ttest"), ":5", "'sentence1'"),
    _sts("null for a text", "stsb.jsonl", sts_jsonl({"sentence1": None}), ":4", "'sentence1'", "empty"),
    _sts("a number for a text", "stsb.jsonl", sts_jsonl({"sentence1": 3}), ":4", "'sentence1'", "int"),
    _sts("a key twice", "stsb.jsonl", sts_jsonl('{"score": 1, "score": 2, "sentence1": "a", "sentence2": "b"}'), ":4",
         "'score' occurs twice"),
    _sts("a lone surrogate", "stsb.jsonl", sts_jsonl({"sentence1": "a \ud83d"}), ":4", "U+D83D"),
    _sts("a line that is not JSON", "stsb.jsonl", sts_jsonl("{"), ":4", "not JSON"),
    _sts("parquet cut short", "stsb.parquet", _columns()[:-20], "not a readable parquet"),
    _sts("parquet text of latin-1", "stsb.parquet", _columns(sentence1=["zebra"] * 8).replace(b"zebra", b"z\xefbra"),
         "UTF8"),
    _sts("a null in parquet", "stsb.parquet", _columns(sentence1=[None, *"abcdefg"]), ":1", "'sentence1'", "empty"),
    Broken("evaluation: no file for the task", {"t.tsv": tsv()}, ("data", "stsb", ".tsv"),
           change=_while_training("sts", "stsb")),
    _beir("qrels to unknown ids only", "test.tsv", "no query has a judgement",
          qrels="q\td\ts\n" + "".join(f"x{n}\td{n}\t1\n" for n in range(8))),
    _beir("qrels to unknown documents only", "test.tsv", "no judged document", "relevant",
          qrels="q\td\ts\n" + "".join(f"q{n}\tx{n}\t1\n" for n in range(8))),
    _beir("qrels with blanks for tabs", "test.tsv:2", "1 cells", "tab", qrels="q\td\ts\nq0 d0 1\n"),
    _beir("a judgement that is a fraction", "test.tsv:2", "'0.5'", "integer", qrels="q\td\ts\nq0\td0\t0.5\n"),
    _beir("a document id twice", "corpus.jsonl:2", "'d0'", "twice", corpus='{"_id": "d0", "text": "a"}\n' * 2),
    _beir("a key twice in the corpus", "corpus.jsonl:1", "'text' occurs twice",
          corpus='{"_id": "d0", "text": "a", "text": "b"}\n'),
    _beir("a lone surrogate in the corpus", "corpus.jsonl:1", "U+D83D", corpus='{"_id": "d0", "text": "\\ud83d"}\n'),
    _beir("an id that is a number and another than the judged one", "qrels/test.tsv", "ids are the same",
          corpus='{"_id": 7, "text": "a"}\n'),
    _beir("a corpus of no bytes", "corpus.jsonl", "empty", corpus=""),
    _beir("queries of latin-1", "queries.jsonl:1", "0xef", queries=b'{"_id": "q0", "text": "na\xefve"}\n'),
]  # fmt: skip


def model(folder: Path) -> Path:
    """A small model on disk."""
    from embedkit.config.model import ModelConfig
    from embedkit.factory import build

    build(ModelConfig.model_validate(MODEL), seed=0).save(folder)
    return folder


def unknown_ids(world: World) -> Outcome:
    """Judgements of ids that are not there are counted and named, on the console and in the report."""
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in range(8)) + "q0\tx1\t1\nx9\td1\t1\n"
    write(world.folder / "data" / "scifact", collection(qrels=qrels))
    ended = command(
        "eval", model(world.folder / "m"), "-s", "retrieval", "--tasks", "scifact", "--data", world.folder / "data",
        "--no-card",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for part in ("1 judged queries have no text and are left out: 'x9'", "1 judged documents are not in the corpus"):
        assert part in ended.out, ended.out
    return Outcome("1 judged query and 1 judged document named in a note", trials=2, kind="accounted skip")


ENCODED = [
    Broken("encode: null", {"t.jsonl": '{"text": "a"}\n{"text": null}\n'}, ("t.jsonl:2", "column text", "empty")),
    Broken("encode: a number for a text", {"t.jsonl": '{"text": "a"}\n{"text": 3}\n'}, ("t.jsonl:2", "int")),
    Broken("encode: a lone surrogate", {"t.jsonl": '{"text": "\\ud83d"}\n'}, ("t.jsonl:1", "U+D83D")),
    Broken("encode: bytes of latin-1", {"t.txt": b"a dog\nna\xefve\n"}, ("t.txt:2", "0xef", "iconv")),
    Broken("encode: empty file", {"t.txt": ""}, ("t.txt", "empty")),
    Broken("encode: header only", {"t.csv": "text\n"}, ("t.csv", "no rows")),
    Broken("encode: several columns, none of them text", {"t.csv": "a,b\n1,2\n"}, ("t.csv:2", "a, b", "--column")),
    Broken("encode: gzip cut short", {"t.txt.gz": gzip.compress(b"a dog\n" * 99)[:-12]}, ("t.txt.gz", "gzip")),
]  # fmt: skip


def not_encoded(world: World, broken: Broken) -> Outcome:
    """`embedkit encode` refuses in one line, and writes no file of vectors."""
    write(world.folder / "data", broken.files)
    target = world.folder / "v.npy"
    given = ["--input", world.folder / "data" / next(iter(broken.files)), "--output", target]
    line = one_line(command("encode", model(world.folder / "m"), *given), broken.parts)
    assert not target.exists()
    return Outcome(line.replace(str(world.folder), ""), kind="clear error")


def encoded_long(world: World) -> Outcome:
    """A text of 10 MB beside short ones is encoded, as its beginning would be."""
    import numpy as np

    texts = ["word " * 2_000_000, "a dog", " ", "word " * 20_000]
    write(world.folder / "data", {"t.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts)})
    ended = command(
        "encode", model(world.folder / "m"), "--input", world.folder / "data" / "t.jsonl", "--output",
        world.folder / "v.npy",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    vectors = np.load(world.folder / "v.npy")
    assert vectors.shape == (4, 16) and np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[0], vectors[3], atol=1e-5)
    return Outcome("4 vectors, all finite; that of 10 MB equals that of its beginning", kind="accepted")


VIEWS = [
    Broken("view: a table without its column", {"t.tsv": tsv(), "w.csv": "word,other\na,b\n"},
           ("w.csv", "'substitute'"), change={"method": {"name": "views", "anchor": [
               {"name": "substitution", "table": "FOLDER/data/w.csv"}]}}),
    Broken("view: a table with a null", {"t.tsv": tsv(), "w.jsonl": '{"word": "a", "substitute": null}\n'},
           ("w.jsonl", "row 1", "'substitute'"), change={"method": {"name": "views", "anchor": [
               {"name": "substitution", "table": "FOLDER/data/w.jsonl"}]}}),
]  # fmt: skip
