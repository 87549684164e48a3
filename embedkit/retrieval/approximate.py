"""Approximate nearest neighbours by FAISS, whose indexes are made in memory and never read from a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedkit.errors import DataError
from embedkit.retrieval.arrays import Array
from embedkit.retrieval.exact import LOWEST


def distinct_rows(vectors: Array) -> tuple[Array, list[Array]]:
    """Positions of the first of equal rows of (N, D), in order, and for each the positions of all rows like it.

    Examples
    --------
    >>> first, copies = distinct_rows(np.array([[1.0], [2.0], [1.0]]))
    >>> first.tolist(), [one.tolist() for one in copies]
    ([0, 1], [[0, 2], [1]])
    """
    rows = np.ascontiguousarray(vectors)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    order = np.argsort(first)
    return first[order], [members[place] for place in order]


class FaissIndex:
    """A FAISS index of ``index_factory`` ("Flat", "HNSW32" ...) over vectors (N, D), by inner product.

    Equal vectors stand in it once, and come back together: copies are each other's nearest neighbours, and would tear
    the graph of an HNSW index into islands. Among them the larger `preference` comes first, or the earlier.

    Raises
    ------
    MissingExtraError
        faiss is not installed.
    DataError
        FAISS does not know the description of the index.

    Examples
    --------
    >>> index = FaissIndex(np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]), "Flat")
    >>> scores, places = index.search(np.array([[1.0, 0.0]]), k=2)
    >>> scores.tolist(), places.tolist()
    ([[1.0, 0.5]], [[1, 0]])
    """

    def __init__(self, vectors: Array, factory: str, preference: Array | None = None) -> None:
        from embedkit.errors import MissingExtraError

        try:
            import faiss
        except ImportError as error:
            raise MissingExtraError("faiss-cpu", "search", "an approximate index") from error
        try:
            self._index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            remedy = "for example HNSW32 or IVF64,Flat"
            raise DataError(f"FAISS cannot make an index {factory!r}", remedy=remedy) from error
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._rows = len(vectors)
        first, copies = distinct_rows(vectors)
        self._index.train(vectors[first])
        self._index.add(vectors[first])
        if preference is not None:
            copies = [rows[np.argsort(-preference[rows], kind="stable")] for rows in copies]
        self._copies = copies

    def search(self, queries: Array, k: int) -> tuple[Array, Array]:
        """Scores and places (Q, k), the best first; missing places are -1."""
        distinct = len(self._copies)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        scores, places = self._index.search(queries, min(k, distinct))
        if distinct == self._rows:
            return scores, places
        return _with_copies(scores, places, self._copies, min(k, self._rows))


def _with_copies(scores: Array, places: Array, copies: Sequence[Array], k: int) -> tuple[Array, Array]:
    """Hits among distinct vectors as hits among all, the `k` first."""
    all_scores = np.full((len(scores), k), LOWEST, dtype=np.float32)
    all_places = np.full((len(scores), k), -1, dtype=np.int64)
    for row, (values, hits) in enumerate(zip(scores, places, strict=True)):
        count = 0
        for value, hit in zip(values, hits, strict=True):
            rows = copies[hit][: k - count] if hit >= 0 else ()
            all_scores[row, count : count + len(rows)] = value
            all_places[row, count : count + len(rows)] = rows
            count += len(rows)
            if count == k:
                break
    return all_scores, all_places
