"""A column of vectors: arrays of one or several files, read from the disk where rows of them are asked for."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedkit.data.vectors.values import Vectors, as_float32, content_keys, first_fault

BLOCK = 4096
"""Rows that are checked at a time."""

RUN = 512
"""Neighbours that are asked for together."""

_SOON = mmap.MADV_WILLNEED if sys.platform == "linux" else None


@dataclass(frozen=True)
class Piece:
    """Vectors of one file.

    Attributes
    ----------
    array : array (n, W)
        Numbers of any type; a memory map where the file allows it.
    bfloat16 : bool
        Whether they are the bits (uint16) of bfloat16, which numpy does not have.

    Examples
    --------
    >>> Piece(np.array([[0x3F80]], np.uint16), bfloat16=True).take(np.array([0])).tolist()
    [[1.0]]
    """

    array: np.ndarray
    bfloat16: bool = False

    def __len__(self) -> int:
        return len(self.array)

    def first(self, count: int) -> Piece:
        """The first `count` rows."""
        return Piece(self.array[:count], self.bfloat16)

    def take(self, rows: np.ndarray | slice) -> Any:
        """Rows as float32 (len(rows), W)."""
        part = self.array[rows] if isinstance(rows, slice) else np.take(self.array, rows, axis=0)
        if self.bfloat16:
            return (part.astype(np.uint32) << 16).view(np.float32)
        return as_float32(part)

    def ahead(self, rows: np.ndarray) -> None:
        """Ask the system to read `rows` of a mapped file soon, in runs, where they lie close together."""
        marks = np.zeros(len(self) // RUN + 1, bool)
        marks[rows // RUN] = True
        runs = np.flatnonzero(marks)
        if len(runs) * RUN <= 4 * len(rows):
            first = runs[np.diff(runs, prepend=-2) != 1]
            last = runs[np.diff(runs, append=-2) != 1] + 1
            _advise(self.array, *self._lines(first * RUN, np.minimum(last * RUN, len(self))))

    @property
    def on_disk(self) -> bool:
        """Whether rows are read from the disk when they are asked for."""
        return _mapping(self.array) is not None

    def _lines(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in `array` rows from `first` to before `last` are."""
        return first, last


class VectorColumn:
    """N vectors of one size in one or several pieces, with a hash of each.

    Parameters
    ----------
    pieces : sequence of Piece
        All of one width.
    keys : int64 array (N,)
        Hashes of the vectors.

    Examples
    --------
    >>> piece = Piece(np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> column = VectorColumn([piece, piece], checked_keys(piece, 2).repeat(1).tolist() * 2)
    >>> len(column), column.width, column.take(np.array([3, 0])).array.tolist()
    (4, 2, [[3.0, 4.0], [1.0, 2.0]])
    """

    noun = "vectors"
    """What messages call its rows."""

    def __init__(self, pieces: Sequence[Piece], keys: np.ndarray | Sequence[int]) -> None:
        self.pieces = tuple(pieces)
        self.keys = np.asarray(keys, np.int64)
        self._starts = np.concatenate([[0], np.cumsum([len(piece) for piece in self.pieces])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.pieces[0].array.shape[1])

    def take(self, rows: np.ndarray) -> Any:
        """The vectors at `rows`, in that order, read from where they are."""
        if len(self.pieces) == 1:
            return Vectors(self.pieces[0].take(rows), self.keys[rows])
        result = np.empty((len(rows), self.width), np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            result[mine] = self.pieces[number].take(rows[mine] - self._starts[number])
        return Vectors(result, self.keys[rows])

    def ahead(self, rows: np.ndarray) -> None:
        """Ask the system to read the vectors at `rows` soon; see `Piece.ahead`."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner):
            self.pieces[number].ahead(rows[owner == number] - self._starts[number])

    @property
    def mapped_bytes(self) -> int:
        """Bytes of it that lie in files and not in memory."""
        return sum(piece.array.nbytes for piece in self.pieces if piece.on_disk)

    def places(self) -> np.ndarray:
        """For each row the first row with an equal vector, int64 (N,)."""
        _, first, inverse = np.unique(self.keys, return_index=True, return_inverse=True)
        return first[inverse].astype(np.int64)

    @staticmethod
    def joined(columns: Sequence[VectorColumn]) -> VectorColumn:
        """All rows of several columns, in order."""
        pieces = [piece for column in columns for piece in column.pieces]
        return type(columns[0])(pieces, np.concatenate([column.keys for column in columns]))


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _advise(array: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
    """Let the system read lines from `first` to before `last` of an array, if it is a file that is mapped."""
    base = _mapping(array)
    if base is None or _SOON is None or array.strides[0] < array[:1].nbytes:
        return
    each = array.strides[0]
    start = array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
    for one, other in zip((start + first * each).tolist(), (start + last * each).tolist(), strict=True):
        page = one // mmap.PAGESIZE * mmap.PAGESIZE
        base.madvise(_SOON, page, min(other, len(base)) - page)


class BadVector(Exception):
    """A vector that cannot be used, by its row; whoever knows the file says more.

    Examples
    --------
    >>> BadVector(7).row
    7
    """

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def checked_keys(piece: Piece, count: int) -> np.ndarray:
    """Hashes of the first `count` vectors of a piece, each of which is looked at.

    Raises
    ------
    BadVector
        One of them is not finite, or float32 cannot hold it.

    Examples
    --------
    >>> len(checked_keys(Piece(np.eye(3, dtype=np.float64)), 2))
    2
    """
    keys = np.empty(count, np.int64)
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count))
        values = piece.take(rows)
        bad = first_fault(values if piece.bfloat16 else piece.array[rows], values)
        if bad is not None:
            raise BadVector(start + bad)
        keys[rows] = content_keys(values)
    return keys


def blocks(column: VectorColumn, rows: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    """The vectors at `rows` in blocks of at most `size`, float32 (n, W).

    Examples
    --------
    >>> piece = Piece(np.eye(3, dtype=np.float32))
    >>> column = VectorColumn([piece], checked_keys(piece, 3))
    >>> [len(block) for block in blocks(column, np.arange(3), size=2)]
    [2, 1]
    """
    for start in range(0, len(rows), size):
        yield column.take(rows[start : start + size]).array
