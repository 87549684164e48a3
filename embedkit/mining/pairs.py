"""What is mined: anchors with their positives, and the candidates among which negatives are looked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedkit.config.recipe import DataConfig
from embedkit.data.schema.parsers import TextReader, read_group
from embedkit.data.schema.rows import BadRow
from embedkit.data.sources.data_source import Account, Source
from embedkit.data.sources.objects import hold, release
from embedkit.data.sources.sources import find_parts
from embedkit.data.vectors.arrays import whole_part
from embedkit.errors import DataError, nearest

POSITIVE_IDS = ("positive_id", "positive_ids", "corpus_id", "passage_id", "docid", "doc_id", "pid")
"""Columns of pairs that are taken for the ids of their positives, the first that is there."""

CORPUS_IDS = ("id", "_id", "docid", "doc_id", "corpus_id", "passage_id", "pid", "uid", "uuid")
"""Columns of a corpus that are taken for the ids of its texts."""

CORPUS_TEXTS = ("text", "passage", "document", "contents", "content", "sentence", "positive", "answer")
"""Columns of a corpus that are taken for its texts."""

_FIX = "fix the row, or take it out of the file"
_PLACE = re.compile(r"^data\.train\[0\] \((.*?)\)(?=:|$| column)")
_CHANGE = re.compile(r" \(set '(\w+)' to change that\)$")
_OPTIONS = ("columns", "split", "where")


def text_key(text: str) -> str:
    """What equal texts have in common: the text with each run of white space as one blank, none at the ends.

    Examples
    --------
    >>> text_key(" By  card.\\n")
    'By card.'
    """
    return " ".join(text.split())


@dataclass(frozen=True)
class Pair:
    """An anchor with one of its positives.

    Attributes
    ----------
    anchor : int
        Place of the anchor in `Pairs.anchors`.
    positive : str
        The text.
    ids : tuple of str
        Ids of the positive.
    group : int, str or None
        What the row's group is called.
    record : int
        Which row of the file it comes from, from 0; several pairs may come from one.
    number : int
        Which of all pairs it is, from 0, those that repeat an earlier one counted.
    where : str
        ``file:row``.

    Examples
    --------
    >>> Pair(0, "By card.", ids=("d7",)).ids
    ('d7',)
    """

    anchor: int
    positive: str
    ids: tuple[str, ...] = ()
    group: int | str | None = None
    record: int = 0
    where: str = ""
    number: int = 0


@dataclass
class Pairs:
    """All pairs of a source; those that repeat an earlier one stand apart.

    Attributes
    ----------
    anchors : list of str
        Different anchors; texts that differ in white space alone are one.
    pairs : list of Pair
        In the order of the file.
    of_anchor : list of list of int
        For each anchor the places of its pairs.
    copies : dict
        Anchor -> pairs that repeat an earlier one: their ids and groups count.
    records, repeats : int
        Rows of the file, and the number of such copies.
    name : str
        How messages call the source.
    id_column : str or None
        Where the ids of the positives come from.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> pairs = read_pairs([{"question": "How do I pay?", "answer": "By card."}])
    >>> pairs.anchors, pairs.pairs[0].positive
    (['How do I pay?'], 'By card.')
    """

    anchors: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    of_anchor: list[list[int]] = field(default_factory=list)
    copies: dict[int, list[Pair]] = field(default_factory=dict)
    records: int = 0
    name: str = ""
    id_column: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def repeats(self) -> int:
        """The number of pairs that repeat an earlier one."""
        return sum(map(len, self.copies.values()))

    def all_of(self, anchor: int) -> list[Pair]:
        """The pairs of an anchor, copies among them."""
        return [*(self.pairs[place] for place in self.of_anchor[anchor]), *self.copies.get(anchor, ())]

    def first_records(self) -> list[int]:
        """For each anchor the row of the file where it stands first: the place of its vector."""
        return [self.pairs[places[0]].record for places in self.of_anchor]


@dataclass
class Candidates:
    """Different texts among which negatives are looked for, with all ids and groups of the rows that hold them.

    Attributes
    ----------
    texts : list of str
        The first of equal texts.
    records : list of int
        For each the row that holds it first: the place of its vector.
    by_text, by_id, by_group : dict
        Places of texts; by id and group there may be several.
    rows : int
        Rows that were read.
    name : str
        How messages call them.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> candidates = Candidates()
    >>> [candidates.add(text, ids=("d1",)) for text in ("a cat", "a  cat ", "a dog")]
    [0, 0, 1]
    >>> candidates.by_id
    {'d1': [0, 1]}
    """

    texts: list[str] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    by_text: dict[str, int] = field(default_factory=dict)
    by_id: dict[str, list[int]] = field(default_factory=dict)
    by_group: dict[str, list[int]] = field(default_factory=dict)
    rows: int = 0
    name: str = ""
    notes: list[str] = field(default_factory=list)

    def add(self, text: str, ids: Iterable[str] = (), group: int | str | None = None, *, equal: bool = False) -> int:
        """The place of a text, which is that of an equal one where there is one, unless `equal` ones stand apart."""
        place = self.by_text.setdefault(text_key(text), len(self.texts))
        if equal:
            place = len(self.texts)
        if place == len(self.texts):
            self.texts.append(text)
            self.records.append(self.rows)
        self.rows += 1
        for name in ids:
            _note(self.by_id, name, place)
        if group is not None:
            _note(self.by_group, str(group), place)
        return place

    def place_of(self, pair: Pair) -> int | None:
        """Where the positive of a pair stands, by its text or else by its ids."""
        place = self.by_text.get(text_key(pair.positive))
        return place if place is not None else next((self.by_id[one][0] for one in pair.ids if one in self.by_id), None)

    def exclusions(self, anchor: str, pairs: Iterable[Pair]) -> set[int]:
        """Places that can be no negatives of an anchor with these pairs: equal texts, the same id, the same group."""
        keys = {text_key(anchor), *(text_key(pair.positive) for pair in pairs)}
        places = {self.by_text[key] for key in keys if key in self.by_text}
        for pair in pairs:
            for name in pair.ids:
                places.update(self.by_id.get(name, ()))
            if pair.group is not None:
                places.update(self.by_group.get(str(pair.group), ()))
        return places


def _note(places_by_name: dict[str, list[int]], name: str, place: int) -> None:
    places = places_by_name.setdefault(name, [])
    if not places or places[-1] != place:
        places.append(place)


@contextmanager
def data_path(data: Any) -> Iterator[str]:
    """The path of a file, or what stands for an object in memory while the block runs.

    Examples
    --------
    >>> with data_path(["a cat"]) as path:
    ...     path.partition(":")[0]
    'object'
    """
    if isinstance(data, str | Path):
        yield str(data)
        return
    path = hold(data)
    try:
        yield path
    finally:
        release(path)


def read_pairs(
    data: Any, *, columns: Mapping[str, str] | None = None, split: str | None = None,
    where: Mapping[str, Any] | None = None, limit: int | None = None, id_column: str | None = None,
) -> Pairs:  # fmt: skip
    """The pairs of any source that `embedkit.train` reads.

    Parameters
    ----------
    data : str, Path or object
        A path, or a table or list of rows in memory; see `embedkit.train`.
    columns, split, where, limit
        The keys of `embedkit.config.recipe.SourceConfig`.
    id_column : str, optional
        The column with the id of the positive, or a list of ids; one of `POSITIVE_IDS` when None.

    Raises
    ------
    DataError
        A column is missing, or a row has no anchor or no positive; file and row are named.

    Examples
    --------
    >>> rows = [{"anchor": "a", "positive": "b"}, {"anchor": "a", "positive": "c"}, {"anchor": "a ", "positive": "b"}]
    >>> pairs = read_pairs(rows)
    >>> len(pairs.anchors), len(pairs.pairs), pairs.repeats
    (1, 2, 1)
    """
    with data_path(data) as path, our_words():
        source, notes = open_pairs(path, columns=columns, split=split, where=where, limit=limit)
        pairs = Pairs(name=path if isinstance(data, str | Path) else "the pairs", id_column=id_column, notes=notes)
        _fill(pairs, source)
    return pairs


def open_pairs(
    path: str, *, columns: Mapping[str, str] | None = None, split: str | None = None,
    where: Mapping[str, Any] | None = None, limit: int | None = None, also: frozenset[str] = frozenset(),
) -> tuple[Source, list[str]]:  # fmt: skip
    """The source of pairs at a path, and how its columns are read, in words; `also` are roles that are read besides.

    Examples
    --------
    >>> _ = Path("faq.csv").write_text("question,answer\\npay?,By card.\\n")
    >>> print(*open_pairs("faq.csv")[1])
    faq.csv: question is the anchor, answer is the positive (--columns changes that)
    """
    entry = {"path": path, "columns": None if columns is None else dict(columns), "split": split,
             "where": dict(where or {}), "limit": limit}  # fmt: skip
    config = DataConfig.model_validate({"train": [entry]})
    roles = frozenset({"anchor", "positive"})
    source = Source(config.train[0], config, 0, requires=roles, reads=roles | {"group"} | also, base_dir=Path())
    return source, [our_note(_PLACE.sub(r"\1", note)) for note in source.notes]


def our_note(note: str) -> str:
    """A note on how a source was read, with the option in place of the recipe's key, where there is one.

    Examples
    --------
    >>> our_note("faq: only the split train is read (set 'split' to change that)")
    'faq: only the split train is read (--split changes that)'
    """
    return _CHANGE.sub(lambda match: f" (--{match[1]} changes that)" if match[1] in _OPTIONS else "", note)


def _fill(pairs: Pairs, source: Source) -> None:
    """Take all rows of a source into `pairs`."""
    current: dict[str, Any] = {}

    def records() -> Iterator[tuple[tuple[int, int], dict[str, Any] | BadRow]]:
        nonlocal current
        for index, part in enumerate(source.parts):
            for number, values in part.records():
                current = values if isinstance(values, dict) else {}
                if pairs.records == 0 and pairs.id_column is None:
                    pairs.id_column = next((name for name in POSITIVE_IDS if name in current), None)
                pairs.records += 1
                yield (index, number), values

    place_of_anchor: dict[str, int] = {}
    known_pairs: set[tuple[int, str]] = set()
    count = 0
    for place, outcome in source.outcomes(Account(), records()):
        if isinstance(outcome, BadRow):
            raise outcome.refused(source.where(place))
        ids = _ids_of(current, pairs.id_column, source.where(place))
        for number, row in enumerate(outcome):
            own = ids[number : number + 1] if len(ids) == len(outcome) else ids
            anchor = place_of_anchor.setdefault(text_key(row["anchor"]), len(pairs.anchors))
            if anchor == len(pairs.anchors):
                pairs.anchors.append(row["anchor"])
                pairs.of_anchor.append([])
            pair = Pair(anchor, row["positive"], own, row.get("group"), pairs.records - 1, source.where(place), count)
            count += 1
            if (key := (anchor, text_key(row["positive"]))) in known_pairs:
                pairs.copies.setdefault(anchor, []).append(pair)
                continue
            known_pairs.add(key)
            pairs.of_anchor[anchor].append(len(pairs.pairs))
            pairs.pairs.append(pair)
    if not pairs.pairs:
        raise DataError("no pairs are left", where=pairs.name, remedy="check the file, and the values of where")


@contextmanager
def our_words() -> Iterator[None]:
    """Errors of the data modules without the words of recipes, which have no effect here.

    Examples
    --------
    >>> with our_words():
    ...     raise DataError("no rows", where="data.train[0] (faq.csv)")
    Traceback (most recent call last):
    ...
    embedkit.errors.DataError: faq.csv: no rows
    """
    try:
        yield
    except BadRow as bad:
        raise bad.refused() from bad.__cause__
    except DataError as error:
        where = None if error.where is None else _PLACE.sub(r"\1", error.where)
        raise DataError(error.what, where=where, remedy=error.remedy) from error.__cause__


def _ids_of(values: Mapping[str, Any], column: str | None, where: str) -> tuple[str, ...]:
    """The ids in a cell, which may be a list or empty."""
    if column is None:
        return ()
    if column not in values:
        raise DataError(f"no column {column!r} for ids", where=where, remedy=nearest(column, values))
    cell = values[column]
    cells: Sequence[Any] = cell if isinstance(cell, list | tuple) else [cell]
    for one in cells:
        if one is not None and not isinstance(one, str | int):
            raise DataError(f"an id is {type(one).__name__}, not text or a whole number",
                            where=f"{where} column {column!r}", remedy=_FIX)  # fmt: skip
    return tuple(str(one) for one in cells if one not in (None, ""))


def of_positives(pairs: Pairs) -> Candidates:
    """The positives of all pairs as candidates.

    Examples
    --------
    >>> of_positives(read_pairs([{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "b "}])).texts
    ['b']
    """
    candidates = Candidates(name=f"the positives of {pairs.name}")
    copies = [pair for several in pairs.copies.values() for pair in several]
    for pair in sorted([*pairs.pairs, *copies], key=lambda pair: pair.number):
        candidates.add(pair.positive, pair.ids, pair.group)
    return candidates


def read_corpus(
    data: Any, *, column: str | None = None, id_column: str | None = None, equal: bool = False,
    option: str = "corpus-",
) -> Candidates:  # fmt: skip
    """The texts of a corpus as candidates, with their ids and their ``group`` where they have any.

    Parameters
    ----------
    data : str, Path or object
        A path, or a table, list of rows or list of texts in memory.
    column : str, optional
        The column of the texts; one of `CORPUS_TEXTS`, or the only one, when None.
    id_column : str, optional
        The column of the ids; one of `CORPUS_IDS` when None.
    equal : bool
        Equal texts stand apart.
    option : str
        What stands before ``column`` in the options that name the columns.

    Raises
    ------
    DataError
        The corpus is empty, a column is missing or cannot be told, or a cell is no text; file and row are named.

    Examples
    --------
    >>> corpus = read_corpus([{"_id": "d1", "text": "a cat"}, {"_id": "d2", "text": "a dog"}])
    >>> corpus.texts, corpus.by_id
    (['a cat', 'a dog'], {'d1': [0], 'd2': [1]})
    """
    texts = TextReader(max_chars=1_000_000, cut=False)
    with data_path(data) as path, our_words():
        candidates = Candidates(name=path if isinstance(data, str | Path) else "the corpus")
        for part in map(whole_part, find_parts(path, prefer="train")):
            for number, values in part.records():
                where = f"{part.name}:{number}"
                if isinstance(values, BadRow):
                    raise values.refused(where)
                if candidates.rows == 0:
                    column = column or _text_column(values, where, option)
                    id_column = id_column or next((name for name in CORPUS_IDS if name in values), None)
                    candidates.notes = _reading(values, candidates.name, column, id_column, option)
                if column not in values:
                    raise DataError(f"no column {column!r}", where=where, remedy=nearest(str(column), values))
                try:
                    text = texts.text(values[str(column)])
                    group = None if values.get("group") in (None, "") else read_group(values["group"])
                except BadRow as bad:
                    raise bad.refused(f"{where} column {column!r}") from bad.__cause__
                candidates.add(text, _ids_of(values, id_column, where), group, equal=equal)
    if not candidates.rows:
        raise DataError("the corpus has no texts", where=candidates.name, remedy="give a file with a text a row")
    return candidates


def _reading(
    values: Mapping[str, Any], name: str, column: str, id_column: str | None, option: str
) -> list[str]:  # fmt: skip
    """How the columns of a corpus are read, in words, where it has several."""
    if len(values) == 1:
        return []
    rest = [other for other in values if other not in (column, id_column, "group")]
    ids = f", {id_column} their ids" if id_column is not None else ""
    unread = f"; not read: {', '.join(rest)}" if rest else ""
    other = " changes" if id_column is None else f" and --{option}id-column change"
    return [f"{name}: {column} holds the texts{ids}{unread} (--{option}column{other} that)"]


def _text_column(values: Mapping[str, Any], where: str, option: str) -> str:
    """The column of a corpus that holds the texts, by its name or because it is the only one."""
    names = [name for name in CORPUS_TEXTS if name in values] or (list(values) if len(values) == 1 else [])
    if not names:
        remedy = f"name it: --{option}column NAME ({option.replace('-', '_')}column= in Python)"
        raise DataError(f"which of the columns {', '.join(map(repr, values))} holds the texts?", where=where,
                        remedy=remedy)  # fmt: skip
    return names[0]
