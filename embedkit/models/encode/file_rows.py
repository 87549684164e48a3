"""The rows of a file that is encoded: texts, images, vectors and sequences in blocks, and their ids."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.data.schema.roles import IMAGE_NAMES
from embedkit.data.schema.rows import BadRow, Part
from embedkit.data.vectors.arrays import even_part
from embedkit.data.vectors.sequences import axes_of, read_sequence
from embedkit.data.vectors.values import no_vector, read_vector
from embedkit.errors import DataError, listed
from embedkit.system.disk import refusals

_log = logging.getLogger(__name__)
_TEXT_COLUMNS = ("text", "sentence", "anchor")
_ID_COLUMNS = ("id", "_id", "docid", "doc_id", "query_id", "qid", "pid", "uid", "uuid", "key", "__key__", *IMAGE_NAMES)
"""Columns that say which row is which, the first that a row has counts; of images their path does."""

Item = str | bytes | Path | np.ndarray
"""A text, the content of an image file, or its path, a vector, or a sequence (T, W)."""


@dataclass(frozen=True)
class Reading:
    """How the rows of a file are read.

    Attributes
    ----------
    column : str or None
        Of the texts or images.
    format : str
        Of the file, where its name does not tell.
    split : str or None
        Which one, where there are several.
    limit : int or None
        Rows at most.

    Examples
    --------
    >>> Reading(limit=2).marks()
    {'column': None, 'limit': 2}
    """

    column: str | None = None
    format: str = "auto"
    split: str | None = None
    limit: int | None = None

    def marks(self) -> dict[str, Any]:
        """What decides which rows a stopped run has encoded."""
        some = {"split": self.split, "limit": self.limit}
        return {"column": self.column, **{name: value for name, value in some.items() if value is not None}}


def blocks(source: str, reading: Reading, size: int, ids: Ids | None = None) -> Iterator[list[Item]]:
    """The texts, images and vectors of a file in blocks of `size` rows; `ids` takes the id of each.

    Raises
    ------
    DataError
        A row cannot be read, or its cell is no text or image.

    Examples
    --------
    >>> _ = Path("texts.txt").write_text("a dog\\ntwo cats\\nrain\\n")
    >>> list(blocks("texts.txt", Reading(limit=2), 16))
    [['a dog', 'two cats']]
    """
    from embedkit.data.sources.sources import find_parts

    block: list[Item] = []
    parts = [_even(part, reading, ids) for part in find_parts(source, reading.format, split=reading.split)]
    rows = ((part, number, row) for part in parts for number, row in part.records())
    for part, number, row in itertools.islice(rows, reading.limit):
        if isinstance(row, BadRow):
            raise row
        block.append(_item(row, reading.column, part.folder, f"{part.name}:{number}"))
        if ids is not None:
            ids.add(row, f"{part.name}:{number}")
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _even(part: Part, reading: Reading, ids: Ids | None) -> Part:
    """A part without the arrays that are not as long as the one that is encoded, which is told."""
    number, row = next(part.records(), (0, None)) if part.uneven else (0, None)
    if row is None or isinstance(row, BadRow):
        return part
    column = reading.column or _column_of(row, f"{part.name}:{number}")
    even, notes = even_part(part, {column, None if ids is None else ids.column})
    for note in notes:
        _log.warning("%s", note)
    return even


def _item(row: dict[str, Any], column: str | None, folder: Path | None, where: str) -> Item:
    """The text or image of a row."""
    column = column or _column_of(row, where)
    if column not in row:
        raise DataError(f"no column {column!r}", where=where, remedy=f"it has {', '.join(row)}")
    cell = row[column]
    if isinstance(cell, dict):  # an image as the hub has it
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if axes := axes_of(cell):
        try:
            return read_vector(cell) if axes == 1 else read_sequence(cell)
        except BadRow as bad:
            raise bad.refused(f"{where}, column {column}") from bad.__cause__
    if isinstance(cell, np.ndarray):
        raise no_vector(cell).refused(f"{where}, column {column}")
    if not isinstance(cell, str):
        kind = "empty" if cell is None else type(cell).__name__
        raise DataError(f"cell is {kind}, not text", where=f"{where}, column {column}", remedy="fix or remove the row")
    if column not in IMAGE_NAMES and not isinstance(row[column], dict):
        return cell
    from embedkit.data.images.paths import image_path

    try:
        return Path(image_path(cell, folder))
    except BadRow as bad:
        raise bad.refused(f"{where}, column {column}") from bad.__cause__


def _column_of(row: dict[str, Any], where: str) -> str:
    texts = [name for name in _TEXT_COLUMNS if name in row]
    images = [name for name in IMAGE_NAMES if name in row]
    if texts and images:  # a mixed list
        filled = [name for name in (texts[0], images[0]) if row[name] not in (None, "", b"")]
        if len(filled) == 1:
            return filled[0]
    elif texts or images:
        return (texts or images)[0]
    elif len(row) == 1:
        return next(iter(row))
    vectors = [name for name, cell in row.items() if axes_of(cell)]
    if not texts and not images and len(vectors) == 1:
        return vectors[0]
    what = f"columns {', '.join(row)}: which one holds the texts or images?"
    if vectors and not texts and not images:
        what = f"columns {listed([repr(name) for name in vectors], 'and')} hold vectors: which one is encoded?"
    raise DataError(what, where=where, remedy=f"name it: --column {vectors[0] if vectors else 'NAME'}")


def digest_of(items: list[Item]) -> str:
    """A hash of a block; of an image file its path, size and time of change.

    Examples
    --------
    >>> digest_of(["a dog"]) == digest_of(["a dog"]), digest_of(["a dog"]) == digest_of(["a ", "dog"])
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        if isinstance(item, Path):
            status = item.stat()
            data = f"\0{item}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogatepass")
        else:
            data = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else bytes(item)
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


_IDS = "the ids cannot be written"


class Ids:
    """Writes the id of each row to a file of the parts as the rows go by; only the main process writes.

    Parameters
    ----------
    parts : Path
        The folder of the parts.
    column : str or None
        The column of the ids; that of the first row that has a likely one when None.
    write : bool
        Whether this is the process that writes.

    Examples
    --------
    >>> with Ids(Path(), None, write=True) as ids:
    ...     ids.add({"id": 7, "text": "a dog"}, "dogs.jsonl:1")
    >>> ids.column, Path("ids.jsonl").read_text()
    ('id', '7\\n')
    """

    def __init__(self, parts: Path, column: str | None, write: bool) -> None:
        self.column, self._path, self._write = column, parts / "ids.jsonl", write
        self._lines: Any = None
        self._rows = 0

    @property
    def file(self) -> Path | None:
        """The ids, JSON, one per line; None where rows have none."""
        return None if self.column is None else self._path

    def __enter__(self) -> Ids:
        if self._write:
            with refusals(self._path, _IDS):
                self._lines = open(self._path, "w", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            with refusals(self._path, _IDS):
                self._lines.close()

    def add(self, row: dict[str, Any], where: str) -> None:
        """Note the id of a row; the first row decides which column has it."""
        if self._rows == 0 and self.column is None:
            self.column = next((name for name in _ID_COLUMNS if isinstance(row.get(name), str | int)), None)
        self._rows += 1
        if self.column is None:
            return
        if self.column not in row:
            raise DataError(f"no column {self.column!r}", where=where, remedy=f"it has {', '.join(row)}")
        if self._lines is not None:
            with refusals(self._path, _IDS):
                self._lines.write(json.dumps(row[self.column], ensure_ascii=False, default=str) + "\n")
