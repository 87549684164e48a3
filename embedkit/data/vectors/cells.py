"""Cells of vector roles, row by row: each is checked, and all of a role have one size."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedkit.data.schema.kinds import role_of_slot
from embedkit.data.schema.rows import BadRow
from embedkit.data.vectors.values import read_vector


class VectorCells:
    """Reads the cells of vectors, and remembers their sizes.

    Attributes
    ----------
    widths : dict of str to int
        Role -> numbers of each of its vectors, once one was read.

    Examples
    --------
    >>> cells = VectorCells()
    >>> cells.read("anchor", [0.5, 1.0]).tolist(), cells.widths
    ([0.5, 1.0], {'anchor': 2})
    >>> cells.read("anchor", [0.5])
    Traceback (most recent call last):
    embedkit.data.schema.rows.BadRow: the vector has 1 number, those before it 2; give all rows the same length
    """

    def __init__(self) -> None:
        self.widths: dict[str, int] = {}

    def read(self, slot: str, cell: Any) -> np.ndarray | list[np.ndarray] | None:
        """The value of a slot: a vector; of ``negatives`` a list of them; of ``negative_1`` None where it is empty.

        Raises
        ------
        BadRow
            Without a place.
        """
        if slot == "negatives":
            return [self._one("negatives", vector) for vector in (() if cell is None else cell)]
        if slot.startswith("negative_") and cell is None:
            return None
        return self._one(role_of_slot(slot), cell)

    def _one(self, role: str, cell: Any) -> np.ndarray:
        vector = read_vector(cell)
        width = self.widths.setdefault(role, len(vector))
        if len(vector) != width:
            count = f"{len(vector)} number{'' if len(vector) == 1 else 's'}"
            what = f"the vector has {count}, those before it {width}"
            raise BadRow("unequal widths", what, remedy="give all rows the same length")
        return vector
