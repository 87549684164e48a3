"""Retrieval data: BEIR's ``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``, each also gzipped or in the hub's
parquet form (``corpus/*.parquet``); or one table of queries and the passages that answer them.

Everything is checked when it is opened: ids that stand twice, ids that are no ids, judgements that are not integers.
Judgements of unknown documents or queries are counted and named, never dropped in silence (Thakur et al. 2021).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedkit.data.vectors.sequences import axes_of
from embedkit.errors import DataError
from embedkit.evaluation.core.inputs import Item, item_key
from embedkit.evaluation.datasets.inputs import inputs_of
from embedkit.evaluation.datasets.splits import choose
from embedkit.evaluation.datasets.tables import Table, read_lines, read_table

_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
_LINES = (".tsv", ".txt", ".trec", ".qrels")
_QRELS_ENDINGS = (*_LINES, *(f"{ending}.gz" for ending in _LINES), *_ENDINGS)
_ID_KEYS = ("_id", "id")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass
class Collection:
    """An opened collection.

    Attributes
    ----------
    document_ids, documents : list
        Ids and texts (title, blank, text), or vectors, in file order.
    query_ids, queries : list of str
        Only queries that have a judgement in the split.
    qrels : dict of str to dict of str to int
        Judgements by query id and document id, for these queries.
    notes : list of str
        What did not match.

    Examples
    --------
    >>> Collection("faq", ["d0"], ["By card."], ["q0"], ["How do I pay?"], {"q0": {"d0": 1}}).qrels["q0"]
    {'d0': 1}
    """

    source: str
    document_ids: list[str]
    documents: list[Any]
    query_ids: list[str]
    queries: list[Any]
    qrels: dict[str, dict[str, int]]
    notes: list[str] = field(default_factory=list)


def _files(folder: Path, name: str) -> list[Path]:
    """The file or files of a part of a collection: ``NAME.jsonl``, or the hub's ``NAME/*.parquet`` and the like."""
    for ending in _ENDINGS:
        path = folder / f"{name}{ending}"
        if path.is_file():
            return [path]
    for inner in (folder / name, folder / "data"):
        for ending in _ENDINGS:
            start = "" if inner.name == Path(name).name else f"{Path(name).name}-"
            files = sorted(inner.glob(f"{start}*{ending}"))
            if files:
                return files
    return []


def is_collection(folder: Path) -> bool:
    """Whether a folder holds a corpus and queries in BEIR's form.

    Examples
    --------
    >>> is_collection(Path("no such folder"))
    False
    """
    return folder.is_dir() and bool(_files(folder, "corpus")) and bool(_files(folder, "queries"))


def _existing(folder: Path, name: str) -> list[Path]:
    files = _files(folder, name)
    if not files:
        remedy = "BEIR's form: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv"
        raise DataError(f"no file {name}.jsonl", where=str(folder), remedy=remedy)
    return files


def _text(record: dict[str, Any], key: str, place: str, *, needed: bool = True) -> str:
    value = record.get(key)
    if value is None and not needed:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and key in _ID_KEYS:
        return str(value)  # hand-made files number their rows; judgements name the digits
    if not isinstance(value, str):
        raise DataError(f"key {key!r} holds {value!r}, not text", where=place, remedy="write it as text in quotes")
    return value


def _id_key(record: dict[str, Any], place: str, keys: Sequence[str] = _ID_KEYS) -> str:
    key = next((name for name in keys if name in record), None)
    if key is None:
        there = ", ".join(map(repr, record))
        raise DataError(f"no key {keys[0]!r}", where=place, remedy=f"its keys are {there}: rename the one of the ids")
    return key


def _records(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of every row of some files."""
    for path in files:
        table = read_table(path)
        for row in range(len(table)):
            yield table.place(row), {name: cells[row] for name, cells in table.columns.items()}


def _read_texts(files: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Ids and texts of a corpus or of queries."""
    ids: dict[str, str] = {}
    texts = []
    for place, record in _records(files):
        name = _text(record, _id_key(record, place), place)
        if name in ids:
            raise DataError(f"the id {name!r} stands twice", where=place, remedy=f"first in {ids[name]}")
        ids[name] = place
        title, body = _text(record, "title", place, needed=False), _text(record, "text", place)
        texts.append(f"{title} {body}".strip())
    return list(ids), texts


def _judgement(score: object, place: str) -> int:
    """An integer, also written 1.0."""
    try:
        value = float(str(score))
        if value.is_integer():
            return int(value)
    except ValueError:
        pass
    what = f"the judgement {score!r} is not an integer"
    raise DataError(what, where=place, remedy="write 0, 1, 2, ...")


def _judgements(path: Path) -> Iterator[tuple[str, str, str, object]]:
    """Place, query id, document id and judgement of every row of a file."""
    if not path.name.removesuffix(".gz").endswith(_LINES):
        for place, record in _records([path]):
            keys = [_id_key(record, place, names) for names in (("query-id", "query_id"), ("corpus-id", "corpus_id"))]
            yield place, str(record[keys[0]]), str(record[keys[1]]), record.get("score", 1)
        return
    for line, text in read_lines(path):
        cells, place = text.split("\t"), f"{path}:{line}"
        if len(cells) == 1 and len(text.split()) == 4:  # trec_eval's form, whose ids have no blanks
            cells = text.split()
        if not text or (line == 1 and not _NUMBER.fullmatch(cells[-1])):
            continue  # header
        if len(cells) == 4:  # trec's form has an iteration in column 2
            cells = [cells[0], *cells[2:]]
        if len(cells) != 3:
            what = f"{len(cells)} cells, not query-id, corpus-id, score"
            raise DataError(what, where=place, remedy="put a tab between them")
        yield place, cells[0], cells[1], cells[2]


def _read_qrels(files: Sequence[Path]) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for path in files:
        for place, query, document, score in _judgements(path):
            value = _judgement(score, place)
            if qrels.setdefault(query, {}).setdefault(document, value) != value:
                what = f"two different judgements for query {query!r} and document {document!r}"
                raise DataError(what, where=place, remedy="keep one of them")
    if not qrels:
        raise DataError("no judgements", where=str(files[0]), remedy="check that the file is complete")
    return qrels


def _qrels_files(folder: Path, split: str) -> list[Path]:
    """The files of a split's judgements; "validation" and "dev" are the same.

    Raises
    ------
    DataError
        There are none; the splits that there are, are named.
    """
    files = sorted(path for path in (folder / "qrels").glob("*") if path.name.endswith(_QRELS_ENDINGS))
    names = {path: re.split(r"[.-]", path.name)[0] for path in files}
    equal = choose(split, names.values())
    exact = [name for name in equal if name == split] or equal
    matches = [path for path, name in names.items() if name in exact]
    if matches:
        return matches
    lone = _files(folder, "qrels") or [path for e in _QRELS_ENDINGS if (path := folder / f"qrels{e}").is_file()]
    if lone and not files:
        return lone
    there = ", ".join(dict.fromkeys(names.values()))
    form = "BEIR's form: corpus, queries, qrels/SPLIT.tsv"
    remedy = f"its splits are {there}: choose one with --split" if there else form
    raise DataError(f"no file qrels/{split}.tsv", where=str(folder), remedy=remedy)


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def open_collection(folder: Path, split: str) -> Collection:
    """A collection, read and checked.

    Raises
    ------
    DataError
        A file is missing or a line cannot be used; or no judged query, or no relevant document, is there.

    Examples
    --------
    >>> _ = Path("corpus.jsonl").write_text('{"_id": "d1", "title": "Pay", "text": "By card."}')
    >>> _ = Path("queries.jsonl").write_text('{"_id": "q1", "text": "How do I pay?"}')
    >>> Path("qrels").mkdir()
    >>> _ = Path("qrels/test.jsonl").write_text('{"query-id": "q1", "corpus-id": "d1", "score": 2}')
    >>> collection = open_collection(Path("."), "test")
    >>> collection.documents, collection.qrels
    (['Pay By card.'], {'q1': {'d1': 2}})
    """
    corpus, queries = _existing(folder, "corpus"), _existing(folder, "queries")
    judged = _qrels_files(folder, split)
    document_ids, documents = _read_texts(corpus)
    query_ids, texts = _read_texts(queries)
    qrels = _read_qrels(judged)
    notes = []
    corpus_ids, known_queries = set(document_ids), set(query_ids)
    strangers = [query for query in qrels if query not in known_queries]
    if strangers:
        notes.append(f"{len(strangers)} judged queries have no text and are left out: {_some(strangers)}")
    missing = sorted({d for q, row in qrels.items() if q in known_queries for d in row if d not in corpus_ids})
    if missing:
        notes.append(f"{len(missing)} judged documents are not in the corpus and cannot be found: {_some(missing)}")
    rows = [row for row, query in enumerate(query_ids) if query in qrels]
    if not rows:
        raise DataError("no query has a judgement", where=str(judged[0]), remedy="check that the ids are the same")
    if not any(value > 0 and d in corpus_ids for row in rows for d, value in qrels[query_ids[row]].items()):
        what = "no judged document of the corpus is relevant"
        raise DataError(what, where=str(judged[0]), remedy="check that the ids are the same")
    blank = [query_ids[row] for row in rows if not texts[row]]
    useless = [name for name in (query_ids[row] for row in rows) if not any(v > 0 for v in qrels[name].values())]
    if useless:
        notes.append(f"{len(useless)} judged queries have no relevant document and count as 0: {_some(useless)}")
    if blank:
        raise DataError(f"query {blank[0]!r} has no text", where=str(queries[0]), remedy="fix or remove it")
    empty = [name for name, text in zip(document_ids, documents, strict=True) if not text]
    if empty:
        notes.append(f"{len(empty)} documents have no text: {_some(empty)}")
    names = [query_ids[row] for row in rows]
    return Collection(
        str(folder), document_ids, documents, names, [texts[row] for row in rows],
        {name: qrels[name] for name in names}, notes,
    )  # fmt: skip


def collection_of_pairs(table: Table) -> Collection:
    """The collection that a table of ``query`` and ``positive`` makes, with more documents from ``negatives`` (lists).

    Equal texts are one query or one document; every passage beside a query is relevant to it, and the corpus is that of
    all passages. Vectors and sequences may stand in for both.

    Examples
    --------
    >>> table = Table({"query": ["how?", "how?"], "positive": ["so", "or so"]}, [1, 2], "faq.csv")
    >>> collection_of_pairs(table).qrels
    {'q0': {'d0': 1, 'd1': 1}}
    """
    if any(axes_of(cell) for cell in table.columns.get("query", ())[:1]):
        return _of_vectors(table)
    queries, passages = table.texts("query"), table.lists("positive")
    negatives = table.lists("negatives", empty=True) if "negatives" in table.columns else [[] for _ in queries]
    query_ids: dict[str, str] = {}
    documents: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for query, row in zip(queries, passages, strict=True):
        name = query_ids.setdefault(query, f"q{len(query_ids)}")
        for passage in row:
            qrels.setdefault(name, {})[documents.setdefault(passage, f"d{len(documents)}")] = 1
    for row in negatives:
        for passage in row:
            documents.setdefault(passage, f"d{len(documents)}")
    return Collection(table.source, list(documents.values()), list(documents), list(query_ids.values()),
                      list(query_ids), qrels)  # fmt: skip


def _of_vectors(table: Table) -> Collection:
    """The collection of a table whose ``query`` and ``positive`` are vectors or sequences; equal ones are one."""
    if "negatives" in table.columns:
        raise DataError("negatives of vectors are not read", where=table.source, remedy="leave the column out")
    queries, documents = inputs_of(table, "query"), inputs_of(table, "positive")
    query_ids: dict[bytes, str] = {}
    document_ids: dict[bytes, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    firsts: tuple[list[Item], list[Item]] = ([], [])
    for query, document in zip(queries, documents, strict=True):
        for item, ids, sign, items in ((query, query_ids, "q", firsts[0]), (document, document_ids, "d", firsts[1])):
            if item_key(item) not in ids:
                ids[item_key(item)] = f"{sign}{len(ids)}"
                items.append(item)
        qrels.setdefault(query_ids[item_key(query)], {})[document_ids[item_key(document)]] = 1
    return Collection(table.source, list(document_ids.values()), firsts[1], list(query_ids.values()), firsts[0], qrels)
