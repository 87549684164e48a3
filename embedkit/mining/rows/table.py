"""The rows of a file of any format with all of their columns, in memory: what select, label and generate read."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedkit.data.images.paths import image_path
from embedkit.data.schema.parsers import TextReader, read_image, read_score, show
from embedkit.data.schema.roles import IMAGE_NAMES, named_role, normal_name
from embedkit.data.schema.rows import BadRow, Part
from embedkit.data.sources.conditions import condition
from embedkit.data.sources.sources import find_parts
from embedkit.data.vectors.arrays import whole_part
from embedkit.errors import DataError, UserError, nearest
from embedkit.evaluation.core.inputs import EncodedImage, Item
from embedkit.mining.pairs import data_path, our_note

TEXTS = ("text", "sentence")
"""Columns that are taken for the texts of rows, the first that is there; then that of the role anchor, then
`OTHERS`."""

OTHERS = ("passage", "document", "contents", "content", "caption")


@dataclass
class RowTable:
    """Rows with the places that messages name.

    Attributes
    ----------
    rows : list of dict
        Column -> cell, as the reader gave them.
    places : list of str
        ``file:row`` of each.
    folders : list of Path or None
        Where relative image paths of each row start.
    name : str
        How messages call the source.
    notes : list of str
        How columns were read.

    Examples
    --------
    >>> table = read_table([{"id": 1, "text": "a cat"}, {"id": 2, "text": "a dog"}])
    >>> table.texts(table.text_column())
    ['a cat', 'a dog']
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    folders: list[Path | None] = field(default_factory=list)
    name: str = ""
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which they appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def note(self, text: str) -> None:
        """Remember how something was read, once."""
        if text not in self.notes:
            self.notes.append(text)

    def text_column(self, name: str | None = None, option: str = "--column") -> str:
        """The column of the texts: the one that is named, or one that its name or its being the only one tells.

        Raises
        ------
        DataError
            It is not there, or cannot be told.
        """
        names = self.columns
        if name is not None:
            return self._known(name, option)
        plain = {normal_name(name): name for name in reversed(names)}
        by_role = {named_role(name): name for name in reversed(names)}
        likely = [plain.get(name) for name in TEXTS] + [by_role.get("anchor")] + [plain.get(name) for name in OTHERS]
        likely += [by_role.get("positive"), by_role.get("text_1"), names[0] if len(names) == 1 else None]
        choice = next((name for name in likely if name is not None), None)
        if choice is None:
            raise DataError(f"which of the columns {', '.join(map(repr, names))} holds the texts?", where=self.name,
                            remedy=f"name it: {option} NAME")  # fmt: skip
        if len(names) > 1:
            self.note(f"{self.name}: {choice} holds the texts ({option} changes that)")
        return choice

    def image_column(self, name: str | None = None) -> str | None:
        """The column of the images, by its name; None where there is none."""
        if name is not None:
            return self._known(name, "--image-column")
        names = {normal_name(name): name for name in reversed(self.columns)}
        return next((names[name] for name in IMAGE_NAMES if name in names), None)

    def _known(self, column: str, option: str) -> str:
        if column not in self.columns:
            raise DataError(f"no column {column!r} ({option})", where=self.name, remedy=nearest(column, self.columns))
        return column

    def texts(self, column: str, places: Iterable[int] | None = None) -> list[str]:
        """The texts of a column, of all rows or of those at `places`; one that is no text is refused."""
        reader = TextReader(max_chars=10_000_000, cut=False)
        return [self._read(place, column, reader.text) for place in self._places(places)]

    def numbers(self, column: str, places: Iterable[int] | None = None) -> list[float]:
        """The finite numbers of a column."""
        self._known(column, "column")
        return [self._read(place, column, read_score) for place in self._places(places)]

    def images(self, column: str, places: Iterable[int] | None = None) -> ImageItems:
        """The images of a column, read from their files when they are used."""
        return ImageItems([self._read(place, column, self._image_of(place)) for place in self._places(places)])

    def _image_of(self, place: int) -> Any:
        def read(cell: Any) -> EncodedImage | str:
            image = read_image(cell)
            if isinstance(image, bytes):
                return EncodedImage(image, self.places[place])
            return image_path(image, self.folders[place])

        return read

    def _places(self, places: Iterable[int] | None) -> Iterable[int]:
        return range(len(self.rows)) if places is None else places

    def _read(self, place: int, column: str, reader: Any) -> Any:
        row = self.rows[place]
        if column not in row:
            raise DataError(f"no column {column!r}", where=self.places[place], remedy=nearest(column, row))
        try:
            return reader(row[column])
        except BadRow as bad:
            raise bad.refused(f"{self.places[place]} column {column!r}") from bad.__cause__

    def moved(self, target: Path | None, image_column: str | None = None) -> list[dict[str, Any]]:
        """The rows for a file in another folder: relative paths of images lead to the same files from there.

        Rows whose images do not lie below the folder of `target` keep them as absolute paths.
        """
        column = self.image_column(image_column)
        if target is None or column is None:
            return self.rows
        rows = []
        for row, folder in zip(self.rows, self.folders, strict=True):
            cell = row.get(column)
            if isinstance(cell, str) and folder is not None and folder.absolute() != target.parent:
                path = os.path.normpath(folder.absolute() / cell)
                home = f"{target.parent}{os.sep}"
                if not path.startswith(home):
                    self.note(f"{column} holds absolute paths now; train with image_folder set to a folder above them")
                row = {**row, column: path.removeprefix(home)}
            rows.append(row)
        return rows


class ImageItems(Sequence[Item]):
    """Images as items of an encoder: files are read when they are taken out, so that a folder of them stays small.

    Examples
    --------
    >>> _ = Path("a.png").write_bytes(b"...")
    >>> ImageItems(["a.png"])[0].content
    b'...'
    """

    def __init__(self, images: Sequence[EncodedImage | str]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: Any) -> Any:
        """One image, or those of a slice."""
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        image = self._images[place]
        return image if isinstance(image, EncodedImage) else EncodedImage(Path(image).read_bytes(), image)


def read_table(
    data: Any, *, split: str | None = None, where: Mapping[str, Any] | None = None, limit: int | None = None
) -> RowTable:  # fmt: skip
    """All rows of a source that `embedkit.train` reads, with every column.

    Parameters
    ----------
    data : str, Path or object
        A path, or a table or list of rows or of texts in memory; see `embedkit.train`.
    split : str, optional
        Which split, where there are several; ``train`` when None.
    where : mapping, optional
        Column -> the value, or list of values, that rows must have.
    limit : int, optional
        Rows at most.

    Raises
    ------
    DataError
        The source cannot be read, has no rows, or a row is bad; file and row are named.

    Examples
    --------
    >>> _ = Path("faq.csv").write_text("question,answer\\npay?,By card.\\n")
    >>> table = read_table("faq.csv")
    >>> table.rows, table.places
    ([{'question': 'pay?', 'answer': 'By card.'}], ['faq.csv:2'])
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}", where="limit", remedy="give 1 or more, or leave it out")
    with data_path(data) as path:
        table = RowTable(name=path if isinstance(data, str | Path) else "the rows")
        parts = find_parts(path, split=split, prefer="train", tell=lambda guess: table.note(our_note(str(guess))))
        parts = [whole_part(part) for part in parts]
        for part, number, values in itertools.islice(_records(parts, where or {}), limit):
            table.rows.append(values)
            table.places.append(f"{part.name}:{number}")
            table.folders.append(part.folder)
    if not table.rows:
        remedy = "check the values of where" if where else "check the file"
        raise DataError("no rows are left" if where else "it has no rows", where=table.name, remedy=remedy)
    return table


def _records(parts: Iterable[Part], where: Mapping[str, Any]) -> Iterator[tuple[Part, int, dict[str, Any]]]:
    """The rows that have the values of `where`; a bad one, or a column that no row of a file has, is refused."""
    is_kept = condition(where)
    for part in parts:
        unseen, columns = set(where), dict[str, None]()
        for number, values in part.records():
            if isinstance(values, BadRow):
                raise values.refused(f"{part.name}:{number}")
            if unseen:
                columns |= dict.fromkeys(values)
                unseen -= values.keys()
            if is_kept(values):
                yield part, number, values
        if unseen and columns:
            name = next(name for name in where if name in unseen)
            raise DataError(f"'where' names no column {name!r}", where=part.name, remedy=nearest(name, columns))


def check_cells(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Refuse rows that a file of this kind cannot hold: bytes in a ``.jsonl``, columns of several kinds in a table.

    Examples
    --------
    >>> check_cells([{"image": b"..."}], Path("out.jsonl"))
    Traceback (most recent call last):
    ...
    embedkit.errors.UserError: out.jsonl: row 1, column 'image' holds 3 bytes, which JSON has not; write a .parquet file
    """
    for number, row in enumerate(rows, 1):
        for name, cell in row.items() if target.suffix == ".jsonl" else ():
            if not _is_json(cell):
                raise UserError(f"row {number}, column {name!r} holds {show(cell)}, which JSON has not",
                                where=str(target), remedy="write a .parquet file")  # fmt: skip


def _is_json(cell: Any) -> bool:
    if isinstance(cell, Mapping):
        return all(isinstance(key, str) and _is_json(value) for key, value in cell.items())
    if isinstance(cell, list | tuple):
        return all(map(_is_json, cell))
    return cell is None or isinstance(cell, str | bool | int) or (isinstance(cell, float) and math.isfinite(cell))
