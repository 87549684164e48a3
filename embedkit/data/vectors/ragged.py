"""A column of sequences: their steps in one array of a file, and where each sequence begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedkit.data.schema.rows import BadRow
from embedkit.data.vectors.column import BLOCK, BadVector, Piece, VectorColumn
from embedkit.data.vectors.sequences import Sequences, places, sequence_keys, step_fault
from embedkit.data.vectors.values import as_float32, first_fault
from embedkit.errors import DataError

OFFSETS = "_offsets"
"""What the name of the array of beginnings has behind that of the steps."""


@dataclass(frozen=True)
class RaggedPiece(Piece):
    """Sequences of one file.

    Attributes
    ----------
    array : array (S, W)
        The steps of all sequences, one after the other; a memory map where the file allows it.
    offsets : int64 array (n + 1,)
        Sequence i is ``array[offsets[i]:offsets[i + 1]]``.

    Examples
    --------
    >>> piece = RaggedPiece(np.arange(6.0)[:, None], offsets=np.array([0, 2, 6]))
    >>> len(piece), piece.take(np.array([1])).array[:, 0].tolist(), piece.steps(0).shape
    (2, [2.0, 3.0, 4.0, 5.0], (2, 1))
    """

    offsets: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def first(self, count: int) -> RaggedPiece:
        """The first `count` sequences."""
        return RaggedPiece(self.array, self.bfloat16, offsets=self.offsets[: count + 1])

    def take(self, rows: np.ndarray | slice) -> Any:
        """Sequences as `Sequences`, in the order of `rows`."""
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        if len(rows) and bool((np.diff(rows) == 1).all()):  # neighbours: no list of places
            steps = Piece(self.array, self.bfloat16).take(slice(int(starts[0]), int(starts[0] + lengths.sum())))
        else:
            steps = Piece(self.array, self.bfloat16).take(places(starts, lengths))
        return Sequences(steps, lengths)

    def _lines(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.offsets[first], self.offsets[last]

    def steps(self, row: int) -> np.ndarray:
        """The steps of one sequence (T, W), as the file has them."""
        part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return Piece(self.array, True).take(part) if self.bfloat16 else self.array[part]  # type: ignore[no-any-return]


class SequenceColumn(VectorColumn):
    """N sequences of vectors of one size, with a hash of each; see `VectorColumn`.

    Examples
    --------
    >>> piece = RaggedPiece(np.arange(6.0)[:, None], offsets=np.array([0, 2, 6]))
    >>> column = SequenceColumn([piece, piece], [5, 6, 5, 6])
    >>> len(column), column.width, column.take(np.array([3, 0])).lengths.tolist()
    (4, 1, [4, 2])
    """

    noun = "steps"

    @staticmethod
    def of(sequences: Sequences) -> SequenceColumn:
        """Sequences in memory as a column."""
        offsets = np.concatenate([[0], np.cumsum(sequences.lengths)]).astype(np.int64)
        return SequenceColumn([RaggedPiece(sequences.array, offsets=offsets)], sequences.keys)

    def take(self, rows: np.ndarray) -> Sequences:
        """The sequences at `rows`, in that order, read from where they are."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        if len(self.pieces) == 1:
            own = self.pieces[0].take(rows)
            return Sequences(own.array, own.lengths, self.keys[rows])
        parts: list[Any] = [None] * len(rows)
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            for place, one in zip(mine, self.pieces[number].take(rows[mine] - self._starts[number]), strict=True):
                parts[place] = one
        block = Sequences.of(parts) if parts else Sequences(np.zeros((0, self.width), np.float32), np.zeros(0))
        return Sequences(block.array, block.lengths, self.keys[rows])


def sequence_hashes(piece: RaggedPiece, count: int) -> np.ndarray:
    """Hashes of the first `count` sequences of a piece, each of which is looked at.

    Raises
    ------
    BadVector
        One of them has no steps, is not finite, or float32 cannot hold it.

    Examples
    --------
    >>> len(sequence_hashes(RaggedPiece(np.ones((5, 2)), offsets=np.array([0, 2, 5])), 2))
    2
    """
    keys = np.empty(count, np.int64)
    empty = np.flatnonzero(np.diff(piece.offsets[: count + 1]) == 0)
    if len(empty):
        raise BadVector(int(empty[0]))
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count))
        block = piece.take(rows)
        raw = piece.array[int(piece.offsets[rows.start]) : int(piece.offsets[rows.stop])]
        bad = first_fault(block.array if piece.bfloat16 else raw, block.array)
        if bad is not None:
            place = int(piece.offsets[start]) + bad
            raise BadVector(int(np.searchsorted(piece.offsets, place, side="right")) - 1)
        keys[rows] = sequence_keys(block.array, block.lengths)
    return keys


def fault_of_sequence(piece: RaggedPiece, row: int) -> BadRow:
    """The fault of a sequence that `sequence_hashes` has found; without a place.

    Examples
    --------
    >>> print(fault_of_sequence(RaggedPiece(np.array([[1.0], [np.nan]]), offsets=np.array([0, 2])), 0))
    step 1: number 0 of the vector is nan; fix the row, or set data.on_bad_row: skip
    """
    steps = piece.steps(row)
    if not len(steps):
        return BadRow("empty list", "the sequence has no steps", remedy="remove the row, or skip bad rows")
    result = as_float32(steps)
    step = first_fault(steps, result)
    return step_fault(steps, result, step or 0)


def with_offsets(arrays: Mapping[str, Piece], where: str) -> dict[str, Piece]:
    """The arrays of a file with those joined that hold sequences: ``NAME`` and its ``NAME_offsets``.

    Raises
    ------
    DataError
        The offsets are no whole numbers from 0 to the number of steps that do not decrease.

    Examples
    --------
    >>> arrays = {"x": Piece(np.ones((5, 2))), "x_offsets": Piece(np.array([0, 2, 5]))}
    >>> {name: len(piece) for name, piece in with_offsets(arrays, "a.npz").items()}
    {'x': 2}
    """
    result: dict[str, Piece] = {}
    for name, piece in arrays.items():
        if name.endswith(OFFSETS) and name.removesuffix(OFFSETS) in arrays:
            continue
        beside = arrays.get(name + OFFSETS)
        result[name] = piece if beside is None else _joined(name, piece, beside.array, where)
    return result


def _joined(name: str, piece: Piece, offsets: np.ndarray, where: str) -> RaggedPiece:
    array = piece.array[:, None] if piece.array.ndim == 1 else piece.array
    what = None
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        what = f"array {name!r} is {array.dtype} {array.shape}, no steps (S, W)"
    elif offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
        what = f"{name + OFFSETS!r} is {offsets.dtype} {offsets.shape}, no whole numbers (n + 1,)"
    else:
        wide = offsets.astype(np.int64)
        falls = np.flatnonzero(np.diff(wide) < 0)
        if len(falls):
            what = f"{name + OFFSETS!r} decreases behind sequence {int(falls[0]) + 1}"
        elif wide[0] != 0 or wide[-1] != len(array):
            what = f"{name + OFFSETS!r} goes from {wide[0]:,} to {wide[-1]:,}, and {name!r} has {len(array):,} steps"
    if what is not None:
        raise DataError(what, where=where, remedy="offsets are 0, then the number of steps up to each sequence's end")
    return RaggedPiece(array, piece.bfloat16, offsets=offsets.astype(np.int64))


def sequences_of(piece: Piece, slot: str) -> list[RaggedPiece] | None:
    """The sequences of a slot: a ragged piece, arrays (n, T, W) or (n, T), or of ``negatives`` the K of (n, K, T, W).

    Examples
    --------
    >>> [len(one) for one in sequences_of(Piece(np.ones((4, 5))), "anchor")]
    [4]
    """
    array = piece.array
    if array.dtype.kind not in "fiu" or not array.shape[-1]:
        return None
    if isinstance(piece, RaggedPiece):
        return None if slot == "negatives" else [piece]
    if slot == "negatives":
        return [_even(array[:, k], piece.bfloat16) for k in range(array.shape[1])] if array.ndim == 4 else None
    return [_even(array, piece.bfloat16)] if array.ndim in (2, 3) else None


def _even(array: np.ndarray, bfloat16: bool) -> RaggedPiece:
    count, steps = array.shape[:2]
    flat = array.reshape(count * steps, array.shape[2] if array.ndim == 3 else 1)
    return RaggedPiece(flat, bfloat16, offsets=np.arange(count + 1, dtype=np.int64) * steps)
