"""Files of arrays whose columns stand beside those of a source: in the same order, or found by an id."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.data.schema.rows import BadRow
from embedkit.data.sources.sources import find_parts
from embedkit.data.vectors.arrays import cell_of, even_columns
from embedkit.data.vectors.column import Piece
from embedkit.errors import DataError, nearest

if TYPE_CHECKING:
    from embedkit.config.recipe import BesideConfig

_ALIGN = "give both files the same rows in the same order, or an id: {path: FILE, on: COLUMN, id: COLUMN_OF_FILE}"


class Beside:
    """One such file.

    Parameters
    ----------
    config : BesideConfig
        The entry of ``beside``.
    base_dir : Path
        Where a relative path starts.

    Raises
    ------
    DataError
        The file has no columns of arrays, no such id, or an id twice.

    Examples
    --------
    >>> import numpy as np
    >>> from embedkit.config.recipe import BesideConfig
    >>> np.savez("queries.npz", id=np.array(["q1", "q2"]), vector=np.eye(2))
    >>> beside = Beside(BesideConfig(path="queries.npz", on="qid"), Path())
    >>> beside.cells({"qid": "q2"}, 0)["vector"].tolist()
    [0.0, 1.0]
    """

    def __init__(self, config: BesideConfig, base_dir: Path) -> None:
        self.config = config
        parts = find_parts(config.path, config.format, base_dir=base_dir)
        columns = parts[0].columns() if len(parts) == 1 and parts[0].columns is not None else {}
        self.name = parts[0].name
        if not columns:
            remedy = "give one .npy, .npz, .safetensors, parquet or arrow file with numbers or vectors"
            raise DataError("has no columns of numbers or vectors", where=config.path, remedy=remedy)
        for name in config.names:
            if name not in columns:
                raise DataError(f"there is no column {name!r}", where=self.name, remedy=nearest(name, columns))
        self._all: dict[str, Piece] = {config.names.get(name, name): piece for name, piece in columns.items()}
        self._id = None if config.on is None else config.names.get(config.id, config.id)
        if config.optional and config.on is None:
            raise DataError("'optional' is for files that are looked up in", where=config.path, remedy="set on and id")
        self._row_of = None if config.on is None else self._index(columns)
        self.columns = self._without_id(self._all)

    @property
    def length(self) -> int:
        """Number of rows."""
        return max(map(len, self.columns.values()), default=0)

    def use(self, columns: Collection[str]) -> list[str]:
        """Leave out the columns that are not as long as those of `columns` among them; a note of each."""
        even, notes = even_columns(self._all, {*columns, self._id}, self.name)
        self.columns = self._without_id(even)
        return notes

    def _without_id(self, columns: Mapping[str, Piece]) -> dict[str, Piece]:
        return {name: piece for name, piece in columns.items() if name != self._id}

    def _index(self, columns: Mapping[str, Piece]) -> dict[str, int]:
        """Id, as text -> row of the file."""
        if self.config.id not in columns:
            raise DataError(
                f"there is no column {self.config.id!r} to look {self.config.on!r} up in", where=self.name,
                remedy=f"set id; the columns are {', '.join(map(repr, columns))}",
            )  # fmt: skip
        ids = [str(cell_of(columns[self.config.id], row)) for row in range(len(columns[self.config.id]))]
        index: dict[str, int] = {}
        for row, name in enumerate(ids):
            if index.setdefault(name, row) != row:
                raise DataError(
                    f"id {name!r} stands in rows {index[name] + 1} and {row + 1}", where=self.name,
                    remedy="keep one of them",
                )  # fmt: skip
        return index

    def cells(self, values: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The cells beside a row, which is the `number`-th (from 0) of its source.

        Raises
        ------
        BadRow
            The file has no such row, or no such id; without a place.
        """
        row: int | None = number
        if self._row_of is not None:
            name = values.get(str(self.config.on))
            row = self._row_of.get(str(name))
            if row is None and self.config.optional:
                return dict.fromkeys(self.columns)
            if row is None:
                what = f"{self.config.on} {name!r} is no id of {self.name}"
                remedy = f"add it there ({self.length:,} ids), set optional: true for modalities, or skip bad rows"
                raise BadRow("unknown id", what, remedy=remedy)
        elif number >= self.length:
            raise BadRow("unaligned files", f"row {number + 1} is not in {self.name}, which has {self.length:,}",
                         remedy=_ALIGN)  # fmt: skip
        place = row or 0
        return {name: cell_of(piece, place) for name, piece in self.columns.items() if place < len(piece)}

    def check_count(self, count: int, where: str) -> None:
        """Refuse a source of `count` rows that ends before the file does."""
        if self._row_of is None and count < min(map(len, self.columns.values()), default=0):
            raise DataError(
                f"has {count:,} rows, and {self.name} beside it {self.length:,}", where=where, remedy=_ALIGN
            )


def with_cells(values: Mapping[str, Any], number: int, beside: Sequence[Beside], where: str) -> dict[str, Any] | BadRow:
    """A row with the cells of all files beside it, or its fault.

    Examples
    --------
    >>> with_cells({"text": "a"}, 0, [], "a.csv:1")
    {'text': 'a'}
    """
    row = dict(values)
    for one in beside:
        try:
            cells = one.cells(values, number)
        except BadRow as bad:
            return bad.at(where)
        for name, cell in cells.items():
            if name in row:
                return BadRow(
                    "column twice", f"column {name!r} is in {one.name} too", where=where,
                    remedy=f"rename it with names: {{{name}: OTHER}}",
                )  # fmt: skip
            row[name] = cell
    return row


def merged(columns: Mapping[str, Piece], others: Sequence[Beside], where: str) -> dict[str, Piece]:
    """The columns of a part with those of the files beside it, row by row.

    Raises
    ------
    DataError
        The files have different numbers of rows, or a column twice.

    Examples
    --------
    >>> import numpy as np
    >>> sorted(merged({"a": Piece(np.eye(2))}, [], "a.npy"))
    ['a']
    """
    result = dict(columns)
    length = len(next(iter(columns.values()))) if columns else 0
    for one in others:
        if one.length != length:
            raise DataError(
                f"has {length:,} rows, and {one.name} beside it {one.length:,}", where=where,
                remedy="give both files the same rows in the same order",
            )  # fmt: skip
        for name, piece in one.columns.items():
            if name in result:
                raise DataError(
                    f"column {name!r} is in {one.name} too", where=where,
                    remedy=f"rename it with names: {{{name}: OTHER}}",
                )  # fmt: skip
            result[name] = piece
    return result
