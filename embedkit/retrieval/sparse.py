"""Sparse vectors of an index: their numbers other than zero, and the exact search among them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedkit.retrieval.arrays import Array

if TYPE_CHECKING:
    from embedkit.retrieval.folder import IndexFiles

NAMES = ("sparse.data.npy", "sparse.places.npy", "sparse.starts.npy")
"""Files of the numbers, float32 (n), their coordinates, int32 (n), and where each row begins, int64 (N + 1)."""
_ROWS = 65_536


class SparseTable:
    """Rows (N, D) of which the numbers other than zero are kept; they come out dense.

    Parameters
    ----------
    data, places, starts : arrays
        As in `NAMES`; memory-mapped or in memory.
    dim : int
        D.

    Examples
    --------
    >>> table = SparseTable(np.array([2.0, 3.0, 4.0]), np.array([1, 0, 2]), np.array([0, 1, 3]), dim=3)
    >>> table.shape, table[1].tolist()
    ((2, 3), [3.0, 0.0, 4.0])
    >>> scores, places = table.nearest(np.array([[1.0, 1.0, 0.0]], dtype=np.float32), 1)
    >>> scores.tolist(), places.tolist()
    ([[3.0]], [[1]])
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, data: Array, places: Array, starts: Array, dim: int) -> None:
        self._data, self._places, self._starts = data, places, starts
        self.shape = (len(starts) - 1, dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        """Dense rows of a slice or of places (n, D); of one place its vector (D,)."""
        if isinstance(rows, int | np.integer):
            return self[[int(rows)]][0]  # type: ignore[no-any-return]
        index = np.arange(len(self))[rows]
        dense = np.zeros((len(index), self.shape[1]), dtype=np.float32)
        for number, row in enumerate(index):
            part = slice(int(self._starts[row]), int(self._starts[row + 1]))
            dense[number, self._places[part]] = self._data[part]
        return dense

    def matrix(self, rows: slice) -> Any:
        """Some rows in a row as a matrix of scipy, float64."""
        from scipy.sparse import csr_matrix

        start, stop, _ = rows.indices(len(self))
        starts = np.asarray(self._starts[start : stop + 1])
        part = slice(int(starts[0]), int(starts[-1]))
        arrays = np.asarray(self._data[part], dtype=np.float64), self._places[part], starts - starts[0]
        return csr_matrix(arrays, shape=(stop - start, self.shape[1]))

    def nearest(self, queries: Array, k: int) -> tuple[Array, Array]:
        """Inner products (Q, k) in float64 and places (Q, k) of the nearest rows to (Q, D); of equal ones the first.

        A score is the sum over one row's own numbers, whatever the block and the other queries.
        """
        weights = np.ascontiguousarray(queries.T, dtype=np.float64)
        scores, places = np.zeros((len(queries), 0)), np.zeros((len(queries), 0), dtype=np.int64)
        for start in range(0, len(self), _ROWS):
            products = (self.matrix(slice(start, start + _ROWS)) @ weights).T
            here = np.broadcast_to(np.arange(start, start + products.shape[1]), products.shape)
            scores, places = np.hstack([scores, products]), np.hstack([places, here])
            if scores.shape[1] > k:
                order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
                scores, places = np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)


def write_sparse(folder: Path, blocks: Iterable[Array]) -> float:
    """Write the files of `NAMES` for dense vectors (n, D) that come in blocks; the largest length of a vector.

    Examples
    --------
    >>> write_sparse(Path(), [np.array([[0.0, 2.0], [0.0, 0.0]])])
    2.0
    >>> [np.load(name).tolist() for name in NAMES]
    [[2.0], [1], [0, 1, 1]]
    """
    data, places, sizes, largest = [], [], [np.zeros(1, dtype=np.int64)], 0.0
    for block in blocks:
        rows, columns = np.nonzero(block)
        values = np.asarray(block)[rows, columns].astype(np.float32)
        squares = np.bincount(rows, values.astype(np.float64) ** 2, minlength=len(block))
        largest = max(largest, float(np.sqrt(squares.max(initial=0.0))))
        data.append(values)
        places.append(columns.astype(np.int32))
        sizes.append(np.bincount(rows, minlength=len(block)))
    arrays: tuple[Array, ...] = np.concatenate(data), np.concatenate(places), np.cumsum(np.concatenate(sizes))
    for name, array in zip(NAMES, arrays, strict=True):
        np.save(folder / name, array)
    return largest


def open_sparse(files: IndexFiles) -> SparseTable:
    """The sparse vectors of an index folder, memory-mapped.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> index = embedkit.build_index(["two cats"], "cats", StaticEncoder(tokenizer(), dim=8), codes=(), sparse=True)
    >>> index.vectors.shape
    (1, 8)
    """
    starts = files.array(NAMES[2], (files.settings.rows + 1,))
    count = (int(starts[-1]),)
    return SparseTable(files.array(NAMES[0], count), files.array(NAMES[1], count), starts, files.settings.dim)
