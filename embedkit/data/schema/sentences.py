"""Sentences of a text, and documents put together from rows or taken apart into them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from embedkit.data.schema.guesses import Guess
from embedkit.data.schema.roles import Binding
from embedkit.data.schema.rows import BadRow, Row

_SHORT = frozenset(
    re.findall(
        r"\w+",
        "al approx art ca cf ch co col corp dept dr ed eds esp etc eq fig figs gen gov hon inc jr lt ltd maj messrs mr "
        "mrs ms mt no nos op p pp prof rev sec sen sgt sr st vol vs",
    )
)
_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s+\S)|[。！？]+["'”’」』）]*""")
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_PARAGRAPH = re.compile(r"\s*\n\s*\n\s*")

_Outcome = tuple[tuple[int, int], "list[Row] | BadRow"]


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, by simple rules that know no language.

    A sentence ends at ``. ! ? …`` (and closing quotes or brackets) before white space, at their full-width forms, and
    at an empty line. A full stop ends none behind an initial, a well-known English abbreviation or a word with a stop
    inside (``e.g.``, ``U.S.``), nor before a small letter. Single line breaks are white space.

    Examples
    --------
    >>> split_sentences("Dr. Lee met J. Smith at 3.15 p.m. on Monday. They left! Why?\\n\\nA new paragraph")
    ['Dr. Lee met J. Smith at 3.15 p.m. on Monday.', 'They left!', 'Why?', 'A new paragraph']
    """
    sentences = []
    for paragraph in _PARAGRAPH.split(text):
        plain, start = " ".join(paragraph.split()), 0
        for end in _END.finditer(plain):
            if not _goes_on(plain, start, end.start(), end.end()):
                sentences.append(plain[start : end.end()].strip())
                start = end.end()
        sentences.append(plain[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _goes_on(text: str, start: int, stop: int, end: int) -> bool:
    """Whether the full stop at `stop` ends no sentence."""
    if text[stop] != ".":
        return False
    if text[end:].lstrip()[:1].islower():
        return True
    word = text[start:stop].rpartition(" ")[2].lstrip("(\"'“‘[")
    if text[stop : stop + 2] == ".." or not word:
        return False
    is_initial = len(word) == 1 and word.isupper() and word != "I"
    return is_initial or word.lower() in _SHORT or _DOTTED.fullmatch(word) is not None


def sentence_rows(row: Row, document: str) -> list[Row]:
    """A row for each sentence of a document, with the document's name and the place of the sentence in it.

    Examples
    --------
    >>> sentence_rows({"sentences": ["One.", "Two."], "label": 3}, "0:0:1")[1]
    {'label': 3, 'anchor': 'Two.', 'document_id': '0:0:1', 'position': 1}
    """
    rest = {role: value for role, value in row.items() if role != "sentences"}
    return [
        {**rest, "anchor": sentence, "document_id": document, "position": place}
        for place, sentence in enumerate(row["sentences"])
    ]


class Positions:
    """The place of each row in its document, where no column says it: rows are counted in their order.

    Examples
    --------
    >>> positions = Positions()
    >>> [positions.next(name) for name in ("a", "a", "b", "a")]
    [0, 1, 0, 2]
    """

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def next(self, document: str) -> int:
        """The place of the next row of a document."""
        place = self._count.get(document, 0)
        self._count[document] = place + 1
        return place


def gathered(outcomes: Iterable[_Outcome], where: Any) -> Iterator[_Outcome]:
    """Documents of rows that are sentences: neighbouring rows of one ``document_id``, sorted by ``position``.

    Other roles are those of a document's first row. Bad rows are passed on; ``where(place)`` names a place.

    Examples
    --------
    >>> rows = [{"anchor": "Two.", "document_id": "a", "position": 2}, {"anchor": "One.", "document_id": "a",
    ...          "position": 1}, {"anchor": "New.", "document_id": "b", "position": 1}]
    >>> [found for _, found in gathered([((0, i), [row]) for i, row in enumerate(rows)], str)]
    [[{'sentences': ['One.', 'Two.']}], [{'sentences': ['New.']}]]
    """
    names: set[str] = set()
    waiting: list[tuple[tuple[int, int], Row]] = []
    for place, outcome in outcomes:
        if isinstance(outcome, BadRow):
            yield place, outcome
            continue
        for row in outcome:
            name = row["document_id"]
            if waiting and waiting[-1][1]["document_id"] != name:
                yield waiting[0][0], [_document(waiting)]
                waiting = []
            if not waiting and name in names:
                yield place, BadRow(
                    "scattered document", "the rows of a document do not lie together", where=where(place),
                    remedy="sort the rows by document",
                )  # fmt: skip
                continue
            names.add(name)
            waiting.append((place, row))
    if waiting:
        yield waiting[0][0], [_document(waiting)]


def _document(rows: list[tuple[tuple[int, int], Row]]) -> Row:
    in_order = sorted((row for _, row in rows), key=lambda row: row["position"])
    rest = {role: value for role, value in rows[0][1].items() if role not in ("anchor", "document_id", "position")}
    return {**rest, "sentences": [row["anchor"] for row in in_order]}


def documents_guess(binding: Binding, split: bool, where: str) -> list[Guess]:
    """How documents are read, where one form is made of another.

    Examples
    --------
    >>> print(*documents_guess(Binding({}, documents="rows"), False, "data.train[0] (a.csv)"))
    data.train[0] (a.csv): neighbouring rows of one document_id are a document (set 'columns' to change that)
    """
    what = {
        "lists": "each list is a document, each of its sentences a row",
        "rows": "neighbouring rows of one document_id are a document",
    }.get(binding.documents or "")
    guesses = [Guess(where, what, "columns")] if what else []
    if split:
        guesses.append(Guess(where, "texts are cut into sentences by embedkit's own rules", "split_sentences"))
    return guesses


def check_count(rows: Any, limits: Mapping[str, Any], where: str) -> BadRow | None:
    """The fault of a document with fewer sentences than ``limits["sentences"]`` allows.

    Examples
    --------
    >>> print(check_count([{"sentences": ["One."]}], {"sentences": (3, 1e9)}, "a.jsonl:1"))
    a.jsonl:1: the document has 1 sentence, the method needs 3 or more; leave it out, or set data.on_bad_row: skip
    """
    if isinstance(rows, BadRow) or "sentences" not in limits or "sentences" not in rows[0]:
        return None
    least, count = limits["sentences"][0], len(rows[0]["sentences"])
    what = f"the document has {count} sentence{'' if count == 1 else 's'}, the method needs {least:g} or more"
    remedy = "leave it out, or set data.on_bad_row: skip"
    return None if count >= least else BadRow("short document", what, where=where, remedy=remedy)
