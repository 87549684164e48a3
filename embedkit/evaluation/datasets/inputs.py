"""The inputs of a table: images, texts or vectors, whichever its column holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedkit.data.schema.rows import BadRow
from embedkit.data.vectors.cells import VectorCells
from embedkit.data.vectors.values import is_vector
from embedkit.evaluation.core.inputs import EncodedVector, Item

if TYPE_CHECKING:
    from embedkit.evaluation.datasets.tables import Table


def inputs_of(table: Table, name: str = "text") -> list[Item]:
    """The column ``image`` of a table, where it has one and `name` is ``text``; else texts or vectors of `name`.

    Raises
    ------
    DataError
        A cell is empty, of another kind, or a vector of another size.

    Examples
    --------
    >>> from embedkit.evaluation.datasets.tables import Table
    >>> inputs_of(Table({"text": ["a  cat"]}, [1], "a.csv"))
    ['a cat']
    >>> inputs_of(Table({"text": [[0.5, 1.0]]}, [1], "a.jsonl"))[0].decode().tolist()
    [0.5, 1.0]
    """
    if name == "text" and "image" in table.columns:
        return list(table.images("image"))
    first = next((cell for cell in table.columns.get(name, ()) if cell is not None), None)
    if not is_vector(first):
        return list(table.texts(name))
    cells = VectorCells()
    vectors: list[Item] = []
    for row, cell in enumerate(table.columns[name]):
        try:
            vector: Any = cells.read("anchor", cell)
        except BadRow as bad:
            raise bad.at(f"{table.place(row)} column {name!r}") from bad.__cause__
        vectors.append(EncodedVector(vector.tobytes(), table.place(row)))
    return vectors
