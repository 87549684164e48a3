"""Vectors of rows by role, outside the table of the rows, which holds their places instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from embedkit.data.vectors.column import Piece, VectorColumn
from embedkit.data.vectors.ragged import SequenceColumn
from embedkit.data.vectors.sequences import Sequences
from embedkit.data.vectors.values import Vectors, content_keys, stacked


def type_of_places(role: str) -> pa.DataType:
    """Type of the column of a role that holds vectors: a place, or a list of them.

    Examples
    --------
    >>> type_of_places("anchor"), type_of_places("negatives")
    (DataType(int64), LargeListType(large_list<item: int64>))
    """
    return pa.large_list(pa.int64()) if role == "negatives" else pa.int64()


class VectorStore:
    """Collects vectors while a table of rows is built.

    Attributes
    ----------
    columns : dict of str to VectorColumn
        Role -> its vectors, once `finish` was called.

    Examples
    --------
    >>> store = VectorStore()
    >>> store.places("anchor", [np.ones(2, np.float32), None, np.ones(2, np.float32)])
    [0, None, 1]
    >>> table = store.finish(pa.table({"anchor": pa.array([0, None, 1], pa.int64())}))
    >>> table.column("anchor").to_pylist(), store.columns["anchor"].width  # equal vectors have one place
    ([0, None, 0], 2)
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[VectorColumn]] = {}
        self._sizes: dict[str, int] = {}
        self.columns: dict[str, VectorColumn] = {}

    @property
    def roles(self) -> frozenset[str]:
        """Roles of which there are vectors."""
        return frozenset(self._parts)

    def places(self, role: str, values: Sequence[Any]) -> list[Any]:
        """Places of the vectors of a role in some rows, which are kept; a list of places where a row has several."""
        flat = [vector for value in values for vector in (value if isinstance(value, list) else [value])]
        there = [vector for vector in flat if vector is not None]
        start = self._sizes.get(role, 0)
        if there:
            self.add(role, _column(there))
        numbers = iter(range(start, start + len(there)))

        def place(value: Any) -> Any:
            if isinstance(value, list):
                return [next(numbers) for _ in value]
            return None if value is None else next(numbers)

        return [place(value) for value in values]

    def add(self, role: str, column: VectorColumn) -> int:
        """Keep a column; the place of its first vector."""
        start = self._sizes.get(role, 0)
        self._parts.setdefault(role, []).append(column)
        self._sizes[role] = start + len(column)
        return start

    def finish(self, table: pa.Table) -> pa.Table:
        """The table with one place for equal vectors of a role: that of the first."""
        self.columns = {role: VectorColumn.joined(parts) for role, parts in self._parts.items()}
        for role, column in self.columns.items():
            own = table.column(role).combine_chunks()
            own = own.chunk(0) if isinstance(own, pa.ChunkedArray) else own
            places = column.places()
            if pa.types.is_large_list(own.type):
                flat = pa.array(places[own.flatten().to_numpy(zero_copy_only=False)], pa.int64())
                new = pa.LargeListArray.from_arrays(_offsets(own), flat, mask=own.is_null() if own.null_count else None)
            else:
                there = own.is_valid().to_numpy(zero_copy_only=False)
                values = places[own.fill_null(0).to_numpy(zero_copy_only=False)]
                new = pa.array(values, pa.int64(), mask=~there)
            table = table.set_column(table.column_names.index(role), role, new)
        return table


def _column(values: Sequence[np.ndarray]) -> VectorColumn:
    """Vectors (W,), or sequences (T, W), in memory."""
    if values[0].ndim == 2:
        return SequenceColumn.of(Sequences.of(values))
    array = stacked(values)
    return VectorColumn([Piece(array)], content_keys(array))


def _offsets(lists: pa.LargeListArray) -> pa.Array:
    lengths = np.asarray(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())


def vectors_at(column: VectorColumn, places: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The vectors at some places, None where there is none; a list of them for each list of places.

    Examples
    --------
    >>> column = VectorColumn([Piece(np.eye(2, dtype=np.float32))], [1, 2])
    >>> [x if x is None else x.tolist() for x in vectors_at(column, pa.array([1, None]))]
    [[0.0, 1.0], None]
    """
    values = places.to_pylist()
    flat = [place for value in values if value is not None for place in (value if isinstance(value, list) else [value])]
    vectors = iter(column.take(np.asarray(flat, np.int64)))

    def vector(value: Any) -> Any:
        if isinstance(value, list):
            return [next(vectors) for _ in value]
        return None if value is None else next(vectors)

    return [vector(value) for value in values]


def whole_vectors(column: VectorColumn, places: pa.Array) -> Vectors | Sequences:
    """The vectors or sequences at places of which none is null, as one block.

    Examples
    --------
    >>> column = VectorColumn([Piece(np.eye(2, dtype=np.float32))], [1, 2])
    >>> whole_vectors(column, pa.array([1, 1])).array.tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    return column.take(places.to_numpy(zero_copy_only=False))  # type: ignore[no-any-return]


def keys_at(column: VectorColumn, places: pa.Array) -> np.ndarray:
    """Hashes of the vectors at some places without null, int64.

    Examples
    --------
    >>> keys_at(VectorColumn([Piece(np.eye(2, dtype=np.float32))], [5, 6]), pa.array([1, 0])).tolist()
    [6, 5]
    """
    return column.keys[places.to_numpy(zero_copy_only=False)]
