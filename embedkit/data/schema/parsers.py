"""One cell to one value of a role: every check of a text, list, score, label, group or image is here.

Each function takes the cell as a reader gave it and raises `BadRow` without a place; the caller adds file, row and
column.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from embedkit.data.schema.characters import check_characters
from embedkit.data.schema.rows import BadRow

_INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and signs by their category, drawn as nothing
_LARGEST = 2**63 - 1


class TextReader:
    """A reader of texts and lists of texts, with a limit on their length.

    Parameters
    ----------
    max_chars : int
        Longest text, in characters.
    cut : bool
        Cut longer texts instead of refusing them; `cut_texts` counts them.

    Examples
    --------
    >>> reader = TextReader(max_chars=8, cut=True)
    >>> reader.text("a long text"), reader.texts('["a", "b"]'), reader.optional_text(" "), reader.cut_texts
    ('a long t', ['a', 'b'], None, 1)
    """

    def __init__(self, max_chars: int, cut: bool) -> None:
        self.max_chars, self.cut, self.cut_texts = max_chars, cut, 0

    def text(self, cell: Any) -> str:
        """A text with at least one visible character.

        Bytes of a file are read as UTF-8, a passage ``{"title": .., "text": ..}`` as title, blank, text.
        """
        if isinstance(cell, bytes):
            cell = _from_bytes(cell)
        elif isinstance(cell, dict) and isinstance(cell.get("text"), str):
            cell = f"{cell.get('title') or ''} {cell['text']}".strip()
        if not isinstance(cell, str):
            raise _wrong("text", cell)
        if is_blank(cell):
            raise BadRow("blank text", "the text is empty" if not cell else "the text is only white space", remedy=_FIX)
        check_characters(cell)
        if len(cell) <= self.max_chars:
            return cell
        if not self.cut:
            raise BadRow(
                "long text",
                f"the text has {len(cell)} characters, more than max_chars = {self.max_chars}",
                remedy="set data.cut_long: true to cut it, or raise data.max_chars",
            )
        self.cut_texts += 1
        return self.text(cell[: self.max_chars])

    def texts(self, cell: Any) -> list[str]:
        """A list of texts, given as a list or as the text of a JSON list; it may be empty."""
        if isinstance(cell, str):
            cell = _json_list(cell)
        if not isinstance(cell, Sequence) or isinstance(cell, bytes):
            raise _wrong("a list of texts", cell)
        return [self.text(item) for item in cell]

    def some_texts(self, cell: Any) -> list[str]:
        """A list of at least one text."""
        texts = self.texts(cell)
        if not texts:
            raise BadRow("empty list", "the list of texts is empty", remedy=_FIX)
        return texts

    def optional_text(self, cell: Any) -> str | None:
        """A text, or None where the cell is null or blank (a row with fewer negatives than there are columns)."""
        return None if cell is None or (isinstance(cell, str) and is_blank(cell)) else self.text(cell)


_FIX = "fix the row, or set data.on_bad_row: skip"


def is_blank(text: str) -> bool:
    """Whether a text has no visible character (white space, zero-width, control and blank characters only).

    Examples
    --------
    >>> is_blank(" \\u200b"), is_blank("a")
    (True, False)
    """
    if text and "!" <= text[0] <= "~":
        return False
    return all(char.isspace() or char in _BLANK or unicodedata.category(char) in _INVISIBLE for char in text)


def read_score(cell: Any) -> float:
    """A finite number, given as a number or as text.

    Examples
    --------
    >>> read_score("4.2"), read_score(1)
    (4.2, 1.0)
    """
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        raise _wrong("a number", cell)
    try:
        value = float(cell)
    except (ValueError, OverflowError) as error:
        raise _wrong("a number", cell) from error
    if not math.isfinite(value):
        raise BadRow("bad score", f"the score is {value}", remedy="give a finite number")
    return value


def read_scores(cell: Any) -> list[float]:
    """A list of finite numbers, given as a list or as the text of a JSON list; a single number is a list of one.

    Examples
    --------
    >>> read_scores("[0.5, 1.25]"), read_scores(2)
    ([0.5, 1.25], [2.0])
    """
    if isinstance(cell, str):
        cell = _json_list(cell, "numbers", "write [0.5, 1.25]")
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        cell = [cell]
    if not isinstance(cell, list):
        raise _wrong("a list of numbers", cell)
    return [read_score(value) for value in cell]


def _from_bytes(cell: bytes) -> str:
    try:
        return cell.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", f"byte {error.start} of {len(cell)} is not UTF-8", remedy=_FIX) from error


def is_list(cell: Any) -> bool:
    """Whether a cell holds several values: a list, or the text of a JSON list of texts.

    Examples
    --------
    >>> is_list(["a"]), is_list('["a", "b"]'), is_list("[see above]")
    (True, True, False)
    """
    if isinstance(cell, str) and cell.lstrip().startswith('["'):
        try:
            return isinstance(json.loads(cell), list)
        except (ValueError, RecursionError):
            return False
    return isinstance(cell, list)


_GRADED = "map it with columns: {COLUMN: score} where it is a degree of similarity, or number the classes 0, 1, 2, ..."


def read_label(cell: Any) -> int:
    """A class number 0, 1, 2, ..., given as a whole number or as its decimal digits.

    Examples
    --------
    >>> read_label("3"), read_label(2.0)
    (3, 2)
    >>> read_label("0.5")
    Traceback (most recent call last):
    embedkit.data.schema.rows.BadRow: expected an integer label, found str '0.5'; ...
    """
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, str):
        digits = cell.strip()
        if digits.removeprefix("-").removesuffix(".0").isdecimal() and len(digits) < 20:
            cell = int(digits.removesuffix(".0"))
    if isinstance(cell, bool) or not isinstance(cell, int):
        raise _wrong("an integer label", cell, _GRADED)
    if not 0 <= cell <= _LARGEST:
        raise BadRow("bad label", f"the label {cell} is out of range", remedy="number the classes 0, 1, 2, ...")
    return cell


def read_group(cell: Any) -> int | str:
    """The name or number of a group: text or integer.

    Examples
    --------
    >>> read_group("thread-7"), read_group(7)
    ('thread-7', 7)
    """
    if isinstance(cell, bool) or not isinstance(cell, int | str) or cell == "":
        raise _wrong("a group name or number", cell)
    if isinstance(cell, int) and not -_LARGEST <= cell <= _LARGEST:
        raise BadRow("bad group", f"the group {cell} is out of range", remedy="use numbers of at most 18 digits")
    if isinstance(cell, str):
        check_characters(cell)
    return cell


def read_image(cell: Any) -> bytes | str:
    """The bytes of an image file, or its path; also the ``{"bytes": .., "path": ..}`` of ``datasets``.

    Examples
    --------
    >>> read_image("dog.jpg"), read_image({"bytes": b"...", "path": None})
    ('dog.jpg', b'...')
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if not isinstance(cell, bytes | str):
        raise _wrong("image bytes or a path", cell)
    if not cell:
        raise BadRow("empty image", "the image has no bytes", remedy=_FIX)
    if isinstance(cell, str):
        check_characters(cell)
    return cell


def read_features(cell: Any) -> list[float]:
    """A list of at least one finite number, given as a list or as the text of a JSON list.

    Examples
    --------
    >>> read_features([1, 2]), read_features("[0.5]")
    ([1.0, 2.0], [0.5])
    """
    if isinstance(cell, str):
        cell = _json_list(cell, "numbers", "write [0.5, 1.25]")
    if isinstance(cell, list) and not cell:
        raise BadRow("empty list", "the list of numbers is empty", remedy=_FIX)
    try:
        values = np.asarray(cell if isinstance(cell, list) else "")
    except ValueError as error:  # lists of several lengths in it, or nested without end
        raise _wrong("a list of numbers", cell) from error
    if values.ndim != 1 or values.dtype.kind not in "if":
        raise _wrong("a list of numbers", cell)
    if not np.isfinite(values).all():
        raise BadRow("bad features", "a number of the list is not finite", remedy=_FIX)
    return [float(value) for value in values.tolist()]


def _json_list(
    cell: str, items: str = "texts",
    remedy: str = 'write ["first", "second"]; a column with one plain text is mapped to negative_1',
) -> Any:  # fmt: skip
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError) as error:
        if cell.lstrip().startswith("['"):
            remedy = "this is Python's form of a list: write JSON, or save the table as parquet or jsonl"
        raise BadRow("bad list", f"expected a JSON list of {items}, found {show(cell)}", remedy=remedy) from error
    if not isinstance(value, list):
        raise BadRow("bad list", f"expected a JSON list of {items}, found {show(cell)}", remedy=remedy)
    return value


def _wrong(kind: str, cell: Any, remedy: str = "check the column mapping and the row") -> BadRow:
    if cell is None:
        return BadRow("missing value", f"expected {kind}, found nothing (null)", remedy=_FIX)
    return BadRow("wrong type", f"expected {kind}, found {show(cell)}", remedy=remedy)


def show(cell: Any) -> str:
    """A cell for a message: its type and the beginning of its value.

    Examples
    --------
    >>> show("a cat"), show(3), show(b"1234"), show(None)
    ("str 'a cat'", 'int 3', '4 bytes', 'NoneType')
    >>> show(["a", "b"])
    "list of 2, ['a', 'b']"
    """
    if isinstance(cell, bytes):
        return f"{len(cell)} bytes"
    if isinstance(cell, list):
        first = repr(cell[:4])
        return f"list of {len(cell)}, {first if len(first) <= 60 else first[:57] + '...'}" if cell else "list of 0"
    text = repr(cell if not isinstance(cell, str) else cell[:60]) if isinstance(cell, str | bool | float) else ""
    if isinstance(cell, int) and not isinstance(cell, bool):
        text = str(cell) if abs(cell) < 10**30 else "a very large number"
    return f"{type(cell).__name__} {text}".rstrip()
