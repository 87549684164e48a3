"""Cells of vectors and of sequences, row by row: each is checked, and all of a role have one size."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedkit.data.schema.kinds import is_modality, role_of_slot
from embedkit.data.schema.rows import BadRow
from embedkit.data.vectors.sequences import read_sequence
from embedkit.data.vectors.values import read_vector


class VectorCells:
    """Reads the cells of vectors and of sequences, and remembers their sizes.

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
    >>> cells.read("positive", [0.5, 1.0, 1.5], "sequence").shape
    (3, 1)
    """

    def __init__(self) -> None:
        self.widths: dict[str, int] = {}

    def read(self, slot: str, cell: Any, kind: str = "vector") -> np.ndarray | list[np.ndarray] | None:
        """The value of a slot: a vector (W,), or of the kind "sequence" an array (T, W).

        Of ``negatives`` it is a list of them, of ``negative_1`` or a modality None where the cell is empty.

        Raises
        ------
        BadRow
            Without a place.
        """
        if slot == "negatives":
            return [self._one("negatives", one, kind) for one in (() if cell is None else cell)]
        if cell is None and (slot.startswith("negative_") or is_modality(slot)):
            return None
        return self._one(role_of_slot(slot), cell, kind)

    def _one(self, role: str, cell: Any, kind: str) -> np.ndarray:
        if kind == "sequence":
            return self._sequence(role, cell)
        vector = read_vector(cell)
        width = self.widths.setdefault(role, len(vector))
        if len(vector) != width:
            count = f"{len(vector)} number{'' if len(vector) == 1 else 's'}"
            what = f"the vector has {count}, those before it {width}"
            raise BadRow("unequal widths", what, remedy="give all rows the same length")
        return vector

    def _sequence(self, role: str, cell: Any) -> np.ndarray:
        steps = read_sequence(cell)
        size = steps.shape[1]
        width = self.widths.setdefault(role, size)
        if size != width:
            count = f"{size} number{'' if size == 1 else 's'}"
            what = f"the steps of the sequence have {count}, those before it {width}"
            raise BadRow("unequal widths", what, remedy="give the steps of all rows the same length")
        return steps
