"""Retrieval data in BEIR's form: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``, each also gzipped.

Everything is checked when it is opened: ids that stand twice, ids that are not text, judgements that are not integers.
Judgements of unknown documents or queries are counted and named, never dropped in silence (Thakur et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedkit.errors import DataError
from embedkit.evaluation.datasets.tables import read_jsonl, read_lines


@dataclass
class Collection:
    """An opened collection.

    Attributes
    ----------
    document_ids, documents : list of str
        Ids and texts (title, blank, text) in file order.
    query_ids, queries : list of str
        Only queries that have a judgement in the split.
    qrels : dict of str to dict of str to int
        Judgements by query id and document id, for these queries.
    notes : list of str
        What did not match.
    """

    source: str
    document_ids: list[str]
    documents: list[str]
    query_ids: list[str]
    queries: list[str]
    qrels: dict[str, dict[str, int]]
    notes: list[str] = field(default_factory=list)


def _existing(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise DataError(f"no file {names[0]}", where=str(folder), remedy="BEIR's form: corpus, queries, qrels/SPLIT.tsv")


def _text(record: dict[str, Any], key: str, place: str, *, needed: bool = True) -> str:
    value = record.get(key)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise DataError(f"key {key!r} holds {value!r}, not text", where=place, remedy="write it as text in quotes")
    return value


def _read_texts(path: Path) -> tuple[list[str], list[str]]:
    """Ids and texts of a corpus or of queries."""
    ids: dict[str, int] = {}
    texts = []
    for line, record in read_jsonl(path):
        place = f"{path}:{line}"
        name = _text(record, "_id", place)
        if name in ids:
            raise DataError(f"the id {name!r} stands twice", where=place, remedy=f"first in line {ids[name]}")
        ids[name] = line
        title, body = _text(record, "title", place, needed=False), _text(record, "text", place)
        texts.append(f"{title} {body}".strip())
    if not ids:
        raise DataError("no rows", where=str(path), remedy="check that the file is complete")
    return list(ids), texts


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for line, text in read_lines(path):
        cells = text.split("\t")
        if not text or (line == 1 and not cells[-1].lstrip("-").isdigit()):
            continue  # header
        place = f"{path}:{line}"
        if len(cells) == 4:  # trec's form has an iteration in column 2
            cells = [cells[0], *cells[2:]]
        if len(cells) != 3:
            what = f"{len(cells)} cells, not query-id, corpus-id, score"
            raise DataError(what, where=place, remedy="put a tab between them")
        query, document, score = cells
        try:
            value = int(score)
        except ValueError as error:
            what = f"the judgement {score!r} is not an integer"
            raise DataError(what, where=place, remedy="write 0, 1, 2, ...") from error
        if qrels.setdefault(query, {}).setdefault(document, value) != value:
            what = f"two different judgements for query {query!r} and document {document!r}"
            raise DataError(what, where=place, remedy="keep one of them")
    if not qrels:
        raise DataError("no judgements", where=str(path), remedy="check that the file is complete")
    return qrels


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def open_collection(folder: Path, split: str) -> Collection:
    """Read and check a collection.

    Raises
    ------
    DataError
        A file is missing or a line cannot be used; or no judged query, or no relevant document, is there.
    """
    corpus, queries = _existing(folder, "corpus.jsonl"), _existing(folder, "queries.jsonl")
    judged = _existing(folder, f"qrels/{split}.tsv")
    document_ids, documents = _read_texts(corpus)
    query_ids, texts = _read_texts(queries)
    qrels = _read_qrels(judged)
    notes = []
    known, known_queries = set(document_ids), set(query_ids)
    strangers = [query for query in qrels if query not in known_queries]
    if strangers:
        notes.append(f"{len(strangers)} judged queries have no text and are left out: {_some(strangers)}")
    missing = sorted({d for q, row in qrels.items() if q in known_queries for d in row if d not in known})
    if missing:
        notes.append(f"{len(missing)} judged documents are not in the corpus and cannot be found: {_some(missing)}")
    kept = [row for row, query in enumerate(query_ids) if query in qrels]
    if not kept:
        raise DataError("no query has a judgement", where=str(judged), remedy="check that the ids are the same")
    if not any(value > 0 and d in known for row in kept for d, value in qrels[query_ids[row]].items()):
        what = "no judged document of the corpus is relevant"
        raise DataError(what, where=str(judged), remedy="check that the ids are the same")
    blank = [query_ids[row] for row in kept if not texts[row]]
    if blank:
        raise DataError(f"query {blank[0]!r} has no text", where=str(queries), remedy="mend or remove it")
    empty = [name for name, text in zip(document_ids, documents, strict=True) if not text]
    if empty:
        notes.append(f"{len(empty)} documents have no text: {_some(empty)}")
    names = [query_ids[row] for row in kept]
    return Collection(
        str(folder), document_ids, documents, names, [texts[row] for row in kept],
        {name: qrels[name] for name in names}, notes,
    )  # fmt: skip
