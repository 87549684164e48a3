"""Vectors in memory or in a file: checked, scaled, compared exactly."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from embedkit.errors import DataError, NonFiniteError
from embedkit.retrieval.arrays import Array

_CHECKED = 16_384  # rows read at a time when a file is checked


class Vectors:
    """Vectors (N, D), each scaled to length 1 for cosines, that need not fit into memory.

    A row comes out with the same bits however many others are asked for with it.

    Parameters
    ----------
    array : array (N, D) of a floating type
        In memory or memory-mapped.
    name : str
        How messages call it.
    unit : bool
        Scale to length 1; a vector of zeros stays one.
    largest : float, optional
        The largest length, where it is known from an earlier check: nothing is read before rows are asked for.

    Raises
    ------
    DataError
        It is no table of floating numbers.
    NonFiniteError
        A row has NaN or infinity; the row is named.

    Examples
    --------
    >>> vectors = Vectors(np.array([[3.0, 4.0], [0.0, 2.0]]), "v.npy", unit=True)
    >>> vectors.rows([1, 0]).tolist()
    [[0.0, 1.0], [0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self, array: Array, name: str, *, unit: bool, largest: float | None = None) -> None:
        if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
            raise DataError(
                f"it holds {array.dtype} of the shape {array.shape}, not one vector of floating numbers a row",
                where=name, remedy="give an array (N, D), as `embedkit encode` writes it",
            )  # fmt: skip
        self.name, self._array, self._map = name, array, _map_of(array)
        self._index: Array | None = None  # which rows of the array, where not all of them
        self._scale: Array | None = np.ones(len(array)) if unit else None
        self.largest = largest or 0.0
        self.residual: float | None = None
        """Largest length of what bfloat16 cuts off a vector, where somebody has looked."""
        for start in range(0, len(array), _CHECKED) if largest is None or unit else ():
            rows = np.asarray(array[start : start + _CHECKED], dtype=np.float64)
            if not (finite := np.isfinite(rows).all(axis=1)).all():
                row = start + int(np.argmin(finite)) + 1
                raise NonFiniteError("the vector has NaN or infinite values", where=f"{name}: row {row}",
                                     remedy="encode this row again, or take it out of both files")  # fmt: skip
            norms = np.sqrt((rows * rows).sum(axis=1))
            if self._scale is not None:
                self._scale[start : start + len(rows)] = 1 / np.where(norms > 0, norms, 1.0)
                norms = np.minimum(norms, 1.0 + 1e-6)
            self.largest = max(self.largest, float(norms.max(initial=0.0)))
            self.release()

    def __len__(self) -> int:
        return len(self._array) if self._index is None else len(self._index)

    def select(self, places: Sequence[int]) -> Vectors:
        """The vectors at these places, in this order; nothing is copied."""
        part = copy(self)
        index = np.asarray(places, dtype=np.int64)
        part._index = index if self._index is None else self._index[index]
        return part

    def digest(self) -> str:
        """A hash of all numbers of the array, whichever of its rows are in use."""
        state = xxhash.xxh3_128(f"{self._array.dtype} {self._array.shape}".encode())
        for start in range(0, len(self._array), _CHECKED):
            state.update(np.ascontiguousarray(self._array[start : start + _CHECKED]).data)
            self.release()
        return state.hexdigest()

    def release(self) -> None:
        """Give back the memory of what was read of a mapped file; its pages are there again when they are read."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return int(self._array.shape[1])

    def rows(self, index: Sequence[int] | Array | slice) -> Array:
        """The vectors at these places, float32 (n, D)."""
        index = index if self._index is None else self._index[index]
        part = np.asarray(self._array[index])
        if self._scale is None:
            return np.array(part, dtype=np.float32, order="C")  # a copy: a map may be read-only, which torch warns of
        return np.ascontiguousarray(part.astype(np.float64) * self._scale[index][:, None], dtype=np.float32)


def _map_of(array: Array) -> mmap.mmap | None:
    """The map below an array that looks into a file; None where giving pages back would lose changes of them."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        if getattr(base, "mode", None) == "c":
            return None
        base = getattr(base, "base", None)
    return base if hasattr(mmap, "MADV_DONTNEED") else None


def inner_products(vector: Array, others: Array) -> Array:
    """Inner products (n,) of a float32 vector (D,) with the rows of (n, D), in float64, pair by pair.

    What comes out for a pair does not depend on the other pairs, as it does with a matrix product.

    Examples
    --------
    >>> inner_products(np.array([1.0, 2.0], np.float32), np.array([[0.5, 0.5], [1.0, 0.0]], np.float32)).tolist()
    [1.5, 1.0]
    """
    products = np.ascontiguousarray(others, dtype=np.float64) * np.asarray(vector, dtype=np.float64)
    return np.asarray(products.sum(axis=1), dtype=np.float64)


def open_vectors(source: str | Path | Array, rows: int, of_what: str, *, unit: bool) -> Vectors:
    """The vectors of a ``.npy`` file, which is memory-mapped, or of an array, one for each of `rows`.

    Raises
    ------
    DataError
        The file cannot be read, or has another number of rows than what its vectors belong to.

    Examples
    --------
    >>> np.save("anchors.npy", np.eye(3, dtype=np.float32))
    >>> open_vectors("anchors.npy", 4, "rows of faq.csv", unit=True)
    Traceback (most recent call last):
    ...
    embedkit.errors.DataError: anchors.npy: 3 vectors for 4 rows of faq.csv; row i of one belongs to row i of the ...
    """
    name = str(source) if isinstance(source, str | Path) else "the array of vectors"
    array: Any = source
    if isinstance(source, str | Path):
        try:
            array = np.load(source, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise DataError("no such file", where=name, remedy="check the path") from error
        except (OSError, ValueError, EOFError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"is no .npy file of vectors ({reason})", where=name,
                            remedy="write one with `embedkit encode`") from error  # fmt: skip
    if isinstance(array, np.memmap):
        array = np.asarray(array)  # the same pages, without the cost of the class at each access
    if not isinstance(array, np.ndarray):
        raise DataError(f"{type(array).__name__} is no array (N, D)", where=name, remedy="give one array of vectors")
    if array.ndim == 2 and len(array) != rows:
        remedy = "row i of one belongs to row i of the other: encode the same file again"
        raise DataError(f"{len(array):,} vectors for {rows:,} {of_what}", where=name, remedy=remedy)
    return Vectors(array, name, unit=unit)
