"""`embedkit.mine_positives`, `embedkit.mine_paraphrases`, `embedkit.mine_bitext`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.errors import DataError
from embedkit.evaluation.core.stats import Array
from embedkit.mining.api import MiningResult, VectorSource
from embedkit.mining.neighbours.bitext import bitext
from embedkit.mining.neighbours.paraphrases import paraphrases
from embedkit.mining.neighbours.positives import Bands, band_rows, bands
from embedkit.mining.neighbours.report import NeighbourReport
from embedkit.mining.neighbours.settings import (
    BitextSettings,
    NeighbourSettings,
    ParaphraseSettings,
    PositiveSettings,
)
from embedkit.mining.neighbours.tables import Table, Tables
from embedkit.mining.output import check_output, write_rows
from embedkit.mining.pairs import Candidates, read_corpus
from embedkit.mining.parts import Parts, open_parts
from embedkit.mining.settings import refuse_idle
from embedkit.system.processes import join

Progress = Callable[[int, int], None]


def mine_paraphrases(
    data: Any, model: Any = None, *, output: str | Path | None = None, overwrite: bool = False,
    column: str | None = None, vectors: VectorSource | None = None, device: str | None = None,
    progress: Progress | None = None, load_options: Mapping[str, Any] | None = None, **settings: Any,
) -> MiningResult:  # fmt: skip
    """Pairs of texts that are near to each other, the highest score first.

    Parameters
    ----------
    data : str, Path or object
        A file with a column of texts, or a list of texts.
    model : str, Path or Model, optional
        A folder, a hub id, or anything with ``encode``; not needed where vectors are given.
    output : str or Path, optional
        ``.jsonl`` or ``.parquet``, which ``embedkit train pairs`` reads.
    overwrite : bool
        Replace an existing output.
    column : str, optional
        The column of the texts.
    vectors : str, Path or array, optional
        ``.npy`` or array (N, D), one vector a row, in place of the model.
    device, progress, load_options
        See `embedkit.mine`.
    **settings
        See `embedkit.mining.neighbours.settings.ParaphraseSettings`.

    Raises
    ------
    UserError
        A setting is unknown, out of range, or has no effect; the output exists.
    DataError
        Texts or vectors cannot be used, or no pair is within the bounds.

    Examples
    --------
    >>> import embedkit
    >>> texts = ["How do I pay?", "Where are you?", "How can I pay?"]
    >>> vectors = np.array([[1.0, 0.1], [0.0, 1.0], [1.0, 0.0]])
    >>> embedkit.mine_paraphrases(texts, vectors=vectors, min_score=0.9).rows
    [{'anchor': 'How do I pay?', 'positive': 'How can I pay?'}]
    """
    options = ParaphraseSettings.of(settings)
    target = None if output is None else check_output(output, overwrite, data)
    texts = read_corpus(data, column=column, option="", equal=options.equal_texts == "keep")
    if len(texts.texts) < 2:
        raise DataError("there is one text, and nothing to pair it with", where=texts.name, remedy="give more texts")
    _check_top_k(options.top_k, len(texts.texts) - 1, texts.name)
    tables = [Table(texts, vectors, "vectors", None, options.prompt)]

    def find(space: Tables, parts: Parts) -> tuple[list[dict[str, Any]], NeighbourReport]:
        places, scores = paraphrases(space, options, parts)
        return _pairs(places, scores, texts, texts, options)

    return _mine(tables, model, options, target, find, device, load_options, progress)


def mine_bitext(
    source: Any, target: Any, model: Any = None, *, output: str | Path | None = None, overwrite: bool = False,
    source_column: str | None = None, target_column: str | None = None,
    source_vectors: VectorSource | None = None, target_vectors: VectorSource | None = None,
    device: str | None = None, progress: Progress | None = None, load_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> MiningResult:  # fmt: skip
    """Translations among the texts of two languages, the highest margin first (Artetxe & Schwenk 2019, 1811.01136).

    Parameters
    ----------
    source, target : str, Path or object
        Files with a column of texts, or lists of texts.
    model : str, Path or Model, optional
        A folder, a hub id, or anything with ``encode``; not needed where both vectors are given.
    output, overwrite
        See `mine_paraphrases`.
    source_column, target_column : str, optional
        The columns of the texts.
    source_vectors, target_vectors : str, Path or array, optional
        ``.npy`` or arrays (N, D), one vector a row, in place of the model.
    device, progress, load_options
        See `embedkit.mine`.
    **settings
        See `embedkit.mining.neighbours.settings.BitextSettings`.

    Raises
    ------
    UserError, DataError
        As `mine_paraphrases`.

    Examples
    --------
    >>> import embedkit
    >>> english, german = ["a cat", "a dog"], ["ein Hund", "eine Katze"]
    >>> vectors = {"source_vectors": np.array([[1, 0.1], [0.2, 1]]), "target_vectors": np.array([[0.1, 1], [1, 0.2]])}
    >>> embedkit.mine_bitext(english, german, **vectors, top_k=2).rows
    [{'anchor': 'a cat', 'positive': 'eine Katze'}, {'anchor': 'a dog', 'positive': 'ein Hund'}]
    """
    options = BitextSettings.of(settings)
    place = None if output is None else check_output(output, overwrite, source, target)
    sides = [
        read_corpus(source, column=source_column, option="source-"),
        read_corpus(target, column=target_column, option="target-"),
    ]
    for side in sides:
        _check_top_k(options.top_k if "top_k" in settings else None, len(side.texts), side.name)
    sources = ((source_vectors, "source_vectors", options.source_prompt),
               (target_vectors, "target_vectors", options.target_prompt))  # fmt: skip
    tables = [Table(texts, vectors, name, None, prompt)
              for texts, (vectors, name, prompt) in zip(sides, sources, strict=True)]  # fmt: skip

    def find(space: Tables, parts: Parts) -> tuple[list[dict[str, Any]], NeighbourReport]:
        places, scores = bitext(space, options, parts)
        return _pairs(places, scores, sides[0], sides[1], options)

    return _mine(tables, model, options, place, find, device, load_options, progress)


def mine_positives(
    data: Any, model: Any = None, *, corpus: Any = None, output: str | Path | None = None, overwrite: bool = False,
    column: str | None = None, id_column: str | None = None, corpus_column: str | None = None,
    corpus_id_column: str | None = None, vectors: VectorSource | None = None,
    corpus_vectors: VectorSource | None = None, device: str | None = None, progress: Progress | None = None,
    load_options: Mapping[str, Any] | None = None, **settings: Any,
) -> MiningResult:  # fmt: skip
    """Texts with near neighbours as positives and, where asked for, farther ones and random ones as negatives.

    With the vectors of a citation graph and ``positive_ranks="20:25", negative_ranks="3998:4000", easy_negatives=3,
    one_per_row=True`` these are the triplets of SciNCL (Ostendorff et al. 2022, arXiv 2202.06671).

    Parameters
    ----------
    data : str, Path or object
        A file with a column of texts, or a list of texts.
    model : str, Path or Model, optional
        A folder, a hub id, or anything with ``encode``; not needed where all vectors are given.
    corpus : str, Path or object, optional
        Texts among which neighbours are looked for; the texts themselves when None.
    output, overwrite
        See `mine_paraphrases`.
    column, id_column, corpus_column, corpus_id_column : str, optional
        The columns of texts and ids: a text is no neighbour of itself, by its id or its words.
    vectors, corpus_vectors : str, Path or array, optional
        ``.npy`` or arrays (N, D), one vector a row: of another model, or of a graph.
    device, progress, load_options
        See `embedkit.mine`.
    **settings
        See `embedkit.mining.neighbours.settings.PositiveSettings`.

    Raises
    ------
    UserError, DataError
        As `mine_paraphrases`.

    Examples
    --------
    >>> import embedkit
    >>> vectors = np.array([[1.0, 0.1], [0.0, 1.0], [1.0, 0.0]])
    >>> embedkit.mine_positives(["pay?", "where?", "pay how?"], vectors=vectors, negative_ranks="1:2").rows[0]
    {'anchor': 'pay?', 'positive': 'pay how?', 'negative_1': 'where?'}
    """
    options = PositiveSettings.of(settings)
    target = None if output is None else check_output(output, overwrite, data, corpus)
    if corpus is None:
        idle = {"corpus_column": corpus_column, "corpus_id_column": corpus_id_column, "corpus_vectors": corpus_vectors,
                "corpus_prompt": options.corpus_prompt}  # fmt: skip
        refuse_idle("there is no corpus", idle, remedy="give a corpus, or leave it out")
    texts = read_corpus(data, column=column, id_column=id_column, option="")
    side = None if corpus is None else "query"
    tables = [Table(texts, vectors, "vectors", side, options.prompt)]  # type: ignore[arg-type]
    candidates = texts
    if corpus is not None:
        candidates = read_corpus(corpus, column=corpus_column, id_column=corpus_id_column)
        tables.append(Table(candidates, corpus_vectors, "corpus_vectors", "document", options.corpus_prompt))
    count = len(candidates.texts) - (corpus is None)
    if options.last_rank > count:
        name = "positive_ranks" if options.positives[1] > count else "negative_ranks"
        raise DataError(f"{name} is {getattr(options, name)}, and a text has {count:,} others", where=candidates.name,
                        remedy="lower it, or give more texts")  # fmt: skip

    def find(space: Tables, parts: Parts) -> tuple[list[dict[str, Any]], NeighbourReport]:
        return _banded(bands(space, options, parts), texts, candidates, options)

    return _mine(tables, model, options, target, find, device, load_options, progress)


def _check_top_k(top_k: int | None, count: int, name: str) -> None:
    if top_k is not None and top_k > count:
        raise DataError(f"top_k is {top_k:,}, and there are {count:,} texts to choose from", where=name,
                        remedy="lower it, or give more texts")  # fmt: skip


def _mine(
    tables: list[Table], model: Any, settings: NeighbourSettings, target: Path | None,
    find: Callable[[Tables, Parts], tuple[list[dict[str, Any]], NeighbourReport]], device: str | None,
    load_options: Mapping[str, Any] | None, progress: Progress | None,
) -> MiningResult:  # fmt: skip
    """Vectors, search, output: what the three ways share."""
    state = join(cpu=device == "cpu")
    space = Tables(tables, model, settings, device, dict(load_options or {}), progress)
    with open_parts(target, space.identity, state) as parts:
        space.fill(parts)
        rows, report = find(space, parts)
        report.texts = len(tables[0].texts.texts)
        report.others = len(tables[1].texts.texts) if len(tables) > 1 else 0
        report.notes = [note for table in tables for note in table.texts.notes]
        report.rows = len(rows)
        if target is not None and parts.main:
            write_rows(target, rows)
    return MiningResult(rows, report, target)


def _pairs(
    places: Array, scores: Array, firsts: Candidates, seconds: Candidates, settings: NeighbourSettings
) -> tuple[list[dict[str, Any]], NeighbourReport]:
    """Rows and report of pairs (P, 2)."""
    if not len(places):
        bounds = [f"{name}={getattr(settings, name)}" for name in ("min_score", "max_score")
                  if getattr(settings, name, None) is not None]  # fmt: skip
        raise DataError(f"no pair is left ({', '.join(bounds) or 'none has a margin above 0'})", where=firsts.name,
                        remedy="loosen these bounds")  # fmt: skip
    texts = [(firsts.texts[a], seconds.texts[b]) for a, b in places.tolist()]
    report = NeighbourReport()
    report.describe(texts, scores)
    return list(_pair_rows(texts, scores, settings)), report


def _pair_rows(
    texts: list[tuple[str, str]], scores: Array, settings: NeighbourSettings
) -> Iterator[dict[str, Any]]:  # fmt: skip
    for (first, second), score in zip(texts, scores.tolist(), strict=True):
        extra = {"score": round(score, 6)} if settings.output_scores else {}
        yield {"anchor": first, "positive": second, **extra}


def _banded(
    several: Iterator[tuple[int, Bands]], texts: Candidates, candidates: Candidates, settings: PositiveSettings
) -> tuple[list[dict[str, Any]], NeighbourReport]:
    """Rows and report of bands."""
    rows: list[dict[str, Any]] = []
    pairs: list[tuple[str, str]] = []
    scores: list[Array] = []
    without = lacking = 0
    for row, one in several:
        without += not len(one.positives)
        lacking += len(one.negatives) < settings.num_negatives
        pairs += [(texts.texts[row], candidates.texts[place]) for place in one.positives.tolist()]
        scores.append(one.scores)
        rows += band_rows(texts.texts[row], one, candidates.texts, settings)
    if not pairs:
        raise DataError(f"no text has a positive (min_score={settings.min_score})", where=texts.name,
                        remedy="lower min_score")  # fmt: skip
    report = NeighbourReport(counts={"texts without a positive": without, "texts with fewer negatives": lacking})
    report.describe(pairs, np.concatenate(scores))
    return rows, report
