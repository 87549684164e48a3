"""Sequences of vectors: steps of a time series, frames, events. Those of a batch are one ragged array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from xxhash import xxh3_64_intdigest

from embedkit.data.schema.parsers import show
from embedkit.data.schema.rows import BadRow
from embedkit.data.vectors.values import as_float32, fault_of, first_fault, is_vector

_FIX = "fix the row, or set data.on_bad_row: skip"


class Sequences(Sequence[np.ndarray]):
    """N sequences of vectors of one size: a sequence of arrays (T_i, W) that is one array, without padding.

    Parameters
    ----------
    array : float32 array (S, W)
        The steps of all sequences, one after the other.
    lengths : int64 array (N,)
        Steps of each.
    keys : int64 array (N,), optional
        Hashes of their content, where they are known already.

    Examples
    --------
    >>> sequences = Sequences(np.arange(6, dtype=np.float32)[:, None], np.array([2, 4]))
    >>> len(sequences), sequences[1][:, 0].tolist(), sequences[:1].array.shape
    (2, [2.0, 3.0, 4.0, 5.0], (2, 1))
    """

    __slots__ = ("_keys", "_starts", "array", "lengths")

    def __init__(self, array: np.ndarray, lengths: np.ndarray, keys: np.ndarray | None = None) -> None:
        self.array, self.lengths, self._keys = array, np.asarray(lengths, np.int64), keys
        self._starts = np.cumsum(self.lengths) - self.lengths

    @staticmethod
    def of(sequences: Sequence[Any]) -> Sequences:
        """Arrays (T_i, W) as one block; as it is where it is one already.

        Raises
        ------
        BadRow
            Their steps have several sizes; without a place.
        """
        if isinstance(sequences, Sequences):
            return sequences
        arrays = [as_float32(np.asarray(one)) for one in sequences]
        sizes = sorted({array.shape[1:] for array in arrays})
        if len(sizes) > 1 or any(len(size) != 1 for size in sizes):
            raise BadRow("unequal widths", f"steps of the shapes {sizes[0]} and {sizes[-1]}", remedy=_FIX)
        flat = np.concatenate(arrays) if arrays else np.zeros((0, 0), np.float32)
        return Sequences(flat, np.array([len(array) for array in arrays], np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Sequences: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            rows = np.arange(len(self))[index]
            keys = None if self._keys is None else self._keys[rows]
            return Sequences(self.array[places(self._starts[rows], self.lengths[rows])], self.lengths[rows], keys)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start = self._starts[index]
        return self.array[start : start + self.lengths[index]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))

    @property
    def keys(self) -> np.ndarray:
        """Hashes of the sequences, int64 (N,); equal sequences have equal ones."""
        return sequence_keys(self.array, self.lengths) if self._keys is None else self._keys


def places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Places of the steps of sequences that begin at `starts`, one sequence after the other, int64 (S,).

    Examples
    --------
    >>> places(np.array([4, 0]), np.array([2, 3])).tolist()
    [4, 5, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def sequence_keys(array: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """A 63-bit hash of the steps of each sequence, int64 (N,).

    Examples
    --------
    >>> keys = sequence_keys(np.ones((4, 2), np.float32), np.array([2, 1, 1]))
    >>> bool(keys[1] == keys[2]), bool(keys[0] == keys[1])
    (True, False)
    """
    flat, ends = np.ascontiguousarray(array), np.cumsum(lengths)
    hashes = (xxh3_64_intdigest(flat[end - length : end].data) >> 1 for end, length in zip(ends, lengths, strict=True))
    return np.fromiter(hashes, np.int64, len(lengths))


def axes_of(cell: Any) -> int:
    """How many axes the numbers of a cell have: 0 for none, 1 for a vector, 2 for a sequence; by the first entries.

    Examples
    --------
    >>> axes_of(np.zeros((3, 2))), axes_of([0.5, 1.0]), axes_of([[0.5], [1.0]]), axes_of(["a"])
    (2, 1, 2, 0)
    """
    if isinstance(cell, np.ndarray):
        return cell.ndim if cell.dtype.kind in "fiu" else 0
    if not isinstance(cell, list) or not cell:
        return 0
    if isinstance(cell[0], list | np.ndarray):
        inner = axes_of(cell[0]) or int(_is_step(cell[0]))
        return inner + 1 if inner else 0
    return int(is_vector(cell))


def _is_step(cell: Any) -> bool:
    return isinstance(cell, list) and len(cell) == 1 and type(cell[0]) in (int, float)


def read_sequence(cell: Any) -> np.ndarray:
    """A sequence, float32 (T, W), of an array or of nested lists; plain numbers (T,) are steps of one number.

    Raises
    ------
    BadRow
        It is no such thing, has no steps, steps of unequal width, or a number that float32 cannot hold; without a
        place.

    Examples
    --------
    >>> read_sequence([[0.5, 1], [2, 3]]).tolist(), read_sequence([1.0, 2.0, 3.0]).shape
    ([[0.5, 1.0], [2.0, 3.0]], (3, 1))
    >>> read_sequence([[0.5], [float("nan")]])
    Traceback (most recent call last):
    embedkit.data.schema.rows.BadRow: step 1: number 0 of the vector is nan; fix the row, or set data.on_bad_row: skip
    """
    if cell is None:
        raise BadRow("missing value", "expected a sequence, found nothing (null)", remedy=_FIX)
    if isinstance(cell, list | tuple) and not len(cell):
        raise BadRow("empty list", "the sequence has no steps", remedy=_FIX)
    try:
        values = np.asarray(cell)
    except (ValueError, OverflowError) as error:
        sizes = sorted({np.size(step) for step in cell}) if isinstance(cell, list) else []
        what = f"steps of {sizes[0]} and of {sizes[-1]} numbers" if len(sizes) > 1 else f"no sequence: {show(cell)}"
        raise BadRow("unequal widths", what, remedy="give all steps the same number of numbers") from error
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        shape = f"an array of {values.dtype} {values.shape}" if isinstance(cell, np.ndarray) else show(cell)
        raise BadRow("wrong type", f"expected a sequence (T, W) of numbers, found {shape}", remedy=_FIX)
    if not values.size:
        raise BadRow("empty list", "the sequence has no steps", remedy=_FIX)
    result = as_float32(values)
    step = first_fault(values, result)
    if step is not None:
        raise step_fault(values, result, step)
    return result


def step_fault(values: np.ndarray, result: np.ndarray, step: int) -> BadRow:
    """The fault of one step of a sequence (T, W); without a place.

    Examples
    --------
    >>> values = np.array([[1.0], [1e60]])
    >>> print(step_fault(values, as_float32(values), 1))
    step 1: number 0 of the vector is 1e+60, beyond the range of float32; scale it
    """
    bad = fault_of(values[step], result[step])
    return BadRow(bad.reason, f"step {step}: {bad.what}", remedy=bad.remedy)
