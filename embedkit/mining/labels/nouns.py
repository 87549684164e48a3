"""Nouns of captions as labels of images (CatLIP): told without a parser, by where a word stands and how it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embedkit.errors import DataError, UserError
from embedkit.mining.output import check_output
from embedkit.mining.rows.result import RowsResult, finish
from embedkit.mining.rows.table import read_table
from embedkit.mining.selection.captions import nouns

_SHOWN = 10


@dataclass
class NounsReport:
    """The account of a call of `embedkit.mining.labels.nouns.label_nouns`.

    Attributes
    ----------
    rows, dropped : int
        Rows of the output, and rows left out since their captions name nothing of the vocabulary.
    vocabulary : int
        Nouns that are labels.
    rare : int
        Nouns left out, since fewer than ``least`` rows have them or ``size`` others are more frequent.
    most : list of (str, int)
        The most frequent ones, with their rows.
    mean : float
        Labels of a row of the output.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> next(NounsReport(rows=2, vocabulary=3, mean=1.5).lines())
    '2 rows with 1.5 of 3 nouns on average'
    """

    rows: int = 0
    dropped: int = 0
    vocabulary: int = 0
    rare: int = 0
    most: list[tuple[str, int]] = field(default_factory=list)
    mean: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The report for people, line by line."""
        yield f"{self.rows:,} rows with {self.mean:.1f} of {self.vocabulary:,} nouns on average"
        if self.dropped:
            yield f"{self.dropped:,} rows are left out: their captions name nothing that is a label"
        if self.rare:
            yield f"{self.rare:,} rarer nouns are no labels"
        yield "most frequent: " + ", ".join(f"{noun} ({count:,})" for noun, count in self.most)


def label_nouns(
    data: Any, *, output: str | Path | None = None, overwrite: bool = False, column: str | None = None,
    name: str = "nouns", least: int = 2, size: int | None = None, split: str | None = None,
    where: Mapping[str, Any] | None = None, limit: int | None = None,
    parser: Callable[[str], Sequence[str]] | None = None,
) -> RowsResult[NounsReport]:  # fmt: skip
    """The rows with the nouns of their captions as a column of lists, for a head of kind "classes".

    The vocabulary are the nouns of at least `least` rows, the `size` most frequent ones. Rows without any are left out.

    Parameters
    ----------
    data : str, Path or object
        Whatever `embedkit.train` reads, with English captions: a text, or a list of texts, in a row.
    output, overwrite, split, where, limit
        As in `embedkit.label`.
    column : str, optional
        The column of the captions.
    name : str
        The new column.
    least : int
        Rows that a label must have.
    size : int, optional
        Labels at most.
    parser : callable, optional
        ``parser(caption) -> nouns`` in place of the rules here (`embedkit.mining.selection.captions.nouns`), say
        WordNet's synsets.

    Raises
    ------
    UserError
        A setting is out of range; the output exists.
    DataError
        The rows cannot be read, have the column already, or no caption names anything.

    Examples
    --------
    >>> rows = [{"image": "1.png", "caption": "a dog on a beach"}, {"image": "2.png", "caption": "two dogs"}]
    >>> [row["nouns"] for row in label_nouns(rows, least=1).rows]
    [['beach', 'dog'], ['dog']]
    """
    for setting, value in (("least", least), ("size", 1 if size is None else size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{value!r} is no whole number from 1 on", where=setting, remedy="give another number")
    target = None if output is None else check_output(output, overwrite, data)
    table = read_table(data, split=split, where=where, limit=limit)
    captions = caption_column(table, column, name)
    things = [_nouns_of(row.get(captions), parser or nouns) for row in table.rows]
    counts = Counter(noun for own in things for noun in own)
    ranked = sorted((noun for noun, count in counts.items() if count >= least), key=lambda n: (-counts[n], n))[:size]
    if not ranked:
        what = f"no noun is in {least} captions" if counts else "no caption names anything"
        raise DataError(what, where=f"{table.name}, column {captions!r}",
                        remedy="lower --least" if counts else "give English captions with --column")  # fmt: skip
    labels = set(ranked)
    lists = [sorted(own & labels) for own in things]
    rows = [{**row, name: own} for row, own in zip(table.moved(target, None), lists, strict=True) if own]
    report = NounsReport(
        rows=len(rows), dropped=len(lists) - len(rows), vocabulary=len(ranked), rare=len(counts) - len(ranked),
        most=[(noun, counts[noun]) for noun in ranked[:_SHOWN]],
        mean=sum(map(len, lists)) / len(rows), notes=table.notes,
    )  # fmt: skip
    return finish(rows, report, target)


def caption_column(table: Any, column: str | None, name: str) -> str:
    """The column of a table that has the captions: the one that is named, or one called as captions are.

    Raises
    ------
    DataError
        There is none, or the table has a column `name` already.

    Examples
    --------
    >>> caption_column(read_table([{"image": "1.png", "caption": "a dog"}]), None, "nouns")
    'caption'
    """
    columns = ", ".join(table.columns)
    if name in table.columns:
        raise DataError(f"it has a column {name!r} already", where=table.name,
                        remedy="give the new column another name: --name NAME (name= in Python)")  # fmt: skip
    if column is not None and column not in table.columns:
        raise DataError(f"there is no column {column!r}", where=table.name, remedy=f"columns: {columns}")
    for guess in ("caption", "captions", "texts", "text") if column is None else (column,):
        if guess in table.columns:
            return guess
    raise DataError("it has no column of captions", where=table.name, remedy=f"name one with --column: {columns}")


def _nouns_of(cell: Any, parser: Callable[[str], Sequence[str]]) -> set[str]:
    texts = [cell] if isinstance(cell, str) else [text for text in cell or () if isinstance(text, str)]
    return {noun for text in texts for noun in parser(text)}
