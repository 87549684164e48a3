"""Sources of arrays read by column: vectors stay where they are, and no row becomes a dict on the way.

What is read so is what reading row by row gives, which happens wherever this way is not open: a filter, a text, a bad
row that is to be skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedkit.data.schema.kinds import role_of_slot
from embedkit.data.vectors.column import BadVector, Piece, VectorColumn, checked_keys
from embedkit.data.vectors.ragged import (
    RaggedPiece,
    SequenceColumn,
    fault_of_sequence,
    sequence_hashes,
    sequences_of,
)
from embedkit.data.vectors.values import fault_of
from embedkit.errors import DataError

if TYPE_CHECKING:
    from embedkit.data.schema.contract import Limit
    from embedkit.data.schema.rows import Part
    from embedkit.data.sources.data_source import Source

_NUMBERS = {"label": "iu", "score": "iuf"}
"""Roles of plain numbers that are read by column -> kinds of numpy's types."""


@dataclass(frozen=True)
class ColumnTable:
    """The rows of one part of a source by column.

    Attributes
    ----------
    vectors : dict of str to list of VectorColumn
        Role -> its vectors; of ``negatives`` a column for each place of the list.
    numbers : dict of str to array (n,)
        ``label`` and ``score``.
    count : int
        Number of rows.

    Examples
    --------
    >>> ColumnTable({}, {"label": np.array([1, 0])}, 2).count
    2
    """

    vectors: dict[str, list[VectorColumn]]
    numbers: dict[str, np.ndarray]
    count: int


def column_tables(source: Source) -> list[ColumnTable] | None:
    """The rows of each part of a source by column; None where it has to be read row by row.

    Raises
    ------
    DataError
        A vector is bad (file, row and column are named), or two parts have vectors of different sizes.

    Examples
    --------
    >>> from pathlib import Path
    >>> from embedkit.config.recipe import DataConfig
    >>> from embedkit.data.datasets.open import open_sources
    >>> from embedkit.data.schema.contract import Contract
    >>> np.savez("rows.npz", anchor=np.eye(3), label=np.array([0, 1, 1]))
    >>> contract = Contract(accepts=frozenset({"label"}))
    >>> [source] = open_sources(DataConfig.model_validate({"train": "rows.npz"}), contract)
    >>> [table] = column_tables(source)
    >>> table.vectors["anchor"][0].width, table.numbers["label"].tolist()
    (3, [0, 1, 1])
    """
    if not source.is_plain or any(part.columns is None for part in source.parts):
        return None
    tables: list[ColumnTable] = []
    room = source.config.limit
    for part in source.parts:
        columns = source.columns_of(part)
        count = min(len(piece) for piece in columns.values()) if columns else 0
        count = count if room is None else min(count, room)
        table = _table(source, part, columns, count) if count else None
        if table is None:
            return None
        tables.append(table)
        room = None if room is None else room - count
        if room == 0:
            break
    _check_widths(tables, [part.name for part in source.parts])
    return tables


def _table(source: Source, part: Part, columns: Mapping[str, Piece], count: int) -> ColumnTable | None:
    vectors: dict[str, list[VectorColumn]] = {}
    numbers: dict[str, np.ndarray] = {}
    for slot, column in source.slots():
        piece, role = columns.get(column), role_of_slot(slot)
        if piece is None:
            return None
        kind = source.kinds.get(role)
        if kind in ("vector", "sequence"):
            pieces = _vectors_of(piece, slot) if kind == "vector" else sequences_of(piece, slot)
            if pieces is None:
                return None
            vectors.setdefault(role, []).extend(_checked(one, count, part, column) for one in pieces)
        else:
            values = piece.array[:count]
            if role not in _NUMBERS or values.ndim != 1 or values.dtype.kind not in _NUMBERS[role] or piece.bfloat16:
                return None
            if not _admitted(role, values, source.limit_of(role)):
                return None  # reading row by row names the row
            numbers[role] = values
    return ColumnTable(vectors, numbers, count) if vectors else None


def _admitted(role: str, values: np.ndarray, limit: Limit | None) -> bool:
    """Whether reading row by row would take all these numbers."""
    low, high = float(values.min()), float(values.max())
    first, last = limit if isinstance(limit, tuple) else (-np.inf, np.inf)
    return bool(np.isfinite([low, high]).all()) and first <= low and high <= last and (role != "label" or low >= 0)


def _vectors_of(piece: Piece, slot: str) -> list[Piece] | None:
    """The vectors of a slot: one array (n, W), or of ``negatives`` the K of an array (n, K, W)."""
    array = piece.array
    if isinstance(piece, RaggedPiece) or array.dtype.kind not in "fiu" or array.ndim < 2 or not array.shape[-1]:
        return None
    if slot == "negatives":
        return [Piece(array[:, k], piece.bfloat16) for k in range(array.shape[1])] if array.ndim == 3 else None
    return [piece] if array.ndim == 2 else None


def _checked(piece: Piece, count: int, part: Part, column: str) -> VectorColumn:
    if isinstance(piece, RaggedPiece):
        try:
            return SequenceColumn([piece.first(count)], sequence_hashes(piece, count))
        except BadVector as bad:
            fault = fault_of_sequence(piece, bad.row)
            raise fault.at(f"{part.name}:{bad.row + 1} column {column!r}") from None
    try:
        keys = checked_keys(piece, count)
    except BadVector as bad:
        result = piece.take(slice(bad.row, bad.row + 1))[0]
        fault = fault_of(result if piece.bfloat16 else piece.array[bad.row], result)
        raise fault.at(f"{part.name}:{bad.row + 1} column {column!r}") from None
    return VectorColumn([piece.first(count)], keys)


def _check_widths(tables: Sequence[ColumnTable], names: Sequence[str]) -> None:
    first: dict[str, tuple[int, str]] = {}
    for table, name in zip(tables, names, strict=False):
        for role, columns in table.vectors.items():
            for column in columns:
                width, place = first.setdefault(role, (column.width, name))
                if column.width != width:
                    what = f"the {column.noun} of {role} have {column.width} numbers, those of {place} {width}"
                    raise DataError(what, where=name, remedy="give all rows the same length")
