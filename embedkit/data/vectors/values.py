"""Vectors of a batch as one array that reads like a list, and the cells that become vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from xxhash import xxh3_64_intdigest

from embedkit.data.schema.parsers import show
from embedkit.data.schema.rows import BadRow

LARGEST = 2**24
"""Whole numbers up to this size are exact in float32."""

_HALVES = 65_536
"""Numbers of float16 that are made float32 at a time: they stay in the cache."""

_SIGN_AND_REST = np.int32(-0x70000001)  # all bits but the three between sign and exponent
_EXPONENT = np.float32(2.0**112)  # 127 - 15
_TOO_LARGE = 65_536.0  # for float16

_FIX = "fix the row, or set data.on_bad_row: skip"


class Vectors(Sequence[np.ndarray]):
    """N vectors of one size: a sequence of arrays (W,) that is one array.

    Parameters
    ----------
    array : float32 array (N, W)
        The vectors.
    keys : int64 array (N,), optional
        Hashes of their content, where they are known already.

    Examples
    --------
    >>> vectors = Vectors(np.eye(3, dtype=np.float32))
    >>> len(vectors), vectors[1].tolist(), vectors[:2].array.shape
    (3, [0.0, 1.0, 0.0], (2, 3))
    """

    __slots__ = ("_keys", "array")

    def __init__(self, array: np.ndarray, keys: np.ndarray | None = None) -> None:
        self.array = array
        self._keys = keys

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Vectors: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Vectors(self.array[index], None if self._keys is None else self._keys[index])
        return self.array[index]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.array)

    @property
    def keys(self) -> np.ndarray:
        """Hashes of the vectors, int64 (N,); equal vectors have equal ones."""
        return content_keys(self.array) if self._keys is None else self._keys


def stacked(vectors: Sequence[Any]) -> np.ndarray:
    """Vectors as one float32 array (N, W), without a copy where they are one already.

    Raises
    ------
    BadRow
        They have several sizes; without a place.

    Examples
    --------
    >>> stacked([np.zeros(2, np.float32), np.ones(2, np.float32)]).shape
    (2, 2)
    """
    if isinstance(vectors, Vectors):
        return vectors.array
    rows = [np.asarray(vector, np.float32) for vector in vectors]
    sizes = sorted({row.shape for row in rows})
    if len(sizes) > 1:
        raise BadRow("unequal widths", f"vectors of the shapes {sizes[0]} and {sizes[1]}", remedy=_FIX)
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def content_keys(array: np.ndarray) -> np.ndarray:
    """A 63-bit hash of the bytes of each row of `array` (N, W), int64 (N,).

    Examples
    --------
    >>> keys = content_keys(np.array([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]], np.float32))
    >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
    (True, False)
    """
    rows = np.ascontiguousarray(array)
    return np.fromiter((xxh3_64_intdigest(row) >> 1 for row in rows), np.int64, len(rows))


def is_vector(cell: Any) -> bool:
    """Whether a cell is a vector: an array (W,) of numbers, or a list of at least two that are not all texts.

    Examples
    --------
    >>> is_vector(np.zeros(3)), is_vector([0.5, 1]), is_vector(["a"]), is_vector(True)
    (True, True, False, False)
    """
    if isinstance(cell, np.ndarray):
        return cell.ndim >= 1 and cell.dtype.kind in "fiu"
    return isinstance(cell, list) and len(cell) > 1 and all(type(value) in (int, float) for value in cell)


_NO_NUMBERS = {
    "c": "save the real and the imaginary parts as numbers: numpy.concatenate([x.real, x.imag], axis=-1)",
    "b": "save numbers: x.astype('uint8')",
    "U": "save one text a row, or numbers: x.astype('float32')",
}
"""Kind of numpy's type of an array that is no vector -> how its like is saved as one."""


def no_vector(cell: np.ndarray) -> BadRow:
    """The fault of an array with axes whose values are no whole or floating-point numbers; without a place.

    Examples
    --------
    >>> print(no_vector(np.zeros(3, complex)))
    an array of complex128 (3,) is neither a text nor a vector; save the real and the imaginary parts as numbers: ...
    """
    what = f"an array of {cell.dtype} {cell.shape} is neither a text nor a vector"
    remedy = _NO_NUMBERS.get("U" if cell.dtype.kind in "UST" else cell.dtype.kind, "save numbers, or one text a row")
    return BadRow("wrong type", what, remedy=remedy)


def read_vector(cell: Any) -> np.ndarray:
    """A vector, float32 (W,), of an array, a list of numbers, or the text of a JSON list.

    Raises
    ------
    BadRow
        It is no list of numbers, or float32 cannot hold one of them; without a place.

    Examples
    --------
    >>> read_vector([0.5, 1]).tolist(), read_vector("[1, 2]").tolist()
    ([0.5, 1.0], [1.0, 2.0])
    >>> read_vector([0.5, float("nan")])
    Traceback (most recent call last):
    embedkit.data.schema.rows.BadRow: number 1 of the vector is nan; fix the row, or set data.on_bad_row: skip
    """
    if cell is None:
        raise BadRow("missing value", "expected a vector, found nothing (null)", remedy=_FIX)
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise BadRow("wrong type", f"expected a vector, found {show(cell)}", remedy=_FIX) from error
    try:
        values = np.asarray(cell)
    except (ValueError, OverflowError) as error:
        raise BadRow("wrong type", f"expected a vector, found {show(cell)}", remedy=_FIX) from error
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        shape = f"an array of {values.dtype} {values.shape}" if isinstance(cell, np.ndarray) else show(cell)
        raise BadRow("wrong type", f"expected a vector, found {shape}", remedy=_FIX)
    if not len(values):
        raise BadRow("empty list", "the vector has no numbers", remedy=_FIX)
    result = as_float32(values)
    place = first_fault(values[None], result[None])
    if place is not None:
        raise fault_of(values, result)
    return result


def as_float32(values: np.ndarray) -> np.ndarray:
    """Numbers of any type and byte order as float32; those out of its range become infinite.

    Examples
    --------
    >>> as_float32(np.array([1.5], dtype=">f8")).dtype
    dtype('float32')
    """
    if values.dtype == np.float32 and values.dtype.isnative:
        return np.asarray(values)
    if values.dtype == np.float16 and values.dtype.isnative:
        return _of_halves(np.ascontiguousarray(values))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values).astype(np.float32)


def _of_halves(values: np.ndarray) -> np.ndarray:
    """float16 as float32: the bits are moved, and the exponent is corrected by a product, exact for finite numbers.

    That is quicker than NumPy's own, which looks at one number after the other.
    """
    result = np.empty(values.shape, np.float32)
    source, bits, numbers = values.reshape(-1).view(np.int16), result.reshape(-1).view(np.int32), result.reshape(-1)
    for start in range(0, len(bits), _HALVES):
        part = bits[start : start + _HALVES]
        np.left_shift(source[start : start + _HALVES], 13, out=part, dtype=np.int32)  # the sign fills the top
        part &= _SIGN_AND_REST
        numbers[start : start + _HALVES] *= _EXPONENT
    if numbers.size and not -_TOO_LARGE < numbers.min() <= numbers.max() < _TOO_LARGE:  # infinite, or no number
        return values.astype(np.float32)
    return result


def first_fault(values: np.ndarray, result: np.ndarray) -> int | None:
    """The first row of `values` (N, W) that is not finite as `result`, or holds a whole number that float32 rounds.

    Examples
    --------
    >>> first_fault(np.ones((2, 2), np.float32), np.array([[1.0, 2.0], [np.inf, 0.0]], np.float32))
    1
    """
    bad: np.ndarray | None = None
    flat = result.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.dot(flat, flat)  # finite where all are, but for very large numbers, and quick
    if not np.isfinite(squares):
        bad = ~np.isfinite(result).all(axis=1)
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2:
        too_large: np.ndarray = np.any(np.abs(values.astype(np.float64)) > LARGEST, axis=1)
        bad = too_large if bad is None else bad | too_large
    return None if bad is None or not bad.any() else int(np.argmax(bad))


def fault_of(values: np.ndarray, result: np.ndarray) -> BadRow:
    """The fault of a vector (W,) that `first_fault` has found; without a place.

    Examples
    --------
    >>> values = np.array([2.0**24 + 1]).astype(np.int64)
    >>> print(fault_of(values, as_float32(values)))
    number 0 of the vector is 16777217, which float32 cannot hold exactly; give floating point, or scale it
    """
    finite = np.isfinite(result)
    if finite.all():
        place = int(np.argmax(np.abs(values.astype(np.float64)) > LARGEST))
        what = f"number {place} of the vector is {values[place]}, which float32 cannot hold exactly"
        return BadRow("bad vector", what, remedy="give floating point, or scale it")
    place = int(np.argmin(finite))
    if np.isfinite(values[place]):
        what = f"number {place} of the vector is {values[place]:g}, beyond the range of float32"
        return BadRow("bad vector", what, remedy="scale it")
    return BadRow("bad vector", f"number {place} of the vector is {values[place]}", remedy=_FIX)
