"""The inputs of a table: images, texts, vectors or sequences, whichever its column holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedkit.data.schema.rows import BadRow
from embedkit.data.vectors.cells import VectorCells
from embedkit.data.vectors.sequences import axes_of
from embedkit.evaluation.core.inputs import EncodedVector, Item

if TYPE_CHECKING:
    from embedkit.evaluation.datasets.tables import Table


def inputs_of(table: Table, name: str = "text") -> list[Item]:
    """The column ``image`` of a table, where it has one and `name` is ``text``; else what `name` holds.

    Raises
    ------
    DataError
        A cell is empty, of another kind, or a vector of another size.

    Examples
    --------
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> inputs_of(Table({"text": ["a  cat"]}, [1], "a.csv"))
    ['a cat']
    >>> inputs_of(Table({"text": [[[0.5], [1.0]]]}, [1], "a.jsonl"))[0].decode().shape
    (2, 1)
    >>> inputs_of(Table({"text": [[0.5, 1.0]]}, [1], "a.jsonl"))[0].decode().tolist()
    [0.5, 1.0]
    """
    if name == "text" and "image" in table.columns:
        return list(table.images("image"))
    first = next((cell for cell in table.columns.get(name, ()) if cell is not None), None)
    axes = axes_of(first)
    if not axes:
        return list(table.texts(name))
    kind = "vector" if axes == 1 else "sequence"
    cells = VectorCells()
    vectors: list[Item] = []
    for row, cell in enumerate(table.columns[name]):
        try:
            vector: Any = cells.read("anchor", cell, kind)
        except BadRow as bad:
            raise bad.refused(f"{table.place(row)} column {name!r}") from bad.__cause__
        width = None if kind == "vector" else vector.shape[1]
        vectors.append(EncodedVector(vector.tobytes(), table.place(row), width))
    return vectors
