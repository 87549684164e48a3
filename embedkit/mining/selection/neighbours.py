"""Which vectors are near each other, exactly: blocks of products in float32, anew in float64 where it is close.

A cosine is compared with the threshold after rounding to six decimals, so that equal vectors, whose squares add up to 1
but for rounding, are equal at a threshold of 1 too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from embedkit.evaluation.core.stats import Array
from embedkit.mining.vectors import Vectors

_DIGITS = 6
_EXACT = 65_536  # pairs whose products are computed anew at a time
BLOCK = 4096
"""Rows that are compared with as many others at a time."""


def cosines(first: Array, second: Array) -> Array:
    """Inner products (n,) of the rows of two float32 tables (n, D), pair by pair in float64, rounded.

    Examples
    --------
    >>> cosines(np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]])).tolist()
    [0.6]
    """
    products = np.asarray(first, dtype=np.float64) * np.asarray(second, dtype=np.float64)
    return np.round(products.sum(axis=1), _DIGITS)


def near(first: Array, second: Array, threshold: float, largest: float) -> Array:
    """Which of the rows of two float32 tables (m, D) and (n, D) have a cosine of `threshold` or more: bool (m, n).

    Parameters
    ----------
    first, second : float32 arrays
        Vectors of length 1 or 0.
    threshold : float
        A cosine.
    largest : float
        The greatest length of a vector.

    Examples
    --------
    >>> table = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    >>> near(table, table, 0.7, 1.0).tolist()
    [[True, False], [False, True]]
    """
    import torch

    scores = torch.mm(torch.from_numpy(first), torch.from_numpy(second).T).numpy()
    # twice the bound of a sum of D products in float32, what rounding adds, and that of the decimals
    error = (first.shape[1] + 2) * 2.0**-23 * largest * largest + 10.0**-_DIGITS
    hits: Array = scores >= threshold - error
    rows, columns = np.nonzero(hits & (scores < threshold + error))
    for start in range(0, len(rows), _EXACT):
        i, j = rows[start : start + _EXACT], columns[start : start + _EXACT]
        hits[i, j] = cosines(first[i], second[j]) >= threshold
    return hits


def greedy(vectors: Vectors, order: Array, threshold: float) -> Array:
    """For each vector the one that stays in its place: itself, or the first in `order` that stays and is near it.

    Parameters
    ----------
    vectors : Vectors
        (N, D) of length 1.
    order : int array (N,)
        Which is looked at first; a vector stays unless one that stays already is near it.
    threshold : float
        Cosine from which on two are near.

    Examples
    --------
    >>> table = Vectors(np.array([[1.0, 0.0], [0.9, 0.4], [0.6, 0.8]]), "t", unit=True)
    >>> greedy(table, np.arange(3), 0.8).tolist()
    [0, 0, 2]
    """
    place_of = np.full(len(order), -1, dtype=np.int64)
    stay: list[int] = []
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        rows = vectors.rows(block)
        for first in range(0, len(stay), BLOCK):
            others = np.array(stay[first : first + BLOCK])
            left = np.flatnonzero(place_of[block] < 0)
            hits = near(rows[left], vectors.rows(others), threshold, vectors.largest)
            hit = hits.any(axis=1)
            place_of[block[left[hit]]] = others[hits[hit].argmax(axis=1)]
        left = np.flatnonzero(place_of[block] < 0)
        hits = near(rows[left], rows[left], threshold, vectors.largest)
        for number, row in enumerate(block[left]):
            if place_of[row] < 0:
                place_of[row] = row
                stay.append(int(row))
                later = block[left[number + 1 :][hits[number, number + 1 :]]]
                place_of[later[place_of[later] < 0]] = row
    return place_of


def components(vectors: Vectors, threshold: float) -> Array:
    """The connected component of each vector (N,), two being connected where they are near each other.

    Examples
    --------
    >>> table = Vectors(np.array([[1.0, 0.0], [0.9, 0.4], [0.6, 0.8], [0.0, -1.0]]), "t", unit=True)
    >>> components(table, 0.8).tolist()
    [0, 0, 0, 3]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    roots = np.arange(len(vectors))  # the first row of each component
    for i, j in _near_pairs(vectors, threshold):
        edges = np.unique(np.stack([roots[i], roots[j]]), axis=1)
        edges = edges[:, edges[0] != edges[1]]
        if not edges.size:
            continue
        names = np.unique(edges)
        inner = np.searchsorted(names, edges)
        shape = (len(names), len(names))
        _, parts = connected_components(coo_matrix((np.ones(inner.shape[1]), tuple(inner)), shape), directed=False)
        smallest = np.full(parts.max() + 1, len(vectors))
        np.minimum.at(smallest, parts, names)
        target = np.arange(len(vectors))
        target[names] = smallest[parts]
        roots = target[roots]
    return roots


def _near_pairs(vectors: Vectors, threshold: float) -> Iterator[tuple[Array, Array]]:
    """Places (n,), (n,) of vectors that are near each other, each pair once, block by block."""
    for start in range(0, len(vectors), BLOCK):
        rows = vectors.rows(slice(start, start + BLOCK))
        for other in range(start, len(vectors), BLOCK):
            columns = rows if other == start else vectors.rows(slice(other, other + BLOCK))
            hits = near(rows, columns, threshold, vectors.largest)
            i, j = np.nonzero(np.triu(hits, 1) if other == start else hits)
            yield i + start, j + other
