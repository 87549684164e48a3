"""Rows of a batch that are columns: no dict is made of a row unless somebody asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from embedkit.data.schema.rows import Row


class ColumnRows(Sequence[Row]):
    """Rows as a sequence of dicts that are made where they are asked for.

    Parameters
    ----------
    columns : mapping of str to sequence
        Role -> its values, row after row.
    count : int
        Number of rows.

    Examples
    --------
    >>> rows = ColumnRows({"anchor": ["a", "b"], "label": [3, 4]}, 2)
    >>> rows[1], len(rows), rows.column("label")
    ({'anchor': 'b', 'label': 4}, 2, [3, 4])
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]], count: int) -> None:
        self._columns, self._count = columns, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return {role: values[index] for role, values in self._columns.items()}

    def column(self, role: str) -> Sequence[Any]:
        """The values of a role, row after row."""
        return self._columns[role]


def column_of(rows: Sequence[Any], role: str) -> Sequence[Any]:
    """The values of a role in some rows.

    Examples
    --------
    >>> column_of([{"anchor": "a"}, {"anchor": "b"}], "anchor")
    ['a', 'b']
    """
    return rows.column(role) if isinstance(rows, ColumnRows) else [row[role] for row in rows]


def filled_column(rows: Sequence[Any], role: str, other: str) -> Sequence[Any]:
    """The values of a role, those of another one in rows that lack it.

    Examples
    --------
    >>> filled_column([{"anchor": "a", "positive": None}, {"anchor": "b", "positive": "c"}], "positive", "anchor")
    ['a', 'c']
    """
    if isinstance(rows, ColumnRows):  # none of its values is missing
        return rows.column(role)
    return [row[other] if row[role] is None else row[role] for row in rows]
